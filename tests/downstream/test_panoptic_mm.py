"""Panoptic-DeepLab as mmdet's detector: its data set and pipelines, beside its metric, in the Runner."""

import importlib
import json
import logging
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.datasets import CocoPanopticDataset
from mmdet.datasets.transforms import LoadPanopticAnnotations
from mmdet.evaluation.functional import panoptic_utils
from mmdet.evaluation.metrics import coco_panoptic_metric
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from downstream import runner
from downstream.complexity import build_on_meta, measure_complexity
from downstream.panoptic_deeplab.grouping import group
from downstream.panoptic_deeplab.heads import Prediction, upsample
from downstream.panoptic_deeplab.losses import panoptic_losses
from downstream.panoptic_deeplab.mm import PanopticDeepLab, PanopticQuality, PanopticVisualizer
from downstream.panoptic_deeplab.targets import make_targets, stack_targets
from downstream.panoptic_quality import id2rgb
from downstream.predict import predict
from downstream.scene import CLASSES, PALETTE, STUFF, THINGS
from downstream.shapes import write_shapes
from zoo.errors import ZooError

CONFIG = 'shapes/panoptic-deeplab_uninet_shapes'
COCO = 'panoptic/panoptic-deeplab_trionet-b_8xb1-200k_coco-640x640'
TRAIN, VAL = 6, 5
NUM_THINGS, VOID = len(THINGS), len(CLASSES)
IGNORE = 255
METAINFO = {'classes': CLASSES, 'thing_classes': THINGS, 'stuff_classes': STUFF, 'palette': list(PALETTE)}


@pytest.fixture(scope='module')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 48 to 80 pixels. Image 0 of a split has a crowd, image 1 no thing."""
    return write_shapes(tmp_path_factory.mktemp('data') / 'shapes', TRAIN, VAL, sizes=(48, 80))


@pytest.fixture
def own_shapes(shapes: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(shapes, tmp_path / 'shapes'))


@pytest.fixture(autouse=True)
def _scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def open_data(folder: Path, *steps: dict[str, Any], split: str = 'val', **kwargs: Any) -> CocoPanopticDataset:
    """mmdet's data set; ``steps`` stand between the image and the packing."""
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'seg_map_path', 'segments_info')
    pipeline = [{'type': 'LoadImageFromFile'}, *steps, {'type': 'PackDetInputs', 'meta_keys': keys}]
    options = {
        'ann_file': f'annotations/panoptic_{split}.json',
        'data_root': str(folder),
        'data_prefix': {'img': f'{split}/', 'seg': f'annotations/panoptic_{split}/'},
        'metainfo': METAINFO,
        'pipeline': pipeline,
        'test_mode': True,
        'serialize_data': False,
    }
    return CocoPanopticDataset(**(options | kwargs))


LOAD = {'type': 'LoadPanopticMap'}


