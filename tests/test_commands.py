r"""The commands, and a sentence for every mistake."""

import cm_multimodal
import json
import numpy as np
import os
import pytest
import resource
import subprocess
import sys
import torch

from cm_multimodal import cli
from cm_multimodal.errors import UsageError
from cm_multimodal.paths import PATHS
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from PIL import Image
from sklearn.datasets import load_digits

Cmm = Callable[..., int]
ROOT = Path(__file__).parents[1]
QUICK = (
    "experiment=image/smoke", "net.channels=8", "train.samples=640", "train.checkpoint_every=640",
    "train.preview_every=640", "train.threads=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the smoke experiment, long enough to draw something."""
    runs = tmp_path_factory.mktemp("smoke") / "runs"
    assert cli.main(["train", "experiment=image/smoke", f"runs={runs}", "train.threads=1", "train.samples=12_800"]) == 0
    return runs / "smoke"


def sentence(cmm: Cmm, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Runs a command that fails, and returns its code and its sentence."""
    capsys.readouterr()
    code = cmm(*words)
    text = capsys.readouterr().err
    assert text.startswith("cmm: ")
    assert "Traceback" not in text
    return code, text


def test_help_comes_in_under_a_second() -> None:
    """cmm --help and cmm VERB --help answer without loading torch."""
    for words in (["--help"], ["train", "--help"], []):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [
            sys.executable,
            "-c",
            "import sys; from cm_multimodal.cli import main; main(); print('torch' in sys.modules)",
        ]
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
        assert done.stdout.strip().endswith("False")
        assert "cmm" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("trian",), 2, "did you mean 'train'"),
        (("train", "experiment=image/digit"), 2, "There is no experiment 'image/digit'; did you mean 'image/digits'"),
        (("train", "objective=mean_flw"), 2, "There is no objective 'mean_flw'; did you mean 'mean_flow'"),
        (
            ("train", "train.sampels=5"),
            2,
            "There is no option 'train.sampels' of cmm train; did you mean 'train.samples'",
        ),
        (("train", "data.flder=x"), 2, "did you mean 'folder'"),
        (("train", "samples"), 2, "not of the form key=value"),
        (("train", "train.batch=0"), 2, "train.batch=0 is not possible"),
        (("train", "train.keep=1"), 2, "use at least 2"),
        (("train", "train.precision=fp16"), 2, "no precision 'fp16'"),
        (("train", "train.device=gpu"), 2, "no device 'gpu'"),
        (("train", "optimizer.lr=nan"), 2, "optimizer.lr=nan is not possible"),
        (("train", "optimizer.weight_decay=-1"), 2, "weight_decay=-1"),
        (("train", "optimizer.warmup=-5"), 2, "warmup=-5"),
        (("train", "optimizer.clip=0"), 2, "clip=0"),
        (("train", "optimizer.name=muo"), 2, "did you mean 'muon'"),
        (("train", "optimizer.schedule=cosin"), 2, "did you mean 'cosine'"),
        (("train", "train.threads=-1"), 2, "train.threads=-1"),
        (("train", "train.micro_batch=1.5"), 2, "train.micro_batch=1.5"),
        (("train", "optimizer.betas=[2,3]"), 2, "optimizer.betas"),
        (("train", "ema.std=0"), 2, "between 0.01 and 0.25"),
        (("train", "seed=abc"), 2, "seed=abc"),
        (("train", "train=3"), 2, "train"),
        (("train", "net.multipliers=2"), 2, "net.multipliers=2"),
        (("train", "objective.times.off_diagonal=abc"), 2, "off_diagonal=abc"),
        (("train", "objective.times.off_diagonal=2"), 2, "between 0 and 1"),
        (
            ("train", "objective=flow_matching", "objective.source.name=model_diagonal"),
            2,
            "cannot be learned from itself",
        ),
        (("train", "modality=images"), 2, "did you mean 'image'"),
        (("train", "net.size=xl"), 2, "no size 'xl'"),
        (("train", "net.channels=0"), 2, "net.channels=0 is not possible"),
        (("train", "objective.metric.name=l3"), 2, "no metric 'l3'"),
        (("train", "objective.metric.name=cross_entropy"), 2, "quadratic"),
        (("train", "objective=denoising", "objective.metric.name=cross_entropy"), 2, "compares probabilities"),
        (("train", "data=folder", "data.folder=not/there"), 2, "not/there"),
        (("train", "data=fashion", "data.root=nowhere"), 2, "CMM_DATA"),
        (("sample", "run=runs/none"), 2, "There is no folder 'runs/none'"),
        (("sample",), 2, "run=runs/NAME or bundle=FOLDER"),
        (("sample", "step=3"), 2, "did you mean 'steps'"),
        (("evaluate", "run=runs/none"), 2, "There is no folder"),
        (("export", "run=runs/none"), 2, "There is no run"),
        (("export",), 2, "Say which run"),
    ],
)
def test_a_mistake_gets_a_sentence(
    cmm: Cmm, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, says: str
) -> None:
    """What was typed wrong ends with exit code 2 and says what is meant or what is known."""
    found, text = sentence(cmm, capsys, *words)
    assert found == code
    assert says in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("steps=0",), "steps=0 is not possible"),
        (("label=eleven",), "There is no class 'eleven'"),
        (("sampler=chian",), "did you mean 'chain'"),
        (("format=zip",), "no format 'zip'"),
        (("n=-3",), "n=-3 is not possible"),
        (("gamma=abc",), "gamma=abc is not possible"),
    ],
)
def test_sampling_mistakes_get_a_sentence(
    cmm: Cmm, capsys: pytest.CaptureFixture[str], trained: Path, words: tuple[str, ...], says: str
) -> None:
    """Numbers out of range and unknown names are refused before anything is computed."""
    code, text = sentence(cmm, capsys, "sample", f"run={trained}", *words)
    assert code == 2
    assert says in text


def folder_of_digits(folder: Path, count: int = 60) -> Path:
    """Writes real digits as PNG files, a sub-folder a class."""
    digits = load_digits()
    for index in range(count):
        place = folder / str(digits.target[index])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[index] * 15.9).astype(np.uint8)).save(place / f"{index}.png")
    return folder


def test_a_folder_of_pictures_trains_and_names_what_it_skipped(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """A truncated picture among good ones is skipped, counted and named; the folder's name may hold any character."""
    folder = folder_of_digits(Path("my [odd] päth, 100%=x"))
    bad = folder / "3" / "broken.png"
    bad.write_bytes((folder / "3" / "3.png").read_bytes()[:60])
    assert (
        cmm("train", "data=folder", f"data.folder={folder}", *QUICK[1:], "net.blocks=1", "train.batch=32", "name=mine")
        == 0
    )
    text = capsys.readouterr().out
    assert "1 file skipped" in text
    assert "broken.png" in text
    assert cmm("evaluate", "run=runs/mine", "steps=[1]", "n=50", "seeds=[0]") == 0


def test_a_folder_where_all_is_broken_stops(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """No picture that can be read, or none at all: exit code 3, in bounded time."""
    Path("broken/a").mkdir(parents=True)
    for index in range(20):
        Path(f"broken/a/{index}.png").write_bytes(b"not a picture")
    code, text = sentence(cmm, capsys, "train", "data=folder", "data.folder=broken", "name=mine")
    assert code == 3
    assert "20" in text
    Path("empty").mkdir()
    code, text = sentence(cmm, capsys, "train", "data=folder", "data.folder=empty", "name=mine")
    assert code == 3
    assert "png" in text


@pytest.mark.smoke
def test_a_run_samples_as_files_and_as_arrays(cmm: Cmm, trained: Path) -> None:
    """PNG files and a grid, or one npz with pictures, labels, ids and seed, the same samples in both."""
    assert cmm("sample", f"run={trained}", "steps=2", "n=12", "seed=3", "out=files") == 0
    assert len(list(Path("files").glob("0*.png"))) == 12
    assert Path("files/grid.png").stat().st_size > 500
    assert cmm("sample", f"run={trained}", "steps=2", "n=12", "seed=3", "out=npz", "format=npz") == 0
    with np.load("npz/samples.npz", allow_pickle=False) as arrays:
        assert arrays["x"].shape == (12, 8, 8, 1)
        assert arrays["x"].dtype == np.uint8
        assert arrays["label"].tolist() == [*range(10), 0, 1]
        assert arrays["sample_id"].tolist() == list(range(12))
        assert arrays["seed"] == 3
        first = np.asarray(Image.open("files/000000.png"))
        assert np.array_equal(first, arrays["x"][0, :, :, 0])


def test_a_bundle_samples_like_its_run(cmm: Cmm, trained: Path) -> None:
    """export writes two files; the bundle gives the same bytes as the run, from the shell and from Python."""
    assert cmm("export", f"run={trained}", "out=bundle") == 0
    assert sorted(file.name for file in Path("bundle").iterdir()) == ["bundle.json", "weights.safetensors"]
    from_run = cm_multimodal.load(str(trained)).sample(n=5, steps=2, seed=1)
    from_bundle = cm_multimodal.load("bundle").sample(n=5, steps=2, seed=1)
    assert torch.equal(from_run.raw, from_bundle.raw)
    assert from_bundle.calls == 2
    assert cmm("sample", "bundle=bundle", "label=7", "n=3", "out=sevens") == 0


def test_a_wider_average_is_exported_after_training(
    cmm: Cmm, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ema_std reconstructs an average of another width; a width out of range is a sentence."""
    assert cmm("export", f"run={trained}", "out=narrow", "ema_std=0.06") == 0
    assert cmm("export", f"run={trained}", "out=wide", "ema_std=0.09") == 0
    plain, narrow, wide = (
        cm_multimodal.load(f).bundle.flow_map.net.state_dict() for f in (str(trained), "narrow", "wide")
    )
    near = max((plain[k] - narrow[k]).abs().max().item() for k in plain)
    far = max((plain[k] - wide[k]).abs().max().item() for k in plain)
    assert near < 0.05 * far
    assert sentence(cmm, capsys, "export", f"run={trained}", "out=bad", "ema_std=0.9")[0] == 2


@pytest.mark.parametrize("path", PATHS)
def test_the_trained_map_draws_the_same_on_every_path(trained: Path, path: str) -> None:
    """Change of path: the same noise and noise ratios give the same pictures, to 1e-4 of the range in float32."""
    model = cm_multimodal.load(str(trained))
    object.__setattr__(model.bundle.modality, "decode", lambda x, mask=None: x)
    for steps in (1, 3):
        own = model.sample(n=20, steps=steps, seed=0).raw
        other = model.sample(n=20, steps=steps, seed=0, path=path).raw
        assert own.std() > 0.3
        assert (own - other).abs().max() <= 1e-4 * 2


@pytest.mark.smoke
def test_evaluation_writes_a_record_with_its_protocol(cmm: Cmm, trained: Path) -> None:
    """metrics.json holds the protocol and a row per method, steps and seed; the smoke run already beats noise by far."""
    words = (
        "evaluate",
        f"run={trained}",
        "steps=[1,2]",
        "diagonal=[4]",
        "n=300",
        "seeds=[0,1]",
        "out=scores",
        "threads=1",
    )
    assert cmm(*words) == 0
    record = json.loads(Path("scores/metrics.json").read_text())
    assert record["protocol"]["n"] == 300
    assert record["protocol"]["seeds"] == [0, 1]
    assert "397" in record["protocol"]["reference"]
    kinds = [(row["method"], row["steps"], row["calls"], row["seed"]) for row in record["rows"]]
    assert kinds == [
        ("real", 0, 0, 0),
        *[("map", s, s, k) for s in (1, 2) for k in (0, 1)],
        *[("diagonal", 4, 4, k) for k in (0, 1)],
    ]
    assert all(row["accuracy"] > 0.5 for row in record["rows"])
    assert Path("scores/quality.png").stat().st_size > 5000


@pytest.mark.smoke
def test_a_run_folder_is_complete(trained: Path) -> None:
    """Configuration, machine, log, TensorBoard, previews, checkpoints, bundle."""
    for name in (
        "config.yaml",
        "env.json",
        "metrics.jsonl",
        "samples/preview.png",
        "samples/loss_by_noise.png",
        "bundle/bundle.json",
    ):
        assert (trained / name).exists(), name
    assert list((trained / "tensorboard").glob("events*"))
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert {"samples", "loss", "grad_norm", "skipped", "lr"} <= rows[0].keys()
    assert any("held_out_loss" in row for row in rows)
    pace = json.loads((trained / "speed.jsonl").read_text().splitlines()[0])
    assert {"samples", "samples_per_s", "seconds_left"} == pace.keys()
    with Image.open(trained / "samples/preview.png") as picture:
        assert min(picture.size) > 200


@pytest.mark.parametrize("objective", ["flow_matching", "easy_consistency"])
def test_tokens_of_varying_length_are_learned(cmm: Cmm, objective: str) -> None:
    """One-hot sequences with padding and a cross-entropy train through the same commands."""
    extra = () if objective == "flow_matching" else ("objective.curriculum.stages=4",)
    words = ("experiment=toy/tokens", f"objective={objective}", "objective.scaling=endpoint", *extra)
    assert (
        cmm("train", *words, "~objective.metric.scale" if extra else "name=tokens", "name=tokens", "train.threads=1")
        == 0
    )
    model = cm_multimodal.load("runs/tokens")
    samples = model.sample(n=90, steps=16, seed=0)
    right = [alternation(row, int(label)) for row, label in zip(samples.raw.tolist(), samples.label, strict=True)]
    assert np.mean(right) > 0.8


def alternation(row: list[int], label: int) -> float:
    """Returns the share of neighbours that are the two tokens of the class; chance gives 0.04."""
    tokens = [token for token in row if token >= 0]
    assert 6 <= len(tokens) <= 12
    return float(np.mean([{a, b} == {label, label + 3} for a, b in pairwise(tokens)]))


def test_doctor_speaks_in_sentences(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """Machine, packages, derivatives and data are each a sentence."""
    assert cmm("doctor") == 0
    text = capsys.readouterr().out
    assert "torch 2.11" in text
    assert text.count("works,") == 3
    assert all(line.endswith((".", "!")) for line in text.splitlines())


def test_a_python_user_gets_the_same_sentences() -> None:
    """cm_multimodal.load of nothing raises a sentence."""
    with pytest.raises(UsageError, match="There is no folder"):
        cm_multimodal.load(os.path.join("runs", "nothing"))


def test_a_teacher_teaches_its_own_kind(
    cmm: Cmm, capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path
) -> None:
    """Distillation asks for a teacher; one of another shape or without a diagonal is refused, and a good one is used."""
    distil = ("train", *QUICK, "objective=consistency_distillation", "name=distilled")
    code, text = sentence(cmm, capsys, *distil)
    assert code == 2
    assert "objective.source.teacher=runs/NAME" in text
    code, text = sentence(cmm, capsys, *distil, "objective.source.teacher=runs/nothing")
    assert "There is no folder" in text
    assert cmm("train", *QUICK, "objective=easy_consistency", "name=edge") == 0
    code, text = sentence(cmm, capsys, *distil, "objective.source.teacher=runs/edge")
    assert "learned the edge of the solution map, and a teacher needs the diagonal" in text
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(12):
        Image.new("L", (6, 6), 20 * index).save(folder / f"{index}.png")
    other = ("data=folder", "data.folder=pictures", f"objective.source.teacher={trained}")
    code, text = sentence(cmm, capsys, *distil, *other)
    assert "knows samples of shape (1, 8, 8)" in text
    assert not Path("runs/distilled").exists()
    code, text = sentence(cmm, capsys, *distil, f"objective.source.teacher={trained}", "train.drop_label=0.1")
    assert "never saw any" in text
    assert cmm(*distil, f"objective.source.teacher={trained}") == 0
    assert cmm("sample", "run=runs/distilled", "n=4") == 0


def test_a_teacher_stays_what_it_was(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """A run does not go on with a teacher that was trained on; one that learned no jumps cannot jump; float64 works."""
    assert cmm("train", *QUICK, "objective=flow_matching", "name=teacher") == 0
    student = ("train", *QUICK, "objective=continuous_distillation", "objective.source.teacher=runs/teacher")
    alone = ("objective=consistency_distillation", "objective.source.solver=null", "name=alone")
    assert "by itself, and it learned the diagonal" in sentence(cmm, capsys, *student, *alone)[1]
    assert cmm(*student, "name=student", "train.precision=float64") == 0
    assert cmm("train", *QUICK, "objective=flow_matching", "name=teacher", "train.samples=1280") == 0
    code, text = sentence(cmm, capsys, *student, "name=student", "train.precision=float64", "train.samples=1280")
    assert code == 3
    assert "has other weights than when it was started" in text
    follows = ("objective=improved_mean_flow", "objective.direction.name=teacher", "name=follows")
    assert cmm("train", *QUICK, *follows, "+objective.direction.teacher=runs/teacher") == 0


def test_guided_targets_need_dropped_classes(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """A guided source asks for samples without a class; interval= asks for guidance; a score's record names both."""
    guided = ("train", *QUICK, "objective.source.name=guided", "name=guided")
    for share in ("0", "1"):
        assert "train.drop_label=0.1 (it is" in sentence(cmm, capsys, *guided, f"train.drop_label={share}")[1]
    assert cmm(*guided, "train.drop_label=0.1") == 0
    words = ("run=runs/guided", "steps=[1]", "seeds=[0]")
    assert "there is none" in sentence(cmm, capsys, "evaluate", *words, "interval=[0.2,20]")[1]
    assert cmm("evaluate", *words, "guidance=2", "interval=[0.2,20]") == 0
    protocol = json.loads(Path("runs/guided/evaluation-guidance-2-0.2-20/metrics.json").read_text())["protocol"]
    assert (protocol["guidance"], protocol["interval"]) == (2.0, [0.2, 20])


def test_groups_that_a_batch_would_cut(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """Moment matching says which batches it can use, and trains and judges with those."""
    words = ("train", *QUICK, "objective=moment_matching", "name=moments")
    for change in ("train.batch=30", "train.micro_batch=6"):
        code, text = sentence(cmm, capsys, *words, change)
        assert code == 2
        assert "in groups of 4" in text
    assert cmm(*words) == 0
