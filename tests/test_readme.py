"""The README is true: its commands run, its files are there, its examples hold, its figures are those that were measured.

What takes long is run by `make readme`; `make test` runs the same commands on models that have learned nothing yet.
"""

import json
import numpy as np
import os
import pytest
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import torch
import yaml

from cm_multimodal.batch import Batch, Conditions
from cm_multimodal.build import build_objective
from cm_multimodal.catalogue import config_file, config_folder, experiments
from cm_multimodal.cli import VERBS, main
from cm_multimodal.config import OPEN, compose
from cm_multimodal.ema import Average
from cm_multimodal.exact import ExactMap, Gaussian
from cm_multimodal.modality import Modality, TensorSpec
from cm_multimodal.objectives import OBJECTIVES, Objective
from cm_multimodal.paths import PATHS, build_path
from cm_multimodal.random import Draws
from cm_multimodal.times import LogNormal, Triangle
from cm_multimodal.training import checkpoints
from cm_multimodal.training.parts import build_decays, build_parts
from cm_multimodal.training.records import RunRecord
from cm_multimodal.training.snapshots import write_snapshots
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from modalities.image.net import SIZES, build_net
from own_files import write_all
from pathlib import Path
from torch import Tensor
from typing import Any

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
PROSE = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
MAKEFILE = (ROOT / "Makefile").read_text()
BIN = Path(sys.executable).parent
FIGURES = ROOT / "benchmarks" / "results" / "quickstart.json"

