r"""Sources: where an objective takes the flow from, as a velocity or as a finite step along a trajectory.

The conditional velocity \(\alpha' x + \sigma' \varepsilon\) is an unbiased sample of the true one given the noisy
state, and the conditional step, to \(\alpha_t x + \sigma_t \varepsilon\), one of a DDIM step with the true denoiser.
They may stand in only where the gradient of the loss is linear in them; where it is not, the objective says what bias
is left.
"""

__all__ = [
    "Conditional", "ModelDiagonal", "NoisySample", "Source", "Teacher", "anchored", "check_probabilities", "check_shares",
    "clean_state", "noisy_sample", "settled",
]  # fmt: skip

import dataclasses
import torch

from abc import ABC, abstractmethod
from dataclasses import dataclass
from torch import Tensor
from typing import ClassVar

from ..batch import Batch, Conditions
from ..errors import UsageError
from ..losses import Metric
from ..maps import Endpoint, FlowMap, SolutionMap, TransportedMap
from ..random import Draws
from ..solvers import Solver
from ..solvers.euler import Euler
from ..solvers.heun import Heun
from ..tensors import masked_mean

WHOLE = 1e-3  # how far shares may be from adding up


@dataclass(frozen=True)
class NoisySample:
    """A clean sample, the noise added to it, the time and the noisy state; x, eps and x_s have shape (B, *)."""

    x: Tensor
    eps: Tensor
    s: Tensor
    x_s: Tensor
    cond: Conditions

    def take(self, rows: Tensor) -> "NoisySample":
        """Returns some of the rows."""
        return NoisySample(self.x[rows], self.eps[rows], self.s[rows], self.x_s[rows], self.cond.take(rows))


class Source(ABC):
    """Gives the flow at a noisy state, without gradient.

    Attributes:
        given: Whether the flow comes from outside of the map that learns, so that its diagonal can be learned from it.
        asks_diagonal: Whether the map that learns is asked for its diagonal, so that this has to be learned.
    """

    given: ClassVar[bool] = True
    asks_diagonal: ClassVar[bool] = False

    @abstractmethod
    def velocity(self, flow_map: SolutionMap, noisy: NoisySample) -> Tensor:
        """Returns the velocity, with shape (B, *)."""

    @abstractmethod
    def step(self, flow_map: SolutionMap, noisy: NoisySample, t: Tensor) -> Tensor:
        """Returns the state at earlier times t, with shape (B,), of the trajectory through the noisy state."""


class Conditional(Source):
    """The flow of the one pair of sample and noise that made the state."""

    def velocity(self, flow_map: SolutionMap, noisy: NoisySample) -> Tensor:
        return flow_map.path.velocity(noisy.x, noisy.eps, noisy.s)

    def step(self, flow_map: SolutionMap, noisy: NoisySample, t: Tensor) -> Tensor:
        return flow_map.path.sample(noisy.x, noisy.eps, t)


@dataclass(frozen=True)
class ModelDiagonal(Source):
    """The flow that the learning map itself holds on its diagonal.

    Arguments:
        solver: What follows it over a finite step.
        steps: The solver's steps.
    """

    solver: Solver = dataclasses.field(default_factory=Euler)
    steps: int = 1
    given: ClassVar[bool] = False
    asks_diagonal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_solver(self.solver, self.steps)

    def velocity(self, flow_map: SolutionMap, noisy: NoisySample) -> Tensor:
        with torch.no_grad():
            return flow_map.velocity(noisy.x_s, noisy.s, noisy.cond)

    def step(self, flow_map: SolutionMap, noisy: NoisySample, t: Tensor) -> Tensor:
        with torch.no_grad():
            return self.solver(flow_map, noisy.x_s, _grid(flow_map, noisy.s, t, self.steps), noisy.cond)


@dataclass(frozen=True)
class Teacher(Source):
    """The flow of another map: an exact one, or one trained before, without dropout. It may live on another path.

    Arguments:
        teacher: The map.
        solver: What follows its diagonal over a finite step; without one the map itself makes the step.
        steps: The solver's steps.
    """

    teacher: SolutionMap
    solver: Solver | None = dataclasses.field(default_factory=Heun)
    steps: int = 1

    def __post_init__(self) -> None:
        _check_solver(self.solver, self.steps)

    def velocity(self, flow_map: SolutionMap, noisy: NoisySample) -> Tensor:
        with torch.no_grad():
            return self._on_path_of(flow_map).velocity(noisy.x_s, noisy.s, _undropped(noisy.cond))

    def step(self, flow_map: SolutionMap, noisy: NoisySample, t: Tensor) -> Tensor:
        teacher, cond = self._on_path_of(flow_map), _undropped(noisy.cond)
        with torch.no_grad():
            if self.solver is None:
                return teacher.jump(noisy.x_s, noisy.s, t, cond)
            return self.solver(teacher, noisy.x_s, _grid(teacher, noisy.s, t, self.steps), cond)

    def _on_path_of(self, flow_map: SolutionMap) -> SolutionMap:
        same = vars(self.teacher.path) == vars(flow_map.path) and type(self.teacher.path) is type(flow_map.path)
        return self.teacher if same else TransportedMap(self.teacher, flow_map.path)


