"""The transformer and the perceptron: shapes, derivatives, what they are told."""

import pytest
import torch

from cm_multimodal.batch import Conditions
from cm_multimodal.derivatives import CentralDifference, DoubleBackward, ForwardMode, perturbed
from cm_multimodal.maps import Euler, FlowMap
from cm_multimodal.nets.perceptron import Perceptron
from cm_multimodal.nets.transformer import Transformer, TransformerShape
from cm_multimodal.paths import Linear
from torch import nn

SHAPE = TransformerShape(width=16, depth=2, heads=2)


def transformer(*side: int, two_times: bool = True) -> Transformer:
    torch.manual_seed(0)
    return perturbed(Transformer(side, 2, SHAPE, two_times, classes=3))


@pytest.mark.parametrize("side", [(12,), (8, 6), (4, 6, 2)])
def test_the_transformer_works_in_one_two_and_three_dimensions(side: tuple[int, ...]) -> None:
    """Output and input have the same shape, and every parameter gets a gradient."""
    model, x = transformer(*side), torch.randn(2, 2, *side, dtype=torch.float64)
    n = torch.tensor([0.3, 1.2], dtype=torch.float64)
    out = model(x, n, n / 2, Conditions(torch.tensor([0, 2])))
    out.square().mean().backward()
    assert out.shape == x.shape
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_patches_go_back_where_they_came_from() -> None:
    """A pixel moves its own patch of an otherwise blind network, and no other."""
    model, x = transformer(8, 6), torch.zeros(1, 2, 8, 6, dtype=torch.float64)
    for block in model.blocks:
        nn.init.zeros_(block.modulation.weight)
        nn.init.zeros_(block.modulation.bias)
    n = torch.tensor([0.5], dtype=torch.float64)
    moved = x.clone()
    moved[0, 1, 5, 2] = 1.0
    change = (model(moved, n, n, Conditions()) - model(x, n, n, Conditions())).abs().sum(dim=(0, 1))
    assert change[4:6, 2:4].min() > 0
    change[4:6, 2:4] = 0
    assert change.max() == 0


def test_sides_that_patches_do_not_fill_are_refused() -> None:
    """A grid that is no multiple of the patch is named."""
    with pytest.raises(ValueError, match="do not fill"):
        Transformer((7, 8), 1, SHAPE, False)


@pytest.mark.parametrize(
    "net", [transformer(8, 6), perturbed(Perceptron(5, 16, 2, True))], ids=["transformer", "perceptron"]
)
def test_derivatives_agree(net: nn.Module) -> None:
    """Through attention, too, the three derivatives are one; and both times are heard."""
    shape = (3, 2, 8, 6) if isinstance(net, Transformer) else (3, 5)
    x, v = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    s, flow_map = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64), FlowMap(net, Linear(), Euler(), 0.5)

    def f(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return flow_map.mean_velocity(x, s, 0.1 * torch.ones_like(s), Conditions())

    reference = ForwardMode()(f, x, s, v)
    torch.testing.assert_close(DoubleBackward()(f, x, s, v), reference, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(CentralDifference(1e-5)(f, x, s, v), reference, rtol=1e-4, atol=1e-5)
    n = torch.full((3,), 0.8, dtype=torch.float64)
    assert (net(x, n, n, Conditions()) - net(x, n, n / 2, Conditions())).abs().max() > 1e-6
