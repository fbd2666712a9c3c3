r"""Distances and weights against their definitions."""

import pytest
import torch

from cm_multimodal.losses import L2, AdaptiveWeight, LearnedLogVariance, PseudoHuber, normalise_tangent


def test_pseudo_huber_is_quadratic_near_and_linear_far() -> None:
    """Over the whole sample: d^2 / 2c for small differences, the norm for large ones; padding does not count."""
    target, c = torch.zeros(1, 4, 25, dtype=torch.float64), 0.00054 * 10
    near, far = target + 1e-5, target + 1e3
    assert PseudoHuber()(near, target).item() == pytest.approx(100 * 1e-10 / (2 * c), rel=1e-3)
    assert PseudoHuber()(far, target).item() == pytest.approx(1e4, rel=1e-5)
    mask = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    torch.testing.assert_close(PseudoHuber()(far, target, mask), PseudoHuber()(far[:, :2], target[:, :2]))
    assert torch.equal(L2()(far, target, mask), L2()(far, target))


def test_the_adaptive_weight_has_no_gradient_of_its_own() -> None:
    """The loss is divided by a constant: gradients keep their direction and lose their size."""
    loss = torch.tensor([4.0, 100.0], dtype=torch.float64, requires_grad=True)
    AdaptiveWeight(1.0, 0.0)(loss).sum().backward()
    assert loss.grad is not None
    assert loss.grad.tolist() == pytest.approx([0.25, 0.01])


def test_the_learned_variance_finds_each_levels_loss() -> None:
    """L / exp(w) + w is least at w = log L: the weighted loss of every level becomes one."""
    torch.manual_seed(0)
    clock = torch.linspace(0.05, 1.5, 64)
    loss = torch.exp(1 + torch.sin(2 * clock))
    learned = LearnedLogVariance()
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        learned(loss, clock).mean().backward()
        optimizer.step()
    weighted = learned(loss, clock) - learned(torch.zeros_like(loss), clock)
    assert weighted.detach().sub(1).abs().max() < 0.1


def test_a_normalised_tangent_is_of_size_one_or_less() -> None:
    """Large tangents get a root mean square of one, small ones are divided by the constant."""
    tangent = (
        torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e4, 1e-4])[:, None, None]
    )
    size = normalise_tangent(tangent).square().mean(dim=(1, 2)).sqrt()
    assert size[0].item() == pytest.approx(1.0, rel=1e-4)
    assert size[1].item() == pytest.approx(tangent[1].square().mean().sqrt().item() / 0.1, rel=2e-3)
