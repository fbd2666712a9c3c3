r"""The U-Net: dimensions, times per position, derivatives, dropout."""

import dataclasses
import pytest
import torch

from cm_multimodal.batch import Conditions
from cm_multimodal.derivatives import CentralDifference, DoubleBackward, ForwardMode, perturbed
from cm_multimodal.maps import Euler, FlowMap
from cm_multimodal.nets.attention import GridAttention
from cm_multimodal.nets.norm import GroupNorm
from cm_multimodal.nets.unet import UNet, UNetShape
from cm_multimodal.paths import Linear
from cm_multimodal.random import Draws
from einops import rearrange

SHAPE = UNetShape(16, (1, 2), 1, attention=(1,), head_width=8)


def net(dims: int, channels: int = 2, shape: UNetShape = SHAPE, classes: int = 3) -> UNet:
    torch.manual_seed(0)
    return perturbed(UNet(dims, channels, shape, two_times=True, classes=classes))


@pytest.mark.parametrize(("dims", "size"), [(1, (12,)), (1, (7,)), (2, (8, 6)), (2, (7, 5)), (3, (4, 6, 5))])
def test_the_unet_works_in_one_two_and_three_dimensions(dims: int, size: tuple[int, ...]) -> None:
    """Output and input have the same shape, odd sizes included, and every parameter gets a gradient."""
    model, x = net(dims), torch.randn(2, 2, *size, dtype=torch.float64)
    n = torch.tensor([0.3, 1.2], dtype=torch.float64)
    out = model(x, n, n / 2, Conditions(torch.tensor([0, 2])))
    out.square().mean().backward()
    assert out.shape == x.shape
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(("dims", "size", "where"), [(1, (8,), (1, 8)), (3, (4, 6, 6), (1, 4, 1, 1))])
def test_times_may_differ_by_position(dims: int, size: tuple[int, ...], where: tuple[int, ...]) -> None:
    """Equal times at all positions are the same as one time; another time at one position changes the output."""
    model, x, cond = net(dims), torch.randn(2, 2, *size, dtype=torch.float64), Conditions(torch.tensor([0, 1]))
    n = torch.tensor([0.4, 1.1], dtype=torch.float64)
    spread = n.reshape(2, *(1,) * len(where)).expand(2, *where).clone()
    assert torch.allclose(model(x, spread, spread, cond), model(x, n, n, cond), atol=1e-12)
    moved = spread.clone()
    moved[:, :, 1] += 0.3
    assert (model(x, moved, spread, cond) - model(x, n, n, cond)).abs().max() > 1e-4


def test_a_map_takes_times_per_position() -> None:
    """A map with one time per position moves only the positions whose times differ."""
    flow_map = FlowMap(net(1, classes=0), Linear(), Euler(), 0.5)
    x = torch.randn(2, 2, 8, dtype=torch.float64)
    s = torch.full((2, 1, 8), 0.7, dtype=torch.float64)
    t = s.clone()
    t[:, :, 3:] = 0.2
    moved = flow_map.jump(x, s, t, Conditions())
    assert torch.equal(moved[:, :, :3], x[:, :, :3])
    assert (moved[:, :, 3:] - x[:, :, 3:]).abs().min() > 0


