"""The measures of clips are exact where there is a closed form, and tell real clips from those that fail in a known way."""

import functools
import math
import numpy as np
import pytest
import torch

from cm_multimodal.errors import UsageError
from cm_multimodal.modality import Dataset, Splits
from cm_multimodal.random import Draws, permutation
from collections.abc import Iterator
from modalities.image.data import load
from modalities.video import motion
from modalities.video.metrics import BY_TRAIN, MEASURES, centred, features, measure, psnr, ssim, vectors
from modalities.video.moving import Motion, moving
from sklearn.svm import SVC

DIGITS = load({"name": "digits"})
COUNT, FRAMES, SIDE = 300, 8, 16


@functools.cache
def clips(seed: int, count: int = COUNT) -> Dataset:
    """Returns moving digits; those of seed 0 show training digits, all others test digits."""
    part = DIGITS.train if seed == 0 else DIGITS.test
    raw, which = moving(part.raw[:, 0], Draws(seed, torch.arange(count)), Motion(FRAMES, SIDE))
    return Dataset(raw, part.label[which[:, 0]], classes=part.classes)


@functools.cache
def real() -> Splits:
    return Splits(clips(0, 1400), clips(1))


@pytest.fixture(scope="module", autouse=True)
def _brief() -> Iterator[None]:
    """The network that sees motion is trained by a few updates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(motion, "UPDATES", 30)
        yield


def dots(*paths: list[tuple[int, int]], side: int = SIDE) -> Dataset:
    """Returns clips of one bright pixel at some places."""
    raw = torch.zeros(len(paths), len(paths[0]), 1, side, side, dtype=torch.uint8)
    for clip, path in enumerate(paths):
        for time, (row, column) in enumerate(path):
            raw[clip, time, 0, row, column] = 255
    return Dataset(raw)


def value(name: str, samples: Dataset, others: Dataset) -> float:
    """Returns a measure of dots beside others."""
    return measure(name, samples, Splits(others, others))


@functools.cache
def changed(how: str) -> Dataset:
    """Returns real clips that nobody was fitted to, as a generator spoils them."""
    part = clips(2)
    count, raw = len(part), part.raw
    fade = torch.linspace(1, 0.3, FRAMES)[:, None, None, None]
    order = torch.argsort(Draws(0, torch.arange(count)).uniform("order", (FRAMES,)), dim=1)
    places = (Draws(0, torch.arange(count)).uniform("places", (FRAMES, 2)) * 8).long()
    still = centred(raw.flatten(0, 1), (8, 8)).unflatten(0, (count, FRAMES))
    jumps = torch.zeros_like(raw)
    for clip in range(count):
        for time in range(FRAMES):
            row, column = places[clip, time].tolist()
            jumps[clip, time, :, row : row + 8, column : column + 8] = still[clip, time]
    spoilt = {
        "shuffled": raw[torch.arange(count)[:, None], order],
        "frozen": raw[:, :1].expand(-1, FRAMES, -1, -1, -1),
        "faded": (raw * fade).to(torch.uint8),
        "teleporting": jumps,
        "slow": raw.repeat_interleave(2, dim=1)[:, :FRAMES],  # each frame twice
        "changing": torch.cat([raw[:, : FRAMES // 2], raw.roll(1, 0)[:, FRAMES // 2 :]], dim=1),
        "noisy": (raw + 60 * Draws(0, torch.arange(count)).noise("grey", raw.shape[1:])).clamp(0, 255).to(torch.uint8),
    }
    label = part.label[permutation(0, "label", count)] if how == "mislabelled" else part.label
    return Dataset(spoilt.get(how, raw), label, classes=part.classes)


STRAIGHT = dots([(3 + time, 1 + 2 * time) for time in range(6)])
THROUGH = [(5, column) for column in (1, 4, 7, 10, 13, 15, 12, 9, 6)]
MIDWAY = [(5, column) for column in (1, 3, 5, 7, 9, 7, 5, 3, 1)]


def test_a_dot_in_uniform_motion_is_perfect() -> None:
    """Twice as fast as another one, without acceleration, flicker or change of mass; it goes straight."""
    slower = dots([(3, 1 + time) for time in range(6)], [(3, 1 + time) for time in range(6)])
    twice = dots([(3, 1 + 2 * time) for time in range(6)])
    assert value("speed", twice, slower) == pytest.approx(2)
    assert value("speed", STRAIGHT, slower) == pytest.approx(math.sqrt(5))
    bouncing = dots(THROUGH)
    assert value("acceleration", STRAIGHT, bouncing) == 0
    for name in ("flicker", "mass", "still"):
        assert value(name, STRAIGHT, STRAIGHT) == 0
    assert value("bounce", STRAIGHT, STRAIGHT) == 1


def test_spread_is_that_of_the_speeds_of_clips() -> None:
    """Speeds of 1 and 3 spread twice as much as those of 1 and 2."""
    paths = {speed: [(0, speed * time) for time in range(4)] for speed in (1, 2, 3)}
    assert value("spread", dots(paths[1], paths[3]), dots(paths[1], paths[2])) == pytest.approx(2)


def test_acceleration_is_a_mean_over_frames() -> None:
    """Of steps 2, 2, -2, -2 one of three changes by 4."""
    turning, steady = dots([(0, c) for c in (11, 13, 15, 13, 11)]), dots([(0, c) for c in (0, 1, 3, 6, 10)])
    assert value("acceleration", turning, steady) == pytest.approx((4 / 3) / 1)


@pytest.mark.parametrize(("path", "goes"), [
    (THROUGH, 1), (MIDWAY, 0), ([(row, 15 - row) for row in (1, 4, 7, 10, 13)], 1),
    ([(1, 5), (3, 5), (1, 5), (3, 5), (1, 5)], 0), ([(1, 5), (1, 14), (2, 5), (1, 14), (2, 5)], 0),
])  # fmt: skip
def test_a_dot_turns_at_walls_only(path: list[tuple[int, int]], goes: float) -> None:
    """At a wall it may turn back from it, in the middle it may not, nor may it turn towards a wall, or leap."""
    assert value("bounce", dots(path), dots(THROUGH)) == goes


def test_walls_are_told_apart() -> None:
    """A dot along the upper wall may not turn sideways far from the left one and from the right one."""
    assert value("bounce", dots([(0, column) for _, column in MIDWAY]), dots(MIDWAY)) == 0


def test_flicker_is_per_bright_pixel_after_the_best_shift() -> None:
    """A dot that moves by three has none, one by four all of it; one that pales by a half has half of it."""
    assert value("flicker", dots([(0, 0), (3, 3)]), STRAIGHT) == 0
    assert value("flicker", dots([(0, 0), (0, 4)]), STRAIGHT) == pytest.approx(2)
    pale = dots([(8, 8), (9, 8)])
    pale.raw[:, 1] //= 2
    assert value("flicker", pale, STRAIGHT) == pytest.approx(128 / 255)
    assert value("mass", pale, STRAIGHT) == pytest.approx(64 / 191)
    border = dots([(0, 0), (0, 1)])
    border.raw[:, 0, :, 15, 15] = 255
    assert value("flicker", border, STRAIGHT) == pytest.approx(1 / 1.5)


REAL = {
    "speed": (0.9, 1.1), "spread": (0.9, 1.1), "acceleration": (0.9, 1.1), "bounce": (0.97, 1), "mass": (0, 0.001),
    "flicker": (0, 0.001), "still": (0, 0.02), "digit": (0.97, 1), "identity": (0.97, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_clips_score_as_real_ones(name: str) -> None:
    """Those of the test digits that nobody was fitted to."""
    low, high = REAL[name]
    assert low <= measure(name, changed("real"), real()) <= high


@pytest.mark.parametrize(("name", "how", "low", "high"), [
    ("speed", "frozen", 0, 0.01), ("speed", "shuffled", 1.3, 9), ("speed", "slow", 0.4, 0.6),
    ("spread", "frozen", 0, 0.01), ("acceleration", "frozen", 0, 0.01), ("acceleration", "shuffled", 3, 99),
    ("bounce", "shuffled", 0, 0.5), ("bounce", "teleporting", 0, 0.2),
    ("mass", "faded", 0.3, 1), ("mass", "changing", 0.05, 1), ("flicker", "faded", 0.05, 1),
    ("flicker", "teleporting", 0.2, 2), ("flicker", "changing", 0.05, 1),
    ("still", "frozen", 1, 1), ("still", "slow", 0, 0.1),
    ("identity", "changing", 0.5, 0.6), ("digit", "changing", 0.5, 0.62), ("digit", "mislabelled", 0.02, 0.2),
    ("identity", "mislabelled", 0.97, 1), ("digit", "noisy", 0.1, 0.97), ("identity", "noisy", 0.2, 0.97),
])  # fmt: skip
def test_what_fails_shows(name: str, how: str, low: float, high: float) -> None:
    """Each measure sees the failures that it is for."""
    assert low <= measure(name, changed(how), real()) <= high


@pytest.mark.parametrize("name", ["motion", "motion_kernel"])
@pytest.mark.parametrize("how", ["frozen", "shuffled"])
def test_distances_see_motion(name: str, how: str) -> None:
    """Clips of real frames that do not move as real ones do are far from those."""
    near = measure(name, changed("real"), real())
    assert measure(name, changed(how), real()) > 10 * abs(near) + 0.001


def test_what_was_learned_by_heart_is_near() -> None:
    """The ratio is that of the nearest training clip's mean squared error; a copy has a hundred decibels."""
    some = Dataset(clips(0).raw[5:7])
    assert measure("nearest", some, real()) == pytest.approx(100)
    grey = Dataset(torch.where(some.raw < 128, some.raw + 51, some.raw - 51))
    train = Dataset(torch.cat([some.raw, 255 - some.raw]))
    assert measure("nearest", grey, Splits(train, train)) == pytest.approx(20 * math.log10(5), abs=1e-3)
    assert measure("nearest", changed("real"), real()) < 25


