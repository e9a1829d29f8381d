"""The shipped configurations of detectors and segmentors: models on meta, figures, settings, data, table."""

import ast
import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, PARAM_SCHEDULERS, DefaultScope
from PIL import Image
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import zoo
from downstream.complexity import build_on_meta, measure_complexity
from downstream.table import BEGIN, END, list_configs, make_table, replace_table
from zoo.errors import ZooError
from zoo.registry import config_path

NAMES = list_configs(('detection', 'segmentation'))
FOLDER = config_path('_base_/detection_runtime.py').parents[1]

S3_AP = ('box_ap', 'box_ap50', 'box_ap75', 'mask_ap', 'mask_ap50', 'mask_ap75')
PRINTED: dict[str, dict[str, float]] = {
    # arXiv 2111.14725, Tables 2 and 3
    'cascade-mask-rcnn_s3-tiny_fpn_1x_coco': dict(params=86, macs=748)
    | dict(zip(S3_AP, (48.4, 67.8, 52.3, 42.0, 64.8, 45.2), strict=True)),
    'cascade-mask-rcnn_s3-small_fpn_1x_coco': dict(params=107, macs=855)
    | dict(zip(S3_AP, (50.8, 70.1, 55.0, 43.9, 67.5, 47.2), strict=True)),
    'cascade-mask-rcnn_s3-base_fpn_1x_coco': dict(params=128, macs=947)
    | dict(zip(S3_AP, (50.8, 69.7, 55.2, 43.7, 67.1, 47.0), strict=True)),
    'cascade-mask-rcnn_s3-tiny_fpn_3x_coco': dict(params=86, macs=748)
    | dict(zip(S3_AP, (50.5, 69.4, 54.9, 43.8, 66.8, 47.5), strict=True)),
    'cascade-mask-rcnn_s3-small_fpn_3x_coco': dict(params=107, macs=855)
    | dict(zip(S3_AP, (52.6, 71.5, 56.9, 45.5, 68.8, 49.4), strict=True)),
    'cascade-mask-rcnn_s3-base_fpn_3x_coco': dict(params=128, macs=947)
    | dict(zip(S3_AP, (52.5, 71.2, 57.1, 45.4, 68.8, 49.1), strict=True)),
    'upernet_s3-tiny_8xb2-160k_ade20k-512x512': dict(params=60, macs=954, miou=44.87, miou_tta=46.27),
    'upernet_s3-small_8xb2-160k_ade20k-512x512': dict(params=81, macs=1071, miou=48.04, miou_tta=49.31),
    # arXiv 2110.04035v1, Table 4
    'mask-rcnn_uninet-b1_fpn_1x_coco': dict(params=28, box_ap=40.5, mask_ap=37.5),
    'mask-rcnn_uninet-b1_fpn_3x_coco': dict(params=28, box_ap=44.4, mask_ap=40.1),
    'mask-rcnn_uninet-b3_fpn_1x_coco': dict(params=50, box_ap=45.6, mask_ap=41.6),
    'mask-rcnn_uninet-b3_fpn_3x_coco': dict(params=50, box_ap=47.9, mask_ap=43.3),
    'upernet_uninet-b1_8xb2-160k_ade20k-512x512': dict(params=38, miou=42.7),
    'upernet_uninet-b3_8xb2-160k_ade20k-512x512': dict(params=59, miou=49.0),
    # arXiv 2111.07547, Table 6: 29.6 billion FLOPs, which are two a multiply-accumulate
    'deeplabv3_trionet-b_4xb4-20k_voc12aug-512x512': dict(macs=29.6 / 2, miou=69.3),
}
DROP_PATH = {
    'cascade-mask-rcnn_s3-tiny_fpn_1x_coco': 0.0,
    'cascade-mask-rcnn_s3-tiny_fpn_3x_coco': 0.2,
    'cascade-mask-rcnn_s3-small_fpn_3x_coco': 0.2,
    'cascade-mask-rcnn_s3-base_fpn_3x_coco': 0.3,
    'upernet_s3-tiny_8xb2-160k_ade20k-512x512': 0.3,
    'upernet_s3-small_8xb2-160k_ade20k-512x512': 0.3,
}
TABLES = ('cls_token', 'pos_embed', 'rel_pos', 'rel_height', 'rel_width', 'relative_position_bias_table')
NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


