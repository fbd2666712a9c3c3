r"""Solution maps of the probability-flow ODE.

The solution map carries a noisy state along the flow, \(\Psi_{s \to t}(x_s) = x_t\) for \(0 \le t \le s\). A network
\(F_\theta\) becomes one by skip and out scaling,

.. math:: \Psi_\theta(x, s, t) = A(s, t) \, x + B(s, t) \, F_\theta(c_{in}(s) \, x; n(s), n(t)),

with \(A = 1\) and \(B = 0\) on the diagonal \(t = s\). Its mean velocity over the jump,

.. math:: u(x, s, t) = \frac{x - \Psi(x, s, t)}{s - t}, \qquad u(x, s, s) = v(x, s) = \partial_t \Psi|_{t = s},

is affine in \(F_\theta\) as well, and finite everywhere. The network sees \(n(t) = \arctan(\rho_t / \sigma_{data})\), a
function of the noise ratio alone, and \(c_{in}(s) = 1 / \sqrt{\alpha_s^2 \sigma_{data}^2 + \sigma_s^2}\).

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | Consistency Trajectory Models (Kim et al., 2023)
    | Inductive Moment Matching (Zhou et al., 2025)
"""

__all__ = [
    "SCALINGS", "Affine", "EDMFloor", "Endpoint", "Euler", "FlowMap", "Precision", "Rotation", "Scaling", "SolutionMap",
    "TransportedMap",
]  # fmt: skip

import torch

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from torch import Tensor, nn
from torch.nn import functional
from typing import ClassVar

from .batch import Conditions
from .paths import Path
from .tensors import expand_right


@dataclass(frozen=True)
class Affine:
    """The coefficients of `a * x + b * F`, each with the shape of the times."""

    a: Tensor
    b: Tensor

    def __call__(self, x: Tensor, f: Tensor) -> Tensor:
        a, b = expand_right(self.a, x).to(x.dtype), expand_right(self.b, x).to(x.dtype)
        return a * x + b * f

    def solve(self, x: Tensor, result: Tensor) -> Tensor:
        """Returns the F, with the shape of `x`, that gives the result."""
        a, b = expand_right(self.a, x).to(x.dtype), expand_right(self.b, x).to(x.dtype)
        return (result - a * x) / b


class Scaling(ABC):
    """How a network's output becomes a jump: skip and out coefficients, in float64.

    Attributes:
        edge_only: Whether it knows jumps to clean data only.
    """

    edge_only: ClassVar[bool] = False

    @abstractmethod
    def jump(self, path: Path, sigma_data: float, s: Tensor, t: Tensor) -> Affine:
        """Returns A(s, t) and B(s, t) for times off the diagonal."""

    @abstractmethod
    def tangent(self, path: Path, sigma_data: float, s: Tensor) -> Affine:
        """Returns the derivatives of A and B by t at t = s: the coefficients of the velocity."""

    def mean_velocity(self, path: Path, sigma_data: float, s: Tensor, t: Tensor) -> Affine:
        """Returns the coefficients of the mean velocity, on the diagonal and off it."""
        s, t = torch.broadcast_tensors(s, t)
        same = s == t
        tangent, jump = self.tangent(path, sigma_data, s), self.jump(path, sigma_data, s, t)
        gap = torch.where(same, 1.0, s - t)
        return Affine(torch.where(same, tangent.a, (1.0 - jump.a) / gap), torch.where(same, tangent.b, -jump.b / gap))


class Euler(Scaling):
    """A = 1, B = t - s: the network names the mean velocity (mean flows, shortcuts)."""

    def jump(self, path: Path, sigma_data: float, s: Tensor, t: Tensor) -> Affine:
        return Affine(torch.ones_like(s), t - s)

    def tangent(self, path: Path, sigma_data: float, s: Tensor) -> Affine:
        return Affine(torch.zeros_like(s), torch.ones_like(s))


class Endpoint(Scaling):
    """A = sigma_t / sigma_s, B = alpha_t - alpha_s A: the network names the clean end point (DDIM)."""

    def jump(self, path: Path, sigma_data: float, s: Tensor, t: Tensor) -> Affine:
        a = path.sigma(t) / path.sigma(s)
        return Affine(a, path.alpha(t) - path.alpha(s) * a)

    def tangent(self, path: Path, sigma_data: float, s: Tensor) -> Affine:
        a = path.d_sigma(s) / path.sigma(s)
        return Affine(a, path.d_alpha(s) - path.alpha(s) * a)


