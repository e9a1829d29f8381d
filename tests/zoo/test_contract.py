"""What timm's own tests (tests/timm_suite) leave out, on every entry: saving and loading again, groups of
parameters, layouts and types, odd sizes, and the libraries that take timm's networks.
"""

import copy
import json
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from timm.models import save_for_hf
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForImageClassification, TimmBackbone, TimmBackboneConfig

import zoo
from zoo.models import FAMILIES

SMALL = ('carnet_c96', 'glit_tiny', 's3_tiny', 'trionet_a', 'uninet_b0')
"""One a family for `make test`; the others are slow."""

ANY_SIZE = {'carnet', 's3', 'trionet', 'uninet'}
RESIZED = {'glit', 's3', 'trionet'}
"""Families with ``set_input_size``."""

PYRAMIDS = {'s3', 'trionet', 'uninet'}
"""Families whose feature maps have strides 4, 8, 16, 32."""

CLASSES = 7


def entries(families: set[str]) -> list[Any]:
    """The names of these families' entries for colour images, all but the small ones marked as slow."""
    known = {name: zoo.load_entry(name) for name in zoo.list_entries()}
    names = [name for name, entry in known.items() if entry.family in families and entry.input.size[0] == 3]
    return [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in names]


def make(name: str, **kwargs: Any) -> nn.Module:
    """A network in which every branch takes part: constant vectors (zero gains, small layer scales) become
    random ones, and batch norms know the mean and variance of what they get.
    """
    torch.manual_seed(0)
    model = timm.create_model(name, **({'num_classes': CLASSES} | kwargs))
    for parameter in model.parameters():
        if parameter.ndim == 1 and parameter.min() == parameter.max():
            parameter.data.normal_(float(parameter[0] != 0), 0.2)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    if norms:
        model(make_images(4, kwargs.get('in_chans', 3), smallest_size(name)))
    return model.eval()


def make_images(number: int, channels: int, size: tuple[int, int]) -> Tensor:
    """Smooth images with some noise, which differ more than noise alone does after pooling."""
    smooth = nn.functional.interpolate(torch.randn(number, channels, 4, 6), size, mode='bilinear')
    return smooth + 0.3 * torch.randn(number, channels, *size)


def check_close(found: Tensor, expected: Tensor) -> None:
    """Equal but for float32's rounding, which deep networks with random weights amplify."""
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-4 * expected.std().item())


def smallest_size(name: str) -> tuple[int, int]:
    """Where any size will do, one at which no map of a stage is a single pixel."""
    if zoo.load_entry(name).family not in ANY_SIZE:
        return zoo.load_entry(name).input.size[1:]
    return (64, 96) if zoo.load_entry(name).input.size[1] > 64 else (32, 32)


@pytest.fixture(scope='module', params=entries(set(FAMILIES)))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope='module')
def shared(name: str) -> nn.Module:
    """One network for the tests that only read it."""
    return make(name)


@pytest.fixture
def images(name: str) -> Tensor:
    torch.manual_seed(1)
    return make_images(2, 3, smallest_size(name))


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_names_are_free_in_timm() -> None:
    assert hasattr(timm.models, 'swin_s3_tiny_224')
    assert hasattr(timm.models, 'swin_transformer')
    assert [name for name in (*zoo.list_entries(), *FAMILIES) if hasattr(timm.models, name)] == []


@pytest.mark.parametrize('change', ['nothing', 'channels', 'head'])
def test_saved_network_is_loaded_again(name: str, change: str, tmp_path: Path) -> None:
    in_chans = 1 if change == 'channels' else 3
    model = make(name, in_chans=in_chans)
    if change == 'head':
        model.reset_classifier(5, 'max')
    check_saved(model, tmp_path, make_images(2, in_chans, smallest_size(name)))


@pytest.mark.parametrize('name', entries(RESIZED))
def test_resized_network_is_loaded_again(name: str, tmp_path: Path) -> None:
    model = make(name)
    height, width = (side * 6 // 7 for side in zoo.load_entry(name).input.size[1:])
    model.set_input_size((height, 2 * width))
    check_saved(model, tmp_path, make_images(1, 3, (height, 2 * width)))


def check_saved(model: nn.Module, folder: Path, images: Tensor) -> None:
    save_for_hf(model, folder, safe_serialization=True)
    again = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in again.state_dict().items())
    check_close(again(images), model(images))


def test_tensors_that_checkpoints_leave_out_are_made_anew(
    name: str, shared: nn.Module, images: Tensor
) -> None:
    """As transformers loads a network: made without memory, filled from a state_dict and by that method."""
    model = timm.create_model(name, num_classes=CLASSES, device='meta').to_empty(device='cpu').eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.fill_(math.nan if tensor.is_floating_point() else -1)
    model.load_state_dict(shared.state_dict())
    for module in model.modules():
        if hasattr(module, 'init_non_persistent_buffers'):
            module.init_non_persistent_buffers()
    check_close(model(images), shared(images))