@functools.cache
def load(name: str) -> Config:
    return Config.fromfile(FOLDER / f'{name}.py')


@functools.cache
def model(name: str) -> Any:
    return build_on_meta(load(name)).eval()


def figures(name: str) -> dict[str, Any]:
    return PRINTED.get(name.partition('/')[2], {})


def is_s3(name: str) -> bool:
    return '_s3-' in name


# ---- models


def test_all_of_the_papers_experiments_are_there() -> None:
    stems = {name.partition('/')[2] for name in NAMES}
    assert set(PRINTED) <= stems
    for network in ('glit', 'carnet'):
        for area in ('detection', 'segmentation'):
            assert any(name.startswith(area) and network in name for name in NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_channels_and_strides_are_what_comes_next_needs(name: str) -> None:
    net, config = model(name), load(name).model
    assert net.backbone.strides == ((16,) * 4 if 'glit' in name else (4, 8, 16, 32))
    necks = config.get('neck', {'type': None})
    first = necks[0] if isinstance(necks, list) else necks
    channels = list(net.backbone.channels)
    if 'glit' in name:
        assert [first['embed_dim']] * 4 == channels
    elif name.startswith('detection'):
        assert list(first['in_channels']) == channels
    if 'decode_head' in config:
        for head in (config.decode_head, config.auxiliary_head):
            index = head.in_index
            assert head.in_channels == (channels[index] if isinstance(index, int) else channels)
    with torch.no_grad():
        maps = net.extract_feat(torch.empty(1, 3, 64, 128, device='meta'))
    shapes = [tuple(x.shape[2:]) for x in maps]
    assert shapes == [(64 // s, 128 // s) for s in (4, 8, 16, 32, 64)[: len(maps)]]
    assert len(maps) == (5 if name.startswith('detection') else 4)


@pytest.mark.parametrize('name', NAMES)
def test_images_are_normalised_as_the_network_was_trained(name: str) -> None:
    preprocessor, entry = load(name).model.data_preprocessor, zoo.load_entry(load(name).model.backbone.name)
    assert preprocessor.bgr_to_rgb
    np.testing.assert_allclose(preprocessor.mean, 255 * np.array(entry.input.mean))
    np.testing.assert_allclose(preprocessor.std, 255 * np.array(entry.input.std))


@pytest.mark.parametrize('name', NAMES)
def test_training_starts_from_weights_that_the_file_tells_how_to_get(name: str) -> None:
    backbone = load(name).model.backbone
    entry, start = zoo.load_entry(backbone.name), backbone.pretrained
    text = (FOLDER / f'{name}.py').read_text()
    if start.startswith('hf-hub://'):
        sources = [source for weights in (entry.weights or {}).values() for source in weights.sources]
        assert start.removeprefix('hf-hub://') in {source.hf_hub_id for source in sources}
    elif entry.weights:  # by hand
        assert all(weights.by_hand for weights in entry.weights.values())
        assert f'searchzoo zoo info {entry.name}' in text
        assert start == f'{entry.name}.safetensors'
    else:
        assert f'searchzoo search train {entry.name} {entry.recipe} --out runs/{entry.name} ' in text
        assert start == f'runs/{entry.name}/{entry.name}.safetensors'


# ---- figures


@pytest.mark.parametrize('name', NAMES)
def test_published_figures_are_those_of_the_papers(name: str) -> None:
    published = load(name).published
    described = {'source', 'shape', 'note'}
    assert {k: v for k, v in published.items() if k not in described} == pytest.approx(figures(name))
    assert ('source' in published) == bool(figures(name))
    if not figures(name):
        assert 'no dense prediction' in published.note
    shape = (800, 1280) if name.startswith('detection') else (512, 2048)
    assert tuple(published.shape) == ((512, 512) if 'deeplabv3' in name else shape)


@pytest.mark.parametrize('name', [name for name in NAMES if figures(name) and 'uninet-b1' not in name])
def test_models_cost_what_is_published(name: str) -> None:
    found, printed = measure_complexity(load(name)), figures(name)
    if 'params' in printed and is_s3(name):
        assert round(found.params / 1e6) == printed['params']
    elif 'params' in printed:
        assert found.params / 1e6 == pytest.approx(printed['params'], rel=0.015)
    if 'macs' in printed:
        assert found.macs / 1e9 == pytest.approx(printed['macs'], rel=0.003 if is_s3(name) else 0.015)


CASCADE = 'detection/cascade-mask-rcnn_s3-tiny_fpn_1x_coco'
MASK = 'detection/mask-rcnn_uninet-b3_fpn_1x_coco'
UPERNET = 'segmentation/upernet_s3-tiny_8xb2-160k_ade20k-512x512'
DEEPLAB = 'segmentation/deeplabv3_trionet-b_4xb4-20k_voc12aug-512x512'
SWIN: dict[str, Any] = {
    'backbone': {'type': 'ZooBackbone', 'name': 'swin_tiny_patch4_window7_224', 'out_norm': True}
}
RESNET: dict[str, Any] = {'type': 'ResNet', 'depth': 50, 'out_indices': (0, 1, 2, 3)}
V1C = RESNET | {'type': 'ResNetV1c'}
PYRAMID = [256, 512, 1024, 2048]
NEXT: dict[str, Any] = {
    'decode_head': {'in_channels': PYRAMID},
    'auxiliary_head': {'in_channels': 1024},
}
DEEP: dict[str, Any] = {'decode_head': {'in_channels': 2048}, 'auxiliary_head': {'in_channels': 1024}}


@pytest.mark.parametrize(
    ('name', 'parts', 'params', 'macs'),
    [
        (CASCADE, SWIN, 86, 745),
        (CASCADE, {'backbone': RESNET, 'neck': {'in_channels': PYRAMID}}, 82, 739),
        (UPERNET, SWIN, 60, 945),
        (UPERNET, {'backbone': V1C, **NEXT}, 67, 951),
        (MASK, SWIN | {'neck': {'in_channels': [96, 192, 384, 768]}}, 48, None),
        (MASK, {'backbone': RESNET, 'neck': {'in_channels': PYRAMID}}, 44, None),
        (DEEPLAB, {'backbone': V1C | {'strides': (1, 2, 2, 2)}, **DEEP}, None, 66.4 / 2),
    ],
    ids=lambda value: value.partition('/')[2].partition('_')[0] if isinstance(value, str) else None,
)
def test_other_networks_cost_what_the_same_tables_print(
    name: str, parts: dict[str, Any], params: int | None, macs: float | None
) -> None:
    """Swin-T and ResNet-50 in our models: the heads are the papers', and the counting is theirs."""
    config = Config(copy.deepcopy(load(name).to_dict()))
    config.model.backbone = parts['backbone']
    for key in parts.keys() - {'backbone'}:
        config.model[key].update(parts[key])
    found = measure_complexity(config)
    if params:
        assert round(found.params / 1e6) == params
    if macs:
        assert found.macs / 1e9 == pytest.approx(macs, rel=0.003)


def test_published_parameters_of_uninet_b1_contradict_themselves() -> None:
    """What surrounds the backbone, with its channels, differs by 8.4 M; printed are 28 and 38 M."""
    around = []
    for name in ('detection/mask-rcnn_uninet-b1_fpn_1x_coco', UPERNET.replace('s3-tiny', 'uninet-b1')):
        net = model(name)
        around.append(
            sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in net.backbone.parameters())
        )
        assert 'contradict' in load(name).published.note
    assert (around[1] - around[0]) / 1e6 < (38 - 0.5) - (28 + 0.5)


def test_only_what_predicts_is_counted_as_macs() -> None:
    config = Config(copy.deepcopy(load(UPERNET).to_dict()))
    config.published.shape = (64, 64)
    whole = measure_complexity(config)
    auxiliary = sum(p.numel() for p in model(UPERNET).auxiliary_head.parameters())
    config.model.pop('auxiliary_head')
    assert measure_complexity(config).macs == whole.macs
    assert measure_complexity(config).params == whole.params - auxiliary


def test_each_region_and_each_mask_costs_the_same() -> None:
    config = Config(copy.deepcopy(load(MASK).to_dict()))
    config.model.test_cfg.rpn.max_per_img = config.model.test_cfg.rcnn.max_per_img = 0
    empty = measure_complexity(config, (64, 64)).macs
    config.model.test_cfg.rpn.max_per_img = 10
    # two hidden layers, 81 scores, 4 sides of a box for each of 80 classes
    boxes = 10 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * (81 + 80 * 4))
    assert measure_complexity(config, (64, 64)).macs == empty + boxes
    config.model.test_cfg.rcnn.max_per_img = 3
    # four 3x3 convolutions, an upsampling one of 2x2, 80 masks
    masks = 3 * (4 * 196 * 9 * 256 * 256 + 784 * 256 * 256 + 784 * 256 * 80)
    assert measure_complexity(config, (64, 64)).macs == empty + boxes + masks


def test_a_size_is_needed() -> None:
    config = Config(copy.deepcopy(load(UPERNET).to_dict()))
    config.pop('published')
    with pytest.raises(ZooError, match='published has no shape; give the height and width'):
        measure_complexity(config)


# ---- settings


@pytest.mark.parametrize('name', [name for name in NAMES if name.startswith('detection')])
def test_detectors_are_trained_as_swins(name: str) -> None:
    config, long = load(name), name.endswith('3x_coco')
    assert config.default_scope == 'mmdet'
    assert config.optim_wrapper.type == 'AmpOptimWrapper'
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-4, 0.05)
    assert optimizer.betas == (0.9, 0.999)
    warmup, steps = config.param_scheduler
    assert (warmup.start_factor, warmup.begin, warmup.end, warmup.by_epoch) == (0.001, 0, 500, False)
    assert (steps.milestones, steps.gamma) == ([27, 33] if long else [8, 11], 0.1)
    assert steps.by_epoch
    assert steps.end == config.train_cfg.max_epochs == (36 if long else 12)
    assert config.train_dataloader.batch_size * 8 == config.auto_scale_lr.base_batch_size == 16