def test_what_does_not_apply_is_no_number() -> None:
    """Classes without classes, motion of one frame; all is a number of clips that are black all over."""
    single = Dataset(clips(2).raw[:9, :1], clips(2).label[:9], classes=clips(2).classes)
    of_time = {"speed", "spread", "acceleration", "bounce", "flicker", "still", "motion", "motion_kernel"}
    assert {name for name in MEASURES if math.isnan(measure(name, single, Splits(single, single)))} == of_time
    plain = Splits(Dataset(clips(0).raw), Dataset(clips(1).raw))
    assert math.isnan(measure("digit", clips(2), plain))
    assert math.isnan(measure("identity", clips(2), plain))
    assert math.isnan(measure("digit", Dataset(clips(2).raw), real()))
    black = Dataset(torch.zeros(9, FRAMES, 1, SIDE, SIDE, dtype=torch.uint8), torch.zeros(9, dtype=torch.int64))
    assert {name for name in MEASURES if math.isnan(measure(name, black, real()))} == {"mass"}
    assert measure("still", black, real()) == 1


def test_only_what_is_fitted_to_training_clips_is_by_train() -> None:
    """The names are measures; real training clips would look better to these than they are."""
    assert {"digit", "identity", "nearest"} == BY_TRAIN
    assert MEASURES.keys() > BY_TRAIN


