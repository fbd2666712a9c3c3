"""What has to be the same on a GPU: random numbers, losses, gradients, solvers, a resumed run. Skipped without one."""

import pytest
import torch

from cm_multimodal.batch import Batch, Conditions
from cm_multimodal.maps import Euler, FlowMap
from cm_multimodal.nets.perceptron import Perceptron
from cm_multimodal.objectives import OBJECTIVES
from cm_multimodal.objectives.sources import Conditional, Teacher
from cm_multimodal.paths import build_path
from cm_multimodal.random import Draws, bits, dropout_mask, noise, uniform
from cm_multimodal.solvers import SOLVERS
from cm_multimodal.training.data import Stream
from cm_multimodal.training.settings import TrainSettings
from collections.abc import Callable
from modalities.image.adapter import ImageModality
from modalities.image.data import load as load_images
from objectives.scenes import PRODUCT, plain
from pathlib import Path
from safetensors.torch import load_file

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
IDS = torch.arange(64)


def test_random_numbers() -> None:
    """Bits, uniform numbers and dropout masks are the same on both; normal numbers to rounding."""
    ids = IDS.cuda()
    assert torch.equal(bits(1, "a", ids, 9).cpu(), bits(1, "a", IDS, 9))
    assert torch.equal(uniform(1, "a", ids, (3,)).cpu(), uniform(1, "a", IDS, (3,)))
    assert torch.equal(dropout_mask(1, "a", ids, (5, 3), 0.3).cpu(), dropout_mask(1, "a", IDS, (5, 3), 0.3))
    torch.testing.assert_close(noise(1, "a", ids, (7,)).cpu(), noise(1, "a", IDS, (7,)), rtol=0, atol=1e-6)


def _map(two_times: bool) -> FlowMap:
    torch.manual_seed(0)
    net = Perceptron(2, 16, 2, two_times).double()
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return FlowMap(net, build_path("linear", PRODUCT.sigma_data), Euler(), PRODUCT.sigma_data)


@pytest.mark.parametrize("progress", [0.3, 0.9])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives(name: str, progress: float) -> None:
    """Every objective has the loss and the gradient there that it has on a CPU, in float64."""
    found = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        source = Teacher(_map(False).to(device)) if name.endswith("distillation") else Conditional()
        objective = plain(name, source if "self" not in name else Conditional()).to(device)
        flow_map = _map(objective.two_times).to(device)
        objective.prepare(flow_map)
        ids = IDS.to(device)
        batch = Batch(PRODUCT.sample(0, IDS).to(device), Conditions(dropout=Draws(0, ids)))
        loss = objective.loss(flow_map, batch, Draws(0, ids), progress)
        loss.value.backward()
        objective.updated(flow_map, progress)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in flow_map.parameters()]
        found.append((loss.value.detach().cpu(), torch.cat([g.flatten() for g in gradients]).cpu()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)  # noise is rounded to float32 on the way
    assert found[0][1].abs().max() > 0


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers(name: str) -> None:
    """Every solver ends there where it ends on a CPU, in float64, fresh noise included."""
    found = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        flow_map, ids = _map(False).to(device), IDS.to(device)
        times = flow_map.path.time_of(torch.tensor([5.0, 2.0, 1.0, 0.4, 0.1, 0.0], dtype=torch.float64, device=device))
        x = flow_map.path.sigma(times[0]) * PRODUCT.sample(0, IDS).to(device)
        with torch.no_grad():
            found.append(SOLVERS[name]()(flow_map, x, times, Conditions(), Draws(0, ids)).cpu())
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)  # noise is rounded to float32 on the way


@pytest.mark.parametrize("words", [(), ("train.compile=true",), ("train.precision=float32",)])
def test_a_run_goes_on(cmm: Callable[..., int], words: tuple[str, ...]) -> None:
    """A run that is stopped half-way ends where one that was not stopped does."""
    common = ["experiment=image/smoke", "train.device=cuda", "train.samples=1024", "train.batch=64", *words]
    assert cmm("train", *common, "train.checkpoint_every=512", "name=whole") == 0
    half = sorted(Path("runs/whole/checkpoints").glob("step-*"))[0]
    assert cmm("train", *common, "train.checkpoint_every=512", f"resume={half}", "name=second") == 0
    whole, second = (load_file(f"runs/{name}/bundle/weights.safetensors") for name in ("whole", "second"))
    for key, value in whole.items():
        torch.testing.assert_close(second[key], value, rtol=0, atol=1e-4)
    same = sum(torch.equal(second[key], value) for key, value in whole.items())
    print(f"{words}: {same} of {len(whole)} tensors are the same bit for bit")
    assert cmm("sample", "run=runs/second", "steps=2", "n=8", "out=some") == 0


def test_large_sets_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that are too many for the GPU go there batch by batch, and batches are the same."""
    splits, gpu = load_images({"name": "digits"}), torch.device("cuda")
    modality = ImageModality(ImageModality.describe(splits.train, {}))
    usual = Stream(splits.train, modality, 0, 0, TrainSettings(64, 64), gpu)
    monkeypatch.setattr("cm_multimodal.training.data.MOST_ON_DEVICE", 0)
    large = Stream(splits.train, modality, 0, 0, TrainSettings(64, 64), gpu)
    assert (usual.raw.device.type, large.raw.device.type) == ("cuda", "cpu")
    assert large[0].batch.x.device.type == "cuda"
    assert torch.equal(usual[0].batch.x, large[0].batch.x)