@pytest.mark.parametrize('name', [name for name in NAMES if 'cascade' in name])
def test_cascades_have_the_heads_of_swins_code(name: str) -> None:
    roi_head = model(name).roi_head
    for head, stds in zip(
        roi_head.bbox_head,
        ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]),
        strict=True,
    ):
        assert [len(part) for part in (head.shared_convs, head.shared_fcs)] == [4, 1]
        assert isinstance(head.shared_convs[0].norm, nn.SyncBatchNorm)
        assert (type(head.loss_bbox).__name__, head.loss_bbox.loss_weight) == ('GIoULoss', 10.0)
        assert head.reg_decoded_bbox
        assert not head.reg_class_agnostic
        assert list(head.bbox_coder.stds) == pytest.approx(stds, abs=0.0011)


@pytest.mark.parametrize('name', [name for name in NAMES if name.startswith('segmentation')])
def test_segmentors_are_trained_as_their_papers_say(name: str) -> None:
    config, swins = load(name), 'upernet' in name
    assert config.default_scope == 'mmseg'
    optimizer = config.optim_wrapper.optimizer
    if swins:
        assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 6e-5, 0.01)
        assert (config.model.decode_head.channels, config.model.auxiliary_head.channels) == (512, 256)
    else:
        assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('SGD', 0.01, 5e-4)
        assert optimizer.momentum == 0.9
        assert config.model.decode_head.channels == 512
    assert config.model.auxiliary_head.loss_decode.loss_weight == 0.4
    iterations = 160_000 if swins else 20_000
    assert config.train_cfg.max_iters == config.param_scheduler[-1].end == iterations
    assert config.train_dataloader.batch_size * (8 if swins else 4) == 16
    assert config.model.data_preprocessor.test_cfg.size_divisor == 32
    assert config.model.test_cfg.mode == 'whole'
    classes = 150 if swins else 21
    assert config.model.decode_head.num_classes == config.model.auxiliary_head.num_classes == classes