OTHERS = {"source", "python", "torchrun"}  # the words a command may begin with, beside cmm and make
ELSEWHERE = {"test"}  # targets that `make readme` does not run
BASE, QUICK = "experiment=image/smoke", "overrides=['train.samples=640','net.channels=8','train.threads=1']"
SMALL = {
    "train": ("++net.channels=8", "++net.blocks=1", "train.device=cpu", "train.precision=float32"),
    **dict.fromkeys(("sample", "edit"), ("threads=1", "device=cpu")),
    **dict.fromkeys(("evaluate", "tune-steps"), ("threads=1", "device=cpu", "n=60", "seeds=[0]")),
    "synth": ("threads=1", "device=cpu", "shard=64", "processes=1"),
    "suite=worth": tuple(f"settings.tasks.spoken_digits.{word}" for word in (BASE, "amounts=[20]", QUICK)),
    "suite=smoke": (f"settings.entries.image.{QUICK}", "settings.entries.image.n=60", "settings.calls=[1]"),
    "suite=ground_truth": ("settings.updates=4", "settings.samples=64", "settings.seeds=[0]"),
    "suite=digits": ("settings.experiment=image/smoke", "settings.seconds=1", "settings.probe=10", "settings.steps=[1]"),
    "suite=solvers": ("settings.n=60", "settings.samples=4", "settings.reference_steps=4", "settings.teach.updates=2"),
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A piece of code: its language and text. A first line that names a file says that this is what the file holds."""

    language: str
    text: str

    @property
    def file(self) -> str:
        found = re.match(r"# ([\w/]+\.(?:py|yaml))\n", self.text)
        return found[1] if found else ""

    def commands(self) -> list[list[str]]:
        lines = self.text.replace("\\\n", " ").splitlines() if self.language == "sh" else []
        return [words for line in lines if (words := shlex.split(line, comments=True))]


BLOCKS = [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)]
FILES = {block.file: block.text for block in BLOCKS if block.file}
COMMANDS = [words for block in BLOCKS for words in block.commands()]
SHARED = [words[words.index("cm_multimodal") + 1 :] for words in COMMANDS if words[0] == "torchrun"]
CMM = [words[1:] for words in COMMANDS if words[0] == "cmm"] + SHARED
AT_ONCE = [words for words in CMM if words[0] == "doctor" or words[-1] == "--help"]
COMPOSED = [words for words in CMM if words not in AT_ONCE]
OBJECTIVE = next(name for name in FILES if name.endswith(".py"))


def quickstart() -> list[list[str]]:
    """The commands that `make quickstart` consists of."""
    return [shlex.split(line) for line in re.findall(r"^\$\(BIN\)/cmm (.*)$", MAKEFILE, re.MULTILINE)]


def example() -> type[Objective]:
    """The objective whose code the README shows, as the module that it would be."""
    name = OBJECTIVE.removesuffix(".py").replace("/", ".")
    module: dict[str, Any] = {"__name__": name, "__package__": name.rpartition(".")[0]}
    exec(compile(FILES[OBJECTIVE], OBJECTIVE, "exec"), module)
    return module[module["__all__"][0]]


@pytest.fixture
def extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes the README's objective known; the override that finds its settings is returned."""
    monkeypatch.setitem(OBJECTIVES, Path(OBJECTIVE).stem, example())
    for name in FILES.keys() - {OBJECTIVE}:
        file = tmp_path / "added" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(FILES[name])
    return f"hydra.searchpath=[file://{tmp_path / 'added' / 'configs'}]"


def shown(words: list[str]) -> str:
    return " ".join(words)


def test_every_command_is_of_a_known_kind() -> None:
    """A command is one of the program, a target of the Makefile, or one of a few words; nothing is left unread."""
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    assert {words[0] for words in COMMANDS} <= {"cmm", "make", *OTHERS}
    assert {words[1] for words in COMMANDS if words[0] == "make"} <= targets
    assert set(re.findall(r"`make (\w+)`", PROSE)) <= targets
    assert {words[0] for words in CMM if words != ["--help"]} == VERBS.keys()
    assert [words[1] for words in COMMANDS if words[0] == "make"] == ["quickstart", "test"]


@pytest.mark.parametrize("words", [*COMPOSED, *quickstart()], ids=shown)
def test_every_command_composes(words: list[str], extended: str) -> None:
    """Every option is known, and what is to be trained can be built from its settings."""
    known = [extended] if words[0] == "train" else []
    config = compose(words[0], [*known, *words[1:]])
    if words[0] == "train":
        assert build_objective(config["objective"]).learned
        assert config["path"]["name"] in PATHS


@pytest.mark.parametrize("words", AT_ONCE, ids=shown)
def test_what_answers_at_once_is_run(words: list[str], tmp_path: Path) -> None:
    """The commands that take seconds are run as a person would."""
    done = subprocess.run([BIN / "cmm", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS if words == ["--help"])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """cmm VERB --help shows every option of the verb."""
    assert main([verb, "--help"]) == 0
    options = yaml.safe_load(config_file(verb).read_text()).keys() - {"defaults"}
    text = capsys.readouterr().out
    assert [option for option in options if f"{option}:" not in text] == []


def test_every_option_in_the_prose_exists() -> None:
    """`key=` in the text is an option of some verb; what open groups hold is checked where it is used."""
    root = config_folder()
    keys = {folder.name for folder in root.iterdir() if folder.is_dir()} | {"hydra.searchpath"}
    for file in [*root.glob("*.yaml"), *root.glob("*/*.yaml")]:
        prefix = "" if file.parent.name in ("configs", "verb") else f"{file.parent.name}."
        keys |= set(flat(yaml.safe_load(file.read_text()), prefix))
    named = {word for code in re.findall(r"`([^`]+)`", PROSE) for word in re.findall(r"^'?([a-z_][\w.]*)=", code)}
    assert len(named) > 10
    assert {word for word in named - keys if not word.startswith(OPEN)} == {"key"}
    assert set(re.findall(r"`((?:image|audio|text|video)/\w+)`", PROSE)) == set(experiments())


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")


def test_every_file_that_is_named_exists() -> None:
    """Links, pictures, and paths in the text that begin like one of the repository's; the examples' own are yet to be."""
    top = {entry.name for entry in ROOT.iterdir() if not entry.name.startswith(".")} - {"runs", "data", "bundle"}
    words = {word for code in re.findall(r"`([^`]+)`", PROSE) for word in code.split() if "NAME" not in word}
    named = {word for word in words if word.split("/")[0] in top} - FILES.keys()
    linked = {place for place in re.findall(r"\]\(([^)]+)\)", PROSE) if "://" not in place}
    assert len(named) > 8
    assert [path for path in sorted(named | linked) if not (ROOT / path).exists()] == []


def test_every_block_can_be_read() -> None:
    """Python compiles, YAML and TOML parse, and no language is left unread."""
    readers = {"python": lambda text: compile(text, "README.md", "exec"), "yaml": yaml.safe_load, "toml": tomllib.loads}
    readers |= {"sh": lambda text: shlex.split(text, comments=True), "text": str}
    for block in BLOCKS:
        readers[block.language](block.text)


def test_the_contract_is_complete() -> None:
    """The table of the contract names every method that a modality has to have, and every one that it may have."""
    table = PROSE[PROSE.index("## Adding a modality") : PROSE.index("## Exit codes")]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert named == {name for name in vars(Modality) if not name.startswith("_")}


def test_the_sizes_are_those_of_the_networks() -> None:
    """The parameters of each size are counted for 32x32 colour pictures in ten classes."""
    said = {name: float(count) for name, count in re.findall(r"`(?:net\.size=)?(\w+)`\s\(([\d.]+) M", PROSE)}
    spec = TensorSpec((3, 32, 32), 0.5, tuple("0123456789"))
    with torch.device("meta"):
        nets = {name: build_net({"size": name}, spec, two_times=True) for name in SIZES}
    assert said == {name: round(sum(p.numel() for p in net.parameters()) / 1e6, 1) for name, net in nets.items()}


@pytest.mark.parametrize(
    "name", ["suite ground_truth", "suite digits", "suite solvers", "suite worth", "headline small"]
)
def test_the_table_of_a_suite_is_the_measured_one(name: str) -> None:
    """What the README shows is what the suite wrote, or the headline of it."""
    shown, (part, suite) = TEXT.split(f"<!-- table: {name} -->")[1].split("<!-- end -->")[0].strip(), name.split()
    written = (ROOT / f"benchmarks/results/{suite}.md").read_text().strip()
    assert shown == (written.split("\n\n")[0] if part == "headline" else written)


class Skewed(ExactMap):
    """Jumps too far."""

    def mean_velocity(self, x: Tensor, s: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        return super().mean_velocity(x, s, t / 2, cond)


@pytest.mark.parametrize("path_name", ["linear", "edm", "trigflow"])
def test_the_objective_of_the_readme_holds_at_the_truth(path_name: str) -> None:
    """Off the diagonal its residual is zero at the exact map, and not where jumps do not add up."""
    data = Gaussian(torch.tensor([0.3, -0.2]).double(), torch.tensor([[0.5, 0.2], [0.2, 0.3]]).double())
    path, ids = build_path(path_name, data.sigma_data), torch.arange(256)
    objective = example()(Triangle(LogNormal(-0.4, 1.2), off_diagonal=1.0))
    batch, draws = Batch(data.sample(0, ids)), Draws(0, ids)
    right, wrong = (objective.loss(kind(data, path), batch, draws, 0.0) for kind in (ExactMap, Skewed))
    assert right.per_sample.max() < 1e-20
    assert wrong.per_sample.max() > 1e-4


def fresh_run(words: list[str]) -> None:
    """Leaves a run as `cmm train` would, but with the weights it begins with."""
    config = compose("train", [*words, *SMALL["train"]])
    record = RunRecord(Path(config["runs"]) / config["name"])
    parts = build_parts(config)
    record.prepare()
    record.start(config, {})
    averages = [Average(parts.flow_map.net, decay) for decay in build_decays(config["ema"])]
    write_snapshots(averages, [average.state_dict() for average in averages], 1, record.folder / "ema")
    card, begin = replace(parts.card, samples_seen=1), averages[0].state_dict()
    draw = torch.Generator().manual_seed(0)  # what is silent is refused
    moved = {name: value + 0.02 * torch.randn(value.shape, generator=draw) for name, value in begin.items()}
    checkpoints.save(record.checkpoints, 1, card, moved, {})


def program(block: Block) -> Iterator[list[str]]:
    """Yields the commands of the program in a block, those behind `make quickstart` too, that work on runs."""
    for words in block.commands():
        yield from quickstart() if words == ["make", "quickstart"] else []
        yield from [words[1:]] if words[0] == "cmm" and words[1:] in COMPOSED else []


def run_small(words: list[str], extended: str) -> None:
    """Runs a command of the program, on little."""
    if words[0] == "train":
        fresh_run([extended, *words[1:]])
    elif words[0] == "benchmark":
        with pytest.MonkeyPatch.context() as patch:
            patch.delitem(OBJECTIVES, Path(OBJECTIVE).stem)  # the settings of the README's own lie elsewhere
            assert main([*words, *SMALL[words[1]]]) == 0, shown(words)
    else:
        assert main([*words, *SMALL.get(words[0], ())]) == 0, shown(words)


def test_the_readme_runs_on_models_that_have_learned_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extended: str
) -> None:
    """All commands and examples in their order, and what they leave lies where the README says."""
    monkeypatch.chdir(tmp_path)
    write_all(Path("my"))
    for block in BLOCKS:
        for words in program(block):
            run_small(words, extended)
        if block.language == "python" and not block.file:
            exec(compile(block.text, "README.md", "exec"), {})
    assert Path("runs/mine/samples/map-steps2-seed0-n64/grid.png").stat().st_size > 500
    assert Path("compared.png").stat().st_size > 500
    assert sorted(file.name for file in Path("digits").glob("*.*")) == ["bundle.json", "weights.safetensors"]
    with np.load("many/samples.npz") as arrays:
        assert set(arrays.files) == {"x", "label", "sample_id", "seed"}


def table() -> list[list[str]]:
    """The rows of the digits table, cell by cell."""
    text = TEXT.split("<!-- table: digits -->")[1].split("<!-- end -->")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_the_table_says_what_was_measured() -> None:
    """Every row of the table is one of benchmarks/results/quickstart.json, in its order, and every figure is its figure."""
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    scores = {"accuracy": 4, "frechet": 3, "precision": 3, "recall": 3}
    expected = []
    for method in ("map", "diagonal", "flow_matching", "real"):
        for row in figures.get(method, []):
            cells = [f"{row[name][0]:.{d}f} ± {row[name][1]:.{d}f}" for name, d in scores.items()]
            alone = [cell.split(" ")[0] for cell in cells]
            expected.append(["", "", *alone] if method == "real" else [str(row["steps"]), str(row["calls"]), *cells])
    assert [row[1:] for row in table()] == expected


def evaluation(folder: Path, objective: str, rows: list[tuple[str, int]]) -> None:
    """Writes what an evaluation leaves, with scores that are easy to recognise."""
    protocol: dict[str, Any] = {"n": 1400, "seeds": [0, 1, 2], "reference": "test split", "features": "pixels", "k": 5}
    protocol |= {"classifier": "support vectors", "data": {"name": "digits"}, "samples_seen": 640, "commit": "c0ffee"}
    protocol |= {"objective": objective, "hardware": "cpu", "versions": "Python"}
    scores = [
        {"method": method, "steps": steps, "calls": steps, "seed": seed, "accuracy": 0.9 + seed / 100, "frechet": 1.0}
        for method, steps in rows
        for seed in range(1 if method == "real" else 3)
    ]
    (folder / "evaluation").mkdir(parents=True)
    record = {"protocol": protocol, "rows": [{**row, "precision": 0.5, "recall": 0.25} for row in scores]}
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(record))
    (folder / "speed.jsonl").write_text(json.dumps({"samples": 640, "samples_per_s": 4.0}) + "\n")


def fill(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "benchmarks" / "digits_table.py", root]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_table_is_filled_from_two_evaluations(tmp_path: Path) -> None:
    """benchmarks/digits_table.py writes means and half ranges, and leaves the rest of the page alone."""
    before = "above\n<!-- table: digits -->\nold\n<!-- end -->\nbelow\n"
    (tmp_path / "README.md").write_text(before)
    rows = [("real", 0), *(("diagonal", steps) for steps in (1, 2, 4, 8, 100))]
    assert "There is no" in fill(tmp_path).stderr
    evaluation(tmp_path / "runs/quickstart", "improved_mean_flow", [*rows, *(("map", n) for n in (1, 2, 4, 8))])
    evaluation(tmp_path / "runs/flow", "flow_matching", rows)
    done = fill(tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "benchmarks/results/quickstart.json").read_text())
    assert {method: len(figures[method]) for method in figures if method != "runs"} == {
        "map": 4, "diagonal": 5, "flow_matching": 5, "real": 1,
    }  # fmt: skip
    assert figures["map"][1] == {
        "steps": 2, "calls": 2, "accuracy": [pytest.approx(0.91), pytest.approx(0.01)], "frechet": [1.0, 0.0],
        "precision": [0.5, 0.0], "recall": [0.25, 0.0],
    }  # fmt: skip
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("above\n<!-- table: digits -->\n\n|")
    assert text.endswith("<!-- end -->\nbelow\n")
    assert text.count("0.9100 ± 0.0100") == 14
    assert "2.7 minutes" in text


