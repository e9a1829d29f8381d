"""Swin and PVT with UniNet's modules: timm's networks in everything but the down-sampling."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_data_config
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo.errors import ZooError
from zoo.layers.context_downsample import ContextDownsample, LocalDownsample

SWIN, PVT = 'swin_tiny_dsm', 'pvt_v2_b1_dsm'
BASES = {SWIN: 'swin_tiny_patch4_window7_224', PVT: 'pvt_v2_b1'}
WIDTHS = {SWIN: (96, 192, 384, 768), PVT: (64, 128, 320, 512)}
SMALL: dict[str, dict[str, Any]] = {
    SWIN: {
        'embed_dim': 32,
        'depths': (2, 1, 1, 1),
        'num_heads': (1, 2, 4, 8),
        'img_size': 64,
        'window_size': 5,
    },
    PVT: {'embed_dims': (32, 64, 96, 128), 'depths': (2, 1, 1, 1), 'num_heads': (1, 2, 3, 4)},
}
SMALL_WIDTHS = {SWIN: [32, 64, 128, 256], PVT: [32, 64, 96, 128]}


@pytest.fixture(params=BASES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def build(name: str, base: bool = False, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    net = timm.create_model(BASES[name] if base else name, num_classes=10, **(SMALL[name] | kwargs))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, std=0.1)
    return net.eval()


def image(height: int = 64, width: int = 64, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def stages(net: Any) -> Any:
    return net.layers if hasattr(net, 'layers') else net.stages


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_they_are_models_of_timm_and_no_entries(name: str) -> None:
    assert set(timm.list_models(module='dsm')) == set(BASES)
    assert name not in zoo.list_entries()
    assert name not in timm.list_models(pretrained=True)
    assert type(build(name)).__mro__[1] is type(build(name, base=True))


def test_import_of_the_zoo_is_enough() -> None:
    code = f"import timm, zoo; print(timm.is_model('{SWIN}'), timm.is_model('{PVT}'))"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env={**os.environ})
    assert done.stdout == 'True True\n', done.stderr


def local_params(before: int, width: int) -> int:
    """Depth-wise 3x3 with bias, batch norm, two 1x1 with bias."""
    return 10 * before + 2 * before + 2 * (before + 1) * width


def context_params(before: int, width: int) -> int:
    """The same, of which one 1x1 is the query's and one the shortcut's; two layer norms; k, v; projection."""
    norms = 2 * width + 2 * before
    return local_params(before, width) + norms + (before + 1) * 2 * width + (width + 1) * width


def test_params_are_the_bases_with_other_modules(name: str) -> None:
    a, b, c, d = WIDTHS[name]
    stem = 27 * 32 + 2 * 32
    added = stem + local_params(32, a) + local_params(a, b) + context_params(b, c) + context_params(c, d)
    base = timm.create_model(BASES[name], device='meta')
    removed = count(base.patch_embed) + sum(count(stage.downsample) for stage in stages(base)[1:])
    assert count(timm.create_model(name, device='meta')) == count(base) - removed + added


@pytest.mark.parametrize(('name', 'params', 'macs'), [(SWIN, 29.00, 4.84), (PVT, 13.30, 2.22)])
def test_costs_are_the_documented_ones(name: str, params: float, macs: float) -> None:
    net = timm.create_model(name, device='meta').eval()
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 3, 224, 224, device='meta'))
    assert round(count(net) / 1e6, 2) == params
    assert round(counter.get_total_flops() / 2e9, 2) == macs


def test_modules_are_local_twice_and_both_twice(name: str) -> None:
    net = build(name)
    last = (net.patch_embed.proj if name == SWIN else net.patch_embed.module)[-1]
    modules = [last, *(stage.downsample.module for stage in stages(net)[1:])]
    assert [type(m) for m in modules] == [LocalDownsample] * 2 + [ContextDownsample] * 2
    assert all(m.q_conv.groups == m.q_conv.in_channels and m.shortcut is not None for m in modules[2:])
    assert [modules[i].num_heads for i in (2, 3)] == [width // 32 for width in SMALL_WIDTHS[name][2:]]


def test_blocks_are_the_bases(name: str) -> None:
    net, base, x = build(name), build(name, base=True), image()
    shared = {key: tensor for key, tensor in net.state_dict().items() if key in base.state_dict()}
    shared = {key: tensor for key, tensor in shared.items() if 'downsample' not in key}
    left = base.load_state_dict(shared, strict=False).missing_keys
    assert all('downsample' in key or 'patch_embed' in key for key in left)
    with torch.inference_mode():
        y = (net.patch_embed.proj if name == SWIN else net.patch_embed.module)(x)
        for i, stage in enumerate(stages(base)):
            y = stages(net)[i].downsample.module(y) if i else y
            y = y.permute(0, 2, 3, 1)
            if name == SWIN:
                y = stage.blocks(y)
            else:
                shape = y.shape
                y = y.flatten(1, 2)
                for block in stage.blocks:
                    y = block(y, shape[1:3])
                y = stage.norm(y).reshape(shape)
            y = y.permute(0, 3, 1, 2)
        if name == SWIN:
            y = base.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        expected = (base.head.fc if name == SWIN else base.head)(y.mean((2, 3)))
        torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(('height', 'width'), [(64, 64), (45, 61), (32, 97), (33, 32)])
def test_any_size(name: str, height: int, width: int) -> None:
    net = build(name, **({'dynamic_img_size': True} if name == SWIN else {}))
    x = image(height, width)
    with torch.inference_mode():
        maps = net.forward_intermediates(x, intermediates_only=True)
        assert net(x).shape == (2, 10)
    wanted = [(math.ceil(height / stride), math.ceil(width / stride)) for stride in (4, 8, 16, 32)]
    assert [tuple(m.shape[2:]) for m in maps] == wanted
    assert [m.shape[1] for m in maps] == SMALL_WIDTHS[name]


def test_swin_takes_one_size_or_is_told() -> None:
    net = build(SWIN)
    with pytest.raises(AssertionError, match="doesn't match model"):
        net(image(96, 64))
    free = build(SWIN, dynamic_img_size=True)
    free.load_state_dict(net.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(free(image()), net(image()))
        assert free(image(1, 1)).shape == (2, 10)
        net.set_input_size((96, 64))
        assert net(image(96, 64)).shape == (2, 10)


def test_features_are_maps(name: str) -> None:
    net, x = build(name), image()
    features = build(name, features_only=True, out_indices=(1, 3))
    assert features.feature_info.channels() == SMALL_WIDTHS[name][1::2]
    assert features.feature_info.reduction() == [8, 32]
    with torch.inference_mode():
        expected = net.forward_intermediates(x, indices=[1, 3], intermediates_only=True)
        torch.testing.assert_close(features(x), expected)


def test_classifier_and_pooling(name: str) -> None:
    net = build(name)
    assert timm.get_pretrained_cfg(name).classifier + '.weight' in net.state_dict()
    assert timm.get_pretrained_cfg(name).first_conv + '.weight' in net.state_dict()
    with torch.inference_mode():
        pooled = net.forward_head(net.forward_features(image()), pre_logits=True)
        assert pooled.shape == (2, SMALL_WIDTHS[name][-1])
        net.reset_classifier(7)
        assert net(image()).shape == (2, 7)
        net.reset_classifier(0)
        assert torch.equal(net(image()), pooled)
        assert timm.create_model(name, in_chans=1, **SMALL[name]).eval()(image()[:, :1]).shape == (2, 1000)


def test_every_parameter_learns_with_and_without_checkpointing(name: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        net = build(name)
        net.set_grad_checkpointing(checkpointing)
        net(image()).square().mean().backward()
        gradients.append({key: parameter.grad for key, parameter in net.named_parameters()})
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients[0].values())
    torch.testing.assert_close(gradients[0], gradients[1])


def test_parameters_are_drawn_as_in_the_base(name: str) -> None:
    net = build(name)
    for module in net.modules():
        if isinstance(module, ContextDownsample):
            assert 0.017 < module.kv.weight.std() < 0.023
            assert not module.kv.bias.any()
    assert not build(SWIN, weight_init='skip').layers[2].downsample.module.kv.weight.std() < 0.023
    with pytest.raises(AssertionError):
        build(SWIN, weight_init='nonsense')


def test_learning_rates_by_layer(name: str) -> None:
    net = build(name)
    layers = timm.models.group_parameters(net, net.group_matcher(), reverse=True)
    stem = {layer for key, layer in layers.items() if key.startswith('patch_embed')}
    assert stem == {0}
    assert len(set(layers.values())) > 4
    last = max(layer for key, layer in layers.items() if 'head' not in key)
    assert {layer for key, layer in layers.items() if 'head' in key} == {last + 1}


def test_weights_from_a_file(name: str, tmp_path: Path) -> None:
    net, path = build(name), tmp_path / 'w.safetensors'
    save_file(net.state_dict(), path)
    overlay = {'pretrained_cfg_overlay': {'file': str(path), 'num_classes': 10}, 'pretrained': True}
    with torch.inference_mode():
        loaded = timm.create_model(name, num_classes=10, **SMALL[name], **overlay).eval()
        assert torch.equal(loaded(image()), net(image()))
        other = timm.create_model(name, num_classes=3, **SMALL[name], **overlay).eval()
        assert torch.equal(other.forward_features(image()), net.forward_features(image()))
    if name == SWIN:  # its tables of positions follow the windows
        timm.create_model(name, num_classes=10, **(SMALL[name] | {'window_size': 3}), **overlay)
    with pytest.raises(ZooError, match='cannot be loaded'):
        timm.create_model(
            PVT if name == SWIN else SWIN, num_classes=10, **SMALL[PVT if name == SWIN else SWIN], **overlay
        )


def test_faulty_arguments(name: str) -> None:
    with pytest.raises(ZooError, match=f'^{name} has no published weights'):
        timm.create_model(name, pretrained=True)
    with pytest.raises(TypeError):
        timm.create_model(name, windows=3)
    with pytest.raises(ZooError, match=r'^patch_size: found 8, 4 is needed\.$'):
        timm.create_model(SWIN, patch_size=8)


def test_it_is_preprocessed_as_the_base(name: str) -> None:
    own, base = (
        resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(n).to_dict()) for n in (name, BASES[name])
    )
    assert own == base


def test_it_runs_on_meta_in_bfloat16_scripted_and_fused(name: str) -> None:
    meta = timm.create_model(name, device='meta')
    assert {t.device.type for t in meta.state_dict().values()} == {'meta'}
    net = build(name)
    with torch.inference_mode():
        expected = net(image())
        torch.testing.assert_close(zoo.fuse(net)(image()), expected, rtol=1e-4, atol=1e-4)
        channels_last = net.to(memory_format=torch.channels_last)
        torch.testing.assert_close(channels_last(image().to(memory_format=torch.channels_last)), expected)
        assert net.to(torch.bfloat16)(image().bfloat16()).dtype == torch.bfloat16
    torch.jit.script(timm.create_model(name, scriptable=True, **SMALL[name]))
