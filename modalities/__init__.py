"""Adapters between raw media and the core's tensors: one folder each, with the same file names in every folder."""
