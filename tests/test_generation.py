r"""Samples are a function of (weights, plan, sample id) alone."""

import dataclasses
import pytest
import torch

from cm_multimodal.bundle import Bundle, Card, empty_map
from cm_multimodal.derivatives import perturbed
from cm_multimodal.errors import UsageError
from cm_multimodal.generation.sampling import collect, make_plan, sample
from cm_multimodal.grids import grid_ratios
from cm_multimodal.modality import TensorSpec
from cm_multimodal.paths import PATHS
from cm_multimodal.solvers import SOLVERS
from modalities.image.adapter import ImageModality

SPEC = TensorSpec((1, 8, 8), 0.75, ("cat", "dog", "owl"))


def bundle(*learned: str, classes: tuple[str, ...] = SPEC.classes, path: str = "linear") -> Bundle:
    spec = TensorSpec(SPEC.shape, SPEC.sigma_data, classes)
    card = Card(
        "image",
        spec,
        {"size": "xs", "channels": 8, "blocks": 1},
        path,
        "euler",
        True,
        learned,
        "test",
        8,
        drop_label=0.1,
    )
    torch.manual_seed(0)
    flow_map = perturbed(empty_map(card, ImageModality(spec))).float()
    return Bundle(card, flow_map.eval().requires_grad_(False), ImageModality(spec))


WHOLE = bundle("diagonal", "edge", "triangle")


@pytest.mark.parametrize("sampler", ["chain", "renoise", "gamma"])
def test_a_sample_does_not_depend_on_how_many_are_drawn(sampler: str) -> None:
    """The first samples of many are, to the byte, those of few; another seed gives others."""
    few = collect(WHOLE, make_plan(WHOLE, n=3, steps=2, sampler=sampler))
    many = collect(WHOLE, make_plan(WHOLE, n=21, steps=2, sampler=sampler))
    assert torch.equal(few.raw, many.raw[:3])
    assert len(many.raw) == 21
    assert not torch.equal(few.raw, collect(WHOLE, make_plan(WHOLE, n=3, steps=2, seed=1, sampler=sampler)).raw)


def test_chunks_come_one_by_one() -> None:
    """A job is a generator of chunks whose ids count on."""
    parts = list(sample(WHOLE, make_plan(WHOLE, n=19)))
    assert [len(part.raw) for part in parts] == [8, 8, 3]
    assert torch.cat([part.sample_id for part in parts]).tolist() == list(range(19))


def test_labels_count_through_the_classes_or_are_asked_for() -> None:
    """label = sample_id mod classes, unless a class is named."""
    assert collect(WHOLE, make_plan(WHOLE, n=5)).label.tolist() == [0, 1, 2, 0, 1]
    assert collect(WHOLE, make_plan(WHOLE, n=3, label="owl")).label.tolist() == [2, 2, 2]
    nameless = bundle("edge", classes=())
    assert collect(nameless, make_plan(nameless, n=2)).label.tolist() == [-1, -1]


@pytest.mark.parametrize("path", PATHS)
def test_any_path_gives_the_same_samples(path: str) -> None:
    """The same noise at the same noise ratios gives the same pictures on every path."""
    own = collect(WHOLE, make_plan(WHOLE, n=8, steps=3)).raw.int()
    other = collect(WHOLE, make_plan(WHOLE, n=8, steps=3, path=path)).raw.int()
    assert (own - other).abs().max() <= 1


def test_calls_are_counted() -> None:
    """A jump costs one call, a step of Euler's method too, one of Heun's two but for the last, a guided one twice that."""

    def calls(**how: object) -> int:
        return collect(WHOLE, make_plan(WHOLE, n=2, **how)).calls

    assert [calls(steps=4), calls(steps=7, solver="euler"), calls(steps=5, solver="heun")] == [4, 7, 9]
    assert [calls(steps=4, guidance=2.0), calls(steps=4, guidance=2.0, interval=[0.5, 2.0])] == [8, 5]
    assert calls(steps=3, solver="heun", guidance=1.5) == 10


