r"""Backbones on grids of one, two or three dimensions."""
