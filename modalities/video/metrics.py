r"""Features for distances between sets of clips, what the classifier of the accuracy score sees, and measures of clips.

They are made for clips of a bright thing, or several, on a dark ground. Intensities f lie between 0 and 1, the mean of the
colours; \(c_k\) is the centre of mass of frame k (`motion.py`), \(d_k = c_{k+1} - c_k\), and a ratio is that to the same
number of the test clips.

speed          mean of the lengths of all d_k over a clip, mean over clips; ratio                        as real: 1
spread         standard deviation over clips of the mean speed in a clip; ratio                          1
acceleration   mean length of d_k - d_{k-1}; ratio                                                       1
bounce         share of clips that go straight, or turn only where a wall is (below)                     as real clips
mass           coefficient of variation of the total intensity over the frames of a clip, mean           as real clips
flicker        mean difference of a frame and the next one, moved to where it fits best (below)          as real clips
still          share of clips that are slower than a quarter of the median of the test clips             as real clips
digit          share of frames whose class is named right                                                higher
identity       share of frames that are named as the most frequent class in their clip                   higher
nearest        peak signal-to-noise ratio to the training clip that is nearest, in decibels, mean       low; by heart: high
motion         Fréchet distance to the test clips on the network's features (`motion.py`)                lower
motion_kernel  kernel distance to them on the same features                                              lower

A generator of few steps fails by standing still first: `still` rises and `speed` falls while single frames look well. None
of the numbers stands alone: a frozen clip has perfect mass, flicker and identity.

**bounce**  A clip goes wrong at frame k if, along an axis, \(|d_k - d_{k-1}|\) exceeds `STRAIGHT` (a pixel, as what moves is
drawn at whole pixels, and half of one for what is drawn badly), unless it is pushed away from a wall that is near in one of
the frames k-1, k and k+1: the box around the pixels brighter than a quarter ends within a fifth of the side from it, as
pictures have a dark border of their own. And it goes wrong where a step along an axis is more than half a pixel longer than
the longest one in the test clips.

**flicker**  \(\min_u \sum_x |f_{k+1}(x + u) - f_k(x)|\) over the displacements u of whole pixels, up to three each way,
with darkness all around; per foreground pixel, of which there are as many as are brighter than a quarter in the mean of
both frames, one at least.

**digit, identity**  Frames are named by support vectors (C = 10) that are fitted to one frame of each real training clip, of
ten thousand clips at most. They see a frame in a window around its centre of mass, in whole pixels, as large as 99.9 % of
the light of real frames needs.

References:
    | Moving MNIST and its motion: Unsupervised Learning of Video Representations using LSTMs (Srivastava et al., 2015)
"""

__all__ = ["BY_TRAIN", "MEASURES", "centred", "extractor", "features", "measure", "psnr", "ssim", "vectors"]

import math
import numpy as np
import torch

from cm_multimodal.errors import UsageError, nearest
from cm_multimodal.evaluation.frechet import frechet_distance
from cm_multimodal.evaluation.measures import kernel_distance
from cm_multimodal.judge import Judge
from cm_multimodal.modality import Dataset, Splits
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from typing import Any

from . import i3d
from .motion import BRIGHT, MotionJudge, centres, light_of, speeds

EXTRACTORS = ("frames", "i3d")
LEARNED = ("motion", "motion_kernel")
CELLS = 8  # of a frame's side, at most, that features tell of
CHUNK = 256  # clips at a time
STRAIGHT, LONGER, NEAR = 1.5, 0.5, 0.2  # pixels, pixels, share of a side
REACH = 3  # pixels
STILL = 0.25
LIGHT = 0.999  # the share of it that a window holds
FITTED_TO = 10_000  # frames
LEAST_ERROR = 1e-10  # 100 decibels
SIGMA, SIGMA_SIDE = 1.5, 32  # of the window of structural similarity, in pixels: smaller in smaller frames


