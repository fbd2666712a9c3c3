"""FVD's features are those of the user's own file, by the usual protocol; nothing is called by their name without that file.

The published network is not here. The one of the tests is a TorchScript file that is called alike and answers what it saw.
"""

import pytest
import torch

from cm_multimodal.errors import DataError, UsageError
from cm_multimodal.files import digest
from cm_multimodal.scripted import Scripted
from modalities.video import i3d, metrics
from pathlib import Path
from torch import Tensor, nn
from typing import Any

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Seeing(nn.Module):
    """Answers the mean of each colour, the mean of each half of the clip, the extremes and the shape of what it sees."""

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> Tensor:
        assert return_features
        assert not rescale
        assert not resize
        half = x.shape[2] // 2
        flat, first = x.flatten(1), x[:, :, :half].flatten(1)
        means = torch.stack([first.mean(1), flat.amin(1), flat.amax(1)], dim=1)
        shape = torch.tensor(x.shape[1:]).to(x.dtype).expand(len(x), -1)
        return torch.cat([x.flatten(2).mean(2), means, shape], dim=1)


class Other(nn.Module):
    """Takes clips, and knows none of the switches."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def saved(net: nn.Module, file: Path) -> dict[str, Any]:
    torch.jit.script(net).save(str(file))
    return {"features": "i3d", "feature_weights": str(file)}


def test_clips_reach_the_network_as_the_protocol_says(tmp_path: Path) -> None:
    """Three colours, all frames, 224x224, from -1 to 1: a row a clip, of grey ones and of coloured ones, in their order."""
    config = saved(Seeing(), tmp_path / "mine.pt")
    raw = torch.zeros(11, 10, 1, 16, 24, dtype=torch.uint8)
    raw[:, 5:] = 255
    raw[3] = 51
    rows = metrics.features(raw, config)
    assert (rows.shape, rows.dtype) == ((11, 10), torch.float64)
    assert torch.allclose(rows[0], torch.tensor([0, 0, 0, -1, -1, 1, 3, 10, 224, 224], dtype=torch.float64))
    assert torch.allclose(rows[3, :6], torch.tensor(51 / 127.5 - 1, dtype=torch.float64).expand(6))
    colours = torch.zeros(1, 10, 3, 8, 8, dtype=torch.uint8)
    colours[:, :, 1] = 255
    assert torch.allclose(metrics.features(colours, config)[0, :3], torch.tensor([-1.0, 1.0, -1.0]).double())
    assert metrics.extractor(config) == f"i3d, network {digest(tmp_path / 'mine.pt')}"


def test_frames_are_enlarged_without_a_filter() -> None:
    """Between two pixels values lie on a line; at the border the pixel itself goes on."""
    seen: list[Tensor] = []

    def run(x: Tensor, **switches: bool) -> Tensor:
        seen.append(x)
        return x.flatten(1)

    raw = torch.zeros(1, 10, 1, 2, 2, dtype=torch.uint8)
    raw[..., 1] = 255
    i3d.embeddings(raw, Scripted(run, "i3d", i3d.FILE))
    line = seen[0][0, 0, 0, 0]
    place = ((torch.arange(224) + 0.5) / 112 - 0.5).clamp(0, 1)
    assert torch.allclose(line, 2 * place - 1, atol=1e-5)


def test_what_cannot_be_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, no TorchScript, another network, clips that are too short: a sentence each."""
    clips = torch.zeros(2, 10, 1, 8, 8, dtype=torch.uint8)
    monkeypatch.setenv("CMM_DATA", str(tmp_path))
    with pytest.raises(UsageError, match=r"no file '.*i3d_torchscript\.pt': type feature_weights=PATH"):
        metrics.features(clips, {"features": "i3d"})
    (tmp_path / "broken.pt").write_bytes(b"no network")
    with pytest.raises(DataError, match="cannot be read as a TorchScript file"):
        metrics.features(clips, {"features": "i3d", "feature_weights": tmp_path / "broken.pt"})
    with pytest.raises(DataError, match="holds another network"):
        metrics.features(clips, saved(Other(), tmp_path / "other.pt"))
    with pytest.raises(UsageError, match="at least 10 frames; these have 9"):
        metrics.features(clips[:, :9], saved(Seeing(), tmp_path / "mine.pt"))