class Rotation(Scaling):
    r"""The rotation in the plane of \((\alpha, \sigma / \sigma_{data})\): for Gaussian data the state keeps its variance.

    At t = 0 it is the skip and out scaling of EDM, consistency models and TrigFlow, up to the sign of F.
    """

    def jump(self, path: Path, sigma_data: float, s: Tensor, t: Tensor) -> Affine:
        cos_s, sin_s, cos_t, sin_t = (
            path.alpha(s),
            path.sigma(s) / sigma_data,
            path.alpha(t),
            path.sigma(t) / sigma_data,
        )
        square = cos_s**2 + sin_s**2
        return Affine(
            (cos_s * cos_t + sin_s * sin_t) / square, sigma_data * (cos_s * sin_t - cos_t * sin_s) / square.sqrt()
        )

    def tangent(self, path: Path, sigma_data: float, s: Tensor) -> Affine:
        cos, sin, d_cos, d_sin = (
            path.alpha(s),
            path.sigma(s) / sigma_data,
            path.d_alpha(s),
            path.d_sigma(s) / sigma_data,
        )
        square = cos**2 + sin**2
        return Affine((cos * d_cos + sin * d_sin) / square, sigma_data * (cos * d_sin - d_cos * sin) / square.sqrt())


class EDMFloor(Scaling):
    r"""The consistency-model scaling with identity at a floor: \(c_{skip}(\rho - \epsilon), c_{out}(\rho - \epsilon)\).

    It serves the edge t = 0 only, where everything below the floor counts as clean.

    Arguments:
        floor: The noise ratio that counts as clean.

    References:
        | Consistency Models (Song et al., 2023), appendix C
    """

    edge_only = True

    def __init__(self, floor: float = 0.002) -> None:
        self.floor = floor

    def jump(self, path: Path, sigma_data: float, s: Tensor, t: Tensor) -> Affine:
        if (path.sigma(t) > self.floor * path.alpha(t) * (1 + 1e-9)).any():
            raise ValueError("the EDM-with-floor scaling jumps to clean data only (t = 0)")
        ratio = path.noise_ratio(s)
        above = (ratio - self.floor).clamp_min(0.0)
        unscale = torch.hypot(torch.ones_like(ratio), ratio) / path.norm(s)
        skip = sigma_data**2 / (above**2 + sigma_data**2)
        return Affine(skip * unscale, above * sigma_data / torch.hypot(ratio, torch.full_like(ratio, sigma_data)))

    def tangent(self, path: Path, sigma_data: float, s: Tensor) -> Affine:
        raise ValueError("the EDM-with-floor scaling knows the edge t = 0 only and has no velocity")


SCALINGS = {"euler": Euler, "endpoint": Endpoint, "rotation": Rotation, "edm_floor": EDMFloor}


