r"""Scores of generated samples, with the protocol that gives them a meaning."""
