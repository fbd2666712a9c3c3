r"""`python -m cm_multimodal`: the program `cmm`, as torchrun starts it."""

__all__: list[str] = []

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