class Pyramid(nn.Module):
    """A backbone of two convolutions: strides 4 and 8."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, 10, 2, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        size = [-side % 8 for side in x.shape[2:]]
        fine = self.first(F.pad(x, (0, size[1], 0, size[0]))).relu()
        return fine, self.second(fine).relu()


MODELS.register_module('TestPyramid', module=Pyramid)


def model_config(**changes: Any) -> dict[str, Any]:
    heads = {
        'in_channels': (6, 10),
        'atrous_rates': (1,),
        'semantic_low': (4,),
        'instance_low': (4,),
        'aspp_channels': 8,
        'semantic_channels': 8,
        'instance_channels': 8,
    }
    preprocessor = {'type': 'DetDataPreprocessor', 'mean': [128] * 3, 'std': [64] * 3, 'pad_size_divisor': 32}
    config = {
        'type': 'PanopticDeepLab',
        'backbone': {'type': 'TestPyramid'},
        'heads': heads,
        'num_things': len(THINGS),
        'num_stuff': len(STUFF),
        'data_preprocessor': preprocessor,
    }
    return config | changes


def make_model(**changes: Any) -> PanopticDeepLab:
    torch.manual_seed(0)
    return MODELS.build(model_config(**changes))


def read_ids(path: Path) -> np.ndarray:
    red, green, blue = (np.array(band, np.int64) for band in Image.open(path).convert('RGB').split())
    return red + 256 * green + 256 * 256 * blue


def read_annotation(folder: Path, split: str, index: int) -> tuple[Tensor, Tensor]:
    """Labels (H, W) and masks of things that are no crowds (N, H, W), from the files."""
    content = json.loads((folder / 'annotations' / f'panoptic_{split}.json').read_text())
    ids = read_ids(folder / 'annotations' / f'panoptic_{split}' / f'{index:06}.png')
    labels, masks = np.full(ids.shape, IGNORE), []
    for segment in content['annotations'][index]['segments_info']:
        labels[ids == segment['id']] = segment['category_id'] - 1
        if segment['category_id'] <= NUM_THINGS and not segment['iscrowd']:
            masks.append(ids == segment['id'])
    return torch.from_numpy(labels), torch.from_numpy(np.array(masks, bool).reshape(-1, *ids.shape))


# ---- loading


class Stat:
    """COCO's counts of a class: a stand-in for panopticapi's."""

    def __init__(self) -> None:
        self.iou, self.tp, self.fp, self.fn = 0.0, 0, 0, 0


class Stats(defaultdict[int, Stat]):
    def __init__(self) -> None:
        super().__init__(Stat)

    def __getitem__(self, label: int) -> Stat:
        return super().__getitem__(int(label))


def stand_in_for_panopticapi() -> dict[str, ModuleType]:
    """What mmdet needs of the package, which no index of packages has, written from its description."""
    utils, evaluation = ModuleType('panopticapi.utils'), ModuleType('panopticapi.evaluation')

    def rgb2id(colour: np.ndarray) -> np.ndarray:
        red, green, blue = (colour[..., i].astype(np.int32) for i in range(3))
        return red + 256 * green + 256 * 256 * blue

    vars(utils).update(rgb2id=rgb2id, id2rgb=id2rgb)
    vars(evaluation).update(VOID=0, OFFSET=256**3, PQStat=Stats)
    package = ModuleType('panopticapi')
    vars(package).update(utils=utils, evaluation=evaluation)
    return {'panopticapi': package, 'panopticapi.utils': utils, 'panopticapi.evaluation': evaluation}


@pytest.fixture
def panopticapi(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package where it is installed, else a stand-in; mmdet sees it in either case."""
    if find_spec('panopticapi') is None:
        for name, module in stand_in_for_panopticapi().items():
            monkeypatch.setitem(sys.modules, name, module)
    package, evaluation, utils = (
        importlib.import_module(f'panopticapi{part}') for part in ('', '.evaluation', '.utils')
    )
    for module in (panoptic_utils, coco_panoptic_metric):
        monkeypatch.setattr(module, 'rgb2id', utils.rgb2id)
        monkeypatch.setattr(module, 'PQStat', evaluation.PQStat)
        monkeypatch.setattr(module, 'VOID', evaluation.VOID)
    monkeypatch.setattr(coco_panoptic_metric, 'id2rgb', utils.id2rgb)
    monkeypatch.setattr(coco_panoptic_metric, 'panopticapi', package)


def test_loads_what_mmdet_loads(shapes: Path, panopticapi: None) -> None:
    theirs = LoadPanopticAnnotations()
    for split, count in (('train', TRAIN), ('val', VAL)):
        data = open_data(shapes, split=split, pipeline=[{'type': 'LoadImageFromFile'}])
        loader = open_data(shapes, split=split, pipeline=[LOAD]).pipeline.transforms[0]
        for index in range(count):
            found, expected = loader(data[index]), theirs(data[index])
            assert found.keys() == expected.keys()
            assert torch.equal(found['gt_bboxes'].tensor, expected['gt_bboxes'].tensor)
            for key in ('gt_bboxes_labels', 'gt_ignore_flags', 'gt_seg_map'):
                assert np.array_equal(found[key], expected[key])
            for key in ('masks', 'height', 'width'):
                assert np.array_equal(getattr(found['gt_masks'], key), getattr(expected['gt_masks'], key))
            assert found['gt_seg_map'].dtype == np.uint8


def test_loads_what_the_files_say(shapes: Path) -> None:
    data = open_data(shapes, LOAD)
    numbers = []
    for index in range(VAL):
        labels, masks = read_annotation(shapes, 'val', index)
        sample = data[index]['data_samples']
        assert torch.equal(sample.gt_sem_seg.sem_seg[0], labels.byte())
        assert np.array_equal(sample.gt_instances.masks.masks, masks.numpy())
        numbers.append(len(masks))
    assert numbers[1] == 0
    assert max(numbers) > 2
    crowd, masks = read_annotation(shapes, 'val', 0)
    assert ((crowd < NUM_THINGS) & ~masks.any(0)).sum() > 50


def test_data_without_maps_gives_boxes(shapes: Path) -> None:
    """As for images of a test split."""
    sample = open_data(shapes, LOAD, data_prefix={'img': 'val/'})[2]['data_samples']
    assert len(sample.gt_instances.bboxes) > 0
    assert 'masks' not in sample.gt_instances
    assert 'gt_sem_seg' not in sample


def damage(change: str, path: Path) -> None:
    if change == 'missing':
        path.unlink()
    elif change == 'cut':
        path.write_bytes(path.read_bytes()[:200])
    elif change == 'text':
        path.write_text('no image')
    elif change == 'grey':
        Image.open(path).convert('L').save(path)
    else:
        Image.open(path).resize((30, 20), Image.Resampling.NEAREST).save(path)


