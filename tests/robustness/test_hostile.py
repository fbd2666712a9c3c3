r"""A file from a stranger cannot hurt: it is refused with a sentence, at once, in little memory, and nothing in it runs.

Each is given to the program as a person would give it. All of them run in one process that has drawn good samples
before, so that what is measured is the file and not the imports. Cases 50-60.
"""

import io
import json
import os
import pickle
import pytest
import re
import shutil
import struct
import time
import torch
import zipfile
import zlib

from cm_multimodal.cli import main
from cm_multimodal.training import checkpoints
from collections.abc import Callable
from harness import QUICK, empty, forget_peak, peak_bytes
from itertools import pairwise
from modalities.image.data import load as load_images
from pathlib import Path
from PIL import Image

pytestmark = [pytest.mark.robustness, pytest.mark.usefixtures("empty")]
__all__ = ["empty"]
ROOT = Path(__file__).parents[2]
SECONDS, MEGABYTES = 2.0, 200  # a slow machine takes one for what is allowed, too
CANARY = "canary"


class Payload:
    """Leaves a canary behind where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return open, (CANARY, "w")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with its bundle."""
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("good") / "runs"
    assert main(["train", *QUICK, f"runs={runs}", "name=run", "train.samples=128"]) == 0
    assert main(["sample", f"run={runs / 'run'}", "n=2", f"out={runs / 'drawn'}"]) == 0
    return runs / "run"


@pytest.fixture
def run(good: Path, empty: Path) -> Path:
    """A copy of the run, to be made hostile."""
    return Path(shutil.copytree(good, "run"))


