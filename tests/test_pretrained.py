"""Beginning with the weights of another network: it computes what that one did, and a run says what it took."""

import json
import pytest
import torch

from cm_multimodal.batch import Conditions, told
from cm_multimodal.bundle import read_bundle
from cm_multimodal.derivatives import perturbed
from cm_multimodal.modality import TensorSpec
from cm_multimodal.training.pretrained import fitting
from collections.abc import Callable
from modalities.audio.net import build_net as audio_net
from modalities.image.net import build_net as image_net
from modalities.text.net import build_net as text_net
from modalities.video.net import build_net as video_net
from pathlib import Path
from PIL import Image
from torch import Tensor, nn
from typing import Any

Cmm = Callable[..., int]
CLASSES = ("a", "b")
SMALL: dict[str, Any] = {"channels": 16, "multipliers": [1, 2], "blocks": 1}
TRANSFORMER: dict[str, Any] = {"name": "transformer", "width": 32, "depth": 2, "heads": 2}
NETS: dict[str, tuple[Any, dict[str, Any], TensorSpec]] = {
    "pictures": (image_net, SMALL, TensorSpec((1, 8, 8), 0.5, CLASSES)),
    "clips": (video_net, SMALL, TensorSpec((1, 4, 8, 8), 0.5, CLASSES)),
    "frames": (video_net, TRANSFORMER, TensorSpec((1, 4, 8, 8), 0.5, CLASSES)),
    "sounds": (audio_net, {**SMALL, "patch": 2}, TensorSpec((1, 8, 8), 0.5, CLASSES)),
    "texts": (text_net, {"channels": 32, "blocks": 1}, TensorSpec((8, 16), 0.25, CLASSES)),
}  # fmt: skip
TIMES = torch.tensor([0.4, 1.1], dtype=torch.float64)
LABEL = torch.tensor([0, 1])
QUICK = (
    "experiment=image/smoke", "net.channels=8", "train.samples=256", "train.batch=64", "train.checkpoint_every=256",
    "train.preview_every=256", "train.threads=1",
)  # fmt: skip


def build(name: str, two_times: bool = True, **more: Any) -> nn.Module:
    make, config, spec = NETS[name]
    torch.manual_seed(len(more) + two_times)
    return make({**config, **more}, spec, two_times)


def begun(net: nn.Module, other: nn.Module) -> nn.Module:
    """Returns a network, in float64, that began with the weights of another."""
    net.double().load_state_dict(fitting(net, other.state_dict()), strict=False)
    return net


def states(name: str) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, *NETS[name][2].shape, dtype=torch.float64)


@pytest.mark.parametrize("name", NETS)
def test_jumps_begin_where_a_flow_ended(name: str) -> None:
    """A network that is told a second time, by weights of one that was told one, draws the same whatever that time is."""
    flow, x, cond = perturbed(build(name, two_times=False)), states(name), Conditions(LABEL)
    jumps = begun(build(name), flow)
    assert torch.equal(jumps(x, TIMES, TIMES / 2, cond), jumps(x, TIMES, TIMES, cond))
    assert torch.allclose(jumps(x, TIMES, TIMES / 2, cond), flow(x, TIMES, TIMES, cond), atol=1e-12)


def test_clips_begin_with_pictures() -> None:
    """A network of clips, by weights of one of pictures, draws every frame of a clip that stands still as that one would."""
    pictures, cond = perturbed(build("pictures")), Conditions(LABEL)
    clips, x = begun(build("clips"), pictures), states("pictures")
    still = x[:, :, None].expand(-1, -1, 4, -1, -1)
    drawn = pictures(x, TIMES, TIMES / 2, cond)
    assert torch.allclose(clips(still, TIMES, TIMES / 2, cond), drawn[:, :, None].expand_as(still), atol=1e-12)
    assert {name for name in clips.state_dict() if name not in pictures.state_dict()} == {
        name for name in clips.state_dict() if "between" in name
    }


@pytest.mark.parametrize("name", ["clips", "frames"])
def test_what_is_told_begins_at_nothing(name: str) -> None:
    """A network that is told parts of samples, by weights of one that was not, draws the same whatever it is told."""
    plain, x = perturbed(build(name)), states(name)
    informed, where = begun(build(name, known=True), plain), torch.ones(1, 1, 4, 1, 1)
    told_all = Conditions(LABEL, known=told(x, where))
    drawn = informed(x, TIMES, TIMES / 2, told_all)
    assert torch.allclose(drawn, plain(x, TIMES, TIMES / 2, Conditions(LABEL)), atol=1e-12)


