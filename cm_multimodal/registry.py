r"""Finding variants: a package whose modules hold one class each is its own registry."""

__all__ = ["discover"]

import importlib
import inspect
import pkgutil

from typing import TypeVar

T = TypeVar("T")


def discover(package: str, paths: list[str], base: type[T]) -> dict[str, type[T]]:
    """Returns the final classes of a package's modules by module name.

    Arguments:
        package: The package's name.
        paths: Its `__path__`.
        base: What the classes derive from.
    """
    found = {}
    for info in pkgutil.iter_modules(paths):
        module = importlib.import_module(f"{package}.{info.name}")
        for member in vars(module).values():
            own = inspect.isclass(member) and member.__module__ == module.__name__
            if own and issubclass(member, base) and not inspect.isabstract(member):
                found[info.name] = member
    return found
