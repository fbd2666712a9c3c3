r"""A synthetic data set that was stopped by force goes on, and becomes the set that it would have been."""

import errno
import pytest
import random
import time

from cm_multimodal import cli
from cm_multimodal.synthesis.record import SetFolder
from harness import start
from own_files import tree, write_model
from pathlib import Path

pytestmark = pytest.mark.robustness
ORDER = ("synth", "bundle=bundle", "n=70", "shard=16", "data.name=digits", "processes=1")


@pytest.fixture(autouse=True)
def _model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("total", "kills", "processes"), [(600, 3, 1), pytest.param(5000, 20, 2, marks=pytest.mark.slow)]
)
def test_a_set_that_was_killed_is_the_same(tmp_path: Path, total: int, kills: int, processes: int) -> None:
    """SIGKILL at any moment; the same command goes on, and the bytes are those of no kill."""
    words = ["synth", "bundle=bundle", f"n={total}", "shard=32", "steps=4", "data.name=digits"]
    assert cli.main([*words, "out=whole", "processes=1"]) == 0
    words += ["out=set", f"processes={processes}"]
    chance, records = random.Random(0), tmp_path / "set/records"
    for _ in range(kills):
        shards = len(list(records.glob("*.json")))
        life = start(*words)
        life.wait_for(lambda before=shards: len(list(records.glob("*.json"))) > before)
        time.sleep(chance.uniform(0, 0.2))
        life.kill()
    assert not (tmp_path / "set/SHA256SUMS").exists()
    assert start(*words).wait() == 0
    assert tree(tmp_path / "set") == tree(tmp_path / "whole")


def test_a_full_disk_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a sentence with exit code 3; shards that were written stay, and the same command goes on from them."""
    keep = SetFolder.write_shard

    def full(self: SetFolder, shard: object) -> None:
        if getattr(shard, "number", 0) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        keep(self, shard)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(SetFolder, "write_shard", full)
        assert cli.main([*ORDER, "out=set"]) == 3
    assert "Make room" in capsys.readouterr().err
    assert SetFolder(tmp_path / "set").whole(1)
    assert cli.main([*ORDER, "out=set"]) == 0
    assert cli.main([*ORDER, "out=whole"]) == 0
    assert tree(tmp_path / "set") == tree(tmp_path / "whole")


def test_one_process_a_share(tmp_path: Path) -> None:
    """The same command twice at a time would do the same work twice: the second one is told so; another share may work."""
    folder = SetFolder(tmp_path / "set")
    assert cli.main([*ORDER, "out=set", "share=1/2"]) == 0
    with folder.held("share-0-of-2"):
        life = start(*ORDER, "out=set", "share=0/2")
        assert life.wait() == 2
        assert "makes this part" in life.text()
    assert start(*ORDER, "out=set", "share=0/2").wait() == 0
    assert folder.sums.exists()
    assert not list(folder.folder.glob(".*"))
