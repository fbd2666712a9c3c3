r"""Ground truth: data distributions whose denoiser, velocity and solution map are known.

Everything is written in the coefficients \((\alpha, \sigma)\) of a noise level, so that it holds on any path, and
nothing is divided by \(\alpha\). For Gaussian data \(\mathcal{N}(m, \Sigma)\), in the eigenbasis of \(\Sigma\),

.. math::
    \mathbb{E}[x | x_s] = m + \frac{\alpha_s \Sigma}{\alpha_s^2 \Sigma + \sigma_s^2} (x_s - \alpha_s m), \qquad
    \Psi_{s \to t}(x_s) = \alpha_t m
        + \sqrt{\frac{\alpha_t^2 \Sigma + \sigma_t^2}{\alpha_s^2 \Sigma + \sigma_s^2}} (x_s - \alpha_s m).

In one dimension trajectories keep their order, so that for a mixture of Gaussians the map is the quantile map
\(\Psi_{s \to t} = F_t^{-1} \circ F_s\), with derivative \(p_s(x) / p_t(\Psi(x))\); rotated products of mixtures carry
this to any dimension. With \(U = \{k : x_s > \alpha_s m_k\}\), distribution functions are compared as

.. math:: F(y) - \sum_{k \in U} w_k = \sum_{k \notin U} w_k \Phi(z_k) - \sum_{k \in U} w_k \Phi(-z_k),

small numbers in both tails and between the modes, where \(F\) itself would be rounded. The root lies between the
smallest and the largest of the components' own Gaussian maps. General mixtures are integrated along the circle
\((\cos\phi, \sin\phi)\), of which every path is a rescaling.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), appendix B.3
"""

__all__ = ["Distribution", "ExactMap", "ExactNetwork", "Gaussian", "Level", "Mixture", "Posterior", "ProductMixture"]

import math
import numpy as np
import torch

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from torch.autograd import forward_ad

from .batch import Conditions
from .maps import Affine, Scaling, SolutionMap
from .paths import Path, TrigFlow
from .random import noise, uniform
from .tensors import expand_right

BISECTIONS, NEWTON_STEPS = 40, 3
SMALLEST = 1e-300
CIRCLE = TrigFlow(1.0)


@dataclass(frozen=True)
class Level:
    """A noise level: alpha and sigma, in float64, with shapes that broadcast against the states."""

    alpha: Tensor
    sigma: Tensor

    @classmethod
    def at(cls, path: Path, t: Tensor, x: Tensor) -> "Level":
        """Returns the level of times with shape (B,), or broadcastable to `x`, for states with shape (B, *)."""
        return cls(expand_right(path.alpha(t), x).double(), expand_right(path.sigma(t), x).double())

    def deviation(self, clean: Tensor) -> Tensor:
        """Returns the standard deviation of a noisy Gaussian of which the clean one has the deviation `clean`."""
        return torch.hypot(self.alpha * clean, self.sigma)

    def append(self) -> "Level":
        """Returns the level with one more dimension at the right."""
        return Level(self.alpha[..., None], self.sigma[..., None])


@dataclass(frozen=True)
class Posterior:
    """What a noisy state tells in the mean: the clean state and the noise in it, both with shape (*, D)."""

    clean: Tensor
    noise: Tensor


class Distribution(ABC):
    """A distribution of vectors that is known at every noise level. All results are in float64."""

    @property
    @abstractmethod
    def sigma_data(self) -> float:
        """The standard deviation, as a root mean square over the dimensions."""

    @abstractmethod
    def sample(self, seed: int, ids: Tensor) -> Tensor:
        """Returns clean samples, with shape (B, D), of global sample ids, with shape (B,)."""

    @abstractmethod
    def posterior(self, x: Tensor, level: Level) -> Posterior:
        """Returns the expected clean state and noise given noisy states, with shape (*, D)."""

    @abstractmethod
    def carry(self, x: Tensor, source: Level, target: Level) -> Tensor:
        """Carries noisy states, with shape (*, D), along the flow from one level to another."""

    def denoise(self, x: Tensor, path: Path, s: Tensor) -> Tensor:
        """Returns the expected clean state, with the shape of `x`."""
        return self.posterior(x.double(), Level.at(path, s, x)).clean

    def velocity(self, x: Tensor, path: Path, s: Tensor) -> Tensor:
        """Returns the velocity of the path's probability flow, with the shape of `x`."""
        expected = self.posterior(x.double(), Level.at(path, s, x))
        return path.velocity(expected.clean, expected.noise, s)

    def jump(self, x: Tensor, path: Path, s: Tensor, t: Tensor) -> Tensor:
        """Returns the state at times `t`, with the shape of `x`, from that at times `s`."""
        return self.carry(x.double(), Level.at(path, s, x), Level.at(path, t, x))


