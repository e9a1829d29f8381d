"""ZooBackbone against timm's own feature extractors, and as mmseg and MMEngine use it."""

import copy
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mmseg.models  # noqa: F401  (registers its models)
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from loopback_hub import Hub
from mmengine.config import ConfigDict
from mmengine.model import convert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from safetensors.torch import load_file, save_file
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

import zoo
import zoo.layers.axial_attention
import zoo.models.glit
from downstream.backbone import ZooBackbone
from downstream.optim import NO_WEIGHT_DECAY
from zoo.errors import ZooError

pytestmark = pytest.mark.usefixtures('tiny_entries')

FAMILIES = ('carnet', 'glit', 's3', 'trionet', 'uninet')
CHANNELS = {'carnet': (16, 16, 32, 64), 'glit': (16,) * 4} | dict.fromkeys(FAMILIES[2:], (8, 16, 24, 32))
OPTIONS = {'glit': {'dynamic_img_size': True}, 's3': {'always_partition': True}}
"""With which timm's network is for dense tasks."""


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def build(name: str, seed: int = 0, **kwargs: Any) -> ZooBackbone:
    torch.manual_seed(seed)
    return shake(MODELS.build({'type': 'ZooBackbone', 'name': name, **kwargs}))


def shake(module: nn.Module) -> Any:
    """Gives batch norms statistics and gains of their own; some gains are drawn as zeros."""
    for m in module.modules():
        if isinstance(m, _BatchNorm):
            nn.init.normal_(m.running_mean, std=0.1)
            nn.init.uniform_(m.running_var, 0.5, 2)
            nn.init.uniform_(m.weight, 0.5, 2)
    return module


