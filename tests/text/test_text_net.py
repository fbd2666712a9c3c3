"""Networks for tokens name probabilities, know the posterior of single tokens, and see distances, not places."""

import pytest
import torch

from cm_multimodal.batch import Conditions
from cm_multimodal.errors import UsageError
from cm_multimodal.maps import Endpoint, FlowMap
from cm_multimodal.modality import TensorSpec
from cm_multimodal.nets.attention import angles, turned
from cm_multimodal.paths import build_path, one_hot_sigma
from cm_multimodal.random import Draws
from modalities.text.edit import told
from modalities.text.net import build_net
from typing import Any

LENGTH, TOKENS = 12, 9
SPEC = TensorSpec((LENGTH, TOKENS), one_hot_sigma(TOKENS), ("a", "b"))


def _state(count: int = 3) -> torch.Tensor:
    return Draws(0, torch.arange(count)).noise("state", (LENGTH, TOKENS))


@pytest.mark.parametrize("more", [{}, {"attention": 0}, {"kernel": 0}, {"attention": 2, "dropout": 0.5}], ids=str)
def test_what_it_names_are_probabilities(more: dict[str, Any]) -> None:
    """Of every token they sum to one, also with known tokens and classes; gradients reach every weight that is in use."""
    torch.manual_seed(0)
    net = build_net({"size": "xs", "channels": 16, "known": True, **more}, SPEC, two_times=True)
    for weights in net.parameters():  # gates begin at zero
        torch.nn.init.normal_(weights, std=0.1)
    x, n = _state(), torch.tensor([0.1, 0.8, 1.5], dtype=torch.float64)
    known = told(x, torch.arange(LENGTH)[:, None] < 3)
    cond = Conditions(torch.tensor([0, 1, 2]), None, Draws(0, torch.arange(3)), known)
    out = net(x, n, n / 2, cond)
    assert out.shape == x.shape
    assert torch.allclose(out.sum(dim=-1), torch.ones(3, LENGTH), atol=1e-5)
    assert not torch.equal(out, net(x, n, n / 2, Conditions(cond.label, None, cond.dropout)))
    (out * x).sum().backward()
    assert all(weights.grad is not None and weights.grad.abs().sum() > 0 for weights in net.parameters())


@pytest.mark.parametrize("ratio", [0.3, 1.0, 8.0])
def test_it_begins_with_the_posterior_of_single_tokens(ratio: float) -> None:
    """Before it has learned anything, the denoised state is what Bayes says of evenly distributed tokens."""
    path = build_path("decoding", SPEC.sigma_data)
    flow_map = FlowMap(build_net({}, SPEC, two_times=True), path, Endpoint(), SPEC.sigma_data)
    s = path.time_of(torch.full((3,), ratio, dtype=torch.float64))
    clean = torch.nn.functional.one_hot(torch.arange(3 * LENGTH).reshape(3, LENGTH) % TOKENS, TOKENS).float()
    noisy = path.sample(clean, _state(), s)
    alpha, sigma = float(path.alpha(s)[0]), float(path.sigma(s)[0])
    density = torch.stack(  # of the noisy token, for each token that it may be
        [-(noisy - alpha * torch.eye(TOKENS)[k]).square().sum(dim=-1) / (2 * sigma**2) for k in range(TOKENS)], dim=-1
    )
    assert torch.allclose(flow_map.endpoint(noisy, s, s, Conditions()), density.softmax(dim=-1), atol=1e-5)


def test_attention_sees_distances() -> None:
    """The product of a turned query and a turned key depends on how far they are apart alone."""
    q, k = (Draws(0, torch.arange(1)).noise(name, (1, 1, 8)) for name in "qk")
    q, k = (turned(each.expand(1, 1, 10, 8), angles(10, 8)) for each in (q, k))
    product = (q @ k.transpose(-1, -2))[0, 0]
    for distance in range(-9, 10):
        line = product.diagonal(distance)
        assert torch.allclose(line, line[:1].expand_as(line), atol=1e-4)
    assert float(product.diagonal(1)[0] - product.diagonal(-1)[0]) != pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"size": "xxs"}, "no size 'xxs'"),
        ({"wide": 3}, "no setting 'net.wide'"),
        ({"channels": 20}, "heads divide"),
        ({"kernel": 4}, "kernel is odd"),
        ({"kernel": 0, "attention": 0}, "not both are 0"),
        ({"blocks": 0}, "whole numbers from 1"),
        ({"dropout": 1.0}, "dropout lies between"),
    ],
)
def test_sizes_that_are_none(config: dict[str, Any], sentence: str) -> None:
    """Each is a sentence."""
    with pytest.raises(UsageError, match=sentence):
        build_net(config, SPEC, two_times=True)
