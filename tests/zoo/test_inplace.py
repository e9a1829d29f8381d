"""Operations that overwrite in inference: the same numbers, nobody else's memory."""

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from zoo.layers.inplace import GELU, SqueezeExcite, add, multiply


@pytest.mark.parametrize(
    ('ours', 'usual'),
    [
        (lambda x, y: add(y, x), torch.add),
        (multiply, torch.mul),
        (lambda x, y: GELU()(x), lambda x, y: F.gelu(x)),
    ],
)
def test_overwrites_in_inference_alone(
    ours: Callable[[Tensor, Tensor], Tensor], usual: Callable[[Tensor, Tensor], Tensor]
) -> None:
    x, y = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    wanted, kept = usual(x, y), x.clone()
    with torch.inference_mode():
        own = x.clone()
        assert torch.equal(ours(own, y), wanted)
        assert torch.equal(own, wanted)
    assert torch.equal(ours(x, y), wanted)  # as in training
    with torch.no_grad():
        assert torch.equal(torch.compile(ours, backend='eager')(x, y), wanted)
        assert torch.equal(torch.func.vmap(ours)(x, y), wanted)
        assert torch.equal(x, kept)
    inputs = x.double().requires_grad_(), y.double()
    assert torch.autograd.gradcheck(ours, inputs)
    assert torch.equal(x, kept)


def test_squeeze_excitation_is_timms() -> None:
    ours, timms = (
        of(16, rd_channels=8, gate_layer='hard_sigmoid').eval()
        for of in (SqueezeExcite, timm.layers.SqueezeExcite)
    )
    timms.load_state_dict(ours.state_dict())
    x = torch.randn(2, 16, 5, 5)
    wanted = timms(x)
    assert torch.equal(ours(x), wanted)
    with torch.no_grad():
        assert torch.equal(ours(x), wanted)


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize(
    'name', ['carnet_digits', 'glit_digits', 's3_digits', 'trionet_digits', 'uninet_digits']
)
def test_networks_keep_what_others_see(name: str, fused: bool) -> None:
    """The images, and what goes into each block and stage."""
    model: nn.Module = timm.create_model(name, pretrained=True).eval()
    wanted = model(images := torch.randn(3, 1, 32, 32)).detach()
    model = zoo.fuse(model) if fused else model
    before = images.clone()
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append((inputs[0], inputs[0].clone()))

    for path, module in model.named_modules():
        if path.rpartition('.')[2].isdigit():
            module.register_forward_pre_hook(keep)
    with torch.no_grad():
        found = model(images)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(images, before)
    assert len(seen) >= 3
    assert all(torch.equal(tensor, copy) for tensor, copy in seen)