@pytest.mark.parametrize(
    ("own", "name"),
    [
        (
            build("sounds", known=True),
            "unet.enter.weight",
        ),  # what it is told stands between the state and what else it sees
        (build("pictures", two_times=False), "embedding.mix.weight"),
        (build("pictures", multipliers=[1, 3]), "down.2.block.conv_in.weight"),
        (build("pictures", blocks=2), "down.1.weight"),
        (build("clips", patch=2), "enter.weight"),
    ],
)
def test_what_would_be_out_of_place_is_refused(own: nn.Module, name: str) -> None:
    """No layer grows that does not say how, nothing is cut, and no weight of the other network is left over."""
    other = build("sounds" if name.startswith("unet") else "pictures")
    with pytest.raises(ValueError, match=f"its '{name}' has the shape"):
        fitting(own, other.state_dict())


def test_a_run_begins_with_the_weights_of_another(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what it took, keeps their checksum, starts from them to the bit, and goes on when they are gone."""
    assert cmm("train", *QUICK, "name=first", "objective=flow_matching") == 0
    second = ("train", *QUICK, "name=second", "weights=runs/first", "optimizer.lr=1e-30")
    capsys.readouterr()
    assert cmm(*second) == 0
    assert "begun with 100 % of the weights from 'runs/first' (256 samples)\n" in capsys.readouterr().out
    first, mine = (read_bundle(Path(f"runs/{name}/bundle")).flow_map.net.state_dict() for name in ("first", "second"))
    mix = "embedding.mix.weight"
    whole = {**first, mix: torch.nn.functional.pad(first[mix], (0, first[mix].shape[1]))}
    assert all(torch.allclose(value, mine[name], rtol=0, atol=1e-20) for name, value in whole.items())
    assert len(json.loads(Path("runs/second/env.json").read_text())["weights"]) == 64
    Path("runs/first").rename("runs/elsewhere")
    assert cmm(*second, "train.samples=512") == 0
    assert "begun with" not in capsys.readouterr().out
    assert cmm("train", *QUICK, "name=second", "weights=runs/elsewhere") == 2
    assert "weights: runs/first -> runs/elsewhere" in capsys.readouterr().err


def test_classes_keep_their_names(cmm: Cmm, tmp_path: Path) -> None:
    """Of classes that both know the embeddings are kept, and the others begin as that of none; without any, none are."""
    for name, classes in {"two": "ab", "others": "bcd", "plain": ""}.items():
        for index in range(16):
            file = tmp_path / name / (classes[index % len(classes)] if classes else ".") / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 10 * index).save(file)
    table = "embedding.label.weight"

    def trained(folder: str, name: str, *words: str) -> dict[str, Tensor]:
        data = (
            "data=folder",
            f"data.folder={folder}",
            "data.test_fraction=0",
            "data.channels=1",
            "train.drop_label=0.1",
        )
        assert cmm("train", *QUICK, *data, "optimizer.lr=1e-30", f"name={name}", *words) == 0
        return dict(read_bundle(Path(f"runs/{name}/bundle")).flow_map.net.state_dict())

    two = trained("two", "two")
    others = trained("others", "others", "weights=runs/two/bundle")
    plain = trained("plain", "plain", "weights=runs/two")
    assert torch.allclose(others.pop(table), two[table][[1, 2, 2, 2]], atol=1e-20)
    assert table not in plain
    for net in (others, plain):
        assert all(torch.allclose(value, two[name], rtol=0, atol=1e-20) for name, value in net.items())
    again = trained("two", "again", "weights=runs/plain", "seed=1")[table]
    assert again.std() > 0.5
    assert not torch.equal(again, two[table])


def test_weights_that_are_of_no_use_are_refused(cmm: Cmm, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing there, another path, another width: a sentence each, before a run is begun; a changed run is shown the way."""
    assert cmm("train", *QUICK, "name=first") == 0
    step = "runs/first/checkpoints/step-000000000256"
    capsys.readouterr()
    for words, sentence in {
        ("weights=runs/none",): "There is no folder 'runs/none'. Runs beside it: runs/first.",
        ("weights=runs/first", "path=trigflow"): "has the path 'linear', this one 'trigflow'",
        ("weights=runs/first", "objective=denoising"): "has the scaling 'euler'",
        ("weights=runs/first", "net.channels=24"): "shape (1, 8, 8) with net.size=xs, ",
        (f"resume={step}", "seed=1"): f"Begin with its weights alone, weights={step} instead of resume=, or undo",
    }.items():
        assert cmm("train", *QUICK, "name=second", *words) == 2
        assert sentence in capsys.readouterr().err
    assert not Path("runs/second").exists()
