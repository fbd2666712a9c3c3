r"""Where steps should lie: the search keeps to its budget, and what it finds is a grid that other commands take."""

import json
import pytest
import re
import torch

from cm_multimodal.errors import UsageError
from cm_multimodal.evaluation.reference import Reference
from cm_multimodal.evaluation.tuning import tune
from cm_multimodal.generation.sampling import collect, make_plan
from cm_multimodal.modality import Dataset, Splits
from cm_multimodal.model import Model
from itertools import pairwise
from pathlib import Path
from test_generation import WHOLE

RAW = torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
SPLITS = Splits(Dataset(RAW[:30]), Dataset(RAW[30:]))
GROUND = Reference(WHOLE.modality, SPLITS, {"seeds": [0, 1]}, 8, {})


def quiet(line: str) -> None:
    pass


@pytest.mark.parametrize("how", [{}, {"solver": {"name": "dpm_solver_pp"}}, {"sampler": "renoise"}])
def test_the_search_ends_with_the_best_grid_that_it_tried(how: dict[str, object]) -> None:
    """Of the budget, in falling order, from the usual first ratio on; every line that it reports is a better one."""
    lines: list[str] = []
    tuned = tune(Model(WHOLE), GROUND, 3, 9, lines.append, **how)
    distances = [float(found[1]) for line in lines if (found := re.search(r"Fréchet ([\d.]+)", line))]
    assert tuned.evaluations == 9
    assert len(tuned.grid) == len(tuned.usual) == 3
    assert tuned.grid[0] == pytest.approx(80, rel=1e-3)
    assert all(high > low > 0 for high, low in pairwise(tuned.grid))
    assert all(better <= worse for worse, better in pairwise(distances))
    assert {name: len(scores) for name, scores in tuned.scores.items()} == {"usual": 2, "tuned": 2}
    assert (tuned.grid != tuned.usual) == bool(lines)


def test_a_tuned_grid_is_taken_from_its_file(tmp_path: Path) -> None:
    """The file and the ratios in it are the same samples; a file without a grid is a sentence."""
    file = tmp_path / "map-steps2.json"
    file.write_text(json.dumps({"grid": [80.0, 1.5]}))
    named, given = (collect(WHOLE, make_plan(WHOLE, n=3, steps=2, grid=grid)).raw for grid in (str(file), [80.0, 1.5]))
    assert torch.equal(named, given)
    for content in ("[]", "{}", "not json"):
        file.write_text(content)
        with pytest.raises(UsageError, match="holds no grid"):
            make_plan(WHOLE, steps=2, grid=str(file))


def test_one_step_leaves_nothing_to_choose() -> None:
    with pytest.raises(UsageError, match="steps is at least 2"):
        tune(Model(WHOLE), GROUND, 1, 5, quiet)
