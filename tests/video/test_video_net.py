"""Networks for clips: they take times per frame, can be differentiated, are told frames, and refuse what they cannot be."""

import pytest
import torch

from cm_multimodal.batch import Conditions, told
from cm_multimodal.derivatives import CentralDifference, DoubleBackward, ForwardMode, perturbed
from cm_multimodal.errors import UsageError
from cm_multimodal.maps import Euler, FlowMap
from cm_multimodal.modality import TensorSpec
from cm_multimodal.paths import Linear
from modalities.video.net import SIZES, build_net
from torch import nn
from typing import Any

SPEC = TensorSpec((1, 4, 8, 8), 0.5, ("a", "b"))
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"channels": 16},
    "patches": {"channels": 16, "patch": 2},
    "transformer": {"name": "transformer", "width": 32, "depth": 4, "heads": 2},
}
TIMES = torch.tensor([0.4, 1.1], dtype=torch.float64)


def net(name: str, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    return perturbed(build_net({**SMALL[name], **more}, SPEC, True))


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 1, 4, 8, 8, dtype=torch.float64)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns(name: str, x: torch.Tensor) -> None:
    """The state keeps its shape, and each parameter gets a gradient; the class changes what is drawn."""
    model = net(name)
    out = model(x, TIMES, TIMES / 2, Conditions(torch.tensor([0, 1])))
    out.square().mean().backward()
    assert out.shape == x.shape
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert (model(x, TIMES, TIMES / 2, Conditions(torch.tensor([1, 1]))) - out)[0].abs().max() > 1e-4


@pytest.mark.parametrize("name", SMALL)
def test_times_may_differ_by_frame(name: str, x: torch.Tensor) -> None:
    """Equal times of all frames are one time; another time of one frame changes what is drawn."""
    model, cond = net(name), Conditions(torch.tensor([0, 1]))
    spread = TIMES.reshape(2, 1, 1, 1, 1).expand(2, 1, 4, 1, 1).clone()
    assert torch.allclose(model(x, spread, spread, cond), model(x, TIMES, TIMES, cond), atol=1e-12)
    moved = spread.clone()
    moved[:, :, 1] += 0.3
    assert (model(x, moved, spread, cond) - model(x, TIMES, TIMES, cond)).abs().max() > 1e-4


@pytest.mark.parametrize("name", SMALL)
def test_frames_that_are_clean_stay_as_they_are(name: str, x: torch.Tensor) -> None:
    """A map with one time per frame moves the noisy frames, told by the clean ones, and not these."""
    flow_map = FlowMap(net(name), Linear(), Euler(), 0.5)
    s = torch.tensor([0.0, 0.0, 0.7, 0.7], dtype=torch.float64).reshape(1, 1, 4, 1, 1).expand(2, 1, 4, 1, 1)
    cond, other = Conditions(torch.tensor([0, 1])), x.clone()
    other[:, :, 0] += 1
    drawn, changed = (flow_map.jump(start, s, torch.zeros_like(s), cond) for start in (x, other))
    assert torch.equal(drawn[:, :, :2], x[:, :, :2])
    assert (drawn[:, :, 2:] - changed[:, :, 2:]).abs().max() > 1e-4


@pytest.mark.parametrize("name", SMALL)
def test_derivatives_agree(name: str, x: torch.Tensor) -> None:
    """Forward mode, double backward and a central difference give one derivative along the path."""
    flow_map, v = FlowMap(net(name), Linear(), Euler(), 0.5), torch.randn_like(x)

    def f(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return flow_map.mean_velocity(x, s, 0.1 * torch.ones_like(s), Conditions(torch.tensor([0, 1])))

    reference = ForwardMode()(f, x, TIMES / 2, v)
    torch.testing.assert_close(DoubleBackward()(f, x, TIMES / 2, v), reference, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(CentralDifference(1e-5)(f, x, TIMES / 2, v), reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_it_is_told_frames(name: str, x: torch.Tensor) -> None:
    """What is known changes what is drawn, also that nothing is known of a dark frame; telling nothing is no error."""
    model = net(name, known=True)
    where = torch.tensor([1.0, 1, 0, 0]).reshape(1, 1, 4, 1, 1).expand(2, 1, 4, 8, 8)
    drawn = [model(x, TIMES, TIMES, Conditions(known=known)) for known in (None, told(x, where), told(0 * x, where))]
    assert all((drawn[a] - drawn[b]).abs().max() > 1e-4 for a, b in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"name": "unnet"}, "did you mean 'unet'"),
        ({"size": "xxl"}, "There is no size 'xxl'"),
        ({"depth": 2}, "no setting 'net.depth' of net.name=unet"),
        ({"patch": 3}, "does not divide the frames, 8x8"),
        ({"channels": 0}, "whole numbers"),
        ({"channels": 1.5}, "a whole number"),
        ({"name": "transformer", "depth": 3}, "is odd"),
        ({"name": "transformer", "patch": 3}, "does not divide the frames, 8x8"),
        ({"name": "transformer", "heads": 7}, "twice the heads"),
    ],
)
def test_what_cannot_be_is_said(config: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build_net(config, SPEC, True)


def test_sizes_grow() -> None:
    """Each preset has more parameters than the one before it; the smallest has about as many as the pilot."""
    with torch.device("meta"):
        for name, sizes in SIZES.items():
            spec = TensorSpec((3, 16, 32, 32), 0.5)
            counts = [sum(p.numel() for p in size.net(spec, True, 0).parameters()) for size in sizes.values()]
            assert counts == sorted(counts)
            assert 3e5 < counts[0] < 1.5e6 < 1e7 < counts[2] < 6e7, (name, counts)
