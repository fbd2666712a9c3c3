"""What a stranger gets: a wheel that trains anywhere, pins that hold, and nothing of the machine it was made on."""

import ast
import os
import pytest
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile

from importlib.metadata import packages_distributions
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("cm_multimodal", "modalities")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*command: object, cwd: Path, timeout: float = 300) -> str:
    """Runs a command as a stranger would, without this process's import path or data, and returns what it printed."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "CMM_", "COV_"))}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} left with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The `bin` folder of an environment that holds the wheel and sees the dependencies of this one.

    A path file lends it the folders of this environment's packages. Path files in there are not followed, so that an
    editable install of the checkout stays out of sight.
    """
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text("\n".join(sorted(here)) + "\n")
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", wheel, cwd=folder.parent)
    return folder / "bin"


def test_the_wheel_holds_the_packages_and_the_configs(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    code = {str(file.relative_to(ROOT)) for package in PACKAGES for file in (ROOT / package).rglob("*.py")}
    configs = {f"cm_multimodal/{file.relative_to(ROOT)}" for file in (ROOT / "configs").rglob("*.yaml")}
    assert names == code | configs
    assert any(name.startswith("cm_multimodal/configs/experiment/image/") for name in names)


def test_the_wheel_says_what_it_is(wheel):
    archive = zipfile.ZipFile(wheel)
    about = {Path(name).name: name for name in archive.namelist() if ".dist-info/" in name}
    assert "cmm = cm_multimodal.cli:main" in archive.read(about["entry_points.txt"]).decode()
    assert "License-Expression: Apache-2.0" in archive.read(about["METADATA"]).decode()
    assert "Apache License" in archive.read(about["LICENSE"]).decode()


def test_the_installed_wheel_is_what_is_imported(environment, tmp_path):
    question = "import cm_multimodal as c, modalities as m, sys; print(c.__file__, m.__file__, *sys.path, sep='\\n')"
    core, adapters, *path = run(environment / "python", "-c", question, cwd=tmp_path).splitlines()
    assert Path(core).is_relative_to(environment.parent)
    assert Path(adapters).is_relative_to(environment.parent)
    assert str(ROOT) not in path


def test_the_installed_wheel_trains_from_another_folder(environment, tmp_path):
    run(environment / "cmm", "train", "experiment=image/smoke", "name=wheel", "train.samples=1280", cwd=tmp_path)
    folder = tmp_path / "runs" / "wheel"
    assert (folder / "config.yaml").read_text()
    assert (folder / "metrics.jsonl").read_text()
    assert any((folder / "checkpoints").iterdir())
    assert any(file.stat().st_size for file in (folder / "samples").glob("*.png"))


def declared(*extras: str) -> list[Requirement]:
    project = PROJECT["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return [Requirement(text) for texts in lists for text in texts]


def test_every_requirement_is_pinned_to_one_version_that_satisfies_it():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = dict(re.fullmatch(r"([a-z0-9-]+)==([0-9a-z.]+)", line).groups() for line in lines)
    assert len(pins) == len(lines)
    build = [Requirement(text) for text in PROJECT["build-system"]["requires"]]
    for requirement in [*declared("dev"), *build]:
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    assert pins["torch"] == pins["torchaudio"]


def test_every_import_is_declared():
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    plain = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    taken = {str(node.module).split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    providers = packages_distributions()
    known = {canonicalize_name(requirement.name) for requirement in declared("video", "judges", "parquet")}
    for name in (plain | taken) - sys.stdlib_module_names - set(PACKAGES):
        assert known & {canonicalize_name(provider) for provider in providers[name]}, (
            f"'{name}' is not in pyproject.toml"
        )


def test_nothing_names_the_machine_or_the_registry():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    places = "|".join(["work", "root", "home", "opt", "tmp/v"])
    foreign = re.compile(rf"(?<![\w.~*}})/-])/({places})/|python" + r"hosted\.|pypi" + r"\.org", re.ASCII)
    found = []
    for file in (ROOT / name for name in listed.split("\0") if name):
        if file.is_file() and b"\0" not in (data := file.read_bytes()):
            lines = enumerate(data.decode("utf-8", "replace").splitlines(), 1)
            found += [
                f"{file.relative_to(ROOT)}:{number}: {line[:160]}" for number, line in lines if foreign.search(line)
            ]
    assert not found, "\n".join(["", *found])