def test_frames_are_centred_by_whole_pixels() -> None:
    """The same picture, wherever it lies, gives the same window; what lies outside the frame is dark."""
    picture = DIGITS.train.raw[:20]
    frames = torch.zeros(3, 20, 1, SIDE, SIDE, dtype=torch.uint8)
    for index, (row, column) in enumerate([(0, 0), (8, 5), (3, 8)]):
        frames[index, :, :, row : row + 8, column : column + 8] = picture
    windows = [centred(part, (SIDE, SIDE)) for part in frames]
    assert torch.equal(windows[0], windows[1])
    assert torch.equal(windows[0], windows[2])
    assert torch.equal(windows[0].sum(dim=(1, 2, 3)), picture.sum(dim=(1, 2, 3)))
    assert torch.equal(centred(frames[0], (8, 8)), windows[0][:, :, 4:12, 4:12])


def test_a_classifier_recognises_digits_by_vectors() -> None:
    """Fitted to moving training digits it names moving test digits; the vectors know the path, too, but not the place."""
    seen, others = vectors(real().train.raw), vectors(clips(2).raw)
    assert seen.shape == (1400, SIDE * SIDE + 2 * FRAMES)
    assert SVC(C=10).fit(seen, real().train.label).score(others, clips(2).label) >= 0.97
    moved = torch.zeros(5, FRAMES, 1, 2 * SIDE, 2 * SIDE, dtype=torch.uint8)
    moved[..., 3 : 3 + SIDE, 7 : 7 + SIDE] = clips(2).raw[:5]
    again = torch.zeros_like(moved)
    again[..., 9 : 9 + SIDE, 1 : 1 + SIDE] = clips(2).raw[:5]
    assert np.allclose(vectors(moved), vectors(again), atol=1e-6)
    assert not np.allclose(vectors(clips(2).raw[:5]), vectors(clips(2).raw[:5].flip(1)), atol=0.1)


