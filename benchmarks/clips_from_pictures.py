r"""What weights of pictures are worth to a network of clips: the same training, begun with them (`weights=`) and anew.

    python benchmarks/clips_from_pictures.py [--folder runs/from_pictures] [--pictures 25600] [--clips 10240]

The pictures are single frames of the moving digits that the clips are made of. A run that is finished is used again.
"""

import argparse

from cm_multimodal.cli import main as cmm
from collections.abc import Sequence
from modalities.video.adapter import VideoModality
from pathlib import Path
from PIL import Image

DATA = {"name": "moving_digits", "frames": 4, "size": 12}
PICTURES = (
    "data=folder", "data.channels=1", "net.blocks=1", "objective=improved_mean_flow_difference",
    "objective.times.off_diagonal=0.35", "optimizer.name=muon", "optimizer.lr=2.5e-3", "train.batch=64",
)  # fmt: skip
CLIPS = ("experiment=video/moving_digits_small",)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains one run of pictures and two of clips, and prints the scores of these."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("runs/from_pictures"))
    parser.add_argument("--pictures", type=int, default=25_600)
    parser.add_argument("--clips", type=int, default=10_240)
    args = parser.parse_args(argv)
    frames, runs = args.folder / "frames", ("train.threads=1", f"runs={args.folder}")
    write_frames(frames)
    run("train", *PICTURES, f"data.folder={frames}", f"train.samples={args.pictures}", *runs, "name=pictures")
    for name, words in {"begun": (f"weights={args.folder / 'pictures'}",), "anew": ()}.items():
        run("train", *CLIPS, *words, f"train.samples={args.clips}", *runs, f"name={name}")
    for name in ("begun", "anew"):
        run("evaluate", f"run={args.folder / name}", "steps=[1,2]", "n=500", "also=[digit,identity,speed]", "threads=1")


def write_frames(folder: Path, step: int = 2) -> None:
    """Writes a frame of every so many training clips, in a folder for each class; files that are there stay."""
    clips = VideoModality.dataset(DATA).train
    assert clips.label is not None
    for index in range(0, len(clips), step):
        file = folder / clips.classes[int(clips.label[index])] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            Image.fromarray(clips.raw[index, index // step % DATA["frames"], 0].numpy()).save(file)


def run(*words: str) -> None:
    """Runs a command of the program, and ends with its exit code if it fails."""
    if code := cmm(words):
        raise SystemExit(code)


if __name__ == "__main__":
    main()
