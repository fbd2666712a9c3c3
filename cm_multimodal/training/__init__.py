r"""Training: the Lightning glue around an objective and a map."""
