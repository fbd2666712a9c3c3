r"""Muon: polar factors against the singular value decomposition, and which weights it turns."""

import pytest
import torch

from cm_multimodal.nets.unet import UNet, UNetShape
from cm_multimodal.training.optimizers import Muon, polar
from torch import nn

BETAS = (0.9, 0.99)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 24, 6), (2, 6, 24)])
def test_polar_factors_keep_singular_vectors(shape: tuple[int, ...]) -> None:
    """The singular vectors stay, the singular values come near one, the largest and those a hundred times smaller alike."""
    u, _, v = torch.linalg.svd(
        torch.randn(shape, generator=torch.Generator().manual_seed(0)).double(), full_matrices=False
    )
    values = torch.logspace(0, -2, min(shape[1:]), dtype=torch.float64).expand(shape[0], -1)
    inside = u.mT @ polar(u * (7e3 * values)[:, None] @ v) @ v.mT
    found = inside.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(inside, torch.diag_embed(found), rtol=0, atol=1e-12)
    assert 0.6 < found.min() < found.max() < 1.3


def test_a_first_step_is_a_polar_factor() -> None:
    """Of one matrix and its gradient, by the formula; the bias moves as AdamW has it."""
    net = nn.Sequential(nn.Linear(5, 7)).double()
    gradients = [torch.randn_like(p) for p in net.parameters()]
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = Muon(net.named_parameters(), 0.1, BETAS, 0.5)
    for weight, gradient in zip(net.parameters(), gradients, strict=True):
        weight.grad = gradient.clone()
    optimizer.step()
    ahead = gradients[0] * (0.05 + 0.95 * 0.05)
    expected = before[0] * 0.95 - 0.1 * 0.2 * 7**0.5 * polar(ahead[None])[0]
    torch.testing.assert_close(net[0].weight.detach(), expected)
    torch.testing.assert_close(net[0].bias.detach(), before[1] * 0.95 - 0.1 * gradients[1].sign(), rtol=0, atol=1e-6)


def test_ends_keep_adam() -> None:
    """Of a U-Net: convolutions inside are turned; what reads the state and the times, the last layer and vectors are not."""
    net = UNet(2, 3, UNetShape(8, (1, 2), 1, (1,), True), two_times=True, classes=4)
    turned = next(g["params"] for g in Muon(net.named_parameters(), 1e-3, BETAS, 0.0).param_groups if g["matrices"])
    names = {name for name, p in net.named_parameters() if any(p is each for each in turned)}
    assert "middle_in.block.conv_in.weight" in names
    assert not any(name.startswith(("enter", "leave", "embedding")) or name.endswith("bias") for name in names)


def test_zero_and_missing_gradients_move_nothing() -> None:
    """A gradient of zeros moves nothing, and makes no NaN; a layer without a gradient stays."""
    layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    nn.init.zeros_(layers[0].weight)
    kept = layers[1].weight.detach().clone()
    optimizer = Muon(layers.named_parameters(), 1e-2, BETAS, 0.0)
    layers[0].weight.grad = torch.zeros(4, 4)
    optimizer.step()
    assert torch.equal(layers[0].weight.detach(), torch.zeros(4, 4))
    assert torch.equal(layers[1].weight.detach(), kept)