@dataclass(frozen=True, eq=False)
class Gaussian(Distribution):
    """A normal distribution, in the basis of its covariance. Its map is differentiable in forward and in reverse mode.

    Arguments:
        mean: The mean, with shape (D,), in float64.
        covariance: The covariance, with shape (D, D), in float64; it may be singular.
    """

    mean: Tensor
    covariance: Tensor
    deviations: Tensor = field(init=False)
    axes: Tensor = field(init=False)

    def __post_init__(self) -> None:
        variances, axes = torch.linalg.eigh(self.covariance)
        object.__setattr__(self, "deviations", variances.clamp_min(0.0).sqrt())
        object.__setattr__(self, "axes", axes)

    @property
    def sigma_data(self) -> float:
        return self.deviations.square().mean().sqrt().item()

    def sample(self, seed: int, ids: Tensor) -> Tensor:
        z = noise(seed, "data/noise", ids, tuple(self.mean.shape), torch.float64)
        return self.mean + (self.deviations * z) @ self.axes.T

    def posterior(self, x: Tensor, level: Level) -> Posterior:
        z = ((x - level.alpha * self.mean) @ self.axes) / level.deviation(self.deviations) ** 2
        clean = self.mean + (level.alpha * self.deviations**2 * z) @ self.axes.T
        return Posterior(clean, (level.sigma * z) @ self.axes.T)

    def log_density(self, x: Tensor, level: Level) -> Tensor:
        """Returns the logarithm of the noisy states' density, up to a constant, with shape (*)."""
        deviation = level.deviation(self.deviations)
        return -(0.5 * (((x - level.alpha * self.mean) @ self.axes) / deviation) ** 2 + deviation.log()).sum(dim=-1)

    def carry(self, x: Tensor, source: Level, target: Level) -> Tensor:
        stretch = target.deviation(self.deviations) / source.deviation(self.deviations)
        return target.alpha * self.mean + (stretch * ((x - source.alpha * self.mean) @ self.axes)) @ self.axes.T


