"""The clock of one-hot tokens: even in what can be read, and a path like others."""

import pytest
import torch

from cm_multimodal.paths import Decoding, build_path, one_hot_sigma
from cm_multimodal.random import Draws
from torch import Tensor

TOKENS = (2, 28, 512)


@pytest.fixture(params=TOKENS, ids=str)
def path(request: pytest.FixtureRequest) -> Decoding:
    made = build_path("decoding", one_hot_sigma(request.param))
    assert isinstance(made, Decoding)
    assert made.tokens == request.param
    return made


def _even(count: int) -> Tensor:
    return torch.linspace(0, 1, count, dtype=torch.float64)


def test_accuracy_is_how_often_the_largest_entry_is_the_token() -> None:
    """Beside 20,000 noisy tokens, at four noise ratios, within four standard errors."""
    draws = Draws(0, torch.arange(20_000))
    noise = draws.noise("noise", (28,), torch.float64)
    path = Decoding(28)
    for ratio in (0.2, 0.5, 1.0, 3.0):
        noisy = noise * ratio
        noisy[:, 0] += 1
        seen = float((noisy.argmax(dim=1) == 0).double().mean())
        error = (seen * (1 - seen) / len(noisy)) ** 0.5
        signal = torch.tensor(1 / ratio, dtype=torch.float64)
        assert float(path.accuracy(signal)) == pytest.approx(seen, abs=4 * error + 1e-4)


def test_the_clock_is_its_definition(path: Decoding) -> None:
    """Time is 0.95 of what cannot be read above chance and 0.05 of the straight time, to 1e-7 between the spline's knots."""
    t = _even(3001)[1:-1]
    share = (path.tokens * path.accuracy(1 / path.noise_ratio(t)) - 1) / (path.tokens - 1)
    assert torch.allclose(0.95 * (1 - share) + 0.05 * path.sigma(t), t, atol=1e-7)


def test_the_clock_goes_from_clean_to_noise_and_back(path: Decoding) -> None:
    """It rises everywhere, its ends are data and noise, its inverse is one to rounding, and its slope is its derivative."""
    t = _even(3001)
    assert path.sigma(t[:1]).item() == 0
    assert path.sigma(t[-1:]).item() == pytest.approx(1, abs=1e-12)
    assert bool((path.d_sigma(t) > 0).all())
    assert torch.allclose(path.time_of(path.noise_ratio(t)), t, atol=1e-12)
    step = 1e-6
    slope = (path.sigma(t[1:-1] + step) - path.sigma(t[1:-1] - step)) / (2 * step)
    assert torch.allclose(slope, path.d_sigma(t[1:-1]), rtol=1e-3)
    assert float(path.accuracy(torch.zeros(1, dtype=torch.float64))) == pytest.approx(1 / path.tokens, rel=1e-4)


def test_other_data_have_the_clock_of_the_nearest_tokens() -> None:
    """A deviation that no one-hot tokens have gives the coarsest clock."""
    assert build_path("decoding", 0.5).time_of(torch.tensor(1.0, dtype=torch.float64)) == pytest.approx(
        float(Decoding(2).time_of(torch.tensor(1.0, dtype=torch.float64)))
    )
    assert vars(build_path("decoding", 3.0)).get("tokens") == 2
