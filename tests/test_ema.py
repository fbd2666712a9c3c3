r"""Averages of the weights."""

import pytest
import torch

from cm_multimodal.ema import Average, Constant, HalfLife, PowerFunction, Snapshot, exponent, reconstruct
from torch import nn


def walk(module: nn.Module, step: int) -> None:
    """Moves the weights along a deterministic curve."""
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.copy_(
                torch.sin(torch.arange(parameter.numel()).reshape(parameter.shape) + step / (37 + 20 * index))
            )


def averaged(decay: object, steps: int, batch: int = 10) -> Average:
    module = nn.Linear(3, 2, dtype=torch.float64)
    average = Average(module, decay)
    for step in range(1, steps + 1):
        walk(module, step)
        average.update(module, step * batch, batch)
    return average


def test_the_width_of_a_power_function_average_is_what_it_says() -> None:
    """The exponent gives the relative width of the profile (Karras et al., equation 123)."""
    for std in (0.05, 0.1, 0.2):
        gamma = exponent(std)
        assert ((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5 == pytest.approx(std)
    assert exponent(0.1) == pytest.approx(6.94, abs=0.01)


def test_a_half_life_halves() -> None:
    """After one half-life, half of the old average is left; early on the half-life is shorter."""
    decay = HalfLife(1000, ramp=0.05)
    assert decay.beta(10**6, 100) ** 10 == pytest.approx(0.5)
    assert decay.beta(1000, 50) == pytest.approx(0.5)
    assert Constant(0.99).beta(5, 5) == 0.99


def test_the_first_update_of_a_power_function_average_takes_the_weights() -> None:
    """Nothing of the random start is left after the first update."""
    module = nn.Linear(3, 2)
    average = Average(module, PowerFunction(0.1))
    walk(module, 5)
    average.update(module, 64, 64)
    assert torch.equal(average.weights["weight"], module.weight)


@pytest.mark.parametrize("std", [0.05, 0.075, 0.1])
def test_another_width_is_reconstructed_after_training(std: float) -> None:
    """Snapshots of two widths give a third one, to a small part of the distance between them."""
    steps, shots = 400, []
    for width in (0.05, 0.1):
        module = nn.Linear(3, 2, dtype=torch.float64)
        average = Average(module, PowerFunction(width))
        for step in range(1, steps + 1):
            walk(module, step)
            average.update(module, step * 10, 10)
            if step % 25 == 0:
                kept = {name: value.clone() for name, value in average.weights.items()}
                shots.append(Snapshot(width, step * 10, kept))
    truth = averaged(PowerFunction(std), steps).weights["weight"]
    distance = (
        averaged(PowerFunction(0.05), steps).weights["weight"] - averaged(PowerFunction(0.1), steps).weights["weight"]
    ).norm()
    found = reconstruct(shots, std)["weight"]
    assert distance > 0.05
    assert (found - truth).norm() < 0.02 * distance


def test_an_average_follows_its_formula() -> None:
    """A constant average of known weights is the geometric sum."""
    module = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(module.weight)
    average = Average(module, Constant(0.9))
    nn.init.ones_(module.weight)
    for step in range(1, 6):
        average.update(module, step, 1)
    assert average.weights["weight"].item() == pytest.approx(1 - 0.9**5)