def copy_of_the_tree(folder: Path) -> Path:
    """Copies what git knows, or would know, of the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def in_full(block: Block) -> Iterator[list[str]]:
    """Yields what a reader types, with this environment in the place of the one that `make` would set up."""
    for words in block.commands():
        if words[0] == "make" and words[1] not in ELSEWHERE:
            yield ["make", f"BIN={BIN}", "-o", ".venv/.installed", *words[1:]]
        elif words[0] in ("cmm", "python", "torchrun"):
            yield [str(BIN / words[0]), *words[1:]]
    if block.language == "python" and not block.file:
        yield [sys.executable, "-c", block.text]


@pytest.mark.slow
@pytest.mark.readme
def test_the_readme_runs(tmp_path: Path) -> None:
    """Every command and example, for real, in the README's order, in a copy of the tree."""
    root = copy_of_the_tree(tmp_path / "copy")
    write_all(root / "my")
    env = {**os.environ, "PYTHONPATH": str(root), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    for block in BLOCKS:
        if block.file:
            (root / block.file).write_text(block.text)
        for command in in_full(block):
            print("$", shown(command), flush=True)
            done = subprocess.run(command, cwd=root, env=env, timeout=3600, check=False)
            assert done.returncode == 0, f"{shown(command)} left with {done.returncode}"
    assert "Not measured yet" not in (root / "README.md").read_text()
    assert (root / "compared.png").stat().st_size > 500