def refused(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    """Gives a file to the program, and returns the sentence with which it is refused."""
    capfd.readouterr()
    forget_peak()
    before, start, clock = peak_bytes(), time.process_time(), time.perf_counter()
    code = main(list(words))
    seconds, more = time.process_time() - start, peak_bytes() - before
    text = capfd.readouterr().err
    assert code in (2, 3), text
    assert text.startswith("cmm: ")
    assert "Traceback" not in text
    assert seconds < SECONDS, f"{seconds:.2f} s"
    assert time.perf_counter() - clock < 10 * SECONDS, "it waits"
    assert more < MEGABYTES * 2**20, f"{more / 2**20:.0f} MB"
    assert not Path(CANARY).exists()
    return text


def pickled() -> bytes:
    return pickle.dumps(Payload())


def torch_saved() -> bytes:
    content = io.BytesIO()
    torch.save({"network": Payload()}, content)
    return content.getvalue()


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


WEIGHTS: dict[str, Callable[[bytes], bytes]] = {
    "a pickle": lambda whole: pickled(),
    "a torch file": lambda whole: torch_saved(),
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
    "header of 8 EiB": lambda whole: safetensors({}, length=2**63 - 1),
    "header of 100 GB": lambda whole: safetensors({}, length=10**11),
    "no JSON": lambda whole: safetensors(b"{" * 1000),
    "deep JSON": lambda whole: safetensors(b'{"a":' * 100_000),
    "a hole": lambda whole: safetensors({"a": tensor(8, 12, [1])}, bytes(12)),
    "overlap": lambda whole: safetensors({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, bytes(12)),
    "twice the same": lambda whole: safetensors(
        b'{"a":%s,"a":%s}' % ((json.dumps(tensor(0, 4, [1])).encode(),) * 2), bytes(4)
    ),
    "past the end": lambda whole: safetensors({"a": tensor(0, 10**12, [25 * 10**10])}, bytes(8)),
    "absurd shape": lambda whole: safetensors({"a": tensor(0, 8, [2**62, 2**62])}, bytes(8)),
    "unknown format": lambda whole: safetensors({"a": tensor(0, 8, [2], "Q7")}, bytes(8)),
    "other names": lambda whole: safetensors({"a": tensor(0, 8, [2])}, bytes(8)),
    "half precision": lambda whole: whole.replace(b'"F32"', b'"I32"'),
    "other shapes": lambda whole: re.sub(rb'"shape":\[(\d+)\]', rb'"shape":[1,\1]', whole, count=1),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_hostile_weights(run: Path, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    """Pickles and broken safetensors in the place of weights: no verb that reads them runs or believes them."""
    file = run / "bundle" / "weights.safetensors"
    file.write_bytes(WEIGHTS[kind](file.read_bytes()))
    assert "weights" in refused(capfd, "sample", f"bundle={run / 'bundle'}", "n=1", "threads=1")
    assert "weights" in refused(capfd, "evaluate", f"bundle={run / 'bundle'}", "++data.name=digits", "threads=1")


CARDS: dict[str, object] = {
    "import path": {"modality": "os"}, "a folder": {"modality": "../image"}, "open": {"scaling": "builtins.open"},
    "path": {"path": "torch.load"}, "target": {"net": {"_target_": "builtins.open", "file": CANARY, "mode": "w"}},
    "write": {"net": {"_target_": "pathlib.Path.write_text"}}, "system": {"net": {"_target_": "logging.os.system"}},
    "wide": {"net": {"size": "xs", "channels": 10**9}}, "deep": {"net": {"size": "xs", "blocks": 10**6}},
    "large": {"net": {"size": "l", "channels": 4096, "multipliers": [64] * 8}},
    "larger than its weights": {"net": {"size": "l", "channels": 1024}},
    "shape": {"spec": {"shape": [10**6] * 3, "sigma_data": 0.5}},
    "shape of a list": {"spec": {"shape": [[1], 8, 8], "sigma_data": 0.5}},
    "unknown": {"surprise": 1}, "resolver": {"objective": "${oc.env:HOME}", "path": "${oc.env:HOME}"},
    "classes": {"spec": {"shape": [1, 8, 8], "sigma_data": 0.5, "classes": ["x"] * 200_000}},
    "number": {"chunk": 10**12}, "type": {"learned": 5}, "no name": {"modality": ["image"]}, "size": {"net": {"size": [1]}},
    "a large chunk": {"spec": {"shape": [1, 64, 64], "sigma_data": 0.5, "classes": list("0123456789")}, "chunk": 65_536},
    "flat": {"spec": {"shape": [64], "sigma_data": 0.5}}, "seen": {"samples_seen": "many"}, "objective": {"objective": [1]},
}  # fmt: skip


@pytest.mark.parametrize("kind", CARDS)
def test_hostile_cards(run: Path, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    """Import paths, resolvers, unknown keys and absurd sizes in bundle.json: refused before anything is allocated."""
    file = run / "bundle" / "bundle.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **CARDS[kind]}))  # type: ignore[dict-item]
    refused(capfd, "sample", f"bundle={run / 'bundle'}", "n=1", "threads=1")


def replace_by(file: Path, kind: str) -> None:
    """Puts something in the place of a file that reads without end, or waits."""
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["pipe", "endless"])
@pytest.mark.parametrize("name", ["bundle/bundle.json", "bundle/weights.safetensors"])
def test_what_is_no_regular_file(run: Path, capfd: pytest.CaptureFixture[str], name: str, kind: str) -> None:
    """Pipes and devices in the place of a bundle's files are not waited for."""
    replace_by(run / name, kind)
    refused(capfd, "sample", f"bundle={run / 'bundle'}", "n=1", "threads=1")


@pytest.mark.parametrize("kind", ["pipe", "endless"])
@pytest.mark.parametrize("name", ["config.yaml", "env.json", "manifest.json", "training.pt"])
def test_a_run_of_pipes_and_devices(run: Path, capfd: pytest.CaptureFixture[str], name: str, kind: str) -> None:
    """Nor in the place of a run's."""
    for file in run.rglob(name):
        replace_by(file, kind)
    words = [word for word in QUICK if not word.startswith("train.samples")]
    refused(capfd, "train", *words, "runs=.", "name=run", "train.samples=256")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[" * 100_000, b"[]", b" " * (2 << 20), b"", b'{"format": 1'])
def test_cards_that_are_none(run: Path, capfd: pytest.CaptureFixture[str], content: bytes) -> None:
    """Random bytes, deep nesting, a huge file."""
    (run / "bundle" / "bundle.json").write_bytes(content)
    refused(capfd, "export", f"run={run / 'bundle'}", "out=out")
    refused(capfd, "sample", f"bundle={run / 'bundle'}", "n=1", "threads=1")


@pytest.mark.parametrize("payload", [pickled, torch_saved])
@pytest.mark.parametrize("known", [False, True])
def test_a_hostile_training_state(
    run: Path, capfd: pytest.CaptureFixture[str], payload: Callable[[], bytes], known: bool
) -> None:
    """A pickle as training state is not run, even where the manifest vouches for it, and not tried another way."""
    for folder in (run / "checkpoints").iterdir():
        (folder / "training.pt").write_bytes(payload())
        if known:
            manifest = json.loads((folder / "manifest.json").read_text())
            manifest["files"]["training.pt"] = checkpoints._entry(folder / "training.pt")
            manifest["checksum"] = checkpoints._checksum(manifest)
            (folder / "manifest.json").write_text(json.dumps(manifest))
    words = [word for word in QUICK if not word.startswith("train.samples")]
    text = refused(capfd, "train", *words, "runs=.", "name=run", "train.samples=256")
    assert ("nothing in it was run" in text) == known


def test_pickles_given_as_runs_bundles_and_checkpoints(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A .ckpt or .pt is no run, no bundle and no checkpoint, for any verb."""
    for name in ("model.ckpt", "model.pt"):
        Path(name).write_bytes(torch_saved())
        for words in (("sample", f"run={name}"), ("sample", f"bundle={name}"), ("evaluate", f"run={name}"),
                      ("export", f"run={name}", "out=out"), ("train", *QUICK, "name=new", f"resume={name}")):  # fmt: skip
            refused(capfd, *words)


@pytest.mark.parametrize("name", ["000000000128-0.06.safetensors", "new.safetensors"])
def test_hostile_snapshots(run: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    """What lies among the averages and is none: reconstruction after training refuses it."""
    (run / "ema" / name).write_bytes(pickled())
    assert name in refused(capfd, "export", f"run={run}", "out=out", "ema_std=0.08")


CONFIGS = {
    "object": "!!python/object/apply:os.system ['touch canary']\n",
    "module": "a: !!python/module:os\n",
    "laughs": "a: &a [1,1]\n" + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi")),
    "deep": "[" * 5000,
    "large": "a: " + "x" * (2 << 20),
    "bytes": "\x00\x01",
    "list": "- a\n",
    "no bool": "a: !!bool maybe\n",
    "no int": "a: !!int ''\n",
    "no time": "a: !!timestamp x\n",
    "no groups": "data: [1]\nevaluation: 5\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_hostile_configuration_of_a_run(run: Path, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    """config.yaml holds plain data of bounded size: no objects, no aliases that unfold."""
    (run / "config.yaml").write_text(CONFIGS[kind])
    refused(capfd, "evaluate", f"run={run}", "steps=[1]", "threads=1")
    refused(capfd, "train", *QUICK, "runs=.", "name=run")


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    file = Path("pictures.zip")
    with zipfile.ZipFile(file, "w", method) as writer:
        for name, content in members.items():
            writer.writestr(name, content)
    return file


def png(width: int = 8, height: int = 8) -> bytes:
    content = io.BytesIO()
    Image.new("L", (8, 8)).save(content, "PNG")
    data = bytearray(content.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    if (width, height) != (8, 8):
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def train_on(folder: object) -> tuple[str, ...]:
    words = ("train", "data=folder", f"data.folder={folder}", "net.channels=8", "net.blocks=1", "train.samples=64")
    return (*words, "train.batch=8", "train.threads=1", "name=new")


def test_members_outside_are_left_out() -> None:
    """Members that climb out, absolute ones, links and ones that come twice are skipped and named; nothing is unpacked."""
    outside = ("../../up.png", "/abs.png", "a/../../b.png", "c:\\d.png")
    file = archive({name: png() for name in ("a/good.png", *outside, "a/twice.png")})
    with zipfile.ZipFile(file, "a") as writer:
        link = zipfile.ZipInfo("a/link.png")
        link.external_attr = 0o120777 << 16
        writer.writestr(link, "/etc/passwd")
        with pytest.warns(UserWarning, match="Duplicate name"):
            writer.writestr("a/twice.png", png())
    train = load_images({"name": "folder", "folder": str(file), "test_fraction": 0.0}).train
    assert len(train) == 2
    reasons = {skipped.path: skipped.reason for skipped in train.skipped}
    assert reasons.keys() == {*outside, "a/link.png", "a/twice.png"}
    assert all("outside" in reasons[name] for name in outside)
    assert sorted(path.name for path in Path().iterdir()) == ["pictures.zip"]


def test_bombs_are_not_unpacked(capfd: pytest.CaptureFixture[str]) -> None:
    """A member that unfolds a thousandfold, one that lies about its size, a picture of 60,000 x 60,000 pixels."""
    with (
        zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED) as writer,
        writer.open("a/1.png", "w", force_zip64=True) as member,
    ):
        for _ in range(320):
            member.write(bytes(1 << 20))
    refused(capfd, *train_on("bomb.zip"))
    refused(capfd, *train_on(archive({f"a/{index}.png": bytes(2**25) for index in range(20)}, zipfile.ZIP_DEFLATED)))
    data = Path("bomb.zip").read_bytes()
    place = data.rindex(b"PK\x01\x02")
    lying = data[: place + 24] + struct.pack("<I", 100) + data[place + 28 :]
    Path("lying.zip").write_bytes(lying)
    refused(capfd, *train_on("lying.zip"))
    Path("huge").mkdir()
    Path("huge/1.png").write_bytes(png(60_000, 60_000))
    assert "3600000000 pixels" in refused(capfd, *train_on("huge"))


def test_a_million_members_are_not_listed(capfd: pytest.CaptureFixture[str]) -> None:
    """The end of an archive says how many members it has; too many are refused before they are read."""
    entry = (
        struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 3, 20, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0) + b"a.png"
    )
    directory = entry * 1_000_000
    zip64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 10**6, 10**6, len(directory), 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    Path("many.zip").write_bytes(directory + zip64 + locator + end)
    assert "members" in refused(capfd, *train_on("many.zip"))


@pytest.mark.parametrize(
    "place", ["http://host/pictures", "https://host/p.zip", "pipe:cat /etc/passwd", "s3://bucket/x"]
)
def test_nothing_is_fetched_or_run_for_a_path(capfd: pytest.CaptureFixture[str], place: str) -> None:
    """Data, runs, bundles and checkpoints are paths on this machine: no URL, no command."""
    assert "path" in refused(capfd, *train_on(place))
    refused(capfd, "sample", f"run={place}")
    refused(capfd, "train", *QUICK, "name=new", f"resume={place}")


def test_no_source_reads_pickles_or_instantiates() -> None:
    """Tensors come from safetensors or with weights_only=True; no class is ever made from a path in a configuration."""
    for folder in ("cm_multimodal", "modalities"):
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text()
            assert not re.search(r"import (pickle|dill|joblib|shelve|marshal)\b|allow_pickle=True", text), file
            assert not re.search(r"hydra\.utils|instantiate\(", text), file
            assert text.count("torch.load(") == text.count("weights_only=True"), file
            assert text.count("yaml.load(") == text.count("Loader=_Strict"), file
            assert not re.search(r"extractall|\bos\.system|subprocess\.(run|Popen)\([^\[]", text), file