@pytest.mark.parametrize(
    ('name', 'rates'),
    [
        (UPERNET, {0: 6e-11, 1500: 6e-5, 80_750: 3e-5, 159_999: 0.0}),
        (DEEPLAB, {0: 0.01, 10_000: 1e-4 + 0.0099 * 0.5**0.9, 19_999: 1e-4}),
    ],
    ids=['swin', 'trionet'],
)
def test_learning_rates_go_as_they_should(name: str, rates: dict[int, float]) -> None:
    config = load(name)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.optim_wrapper.optimizer.lr)
    steps = [
        PARAM_SCHEDULERS.build({**schedule, 'optimizer': optimizer}) for schedule in config.param_scheduler
    ]
    for iteration in range(max(rates) + 1):
        if iteration in rates:
            assert optimizer.param_groups[0]['lr'] == pytest.approx(rates[iteration], rel=2e-3, abs=1e-9)
        for step in steps:
            step.step()


@pytest.mark.parametrize('name', NAMES)
def test_stochastic_depth_is_that_of_swins_code(name: str) -> None:
    rate = load(name).model.backbone.get('drop_path_rate')
    assert rate == DROP_PATH.get(name.partition('/')[2], rate)


@pytest.mark.parametrize('name', NAMES)
def test_norms_and_tables_of_positions_are_not_decayed(name: str) -> None:
    net, config = model(name), load(name).optim_wrapper
    config = {**config, 'type': 'OptimWrapper'}  # mixed precision needs a GPU
    with DefaultScope.overwrite_default_scope(load(name).default_scope):
        groups = build_optim_wrapper(net, config).optimizer.param_groups
    decay = {id(p): group['weight_decay'] for group in groups for p in group['params']}
    usual, found_tables = config['optimizer'].weight_decay, 0
    for owner in net.modules():
        for key, parameter in owner.named_parameters(recurse=False):
            spared = key in TABLES or (isinstance(owner, NORMS) and 'trionet' not in name)
            assert decay[id(parameter)] == (0.0 if spared else usual), (type(owner), key)
            found_tables += key in TABLES
    assert found_tables or 'uninet' in name  # which has convolutions for positions