def clean_state(source: Source, flow_map: SolutionMap, noisy: NoisySample) -> Tensor:
    """Returns the clean state, with shape (B, *), that a source's velocity points at: the sample, if conditional."""
    if isinstance(source, Conditional):
        return noisy.x
    return flow_map.path.denoised(noisy.x_s, source.velocity(flow_map, noisy), noisy.s)


def check_shares(flow_map: SolutionMap, batch: Batch, metric: Metric, source: Source) -> None:
    """Raises a UsageError where shares of vertices are compared, and the source's clean states are none of them."""
    if not (metric.simplex and isinstance(flow_map, FlowMap) and flow_map.vertices is not None):
        check_probabilities(flow_map, batch, metric)
    elif not isinstance(source, Conditional):
        raise UsageError(
            "The cross-entropy of embedded tokens knows clean ones only: objective.source.name=conditional."
        )


def check_probabilities(flow_map: SolutionMap, batch: Batch, metric: Metric) -> None:
    """Raises a UsageError where clean states are compared as probabilities, and are none."""
    if not (metric.simplex and isinstance(flow_map, FlowMap)):
        return
    if flow_map.vertices is not None:
        raise UsageError(
            "A cross-entropy compares shares of tokens, and this objective compares what embedded ones are mixed to: "
            "objective.metric.name=l2, or objective=denoising_tokens or endpoint_semigroup_tokens."
        )
    off = torch.maximum((batch.x.sum(dim=-1) - 1).abs(), -batch.x.amin(dim=-1))
    if not isinstance(flow_map.scaling, Endpoint) or bool((masked_mean(off, batch.cond.mask) > WHOLE).any()):
        raise UsageError(
            "A cross-entropy compares probabilities: clean samples have to be some, such as one-hot tokens, and the network "
            "has to name them (objective.scaling=endpoint). For all else: objective.metric.name=l2."
        )


def settled(source: Source | None, learned: frozenset[str]) -> Source:
    """Returns the source of an objective that learns some parts of a map: the conditional one unless one is given.

    Raises:
        ValueError: The diagonal would be its own source, or is asked for and not learned.
    """
    source = source or Conditional()
    if "diagonal" in learned and not source.given:
        raise ValueError("the diagonal cannot be learned from itself; source is conditional, guided or teacher")
    if source.asks_diagonal and "diagonal" not in learned:
        raise ValueError(
            "this source asks the map for its diagonal, which is not learned here; source is conditional or teacher"
        )
    return source


def anchored(learned: frozenset[str]) -> frozenset[str]:
    """Returns the parts that an objective learns, which have to include the diagonal, the only place it has the flow from.

    Raises:
        ValueError: They do not.
    """
    if "diagonal" not in learned:
        raise ValueError(
            "the flow is learned on the diagonal, and these times are never there; off_diagonal is below 1"
        )
    return learned


def noisy_sample(flow_map: SolutionMap, batch: Batch, draws: Draws, s: Tensor) -> NoisySample:
    """Adds noise to clean samples, on the map's path."""
    eps = draws.noise("noise", tuple(batch.x.shape[1:]), batch.x.dtype)
    return NoisySample(batch.x, eps, s, flow_map.path.sample(batch.x, eps, s), batch.cond)


def _undropped(cond: Conditions) -> Conditions:
    return dataclasses.replace(cond, dropout=None)


def _check_solver(solver: Solver | None, steps: int) -> None:
    least = 1 if solver is None else solver.least_steps
    if steps < least:
        raise ValueError(f"steps is at least {least}{' with so many points' * (least > 1)}")
    if solver is not None and solver.stochastic:
        raise ValueError("the solver adds fresh noise, and a source follows one trajectory; use heun or euler")


def _grid(flow_map: SolutionMap, s: Tensor, t: Tensor, steps: int) -> Tensor:
    """Returns times from s down to t, evenly spaced in the 7th root of the noise ratio, with shape (steps + 1, B)."""
    high, low = (flow_map.path.noise_ratio(time) ** (1 / 7) for time in (s, t))
    inner = [flow_map.path.time_of((high + k / steps * (low - high)) ** 7) for k in range(1, steps)]
    return torch.stack([s, *inner, t])
