r"""Where the bright thing of a clip is, and a small network of our own that sees how it moves.

The centre of mass of a frame f, with intensities from 0 to 1, and what follows from its path, in pixels a frame:

.. math:: c_k = \frac{\sum_x x g_k(x)}{\sum_x g_k(x)}, \quad g_k = f_k [f_k > 1/4], \qquad
    \text{speed} = \tfrac{1}{T-1} \sum_k \lVert c_{k+1} - c_k \rVert, \qquad
    \text{direction} = \angle (c_T - c_1).

What is darker than a quarter weighs nothing: a faint grey all over a frame, which few steps like to leave, would draw the
centre towards the middle and look like slowness (noise of 6 % on frames of 16 pixels takes a fifth of the speed).

The network is told of each real training clip its class, if it has one, its direction (of eight; none where it ends within
half a pixel of its start) and whether its speed belongs to the slow, the middle or the fast third. It cannot answer from
single frames. Each of its layers is a convolution in space, of kernels that all frames share, and one in time. Means over
the frames of the last one's mean and largest value in space become 64 features, of about unit deviation over real clips,
from which three linear heads tell the answers. Sets of clips are compared by these features. They are the project's own: no
distance on them is comparable with one on anybody else's.

The same clips give the same network, bit for bit, on one kind of machine: it has its own seed, works on the CPU with one
thread, and leaves the global random state and the number of threads as they were.

References:
    | A Closer Look at Spatiotemporal Convolutions for Action Recognition (Tran et al., 2018): convolutions (2+1)D
    | Towards Accurate Generative Models of Video: A New Metric & Challenges (Unterthiner et al., 2018): distances on them
"""

__all__ = ["BRIGHT", "Accuracies", "MotionJudge", "centres", "light_of", "speeds"]

import hashlib
import math
import numpy as np
import torch

from cm_multimodal.machine import alone
from cm_multimodal.modality import Dataset
from dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

THREADS = 1
BRIGHT = 0.25
SECTORS, THIRDS = 8, 3
STANDING = 0.5  # pixels from the first frame to the last: no direction
SIDE = 16  # pixels at most
WIDTHS, STRIDES, FEATURES = (16, 32, 64), (1, 2, 2), 64
UPDATES, EPOCHS = 250, 40  # at most
FRAMES, CLIPS = 256, 8  # of a batch, about and at least
RATE, DECAY = 5e-3, 0.02
CHUNK = 64  # clips at a time
NOTHING = -100  # an answer that there is none to, as the loss names it


def light_of(raw: Tensor) -> Tensor:
    """Returns intensities, the mean of the colours, with shape (N, T, H, W), in [0, 1].

    Arguments:
        raw: Clips with shape (N, T, C, H, W), in uint8.
    """
    return raw.float().mean(dim=2) / 255


def centres(raw: Tensor) -> Tensor:
    """Returns the centre of mass of each frame, from the top and from the left, with shape (N, T, 2), in pixels, in float64.

    A frame in which nothing is bright has its centre in the middle.

    Arguments:
        raw: Clips with shape (N, T, C, H, W), in uint8.
    """
    return torch.cat([_centres(part) for part in raw.split(CHUNK)])


def _centres(raw: Tensor) -> Tensor:
    light = light_of(raw)
    light = (light * (light > BRIGHT)).double()
    found = []
    for along in (light.sum(dim=3), light.sum(dim=2)):
        mass, middle = along.sum(dim=2), (along.shape[2] - 1) / 2
        moment = along @ (torch.arange(along.shape[2]).double() - middle)
        found.append(middle + moment / mass.clamp_min(BRIGHT))
    return torch.stack(found, dim=2)


def speeds(raw: Tensor) -> Tensor:
    """Returns the mean speed of the centre of mass, with shape (N,), in pixels a frame; no number of a single frame.

    Arguments:
        raw: Clips with shape (N, T, C, H, W), in uint8.
    """
    return centres(raw).diff(dim=1).norm(dim=2).mean(dim=1)


@dataclass(frozen=True)
class Answers:
    """What there is to tell of clips, each with shape (N,) and int64, `NOTHING` where there is no answer."""

    label: Tensor
    direction: Tensor
    speed: Tensor

    def take(self, rows: Tensor) -> "Answers":
        """Returns those of some clips."""
        return Answers(self.label[rows], self.direction[rows], self.speed[rows])


@dataclass(frozen=True)
class Accuracies:
    """The shares of clips of which each head tells the right answer; no number where there is none to any."""

    label: float
    direction: float
    speed: float