@pytest.mark.parametrize('path', sorted(FOLDER.glob('_base_/**/*.py')), ids=lambda path: path.stem)
def test_shared_files_say_whose_their_values_are(path: Path) -> None:
    comments = [line for line in path.read_text().splitlines() if '#' in line]
    assert any(word in line for line in comments for word in ('Swin', 'paper', 'mmseg', 'mmdet', 'ours'))


@pytest.mark.parametrize('name', NAMES)
def test_every_value_says_where_it_is_from(name: str) -> None:
    """Numbers and switches, but for what follows from the backbone."""
    lines = (FOLDER / f'{name}.py').read_text().splitlines()
    follows = {
        'in_channels',
        'out_channels',
        'embed_dim',
        'rescales',
        'num_outs',
        'requires_grad',
        '_delete_',
    }
    for node in ast.walk(ast.parse('\n'.join(lines))):
        if not isinstance(node, ast.keyword) or node.arg in follows:
            continue
        try:
            value = ast.literal_eval(node.value)
        except ValueError:  # dict(...)
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(v, str) for v in values):
            continue
        before = lines[node.lineno - 2]
        assert '#' in lines[node.lineno - 1] or before.lstrip().startswith('#'), lines[node.lineno - 1]


# ---- data


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image of 61 x 90 pixels of each data set, where the configurations look for them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)

    def save(path: str, pixels: Any) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / path)

    photo = rng.integers(0, 256, (61, 90, 3), dtype=np.uint8)
    labels = np.zeros((61, 90), np.uint8)
    labels[:, 30:60], labels[:, 60:] = 1, 150
    voc = np.where(labels == 150, 20, labels).astype(np.uint8)
    for part in ('training', 'validation'):
        save(f'data/ade/ADEChallengeData2016/images/{part}/a.jpg', photo)
        save(f'data/ade/ADEChallengeData2016/annotations/{part}/a.png', labels)
    root = 'data/VOCdevkit/VOC2012'
    for split, folder in (('train', ''), ('val', ''), ('aug', 'Aug')):
        save(f'{root}/JPEGImages/{split}.jpg', photo)
        save(f'{root}/SegmentationClass{folder}/{split}.png', voc)
        splits = tmp_path / root / 'ImageSets/Segmentation'
        splits.mkdir(parents=True, exist_ok=True)
        (splits / f'{split}.txt').write_text(f'{split}\n')
    for part in ('train', 'val'):
        save(f'data/coco/{part}2017/1.jpg', photo)
        (tmp_path / 'data/coco/annotations').mkdir(exist_ok=True)
        box = {'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [5, 5, 60, 40], 'area': 2400, 'iscrowd': 0}
        box |= {'segmentation': [[5, 5, 65, 5, 65, 45, 5, 45]]}
        text = {
            'images': [{'id': 1, 'file_name': '1.jpg', 'height': 61, 'width': 90}],
            'annotations': [box],
            'categories': [{'id': 1, 'name': 'person'}],
        }
        (tmp_path / f'data/coco/annotations/instances_{part}2017.json').write_text(json.dumps(text))


def dataset(name: str, loader: str, **changes: Any) -> Any:
    config = copy.deepcopy(load(name)[loader].dataset)
    config.update(changes)
    with DefaultScope.overwrite_default_scope(load(name).default_scope):
        return DATASETS.build(config)


@pytest.mark.usefixtures('data')
@pytest.mark.parametrize('name', [MASK, MASK.replace('1x', '3x'), CASCADE, CASCADE.replace('1x', '3x')])
def test_detectors_see_images_at_the_published_scales(name: str) -> None:
    train, val = dataset(name, 'train_dataloader'), dataset(name, 'val_dataloader')
    assert val[0]['inputs'].shape == (3, 800, 1180)
    found = set()
    for seed in range(12):
        np.random.seed(seed)  # noqa: NPY002  (it is what mm's transforms draw from)
        sample = train[0]
        found.add(min(sample['inputs'].shape[1:]))
        assert len(sample['data_samples'].gt_instances) <= 1  # a part may hold nothing of it
    if name == MASK:
        assert found == {800}
    else:
        assert found <= set(range(480, 801, 32))
        assert len(found) > 3


@pytest.mark.usefixtures('data')
@pytest.mark.parametrize('name', [UPERNET, DEEPLAB])
def test_segmentors_see_crops_in_training_and_whole_images_in_tests(name: str) -> None:
    train, val = dataset(name, 'train_dataloader'), dataset(name, 'val_dataloader')
    assert len(train) == (1 if name == UPERNET else 2)  # with SBD
    with DefaultScope.overwrite_default_scope('mmseg'):
        preprocess = MODELS.build(load(name).model.data_preprocessor)
    sides = set()
    for seed in range(8):
        np.random.seed(seed)  # noqa: NPY002  (it is what mm's transforms draw from)
        sample = train[len(train) - 1]
        sides.add(min(sample['inputs'].shape[1:]))
        batch = {'inputs': [sample['inputs']], 'data_samples': [sample['data_samples']]}
        out = preprocess(batch, training=True)
        assert out['inputs'].shape == (1, 3, 512, 512)
        labels = set(out['data_samples'][0].gt_sem_seg.data.unique().tolist())
        assert labels <= ({0, 149, 255} if name == UPERNET else {0, 1, 20, 255})
    assert max(sides) == 512
    assert len(sides) > 1  # scaled down, then padded
    sample = val[0]
    assert sample['inputs'].shape == (3, 512, 755)
    assert sample['data_samples'].gt_sem_seg.data.shape == (1, 61, 90)
    out = preprocess({'inputs': [sample['inputs']], 'data_samples': [sample['data_samples']]}, training=False)
    assert out['inputs'].shape == (1, 3, 512, 768)


@pytest.mark.usefixtures('data')
@pytest.mark.parametrize('name', [UPERNET, DEEPLAB])
def test_images_of_tests_with_scales_and_flips(name: str) -> None:
    sample = dataset(name, 'test_dataloader', pipeline=load(name).tta_pipeline)[0]
    assert sorted(min(x.shape[1:]) for x in sample['inputs']) == sorted([256, 384, 512, 640, 768, 896] * 2)
    assert sum(x.metainfo['flip'] for x in sample['data_samples']) == 6


@pytest.mark.usefixtures('data', 'tiny_entries')
def test_predictions_with_scales_and_flips_are_averaged() -> None:
    """As ``--tta`` has it, with a small network: the model in the configuration's wrapper."""
    config = copy.deepcopy(load(UPERNET))
    config.model.backbone = {'type': 'ZooBackbone', 'name': 'tiny_s3'}
    config.model.decode_head.update(in_channels=[8, 16, 24, 32], channels=8)
    config.model.pop('auxiliary_head')
    config.tta_pipeline[1].transforms[0] = config.tta_pipeline[1].transforms[0][:1]  # two images are enough
    sample = dataset(UPERNET, 'test_dataloader', pipeline=config.tta_pipeline)[0]
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        both = MODELS.build({**config.tta_model, 'module': config.model}).eval()
    (found,) = both.test_step(pseudo_collate([sample]))
    one, other = (
        both.module.test_step({'inputs': [x], 'data_samples': [y]})[0].seg_logits.data.softmax(0)
        for x, y in zip(sample['inputs'], sample['data_samples'], strict=True)
    )
    assert found.pred_sem_seg.data.shape == (1, 61, 90)
    assert torch.equal(found.pred_sem_seg.data[0], ((one + other) / 2).argmax(0))


# ---- the table


def test_table_sets_figures_beside_the_papers() -> None:
    text = make_table([UPERNET, 'segmentation/upernet_glit-tiny_8xb2-160k_ade20k-512x512'])
    header, _, s3, glit = text.splitlines()
    cells = [cell.strip() for cell in s3.strip('|').split('|')]
    assert len(header.strip('|').split('|')) == len(cells)
    assert cells == [
        f'`{UPERNET}`',
        '60.0',
        '953.0',
        '512x2048',
        '60',
        '954',
        '-0.0%, -0.1%',
        '44.87 mIoU, 46.27 with scales and flips',
        '',
    ]
    assert glit.endswith('| 512x2048 |  |  |  |  | The paper has no dense prediction. |')


def test_table_goes_between_its_markers(monkeypatch: pytest.MonkeyPatch) -> None:
    make: Callable[[], str] = lambda: '| new |\n'  # noqa: E731
    monkeypatch.setattr('downstream.table.make_table', make)
    assert replace_table(f'a\n{BEGIN}\nold\n{END}\nb\n', 'README.md') == f'a\n{BEGIN}\n| new |\n{END}\nb\n'
    with pytest.raises(ZooError, match=r'README.md: the markers .*downstream:begin.* are needed'):
        replace_table('none', 'README.md')
