"""A reader's own folders: pictures, sounds, texts and videos, a sub-folder a class, one file of each damaged."""

import hashlib
import numpy as np
import soundfile
import torch

from cm_multimodal.bundle import Card, empty_map, write_bundle
from cm_multimodal.derivatives import perturbed
from cm_multimodal.modality import TensorSpec
from modalities.image.adapter import ImageModality
from pathlib import Path
from PIL import Image
from sklearn.datasets import load_digits


def write_all(folder: Path) -> None:
    """A folder of each kind."""
    write_pictures(folder / "pictures")
    write_sounds(folder / "sounds")
    write_texts(folder / "texts")
    write_videos(folder / "videos")


def write_pictures(folder: Path, count: int = 300) -> None:
    """Real digits as small PNG files."""
    digits = load_digits()
    for index, (pixels, label) in enumerate(zip(digits.images[:count], digits.target[:count], strict=True)):
        file = folder / str(label) / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:-20])


def write_sounds(folder: Path, count: int = 120) -> None:
    """Tones of two pitches as WAV and FLAC files of two rates."""
    for index in range(count):
        rate, pitch = (16000, 22050)[index % 2], (220, 440)[index % 3 == 0]
        file = folder / ("low", "high")[index % 3 == 0] / f"{index}.{('wav', 'flac')[index % 2]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(rate // 2) / rate
        soundfile.write(file, 0.2 * np.sin(2 * np.pi * (pitch + index % 7) * time) * np.exp(-3 * time), rate)
    file.write_bytes(file.read_bytes()[:100])


def write_texts(folder: Path, count: int = 40) -> None:
    """Lines of two kinds as text files, a sub-folder each, and one that is no UTF-8."""
    for index in range(count):
        kind, word = (("seas", "a wave rolls over wave"), ("hills", "the wind is in the fern"))[index % 2]
        file = folder / kind / f"{index}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{word} {number}\n" for number in range(index, index + 8)), encoding="utf-8")
    file.write_bytes(b"\xff\xfe\xfa" * 20)


def write_videos(folder: Path, count: int = 12) -> None:
    """Squares that move down or across, as GIF files of 20 frames."""
    for index in range(count):
        kind, across = (("down", 0), ("across", 1))[index % 2]
        frames = []
        for time in range(20):
            pixels = np.zeros((40, 48), np.uint8)
            place = [10 + index, 10 + index]
            place[across] = 4 + time
            pixels[place[0] : place[0] + 8, place[1] : place[1] + 8] = 200 + index
            frames.append(Image.fromarray(pixels))
        file = folder / kind / f"{index}.gif"
        file.parent.mkdir(parents=True, exist_ok=True)
        frames[0].save(file, save_all=True, append_images=frames[1:], duration=100)
    file.write_bytes(file.read_bytes()[:100])


def write_model(folder: Path) -> None:
    """Writes a bundle of a small model of the shape of scikit-learn's digits, that has learned nothing."""
    spec = TensorSpec((1, 8, 8), 0.75, tuple("0123456789"))
    learned = ("diagonal", "edge", "triangle")
    card = Card("image", spec, {"size": "xs", "channels": 8, "blocks": 1}, "linear", "euler", True, learned, "test", 8)
    torch.manual_seed(0)
    net = perturbed(empty_map(card, ImageModality(spec))).float().net
    write_bundle(card, net.state_dict(), folder)


def tree(folder: Path) -> dict[str, str]:
    """Returns a checksum of every file, hidden ones too."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
