r"""VGGish is the published one: its front end, its layers, its file; and nothing is called by its name without that file.

The network has 72 million weights. Those of the tests are rows of one random line, each a step further along it, so that a
file of them is small; they are read and used as any.
"""

import hashlib
import librosa
import math
import numpy as np
import pytest
import safetensors.torch
import torch

from cm_multimodal.errors import DataError, UsageError
from cm_multimodal.evaluation.frechet import frechet_distance
from cm_multimodal.evaluation.reference import Reference
from cm_multimodal.evaluation.runner import real_row
from cm_multimodal.modality import Dataset, Splits
from modalities.audio import metrics, vggish
from modalities.audio.adapter import AudioModality
from modalities.audio.clips import to_int16
from pathlib import Path
from torch import Tensor, nn

RATE = 16_000


def noise(count: int, samples: int) -> Tensor:
    return 0.1 * torch.randn(count, samples, generator=torch.Generator().manual_seed(0))


def tones(count: int, samples: int, rate: int = RATE) -> Tensor:
    pitch = 220 * 2 ** (torch.arange(count) / 12)
    return 0.3 * torch.sin(2 * torch.pi * pitch[:, None] * torch.arange(samples) / rate)


def published() -> dict[str, Tensor]:
    """A state dict of the published names and shapes."""
    draw, state = torch.Generator().manual_seed(1), {}
    for name, (rows, *rest) in vggish.SHAPES.items():
        size = math.prod(rest)
        line = (2 / size) ** 0.5 * torch.randn(rows + size - 1, generator=draw)
        state[name] = line.as_strided((rows, size), (1, 1)).view(rows, *rest) if rest else 0.05 * line[:rows]
    return state


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state dict as torch saves it, beside what else the port keeps in it."""
    place = tmp_path_factory.mktemp("weights") / "vggish.pth"
    torch.save({**published(), "pproc.pca_means": torch.zeros(128, 1)}, place)
    return place


def test_the_front_end_is_the_published_one() -> None:
    """The logarithms agree with librosa's transform, and with triangles that are interpolated over its mel scale."""
    wave = noise(1, 20_000) + tones(1, 20_000)
    ends = (vggish.FFT - vggish.WINDOW) // 2  # librosa's windows lie in the middle of what is transformed
    padded = np.pad(wave[0].double().numpy(), ends)
    size = np.abs(librosa.stft(padded, n_fft=512, hop_length=160, win_length=400, window="hann", center=False))
    mel = librosa.hz_to_mel(librosa.fft_frequencies(sr=RATE, n_fft=512), htk=True)
    corners = np.linspace(*librosa.hz_to_mel([125.0, 7500.0], htk=True), 66)
    bands = [np.interp(mel, corners[band : band + 3], [0, 1, 0]) for band in range(64)]
    expected = np.log(np.stack(bands) @ size + 0.01).T[:96]
    found = vggish.patches(wave)
    assert found.shape == (1, 1, 96, 64)
    assert np.abs(found[0, 0].numpy() - expected).max() < 1e-3
    assert found.std() > 0.5


def test_clips_become_patches() -> None:
    """A short one is followed by silence, what is left behind the last patch does not count, and any rate will do."""
    counts = {4800: 1, 15_599: 1, 15_600: 1, 30_959: 1, 30_960: 2, 46_320: 3}
    assert {samples: vggish.patches(noise(2, samples)).shape[1] for samples in counts} == counts
    short = vggish.patches(noise(1, 4800))[0, 0]
    assert torch.allclose(short[30:], torch.tensor(0.01).log())
    assert (short[:27] > -4).all()
    some = noise(1, 40_000)
    assert torch.equal(vggish.patches(some)[:, 0], vggish.patches(some[:, :15_600])[:, 0])
    low, high = (vggish.resampled(tones(3, rate, rate), rate, RATE) for rate in (8000, RATE))
    assert (vggish.patches(low) - vggish.patches(high))[:, :, 2:94].abs().mean() < 0.02


