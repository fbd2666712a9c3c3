"""Clean states that are mixes of known points: the loss compares shares, whose exact values are the fixed point."""

import pytest
import torch

from cm_multimodal.batch import Batch, Conditions
from cm_multimodal.build import build_objective
from cm_multimodal.errors import UsageError
from cm_multimodal.losses import L2, CrossEntropy
from cm_multimodal.maps import Endpoint, FlowMap, Rotation
from cm_multimodal.objectives import Objective
from cm_multimodal.objectives.consistency_trajectory import ConsistencyTrajectory
from cm_multimodal.objectives.denoising import Denoising
from cm_multimodal.objectives.easy_consistency import EasyConsistency
from cm_multimodal.objectives.endpoint_semigroup import EndpointSemigroup
from cm_multimodal.objectives.flow_matching import FlowMatching
from cm_multimodal.objectives.sources import Teacher
from cm_multimodal.objectives.targets import Averaged
from cm_multimodal.paths import Linear
from cm_multimodal.random import Draws
from cm_multimodal.times import Triangle, Uniform
from torch import Tensor, nn
from torch.nn import functional

POINTS, DIMENSIONS, LENGTH, BATCH = 5, 3, 4, 64
EVEN = Triangle(Uniform(), off_diagonal=0.5)


class Posterior(nn.Module):
    """The exact posterior of points that are equally likely, each by itself, whatever the target time."""

    def __init__(self, sigma_data: float) -> None:
        super().__init__()
        angle = 2 * torch.pi * torch.arange(POINTS, dtype=torch.float64) / POINTS
        points = torch.stack([angle.cos(), angle.sin(), torch.ones_like(angle)], dim=1)
        self.vertices: Tensor
        self.register_buffer("vertices", points)
        self.sigma_data, self.skew = sigma_data, 0.0

    def forward(self, x: Tensor, n_s: Tensor, n_t: Tensor, cond: Conditions) -> Tensor:
        ratio = (self.sigma_data * torch.tan(n_s))[:, None, None]
        logits = x @ self.vertices.T * torch.hypot(torch.full_like(ratio, self.sigma_data), ratio) / ratio**2
        return (logits + self.skew * torch.arange(POINTS)).softmax(dim=-1)


@pytest.fixture
def flow_map() -> FlowMap:
    return FlowMap(Posterior(1.0), Linear(), Endpoint(), 1.0, frozenset({"diagonal"}))


def _batch(flow_map: FlowMap) -> Batch:
    numbers = (Draws(0, torch.arange(BATCH)).uniform("points", (LENGTH,)) * POINTS).long()
    return Batch(flow_map.mixed(functional.one_hot(numbers, POINTS).double()))


def test_shares_and_states_belong_together(flow_map: FlowMap) -> None:
    """Clean states have all of one share, mixing is linear, and the named end point is the mix of the named shares."""
    x = _batch(flow_map).x
    assert torch.allclose(flow_map.mixed(flow_map.shares_of(x)), x)
    s = torch.full((BATCH,), 0.6, dtype=torch.float64)
    shares = flow_map.shares(x, s, s, Conditions())
    assert shares.shape == (BATCH, LENGTH, POINTS)
    assert torch.allclose(flow_map.mixed(shares), flow_map.endpoint(x, s, s, Conditions()))
    plain = FlowMap(nn.Identity(), Linear(), Endpoint(), 1.0, frozenset({"diagonal"}))
    assert plain.mixed(x) is x
    assert plain.shares_of(x) is x


@pytest.mark.parametrize(
    "objective",
    [
        Denoising(Uniform(), CrossEntropy()),
        FlowMatching(Uniform(), CrossEntropy()),
        EndpointSemigroup(EVEN, CrossEntropy()),
    ],
    ids=["denoising", "flow matching", "semigroup"],
)
def test_the_posterior_has_the_least_cross_entropy_on_the_diagonal(flow_map: FlowMap, objective: Objective) -> None:
    """Networks that favour some of the points have a larger loss, the more the larger their error."""
    net = flow_map.net
    assert isinstance(net, Posterior)
    losses = []
    for skew in (0.0, 0.2, 0.6):
        net.skew = skew
        parts = [objective.loss(flow_map, _batch(flow_map), Draws(seed, torch.arange(BATCH)), 0.0) for seed in range(8)]
        losses.append(float(torch.stack([part.value for part in parts]).mean()))
    assert losses[0] < losses[1] < losses[2]