class SolutionMap(ABC):
    """What objectives, samplers and solvers ask of a map. Times are float64, with shape (B,) or broadcastable to x.

    Arguments:
        path: The path that the map's times and states live on.
        sigma_data: The data's standard deviation.
        learned: Which parts were learned: any of 'diagonal', 'edge' and 'triangle'.
    """

    path: Path
    sigma_data: float
    learned: frozenset[str]

    @abstractmethod
    def jump(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        """Returns the state at the target times, with shape (B, *), from that at the source times."""

    @abstractmethod
    def mean_velocity(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        """Returns the mean velocity of the jump, with shape (B, *); where t = s, the velocity."""

    def velocity(self, x: Tensor, s: Tensor, cond: Conditions) -> Tensor:
        """Returns the velocity of the flow, with shape (B, *)."""
        return self.mean_velocity(x, s, s, cond)

    def denoise(self, x: Tensor, s: Tensor, cond: Conditions) -> Tensor:
        """Returns the expected clean state, with shape (B, *)."""
        return self.path.denoised(x, self.velocity(x, s, cond), s)

    def endpoint(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        r"""Returns the clean state, with shape (B, *), towards which a straight DDIM step would make the same jump.

        It is the D of \(\Psi = (\sigma_t / \sigma_s) x + (\alpha_t - \alpha_s \sigma_t / \sigma_s) D\); where t = s, the
        denoised state; where t = 0, the end of the jump.
        """
        ddim = Endpoint().mean_velocity(self.path, self.sigma_data, s, t)
        return ddim.solve(x, self.mean_velocity(x, s, t, cond))

    def shares(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        """Returns what shares of each vertex the end point is mixed of, with shape (B, L, K).

        Where clean states are mixes of no points that are known, such as the embeddings of tokens, but numbers of their
        own, it is the end point itself.
        """
        return self.endpoint(x, s, t, cond)

    def mixed(self, shares: Tensor) -> Tensor:
        """Returns the clean states, with shape (B, L, D), that are mixed of shares."""
        return shares

    def shares_of(self, x: Tensor) -> Tensor:
        """Returns the shares, with shape (B, L, K), of clean states that are vertices: all of the nearest one."""
        return x

    def clock(self, t: Tensor) -> Tensor:
        r"""Returns what a network is told of a time: \(\arctan(\rho_t / \sigma_{data})\), between 0 and pi/2."""
        return torch.atan2(self.path.sigma(t), self.path.alpha(t) * self.sigma_data)

    def precise(self) -> "SolutionMap":
        """Returns the same map with its network in float32 or better, as derivatives need it."""
        return self


@dataclass(frozen=True)
class Precision:
    """The number format of the network's matrix products; everything around it stays in float32 or better."""

    dtype: torch.dtype = torch.float32

    def context(self, device: torch.device) -> torch.autocast:
        """Returns the autocast context for a device."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)


class FlowMap(nn.Module, SolutionMap):
    """A network made into a solution map.

    Arguments:
        net: Maps (state, n(s), n(t), conditions) to a tensor of the state's shape; or, where it has `vertices`, with shape
            (K, D), to the shares of them, with shape (B, L, K), that the clean end point is mixed of (scaling: endpoint).
        path: The path it is trained on.
        scaling: How its output becomes a jump.
        sigma_data: The data's standard deviation.
        learned: Which parts its objective learns.
        precision: The number format of the network.
    """

    def __init__(
        self,
        net: nn.Module,
        path: Path,
        scaling: Scaling,
        sigma_data: float,
        learned: frozenset[str] = frozenset(),
        precision: Precision = Precision(),
    ) -> None:
        super().__init__()
        self.net, self.path, self.scaling, self.sigma_data = net, path, scaling, sigma_data
        self.learned, self.precision = learned, precision

    def jump(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        s, t = torch.broadcast_tensors(s, t)
        same = s == t
        affine = self.scaling.jump(self.path, self.sigma_data, torch.where(same, self._inside(s), s), t)
        out = affine(x, self.network(x, s, t, cond))
        return torch.where(expand_right(same, x), x, out)

    def mean_velocity(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        s, t = torch.broadcast_tensors(s, t)
        return self.scaling.mean_velocity(self.path, self.sigma_data, s, t)(x, self.network(x, s, t, cond))

    def endpoint(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        if isinstance(self.scaling, Endpoint):
            s, t = torch.broadcast_tensors(s, t)
            return self.network(x, s, t, cond)
        return super().endpoint(x, s, t, cond)

    @property
    def vertices(self) -> Tensor | None:
        """The points, with shape (K, D), that clean states are mixed of; none: they are numbers of their own."""
        return getattr(self.net, "vertices", None)

    def shares(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        if self.vertices is None:
            return self.endpoint(x, s, t, cond)
        s, t = torch.broadcast_tensors(s, t)
        return self._output(x, s, t, cond)

    def mixed(self, shares: Tensor) -> Tensor:
        return shares if self.vertices is None else shares @ self.vertices.to(shares.dtype)

    def shares_of(self, x: Tensor) -> Tensor:
        if self.vertices is None:
            return x
        points = self.vertices.to(x.dtype)
        nearest = (x @ points.T - points.square().sum(dim=-1) / 2).argmax(dim=-1)
        return functional.one_hot(nearest, len(points)).to(x.dtype)

    def network(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        """Returns the raw output F, with shape (B, *), in the state's type."""
        return self.mixed(self._output(x, s, t, cond))

    def _output(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        c_in = torch.hypot(self.path.alpha(s) * self.sigma_data, self.path.sigma(s)).reciprocal()
        with self.precision.context(x.device):
            out = self.net(expand_right(c_in, x).to(x.dtype) * x, self.clock(s), self.clock(t), cond)
        return out.to(x.dtype)

    def precise(self) -> "FlowMap":
        return FlowMap(self.net, self.path, self.scaling, self.sigma_data, self.learned)

    def _inside(self, s: Tensor) -> Tensor:
        return self.path.time_of(torch.ones_like(s))


@dataclass(frozen=True)
class TransportedMap(SolutionMap):
    """A map seen on another path: states are rescaled and times matched by the noise ratio, exactly.

    Arguments:
        inner: The map on the path it was trained on.
        path: The path to use it on.
    """

    inner: SolutionMap
    path: Path
    learned: frozenset[str] = field(init=False)
    sigma_data: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "learned", self.inner.learned)
        object.__setattr__(self, "sigma_data", self.inner.sigma_data)

    def jump(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        x_in, s_in = self.path.transport(x, s, self.inner.path)
        t_in = self.inner.path.time_of(self.path.noise_ratio(t))
        return self.inner.path.transport(self.inner.jump(x_in, s_in, t_in, cond), t_in, self.path)[0]

    def mean_velocity(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        s, t = torch.broadcast_tensors(s, t)
        same = s == t
        gap = expand_right(torch.where(same, 1.0, s - t), x).to(x.dtype)
        secant = (x - self.jump(x, s, t, cond)) / gap
        return torch.where(expand_right(same, x), self.velocity(x, s, cond), secant) if same.any() else secant

    def velocity(self, x: Tensor, s: Tensor, cond: Conditions) -> Tensor:
        denoised = self.denoise(x, s, cond)
        return self.path.velocity(denoised, self.path.noise_from_denoised(x, denoised, s), s)

    def denoise(self, x: Tensor, s: Tensor, cond: Conditions) -> Tensor:
        return self.inner.denoise(*self.path.transport(x, s, self.inner.path), cond)

    def precise(self) -> "TransportedMap":
        return TransportedMap(self.inner.precise(), self.path)