def image(height: int, width: int, batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def save_network(name: str, path: Path, seed: int = 7) -> dict[str, Tensor]:
    """Weights of the whole network, classifier and all, as the zoo publishes them."""
    torch.manual_seed(seed)
    tensors = shake(timm.create_model(name)).state_dict()
    save_file(tensors, path)
    return tensors


# ---- feature maps


def test_maps_are_timms_of_the_padded_image_with_the_zoos_weights(family: str, tmp_path: Path) -> None:
    name, file = f'tiny_{family}', tmp_path / 'weights.safetensors'
    tensors = save_network(name, file)
    backbone = build(name, init_cfg={'type': 'Pretrained', 'checkpoint': str(file)})
    backbone.init_weights()
    backbone.eval()
    reference = timm.create_model(
        name,
        features_only=True,
        out_indices=(0, 1, 2, 3),
        pretrained=True,
        pretrained_cfg_overlay={'file': str(file)},
        **OPTIONS.get(family, {}),
    ).eval()
    stride = backbone.strides[-1]
    for height, width in ((64, 96), (1, 1), (33, 70)):
        padded = F.pad(image(height, width), (0, -width % stride, 0, -height % stride))
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            maps, wanted = backbone(image(height, width)), reference(padded)
        assert isinstance(maps, tuple)
        for found, want, channels, reduction in zip(
            maps, wanted, CHANNELS[family], backbone.strides, strict=True
        ):
            sizes = [-(-side // stride) * stride // reduction for side in (height, width)]
            assert list(found.shape) == [1, channels, *sizes]
            torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    own = backbone.state_dict()
    assert all(torch.equal(own[key], tensors[key]) for key in own)
    assert {key.partition('.')[0] for key in tensors.keys() - own.keys()} <= {'head', 'norm', 'conv_head'}


@pytest.mark.parametrize(('height', 'width'), [(512, 683), (800, 1333)])
def test_large_images_of_any_size(family: str, height: int, width: int) -> None:
    backbone = build(f'tiny_{family}').eval()
    with torch.no_grad(), pytest.warns(UserWarning, match=f'{height}x{width} was padded to'):
        maps = backbone(image(height, width))
    for x, stride in zip(maps, backbone.strides, strict=True):
        assert x.shape[2] >= height / stride
        assert x.shape[3] >= width / stride
        assert x.isfinite().all()


def test_channels_and_strides(family: str) -> None:
    backbone = build(f'tiny_{family}')
    assert backbone.channels == CHANNELS[family]
    assert backbone.strides == ((16,) * 4 if family == 'glit' else (4, 8, 16, 32))


def test_maps_may_be_chosen_in_any_order_and_twice() -> None:
    every, some = build('tiny_glit').eval(), build('tiny_glit', out_indices=(-1, 0, 2, -1)).eval()
    with torch.no_grad():
        first, _, third, last = every(image(32, 48))
        maps = some(image(32, 48))
    for found, want in zip(maps, (last, first, third, last), strict=True):
        assert torch.equal(found, want)
    assert some.out_indices == (3, 0, 2, 3)


def test_default_maps_are_those_of_a_pyramid() -> None:
    assert build('glit_tiny').out_indices == (2, 5, 8, 11)
    assert build('resnet18').strides == (4, 8, 16, 32)
    assert build('tiny_flat').strides == (1, 2, 4)


def test_what_only_later_maps_need_is_left_out(family: str) -> None:
    every, first = build(f'tiny_{family}').eval(), build(f'tiny_{family}', out_indices=(0,)).eval()
    assert len(first.state_dict()) < len(every.state_dict())
    with torch.no_grad():
        assert torch.equal(first(image(64, 64))[0], every(image(64, 64))[0])


@pytest.mark.parametrize('name', [*(f'tiny_{family}' for family in FAMILIES), 'test_convnext'])
def test_regions_of_the_maps_are_what_they_are(name: str) -> None:
    """mmcv's RoIAlign takes maps for contiguous whatever they are; torchvision's does not."""
    roi_align = pytest.importorskip('mmcv.ops').roi_align
    backbone = ZooBackbone(name).eval()
    image = torch.randn(1, 3, 64, 64).to(memory_format=torch.channels_last)
    boxes = torch.tensor([[0.0, 3.0, 5.0, 51.0, 60.0]])
    for x, channels, stride in zip(backbone(image), backbone.channels, backbone.strides, strict=True):
        maps = nn.Conv2d(channels, 4, 1)(x)  # as in FPN
        wanted = torchvision.ops.roi_align(maps, boxes, 5, 1 / stride, sampling_ratio=-1, aligned=True)
        torch.testing.assert_close(roi_align(maps, boxes, 5, 1 / stride, 0, 'avg', True), wanted)


def test_every_parameter_gets_a_gradient(family: str) -> None:
    backbone = build(f'tiny_{family}', out_norm=True)
    sum(x.square().mean() for x in backbone(image(96, 64, batch=2))).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


def test_output_norms_normalise_every_position() -> None:
    plain, backbone = build('tiny_s3'), build('tiny_s3', out_norm=True)
    extra = sum(p.numel() for p in backbone.parameters()) - sum(p.numel() for p in plain.parameters())
    assert extra == 2 * sum(backbone.channels)
    for x, raw in zip(backbone.eval()(image(64, 64)), plain.eval()(image(64, 64)), strict=True):
        want = F.layer_norm(raw.permute(0, 2, 3, 1), raw.shape[1:2]).permute(0, 3, 1, 2)
        torch.testing.assert_close(x, want)


def test_s3_shifts_its_windows_as_the_official_detection_code_does(tmp_path: Path) -> None:
    """timm's Swin with always_partition shifts whatever the map is; sizes are multiples of the windows."""
    torch.manual_seed(0)
    args: dict[str, Any] = dict(embed_dim=8, depths=(2, 2), num_heads=(1, 1), head_dim=32, mlp_ratio=1.5)
    swin = SwinTransformer(
        img_size=64, window_size=4, always_partition=True, dynamic_img_size=True, num_classes=10, **args
    ).eval()
    block = {'num_heads': 1, 'window_size': 4, 'mlp_ratio': 1.5}
    arch = {'stages': [{'embed_dim': dim, 'blocks': [block, block]} for dim in (8, 16)]}
    file = tmp_path / 'swin.pth'
    torch.save(swin.state_dict(), file)
    backbone = ZooBackbone('s3', arch=arch, pretrained=str(file))
    backbone.init_weights()
    for height, width in ((32, 32), (96, 160)):
        with torch.no_grad():
            maps = backbone.eval()(image(height, width))
            wanted = swin.forward_intermediates(image(height, width), intermediates_only=True)
        for found, want in zip(maps, wanted, strict=True):
            torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


class Shapes(TorchDispatchMode):
    """The shapes of what operations give."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.seen |= {
            tuple(x.shape) for x in (found if isinstance(found, tuple) else (found,)) if hasattr(x, 'shape')
        }
        return found


@pytest.mark.parametrize('name', ['tiny_carnet', 'tiny_glit', 'tiny_uninet'])
@pytest.mark.parametrize('fused', [True, False])
def test_global_attention_is_not_written_out(name: str, fused: bool) -> None:
    side = 320
    tokens = {(side // stride) ** 2 for stride in (4, 8, 16, 32)}
    backends = [SDPBackend.FLASH_ATTENTION if fused else SDPBackend.MATH]
    with sdpa_kernel(backends), Shapes() as shapes:
        sum(x.mean() for x in build(name)(image(side, side))).backward()
    tokens |= {1 + number for number in tokens}  # with GLiT's class token
    written = {shape for shape in shapes.seen if len(shape) > 2 and {*shape[-2:]} <= tokens}
    assert bool(written) == (not fused)


# ---- names, weights, initialisation


def test_keys_are_the_networks_own_also_below_a_detector(family: str) -> None:
    model = segmentor(f'tiny_{family}', CHANNELS[family])
    whole = {f'backbone.{key}' for key in timm.create_model(f'tiny_{family}').state_dict()}
    own = {key for key in model.state_dict() if key.startswith('backbone.')}
    assert own < whole
    assert {name for name, _ in model.backbone.named_parameters(prefix='backbone')} < whole


def test_parameters_stay_one_when_the_module_moves_or_is_copied(family: str) -> None:
    backbone = build(f'tiny_{family}').eval()
    for moved in (copy.deepcopy(backbone).double(), copy.deepcopy(backbone.double())):
        state = moved.state_dict()
        assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float64}
        for p in moved.parameters():
            nn.init.zeros_(p)
        maps = moved(image(64, 64).double())
        assert all(not x.any() for x in maps)
    assert any(x.any() for x in backbone(image(64, 64).double()))


def test_weights_of_an_entry_survive_init_weights(write_entry: Callable[..., Path], tmp_path: Path) -> None:
    path = write_entry('own_s3', 's3', weights={'digits': {'sources': [{'file': 'own.safetensors'}]}})
    with pytest.raises(ZooError, match=r'own_s3\.digits cannot be fetched'):
        build(str(path), pretrained=True)
    tensors = save_network('own_s3', tmp_path / 'own.safetensors')
    for name in (str(path), 'own_s3', 'own_s3.digits'):
        model = segmentor(name, CHANNELS['s3'], pretrained=True)
        model.init_weights()
        assert_weights(model.backbone, tensors)
    with pytest.raises(ZooError, match=r'own_s3\.letters cannot be made: Invalid pretrained tag'):
        build('own_s3.letters', pretrained=True)


def assert_weights(backbone: nn.Module, tensors: dict[str, Tensor]) -> None:
    own = backbone.state_dict()
    assert own
    assert [key for key in own if not torch.equal(own[key], tensors[key])] == []


def test_weights_from_the_hub_and_from_the_web(
    hub: Hub, write_entry: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'torch'))
    source = {'hf_hub_id': 'org/net'}
    path = write_entry('hub_uninet', 'uninet', weights={'digits': {'sources': [source]}})
    zoo.register(path)
    tensors = save_network('hub_uninet', tmp_path / 'weights.safetensors')
    data = (tmp_path / 'weights.safetensors').read_bytes()
    first = hub.put('org/net', {'model.safetensors': data, 'entry.json': path.read_bytes()})
    hub.put('org/net', {'model.safetensors': b'later', 'other.safetensors': data})
    url = hub.serve('weights.safetensors', data)

    backbone = ZooBackbone(f'hf-hub:org/net@{first}', pretrained=True)
    backbone.init_weights()
    assert_weights(backbone, tensors)
    for place in (f'hf-hub://org/net@{first}', 'hf-hub://org/net/other.safetensors', url):
        backbone = build('hub_uninet', init_cfg={'type': 'Pretrained', 'checkpoint': place})
        backbone.init_weights()
        assert_weights(backbone, tensors)
    for place, fault in (
        ('hf-hub://org/none', 'there is no such repository'),
        ('hf-hub://org/net/none.safetensors', 'the repository has no such file'),
        ('hf-hub://org', r'the form hf-hub://org/name\[@revision\]\[/file\] is needed'),
        (f'{hub.url}/files/none.safetensors', 'the server answered 404'),
        ('hf-hub://org/net', 'not a whole safetensors file'),
    ):
        with pytest.raises(ZooError, match=fault):
            build('hub_uninet', pretrained=place).init_weights()
    with pytest.raises(ZooError, match='hf-hub:org/none cannot be fetched: there is no such repository'):
        build('hf-hub:org/none')
    config = {'architecture': 'test_resnet', 'num_classes': 10}
    hub.put('org/timms', {'config.json': json.dumps(config).encode()})
    assert build('hf-hub:org/timms').channels == build('test_resnet').channels


def test_weights_of_a_whole_detector_by_prefix(family: str, tmp_path: Path) -> None:
    name = f'tiny_{family}'
    model = segmentor(name, CHANNELS[family], out_norm=True)
    torch.save({'state_dict': model.state_dict(), 'meta': {'epoch': 1}}, tmp_path / 'detector.pth')
    init_cfg = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'detector.pth'), 'prefix': 'backbone.'}
    backbone = build(name, seed=1, out_norm=True, init_cfg=init_cfg)
    backbone.init_weights()
    assert_weights(backbone, model.backbone.state_dict())
    save_file(model.state_dict(), tmp_path / 'detector.safetensors')
    other = segmentor(name, CHANNELS[family], seed=2, out_norm=True)
    load_checkpoint(other, str(tmp_path / 'detector.safetensors'))
    assert_weights(other, model.state_dict())


def test_tables_of_a_checkpoint_are_resized_to_the_images_size(tmp_path: Path) -> None:
    for family, table in (('trionet', 'stages.3.blocks.0.operator.width.rel_pos'), ('glit', 'pos_embed')):
        name, file = f'tiny_{family}', tmp_path / f'{family}.safetensors'
        save_network(name, file)
        backbone = build(name, img_size=(96, 160), pretrained=str(file))
        backbone.init_weights()
        want = timm.create_model(
            name, img_size=(96, 160), pretrained=True, pretrained_cfg_overlay={'file': str(file)}
        ).state_dict()
        assert_weights(backbone, want)
        assert want[table].shape != load_file(file)[table].shape


def test_other_initialisations_come_before_a_checkpoint(tmp_path: Path) -> None:
    tensors = save_network('tiny_glit', tmp_path / 'weights.safetensors')
    constant = {'type': 'Constant', 'layer': 'Linear', 'val': 3.0}
    backbone = build('tiny_glit', init_cfg=constant)
    backbone.init_weights()
    assert backbone.state_dict()['blocks.0.mlp.fc1.weight'].eq(3).all()
    checkpoint = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'weights.safetensors')}
    backbone = build('tiny_glit', init_cfg=[checkpoint, constant])
    backbone.init_weights()
    assert_weights(backbone, tensors)


# ---- modes


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


FROZEN = {
    'carnet': ['stem', 'stages.0', 'stages.1', 'stages.2', 'stages.3', 'stages.4', 'stages.5'],
    'glit': ['patch_embed', 'pos_embed', 'cls_token', 'blocks.0', 'blocks.1', 'blocks.2', 'blocks.3'],
    's3': ['patch_embed', 'stages.0', 'stages.1', 'stages.2', 'stages.3'],
    'trionet': ['stem', 'stages.0', 'stages.1', 'stages.2', 'stages.3'],
    'uninet': ['stem', 'stages.0', 'stages.1', 'stages.2', 'stages.3', 'stages.4', 'stages.5'],
}
COUNTS = {
    'carnet': (1, 2, 3, 5, 7),
    'glit': (3, 4, 5, 6, 7),
    's3': (1, 2, 3, 4, 5),
    'trionet': (1, 2, 3, 4, 5),
    'uninet': (1, 3, 4, 6, 7),
}
"""How many of FROZEN's modules are frozen by frozen_stages 0 to 4."""


@pytest.mark.parametrize('stages', range(-1, 5))
def test_frozen_stages_stay_frozen_in_train(family: str, stages: int) -> None:
    backbone = build(f'tiny_{family}', frozen_stages=stages, drop_path_rate=0.5)
    starts = tuple(FROZEN[family][: COUNTS[family][stages]] if stages >= 0 else ())
    frozen = (
        {name for name, _ in backbone.named_parameters() if f'{name}.'.startswith(starts)}
        if starts
        else set()
    )
    assert bool(frozen) == (stages >= 0)
    assert backbone.eval().train() is backbone
    assert [backbone.train(mode)._net.training for mode in (False, True)] == [False, True]
    assert {name for name, p in backbone.named_parameters() if not p.requires_grad} == frozen
    before = state(backbone)
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1)
    loss = sum(x.square().mean() for x in backbone(image(64, 64, batch=2)))
    if stages < 4:
        loss.backward()
        optimizer.step()
    after = backbone.state_dict()
    held = {name for name in after if starts and name.startswith(starts)}
    assert {name for name in held if not torch.equal(before[name], after[name])} == set()
    moved = {name for name in after.keys() - held if 'bias' not in name and after[name].is_floating_point()}
    assert not moved or any(not torch.equal(before[name], after[name]) for name in moved)
    first = backbone.eval()(image(64, 64))
    if stages == 4:  # no stochastic depth in what is frozen
        assert all(torch.equal(x, y) for x, y in zip(first, backbone.train()(image(64, 64)), strict=True))


def test_norm_eval_keeps_statistics(family: str) -> None:
    backbone = build(f'tiny_{family}', norm_eval=True)
    before = state(backbone)
    for _ in range(2):
        backbone.eval().train()(image(64, 64, batch=2))
    norms = [m for m in backbone.modules() if isinstance(m, _BatchNorm)]
    assert not any(m.training for m in norms)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert backbone.training


def test_checkpointing_changes_memory_and_nothing_else(family: str) -> None:
    results = []
    for with_cp in (False, True):
        backbone = build(f'tiny_{family}', with_cp=with_cp, drop_path_rate=0.2)
        kept = {}

        def pack(x: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        torch.manual_seed(3)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            maps = backbone(image(128, 128, batch=2))
        size = sum(kept.values()) - sum(p.nbytes for p in backbone.parameters() if p.data_ptr() in kept)
        sum(x.square().mean() for x in maps).backward()
        sum(x.square().mean() for x in backbone(image(64, 64, batch=2))).backward()
        gradients = {name: p.grad for name, p in backbone.named_parameters()}
        results.append((maps, gradients, state(backbone), size))
    (maps, gradients, buffers, size), (maps_cp, gradients_cp, buffers_cp, size_cp) = results
    assert all(torch.equal(x, y) for x, y in zip(maps, maps_cp, strict=True))
    assert gradients.keys() == gradients_cp.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_cp[name], gradient)
    assert [name for name in buffers if not torch.equal(buffers[name], buffers_cp[name])] == []
    assert size_cp < 0.9 * size


def test_drop_path_rate_reaches_the_network(family: str) -> None:
    rates = [
        m.drop_prob for m in build(f'tiny_{family}', drop_path_rate=0.3).modules() if hasattr(m, 'drop_prob')
    ]
    assert max(rates) == pytest.approx(0.3)


def test_channels_of_the_image() -> None:
    assert build('tiny_s3', in_channels=5).eval()(torch.zeros(1, 5, 32, 32))[0].shape[1] == 8


def test_synchronised_batch_norms_keep_their_activations(tmp_path: Path) -> None:
    plain = build('tiny_trionet', sync_bn=True)
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in plain.modules())
    store = torch.distributed.FileStore(str(tmp_path / 'store'), 1)
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    try:
        synced = build('tiny_trionet', sync_bn=True)
    finally:
        torch.distributed.destroy_process_group()
    assert all(isinstance(m, nn.SyncBatchNorm) for m in synced.modules() if isinstance(m, _BatchNorm))
    assert synced.state_dict().keys() == plain.state_dict().keys()
    synced.load_state_dict(plain.state_dict())
    for x, y in zip(plain.eval()(image(64, 64)), synced.eval()(image(64, 64)), strict=True):
        assert torch.equal(x, y)


def test_norms_that_lost_their_activations_are_refused() -> None:
    broken = convert_sync_batchnorm(build('tiny_trionet'))
    with pytest.raises(ZooError, match=r'tiny_trionet: stem\.bn has lost its activation .* sync_bn=True'):
        broken.train()


# ---- tables of positions


@pytest.fixture
def resized(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What resizes tables, one name for each time."""
    calls: list[str] = []

    def count(original: Any, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(original.__name__)
        found: Tensor = original(*args, **kwargs)
        return found

    for module, name in (
        (zoo.layers.axial_attention, 'resize_table'),
        (zoo.models.glit, 'resample_abs_pos_embed'),
    ):
        monkeypatch.setattr(module, name, partial(count, getattr(module, name)))
    return calls


@pytest.mark.parametrize('name', ['tiny_glit', 'tiny_trionet'])
def test_tables_are_resized_once_for_each_size(name: str, resized: list[str]) -> None:
    backbone = build(name).eval()
    plain = build(name).eval()
    for tables in plain._tables:
        tables.on = False

    def check(height: int, width: int, anew: bool) -> None:
        resized.clear()
        found = backbone(image(height, width))
        assert bool(resized) == anew
        for x, y in zip(found, plain(image(height, width)), strict=True):
            assert torch.equal(x, y)

    with torch.no_grad():
        check(96, 128, anew=True)
        check(96, 128, anew=False)
        check(128, 96, anew=True)
        check(96, 128, anew=False)
        for module in (backbone, plain):  # such as an optimizer's step
            for parameter in module.parameters():
                parameter.mul_(1.5)
        check(96, 128, anew=True)
        for module in (backbone, plain):  # such as MMEngine's EMAHook before a validation
            for parameter in module.parameters():
                parameter.data.mul_(0.5)
            module.eval()
        check(96, 128, anew=True)
        plain.load_state_dict(build(name, seed=9).state_dict())
        backbone.load_state_dict(build(name, seed=9).state_dict())
        check(96, 128, anew=True)
    with torch.no_grad():
        assert backbone.double()(image(96, 128).double())[0].dtype == torch.float64
    backbone.float().eval()
    with torch.inference_mode():
        backbone(image(96, 128))
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad = not name.endswith(('pos_embed', 'rel_pos'))
    sum(x.mean() for x in backbone(image(96, 128))).backward()


@pytest.mark.parametrize('name', ['tiny_glit', 'tiny_trionet'])
def test_tables_of_the_images_size_are_never_resized(name: str, resized: list[str]) -> None:
    backbone = build(name, img_size=(96, 128)).train()
    resized.clear()
    backbone(image(96, 128))
    assert [call for call in resized if call == 'resize_table'] == []
    table = backbone.pos_embed if name == 'tiny_glit' else None
    assert table is None or table.shape[1] == 1 + 6 * 8


@pytest.mark.parametrize('name', ['tiny_glit', 'tiny_trionet'])
def test_tables_learn_from_images_of_another_size(name: str) -> None:
    backbone = build(name).train()
    with torch.no_grad():
        backbone.eval()(image(96, 128))
    backbone.train()
    for _ in range(2):  # gradients add up
        sum(x.square().mean() for x in backbone(image(96, 128, batch=2))).backward()
    tables = [p for key, p in backbone.named_parameters() if key.endswith(('pos_embed', 'rel_pos'))]
    assert tables
    assert all(table.grad is not None and table.grad.any() for table in tables)


# ---- mistakes


@pytest.mark.parametrize(
    ('arguments', 'fault'),
    [
        ({'name': 's3_tinny'}, r"There is no entry and no model of timm 's3_tinny' \(did you mean s3_tiny"),
        ({'name': 'resnet19'}, r"There is no entry and no model of timm 'resnet19' \(did you mean resnet1"),
        ({'name': 'org/net'}, r"There is no entry and no model of timm 'org/net'"),
        ({'name': 'none.json'}, r'none\.json'),
        (
            {'name': 'tiny_s3', 'out_indices': (0, 4)},
            r'tiny_s3: out_indices has 4, the network has 4 feature maps \(strides 4, 8, 16, 32\): -4 to 3',
        ),
        (
            {'name': 'tiny_glit', 'out_indices': (-5,)},
            r'has -5, the network has 4 feature maps \(strides 16 each',
        ),
        (
            {'name': 'tiny_flat', 'out_indices': (0, 1, 2, 3)},
            r'tiny_flat: out_indices has 3, the network has 3 feature maps \(strides 1, 2, 4\)',
        ),
        (
            {'name': 'tiny_s3', 'out_indices': ()},
            r'out_indices is \(\), a tuple such as \(0, 1, 2, 3\) is needed',
        ),
        ({'name': 'tiny_s3', 'out_indices': 3}, r'out_indices is 3, a tuple such as'),
        (
            {'name': 'tiny_s3', 'frozen_stages': 5},
            r'tiny_s3: frozen_stages is 5, with 4 stages it is -1 to 4',
        ),
        ({'name': 'tiny_s3', 'frozen_stages': -2}, r'frozen_stages is -2'),
        ({'name': 'tiny_s3', 'pretrained': True}, r'tiny_s3 has no published weights'),
        (
            {'name': 'tiny_s3', 'pretrained': True, 'init_cfg': {'type': 'Pretrained', 'checkpoint': 'x'}},
            r'pretrained and init_cfg are both given',
        ),
    ],
)
def test_faulty_arguments_are_one_sentence(arguments: dict[str, Any], fault: str) -> None:
    with pytest.raises(ZooError, match=fault) as caught:
        ZooBackbone(**arguments)
    assert '\n' not in str(caught.value)


def test_checkpoints_of_other_networks_are_one_sentence(tmp_path: Path) -> None:
    save_network('tiny_uninet', tmp_path / 'uninet.safetensors')
    tensors = save_network('tiny_s3', tmp_path / 's3.safetensors')
    save_file(tensors | {'stages.0.blocks.0.mlp.fc1.weight': torch.zeros(3)}, tmp_path / 'shape.safetensors')
    few = {key: tensor for key, tensor in tensors.items() if not key.startswith('stages.3')}
    save_file(few, tmp_path / 'few.safetensors')
    nan = tensors | {
        'patch_embed.proj.weight': torch.full_like(tensors['patch_embed.proj.weight'], torch.nan)
    }
    save_file(nan, tmp_path / 'nan.safetensors')
    (tmp_path / 'damaged.safetensors').write_bytes(b'{"a"')
    torch.save({'state_dict': {f'backbone.{key}': x for key, x in tensors.items()}}, tmp_path / 'whole.pth')
    torch.save({'epoch': 3}, tmp_path / 'empty.pth')
    for name, prefix, fault in (
        (
            'uninet.safetensors',
            None,
            r'uninet\.safetensors does not fit tiny_s3: \d+ of \d+ tensors are missing',
        ),
        ('few.safetensors', None, r'tensors are missing \(stages\.3'),
        ('shape.safetensors', None, r'1 have another shape'),
        ('nan.safetensors', None, r'hold NaN or infinity'),
        ('damaged.safetensors', None, r'not a whole safetensors file'),
        ('none.safetensors', None, r'there is no such file'),
        ('none.pth', None, r'(There is no checkpoint .*none\.pth|none\.pth: there is no such file)'),
        ('whole.pth', None, r'are not of this network \(backbone\.'),
        ('whole.pth', 'neck.', r"holds no tensors under 'neck\.', but 'backbone\."),
        ('empty.pth', None, r"holds no tensors, but 'epoch'"),
    ):
        backbone = build(
            'tiny_s3', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / name), prefix=prefix)
        )
        with pytest.raises(ZooError, match=fault) as caught:
            backbone.init_weights()
        assert '\n' not in str(caught.value)


# ---- timm's networks


def test_timms_swin_takes_any_size_and_shifts_all_windows() -> None:
    args = dict(embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4, img_size=32)
    backbone = build('swin_tiny_patch4_window7_224', **args).eval()
    maps = backbone(image(37, 50))
    assert [tuple(x.shape) for x in maps] == [(1, 8, 10, 14), (1, 16, 5, 7)]
    assert [
        block.attn.shift_size if hasattr(block.attn, 'shift_size') else block.shift_size
        for layer in backbone.layers
        for block in layer.blocks
    ] == [(0, 0), (2, 2)] * 2


def test_timms_vision_transformer_takes_any_size() -> None:
    backbone = build('test_vit').eval()
    patch = backbone.strides[0]
    assert [x.shape[2:] for x in backbone(image(3 * patch - 5, 4 * patch))][-1] == (3, 4)


def test_timms_networks_of_one_size_say_so() -> None:
    backbone = build('maxvit_nano_rw_256', out_indices=(0,)).eval()
    with pytest.raises(ZooError, match='maxvit_nano_rw_256 takes images of 256x256, found 64x64'):
        backbone(image(64, 64))


def test_frozen_stages_of_timms_resnet_are_those_of_mm() -> None:
    backbone = build('test_resnet', frozen_stages=1)
    frozen = {name.partition('.')[0] for name, p in backbone.named_parameters() if not p.requires_grad}
    free = {name.partition('.')[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert frozen == {'conv1', 'bn1', 'layer1'}
    assert free == {'layer2', 'layer3', 'layer4'}


# ---- optimizers


def groups(model: nn.Module, **paramwise: Any) -> dict[str, dict[str, Any]]:
    """Each parameter's group, by name. MMEngine adds one of its own, with the unchanged learning rate."""
    optim_wrapper = build_optim_wrapper(
        model,
        {
            'type': 'OptimWrapper',
            'constructor': 'ZooOptimWrapperConstructor',
            'optimizer': {'type': 'AdamW', 'lr': 1.0, 'weight_decay': 0.5},
            'paramwise_cfg': paramwise,
        },
    )
    names = {id(p): name for name, p in model.named_parameters()}
    found = ((names.get(id(p)), group) for group in optim_wrapper.param_groups for p in group['params'])
    return {name: group for name, group in found if name}


def test_tables_and_tokens_are_not_decayed(family: str) -> None:
    model = segmentor(f'tiny_{family}', CHANNELS[family])
    wanted = timm.create_model(f'tiny_{family}').no_weight_decay()
    assert model.backbone.no_weight_decay() == wanted
    assert bool(wanted) == (family != 'uninet')
    found = groups(model, norm_decay_mult=0.0)
    norms = (nn.LayerNorm, nn.GroupNorm, _BatchNorm)
    of_norms = {
        f'{name}.{p}' for name, m in model.named_modules() if isinstance(m, norms) for p in ('weight', 'bias')
    }
    undecayed = {name for name, group in found.items() if group['weight_decay'] == 0}
    assert undecayed == {f'backbone.{name}' for name in wanted} | (of_norms & found.keys())
    assert {group['lr'] for group in found.values()} == {1.0}


def test_ready_made_keys_are_those_of_every_family() -> None:
    for family in FAMILIES:
        backbone = build(f'tiny_{family}')
        names = {name for name, _ in backbone.named_parameters()}
        assert {
            name for name in names if any(key in name for key in NO_WEIGHT_DECAY)
        } == backbone.no_weight_decay()


def test_custom_keys_have_the_last_word_on_decay() -> None:
    model = segmentor('tiny_s3', CHANNELS['s3'])
    found = groups(model, custom_keys={'stages.0.blocks.0.attn': {'decay_mult': 0.5}})
    decays = [g['weight_decay'] for name, g in found.items() if name.endswith('relative_position_bias_table')]
    assert decays == [0.25, *[0.0] * 5]


def test_layers_further_from_the_head_learn_more_slowly() -> None:
    model = segmentor('tiny_s3', CHANNELS['s3'], out_norm=True, frozen_stages=0)
    found = groups(model, layer_decay=0.5, custom_keys={'stages.1.downsample': {'lr_mult': 10.0}})
    rates = {name: group['lr'] for name, group in found.items()}
    depth = {'stages.0.blocks.0': 6, 'stages.0.blocks.1': 5, 'stages.1.blocks.0': 4, 'stages.1.blocks.1': 3}
    depth |= {'stages.2.blocks.0': 2, 'stages.3.blocks.0': 1, 'out_norms': 0}
    for start, layers in depth.items():
        assert {rate for name, rate in rates.items() if name.startswith(f'backbone.{start}')} == {0.5**layers}
    first = {rate for name, rate in rates.items() if name.startswith('backbone.stages.1.downsample')}
    assert first == {10 * 0.5**4}
    assert {rate for name, rate in rates.items() if name.startswith('decode_head')} == {1.0}
    assert not any(name.startswith('backbone.patch_embed') for name in rates)


@pytest.mark.parametrize('rate', [0, 1.5])
def test_faulty_layer_decay_is_one_sentence(rate: float) -> None:
    with pytest.raises(ZooError, match=f'layer_decay is {rate}, above 0 and at most 1 is allowed'):
        groups(build('tiny_s3'), layer_decay=rate)


# ---- in mmseg


def segmentor(name: str, channels: tuple[int, ...], seed: int = 0, **kwargs: Any) -> Any:
    """mmseg's UperNet, small; of a network with one scale through mmseg's pyramid."""
    torch.manual_seed(seed)
    heads: dict[str, Any] = dict(num_classes=5, norm_cfg=dict(type='BN'), align_corners=False)
    neck = dict(type='Feature2Pyramid', embed_dim=16, rescales=[4, 2, 1, 0.5], norm_cfg=dict(type='BN'))
    config = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64), test_cfg=dict(size_divisor=32)),
        backbone=dict(type='ZooBackbone', name=name, **kwargs),
        neck=neck if len(set(channels)) == 1 else None,
        decode_head=dict(
            type='UPerHead',
            in_channels=channels,
            in_index=[0, 1, 2, 3],
            pool_scales=(1, 2),
            channels=8,
            **heads,
        ),
        auxiliary_head=dict(
            type='FCNHead', in_channels=channels[2], in_index=2, channels=8, num_convs=1, **heads
        ),
        test_cfg=dict(mode='whole'),
    )
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(ConfigDict(config))