def _goals(objective: EndpointSemigroup, flow_map: FlowMap, batch: Batch) -> Tensor:
    """Returns what the loss aims at."""
    goals = []

    def kept(prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        goals.append(target)
        return CrossEntropy()(prediction, target, mask)

    kept.simplex = True  # type: ignore[attr-defined]
    objective.metric = kept  # type: ignore[assignment]
    objective.loss(flow_map, batch, Draws(0, torch.arange(BATCH)), 0.0)
    return goals[0]


def test_the_target_of_a_jump_is_a_mix_of_two(flow_map: FlowMap) -> None:
    """Its shares are not negative and sum to one; on the diagonal they are all of the clean token, off it they are not."""
    batch = _batch(flow_map)
    goal = _goals(EndpointSemigroup(EVEN, CrossEntropy()), flow_map, batch)
    assert goal.min() >= 0
    assert torch.allclose(goal.sum(dim=-1), torch.ones(BATCH, LENGTH, dtype=torch.float64))
    whole = (goal == flow_map.shares_of(batch.x)).all(dim=-1).all(dim=-1)
    assert whole[::2].all()
    assert int(whole[1::2].sum()) <= 2  # jumps so close to clean data that nothing is left to say


def test_targets_may_come_from_averaged_weights(flow_map: FlowMap) -> None:
    """An average that keeps all aims where the first weights do, whatever those that learn say now."""
    net, batch = flow_map.net, _batch(flow_map)
    assert isinstance(net, Posterior)
    first = _goals(EndpointSemigroup(EVEN, CrossEntropy()), flow_map, batch)
    objective = EndpointSemigroup(EVEN, CrossEntropy(), target=Averaged(keep=1.0))
    objective.prepare(flow_map)
    net.skew = 0.6
    assert torch.equal(_goals(objective, flow_map, batch), first)
    assert not torch.equal(_goals(EndpointSemigroup(EVEN, CrossEntropy()), flow_map, batch), first)


def test_the_diagonal_may_come_first() -> None:
    """Before its share of the training is over, every sample lies on the diagonal; after it, as many as the times say."""
    settings = {"name": "endpoint_semigroup", "diagonal_first": 0.4, "metric": {"name": "cross_entropy"}}
    late, ever = (build_objective({**settings, **more}) for more in ({}, {"diagonal_first": 0.0}))
    flow_map = FlowMap(Posterior(1.0), Linear(), Endpoint(), 1.0, frozenset({"diagonal"}))
    batch, draws = _batch(flow_map), Draws(0, torch.arange(BATCH))
    early, after, always = (
        objective.loss(flow_map, batch, draws, progress).per_sample
        for objective, progress in ((late, 0.39), (late, 0.4), (ever, 0.1))
    )
    assert torch.equal(after, always)
    even = (torch.floor((draws.ids.double() + 1) * 0.5) > torch.floor(draws.ids.double() * 0.5)).logical_not()
    assert torch.equal(early[even], always[even])
    assert not torch.equal(early, always)
    with pytest.raises(ValueError, match="diagonal_first is a share"):
        EndpointSemigroup(diagonal_first=1.0)


class Named(nn.Module):
    """Names that all tokens are equally likely, at whatever times."""

    def forward(self, x: Tensor, n_s: Tensor, n_t: Tensor, cond: Conditions) -> Tensor:
        return torch.full_like(x, 1 / x.shape[-1]) + 0.0 * (n_t + n_s)[:, None, None]


MIXES = {"easy_consistency": EasyConsistency, "consistency_trajectory": ConsistencyTrajectory}
SHARES = {"denoising": Denoising, "flow_matching": FlowMatching, "endpoint_semigroup": EndpointSemigroup}


@pytest.mark.parametrize("name", [*MIXES, *SHARES])
def test_a_cross_entropy_is_one_of_probabilities(flow_map: FlowMap, name: str) -> None:
    """Of one-hot tokens, mask or not; of embedded ones where shares are compared; all else is a sentence."""
    objective = {**MIXES, **SHARES}[name](metric=CrossEntropy())
    objective.two_times = False  # whether the network takes account of the target time is another question
    numbers = torch.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) % POINTS
    mask = torch.ones(BATCH, LENGTH).index_fill(1, torch.tensor([LENGTH - 1]), 0.0)
    tokens = Batch(functional.one_hot(numbers, POINTS).double())
    padded = Batch(tokens.x * mask[..., None], Conditions(mask=mask))
    named = FlowMap(Named(), Linear(), Endpoint(), 0.4)
    assert objective.self_check(named, tokens) == objective.self_check(named, padded) == []
    other = FlowMap(Named(), Linear(), Rotation(), 0.4)
    for wrong, batch in ((named, Batch(tokens.x - 0.5)), (named, Batch(padded.x)), (other, tokens)):
        with pytest.raises(UsageError, match="compares probabilities"):
            objective.self_check(wrong, batch)
    if name in MIXES:
        with pytest.raises(UsageError, match="compares what embedded ones are mixed to"):
            objective.self_check(flow_map, _batch(flow_map))
    else:
        assert objective.self_check(flow_map, _batch(flow_map)) == []
        objective.source = Teacher(flow_map)
        with pytest.raises(UsageError, match=r"objective\.source\.name=conditional"):
            objective.self_check(flow_map, _batch(flow_map))
    objective.metric = L2()
    assert objective.self_check(flow_map, Batch(tokens.x - 0.5)) == []