def test_images_of_a_batch_do_not_mix(shared: nn.Module, images: Tensor) -> None:
    network, images = copy.deepcopy(shared).double(), images.double()
    singles = torch.cat([network(image[None]) for image in images])
    assert (singles[0] - singles[1]).abs().max() > 0.1 * singles.std()
    check_close(network(images), singles)


def test_parameters_without_decay_exist(shared: nn.Module) -> None:
    assert set(shared.no_weight_decay()) <= {name for name, _ in shared.named_parameters()}


def test_learning_rates_rise_with_depth(shared: nn.Module, images: Tensor) -> None:
    """From the first layer, which has the lowest rate, along the computation to the classifier."""
    groups = param_groups_layer_decay(shared, layer_decay=0.5)
    grouped = [(id(parameter), group['lr_scale']) for group in groups for parameter in group['params']]
    scales = dict(grouped)
    assert len(grouped) == len(scales)
    assert scales.keys() == {id(parameter) for parameter in shared.parameters()}

    executed: list[nn.Parameter] = []
    handles = [
        module.register_forward_pre_hook(
            lambda module, args: executed.extend(module.parameters(recurse=False))
        )
        for module in shared.modules()
    ]
    shared(images[:1])
    for handle in handles:
        handle.remove()
    assert {id(parameter) for parameter in executed} == scales.keys()
    along = [scales[id(parameter)] for parameter in executed]
    assert along == sorted(along)
    first_conv = shared.pretrained_cfg['first_conv']
    for first in (first_conv,) if isinstance(first_conv, str) else first_conv:
        assert scales[id(shared.get_parameter(f'{first}.weight'))] == min(along)
    head = {id(parameter) for parameter in shared.get_classifier().parameters()}
    assert {parameter for parameter, scale in grouped if scale == 1} == head
    assert len(set(along)) > 3


def test_copies_are_equal(shared: nn.Module, images: Tensor) -> None:
    expected = shared(images)
    check_close(copy.deepcopy(shared)(images), expected)
    check_close(pickle.loads(pickle.dumps(shared))(images), expected)


def test_layouts_change_nothing_but_rounding(shared: nn.Module, images: Tensor) -> None:
    network, images = copy.deepcopy(shared).double(), images.double()
    expected = network(images)
    channels_last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    check_close(channels_last(images.to(memory_format=torch.channels_last)), expected)
    check_close(network(images.transpose(2, 3).contiguous().transpose(2, 3)), expected)


def test_bf16_is_near_float32(shared: nn.Module, images: Tensor) -> None:
    """Random networks amplify rounding from stage to stage: the first map is compared, all are finite."""
    expected = shared.forward_intermediates(images, intermediates_only=True)[0]
    with torch.autocast('cpu', torch.bfloat16):
        mixed = shared.forward_intermediates(images)
        assert shared(images).dtype == torch.bfloat16
    network = copy.deepcopy(shared).to(torch.bfloat16)
    half = network.forward_intermediates(images.to(torch.bfloat16))
    assert network(images.to(torch.bfloat16)).dtype == torch.bfloat16
    for final, maps in (mixed, half):
        assert all(found.isfinite().all() for found in (final, *maps))
        assert (maps[0].float() - expected).std() < 0.05 * expected.std()


@pytest.mark.parametrize('name', entries(ANY_SIZE))
@pytest.mark.parametrize('size', [(75, 97), (64, 33)])
def test_feature_maps_of_odd_sizes(name: str, size: tuple[int, int]) -> None:
    model = make(name, features_only=True)
    maps = model(make_images(1, 3, size))
    for found, channels, reduction in zip(
        maps, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        assert list(found.shape) == [1, channels, *[math.ceil(side / reduction) for side in size]]
        assert found.isfinite().all()


def test_transformers_loads_it(name: str, images: Tensor, tmp_path: Path) -> None:
    model = make(name)
    save_for_hf(model, tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / 'config.json').read_text())
    del config['model_args']['num_classes']  # transformers passes it as well
    (tmp_path / 'config.json').write_text(json.dumps(config))
    classifier = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    check_close(classifier(images).logits, model(images))
    features = AutoModel.from_pretrained(tmp_path).eval()(images)
    torch.testing.assert_close(
        features.pooler_output, model.forward_head(model.forward_features(images), True)
    )


def test_transformers_takes_it_as_a_backbone(name: str, images: Tensor) -> None:
    backbone = TimmBackbone(TimmBackboneConfig(backbone=name, out_indices=(0, 2))).eval()
    info = timm.create_model(name, device='meta').feature_info
    found = backbone(images).feature_maps
    assert [features.shape[1] for features in found] == [info[i]['num_chs'] for i in (0, 2)]


@pytest.mark.parametrize('name', [*entries(PYRAMIDS), pytest.param('carnet_c112', marks=pytest.mark.slow)])
def test_segmentation_models_take_it_as_an_encoder(name: str) -> None:
    model = smp.Unet(f'tu-{name}', encoder_weights=None, in_channels=3, classes=CLASSES)
    images = torch.randn(2, 3, 64, 96)
    with torch.enable_grad():
        masks = model(images)
        masks.mean().backward()
    assert masks.shape == (2, CLASSES, 64, 96)
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())
