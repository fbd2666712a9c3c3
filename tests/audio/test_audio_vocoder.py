"""A vocoder makes sounds of log-mel spectrograms: it is told the right ones, and is used only where it fits."""

import pytest
import soundfile
import torch

from cm_multimodal.errors import UsageError
from cm_multimodal.maps import Endpoint, FlowMap
from cm_multimodal.modality import TensorSpec, find_modality
from cm_multimodal.paths import Linear
from collections.abc import Callable
from modalities.audio.adapter import AudioModality
from modalities.audio.representations import STFT, LogMel, Representation
from modalities.audio.strings import strings
from modalities.audio.vocoder import Hearsay
from pathlib import Path
from torch import Tensor

LENGTH = 2048
MEL = ("data.mel.hop=64", "data.mel.n_fft=128", "data.mel.mels=32", "data.mel.floor=0.1")
LEARNED = ("data.representation.name=log_mel", *(word.replace("mel.", "representation.", 1) for word in MEL))
QUICK = (
    "data=strings",
    "data.place=random",
    "data.limit=60",
    "train.samples=64",
    "objective.scaling=euler",
    f"data.length={LENGTH}",
    "net.channels=8",
    "train.batch=16",
)


@pytest.fixture
def wave() -> Tensor:
    return strings(0, torch.arange(4), 8000, LENGTH)[0]


def test_what_is_told_lies_where_the_transform_has_its_energy(wave: Tensor) -> None:
    """The spectrogram on the transform's grid goes with the transform's own amplitudes, and a tone lies at its frequency."""
    transform = STFT(LENGTH, 128, 64).fitted(wave)
    hearsay = Hearsay(LogMel(LENGTH, 8000, 32, 256, 128, floor=1e-3).fitted(wave), transform)
    heard = hearsay.of(wave)
    assert heard.shape == (4, 1, *transform.shape[1:])
    amplitude = STFT(LENGTH, 128, 64).encode(wave).square().sum(dim=1).clamp_min(1e-4).log()
    both = torch.stack([heard[:, 0, 1:].flatten(), amplitude[:, 1:].flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.8
    tone = torch.sin(2 * torch.pi * 1500 * torch.arange(LENGTH) / 8000)[None]
    assert abs(int(hearsay.of(tone)[0, 0, :, 10].argmax()) * 8000 / 128 - 1500) <= 125


def test_a_clip_is_corrected_towards_the_spectrogram_that_was_told(wave: Tensor) -> None:
    """Dull and faint clips get the spectrogram of the right ones back; of the right ones nothing changes."""
    transform = STFT(LENGTH, 128, 64).fitted(wave)
    hearsay = Hearsay(LogMel(LENGTH, 8000, 32, 128, 64, floor=1e-2).fitted(wave), transform)
    told, x = hearsay.of(wave), transform.encode(wave)
    assert torch.allclose(hearsay.corrected(x, told), x, atol=1e-4)
    dull = transform.encode(0.3 * wave) * torch.linspace(1.2, 0.5, 64)[:, None]

    def away(x: Tensor) -> float:
        return float((hearsay.of(transform.decode(x)) - told).abs().mean())

    once = hearsay.corrected(dull, told)
    twice = hearsay.corrected(once, told)
    assert away(twice) < away(once) < away(dull) / 3


@pytest.mark.slow
@pytest.mark.smoke
def test_a_vocoder_is_trained_and_used(cmm: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """It draws clips of real spectrograms and of generated ones, the same again; alone it draws nothing, and says how."""
    assert cmm("train", "experiment=audio/vocoder", *QUICK, *MEL, "name=voice") == 0
    assert cmm("train", "experiment=audio/digits_mel", *QUICK, *LEARNED, "name=mel") == 0
    assert cmm("edit", "run=runs/voice", "how=vocode", "n=3", "steps=1", "out=again") == 0
    assert len(soundfile.read("again/000002.wav")[0]) == LENGTH
    assert Path("again/grid.png").exists()
    assert cmm("sample", "run=runs/mel", "decoder=runs/voice", "n=3", "out=first") == 0
    assert cmm("sample", "run=runs/mel", "decoder=runs/voice", "n=2", "out=second") == 0
    assert cmm("sample", "run=runs/mel", "n=2", "out=other") == 0
    first, second, other = (Path(name, "000001.wav").read_bytes() for name in ("first", "second", "other"))
    assert first == second != other
    capsys.readouterr()
    assert cmm("sample", "run=runs/voice", "n=2") == 2
    assert "cmm edit how=vocode" in capsys.readouterr().err
    assert cmm("edit", "run=runs/voice", "how=interpolate") == 2
    assert "cmm edit how=vocode" in capsys.readouterr().err
    assert cmm("sample", "run=runs/mel", "decoder=runs/voice", "seconds=1", "n=2") == 2
    assert "a vocoder's clips are as long as those it learned from" in capsys.readouterr().err
    assert cmm("sample", "run=runs/voice", "decoder=runs/mel", "n=2") == 2
    assert "it is a vocoder (cmm train experiment=audio/vocoder)" in capsys.readouterr().err
    assert cmm("evaluate", "run=runs/mel", "decoder=runs/voice", "steps=[1]", "n=24", "seeds=[0]") == 0
    assert Path("runs/mel/evaluation-decoder-voice/metrics.json").exists()


def test_a_decoder_fits_or_is_refused(wave: Tensor) -> None:
    """It hears the same spectrograms as the run draws, and jumps to clean data; pictures need none."""
    transform, heard = STFT(LENGTH, 128, 64).fitted(wave), LogMel(LENGTH, 8000, 32, 256, 64).fitted(wave)
    voice = _modality(transform, heard)
    fitting, other = (_modality(LogMel(LENGTH, 8000, 32, 256, hop).fitted(wave)) for hop in (64, 32))
    edge, diagonal = (
        FlowMap(torch.nn.Identity(), Linear(), Endpoint(), 0.5, frozenset({part})) for part in ("edge", "diagonal")
    )
    assert fitting.decoded_by(voice, edge).spec == fitting.spec
    for run, flow_map, sentence in (
        (other, edge, "hop=32 \\(the vocoder's: 64\\)"),
        (fitting, diagonal, "learned the diagonal"),
        (voice, edge, "the run draws such spectrograms"),
        (find_modality("image")(TensorSpec((1, 8, 8), 0.5)), edge, "samples of the modality 'image' need none"),
    ):
        with pytest.raises(UsageError, match=sentence):
            run.decoded_by(voice, flow_map)


def _modality(kind: Representation, mel: LogMel | None = None) -> AudioModality:
    told = {} if mel is None else {"mel": mel.settings()}
    return AudioModality(
        TensorSpec(kind.shape, 0.5, settings={"rate": 8000, "representation": kind.settings(), **told})
    )


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        (["net.known=false"], "needs net.known=true"),
        (["data.representation.name=patches"], "draws the complex transform"),
        (["data.mel=true"], "data.mel=True is no group of settings"),
        (["data.mel.rate=4000"], "its length and rate are those of the clips"),
        (["data.mel.pitch=3"], "data.mel: The representation 'log_mel' has no setting 'pitch'"),
    ],
)
def test_settings_that_make_no_vocoder(
    word: list[str], sentence: str, cmm: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is a sentence."""
    alone = ["~data.representation.n_fft", "~data.representation.hop"] if "patches" in word[0] else []
    assert cmm("train", "experiment=audio/vocoder", *QUICK, *MEL, *word, *alone) == 2
    assert sentence in capsys.readouterr().err