def test_guidance_moves_towards_the_class() -> None:
    """The scale 0 is the map without a class, 1 the map with it, and others lie on the line through both."""
    raw = {w: collect(WHOLE, make_plan(WHOLE, n=8, guidance=w)).raw.float() for w in (0.0, 0.5, 1.0)}
    plain = collect(WHOLE, make_plan(WHOLE, n=8)).raw.float()
    assert torch.equal(raw[1.0], plain)
    assert (raw[0.0] - raw[1.0]).abs().max() > 2
    inside = torch.stack([(value > 0) & (value < 255) for value in raw.values()]).all(dim=0)
    assert inside.float().mean() > 0.2
    assert (raw[0.5] - (raw[0.0] + raw[1.0]) / 2)[inside].abs().max() <= 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"steps": 0}, "steps=0 is not possible"), ({"steps": -1}, "from 1"), ({"steps": 10**9}, "from 1 to"),
        ({"steps": 1.5}, "whole number"), ({"n": 0}, "n=0 is not possible"), ({"n": True}, "not possible"),
        ({"label": "dgo"}, "did you mean 'dog'"), ({"label": 7}, "no class '7'"), ({"seed": "x"}, "seed=x"),
        ({"sampler": "chian"}, "did you mean 'chain'"), ({"solver": "eular"}, "did you mean 'euler'"),
        ({"solver": {"name": "ddim", "eta": 2.0}}, "eta lies between 0"), ({"solver": {"eta": 1.0}}, "needs a solver"),
        ({"solver": {"name": "ddim", "eat": 1.0}}, "did you mean 'eta'"),
        ({"solver": {"name": "unipc", "points": 3}, "steps": 2}, "with 3 points needs at least as many steps"),
        ({"grid": "karas"}, "did you mean 'karras'"), ({"grid": 3}, "neither a name"), ({"grid": []}, "neither a name"),
        ({"grid": [5.0, 80.0], "steps": 2}, "noise ratios fall"), ({"grid": [0.0]}, "noise ratios fall"),
        ({"grid": [80.0, 80.0], "steps": 2}, "noise ratios fall"), ({"grid": [float("inf")]}, "neither a name"),
        ({"grid": [80, 5, 1], "steps": 2}, "makes 3 steps, and steps=2"),
        ({"path": "liner"}, "did you mean 'linear'"),
        ({"gamma": float("nan")}, "gamma=nan"), ({"gamma": 2}, "gamma=2"),
        ({"gamma": 0.3}, "gamma=0.3 is an option of sampler=gamma alone"),
        ({"sampler": "chain", "solver": "euler"}, "give one of them"),
        ({"guidance": -1.0}, "guidance=-1.0 is not possible"), ({"guidance": "x"}, "guidance=x is not possible"),
        ({"guidance": 2.0, "interval": [3.0, 1.0]}, "interval="), ({"interval": 5}, "interval=5 is not possible"),
        ({"sampler": "mean", "steps": 2}, "give steps=1"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_gets_a_sentence(settings: dict[str, object], says: str) -> None:
    """Wrong numbers and names are refused with the allowed values or the nearest name."""
    with pytest.raises(UsageError, match=says):
        make_plan(WHOLE, **settings)


def test_a_map_is_asked_only_for_what_it_learned() -> None:
    """A solver on a consistency model, or a jump of a diffusion model, is a sentence and not noise."""
    edge, diagonal = bundle("edge"), bundle("diagonal")
    with pytest.raises(UsageError, match=r"needs the diagonal.*learned the edge only; use sampler=renoise"):
        make_plan(edge, solver="euler", steps=10)
    with pytest.raises(UsageError, match="needs the triangle"):
        make_plan(edge, sampler="chain", steps=2)
    with pytest.raises(UsageError, match=r"needs the edge.*use solver=euler"):
        make_plan(diagonal, sampler="chain")
    assert collect(edge, make_plan(edge, n=2, sampler="chain", steps=1)).calls == 1
    assert collect(edge, make_plan(edge, n=2, steps=3)).raw.shape == (2, 1, 8, 8)
    assert collect(diagonal, make_plan(diagonal, n=2, steps=3)).raw.shape == (2, 1, 8, 8)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_draws_clean_samples_on_the_grid_that_suits_it(solver: str) -> None:
    """From the model's diagonal, at a call for each step and stage, the same again, and in whichever company."""
    plan = make_plan(WHOLE, n=3, steps=4, solver=solver)
    samples = collect(WHOLE, plan)
    assert samples.calls in (4, 7, 10)
    assert torch.equal(collect(WHOLE, make_plan(WHOLE, n=20, steps=4, solver=solver)).raw[:3], samples.raw)
    seeded = collect(WHOLE, make_plan(WHOLE, n=3, steps=4, solver=solver, seed=1))
    assert not torch.equal(seeded.raw, samples.raw)


def test_steps_lie_on_a_clock_that_suits_the_path_of_the_map() -> None:
    """That of the straight path, unless the map's own is made for it; whatever path is walked on; jumps get shorter."""
    for path in (None, "edm", "decoding"):
        assert make_plan(WHOLE, steps=4, path=path).grid == "straight"
    decoding = bundle("diagonal", "edge", "triangle", path="decoding")
    jumps, even = (
        tuple(grid_ratios(name, 4, decoding.flow_map.path)[:-1].tolist()) for name in ("quadratic", "uniform")
    )
    for path in (None, "linear"):
        assert make_plan(decoding, steps=4, path=path).grid == jumps
        assert make_plan(decoding, steps=4, path=path, solver="euler").grid == even
    assert make_plan(decoding, steps=4, grid="karras").grid == "karras"


def test_a_grid_may_be_given_as_noise_ratios() -> None:
    """The grid's own ratios, with the 0 at the end or without, give what its name gives."""
    named = collect(WHOLE, make_plan(WHOLE, n=3, steps=3, grid="straight")).raw
    ratios = grid_ratios("straight", 3, WHOLE.flow_map.path).tolist()
    for given in (ratios, ratios[:-1]):
        assert torch.equal(collect(WHOLE, make_plan(WHOLE, n=3, steps=3, grid=given)).raw, named)


def test_a_class_of_a_model_without_classes_is_refused() -> None:
    """Asking for a class where none were learned is a sentence."""
    nameless = bundle("edge", classes=())
    with pytest.raises(UsageError, match="without classes"):
        make_plan(nameless, label="cat")


def test_guidance_needs_dropped_classes() -> None:
    """A model that never saw a sample without its class, or never one with it, is not guided; nor is nothing confined."""
    certain, blind = (
        dataclasses.replace(WHOLE, card=dataclasses.replace(WHOLE.card, drop_label=share)) for share in (0.0, 1.0)
    )
    for model, says in ((certain, "saw every sample with its class"), (blind, "saw no sample with its class")):
        with pytest.raises(UsageError, match=says):
            make_plan(model, guidance=2.0)
    with pytest.raises(UsageError, match="confines guidance, and there is none"):
        make_plan(WHOLE, interval=[0.2, 5.0])
    assert collect(certain, make_plan(certain, n=2, guidance=1.0)).calls == 1
