r"""One run that is killed again and again ends where a run that was left alone does, bit for bit (case 19).

`make soak KILLS=100`. Half of the kills come at random times, the other half as soon as a checkpoint is seen being
written. Now and then the newest checkpoint is damaged as well.
"""

import os
import pytest
import random
import time

from harness import QUICK, Life, assert_same_run, empty, live, start
from pathlib import Path

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.usefixtures("empty")]
__all__ = ["empty"]
CHECKPOINTS = Path("runs/killed/checkpoints")
EVERY = 256


def words(kills: int) -> tuple[str, ...]:
    return (
        *QUICK,
        f"train.samples={EVERY * (kills + 2)}",
        f"train.checkpoint_every={EVERY}",
        "train.preview_every=4096",
    )


def parts() -> list[Path]:
    return [*CHECKPOINTS.glob("step-*.tmp"), *CHECKPOINTS.glob(".*.tmp")]


def kill(life: Life, chance: random.Random, seconds: float) -> bool:
    """Kills a life, at a random time or while it saves; says whether it had not ended before."""
    life.wait_for(lambda: "parameters, batch" in life.text())
    if chance.random() < 0.5:
        time.sleep(chance.uniform(0, 2 * seconds))
    else:
        deadline = time.monotonic() + 30
        while life.process.is_alive() and not parts() and time.monotonic() < deadline:
            time.sleep(0.0005)
        time.sleep(chance.uniform(0, 0.02))
    alive = life.process.is_alive()
    life.kill()
    return alive


def damage(chance: random.Random) -> bool:
    """Flips a byte of the newest of at least two checkpoints, now and then."""
    there = sorted(CHECKPOINTS.glob("step-*[0-9]"))
    if len(there) < 2 or chance.random() > 0.1:
        return False
    file = chance.choice(sorted(there[-1].iterdir()))
    data = bytearray(file.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    file.write_bytes(data)
    return True


def test_a_run_survives_any_number_of_kills(capsys: pytest.CaptureFixture[str]) -> None:
    """Weights, optimiser, averages, counters, snapshots, bundle and metrics.jsonl are those of a run left alone."""
    wanted, chance = int(os.environ.get("KILLS", "5")), random.Random(0)
    begin = time.monotonic()
    assert live("train", *words(wanted), "name=whole")[0] == 0
    seconds = 0.6 * (time.monotonic() - begin) / (wanted + 2)
    kills, saving, damaged, reported = 0, 0, 0, 0
    while kills < wanted:
        life = start("train", *words(wanted), "name=killed")
        assert kill(life, chance, seconds), f"it ended after {kills} kills:\n{life.text()}"
        kills += 1
        saving += bool(parts())
        damaged += damage(chance)
        reported += life.text().count("is damaged")
    life = start("train", *words(wanted), "name=killed")
    assert life.wait() == 0, life.text()
    reported += life.text().count("is damaged")
    assert_same_run("runs/whole", "runs/killed")
    assert reported >= damaged
    with capsys.disabled():
        print(
            f"\n  {kills} kills, {saving} of them while a checkpoint was being written; {damaged} checkpoints damaged on "
            f"top, all found; {reported} reports of damage; runs lost: 0"
        )
