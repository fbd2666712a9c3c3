r"""Editing: what is known stays, the rest is drawn from the map."""

import dataclasses
import math
import numpy as np
import pytest
import torch

from cm_multimodal.batch import Conditions
from cm_multimodal.bundle import Bundle
from cm_multimodal.editing import Known, Measurement, between, complete, masked
from cm_multimodal.errors import UsageError
from cm_multimodal.exact import ExactMap, ExactNetwork, Gaussian
from cm_multimodal.generation.editing import edit, interpolate
from cm_multimodal.generation.sampling import collect, make_plan
from cm_multimodal.grids import GRIDS
from cm_multimodal.maps import FlowMap, Rotation
from cm_multimodal.modality import Dataset
from cm_multimodal.paths import build_path
from cm_multimodal.random import Draws
from collections.abc import Callable
from modalities.image.edit import measurement
from pathlib import Path
from PIL import Image
from test_generation import WHOLE, bundle
from torch import nn
from toy.points import Points
from typing import Any

TIED = Gaussian(torch.zeros(2).double(), torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double())
PICTURES = torch.linspace(-1, 1, 2 * 3 * 4 * 8).reshape(2, 3, 4, 8).cos()
KINDS = [("inpaint", {"mask": name}) for name in ("left", "right", "top", "bottom", "frame")] + [
    ("colour", {}), ("enlarge", {"factor": 2}), ("enlarge", {"factor": 4}),
]  # fmt: skip


@pytest.mark.parametrize(("how", "options"), KINDS)
def test_what_is_known_is_put_in_and_nothing_else_changes(how: str, options: dict[str, object]) -> None:
    """The projection measures what is known, is itself when done twice, and goes the shortest way; colours go along grey."""
    kind = measurement(how, options, (3, 4, 8))
    known, other = Known.of(PICTURES, kind), PICTURES.flip(0).sin()
    put = known.put_into(other)
    assert torch.allclose(kind.measure(put), known.value, atol=1e-6)
    assert torch.allclose(known.put_into(put), put, atol=1e-6)
    assert not torch.allclose(put, PICTURES, atol=1e-2)
    move = put - other
    if how == "colour":
        assert torch.allclose(move, move.mean(1, keepdim=True), atol=1e-6)
    else:
        assert (move * (PICTURES - put)).sum().abs() < 1e-4


def test_the_rest_is_drawn_to_fit_the_better_the_more_steps() -> None:
    """With the exact map of two tied numbers, the unknown one tends to its regression on the known one, 0.9 times it."""
    n, path = 4000, build_path("linear", 0.5)
    x, draws = TIED.sample(1, torch.arange(n)), Draws(0, torch.arange(n))
    known, slopes = Known.of(x, masked(torch.tensor([1, 0]))), []
    for steps in (2, 8, 30):
        times = path.time_of(GRIDS["straight"](steps, path))
        drawn = complete(ExactMap(TIED, path), known, x, times, Conditions(), draws)
        assert torch.allclose(drawn[:, 0], x[:, 0])
        slopes.append(float((drawn[:, 0] @ drawn[:, 1]) / (drawn[:, 0] @ drawn[:, 0])))
    assert 0.2 < slopes[0] < slopes[1] < slopes[2] < 0.9
    assert slopes[2] > 0.75


class ToldNetwork(nn.Module):
    """The exact network of two tied numbers that is told the first one."""

    def forward(self, x: torch.Tensor, n_s: torch.Tensor, n_t: torch.Tensor, cond: Conditions) -> torch.Tensor:
        assert cond.known is not None
        rest = Gaussian(cond.known * torch.tensor([1.0, 0.9]), torch.diag(torch.tensor([0.0, 0.19]).double()))
        return ExactNetwork(rest, build_path("linear", 0.5), Rotation(), 0.5)(x, n_s, n_t)


