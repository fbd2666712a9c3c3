r"""How near anyone can come to frames of moving digits that are not shown: the data's own law, by counting.

    python benchmarks/moving_limit.py [--clips 2000] [--walks 4000000]

A picture is drawn at the whole part of its place, so that clips which agree in the frames shown may part ways later.
Of many walks those that agree with a clip in these are draws from what may follow: a perfect sampler returns one of them. It
and the truth are of one law and independent, so that the mean squared error of the mean of all draws, the smallest there is,
is half that of a draw. Both are printed as peak signal-to-noise ratios, in decibels, beside that of the nearest frame shown,
for `cmm edit how=predict` and `how=fill`.
"""

import argparse
import math
import torch

from cm_multimodal.random import Draws
from collections.abc import Sequence
from modalities.image.data import load
from modalities.video.edit import copied, given
from modalities.video.moving import Motion, places
from torch import Tensor

MOTION = Motion(frames=8, size=16)
SIDE = 8
DRAWN = 16  # draws of a clip


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each kind of editing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--walks", type=int, default=4_000_000)
    args = parser.parse_args(argv)
    paths, true = walks(0, args.walks), walks(1, args.clips)
    pictures = load({"name": "digits"}).test.raw[:, 0].float() / 255
    shown = pictures[torch.randint(len(pictures), (args.clips,), generator=torch.Generator().manual_seed(0))]
    for how in ("predict", "fill"):
        met, ratios = limits(how, paths, true, shown)
        print(
            f"{how}: "
            + ", ".join(f"{name} {value:.2f}" for name, value in ratios.items())
            + f"; {met:.1%} of clips met"
        )


def walks(seed: int, n: int) -> Tensor:
    """Returns where pictures are drawn, with shape (n, frames, 2)."""
    room = (MOTION.size - SIDE, MOTION.size - SIDE)
    return places(Draws(seed, torch.arange(n)), MOTION, room)[:, 0].long()


def limits(how: str, paths: Tensor, true: Tensor, pictures: Tensor) -> tuple[float, dict[str, float]]:
    """Returns the share of clips that walks agree with, and the ratios, in decibels, of copies, draws and their mean."""
    known = given(how, MOTION.frames)
    code, wanted = _code(paths[:, known]), _code(true[:, known])
    order = code.argsort()
    begin, end = (torch.searchsorted(code[order], wanted, right=right) for right in (False, True))
    met = end > begin
    if not met.any():
        raise SystemExit("No walk agrees with any clip: give more --walks.")
    begin, end, true, pictures = begin[met], end[met], true[met], pictures[met]
    real, generator, error = clips(true, pictures), torch.Generator().manual_seed(1), 0.0
    for _ in range(DRAWN):
        chosen = order[begin + (torch.rand(len(begin), generator=generator) * (end - begin)).long()]
        error += float((clips(paths[chosen], pictures) - real)[:, ~known].square().mean()) / DRAWN
    copies = float((copied(real, known) - real)[:, ~known].square().mean())
    errors = {"copies": copies, "draws": error, "their mean": error / 2}
    return float(met.double().mean()), {name: -10 * math.log10(value) for name, value in errors.items()}


def clips(paths: Tensor, pictures: Tensor) -> Tensor:
    """Returns frames in [0, 1], with shape (N, frames, size, size), in which pictures lie where paths say."""
    frames = torch.zeros(len(paths), MOTION.frames, MOTION.size, MOTION.size)
    rows, columns = (paths[..., axis, None] + torch.arange(SIDE) for axis in (0, 1))
    clip, frame = torch.arange(len(paths))[:, None, None, None], torch.arange(MOTION.frames)[:, None, None]
    frames[clip, frame, rows[..., :, None], columns[..., None, :]] = pictures[:, None]
    return frames


def _code(paths: Tensor) -> Tensor:
    """Returns a number for each path, with shape (N,): equal ones for equal paths."""
    digits = paths.flatten(1)
    return (digits * MOTION.size ** torch.arange(digits.shape[1])).sum(dim=1)


if __name__ == "__main__":
    main()
