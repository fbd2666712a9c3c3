"""Every objective of the registry, held against maps that are known: what is zero, and what is zero in the mean."""

import inspect
import pytest
import torch

from cm_multimodal.batch import Batch
from cm_multimodal.derivatives import CentralDifference
from cm_multimodal.errors import UsageError
from cm_multimodal.objectives import OBJECTIVES
from cm_multimodal.objectives.sources import Conditional
from cm_multimodal.paths import PATHS, build_path
from cm_multimodal.random import Draws, noise
from objectives.scenes import (
    AT_ZERO,
    DATA,
    WRONG,
    Bend,
    Expected,
    Noted,
    evaluate,
    gradients,
    near,
    plain,
    standard_errors,
    truth,
)  # fmt: skip

every_objective = pytest.mark.parametrize("name", OBJECTIVES)
every_path = pytest.mark.parametrize("path_name", PATHS)
every_data = pytest.mark.parametrize("data_name", DATA)
SCALING = {
    "linear": "euler", "edm": "rotation", "trigflow": "rotation", "vp_cosine": "euler", "vp_linear": "endpoint",
    "decoding": "euler",
}  # fmt: skip
PROGRESS = (0.05, 0.4, 0.9)
CONTINUOUS = {"continuous_consistency", "continuous_distillation"}  # whose stopped part holds the prediction itself


def _supported(name: str, path_name: str) -> bool:
    return not (name in AT_ZERO and path_name == "vp_linear")


@every_data
@every_path
@every_objective
def test_residual_is_zero_at_the_truth(name: str, path_name: str, data_name: str) -> None:
    """With the exact flow as its source, no sample of any objective has a residual at the true map; others have."""
    data = DATA[data_name]
    path = build_path(path_name, data.sigma_data)
    objective, scaling = plain(name, truth(data, path)), SCALING[path_name]
    if not _supported(name, path_name):
        with pytest.raises(UsageError, match="velocity at clean data"):
            objective.self_check(near(data, path, scaling), Batch(data.sample(0, torch.arange(4))))
        return
    right, wrong = near(data, path, scaling), near(WRONG[data_name], path, scaling, data.sigma_data)
    power = 1.0 if name == "moment_matching" else 0.5
    for progress in PROGRESS:
        objective.prepare(right)
        assert evaluate(objective, right, data, progress).max() ** power < 1e-9
        objective.prepare(wrong)
        assert evaluate(objective, wrong, data, progress).max() ** power > 1e-3


@every_data
@pytest.mark.parametrize("name", [n for n in OBJECTIVES if "derivative" in inspect.signature(OBJECTIVES[n]).parameters])
def test_residual_by_differences(name: str, data_name: str) -> None:
    """With central differences in the place of derivatives, the residual is that of rounding and a small step."""
    data = DATA[data_name]
    path = build_path("linear", data.sigma_data)
    objective = plain(name, truth(data, path), derivative=CentralDifference(1e-5))
    assert evaluate(objective, near(data, path), data, 0.9).max().sqrt() < 1e-5


@every_data
@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"moment_matching"}))
def test_conditional_source_in_the_mean(name: str, data_name: str) -> None:
    """The conditional source pulls as its mean given the noisy state would; where it is linear, at the truth nowhere.

    A finite step pulls through a map, and so in the mean only where that is affine: on Gaussian data.
    """
    data = DATA[data_name]
    path = build_path("linear", data.sigma_data)
    for progress in (0.3, 0.9) if data_name == "gaussian" else (0.9,):
        noted = Noted(Conditional())
        pulled = gradients(plain(name, noted), near(data, path), data, progress)
        if noted.stepped and data_name != "gaussian":
            continue
        expected = gradients(plain(name, Expected(data)), near(data, path), data, progress)
        assert standard_errors(pulled - expected).max() < 4
        if not noted.stepped and name != "consistency_trajectory":
            assert expected.abs().max() < 1e-9
            assert standard_errors(pulled).max() < 4
            wrong = near(WRONG[data_name], path, sigma_data=data.sigma_data)
            assert standard_errors(gradients(plain(name, Conditional()), wrong, data, progress)).max() > 6


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - CONTINUOUS))
@pytest.mark.parametrize("path_name", ["linear", "trigflow"])
def test_gradient_against_differences(name: str, path_name: str) -> None:
    """Off the optimum the gradient is a finite difference of the loss in which all that is stopped stays as it is."""
    data = DATA["product"]
    path, ids = build_path(path_name, data.sigma_data), torch.arange(256)
    weight, stopped, other = (0.2 * noise(0, use, torch.arange(6), (2,), torch.float64) for use in "abc")
    batch, draws = Batch(data.sample(0, ids)), Draws(0, ids)
    for progress in (0.3, 0.9):
        objective = plain(name, Conditional())
        objective.prepare(near(data, path, bend=Bend(other)))
        bend = Bend(weight, stopped)
        loss = objective.loss(near(data, path, bend=bend), batch, draws, progress).value
        (found,) = torch.autograd.grad(loss, [bend.weight])
        for place in ((0, 0), (2, 1), (4, 0), (5, 1)):
            ends = []
            for sign in (1, -1):
                moved = weight.clone()
                moved[place] += sign * 1e-4
                there = near(data, path, bend=Bend(moved, stopped))
                ends.append(objective.loss(there, batch, draws, progress).value.item())
            assert found[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-5, abs=1e-7)