@pytest.mark.parametrize(
    ("how", "calls"),
    [
        *(({"sampler": name, "steps": 3}, 3) for name in ("chain", "gamma", "renoise")),
        ({"solver": "heun", "steps": 60}, 119),
    ],
)
def test_a_network_that_was_told_draws_the_rest_exactly(how: dict[str, Any], calls: int) -> None:
    """By any sampler or solver: regression and spread of the unknown number are those of the data, given the known one."""
    n, told, seen = 4000, _told_bundle(), []
    told.flow_map.net.register_forward_hook(lambda *_: seen.append(None))
    done = edit(told, make_plan(told, n=n, **how), _tied(n), _first(), "cpu")
    slope, left = _regression(done.raw)
    assert torch.equal(done.raw[:, 0], _tied(n).raw[:, 0])
    assert slope == pytest.approx(0.9, abs=4 * (0.19 / n) ** 0.5)
    assert left == pytest.approx(0.19, abs=4 * 0.19 * (2 / n) ** 0.5)
    assert len(seen) == calls * n // told.card.chunk


def test_the_plan_says_how_the_rest_is_drawn() -> None:
    """The chain ends where one jump does, and fresh noise leads elsewhere."""
    told = _told_bundle()
    one, three, fresh = (
        edit(told, make_plan(told, n=20, steps=steps, sampler=name), _tied(20), _first(), "cpu").raw
        for steps, name in ((1, "chain"), (3, "chain"), (3, "renoise"))
    )
    assert torch.allclose(one, three, atol=1e-6)
    assert (one - fresh)[:, 1].abs().max() > 0.1


def test_the_mean_of_what_may_be_is_nearest() -> None:
    """One call on the diagonal names the conditional mean: the same whatever the noise, no draw is as near."""
    n, told = 500, _told_bundle()
    mean, draw = (
        edit(told, make_plan(told, n=n, sampler=name), _tied(n), _first(), "cpu").raw for name in ("mean", "chain")
    )
    assert torch.allclose(mean[:, 1], 0.9 * mean[:, 0], atol=0.05)
    far = [float((each - _tied(n).raw)[:, 1].square().mean()) for each in (mean, draw)]
    assert far[1] / far[0] == pytest.approx(2, abs=0.4)


def test_who_was_told_nothing_needs_the_edge() -> None:
    """A flow that was told draws along its diagonal; one that was not is refused."""
    told, plain = _told_bundle("diagonal"), _told_bundle("diagonal", known=False)
    assert edit(told, make_plan(told, n=3, steps=4), _tied(3), _first(), "cpu").raw.shape == (3, 2)
    with pytest.raises(UsageError, match="it needs the edge"):
        edit(plain, make_plan(plain, n=3, steps=4), _tied(3), _first(), "cpu")