class Network(nn.Module):
    """Creates a network of convolutions in space and in time.

    Arguments:
        channels: Of a frame.
        classes: The number of classes; 0 for none.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.answers = (classes, SECTORS, THIRDS)
        layers: list[nn.Module] = []
        for before, width, stride in zip((channels, *WIDTHS), WIDTHS, STRIDES, strict=False):
            space = nn.Conv3d(before, width, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
            time = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0), bias=False)
            for convolution in (space, time):
                layers += [convolution, nn.BatchNorm3d(width), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.last = nn.Sequential(nn.Linear(2 * WIDTHS[-1], FEATURES), nn.BatchNorm1d(FEATURES), nn.SiLU())
        self.heads = nn.Linear(FEATURES, sum(self.answers))

    def features(self, raw: Tensor) -> Tensor:
        """Returns the last hidden layer, with shape (B, 64), of clips with shape (B, T, C, H, W), in uint8."""
        size = min(raw.shape[-2], SIDE), min(raw.shape[-1], SIDE)
        x = F.adaptive_avg_pool2d(raw.flatten(0, 1).float() / 255, size).unflatten(0, raw.shape[:2])
        h = self.body(x.transpose(1, 2)).flatten(3)
        return self.last(torch.cat([h.mean(dim=3), h.amax(dim=3)], dim=1).mean(dim=2))

    def forward(self, raw: Tensor) -> tuple[Tensor, ...]:
        """Returns the logits of class, direction and speed, each with shape (B, answers)."""
        return self.heads(self.features(raw)).split(self.answers, dim=1)


class MotionJudge:
    """Trains the network on real clips.

    Arguments:
        train: The clips, with shape (N, T, C, H, W), in uint8, and their classes, if any.
        seed: The seed of the first weights and of the order of clips.
    """

    def __init__(self, train: Dataset, seed: int = 0) -> None:
        quantiles = torch.arange(1, THIRDS).double() / THIRDS
        self.bounds = speeds(train.raw).nan_to_num().quantile(quantiles)
        with alone(seed, THREADS), torch.enable_grad():
            self.net = Network(train.raw.shape[2], 0 if train.label is None else int(train.label.max()) + 1)
            self._train(train.raw, self._answers(train))
        self.net.eval().requires_grad_(False)

    def _answers(self, part: Dataset) -> Answers:
        none = torch.full((len(part),), NOTHING)
        path = centres(part.raw)
        net = path[:, -1] - path[:, 0]
        turn = torch.atan2(net[:, 0], net[:, 1]) / (2 * math.pi)
        sector = (SECTORS * turn).round().long() % SECTORS
        third = torch.bucketize(path.diff(dim=1).norm(dim=2).mean(dim=1), self.bounds)
        return Answers(
            none if part.label is None else part.label,
            torch.where(net.norm(dim=1) < STANDING, NOTHING, sector),
            none if part.raw.shape[1] < 2 else third,
        )

    def _train(self, raw: Tensor, answers: Answers) -> None:
        rows = max(FRAMES // raw.shape[1], CLIPS)
        updates = min(UPDATES, math.ceil(EPOCHS * len(raw) / rows))
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=updates + 1, pct_start=0.2)
        order = torch.cat([torch.randperm(len(raw)) for _ in range(math.ceil(updates * rows / len(raw)))])
        for pick in order[: updates * rows].split(rows):
            loss = _loss(self.net(raw[pick]), answers.take(pick))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    def features(self, raw: Tensor) -> Tensor:
        """Returns what it sees of clips, with shape (N, 64), in float64.

        Arguments:
            raw: Clips with shape (N, T, C, H, W), in uint8.
        """
        with alone(0, THREADS), torch.no_grad():
            return torch.cat([self.net.features(part) for part in raw.split(CHUNK)]).double()

    def accuracies(self, part: Dataset) -> Accuracies:
        """Returns how much it tells right of clips, with shape (N, T, C, H, W), and their classes, if any."""
        with alone(0, THREADS), torch.no_grad():
            told = [self.net(some) for some in part.raw.split(CHUNK)]
        answers = self._answers(part)
        label, direction, speed = (torch.cat(logits) for logits in zip(*told, strict=True))
        return Accuracies(
            _share(label, answers.label), _share(direction, answers.direction), _share(speed, answers.speed)
        )

    @property
    def digest(self) -> str:
        """A checksum of the weights, rounded to four decimals; another processor may give another one."""
        text = b"".join(np.round(part.numpy(), 4).tobytes() for part in self.net.state_dict().values())
        return hashlib.sha256(text).hexdigest()[:12]


def _loss(logits: tuple[Tensor, ...], answers: Answers) -> Tensor:
    """Returns the sum of the mean surprises of the answers that there are."""
    total = logits[0].sum() * 0
    for guess, answer in zip(logits, (answers.label, answers.direction, answers.speed), strict=True):
        if there := int((answer != NOTHING).sum()):
            total = total + F.cross_entropy(guess, answer, ignore_index=NOTHING, reduction="sum") / there
    return total


def _share(logits: Tensor, answer: Tensor) -> float:
    there = answer != NOTHING
    return float((logits[there].argmax(dim=1) == answer[there]).double().mean()) if there.any() else math.nan
