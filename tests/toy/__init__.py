r"""A modality of its own for tests: the contracts are about tensors, not about pictures."""