def test_samplers_are_asked_for_where_they_serve(cmm: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """A walk takes any; what was told nothing completes parts in one way alone."""
    quick = ("train.samples=128", "net.channels=8", "train.threads=1", "data.limit=100")
    assert cmm("train", "experiment=image/smoke", *quick, "name=plain") == 0
    for way in ("sampler=chain", "solver=euler", "sampler=mean"):
        assert cmm("edit", "run=runs/plain", "mask=left", "steps=1", way) == 2
        assert "told no such parts of samples in training" in capsys.readouterr().err
        assert cmm("edit", "run=runs/plain", "how=interpolate", "steps=1", "n=2", way) == 0
    assert cmm("edit", "run=runs/plain", "how=interpolate", "steps=2", "n=2", "sampler=mean") == 2
    assert "give steps=1" in capsys.readouterr().err


def _told_bundle(*learned: str, known: bool = True) -> Bundle:
    learned = learned or ("diagonal", "edge", "triangle")
    spec = dataclasses.replace(WHOLE.card.spec, shape=(2,), sigma_data=0.5, classes=())
    card = dataclasses.replace(WHOLE.card, spec=spec, net={"known": known}, learned=learned, chunk=1000)
    return Bundle(
        card, FlowMap(ToldNetwork(), build_path("linear", 0.5), Rotation(), 0.5, frozenset(learned)), Points(spec)
    )


def _tied(n: int) -> Dataset:
    return Dataset(TIED.sample(1, torch.arange(n)))


def _first() -> Measurement:
    return dataclasses.replace(masked(torch.tensor([1, 0])), told=lambda x: x[:, :1])


def _regression(x: torch.Tensor) -> tuple[float, float]:
    slope = (x[:, 0] @ x[:, 1]) / (x[:, 0] @ x[:, 0])
    return float(slope), float((x[:, 1] - slope * x[:, 0]).var())


def test_noise_is_mixed_on_a_circle() -> None:
    """The ends are the two noises, and the length of what lies between is theirs."""
    first, last = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixed = between(first, last, torch.linspace(0, 1, 5).double())
    assert torch.allclose(mixed[0], first)
    assert torch.allclose(mixed[-1], last)
    for part in mixed:
        assert part.norm() == pytest.approx(math.sqrt(150), rel=0.1)


def test_edited_samples_keep_what_is_known_to_the_byte() -> None:
    """In every chunk, for any number of samples, the classes of the samples being the conditions."""
    raw = torch.randint(0, 256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    given = Dataset(raw, torch.arange(20) % 3, classes=WHOLE.card.spec.classes)
    kind = measurement("inpaint", {"mask": "left"}, (1, 8, 8))
    some, more = (edit(WHOLE, make_plan(WHOLE, n=n, steps=2), given, kind, "cpu") for n in (5, 20))
    assert torch.equal(some.raw[..., :4], raw[:5, ..., :4])
    assert not torch.equal(some.raw[..., 4:], raw[:5, ..., 4:])
    assert torch.equal(more.raw[:5], some.raw)
    assert torch.equal(some.known[..., 4:].unique(), torch.tensor([128], dtype=torch.uint8))


def test_a_walk_begins_and_ends_at_samples() -> None:
    """Its ends are what `cmm sample` draws of the same class; fresh noise is that of the first. It leads somewhere."""
    plan = make_plan(WHOLE, n=6, steps=2, label="cat")
    drawn = collect(WHOLE, make_plan(WHOLE, n=11, steps=2, label="cat")).raw
    walk = interpolate(WHOLE, plan, [0, 10], "cpu")
    for place, sample in ((walk[0], drawn[0]), (walk[-1], drawn[10])):
        assert (place.int() - sample.int()).abs().max() <= 1
    assert len(walk.unique(dim=0)) == 6
    noisy = make_plan(WHOLE, n=6, steps=2, sampler="renoise")
    first = collect(WHOLE, make_plan(WHOLE, n=1, steps=2, sampler="renoise")).raw[0]
    assert (interpolate(WHOLE, noisy, [0, 10], "cpu")[0].int() - first.int()).abs().max() <= 1
    with pytest.raises(UsageError, match="leads nowhere"):
        interpolate(WHOLE, plan, [3, 3], "cpu")


@pytest.mark.parametrize(
    ("how", "options", "shape", "says"),
    [
        ("inpaint", {"mask": "lfet"}, (1, 8, 8), "did you mean 'left'"), ("colour", {}, (1, 8, 8), "draws grey ones"),
        ("inpaint", {"mask": "small.png"}, (1, 8, 8), "has 4x6 pixels, the model's pictures 8x8"),
        ("inpaint", {"mask": "broken.png"}, (1, 8, 8), "is no picture"),
        ("enlarge", {"factor": 3}, (1, 8, 8), "divides 8 and 8"), ("enlarge", {"factor": 1}, (1, 8, 8), "from 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_gets_a_sentence(
    how: str,
    options: dict[str, str],
    shape: tuple[int, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((4, 6), dtype=np.uint8)).save("small.png")
    Path("broken.png").write_text("no picture")
    with pytest.raises(UsageError, match=says):
        measurement(how, options, shape)


def test_who_cannot_edit_says_so() -> None:
    """A model without the edge, more samples than there are, a kind that the modality does not know."""
    kind, given = measurement("inpaint", {"mask": "top"}, (1, 8, 8)), Dataset(torch.zeros(2, 1, 8, 8).to(torch.uint8))
    diagonal = bundle("diagonal")
    with pytest.raises(UsageError, match="needs the edge"):
        edit(diagonal, make_plan(diagonal, n=2), given, kind, "cpu")
    with pytest.raises(UsageError, match="there are 2 samples"):
        edit(WHOLE, make_plan(WHOLE, n=3), given, kind, "cpu")
    with pytest.raises(UsageError, match="it is one of: inpaint, colour, enlarge"):
        WHOLE.modality.measurement("outpaint", {})