DAMAGES = {
    'missing': r"there is no such panoptic map; data_prefix\['seg'\] is their folder\.$",
    'cut': r'the panoptic map cannot be read: .*\.$',
    'text': r'the panoptic map cannot be read: .*\.$',
    'grey': r'an image of mode L holds no ids, RGB is needed\.$',
    'size': r'the map is of 20x30, ',
}


@pytest.mark.parametrize('change', DAMAGES)
def test_damaged_maps(change: str, own_shapes: Path) -> None:
    path = own_shapes / 'annotations' / 'panoptic_val' / '000002.png'
    data = open_data(own_shapes)
    damage(change, path)
    with pytest.raises(ZooError, match=rf'^{path}: {DAMAGES[change]}'):
        open_data(own_shapes, LOAD)[2]
    sample = data[2]['data_samples']
    sample.pred_panoptic_seg = PixelData(sem_seg=torch.full((1, *sample.ori_shape), VOID))
    with pytest.raises(ZooError, match=rf'^{path}: {DAMAGES[change]}'):
        evaluate(data, [sample])


# ---- metric


def evaluate(data: CocoPanopticDataset, samples: list[DetDataSample], **kwargs: Any) -> dict[str, float]:
    evaluator = Evaluator(PanopticQuality(**kwargs))
    evaluator.dataset_meta = data.metainfo
    for sample in samples:
        evaluator.process([sample])
    return evaluator.evaluate(len(samples))


def draw_prediction(labels: Tensor, masks: Tensor, rng: np.random.Generator) -> Tensor:
    """The truth, moved by a few pixels, with some segments of a wrong class, lost or in two parts."""
    panoptic = torch.where(labels == IGNORE, VOID, labels).numpy().copy()
    panoptic[panoptic < NUM_THINGS] = VOID
    for number, mask in enumerate(masks.numpy(), 1):
        kind = rng.random()
        label = rng.integers(NUM_THINGS) if kind < 0.2 else int(labels.numpy()[mask][0])
        if kind < 0.85:
            panoptic[mask] = label + 1000 * number
        if kind > 0.7:
            half = mask & (np.arange(mask.shape[1]) < np.nonzero(mask)[1].mean())
            panoptic[half] = label + 1000 * (number + 50)
    moved = np.roll(panoptic, rng.integers(-3, 4, 2), (0, 1))
    if rng.random() < 0.5:
        moved[rng.random(moved.shape) < 0.05] = VOID
    return torch.from_numpy(moved)[None]


def predict_at_random(data: CocoPanopticDataset, folder: Path, seed: int) -> list[DetDataSample]:
    rng = np.random.default_rng(seed)
    samples = []
    for index in range(len(data)):
        sample = data[index]['data_samples']
        sample.pred_panoptic_seg = PixelData(
            sem_seg=draw_prediction(*read_annotation(folder, 'val', index), rng)
        )
        samples.append(sample)
    return samples


@pytest.mark.parametrize('seed', range(4))
def test_counts_what_mmdet_counts(seed: int, shapes: Path, panopticapi: None) -> None:
    """Of each class: the sums that all figures are made of."""
    data = open_data(shapes)
    samples = predict_at_random(data, shapes, seed)
    metric = PanopticQuality()
    folder = shapes / 'annotations'
    theirs = coco_panoptic_metric.CocoPanopticMetric(
        ann_file=str(folder / 'panoptic_val.json'), seg_prefix=str(folder / 'panoptic_val')
    )
    metric.dataset_meta = theirs.dataset_meta = data.metainfo
    metric.process({}, [sample.to_dict() for sample in samples])
    theirs.process({}, [sample.clone().to_dict() for sample in samples])
    assert [counts.shape for counts in metric.results] == [(len(CLASSES), 4)] * VAL
    total = np.zeros(4)
    for counts, stats in zip(metric.results, theirs.results, strict=True):
        for label, row in enumerate(counts):
            stat = stats[label + 1]
            np.testing.assert_allclose(row, [stat.iou, stat.tp, stat.fp, stat.fn], atol=1e-12)
        total += counts.sum(0)
    assert (total > 2).all()