def test_the_network_is_the_published_one(file: Path) -> None:
    """The public port's layers, with its names and its order of places and channels, but for the last rectifier."""
    layers: list[nn.Module] = []
    with torch.device("meta"):
        for given, wanted, halved in (
            (1, 64, True), (64, 128, True), (128, 256, False), (256, 256, True), (256, 512, False), (512, 512, True),
        ):  # fmt: skip
            layers += [nn.Conv2d(given, wanted, 3, padding=1), nn.ReLU(), *([nn.MaxPool2d(2, 2)] * halved)]
        linear = [nn.Linear(512 * 6 * 4, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 128)]
        port = nn.ModuleDict({"features": nn.Sequential(*layers), "embeddings": nn.Sequential(*linear)})
    port.load_state_dict(published(), assign=True)
    x = vggish.patches(noise(3, 15_600))
    with torch.no_grad():
        maps = port["features"](x)
        expected = port["embeddings"](maps.transpose(1, 3).transpose(1, 2).contiguous().view(3, -1))
    found = vggish.embed(x[:, 0], vggish.weights_of({"feature_weights": file}))
    assert found.shape == (3, 128)
    assert (found < 0).any()
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_the_distance_of_sounds(file: Path, tmp_path: Path) -> None:
    """Equal clips have none, noise is far from tones; a file that is not named lies below the data root."""
    config = {"features": "vggish", "feature_weights": str(file)}
    tone, hiss = (metrics.features(to_int16(wave), RATE, config) for wave in (tones(6, 8000), noise(6, 8000)))
    assert (tone.shape, tone.dtype) == ((6, 128), torch.float64)
    assert frechet_distance(tone, tone) == pytest.approx(0, abs=1e-6 * float(tone.square().sum(dim=1).mean()))
    assert frechet_distance(tone, hiss) > 5 * frechet_distance(hiss[:3], hiss[3:])
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "vggish.pth").symlink_to(file)
    assert metrics.extractor({"features": "vggish", "root": tmp_path}) == f"vggish, weights {digest(file)}"


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def test_a_score_says_whose_features_it_is_of(file: Path) -> None:
    """Each patch is a row, whatever the class of its clip; the record names the network and its file's checksum."""
    raw, label = to_int16(torch.cat([tones(3, 32_000), noise(3, 32_000)])), torch.arange(6) // 3
    part = Dataset(raw, label, classes=("tone", "noise"))
    data = {"name": "strings", "length": 32_000, "rate": RATE}
    audio = AudioModality(AudioModality.describe(part, data))
    settings = {"features": "vggish", "feature_weights": file, "also": ["kernel", "diversity"], "accuracy": False}
    ground = Reference(audio, Splits(part, part), settings, 6, settings)
    assert ground.features.shape == (12, 128)
    assert ground.extractor == f"vggish, weights {digest(file)}"
    row = real_row(ground)
    assert row.also["diversity"] == pytest.approx(1)
    assert row.frechet == pytest.approx(0, abs=1e-3)
    for name in ("bands", "own"):
        own = {"features": name, "feature_weights": file}
        assert Reference(audio, Splits(part, part), own, 8, own).extractor == name


def test_what_is_no_file_of_weights_is_said(tmp_path: Path, file: Path) -> None:
    """No such file, no weights, other weights, and pickles that would run something: each is a sentence."""
    raw = to_int16(tones(2, 8000))

    def says(place: Path, kind: type[Exception], words: str) -> None:
        with pytest.raises(kind, match=words):
            metrics.features(raw, RATE, {"features": "vggish", "feature_weights": place})

    with pytest.raises(UsageError, match=r"no file '.*vggish\.pth': type feature_weights=PATH"):
        metrics.features(raw, RATE, {"features": "vggish", "root": tmp_path})
    says(tmp_path / "none.pth", UsageError, "feature_weights=PATH")
    says(tmp_path, UsageError, "no file")
    for name, content in (("empty.pth", b""), ("text.pth", b"weights"), ("damaged.safetensors", b"\x08weights")):
        (tmp_path / name).write_bytes(content)
        says(tmp_path / name, DataError, "cannot be read, and nothing in them was run")
    state = published()
    others: dict[str, object] = {
        "list.pth": [1, 2],
        "module.pth": nn.Linear(2, 2),
        "missing.pth": {name: value for name, value in state.items() if name != "features.8.bias"},
        "shape.pth": {**state, "embeddings.4.weight": torch.zeros(64, 4096)},
    }
    for name, value in others.items():
        torch.save(value, tmp_path / name)
    safetensors.torch.save_file({"features.0.weight": torch.zeros(64, 1, 3, 3)}, tmp_path / "few.safetensors")
    says(tmp_path / "few.safetensors", DataError, r"'features\.0\.bias' is missing")
    says(tmp_path / "list.pth", DataError, "no mapping")
    says(tmp_path / "module.pth", DataError, "nothing in them was run: it is no state dict")
    says(tmp_path / "missing.pth", DataError, r"'features\.8\.bias' is missing")
    says(tmp_path / "shape.pth", DataError, r"has shape \(64, 4096\); its shape is \(128, 4096\)")
    with pytest.raises(UsageError, match="did you mean 'vggish'"):
        metrics.features(raw, RATE, {"features": "vgish"})
