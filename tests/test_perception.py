r"""What a network sees of samples, and a sieve that looks with its eyes."""

import numpy as np
import pytest
import torch

from cm_multimodal.bundle import Bundle, Card, empty_map
from cm_multimodal.derivatives import perturbed
from cm_multimodal.errors import UsageError
from cm_multimodal.generation.perception import Perception, coarse
from cm_multimodal.judge import Judge
from cm_multimodal.labelling import labelled, only
from cm_multimodal.modality import TensorSpec
from modalities.image.adapter import ImageModality

DIGITS = ImageModality.dataset({"name": "digits"})


def bundle(*learned: str, chunk: int = 64) -> Bundle:
    spec = TensorSpec((1, 8, 8), 0.75, DIGITS.train.classes)
    net = {"size": "xs", "channels": 8, "blocks": 1}
    card = Card("image", spec, net, "linear", "euler", True, learned, "test", chunk)
    torch.manual_seed(0)
    flow_map = perturbed(empty_map(card, ImageModality(spec))).float()
    return Bundle(card, flow_map.eval().requires_grad_(False), ImageModality(spec))


@pytest.mark.parametrize("learned", ["diagonal", "edge"])
def test_what_is_seen_of_a_sample_is_its_own(learned: str) -> None:
    """However many are looked at, at a time or in all, it is the same, and nothing of looking is left in the network."""
    generator, raw = bundle(learned), DIGITS.train.raw[:30]
    seen = Perception(generator)(raw)
    assert seen.shape == (30, 16 * 4 * 4)  # half the way up of 8x8 pixels in two levels
    np.testing.assert_allclose(Perception(generator)(raw[:5]), seen[:5], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(Perception(bundle(learned, chunk=7))(raw), seen, rtol=1e-4, atol=1e-5)
    assert not any(part._forward_hooks for part in generator.flow_map.net.modules())
    assert not np.allclose(Perception(generator)(raw.flip(-1)), seen, atol=1e-2)


def test_a_grid_is_averaged_place_by_place() -> None:
    """Fourteen places become seven, each the mean of two; fewer than seven stay as they are; frames too."""
    line = torch.arange(14.0).expand(2, 3, 14)
    assert coarse(line).view(2, 3, 7)[1, 2].tolist() == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5, 12.5]
    small = torch.randn(2, 3, 4, 5)
    assert torch.equal(coarse(small), small.flatten(1))
    assert coarse(torch.randn(2, 3, 16, 8, 4)).shape == (2, 3 * 7 * 7 * 4)


def test_a_few_labelled_samples_name_the_others() -> None:
    """A classifier that sees with a network's eyes names most digits by a twentieth of the classes."""
    assert DIGITS.train.label is not None
    known = only(DIGITS.train, labelled(DIGITS.train.label, 0.05))
    judge = Judge(Perception(bundle("diagonal")), known)
    assert judge.accuracy(DIGITS.test) > 0.6
    assert float((judge.names(DIGITS.test.raw) == DIGITS.test.label).double().mean()) == judge.accuracy(DIGITS.test)


def test_another_network_is_refused() -> None:
    """A network without a grid is refused with a sentence."""
    generator = bundle("diagonal")
    generator.flow_map.net = torch.nn.Identity()
    with pytest.raises(UsageError, match="U-Nets alone"):
        Perception(generator)
