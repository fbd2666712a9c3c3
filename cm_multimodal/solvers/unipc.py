r"""UniPC: a predictor and a corrector of one family, in the denoised state, at one call a step.

The prediction at a step's end, which the next step needs anyway, also corrects the state that it was made in. For p >= 3
the published predictor is the polynomial of :mod:`.exponential`, whatever its B(h), and for p >= 2 so is the corrector, with
the new prediction as one more point. With fewer, the slope counts B(h) / 2 in the place of its integral. The last step is
not corrected, as this would need a call of its own.

References:
    | UniPC: A Unified Predictor-Corrector Framework (Zhao et al., 2023), algorithms 1 and 2, appendix E
"""

__all__ = ["UniPC"]

import torch

from collections.abc import Sequence
from dataclasses import dataclass
from torch import Tensor

from ..paths import Path
from .base import Linear
from .exponential import Exponential


@dataclass(frozen=True)
class UniPC(Exponential):
    """One call a step; of order points + 1 but for its first steps and its last.

    Arguments:
        points: The predictions that the predictor uses, from 1 to 3: UniPC-p.
        variant: B(h): 'bh1', h, or 'bh2', :math:`e^h - 1` in the published signs.
    """

    points: int = 2
    variant: str = "bh2"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in ("bh1", "bh2"):
            raise ValueError("variant is one of bh1, bh2")

    def weights(self, nodes: Sequence[Tensor], b: Tensor) -> list[Tensor]:
        if len(nodes) != 2:
            return self.exact(nodes, nodes[0], b)
        whole, slope = self.whole(nodes[0], b), self._slope(nodes[0], b) * (b - nodes[0]) / (nodes[0] - nodes[1])
        return [whole + slope, -slope]

    def correction(self, path: Path, nodes: Sequence[Tensor]) -> Linear:
        b, *past = (-torch.log(path.noise_ratio(node)) for node in nodes)
        carry = torch.exp(past[0] - b)
        if len(past) > 1:
            return Linear(carry, self.exact([b, *past], past[0], b))
        slope = self._slope(past[0], b)
        return Linear(carry, [slope, self.whole(past[0], b) - slope])

    def _slope(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns B(h) / 2 in the signs of the integral."""
        return (b - a) / 2 if self.variant == "bh1" else self.whole(a, b) / 2
