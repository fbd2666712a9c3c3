r"""Optimisers: AdamW, or Muon for the matrices between a network's ends: those move by their momentum's polar factor.

With the momentum \(m_k = \mu m_{k-1} + (1 - \mu) g_k\), looked ahead as Nesterov does, and the polar factor
\(\operatorname{polar}(U \Sigma V^\top) = U V^\top\),

.. math:: W \leftarrow (1 - \eta \lambda) W - 0.2 \sqrt{\max(m, n)} \, \eta \, \operatorname{polar}(\mu m_k + (1 - \mu) g_k),

so that every direction of a layer learns at one pace, and the elements move by 0.2 learning rates on the average, as
Adam's do: one rate suits both. Five Newton-Schulz steps, whose polynomial is steep at zero and wiggles around one, bring
all but the smallest singular values between 0.7 and 1.2. A convolution's kernel is the matrix from all that it sees to its
outputs. What reads the state, the times and classes, and what makes the output, are `ENDS`; they, and vectors, keep Adam.

torch's own class takes matrices alone, no kernels, and works in bfloat16, which CPUs of today emulate: more than
a whole update of a small network takes. This one works in the weights' own precision. Matrix products differ in their last
bits between kinds of processors, and so may the weights of processes that train together on unlike ones; AdamW's do not.

References:
    | Muon: An optimizer for hidden layers in neural networks (Jordan et al., 2024): momentum, coefficients
    | Muon is Scalable for LLM Training (Liu et al., 2025), equation 4: the factor that makes its steps as large as Adam's
"""

__all__ = ["Muon", "build_optimizer", "polar"]

import torch

from collections import defaultdict
from collections.abc import Iterable, Sequence
from torch import Tensor
from typing import Any

from .settings import OptimizerSettings

ENDS = frozenset({"embedding", "enter", "leave", "out", "place"})
COEFFICIENTS, STEPS = (3.4445, -4.7750, 2.0315), 5
MOMENTUM, PACE = 0.95, 0.2


def polar(x: Tensor) -> Tensor:
    """Returns about the orthogonal matrices nearest to matrices with shape (B, M, N); of zeros, zeros."""
    a, b, c = COEFFICIENTS
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    for _ in range(STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.AdamW):
    """Creates the optimiser. A step takes the gradients of the matrices with it.

    Arguments:
        named: The weights and their names.
        lr: The learning rate, of matrices and of all else.
        betas: Adam's two averages, for all else.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self, named: Iterable[tuple[str, Tensor]], lr: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        weights: dict[bool, list[Tensor]] = {False: [], True: []}
        for name, weight in named:
            weights[weight.ndim > 1 and ENDS.isdisjoint(name.split("."))].append(weight)
        groups = [{"params": some, "matrices": matrices} for matrices, some in weights.items() if some]
        super().__init__(groups, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Moves all weights that have a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            if group["matrices"]:
                self._turn(group)
        super().step()
        return loss

    def _turn(self, group: dict[str, Any]) -> None:
        alike = defaultdict(list)
        for weight in group["params"]:
            if weight.grad is not None:
                alike[weight.shape].append(weight)
        for shape, weights in alike.items():
            turned = polar(torch.stack([self._ahead(weight) for weight in weights]).flatten(2))
            pace = PACE * max(turned.shape[1:]) ** 0.5 * group["lr"]
            for weight, direction in zip(weights, turned, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction.reshape(shape), alpha=pace)
                weight.grad = None

    def _ahead(self, weight: Tensor) -> Tensor:
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:  # AdamW, when it loads a state, looks for the steps of all weights
            state.update(momentum=torch.zeros_like(weight), step=torch.zeros(()))
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(momentum, MOMENTUM)


def build_optimizer(settings: OptimizerSettings, named: Sequence[tuple[str, Tensor]]) -> torch.optim.AdamW:
    """Returns the optimiser of weights, given with their names."""
    lr, betas, decay = settings.lr, settings.betas, settings.weight_decay
    if settings.name == "muon":
        return Muon(named, lr, betas, decay)
    return torch.optim.AdamW([weight for _, weight in named], lr=lr, betas=betas, weight_decay=decay, fused=True)
