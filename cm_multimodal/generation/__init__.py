r"""Sampling jobs."""
