"""What an objective cannot be made of, or cannot train, and the sentences that say so."""

import pytest
import torch

from cm_multimodal.batch import Batch, Conditions
from cm_multimodal.build import build_part
from cm_multimodal.errors import UsageError
from cm_multimodal.maps import SCALINGS, FlowMap
from cm_multimodal.nets.perceptron import Perceptron
from cm_multimodal.objectives import OBJECTIVES
from cm_multimodal.objectives.sources import Conditional, Teacher
from cm_multimodal.paths import build_path
from cm_multimodal.random import Draws
from objectives.scenes import plain
from torch import nn
from typing import Any

ITSELF = {"source": {"name": "model_diagonal"}}
GUIDED = {"source": {"name": "guided"}}
NEVER_THERE = {"times": {"name": "triangle", "measure": {"name": "uniform"}, "off_diagonal": 1.0}}
EDGE = {"consistency_training", "easy_consistency", "improved_consistency", "truncated_consistency"}


def solved(**solver: Any) -> dict[str, Any]:
    return {"source": {"name": "model_diagonal", "solver": solver}}


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        *((name, ITSELF, "cannot be learned from itself") for name in ("mean_flow", "denoising", "flow_matching")),
        *((name, ITSELF, "cannot be learned from itself") for name in ("endpoint_semigroup", "terminal_velocity")),
        *((name, ITSELF, "asks the map for its diagonal") for name in ("shortcut", "moment_matching", *sorted(EDGE))),
        *((name, GUIDED, "asks the map for its diagonal") for name in ("continuous_consistency", "shortcut")),
        ("mean_flow", {"source": {"name": "guided", **ITSELF}}, "comes from outside of the map"),
        *((f"{way}_self_distillation", NEVER_THERE, "never there") for way in ("eulerian", "lagrangian", "semigroup")),
        ("endpoint_semigroup", NEVER_THERE, "never there"),
        ("consistency_trajectory", {"target": {"name": "online"}}, "target is averaged"),
        ("consistency_trajectory", {"denoising": 0.0}, "needs a teacher"),
        ("consistency_trajectory", solved(name="ddim", eta=1.0), "follows one trajectory"),
        ("consistency_trajectory", solved(name="unipc", points=3), "steps is at least 3"),
        ("terminal_velocity", {"metric": {"name": "pseudo_huber"}}, "quadratic"),
        ("mean_flow", {"times": {"name": "log_normal"}}, "does not fit the objective 'mean_flow', which takes: triangle"),
        ("mean_flow", {"source": "teacher"}, "source=teacher does not fit .* it is chosen by source.name="),
        ("mean_flow", {"times": None}, "times=None does not fit"), ("mean_flow", {"weight": "learned"}, "weight.name="),
        ("alpha_flow", {"end": {"name": "x"}}, "end="), ("improved_mean_flow", NEVER_THERE, "follows the diagonal"),
        ("flow_matching", {"times": {"name": "dyadic"}}, "which takes: log_normal"),
        ("consistency_training", {"curriculum": {"name": "easy"}}, "which takes: square_root, doubling"),
        ("easy_consistency", {"curriculum": {"name": "doubling"}}, "which takes: easy"),
        ("easy_consistency", {"curriculum": {"name": "easy", "q": 256.0}}, "the two ends of a step are one"),
        ("easy_consistency", {"curriculum": {"name": "easy", "stages": 0}}, "stages at least 1"),
        ("truncated_consistency", {"boundary": 0.0}, "boundary is a noise ratio"),
        ("truncated_consistency", {"boundary": 100.0}, "boundary is a noise ratio"),
        ("continuous_consistency", {"weight": {"name": "learned", "times": 2}}, "times is 1"),
        ("continuous_consistency", {"times": {"name": "log_student", "freedom": 0.0}}, "freedom are positive"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit(name: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build_part("objective", {"name": name, **settings})


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_scaling_that_knows_the_edge_only(name: str) -> None:
    """Objectives that learn the edge train with it; the others say before the first step that they cannot."""
    objective = plain(name, Conditional())
    flow_map = FlowMap(
        Perceptron(2, 8, 1, objective.two_times), build_path("linear", 0.5), SCALINGS["edm_floor"](), 0.5
    )
    ids = torch.arange(8)
    batch = Batch(torch.randn(8, 2))
    objective.prepare(flow_map)
    if objective.learned <= {"edge"}:
        objective.self_check(flow_map, batch)
        assert objective.loss(flow_map, batch, Draws(0, ids), 0.9).value.isfinite()
    else:
        with pytest.raises(UsageError, match="edm_floor knows jumps to clean data only"):
            objective.self_check(flow_map, batch)


class Dropping(nn.Module):
    """A network that notes whether it was asked to drop anything."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.asked = nn.Linear(2, 2), []

    def forward(self, x: torch.Tensor, n_s: torch.Tensor, n_t: torch.Tensor, cond: Conditions) -> torch.Tensor:
        self.asked.append(cond.dropout is not None)
        return self.layer(x)


@pytest.mark.parametrize("name", ["consistency_distillation", "continuous_distillation"])
def test_a_teacher_drops_nothing(name: str) -> None:
    """The student's dropout masks are its own: a teacher is asked without."""
    teacher, student = (FlowMap(Dropping(), build_path("linear", 0.5), SCALINGS["euler"](), 0.5) for _ in range(2))
    draws = Draws(0, torch.arange(16))
    batch = Batch(torch.randn(16, 2), Conditions(dropout=draws))
    plain(name, Teacher(teacher)).loss(student, batch, draws, 0.9)
    assert teacher.net.asked
    assert not any(teacher.net.asked)
    assert all(student.net.asked)


def test_alpha_weighs_jumps_only() -> None:
    """A sample on the diagonal weighs the same whatever alpha is; a jump weighs alpha."""
    flow_map = FlowMap(Perceptron(2, 8, 1, True), build_path("linear", 0.5), SCALINGS["euler"](), 0.5)
    batch, draws = Batch(torch.randn(64, 2)), Draws(0, torch.arange(64))
    objective = plain("alpha_flow", Conditional())
    objective.alpha = lambda progress: 0.25
    found = objective.loss(flow_map, batch, draws, 0.5)
    pair = objective.times.pairs(draws, flow_map.path)
    expected = (torch.where(pair.t < pair.s, 0.25, 1.0).float() * found.per_sample).mean()
    torch.testing.assert_close(found.value, expected)
    assert not torch.equal(pair.t, pair.s)