def features(raw: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Returns features, with shape (N, D), in float64: what all frames show, in 8x8 cells at most, in 0-2 units.

    Arguments:
        raw: Clips with shape (N, T, C, H, W), in uint8.
        config: `features`: 'frames', or 'i3d', of which `feature_weights` is the file of its network, and `root`.

    Raises:
        UsageError: There are no such features, or not of such clips.
    """
    if _name(config) == "i3d":
        return i3d.embeddings(raw, i3d.network_of(config))
    size = min(raw.shape[-2], CELLS), min(raw.shape[-1], CELLS)
    parts = [F.adaptive_avg_pool2d(part.flatten(1, 2).float(), size).flatten(1) for part in raw.split(CHUNK)]
    return torch.cat(parts).double() / 127.5


def extractor(config: Mapping[str, Any]) -> str:
    """Returns the name of the features, with a checksum of the file that they come from."""
    name = _name(config)
    return f"{name}, network {i3d.network_of(config).digest}" if name == "i3d" else name


def _name(config: Mapping[str, Any]) -> str:
    name = str(config.get("features") or "frames")
    if name in LEARNED:
        raise UsageError(f"The features '{name}' are learned from training clips; type 'also=[{','.join(LEARNED)}]'.")
    if name not in EXTRACTORS:
        raise UsageError(f"There are no features '{name}'; {nearest(name, EXTRACTORS)}")
    return name


def vectors(raw: Tensor) -> np.ndarray:
    """Returns the mean of a clip's frames, centred, in [0, 1], and its path from its start, in sides of the frame.

    Arguments:
        raw: Clips with shape (N, T, C, H, W), in uint8.

    Returns:
        An array with shape (N, C * H * W + 2 * T).
    """
    size = (raw.shape[-2], raw.shape[-1])
    parts = [centred(part.flatten(0, 1), size).unflatten(0, part.shape[:2]) for part in raw.split(CHUNK)]
    shown = torch.cat([part.float().mean(dim=1).flatten(1) / 255 for part in parts])
    path = centres(raw)
    path = (path - path[:, :1]) / torch.tensor(size)
    return torch.cat([shown, path.float().flatten(1)], dim=1).numpy()


def centred(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns windows around the centres of mass, in whole pixels, with shape (M, C, *size); outside, all is dark.

    Arguments:
        frames: Frames with shape (M, C, H, W), in uint8.
        size: The height and the width of the windows.
    """
    middle = centres(frames[:, None])[:, 0]
    corner = (middle - (torch.tensor(size) - 1) / 2 + 0.5).floor().long()
    grids = [corner[:, axis, None] + torch.arange(size[axis]) for axis in (0, 1)]
    there = [(grid >= 0) & (grid < side) for grid, side in zip(grids, frames.shape[-2:], strict=True)]
    rows, columns = (grid.clamp(0, side - 1) for grid, side in zip(grids, frames.shape[-2:], strict=True))
    seen = frames[torch.arange(len(frames))[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
    return seen * (there[0][:, :, None] & there[1][:, None, :])[:, None]


def psnr(raw: Tensor, real: Tensor, given: Tensor) -> float:
    """Returns the peak signal-to-noise ratio of all frames that were not given together, in decibels.

    It is that of their mean squared error: a mean of the ratios of single frames would be infinite where one is perfect.

    Arguments:
        raw: Clips with shape (N, T, C, H, W), in uint8.
        real: What they should be, with the same shape.
        given: Ones for frames that were given, with shape (T,) or (N, T).
    """
    return float(peak_signal_noise_ratio(*_free(raw, real, given), data_range=1.0))


def ssim(raw: Tensor, real: Tensor, given: Tensor) -> float:
    """Returns the mean structural similarity of the frames that were not given, at most 1.

    Its Gaussian window has a deviation of 1.5 pixels, as usual, in frames from 32 pixels on, and in smaller ones a
    proportional one, so that it fits.

    Arguments:
        raw: Clips with shape (N, T, C, H, W), in uint8.
        real: What they should be, with the same shape.
        given: Ones for frames that were given, with shape (T,) or (N, T).
    """
    sigma = SIGMA * min(1.0, min(raw.shape[-2:]) / SIGMA_SIDE)
    found = structural_similarity_index_measure(*_free(raw, real, given), sigma=sigma, data_range=1.0)
    return float(torch.as_tensor(found))


def _free(raw: Tensor, real: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the frames that were not given, and what they should be, with shape (M, C, H, W), in [0, 1]."""
    free = ~given.bool().expand(raw.shape[:2])
    if not free.any():
        raise UsageError("All frames were given: there is nothing to hold a prediction against.")
    return raw[free].float() / 255, real[free].float() / 255


def _over(each: Callable[[Tensor], Tensor], raw: Tensor) -> Tensor:
    """Returns what a function gives of clips, with shape (N,), for some of them at a time."""
    return torch.cat([each(part) for part in raw.split(CHUNK)])


def _ratio(number: Callable[[Tensor], Tensor]) -> Callable[[Dataset, Splits], float]:
    def measure(samples: Dataset, real: Splits) -> float:
        return float(number(samples.raw) / (float(number(real.test.raw)) or math.nan))

    return measure


def _acceleration(raw: Tensor) -> Tensor:
    return centres(raw).diff(n=2, dim=1).norm(dim=2).mean()


def _near(raw: Tensor) -> Tensor:
    """Says of each frame whether what is bright ends near the two walls of each axis, with shape (N, T, 2 axes, 2 walls)."""
    bright = light_of(raw) > BRIGHT
    found = []
    for other in (3, 2):
        lines = bright.any(dim=other)
        reach = math.floor(lines.shape[2] * NEAR) + 1
        found.append(torch.stack([lines[:, :, :reach].any(dim=2), lines[:, :, -reach:].any(dim=2)], dim=2))
    return torch.stack(found, dim=2)


def _bounce(samples: Dataset, real: Splits) -> float:
    if samples.raw.shape[1] < 2:
        return math.nan
    longest = centres(real.test.raw).diff(dim=1).abs().max() + LONGER
    step = centres(samples.raw).diff(dim=1)
    near = torch.cat([_near(part) for part in samples.raw.split(CHUNK)])
    wall = near[:, :-2] | near[:, 1:-1] | near[:, 2:]
    turn = step.diff(dim=1)
    pushed = torch.where(turn > 0, wall[..., 0], wall[..., 1])
    wrong = ((turn.abs() > STRAIGHT) & ~pushed).flatten(1).any(dim=1) | (step.abs() > longest).flatten(1).any(dim=1)
    return float((~wrong).double().mean())


def _mass(samples: Dataset, real: Splits) -> float:
    total = _over(lambda part: part.float().sum(dim=(2, 3, 4)), samples.raw)
    varies = total.std(dim=1, correction=0) / total.mean(dim=1)
    return float(varies.nanmean())


def _flickers(raw: Tensor) -> Tensor:
    """Returns the mean flicker of each clip, with shape (N,)."""
    light = F.pad(light_of(raw), (REACH,) * 4)
    before, after = light[:, :-1], light[:, 1:]
    best = torch.full(before.shape[:2], math.inf)
    for down in range(-REACH, REACH + 1):
        for right in range(-REACH, REACH + 1):
            moved = after.roll((down, right), dims=(2, 3))
            best = best.minimum((moved - before).abs().sum(dim=(2, 3)))
    bright = (light > BRIGHT).sum(dim=(2, 3))
    return (best / ((bright[:, :-1] + bright[:, 1:]) / 2).clamp_min(1)).mean(dim=1)


def _flicker(samples: Dataset, real: Splits) -> float:
    return float(_over(_flickers, samples.raw).mean())


def _still(samples: Dataset, real: Splits) -> float:
    if samples.raw.shape[1] < 2:
        return math.nan
    return float((speeds(samples.raw) < STILL * speeds(real.test.raw).median()).double().mean())


def _window(frames: Tensor) -> tuple[int, int]:
    """Returns the height and the width of the smallest windows that hold 99.9 % of the light of frames, (M, C, H, W)."""
    size = (frames.shape[-2], frames.shape[-1])
    light = centred(frames, size).double().sum(dim=(0, 1))
    sides = []
    for along, side in zip((light.sum(dim=1), light.sum(dim=0)), size, strict=True):
        held = [along[cut : side - cut].sum() / along.sum() for cut in range((side + 1) // 2)]
        sides.append(side - 2 * max(sum(bool(share >= LIGHT) for share in held) - 1, 0))
    return sides[0], sides[1]


def _see(size: tuple[int, int], frames: Tensor) -> np.ndarray:
    return centred(frames, size).flatten(1).numpy() / 255.0


@lru_cache(maxsize=2)
def _judge(train: Dataset) -> Judge | None:
    """Returns the judge of frames; none where there are no two classes to tell."""
    if train.label is None or len(train.label.unique()) < 2:
        return None
    pick = torch.linspace(0, len(train) - 1, min(len(train), FITTED_TO)).long()
    frames = train.raw[pick, pick % train.raw.shape[1]]
    return Judge(partial(_see, _window(frames)), Dataset(frames, train.label[pick]))


@lru_cache(maxsize=2)
def _named(samples: Dataset, train: Dataset) -> Tensor | None:
    """Returns the class that each frame is named as, with shape (N, T)."""
    judge = _judge(train)
    if judge is None:
        return None
    names = [judge.fitted.predict(judge.see(part.flatten(0, 1))) for part in samples.raw.split(CHUNK)]
    return torch.from_numpy(np.concatenate(names)).unflatten(0, samples.raw.shape[:2])


def _digit(samples: Dataset, real: Splits) -> float:
    if samples.label is None or (named := _named(samples, real.train)) is None:
        return math.nan
    return float((named == samples.label[:, None]).double().mean())


def _identity(samples: Dataset, real: Splits) -> float:
    if (named := _named(samples, real.train)) is None:
        return math.nan
    return float((named == named.mode(dim=1, keepdim=True).values).double().mean())


def _nearest(samples: Dataset, real: Splits) -> float:
    train = real.train.raw.flatten(1).float() / 255
    found = _over(lambda part: torch.cdist(part.flatten(1).float() / 255, train).argmin(dim=1), samples.raw)
    apart = (samples.raw.double() - real.train.raw[found].double()) / 255  # cdist rounds; a copy has no distance
    error = apart.square().flatten(1).mean(dim=1).clamp_min(LEAST_ERROR)
    return float(-10 * error.log10().mean())


@lru_cache(maxsize=2)
def _motion_judge(train: Dataset) -> MotionJudge:
    return MotionJudge(train)


@lru_cache(maxsize=4)
def _motion_features(part: Dataset, train: Dataset) -> Tensor:
    return _motion_judge(train).features(part.raw)


def _learned(distance: Callable[[Tensor, Tensor], float]) -> Callable[[Dataset, Splits], float]:
    def measure(samples: Dataset, real: Splits) -> float:
        if samples.raw.shape[1] < 2:
            return math.nan
        return distance(_motion_features(samples, real.train), _motion_features(real.test, real.train))

    return measure


MEASURES: dict[str, Callable[[Dataset, Splits], float]] = {
    "speed": _ratio(lambda raw: speeds(raw).mean()),
    "spread": _ratio(lambda raw: speeds(raw).std(correction=0)),
    "acceleration": _ratio(_acceleration),
    "bounce": _bounce,
    "mass": _mass,
    "flicker": _flicker,
    "still": _still,
    "digit": _digit,
    "identity": _identity,
    "nearest": _nearest,
    "motion": _learned(frechet_distance),
    "motion_kernel": _learned(kernel_distance),
}
BY_TRAIN = frozenset({"digit", "identity", "nearest"})


def measure(name: str, samples: Dataset, real: Splits) -> float:
    """Returns one of `MEASURES`; no number where it does not apply, such as that of a class without classes.

    Arguments:
        name: Its name.
        samples: Clips with shape (N, T, C, H, W), in uint8, and their classes, if any.
        real: Real clips of the same shape.
    """
    return MEASURES[name](samples, real)