def test_features_tell_all_frames() -> None:
    """In eight by eight cells, as large as they are where a frame is smaller; names that there are not are a sentence."""
    raw = clips(1).raw
    found = features(raw, {})
    assert found.shape == (COUNT, FRAMES * 64)
    assert found.dtype == torch.float64
    cell = raw[7, 3, 0, 4:6, 10:12].double().mean() / 127.5
    assert float(found[7, 3 * 64 + 2 * 8 + 5]) == pytest.approx(float(cell), abs=1e-6)
    small = raw[:, :, :, :5, :3].contiguous()
    assert torch.allclose(features(small, {"features": "frames"}) * 127.5, small.flatten(1).double())
    with pytest.raises(UsageError, match="did you mean 'frames'"):
        features(raw, {"features": "frame"})
    with pytest.raises(UsageError, match=r"also=\[motion,motion_kernel\]"):
        features(raw, {"features": "motion"})


def test_predictions_are_judged_by_the_frames_not_given() -> None:
    """An error of a tenth is 20 dB; frames that were given count for nothing."""
    truth = clips(1).raw[:20] // 2
    given = torch.arange(FRAMES) < 4
    wrong = truth.clone()
    wrong[:, :4] = 0
    assert psnr(wrong, truth, given) == math.inf
    assert ssim(wrong, truth, given) == pytest.approx(1)
    wrong[:, 4:] += 51
    assert psnr(wrong, truth, given) == pytest.approx(-20 * math.log10(51 / 255), abs=1e-3)
    assert ssim(wrong, truth, given) < 0.9
    each = torch.rand(20, FRAMES, generator=torch.Generator().manual_seed(0)) < 0.5
    assert psnr(torch.where(each[:, :, None, None, None], 0, truth), truth, each) == math.inf
    with pytest.raises(UsageError, match="All frames were given"):
        psnr(truth, truth, torch.ones(FRAMES))


@pytest.mark.parametrize("size", [(8, 8), (12, 12), (64, 48)])
def test_similarity_falls_as_pictures_move_away(size: tuple[int, int]) -> None:
    """In frames of any size: 1 for the same, less by a pixel, and less still by two."""
    x = torch.linspace(0, 2, size[0])[:, None] + torch.linspace(0, 3, size[1])
    truth = (127 + 120 * x.sin()).to(torch.uint8).expand(2, 3, 1, *size)
    none = torch.zeros(3)
    found = [ssim(truth.roll(shift, -1), truth, none) for shift in (0, 1, 2)]
    assert found[0] == pytest.approx(1)
    assert 1 > found[1] > found[2]
