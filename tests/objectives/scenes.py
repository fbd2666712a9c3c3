r"""What the proofs of objectives share: data with known maps, maps near them, objectives stripped to their identity."""

import inspect
import torch

from cm_multimodal.batch import Batch, Conditions
from cm_multimodal.exact import Distribution, ExactMap, ExactNetwork, Gaussian, ProductMixture
from cm_multimodal.losses import L2, AdaptiveWeight
from cm_multimodal.maps import SCALINGS, FlowMap, SolutionMap
from cm_multimodal.objectives import OBJECTIVES, Objective
from cm_multimodal.objectives.sources import NoisySample, Source, Teacher
from cm_multimodal.paths import Path
from cm_multimodal.random import Draws, noise
from torch import Tensor, nn
from typing import Any

NONE = Conditions()
AT_ZERO = {"lagrangian_self_distillation", "terminal_velocity"}  # what needs the velocity of clean data


def tensor(*values: float | list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


GAUSSIAN = Gaussian(tensor(0.3, -0.2), tensor([0.5, 0.2], [0.2, 0.3]))
PRODUCT = ProductMixture(
    weights=tensor([0.4, 0.6], [0.5, 0.5]),
    means=tensor([-0.6, 1.6], [-1.2, 0.4]),
    deviations=tensor([0.35, 0.45], [0.3, 0.35]),
    rotation=tensor([0.8, -0.6], [0.6, 0.8]),
)
DATA: dict[str, Distribution] = {"gaussian": GAUSSIAN, "product": PRODUCT}
WRONG: dict[str, Distribution] = {
    "gaussian": Gaussian(GAUSSIAN.mean, 1.5 * GAUSSIAN.covariance),
    "product": ProductMixture(PRODUCT.weights, PRODUCT.means, 1.5 * PRODUCT.deviations, PRODUCT.rotation),
}


class Bend(nn.Module):
    """A perturbation that is nothing at first, and along which gradients are measured.

    Where no gradient is recorded it has other weights, if it is given any: those of a stopped target.
    """

    def __init__(self, weight: Tensor | None = None, stopped: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6, 2, dtype=torch.float64) if weight is None else weight)
        self.stopped = stopped

    def forward(self, x: Tensor, n_s: Tensor, n_t: Tensor, cond: Conditions) -> Tensor:
        a, b = x.tanh().unbind(dim=1)
        features = torch.stack([torch.ones_like(a), a, b, a * b, a * n_s.cos(), b * n_t.sin()], dim=1)
        return features @ (self.weight if self.stopped is None or torch.is_grad_enabled() else self.stopped)


class Expected(Source):
    """The conditional source's mean given the noisy state: the true velocity, and a DDIM step with the true denoiser."""

    def __init__(self, data: Distribution) -> None:
        self.data = data

    def velocity(self, flow_map: SolutionMap, noisy: NoisySample) -> Tensor:
        return self.data.velocity(noisy.x_s, flow_map.path, noisy.s)

    def step(self, flow_map: SolutionMap, noisy: NoisySample, t: Tensor) -> Tensor:
        clean = self.data.denoise(noisy.x_s, flow_map.path, noisy.s)
        return flow_map.path.sample(clean, flow_map.path.noise_from_denoised(noisy.x_s, clean, noisy.s), t)


class Noted(Source):
    """Notes whether finite steps were asked for."""

    def __init__(self, inner: Source) -> None:
        self.inner, self.stepped = inner, False

    def velocity(self, flow_map: SolutionMap, noisy: NoisySample) -> Tensor:
        return self.inner.velocity(flow_map, noisy)

    def step(self, flow_map: SolutionMap, noisy: NoisySample, t: Tensor) -> Tensor:
        self.stepped = True
        return self.inner.step(flow_map, noisy, t)


def plain(name: str, source: Source, **settings: Any) -> Objective:
    """An objective without weights of its own, with the squared distance and a source."""
    known = inspect.signature(OBJECTIVES[name]).parameters
    usual = {
        "source": source, "weight": AdaptiveWeight(), "metric": L2(), "denoising": 0.0, "normalise": 0.0, "warmup": 0.0,
    }  # fmt: skip
    return OBJECTIVES[name](**{key: value for key, value in {**usual, **settings}.items() if key in known})


def truth(data: Distribution, path: Path) -> Teacher:
    """The exact flow as a source, in velocities and in finite steps."""
    return Teacher(ExactMap(data, path), solver=None)


def near(
    data: Distribution,
    path: Path,
    scaling_name: str = "rotation",
    sigma_data: float | None = None,
    bend: Bend | None = None,
) -> FlowMap:
    """A flow map that equals the true map of some data, with parameters that lead away from it."""
    scaling, sigma_data = SCALINGS[scaling_name](), data.sigma_data if sigma_data is None else sigma_data
    return FlowMap(ExactNetwork(data, path, scaling, sigma_data, bend or Bend()), path, scaling, sigma_data)


def evaluate(
    objective: Objective, flow_map: SolutionMap, data: Distribution, progress: float, size: int = 256
) -> Tensor:
    """The distances, with shape (size,), of a batch."""
    ids = torch.arange(size)
    return objective.loss(flow_map, Batch(data.sample(0, ids)), Draws(0, ids), progress).per_sample


def gradients(
    objective: Objective, flow_map: SolutionMap, data: Distribution, progress: float = 0.0, batches: int = 40
) -> Tensor:
    """The gradients by the map's parameters on batches of 512 samples each, with shape (batches, P)."""
    parameters, rows = list(flow_map.parameters()), []  # type: ignore[attr-defined]
    objective.prepare(flow_map)
    for ids in torch.arange(batches * 512).split(512):
        loss = objective.loss(flow_map, Batch(data.sample(1, ids)), Draws(1, ids), progress)
        found = torch.autograd.grad(loss.value, parameters, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
        rows.append(torch.cat([g.flatten() for g in filled]))
    return torch.stack(rows)


def standard_errors(values: Tensor) -> Tensor:
    """The size of the mean of rows in standard errors, with shape (P,)."""
    spread = values.std(dim=0) / len(values) ** 0.5
    return values.mean(dim=0).abs() / spread.clamp_min(1e-12)


def states(path: Path, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """States and times of ratios from 0 to 80."""
    ratios = torch.cat([torch.zeros(1), torch.logspace(-2, 1.9, 63)]).double()
    s = path.time_of(ratios)
    return noise(0, "x", torch.arange(64), (2,), dtype) * path.norm(s)[:, None].to(dtype), s