def test_figures_equal_mmdets(shapes: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With COCO's own package, all of mmdet's metric; without it, the definition on what was counted."""
    data = open_data(shapes)
    samples = predict_at_random(data, shapes, 0)
    found = evaluate(data, samples)
    kinds = [f'coco_panoptic/{name}{part}' for part in ('', '_th', '_st') for name in ('PQ', 'SQ', 'RQ')]
    assert list(found) == kinds
    if find_spec('panopticapi'):
        folder = shapes / 'annotations'
        paths = {'ann_file': str(folder / 'panoptic_val.json'), 'seg_prefix': str(folder / 'panoptic_val')}
        evaluator = Evaluator(coco_panoptic_metric.CocoPanopticMetric(**paths))
        evaluator.dataset_meta = data.metainfo
        evaluator.process([sample.clone() for sample in samples])
        expected = evaluator.evaluate(VAL)
    else:
        metric = PanopticQuality()
        metric.dataset_meta = data.metainfo
        metric.process({}, [sample.to_dict() for sample in samples])
        expected = {}
        for part, labels in [('', range(8)), ('_th', range(4)), ('_st', range(4, 8))]:
            rows = [sum(counts[label] for counts in metric.results) for label in labels]
            pairs = [
                (iou / max(tp, 1), tp / (tp + fp / 2 + fn / 2)) for iou, tp, fp, fn in rows if tp + fp + fn
            ]
            for name, values in [
                ('PQ', [s * r for s, r in pairs]),
                ('SQ', [s for s, _ in pairs]),
                ('RQ', [r for _, r in pairs]),
            ]:
                expected[f'coco_panoptic/{name}{part}'] = 100 * float(np.mean(values))
    assert found == pytest.approx(expected)
    assert 10 < found['coco_panoptic/PQ'] < 95


def test_table_of_classes(shapes: Path) -> None:
    data = open_data(shapes)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.extend(record.getMessage().splitlines())  # type: ignore[method-assign]
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        evaluate(data, predict_at_random(data, shapes, 0), classwise=True, prefix='p')
    finally:
        logger.removeHandler(handler)
    assert [line.split()[0] for line in lines if line] == ['PQ', 'all', 'things', 'stuff', *CLASSES]


def test_metric_needs_the_truth(shapes: Path) -> None:
    data = open_data(shapes, data_prefix={'img': 'val/'})
    sample = data[0]['data_samples']
    sample.pred_panoptic_seg = PixelData(sem_seg=torch.full((1, *sample.ori_shape), VOID))
    with pytest.raises(ZooError, match=r"000000.png: has no seg_map_path: .* 'seg' in data_prefix"):
        evaluate(data, [sample])
    wrong = open_data(shapes)[0]['data_samples']
    wrong.pred_panoptic_seg = PixelData(sem_seg=torch.full((1, 7, 9), VOID))
    with pytest.raises(ZooError, match=r'the prediction for its image of 7x9\.$'):
        evaluate(data, [wrong])
    with pytest.raises(
        ZooError, match=r'^metainfo: of the 133 classes the first must be the 4 thing_classes'
    ):
        evaluate(SimpleNamespace(metainfo=METAINFO | {'classes': tuple(map(str, range(133)))}), [wrong])


def test_categories_that_do_not_begin_with_things(own_shapes: Path) -> None:
    """mmdet numbers labels in the order of the file, whatever the order of the names."""
    path = own_shapes / 'annotations' / 'panoptic_val.json'
    content = json.loads(path.read_text())
    content['categories'].reverse()
    path.write_text(json.dumps(content))
    data = open_data(own_shapes, LOAD)
    item = data[2]
    item['data_samples'].pred_panoptic_seg = PixelData(
        sem_seg=torch.full((1, *item['data_samples'].ori_shape), VOID)
    )
    with pytest.raises(ZooError, match=r'is a thing, those of things are 0 to 3: the categories'):
        evaluate(data, [item['data_samples']])
    model = make_model()
    with pytest.raises(ZooError, match=r'000002.png: an instance has label \d, things have 0 to 3: the'):
        model(**model.data_preprocessor(pseudo_collate([item]), True), mode='loss')


# ---- the annotation, predicted


class Oracle(PanopticDeepLab):
    """Knows the annotation of the images; what it predicts beside them, in the padding, is nonsense."""

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample], rescale: bool = True
    ) -> list[DetDataSample]:
        size = tuple(batch_inputs.shape[2:])
        batch = []
        for sample in batch_data_samples:
            labels, masks = sample.gt_sem_seg.sem_seg[0].long(), sample.gt_instances.masks
            targets = make_targets(labels, masks.to_tensor(torch.bool, 'cpu'), self.num_things)
            # Crowds are unlabelled here: they have no instances that could be predicted.
            crowd = (labels < self.num_things) & (targets.offset_weight == 0)
            scores = F.one_hot(torch.where(crowd | (labels == IGNORE), VOID, labels), VOID + 1).movedim(2, 0)
            maps = (scores.float(), targets.centre[None], targets.offset)
            rest = [0, size[1] - labels.shape[1], 0, size[0] - labels.shape[0]]
            batch.append([F.pad(x, rest, value=9.0) for x in maps])
        self.maps = Prediction(*(torch.stack(x) for x in zip(*batch, strict=True)))
        return super().predict(batch_inputs, batch_data_samples, rescale)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: Any = None) -> Prediction:
        return self.maps


MODELS.register_module('TestOracle', module=Oracle)

STEPS: dict[str, list[dict[str, Any]]] = {
    'as they are': [LOAD],
    'twice as large': [LOAD, {'type': 'Resize', 'scale_factor': 2.0}],
    'padded by the pipeline': [
        LOAD,
        {'type': 'Resize', 'scale': (160, 160), 'keep_ratio': True},
        {'type': 'Pad', 'size': (192, 200), 'pad_val': {'img': 0, 'masks': 0, 'seg': 255}},
    ],
}


@pytest.mark.parametrize('steps', STEPS)
def test_annotation_gives_100(steps: str, shapes: Path) -> None:
    """Through the data set, pipelines, batches of mixed sizes, grouping, resizing and the metric."""
    data = open_data(shapes, *STEPS[steps])
    model = make_model(type='TestOracle', stride=1, test_cfg={'stuff_area': 0}).eval()
    samples = []
    for batch in DataLoader(data, batch_size=3, collate_fn=pseudo_collate):
        samples += model.test_step(batch)
    sizes = {tuple(sample.pred_panoptic_seg.sem_seg.shape[1:]) for sample in samples}
    assert sizes == {tuple(sample.ori_shape) for sample in samples}
    assert len(sizes) > 2
    if steps == 'padded by the pipeline':
        assert {sample.img_shape for sample in samples} == {(200, 192)}
        # Borders move by up to half a pixel.
        assert min(evaluate(data, samples).values()) > 95
    else:
        assert set(evaluate(data, samples).values()) == {100}


def test_resizes_as_pytorch_does() -> None:
    model = make_model(type='TestOracle', stride=1, test_cfg={'stuff_area': 0}).eval()
    labels = torch.randint(4, 8, (1, 12, 20), generator=torch.Generator().manual_seed(1))
    for size in [(12, 20), (24, 40), (5, 7), (31, 9), (1, 1)]:
        found, kept = (
            model.predict(torch.zeros(1, 3, 32, 32), [make_sample(labels, ori_shape=size)], rescale)[0]
            for rescale in (True, False)
        )
        expected = F.interpolate(labels[None].double(), size, mode='nearest-exact')[0].long()
        assert torch.equal(found.pred_panoptic_seg.sem_seg, expected)
        assert torch.equal(kept.pred_panoptic_seg.sem_seg, labels)


def make_sample(labels: Tensor, masks: Tensor | None = None, **meta: Any) -> DetDataSample:
    """Labels (1, H, W), masks (N, H, W) of things of label 0."""
    height, width = labels.shape[1:]
    masks = torch.zeros(0, height, width) if masks is None else masks
    sample = DetDataSample(metainfo={'img_shape': (height, width), 'ori_shape': (height, width)} | meta)
    sample.gt_sem_seg = PixelData(sem_seg=labels)
    sample.gt_instances = InstanceData(
        masks=BitmapMasks(masks.byte().numpy(), height, width),
        labels=torch.zeros(len(masks), dtype=torch.long),
    )
    return sample


# ---- the detector


@pytest.mark.parametrize('padded', [True, False])
def test_losses_are_those_of_the_annotation(padded: bool, shapes: Path) -> None:
    """A crowd, an image without things, and others, all of other sizes."""
    options = {'pad_mask': True, 'pad_seg': True} if padded else {}
    preprocessor = model_config()['data_preprocessor'] | options
    cfg = {'targets': {'sigma': 3.0, 'small_area': 200}, 'losses': {'hardest': 0.4}}
    model = make_model(data_preprocessor=preprocessor, train_cfg=cfg).eval()
    data = open_data(shapes, LOAD, split='train')
    batch = model.data_preprocessor(pseudo_collate([data[i] for i in range(TRAIN)]), True)
    losses = model(**batch, mode='loss')
    height, width = batch['inputs'].shape[2:]
    targets = []
    for index in range(TRAIN):
        labels, masks = read_annotation(shapes, 'train', index)
        rest = [0, width - labels.shape[1], 0, height - labels.shape[0]]
        labels, masks = F.pad(labels, rest, value=IGNORE), F.pad(masks, rest)
        targets.append(make_targets(labels, masks, NUM_THINGS, sigma=3.0, small_area=200))
    maps = upsample(model(batch['inputs'], mode='tensor'), (height, width), 4)
    expected = panoptic_losses(maps, stack_targets(targets), hardest=0.4)
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(
        {k: v.item() for k, v in expected.items()}
    )
    assert min(losses.values()) > 0.01
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_losses_without_boxes_and_without_segments(own_shapes: Path) -> None:
    """An image without things; one whose list of segments is empty; one of which the file knows nothing."""
    path = own_shapes / 'annotations' / 'panoptic_train.json'
    content = json.loads(path.read_text())
    content['annotations'][2]['segments_info'] = []
    del content['annotations'][3]
    path.write_text(json.dumps(content))
    data = open_data(own_shapes, LOAD, split='train')
    assert len(data) == TRAIN
    model = make_model()
    for indices in ([1], [2], [3], [1, 2, 3]):
        batch = model.data_preprocessor(pseudo_collate([data[i] for i in indices]), True)
        losses = model(**batch, mode='loss')
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert losses['loss_offset'] == 0
        assert (losses['loss_semantic'] == 0) == (1 not in indices)
        sum(losses.values()).backward()


@pytest.mark.parametrize('sizes', [[(1, 1)], [(1, 1), (37, 50)], [(33, 1), (64, 64), (5, 90)]])
def test_predictions_have_the_images_size(sizes: list[tuple[int, int]]) -> None:
    model = make_model().eval()
    nn.init.normal_(model.heads.centre_head[1].bias, 0.5)
    inputs = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in sizes]
    samples = [DetDataSample(metainfo={'img_shape': size, 'ori_shape': size}) for size in sizes]
    results = model.test_step({'inputs': inputs, 'data_samples': samples})
    for size, result in zip(sizes, results, strict=True):
        panoptic = result.pred_panoptic_seg.sem_seg
        assert panoptic.dtype == torch.int64
        assert panoptic.shape == (1, *size)
        assert all(value == VOID or value % 1000 < VOID for value in panoptic.unique().tolist())


def test_prediction_is_grouping_of_the_maps() -> None:
    """Of each image of a batch by itself, with the options of test_cfg."""
    options = {'threshold': 0.5, 'kernel_size': 3, 'top_k': 9, 'stuff_area': 5}
    model = make_model(test_cfg=options).eval()
    generator = torch.Generator().manual_seed(0)
    maps = Prediction(*(torch.randn(2, c, 16, 24, generator=generator) for c in (VOID, 1, 2)))
    model.heads = Constant(maps)
    sizes = [(64, 70), (50, 96)]
    samples = [DetDataSample(metainfo={'img_shape': size, 'ori_shape': size}) for size in sizes]
    results = model(torch.zeros(2, 3, 64, 96), samples, mode='predict')
    large = upsample(maps, (64, 96), 4)
    for index, (height, width) in enumerate(sizes):
        semantic, heat, offset = (x[index, ..., :height, :width] for x in large)
        expected = group(semantic.argmax(0), heat[0], offset, NUM_THINGS, VOID, **options)
        assert torch.equal(results[index].pred_panoptic_seg.sem_seg[0], expected)
        assert expected.max() == 9000 + expected.max() % 1000


class Constant(nn.Module):
    def __init__(self, maps: Prediction) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, features: tuple[Tensor, ...]) -> Prediction:
        return self.maps


def test_maps_for_counting(shapes: Path) -> None:
    """``mode='tensor'`` needs no samples, and no memory on the device meta."""
    with torch.device('meta'):
        model = make_model()
        maps = model(torch.empty(2, 3, 64, 96))
    assert [tuple(x.shape) for x in maps] == [(2, c, 16, 24) for c in (VOID, 1, 2)]


def test_backbone_of_mmdet() -> None:
    backbone = {'type': 'ResNet', 'depth': 18, 'out_indices': (0, 1, 3)}
    config = model_config(backbone=backbone, heads={'in_channels': (64, 128, 512)})
    with torch.device('meta'):
        model = MODELS.build(config)
        assert [x.shape[1] for x in model(torch.empty(1, 3, 64, 64))] == [VOID, 1, 2]


class Neck(nn.Module):
    """Makes both features ones of stride 8."""

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return F.avg_pool2d(features[0], 2), features[1]


MODELS.register_module('TestNeck', module=Neck)


def test_neck_and_stride() -> None:
    model = make_model(neck={'type': 'TestNeck'}, stride=8).eval()
    sample = DetDataSample(metainfo={'img_shape': (40, 60), 'ori_shape': (80, 120)})
    assert model(torch.zeros(1, 3, 40, 64))[0].shape == (1, VOID, 5, 8)
    result = model(torch.zeros(1, 3, 40, 64), [sample], mode='predict')[0]
    assert result.pred_panoptic_seg.sem_seg.shape == (1, 80, 120)


def test_half_precision(shapes: Path) -> None:
    model = make_model().eval()
    data = open_data(shapes, LOAD, split='train')
    batch = model.data_preprocessor(pseudo_collate([data[2], data[3]]), True)
    exact = model(**batch, mode='loss')
    with torch.autocast('cpu', torch.bfloat16):
        rounded = model(**batch, mode='loss')
        results = model(batch['inputs'], batch['data_samples'], mode='predict')
    for name, loss in rounded.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.02)
    assert results[0].pred_panoptic_seg.sem_seg.dtype == torch.int64


@pytest.mark.parametrize(
    ('changes', 'error'),
    [
        ({'num_things': 200, 'num_stuff': 56}, r'^num_things and num_stuff are 200 and 56: 1 to 255 in all'),
        ({'train_cfg': {'target': {}}}, r"^train_cfg has 'target', targets and losses are known\.$"),
        (
            {'train_cfg': {'targets': {'sigmas': 1}}},
            r"^train_cfg.targets has 'sigmas', known are sigma, small",
        ),
        ({'train_cfg': {'losses': {'top_k': 1}}}, r"^train_cfg.losses has 'top_k', known are hardest, "),
        ({'heads': {'in_channels': (6,)}}, r'^in_channels: found \[6\], two features or more are needed\.$'),
        ({'test_cfg': {'num_things': 3}}, r"^test_cfg has 'num_things', known are threshold, kernel_size, "),
    ],
)
def test_wrong_options(changes: dict[str, Any], error: str) -> None:
    with pytest.raises(ZooError, match=error):
        PanopticDeepLab(**{k: v for k, v in model_config(**changes).items() if k != 'type'})


def test_samples_that_cannot_be_learned_from(shapes: Path) -> None:
    model = make_model()

    def learn(*samples: DetDataSample, size: tuple[int, int] = (64, 64)) -> None:
        model.loss(torch.zeros(len(samples), 3, *size), list(samples))

    with pytest.raises(ZooError, match=r'^an image: has no panoptic annotation; .* LoadPanopticMap'):
        learn(DetDataSample(metainfo={'img_shape': (64, 64)}))
    labels = torch.full((1, 64, 64), 4)
    with pytest.raises(ZooError, match=r'^/x.png: its annotation is of 64x64, the image of 40x40: the tr'):
        learn(make_sample(labels, img_path='/x.png', img_shape=(40, 40)), size=(96, 96))
    with pytest.raises(
        ZooError, match=r'^One image of 32x1 has one place at stride 32, and batch norm no var'
    ):
        learn(make_sample(labels), size=(32, 1))
    with pytest.raises(ZooError, match=r'^labels: found class 8, the network knows 0 to 7\.$'):
        learn(make_sample(labels + 4))
    learn(make_sample(labels[:, :1, :1]), make_sample(labels[:, :1, :1]), size=(32, 32))


def test_image_where_nothing_was_found(tmp_path: Path) -> None:
    visualizer = PanopticVisualizer()
    visualizer.dataset_meta = METAINFO
    image = np.full((40, 50, 3), 77, np.uint8)
    for value, changed in [(VOID, False), (4, True)]:
        sample = DetDataSample(pred_panoptic_seg=PixelData(sem_seg=torch.full((1, 40, 50), value)))
        visualizer.add_datasample('x', image, sample, draw_gt=False, out_file=str(tmp_path / 'x.png'))
        assert (np.array(Image.open(tmp_path / 'x.png')) != 77).any() == changed


# ---- configs and the Runner


def options(folder: Path, max_iters: int, **changes: Any) -> dict[str, Any]:
    """For the shipped config, on a data set, with that many iterations."""
    roots = {f'{part}_dataloader.dataset.data_root': f'{folder}/' for part in ('train', 'val', 'test')}
    loop = {'train_cfg.max_iters': max_iters, 'train_cfg.val_interval': max_iters}
    rest = {'train_dataloader.batch_size': 2, 'default_hooks.checkpoint.interval': max_iters}
    return roots | loop | rest | changes


FIGURES = {f'coco_panoptic/{name}{part}' for part in ('', '_th', '_st') for name in ('PQ', 'SQ', 'RQ')}


def test_runner_trains_resumes_evaluates_and_predicts(shapes: Path, tmp_path: Path) -> None:
    whole = runner.train(CONFIG, tmp_path / 'whole', options=options(shapes, 4))
    runner.train(CONFIG, tmp_path / 'parts', options=options(shapes, 2))
    resumed = runner.train(CONFIG, tmp_path / 'parts', resume=True, options=options(shapes, 4))
    assert resumed.iter == 4
    weights = resumed.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(weights[name], value), name
    metrics = runner.test(CONFIG, tmp_path / 'parts' / 'iter_4.pth', tmp_path, options(shapes, 4))
    assert metrics.keys() == FIGURES
    pictures = predict(
        CONFIG,
        tmp_path / 'parts' / 'iter_4.pth',
        [shapes / 'val'],
        tmp_path / 'out',
        options=options(shapes, 4),
    )
    for picture in pictures:
        assert Image.open(picture).size == Image.open(shapes / 'val' / picture.name).size
    assert len(pictures) == VAL


def test_runner_names_what_is_missing(own_shapes: Path, tmp_path: Path) -> None:
    (own_shapes / 'annotations' / 'panoptic_val' / '000003.png').unlink()
    with pytest.raises(ZooError, match=r'panoptic_val/000003.png: there is no such panoptic map'):
        runner.train(CONFIG, tmp_path / 'a', options=options(own_shapes, 1))
    shutil.rmtree(own_shapes / 'annotations' / 'panoptic_train')
    with pytest.raises(ZooError, match=r'data_prefix.seg: there is no .*annotations/panoptic_train'):
        runner.train(CONFIG, tmp_path / 'b', options=options(own_shapes, 1))
    (own_shapes / 'annotations' / 'panoptic_train.json').unlink()
    with pytest.raises(ZooError, match=r'ann_file: there is no .*panoptic_train\.json'):
        runner.train(CONFIG, tmp_path / 'c', options=options(own_shapes, 1))


@pytest.mark.parametrize(('name', 'strides'), [(CONFIG, (4, 8)), (COCO, (4, 8, 32))])
def test_heads_fit_the_backbone(name: str, strides: tuple[int, ...]) -> None:
    config = runner.load_config(name)
    model = build_on_meta(config)
    assert model.backbone.strides == strides
    assert list(model.backbone.channels) == config.model.heads.in_channels
    meta = config.get('metainfo', CocoPanopticDataset.METAINFO)
    assert model.num_things == len(meta['thing_classes'])
    assert model.num_classes == len(meta['classes'])


def test_shapes_config_names_the_shapes() -> None:
    assert runner.load_config(CONFIG).metainfo == METAINFO


def test_the_papers_settings() -> None:
    """arXiv 2111.07547, Table 6 and the appendix; its FLOPs are two a multiply-accumulate."""
    config = runner.load_config(COCO)
    assert 'LoadPanopticAnnotations' not in config.pretty_text  # it needs panopticapi
    published = config.published
    assert (published.pq, published.pq_th, published.pq_st) == (31.8, 32.4, 30.8)
    assert 2 * published.macs == pytest.approx(52.3)
    assert measure_complexity(config).macs / 1e9 == pytest.approx(published.macs, rel=0.022)
    assert config.optim_wrapper.optimizer == {'type': 'Adam', 'lr': 6.25e-5, 'weight_decay': 0.0}
    assert config.train_cfg.max_iters == 200_000
    assert 8 * config.train_dataloader.batch_size == config.auto_scale_lr.base_batch_size == 8
    assert config.train_dataloader.dataset.ann_file == 'annotations/panoptic_train2017.json'
    assert config.val_dataloader.dataset.data_prefix.seg == 'annotations/panoptic_val2017/'


def test_the_papers_pipelines(shapes: Path) -> None:
    """Every image comes to the network as 640 x 640; what is beside it is not learned from."""
    config = runner.load_config(COCO)
    preprocessor = MODELS.build(config.model.data_preprocessor)
    data = open_data(shapes, split='train', test_mode=False, pipeline=config.train_pipeline)
    items = [data[i % TRAIN] for i in range(2 * TRAIN)]
    batch = preprocessor(pseudo_collate(items), True)
    assert batch['inputs'].shape == (2 * TRAIN, 3, 640, 640)
    sizes = {sample.img_shape for sample in batch['data_samples']}
    assert len(sizes) > TRAIN
    assert max(map(max, sizes)) == 640
    assert min(map(max, sizes)) < 560
    model = make_model()
    for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
        height, width = sample.img_shape
        assert not image[:, height:].any()
        assert not image[:, :, width:].any()
        model.loss(image[None], [sample])
    data = open_data(shapes, pipeline=config.test_pipeline)
    results = model.eval().test_step(pseudo_collate([data[i] for i in range(VAL)]))
    assert evaluate(data, results).keys() == FIGURES


@pytest.mark.slow
def test_learns_shapes(tmp_path: Path) -> None:
    """With its own settings, on the data set that it is for, to a useful score; on pictures, too."""
    folder = write_shapes(tmp_path / 'shapes')
    roots = {f'{part}_dataloader.dataset.data_root': f'{folder}/' for part in ('train', 'val', 'test')}
    trained = runner.train(CONFIG, tmp_path / 'run', options=roots)
    checkpoint = tmp_path / 'run' / f'iter_{trained.max_iters}.pth'
    metrics = runner.test(CONFIG, checkpoint, tmp_path, roots)
    assert metrics['coco_panoptic/PQ'] > 60
    assert metrics['coco_panoptic/PQ_th'] > 40
    assert metrics['coco_panoptic/PQ_st'] > 80
    images = [folder / 'val' / f'{index:06}.png' for index in range(8)]
    pictures = predict(CONFIG, checkpoint, images, tmp_path / 'out', options=roots)
    for image, picture in zip(images, pictures, strict=True):
        drawn, plain = (np.array(Image.open(path).convert('RGB'), int) for path in (picture, image))
        assert (abs(drawn - plain).max(2) > 10).mean() > 0.5