@dataclass(frozen=True, eq=False)
class ProductMixture(Distribution):
    """A rotated product of one-dimensional Gaussian mixtures, with the map to machine precision.

    The map is found by bisection and Newton's method, and is differentiable in forward and in reverse mode by the
    implicit function theorem. It holds up to 37 standard deviations from all components, where float64 underflows.

    Arguments:
        weights: The weights of the components of each axis, with shape (D, K), in float64; each row sums to one.
        means: Their means, with shape (D, K).
        deviations: Their standard deviations, positive, with shape (D, K).
        rotation: The axes, in columns, with shape (D, D).
    """

    weights: Tensor
    means: Tensor
    deviations: Tensor
    rotation: Tensor

    @property
    def sigma_data(self) -> float:
        centre = (self.weights * self.means).sum(dim=1)
        square = (self.weights * (self.means**2 + self.deviations**2)).sum(dim=1)
        return (square - centre**2).mean().sqrt().item()

    def sample(self, seed: int, ids: Tensor) -> Tensor:
        shape = (len(self.weights),)
        chosen = _choose(uniform(seed, "data/component", ids, shape), self.weights)[..., None]
        mean, deviation = (p.expand(len(ids), -1, -1).gather(2, chosen)[..., 0] for p in (self.means, self.deviations))
        return (mean + deviation * noise(seed, "data/noise", ids, shape, torch.float64)) @ self.rotation.T

    def posterior(self, x: Tensor, level: Level) -> Posterior:
        y, level = (x @ self.rotation)[..., None], level.append()
        z = (y - level.alpha * self.means) / level.deviation(self.deviations) ** 2
        share = torch.softmax(self._log_parts(y, level), dim=-1)
        clean = (share * (self.means + level.alpha * self.deviations**2 * z)).sum(dim=-1)
        return Posterior(clean @ self.rotation.T, (share * level.sigma * z).sum(dim=-1) @ self.rotation.T)

    def carry(self, x: Tensor, source: Level, target: Level) -> Tensor:
        y, source, target = (x @ self.rotation)[..., None], source.append(), target.append()
        upper = y > source.alpha * self.means
        wanted, z = self._tails(y, source, upper), (y - source.alpha * self.means) / source.deviation(self.deviations)
        ends = target.alpha * self.means + target.deviation(self.deviations) * z
        root = self._solve(_value(wanted), Level(_value(target.alpha), _value(target.sigma)), upper, _value(ends))
        slip = (self._tails(root, target, upper) - wanted) / self._density(root, target)
        return (root - (slip - _value(slip)))[..., 0] @ self.rotation.T  # zero, with the derivative of the root

    def jacobian(self, x: Tensor, path: Path, s: Tensor, t: Tensor) -> Tensor:
        r"""Returns \(\partial \Psi / \partial x\), with shape (*, D, D): on each axis a ratio of densities."""
        source, target = Level.at(path, s, x), Level.at(path, t, x)
        y, y_t = ((state @ self.rotation)[..., None] for state in (x, self.carry(x, source, target)))
        before, after = self._log_parts(y, source.append()), self._log_parts(y_t, target.append())
        slopes = torch.exp(before.logsumexp(dim=-1) - after.logsumexp(dim=-1))
        return (self.rotation * slopes[..., None, :]) @ self.rotation.T

    @torch.no_grad()
    def _solve(self, wanted: Tensor, target: Level, upper: Tensor, ends: Tensor) -> Tensor:
        low, high = ends.amin(dim=-1, keepdim=True), ends.amax(dim=-1, keepdim=True)
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            below = self._tails(middle, target, upper) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        root = 0.5 * (low + high)
        for _ in range(NEWTON_STEPS):
            step = (self._tails(root, target, upper) - wanted) / self._density(root, target)
            root = torch.clamp(root - step, low, high)
        return root

    def _tails(self, y: Tensor, level: Level, upper: Tensor) -> Tensor:
        sign = torch.where(upper, -1.0, 1.0).double()
        z = sign * (y - level.alpha * self.means) / level.deviation(self.deviations)
        return (0.5 * sign * self.weights * torch.erfc(-z * math.sqrt(0.5))).sum(dim=-1, keepdim=True)

    def _density(self, y: Tensor, level: Level) -> Tensor:
        return (self._log_parts(y, level).exp().sum(dim=-1, keepdim=True) / math.sqrt(2 * math.pi)).clamp_min(SMALLEST)

    def _log_parts(self, y: Tensor, level: Level) -> Tensor:
        deviation = level.deviation(self.deviations)
        return self.weights.log() - 0.5 * ((y - level.alpha * self.means) / deviation) ** 2 - deviation.log()