def test_classes_and_the_null_class_are_told_apart() -> None:
    """No class given is the same as the null class, and another output than a class."""
    model, x = net(2), torch.randn(1, 2, 8, 8, dtype=torch.float64)
    n = torch.tensor([0.5], dtype=torch.float64)
    none = model(x, n, n, Conditions())
    assert torch.equal(none, model(x, n, n, Conditions(torch.tensor([3]))))
    assert not torch.allclose(none, model(x, n, n, Conditions(torch.tensor([1]))))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_network_can_be_differentiated_forwards(dims: int) -> None:
    """Forward mode agrees with double backward to rounding and with a finite difference to its error."""
    flow_map = FlowMap(net(dims), Linear(), Euler(), 0.5)
    x, v = (torch.randn(2, 2, *(6,) * dims, dtype=torch.float64) for _ in range(2))
    s, t = torch.tensor([0.5, 0.8], dtype=torch.float64), torch.tensor([0.1, 0.0], dtype=torch.float64)

    def f(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return flow_map.mean_velocity(a, b, t, Conditions(torch.tensor([0, 2])))

    forward = ForwardMode()(f, x, s, v)
    assert forward.norm() > 0.1
    assert torch.allclose(forward, DoubleBackward()(f, x, s, v), rtol=1e-9, atol=1e-9)
    assert torch.allclose(forward, CentralDifference(1e-4)(f, x, s, v), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("moves", [True, False])
def test_gradients_flow_through_the_derivative(dims: int, moves: bool) -> None:
    """Attention included: forward mode has the gradients of reverse mode twice, also where the state stands still."""
    x, s = torch.randn(2, 2, *(6,) * dims, dtype=torch.float64), torch.tensor([0.5, 0.9], dtype=torch.float64)
    v, model, found = torch.randn_like(x) if moves else None, net(dims), []

    def f(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return model(a, b, b / 2, Conditions())

    for way in (ForwardMode(), DoubleBackward()):
        model.zero_grad()
        way(f, x, s, v, graph=True).square().sum().backward()
        found.append(torch.cat([torch.zeros(1) if p.grad is None else p.grad.flatten() for p in model.parameters()]))
    assert found[0].norm() > 0.1
    assert torch.allclose(*found, rtol=1e-8, atol=1e-8 * float(found[0].abs().max()))


def test_channels_last_changes_nothing_but_rounding() -> None:
    """The memory format changes neither the output nor the forward derivative, beyond rounding."""
    model, x = net(2), torch.randn(3, 2, 8, 8, dtype=torch.float64)
    n = torch.tensor([0.2, 0.7, 1.2], dtype=torch.float64)
    plain = model(x, n, n, Conditions())
    other = net(2).to(memory_format=torch.channels_last)
    assert torch.allclose(plain, other(x, n, n, Conditions()), atol=1e-10)
    forward = ForwardMode()(lambda a, b: other(a, b, b, Conditions()), x, n, x)
    assert torch.allclose(forward, ForwardMode()(lambda a, b: model(a, b, b, Conditions()), x, n, x), atol=1e-9)


def test_group_norm_is_the_native_one() -> None:
    """The written-out normalisation, used under forward-mode differentiation, is the native one."""
    norm, x = GroupNorm(12, 32).double(), torch.randn(3, 12, 5, 5, dtype=torch.float64)
    seen = []
    ForwardMode()(
        lambda a, b: seen.append(torch.autograd.forward_ad.unpack_dual(norm(a)).primal) or norm(a), x, x[:, 0, 0, 0], x
    )
    assert torch.allclose(seen[0], norm(x), atol=1e-12)


def test_dropout_belongs_to_the_sample() -> None:
    """A sample's mask is the same in any batch and any pass of a step, and absent where nobody asks for it."""
    model = net(2, shape=UNetShape(16, (1,), 1, dropout=0.5, middle_attention=False), classes=0)
    x, n = torch.randn(4, 2, 8, 8, dtype=torch.float64), torch.full((4,), 0.5, dtype=torch.float64)
    draws = Draws(0, torch.arange(4))
    dropped = model(x, n, n, Conditions(dropout=draws))
    assert not torch.allclose(dropped, model(x, n, n, Conditions()))
    rows = torch.tensor([3, 1])
    part = model(x[rows], n[rows], n[rows], Conditions(dropout=draws).take(rows))
    assert torch.allclose(part, dropped[rows], atol=1e-12)


def test_padding_is_refused() -> None:
    """The U-Net says that it works on whole grids instead of ignoring a mask."""
    with pytest.raises(ValueError, match="without padding"):
        net(1)(torch.randn(1, 2, 8).double(), torch.zeros(1), torch.zeros(1), Conditions(mask=torch.ones(1, 8)))


FRAMES = UNetShape(16, (1, 2), 1, attention=(1,), head_width=8, frames=True, time_attention=(0, 1))


def test_a_still_clip_is_drawn_as_its_picture() -> None:
    """With the weights of a network of pictures, each frame becomes what that makes of it: nothing passes between frames."""
    pictures = net(2)
    clips = UNet(3, 2, FRAMES, two_times=True, classes=3).double()
    weights = {name: w if w.ndim < 4 else w.unsqueeze(2) for name, w in pictures.state_dict().items()}
    missing, unknown = clips.load_state_dict(weights, strict=False)
    assert not unknown
    assert all(".between." in name for name in missing)
    x, n, cond = torch.randn(2, 2, 8, 8, dtype=torch.float64), torch.tensor([0.3, 1.2]).double(), Conditions()
    drawn = clips(x[:, :, None].expand(-1, -1, 3, -1, -1), n, n / 2, cond)
    assert torch.allclose(drawn, pictures(x, n, n / 2, cond)[:, :, None].expand_as(drawn), atol=1e-12)


@pytest.mark.parametrize("levels", [(), (1,)])
def test_frames_tell_each_other(levels: tuple[int, ...]) -> None:
    """What a frame shows changes the others by the convolution along time alone, and by attention along time."""
    model = net(3, shape=dataclasses.replace(FRAMES, time_attention=levels))
    x, n = torch.randn(1, 2, 4, 6, 6, dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    other = x.clone()
    other[:, :, 0] += torch.randn_like(other[:, :, 0])
    change = (model(other, n, n / 2, Conditions()) - model(x, n, n / 2, Conditions())).abs().amax(dim=(0, 1, 3, 4))
    assert (change > 1e-4).all()


def test_attention_among_some_positions_is_attention_over_their_lines() -> None:
    """Along the first dimension, and within its places, it is that of each line by itself."""
    torch.manual_seed(0)
    x = torch.randn(2, 8, 3, 4, 5, dtype=torch.float64)
    for among, lines in (("first", "(b h w) c t"), ("frame", "(b t) c (h w)")):
        some = perturbed(GridAttention(8, 2, 4, among))
        whole = rearrange(some.norm(x), f"b c t h w -> {lines}")
        back = rearrange(some._attended(whole), f"{lines} -> b c t h w", b=2, t=3, h=4, w=5)
        assert torch.allclose(some(x), x + back, atol=1e-12)
