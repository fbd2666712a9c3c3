r"""Data sets of generated samples, for other models to be trained on."""