def test_upernet_trains_and_predicts(family: str) -> None:
    model = segmentor(f'tiny_{family}', CHANNELS[family])
    model.init_weights()
    sizes = ((61, 40), (50, 64))  # the preprocessor pads them to one batch
    samples = []
    for height, width in sizes:
        truth = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (1, height, width)))
        meta = {'img_shape': (height, width), 'ori_shape': (height, width), 'pad_shape': (height, width)}
        samples.append(SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=truth)))
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    data = model.data_preprocessor({'inputs': images, 'data_samples': samples}, training=True)
    losses = model.train()(**data, mode='loss')
    sum(x for name, x in losses.items() if 'loss' in name).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    for picture, sample, size in zip(images, samples, sizes, strict=True):
        data = model.data_preprocessor({'inputs': [picture], 'data_samples': [sample]}, training=False)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter('error')
            (found,) = model.eval()(**data, mode='predict')
        assert found.pred_sem_seg.data.shape == (1, *size)


def test_prediction_is_aligned_with_the_image_where_mmseg_pads() -> None:
    """The preprocessor's padding and the backbone's give the same maps; mmseg crops its own away."""
    model = segmentor('tiny_s3', CHANNELS['s3']).eval()
    picture = image(40, 50)
    with pytest.warns(UserWarning, match='40x50 was padded to 64x64'):
        own = model.backbone(picture)
    padded = model.backbone(F.pad(picture, (0, 14, 0, 24)))
    assert all(torch.equal(x, y) for x, y in zip(own, padded, strict=True))


def test_found_by_name_in_a_fresh_process_by_custom_imports(tmp_path: Path) -> None:
    (tmp_path / 'config.py').write_text(
        "custom_imports = dict(imports=['downstream.backbone'], allow_failed_imports=False)\n"
        "backbone = dict(type='ZooBackbone', name='uninet_b0', out_indices=(0, 3))\n"
    )
    code = (
        'from mmengine.config import Config\n'
        f'config = Config.fromfile({str(tmp_path / "config.py")!r})\n'
        'from mmseg.registry import MODELS as seg\n'
        'print(seg.build(config.backbone).channels)\n'
    )
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert found.stdout.endswith('(48, 256)\n'), found.stderr
