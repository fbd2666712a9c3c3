"""The path of what is bright is exact, and the network that sees motion does see it."""

import functools
import math
import pytest
import torch

from cm_multimodal.evaluation.frechet import frechet_distance
from cm_multimodal.modality import Dataset
from cm_multimodal.random import Draws
from modalities.image.data import load
from modalities.video import motion
from modalities.video.motion import MotionJudge, centres, speeds
from modalities.video.moving import Motion, moving

DIGITS = load({"name": "digits"})
COUNT, FRAMES, SIDE = 400, 6, 14


@functools.cache
def clips(seed: int, count: int) -> Dataset:
    """Returns moving digits; those of seed 0 show training digits, all others test digits."""
    part = DIGITS.train if seed == 0 else DIGITS.test
    raw, which = moving(part.raw[:, 0], Draws(seed, torch.arange(count)), Motion(FRAMES, SIDE))
    return Dataset(raw, part.label[which[:, 0]], classes=part.classes)


@pytest.fixture(scope="module")
def judge() -> MotionJudge:
    """A network after a few updates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(motion, "UPDATES", 80)
        return MotionJudge(clips(0, 1400))


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training ends after three updates."""
    monkeypatch.setattr(motion, "UPDATES", 3)


def dot(*places: tuple[int, int], channels: int = 1) -> torch.Tensor:
    """Returns a clip, with shape (1, T, C, 16, 16), of one bright pixel at some places."""
    raw = torch.zeros(1, len(places), channels, 16, 16, dtype=torch.uint8)
    for time, (row, column) in enumerate(places):
        raw[0, time, :, row, column] = 255
    return raw


def right(raw: torch.Tensor) -> torch.Tensor:
    """Says which clips end to the right of their start."""
    path = centres(raw)
    return (path[:, -1, 1] - path[:, 0, 1]) > 1


def test_the_centre_is_where_the_light_is() -> None:
    """A dot's is its place, that of two dots their mean by brightness, that of darkness the middle, whatever the colours."""
    raw = dot((3, 5), (15, 0), (2, 2), channels=3)
    raw[0, 1, :, 3, 0] = 85
    raw[0, 0, :, 12:] = 60
    raw[0, 2] = 60
    assert centres(raw)[0].flatten().tolist() == pytest.approx([3, 5, 12, 0, 7.5, 7.5])
    assert torch.equal(centres(raw[:, :, :1]), centres(raw))


def test_speeds_are_exact() -> None:
    """In pixels a frame: three down and four right are five; the speed of one frame is no number."""
    assert speeds(dot((0, 0), (3, 4), (6, 8))).tolist() == [5]
    assert speeds(dot((4, 4), (4, 4), (4, 6))).tolist() == [1]
    assert speeds(dot((4, 4))).isnan().all()


def test_it_tells_class_direction_and_speed(judge: MotionJudge) -> None:
    """Of clips of digits that it never saw, far better than by chance (0.1, 0.125 and 0.33)."""
    told = judge.accuracies(clips(1, COUNT))
    assert told.label > 0.5
    assert told.direction > 0.6
    assert told.speed > 0.6


def test_other_motion_of_real_pictures_is_far(judge: MotionJudge) -> None:
    """Many times as far from real clips as other real clips are, though every frame of them is real."""
    other, order = clips(2, COUNT).raw, torch.argsort(Draws(0, torch.arange(COUNT)).uniform("order", (FRAMES,)), dim=1)
    spoilt = {
        "real": other,
        "shuffled": other[torch.arange(COUNT)[:, None], order],
        "frozen": other[:, :1].expand(-1, FRAMES, -1, -1, -1),
        "mixed": torch.stack([other[:, time].roll(time, 0) for time in range(FRAMES)], dim=1),
    }
    seen = judge.features(clips(1, COUNT).raw)
    far = {how: frechet_distance(judge.features(raw), seen) for how, raw in spoilt.items()}
    assert far["shuffled"] > 5 * far["real"]
    assert min(far["frozen"], far["mixed"]) > 20 * far["real"]


def test_it_tells_forwards_from_backwards(judge: MotionJudge) -> None:
    """Backwards, it names other directions, and clips to the right are far from real clips to the right.

    Of clips to all sides it could not be so: moving digits move backwards as they do forwards.
    """
    real, other = (part.raw[right(part.raw)] for part in (clips(1, COUNT), clips(2, COUNT)))
    seen = judge.features(real)
    forwards, backwards = (frechet_distance(judge.features(raw), seen) for raw in (other, other.flip(1)))
    assert backwards > 8 * forwards
    told = [judge.net(raw)[1].argmax(dim=1) for raw in (other, other.flip(1))]
    assert (told[0] == told[1]).double().mean() < 0.05


@pytest.mark.usefixtures("brief")
def test_the_same_clips_give_the_same_network() -> None:
    """Bit for bit, whatever the random state, the number of threads and the mode around it, all of which it leaves alone."""
    threads, found = torch.get_num_threads(), []
    try:
        for seed, count in ((0, 1), (1, 2)):
            torch.manual_seed(seed)
            torch.set_num_threads(count)
            before = torch.get_rng_state()
            with torch.inference_mode(bool(seed)):
                made = MotionJudge(clips(0, 100))
                found.append((made.digest, made.features(clips(1, 20).raw)))
            assert torch.equal(torch.get_rng_state(), before)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    (digest, first), (again, second) = found
    assert digest == again
    assert torch.equal(first, second)


@pytest.mark.usefixtures("brief")
def test_other_clips_or_seeds_give_another_network() -> None:
    """The digest tells them apart; features are 64 numbers, whatever the batch."""
    made = [MotionJudge(clips(0, 100)), MotionJudge(clips(1, 100)), MotionJudge(clips(0, 100), seed=1)]
    assert len({each.digest for each in made}) == 3
    whole = made[0].features(clips(1, COUNT).raw)
    assert whole.shape == (COUNT, 64)
    assert whole.dtype == torch.float64
    assert torch.allclose(made[0].features(clips(1, COUNT).raw[390:]), whole[390:], atol=1e-5)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("shape", [(1, 2, 1, 5, 7), (3, 9, 3, 40, 24), (2, 4, 1, 1, 1)], ids=str)
def test_any_clips_are_enough(shape: tuple[int, ...]) -> None:
    """Without classes, too, of any size, and where all stand still."""
    made = MotionJudge(Dataset(torch.full(shape, 90, dtype=torch.uint8)))
    assert sum(weight.numel() for weight in made.net.parameters()) < 200_000
    told = made.accuracies(Dataset(torch.full(shape, 90, dtype=torch.uint8)))
    assert math.isnan(told.label)
    assert math.isnan(told.direction)
    assert made.features(torch.zeros(shape, dtype=torch.uint8)).isfinite().all()