@dataclass(frozen=True, eq=False)
class Mixture(Distribution):
    """A mixture of Gaussians. Its map is integrated (DOP853, tolerance 1e-12): for distances, not for derivatives.

    Arguments:
        weights: The weights, with shape (K,), in float64; they sum to one.
        components: The K Gaussians.
    """

    weights: Tensor
    components: tuple[Gaussian, ...]

    @property
    def sigma_data(self) -> float:
        means = torch.stack([part.mean for part in self.components])
        square = torch.stack([part.covariance.diagonal() for part in self.components]) + means**2
        return (self.weights @ square - (self.weights @ means) ** 2).mean().sqrt().item()

    def sample(self, seed: int, ids: Tensor) -> Tensor:
        chosen = _choose(uniform(seed, "data/component", ids), self.weights)
        return torch.stack([part.sample(seed, ids) for part in self.components])[chosen, torch.arange(len(ids))]

    def posterior(self, x: Tensor, level: Level) -> Posterior:
        density = torch.stack([part.log_density(x, level) for part in self.components], dim=-1)
        share = torch.softmax(self.weights.log() + density, dim=-1)[..., None, :]
        parts = [part.posterior(x, level) for part in self.components]
        clean, eps = (torch.stack(each, dim=-1) for each in zip(*((p.clean, p.noise) for p in parts), strict=True))
        return Posterior((share * clean).sum(dim=-1), (share * eps).sum(dim=-1))

    def carry(self, x: Tensor, source: Level, target: Level) -> Tensor:
        start, end = torch.atan2(source.sigma, source.alpha), torch.atan2(target.sigma, target.alpha)

        def slope(share: float, flat: np.ndarray) -> np.ndarray:
            state = torch.from_numpy(flat).reshape(x.shape)
            return ((end - start) * self.velocity(state, CIRCLE, start + share * (end - start))).flatten().numpy()

        state = (x.detach() / torch.hypot(source.alpha, source.sigma)).flatten().numpy()
        final = solve_ivp(slope, (0.0, 1.0), state, method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
        return torch.hypot(target.alpha, target.sigma) * torch.from_numpy(final).reshape(x.shape)


@dataclass(frozen=True)
class ExactMap(SolutionMap):
    """The true solution map of a distribution on a path. Conditions are ignored.

    Arguments:
        distribution: The data.
        path: The path that states and times live on.
    """

    distribution: Distribution
    path: Path
    learned: frozenset[str] = frozenset({"diagonal", "edge", "triangle"})

    @property
    def sigma_data(self) -> float:  # type: ignore[override]
        return self.distribution.sigma_data

    def jump(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions = Conditions()) -> Tensor:
        return torch.where(expand_right(torch.eq(s, t), x), x, self.distribution.jump(x, self.path, s, t).to(x.dtype))

    def mean_velocity(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions = Conditions()) -> Tensor:
        same = torch.eq(s, t)
        gap = expand_right(torch.where(same, 1.0, s - t), x)
        secant = (x - self.distribution.jump(x, self.path, s, t)) / gap
        return torch.where(expand_right(same, x), self.distribution.velocity(x, self.path, s), secant).to(x.dtype)

    def velocity(self, x: Tensor, s: Tensor, cond: Conditions = Conditions()) -> Tensor:
        return self.distribution.velocity(x, self.path, s).to(x.dtype)

    def denoise(self, x: Tensor, s: Tensor, cond: Conditions = Conditions()) -> Tensor:
        return self.distribution.denoise(x, self.path, s).to(x.dtype)


class ExactNetwork(nn.Module):
    """The network that `FlowMap(net, path, scaling, sigma_data)` turns into the true solution map.

    Arguments:
        distribution: The data.
        path: The flow map's path.
        scaling: The flow map's scaling.
        sigma_data: The flow map's standard deviation of the data.
        perturbation: A network that is added to it, to measure gradients near the truth.
    """

    def __init__(
        self,
        distribution: Distribution,
        path: Path,
        scaling: Scaling,
        sigma_data: float,
        perturbation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.exact, self.perturbation = ExactMap(distribution, path), perturbation
        self.scaling, self.sigma_data = scaling, sigma_data

    def forward(self, x: Tensor, n_s: Tensor, n_t: Tensor, cond: Conditions = Conditions()) -> Tensor:
        """Returns F, with shape (B, D), of scaled states with shape (B, D) and clocks with shape (B,)."""
        f = self._exact(x, n_s, n_t, cond).to(x.dtype)
        return f if self.perturbation is None else f + self.perturbation(x, n_s, n_t, cond)

    def _exact(self, x: Tensor, n_s: Tensor, n_t: Tensor, cond: Conditions) -> Tensor:
        path, same, sigma_data = self.exact.path, torch.eq(n_s, n_t), self.sigma_data
        s, t = (path.time_of(sigma_data * torch.tan(n)) for n in torch.broadcast_tensors(n_s, n_t))
        state = expand_right(torch.hypot(path.alpha(s) * sigma_data, path.sigma(s)), x) * x
        jump = self.scaling.jump(path, sigma_data, s, t)
        f = Affine(jump.a, torch.where(same, 1.0, jump.b)).solve(state, self.exact.jump(state, s, t, cond))
        if not same.any():
            return f
        tangent = self.scaling.tangent(path, sigma_data, s).solve(state, self.exact.velocity(state, s, cond))
        return torch.where(expand_right(same, x), tangent, f)


def _choose(u: Tensor, weights: Tensor) -> Tensor:
    """Returns the components, with the shape of `u`, that uniform numbers fall on; weights have shape (..., K)."""
    return (u[..., None] > weights.cumsum(dim=-1)[..., :-1]).sum(dim=-1)


def _value(x: Tensor) -> Tensor:
    """Returns a tensor without its derivatives, of either mode."""
    return forward_ad.unpack_dual(x.detach()).primal
