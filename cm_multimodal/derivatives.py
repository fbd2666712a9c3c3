r"""Total derivatives along a path of states.

Objectives on the infinitesimal form of the semigroup property need

.. math:: \frac{d}{ds} f(x_s, s) = \partial_x f \cdot v + \partial_s f

for the tangent \((v, 1)\), or one of the two parts alone, mostly without a gradient through it. Three ways compute it:
forward-mode differentiation (exact, one and a half passes), double backward (exact, for operations without a forward
rule) and central differences (two passes, for anything). Wrong tangents train silently to nonsense, so that
:func:`self_test` holds the chosen way against a finite difference before the first step.
"""

__all__ = [
    "DERIVATIVES",
    "CentralDifference",
    "Derivative",
    "DoubleBackward",
    "ForwardMode",
    "perturbed",
    "self_test",
    "working",
]

import contextlib
import copy
import torch

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from typing import TypeVar

from .errors import UsageError
from .random import noise
from .tensors import expand_right

Function = Callable[[Tensor, Tensor], Tensor]


class Derivative(ABC):
    """A way of differentiating a function of (state, time) along a tangent."""

    name: str

    @abstractmethod
    def __call__(
        self, f: Function, x: Tensor, s: Tensor, v: Tensor | None, rate: float = 1.0, graph: bool = False
    ) -> Tensor:
        """Returns the derivative, with the shape of `f`, of `f(x, s)` along (v, rate).

        Arguments:
            f: The function of a state, with shape (B, *), and times, with shape (B,) or broadcastable.
            x: The states.
            s: The times, in float64.
            v: The tangent of the states; they stand still unless it is given.
            rate: The tangent of the times: 1, or 0 where time stands still.
            graph: Whether gradients by the weights flow through the derivative; it is detached otherwise.
        """


class ForwardMode(Derivative):
    """Forward-mode differentiation. Attention runs on the mathematical kernel: the fused ones have no forward rule."""

    name = "forward_mode"

    def __call__(
        self, f: Function, x: Tensor, s: Tensor, v: Tensor | None, rate: float = 1.0, graph: bool = False
    ) -> Tensor:
        if graph:
            return self._with_graph(f, x, s, v, rate)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
            state = x if v is None else forward_ad.make_dual(x, v)
            out = f(state, forward_ad.make_dual(s, torch.full_like(s, rate)) if rate else s)
            tangent = forward_ad.unpack_dual(out).tangent
        return torch.zeros_like(x) if tangent is None else tangent

    def _with_graph(self, f: Function, x: Tensor, s: Tensor, v: Tensor | None, rate: float) -> Tensor:
        """Gradients flow through the functional form only: dual numbers of a softmax are written over."""
        still = torch.zeros_like(x) if v is None else v
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            return torch.func.jvp(f, (x, s), (still, torch.full_like(s, rate)))[1]


class DoubleBackward(Derivative):
    """Reverse mode twice: the gradient of (J^T w) . v by w. Works where an operation has no forward rule."""

    name = "double_backward"

    def __call__(
        self, f: Function, x: Tensor, s: Tensor, v: Tensor | None, rate: float = 1.0, graph: bool = False
    ) -> Tensor:
        tangents = (torch.zeros_like(x) if v is None else v, torch.full_like(s, rate))
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            slope = torch.autograd.functional.jvp(f, (x.detach(), s.detach()), tangents, create_graph=graph)[1]
        return slope if graph else slope.detach()


class CentralDifference(Derivative):
    """(f(x + h v, s + h) - f(x - h v, s - h)) / 2h. Works on anything, to an error of the second order in h.

    Arguments:
        step: The step in time, h; where half the time is less, that.
    """

    name = "central_difference"

    def __init__(self, step: float = 1e-3) -> None:
        self.step = step

    def __call__(
        self, f: Function, x: Tensor, s: Tensor, v: Tensor | None, rate: float = 1.0, graph: bool = False
    ) -> Tensor:
        h = torch.where(s > 0, (s / 2).clamp_max(self.step), self.step)
        move = expand_right(h, x).to(x.dtype)
        shift = 0.0 if v is None else move * v
        with torch.set_grad_enabled(graph), full_products():
            return (f(x + shift, s + rate * h) - f(x - shift, s - rate * h)) / (2 * move)


@contextlib.contextmanager
def full_products() -> Iterator[None]:
    """Keeps a GPU from rounding the factors of float32 convolutions, which a small difference would not survive."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


DERIVATIVES = {kind.name: kind for kind in (ForwardMode, DoubleBackward, CentralDifference)}


Module = TypeVar("Module", bound=nn.Module)


def perturbed(module: Module) -> Module:
    """Returns a float64 copy with weights moved off their start, where layers that begin at zero would hide errors."""
    probe = copy.deepcopy(module).double()
    for index, parameter in enumerate(probe.parameters()):
        ids = torch.zeros(1, dtype=torch.int64, device=parameter.device)
        parameter.data.add_(0.05 * noise(0, f"perturbed/{index}", ids, tuple(parameter.shape), torch.float64)[0])
    return probe


def self_test(derivative: Derivative, f: Function, x: Tensor, s: Tensor, v: Tensor) -> float:
    """Returns the error of a derivative against a finite difference, relative to the derivative's size.

    Raises:
        ValueError: The two differ by more than a tenth: the derivative is wrong, not merely rounded.
    """
    reference = CentralDifference(3e-4)(f, x, s, v)  # another step than a central difference would be used with
    error = ((derivative(f, x, s, v) - reference).norm() / reference.norm().clamp_min(1e-3)).item()
    if not error < 0.1:
        raise ValueError(f"The derivative '{derivative.name}' differs from a finite difference by {error:.0%}.")
    return error


def working(wanted: Derivative, f: Function, x: Tensor, s: Tensor, v: Tensor) -> tuple[Derivative, list[str]]:
    """Returns the derivative that is wanted, or the first other one that passes the self-test, and sentences on it."""
    lines: list[str] = []
    for derivative in (wanted, *(kind() for name, kind in DERIVATIVES.items() if name != wanted.name)):
        try:
            error = self_test(derivative, f, x, s, v)
            return derivative, [*lines, f"derivative: {derivative.name}, {error:.1e} from a finite difference"]
        except (ValueError, RuntimeError) as failure:
            lines.append(f"The derivative '{derivative.name}' does not work here, and is not used: {failure}")
    fits = "objective=semigroup_self_distillation, shortcut, endpoint_semigroup or easy_consistency need none."
    raise UsageError(" ".join([f"No derivative of this network works here; {fits}", *lines]))
