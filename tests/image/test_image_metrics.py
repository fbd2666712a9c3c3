r"""Features for distances are what their names say."""

import numpy as np
import pytest
import torch

from cm_multimodal.errors import DataError, UsageError
from cm_multimodal.listing import data_root
from modalities.image.metrics import features
from pathlib import Path
from PIL import Image

ROOT = data_root(None)
WEIGHTS = ROOT / "features" / "cifar10_resnet20.npz"
SHEET = ROOT / "image" / "cifar10" / "lossless_test_0000_0999.png"


@pytest.mark.skipif(not (WEIGHTS.exists() and SHEET.exists()), reason=f"there are no CIFAR-10 features in '{ROOT}'")
def test_resnet20_features_recognise_real_pictures() -> None:
    """With the classifier's own last layer the 64 features name nine in ten of real, lossless test pictures."""
    pixels = np.asarray(Image.open(SHEET).convert("RGB")).reshape(1000, 32, 32, 3)[:400]
    labels = np.load(SHEET.with_name("labels_original_order.npz"))["test_first1000"][:400]
    found = features(torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2), {"features": "resnet20", "root": ROOT})
    assert found.shape == (400, 64)
    weights = {name.removeprefix("module."): value for name, value in np.load(WEIGHTS).items()}
    scores = found.numpy() @ weights["linear.weight"].T + weights["linear.bias"]
    assert (scores.argmax(axis=1) == labels).mean() > 0.88


def test_features_that_cannot_be_had_are_a_sentence(tmp_path: Path) -> None:
    """Unknown names, other sizes, missing and damaged weights."""
    grey, colour = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert features(grey, {}).shape == (2, 64)
    with pytest.raises(UsageError, match="did you mean 'pixels'"):
        features(grey, {"features": "pixel"})
    with pytest.raises(UsageError, match="32x32 colour"):
        features(grey, {"features": "resnet20"})
    with pytest.raises(UsageError, match=r"set data\.root="):
        features(colour, {"features": "resnet20", "root": tmp_path})
    (tmp_path / "features").mkdir()
    for content in (b"", b"PK\x03\x04damaged", b"\x80\x04K\x01."):
        (tmp_path / "features" / "cifar10_resnet20.npz").write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            features(colour, {"features": "resnet20", "root": tmp_path})
