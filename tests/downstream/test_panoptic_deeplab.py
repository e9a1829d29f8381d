"""Panoptic-DeepLab: targets, losses and grouping against plain loops, and a small network that learns."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from downstream.panoptic_deeplab import grouping
from downstream.panoptic_deeplab.grouping import assign_pixels, find_centres, group, list_segments, merge
from downstream.panoptic_deeplab.heads import PanopticHeads, Prediction, upsample
from downstream.panoptic_deeplab.losses import centre_loss, offset_loss, panoptic_losses, semantic_loss
from downstream.panoptic_deeplab.targets import Targets, make_targets, stack_targets
from downstream.panoptic_quality import match_segments, panoptic_quality, rgb2id
from downstream.scene import CLASSES, THINGS, Scene, draw_scene
from downstream.shapes import write_shapes
from zoo.errors import ZooError
from zoo.models.uninet import UniNet

NUM_THINGS, NUM_CLASSES, VOID = 3, 5, 5
IGNORE = 255

Annotation = tuple[Tensor, Tensor]
"""Classes (H, W) and masks (N, H, W)."""


def draw_annotation(seed: int, least: int = 1, most: int = 24, with_crowds: bool = False) -> Annotation:
    """Boxes over each other on stripes of stuff and void; touching, of one pixel, hidden altogether, none."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(least, most + 1, 2))
    semantic = np.repeat(rng.choice([3, 4, IGNORE], height, p=[0.4, 0.4, 0.2])[:, None], width, axis=1)
    owner = np.zeros((height, width), int)
    number = int(rng.integers(0, 9))
    for index in range(number):
        top, left = rng.integers(height), rng.integers(width)
        down, right = rng.integers(1, 9, 2) if rng.random() < 0.7 else (1, 1)
        box = slice(top, top + down), slice(left, left + right)
        semantic[box], owner[box] = rng.integers(NUM_THINGS), index + 1
    if with_crowds:
        owner[owner == 1] = 0
    masks = owner == np.arange(1, number + 1)[:, None, None]
    return torch.from_numpy(semantic), torch.from_numpy(masks.reshape(number, height, width))


def mean_pixel(mask: Tensor) -> tuple[int, int]:
    """The mass centre, rounded, halves up."""
    pixels = [(y, x) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    y, x = (2 * sum(values) + len(pixels) for values in zip(*pixels, strict=True))
    return y // (2 * len(pixels)), x // (2 * len(pixels))


seeds = st.integers(0, 10**9)

# ---- targets


@given(seeds)
def test_targets_pixel_by_pixel(seed: int) -> None:
    semantic, masks = draw_annotation(seed, most=12, with_crowds=True)
    targets = make_targets(semantic, masks, NUM_THINGS, sigma=2.0, small_area=10, small_weight=5.0)
    centres = [mean_pixel(mask) for mask in masks if mask.any()]
    assert torch.equal(targets.semantic, semantic)
    for y in range(semantic.shape[0]):
        for x in range(semantic.shape[1]):
            label = int(semantic[y, x])
            own = next((mask for mask in masks if mask[y, x]), None)
            is_crowd = label < NUM_THINGS and own is None
            is_small = own is not None and own.sum() < 10
            heat = max(
                (
                    np.exp(-((y - v) ** 2 + (x - u) ** 2) / 8)
                    for v, u in centres
                    if abs(y - v) <= 6 and abs(x - u) <= 6
                ),
                default=0.0,
            )
            v, u = (y, x) if own is None else mean_pixel(own)
            found = [targets.semantic_weight[y, x], targets.centre_weight[y, x], targets.offset_weight[y, x]]
            assert [float(value) for value in found] == [
                5.0 if is_small else 1.0,
                float(label != IGNORE and not is_crowd),
                float(own is not None),
            ]
            assert targets.centre[y, x] == pytest.approx(heat, abs=1e-6)
            assert targets.offset[:, y, x].tolist() == [v - y, u - x]


def test_targets_by_hand() -> None:
    """An L of three pixels, rows 0, 1, 1 and columns 0, 0, 1: centre (2/3, 1/3), the pixel (1, 0)."""
    semantic = torch.tensor([[1, 3, 255], [1, 1, 2]])
    masks = torch.tensor([[[1, 0, 0], [1, 1, 0]]], dtype=torch.uint8)
    targets = make_targets(semantic, masks, NUM_THINGS)
    assert targets.offset.tolist() == [[[1, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, -1, 0]]]
    assert targets.offset_weight.tolist() == [[1, 0, 0], [1, 1, 0]]
    assert targets.centre_weight.tolist() == [[1, 1, 0], [1, 1, 0]]
    assert targets.semantic_weight.tolist() == [[3, 1, 1], [3, 3, 1]]
    assert targets.centre[1].tolist() == pytest.approx([1, np.exp(-1 / 128), np.exp(-4 / 128)])
    assert [t.dtype for t in targets] == [torch.int64] + 5 * [torch.float32]


def test_weight_of_large_instances() -> None:
    semantic = torch.zeros(64, 65, dtype=torch.uint8)
    masks = torch.zeros(2, 64, 65)
    masks[0, :, :64], masks[1, :, 64] = 1, 1
    weight = make_targets(semantic, masks, 1).semantic_weight
    assert weight[:, :64].unique().tolist() == [1]
    assert weight[:, 64].unique().tolist() == [3]


def test_where_masks_overlap_the_last_one_owns() -> None:
    masks = torch.tensor([[[1, 1, 1, 0]], [[0, 0, 1, 1]]])
    targets = make_targets(torch.zeros(1, 4, dtype=torch.long), masks, 1)
    assert targets.offset[1].tolist() == [[1, 0, 1, 0]]


def test_no_instances_and_only_void() -> None:
    semantic = torch.full((4, 6), IGNORE)
    for masks in (torch.zeros(0, 4, 6), torch.zeros(2, 4, 6)):
        targets = make_targets(semantic, masks, NUM_THINGS)
        assert targets.semantic_weight.unique().tolist() == [1]
        assert all(not map_.any() for map_ in targets[2:])


@pytest.mark.parametrize('shape', [(4, 5), (2, 5, 4), (1, 2, 4, 5)])
def test_masks_of_another_size(shape: tuple[int, ...]) -> None:
    with pytest.raises(ZooError, match=r'^masks: found \(.*\), \(N, 4, 5\) is needed\.$'):
        make_targets(torch.zeros(4, 5, dtype=torch.long), torch.ones(shape), 1)


def test_batch_of_targets() -> None:
    images = [make_targets(torch.full((2, 3), i), torch.zeros(0, 2, 3), 1) for i in range(4)]
    batch = stack_targets(images)
    assert [tuple(map_.shape) for map_ in batch] == 4 * [(4, 2, 3)] + [(4, 2, 2, 3), (4, 2, 3)]
    assert batch.semantic[:, 0, 0].tolist() == [0, 1, 2, 3]


# ---- grouping


def as_expected(semantic: Tensor, masks: Tensor) -> Tensor:
    """Classes + 1000 x the number of the mask, void where the class is void."""
    panoptic = torch.where(semantic == IGNORE, VOID, semantic)
    for number, mask in enumerate(masks):
        panoptic[mask] += 1000 * (number + 1)
    return panoptic


def same_up_to_numbers(found: Tensor, expected: Tensor) -> bool:
    """Whether two panoptic maps have equal classes, and equal segments with whatever numbers."""
    pairs = {*zip(found.flatten().tolist(), expected.flatten().tolist(), strict=True)}
    ones, others = zip(*pairs, strict=True)
    return len(set(ones)) == len(set(others)) == len(pairs) and all(a % 1000 == b % 1000 for a, b in pairs)


@given(seeds)
def test_targets_group_to_the_annotation(seed: int) -> None:
    """Whatever touches or hides what, as long as centres differ."""
    semantic, masks = draw_annotation(seed)
    centres = set()
    for mask in masks:
        if mask.any():
            if (centre := mean_pixel(mask)) in centres:
                semantic[mask], mask[:] = IGNORE, False
            centres.add(centre)
    targets = make_targets(semantic, masks, NUM_THINGS)
    maps = targets.semantic, targets.centre, targets.offset
    panoptic = group(*maps, NUM_THINGS, NUM_CLASSES, stuff_area=0)
    assert same_up_to_numbers(panoptic, as_expected(semantic, masks))


def test_instances_with_one_centre_become_one() -> None:
    """A ring around a disc: the way to the centre does not tell them apart."""
    ring = torch.ones(1, 5, 5, dtype=torch.bool)
    ring[0, 1:4, 1:4] = False
    masks = torch.cat([ring, ~ring])
    targets = make_targets(torch.zeros(5, 5, dtype=torch.long), masks, 1)
    assert group(targets.semantic, targets.centre, targets.offset, 1, 1).unique().tolist() == [1000]


def test_many_centres_group_alike_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = torch.eye(144).view(144, 12, 12).bool()
    targets = make_targets(torch.arange(144).view(12, 12) % 2, masks, 2)
    maps = targets.semantic, targets.centre, targets.offset
    whole = group(*maps, 2, 2)
    assert len(whole.unique()) == 144
    monkeypatch.setattr(grouping, 'CHUNK', 7)
    assert torch.equal(group(*maps, 2, 2), whole)


def test_centres_are_local_peaks() -> None:
    heat = torch.zeros(9, 12)
    heat[4, 2], heat[4, 5], heat[4, 6], heat[0, 11] = 0.9, 0.8, 0.85, 0.1
    assert find_centres(heat, kernel_size=3).tolist() == [[4, 2], [4, 6]]
    assert find_centres(heat, kernel_size=1).tolist() == [[4, 2], [4, 6], [4, 5]]
    assert find_centres(heat, kernel_size=7).tolist() == [[4, 2], [4, 6]]
    assert find_centres(heat, kernel_size=9).tolist() == [[4, 2]]
    assert find_centres(heat, threshold=0.05).tolist() == [[4, 2], [4, 6], [0, 11]]
    assert find_centres(heat, kernel_size=3, top_k=1).tolist() == [[4, 2]]
    assert find_centres(heat, threshold=0.9).shape == (0, 2)


@given(seeds)
def test_pixels_go_to_the_nearest_centre(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    offset = torch.randn(2, 5, 6, generator=generator) * 3
    centres = torch.randint(0, 6, (4, 2), generator=generator)
    things = torch.rand(5, 6, generator=generator) < 0.7
    instances = assign_pixels(offset, centres, things)
    for y in range(5):
        for x in range(6):
            ahead = np.array([y, x]) + offset[:, y, x].numpy()
            distances = [float(((ahead - centre) ** 2).sum()) for centre in centres.numpy()]
            assert instances[y, x] == (1 + int(np.argmin(distances)) if things[y, x] else 0)


def test_merging_by_hand() -> None:
    """Instance 1 has classes 0, 1, 1; instance 2 a tie, which the lower class wins; stuff 3 is too small."""
    semantic = torch.tensor([[0, 1, 1, 2, 0], [3, 4, 4, 0, 255]])
    instances = torch.tensor([[1, 1, 1, 2, 2], [0, 0, 0, 0, 0]])
    panoptic = merge(semantic, instances, NUM_THINGS, NUM_CLASSES, stuff_area=2)
    assert panoptic.tolist() == [[1001, 1001, 1001, 2000, 2000], [VOID, 4, 4, VOID, VOID]]
    panoptic = merge(semantic, instances, NUM_THINGS, NUM_CLASSES, stuff_area=1)
    assert panoptic[1].tolist() == [3, 4, 4, VOID, VOID]


def test_grouping_without_centres() -> None:
    """Things without a centre to belong to are void."""
    semantic = torch.tensor([[0, 4], [4, 2]])
    panoptic = group(semantic, torch.zeros(2, 2), torch.zeros(2, 2, 2), NUM_THINGS, NUM_CLASSES, stuff_area=1)
    assert panoptic.tolist() == [[VOID, 4], [4, VOID]]
    panoptic = group(
        torch.tensor([[IGNORE]]), torch.ones(1, 1), torch.zeros(2, 1, 1), NUM_THINGS, NUM_CLASSES
    )
    assert panoptic.tolist() == [[VOID]]


def test_half_precision_of_the_network_does_not_move_pixels() -> None:
    """bfloat16 knows no odd number above 256: coordinates must not be rounded to it."""
    semantic = torch.full((1, 600), 1)
    semantic[0, 500:506] = 0
    masks = F.pad(torch.eye(6)[:, None], (500, 94))
    targets = make_targets(semantic, masks, 1)
    panoptic = group(semantic, targets.centre.bfloat16(), targets.offset.bfloat16(), 1, 2)
    assert panoptic[0, 500:506].tolist() == [1000, 2000, 3000, 4000, 5000, 6000]


def test_segments_of_a_panoptic_map() -> None:
    ids, labels = list_segments(torch.tensor([[1001, 4, 2002, 0], [VOID, VOID, 4, 4]]), VOID)
    assert len(np.unique(ids)) == 5
    assert (ids[1, :2] == 0).all()
    assert [labels.get(i) for i in ids.flatten().tolist()] == [1, 4, 2, 0, None, None, 4, 4]
    assert len(labels) == 4


# ---- targets of a data set on disk, and back


def test_oracle_has_panoptic_quality_100(tmp_path: Path) -> None:
    """Crowds are void here: no map of Panoptic-DeepLab can say that pixels are several things."""
    folder = write_shapes(tmp_path / 'shapes', 24, 2, seed=3) / 'annotations'
    annotations = json.loads((folder / 'panoptic_train.json').read_text())['annotations']
    counts = np.zeros((len(CLASSES), 4))
    for annotation in annotations:
        ids = rgb2id(np.array(Image.open(folder / 'panoptic_train' / annotation['file_name'])))
        segments = annotation['segments_info']
        crowds = {s['id'] for s in segments if s['iscrowd']}
        semantic = np.full(ids.shape, IGNORE)
        for segment in segments:
            if segment['id'] not in crowds:
                semantic[ids == segment['id']] = segment['category_id'] - 1
        things = [s['id'] for s in segments if s['category_id'] <= len(THINGS) and s['id'] not in crowds]
        masks = torch.from_numpy(ids == np.array(things, int).reshape(-1, 1, 1))
        targets = make_targets(torch.from_numpy(semantic), masks, len(THINGS))
        maps = targets.semantic, targets.centre, targets.offset
        panoptic = group(*maps, len(THINGS), len(CLASSES), stuff_area=0)
        labels = {s['id']: s['category_id'] - 1 for s in segments}
        counts += match_segments(*list_segments(panoptic, len(CLASSES)), ids, labels, len(CLASSES), crowds)
    assert (counts[:, 1] > 5).all()
    for quality in panoptic_quality(counts, len(THINGS)).values():
        assert (quality.pq, quality.sq, quality.rq, quality.num_classes) == (
            *3 * (100,),
            8 if quality.num_classes == 8 else 4,
        )


# ---- losses


@given(seeds, st.sampled_from([0.01, 0.2, 0.5, 1.0]))
def test_semantic_loss_pixel_by_pixel(seed: int, hardest: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (2, NUM_CLASSES, 4, 3))
    labels = rng.choice([0, 1, 2, 3, 4, IGNORE], (2, 4, 3))
    labels[0, 0, 0] = 1
    weight = rng.choice([1.0, 3.0], (2, 4, 3))
    losses = []
    for b, y, x in zip(*(labels != IGNORE).nonzero(), strict=True):
        row = logits[b, :, y, x]
        losses.append(weight[b, y, x] * (np.log(np.exp(row).sum()) - row[labels[b, y, x]]))
    kept = sorted(losses, reverse=True)[: int(np.ceil(hardest * len(losses)))]
    loss = semantic_loss(*map(torch.from_numpy, (logits, labels, weight)), hardest)
    assert float(loss) == pytest.approx(np.mean(kept), rel=1e-5)


@given(seeds)
def test_losses_of_centres_and_offsets_by_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.choice([0.0, 1.0], (2, 4, 3))
    weight[1, 2, 2] = 1
    heat, heat_target = rng.normal(size=(2, 1, 4, 3)), rng.random((2, 4, 3))
    offset, offset_target = rng.normal(size=(2, 2, 4, 3)), rng.normal(size=(2, 2, 4, 3))
    squares = distances = pixels = 0.0
    for b, y, x in np.ndindex(2, 4, 3):
        squares += weight[b, y, x] * (heat[b, 0, y, x] - heat_target[b, y, x]) ** 2
        distances += weight[b, y, x] * sum(abs(offset[b, :, y, x] - offset_target[b, :, y, x]))
        pixels += weight[b, y, x]
    loss = centre_loss(*map(torch.from_numpy, (heat, heat_target, weight)))
    assert float(loss) == pytest.approx(squares / pixels, rel=1e-5)
    loss = offset_loss(*map(torch.from_numpy, (offset, offset_target, weight)))
    assert float(loss) == pytest.approx(distances / pixels, rel=1e-5)


def test_factors_of_the_losses() -> None:
    """On a pixel: ln 2 of two equal logits, times 3; 200 x 0.25; 0.01 x (2 + 3)."""
    one = torch.ones(1, 1, 1)
    targets = Targets(one.long(), 3 * one, one, one, torch.tensor([[[[2.0]], [[-3.0]]]]), one)
    maps = torch.zeros(1, 2, 1, 1), torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, 2, 1, 1)
    losses = panoptic_losses(Prediction(*maps), targets)
    values = {name: float(loss) for name, loss in losses.items()}
    assert values == pytest.approx(
        {'loss_semantic': 3 * np.log(2), 'loss_centre': 50.0, 'loss_offset': 0.05}, rel=1e-6
    )


def test_perfect_maps_have_no_loss() -> None:
    semantic, masks = draw_annotation(5, least=16)
    targets = stack_targets([make_targets(semantic, masks, NUM_THINGS)])
    logits = (
        100.0 * F.one_hot(semantic.clamp(max=NUM_CLASSES), NUM_CLASSES + 1)[..., :-1].permute(2, 0, 1)[None]
    )
    losses = panoptic_losses(Prediction(logits, targets.centre[:, None], targets.offset), targets)
    assert {name: float(loss) for name, loss in losses.items()} == dict.fromkeys(losses, 0.0)


def test_losses_of_an_image_without_labels() -> None:
    """0, with gradients of 0: distributed training waits for every parameter's gradient."""
    targets = stack_targets([make_targets(torch.full((3, 4), IGNORE), torch.zeros(0, 3, 4), NUM_THINGS)])
    maps = [torch.randn(1, channels, 3, 4, requires_grad=True) for channels in (NUM_CLASSES, 1, 2)]
    losses = panoptic_losses(Prediction(*maps), targets)
    assert all(loss.item() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(map_.grad is not None and not map_.grad.any() for map_ in maps)


def test_label_that_is_no_class() -> None:
    labels = torch.tensor([[[0, 5, 255]]])
    with pytest.raises(ZooError, match=r'^labels: found class 5, the network knows 0 to 4\.$'):
        semantic_loss(torch.zeros(1, 5, 1, 3), labels, torch.ones(1, 1, 3))


def test_losses_of_half_precision_maps_are_float32() -> None:
    semantic, masks = draw_annotation(5, least=16)
    targets = stack_targets([make_targets(semantic, masks, NUM_THINGS)])
    maps = [torch.randn(1, c, *semantic.shape, requires_grad=True) for c in (NUM_CLASSES, 1, 2)]
    exact = panoptic_losses(Prediction(*maps), targets)
    rounded = panoptic_losses(Prediction(*(map_.bfloat16() for map_ in maps)), targets)
    for name, loss in rounded.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.02)


# ---- heads


def make_heads(**kwargs: int) -> PanopticHeads:
    torch.manual_seed(0)
    channels = {'aspp_channels': 24, 'semantic_channels': 16, 'instance_channels': 12, 'head_channels': 8}
    return PanopticHeads((6, 10, 20), NUM_CLASSES, (1, 2), **{**channels, **kwargs})


def make_features(batch: int, *sizes: tuple[int, int]) -> list[Tensor]:
    return [torch.randn(batch, c, *size) for c, size in zip((6, 10, 20), sizes, strict=True)]


def test_heads_are_what_they_say() -> None:
    """Written once more as functions of the parameters, with statistics of batch norm that show."""
    heads = make_heads().eval()
    for name, value in heads.named_buffers():
        if value.is_floating_point():
            value.uniform_(0.5, 2) if 'var' in name else value.normal_()
    for head in (heads.semantic_head, heads.centre_head, heads.offset_head):
        nn.init.normal_(head[1].weight)

    def conv(block: nn.Module, x: Tensor, reach: int = 0, dilation: int = 1) -> Tensor:
        weight, norm = block[0].weight, block[1]
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, padding=reach, dilation=dilation, groups=groups)
        x = (x - norm.running_mean.view(-1, 1, 1)) / (norm.running_var.view(-1, 1, 1) + 1e-5).sqrt()
        return x.clamp(min=0)

    def decode(decoder: nn.Module, fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
        aspp = decoder.aspp
        mean = aspp.mean[1](coarse.mean((2, 3), keepdim=True)).clamp(min=0).repeat(1, 1, *coarse.shape[2:])
        parts = [conv(aspp.branches[0], coarse)]
        parts += [conv(aspp.branches[rate], coarse, rate, rate) for rate in (1, 2)]
        x = conv(aspp.project, torch.cat([*parts, mean], 1))
        for feature, i in ((middle, 1), (fine, 0)):
            x = F.interpolate(x, feature.shape[2:], mode='bilinear')
            x = torch.cat([x, conv(decoder.reduce[i], feature)], 1)
            x = conv(decoder.fuse[i][1], conv(decoder.fuse[i][0], x, 2))
        return x

    def predict(head: nn.Module, x: Tensor) -> Tensor:
        x = conv(head[0][1], conv(head[0][0], x, 2))
        return torch.einsum('oc,bchw->bohw', head[1].weight[:, :, 0, 0], x)

    features = make_features(2, (12, 16), (6, 8), (5, 6))
    semantic, instance = (decode(d, *features) for d in (heads.semantic_decoder, heads.instance_decoder))
    expected = (
        predict(heads.semantic_head, semantic),
        *(predict(head, instance) for head in (heads.centre_head, heads.offset_head)),
    )
    for found, wanted in zip(heads(features), expected, strict=True):
        torch.testing.assert_close(found, wanted)
        assert found.std() > 0.01


@pytest.mark.parametrize('sizes', [((24, 32), (12, 16), (3, 4)), ((21, 13), (11, 7), (3, 2)), ((1, 1),) * 3])
def test_heads_take_maps_of_any_size(sizes: tuple[tuple[int, int], ...]) -> None:
    heads = make_heads().eval()
    prediction = heads(make_features(2, *sizes))
    assert [tuple(map_.shape) for map_ in prediction] == [(2, c, *sizes[0]) for c in (NUM_CLASSES, 1, 2)]


def test_every_parameter_learns_from_one_image() -> None:
    heads = make_heads().train()
    prediction = upsample(heads(make_features(1, (12, 16), (6, 8), (3, 4))), (48, 64))
    semantic, masks = draw_annotation(3, least=64, most=64)
    targets = stack_targets([make_targets(semantic[:48], masks[:, :48], NUM_THINGS)])
    sum(panoptic_losses(prediction, targets).values()).backward()
    without = [n for n, p in heads.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_maps_begin_near_zero() -> None:
    heads = make_heads().train()
    maps = heads(make_features(2, (12, 16), (6, 8), (3, 4)))
    assert all(map_.abs().max() < 0.1 for map_ in maps)


def test_synchronised_batch_norm_computes_the_same() -> None:
    """PyTorch's conversion drops what a subclass of batch norm does beside it, such as an activation."""
    heads = make_heads().eval()
    features = make_features(2, (12, 16), (6, 8), (3, 4))
    before = heads(features)
    after = nn.SyncBatchNorm.convert_sync_batchnorm(heads)(features)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in heads.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_other_numbers_of_features() -> None:
    torch.manual_seed(0)
    heads = PanopticHeads((6, 10), 3, (1,), semantic_low=(5,), instance_low=(4,), aspp_channels=8).eval()
    features = make_features(1, (8, 8), (4, 4), (1, 1))[:2]
    assert [map_.shape[1] for map_ in heads(features)] == [3, 1, 2]
    with pytest.raises(ZooError, match=r'^low_channels: found 2 widths, 2 features need 1: one each but for'):
        PanopticHeads((6, 10), 3)


def test_macs_of_the_papers_widths() -> None:
    """By hand, at strides 4, 8, 32 of a 640 x 640 image, of ResNet-50's 256, 512 and 2048 channels."""
    with torch.device('meta'):
        heads = PanopticHeads((256, 512, 2048), 133).eval()
        features = [torch.empty(1, c, 640 // s, 640 // s) for c, s in ((256, 4), (512, 8), (2048, 32))]
    macs = 0

    def add(module: nn.Conv2d, args: tuple[Tensor], out: Tensor) -> None:
        nonlocal macs
        macs += out.numel() * module.weight[0].numel()

    for module in heads.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    heads(features)
    fine, middle, coarse = 160**2, 80**2, 20**2
    aspp = coarse * (2048 * 256 * (1 + 3 * 9) + 5 * 256 * 256) + 2048 * 256

    def separable(channels: int, out_channels: int) -> int:
        return 25 * channels + channels * out_channels

    semantic = aspp + middle * (512 * 64 + separable(320, 256)) + fine * (256 * 32 + separable(288, 256))
    instance = aspp + middle * (512 * 32 + separable(288, 128)) + fine * (256 * 16 + separable(144, 128))
    ends = separable(256, 256) + 256 * 133 + 2 * separable(128, 32) + 32 * 3
    assert macs == semantic + instance + fine * ends


def test_upsampled_maps() -> None:
    """Place i of a map of stride 4 stands for pixels 4 i to 4 i + 3, whose middle is 4 i + 1.5."""
    ramp = torch.arange(6.0).expand(1, 1, 5, 6)
    prediction = upsample(Prediction(ramp, ramp, ramp.expand(1, 2, 5, 6)), (18, 23))
    assert [tuple(map_.shape) for map_ in prediction] == [(1, 1, 18, 23)] * 2 + [(1, 2, 18, 23)]
    middle = torch.arange(2, 22)
    assert prediction.centre[0, 0, 0, 2:22].tolist() == pytest.approx(((middle - 1.5) / 4).tolist())
    assert prediction.offset[0, 1, 0, 2:22].tolist() == pytest.approx((middle - 1.5).tolist())
    assert torch.equal(prediction.semantic, prediction.centre)
    assert upsample(Prediction(ramp, ramp, ramp), (10, 12), stride=2).offset.max() == 10


def test_maps_that_do_not_cover_the_image() -> None:
    maps = Prediction(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 4))
    with pytest.raises(ZooError, match=r'^size: found \(16, 17\), maps of stride 4 cover only \(16, 16\)\.$'):
        upsample(maps, (16, 17))


# ---- all together

SIDE = 96


def prepare(scene: Scene) -> tuple[Tensor, Targets]:
    """Image and targets, padded at the right and at the bottom."""
    height, width = scene.ids.shape
    padding = (0, SIDE - width, 0, SIDE - height)
    image = F.pad(torch.from_numpy(scene.image).permute(2, 0, 1) / 128 - 1, padding)
    semantic = F.pad(torch.from_numpy(scene.semantic()), padding, value=IGNORE)
    numbers = [segment.id for segment in scene.objects() if not segment.crowd]
    masks = torch.from_numpy(scene.ids == np.array(numbers, int).reshape(-1, 1, 1))
    return image, make_targets(semantic, F.pad(masks, padding), len(THINGS), sigma=4.0)


class Tiny(nn.Module):
    """A UniNet of a few blocks, and heads to match."""

    def __init__(self) -> None:
        super().__init__()
        widths = (24, 48, 72)
        stages = [{'operator': 'dwconv', 'expansion': 1, 'channels': 16, 'repeats': 1}]
        block = {'operator': 'dwconv', 'downsample': 'l', 'expansion': 3, 'repeats': 1}
        stages += [{**block, 'channels': width} for width in widths]
        arch = {'stages': stages, 'strides': (1, 2, 2, 2), 'stem_channels': 16, 'head_channels': 16}
        self.backbone = UniNet(arch, num_classes=0)
        self.heads = PanopticHeads(
            widths,
            len(CLASSES),
            (1, 2, 3),
            (16, 16),
            (16, 16),
            32,
            semantic_channels=64,
            instance_channels=32,
        )

    def forward(self, images: Tensor) -> Prediction:
        features = self.backbone.forward_intermediates(images, [1, 2, 3], intermediates_only=True)
        return upsample(self.heads(features), (SIDE, SIDE))


@torch.no_grad()
def measure(net: Tiny, images: Tensor, scenes: list[Scene]) -> dict[str, float]:
    prediction = net.eval()(images)
    counts = np.zeros((len(CLASSES), 4))
    for index, scene in enumerate(scenes):
        height, width = scene.ids.shape
        logits, heat, offset = (map_[index, :, :height, :width] for map_ in prediction)
        panoptic = group(logits.argmax(0), heat[0], offset, len(THINGS), len(CLASSES), stuff_area=64)
        labels = {segment.id: segment.label for segment in scene.segments}
        crowds = {segment.id for segment in scene.segments if segment.crowd}
        found = list_segments(panoptic, len(CLASSES))
        counts += match_segments(*found, scene.ids, labels, len(CLASSES), crowds)
    net.train()
    return {name: quality.pq for name, quality in panoptic_quality(counts, len(THINGS)).items()}


def test_a_small_network_learns_a_few_images() -> None:
    torch.manual_seed(0)
    scenes = [draw_scene(0, 'train', index, (80, SIDE)) for index in range(8)]
    images, targets = zip(*map(prepare, scenes), strict=True)
    images, targets = torch.stack(images), stack_targets(list(targets))
    net, steps = Tiny(), 100
    assert measure(net, images, scenes)['all'] < 1
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(panoptic_losses(net(images), targets).values()).backward()
        optimizer.step()
        schedule.step()
    after = measure(net, images, scenes)
    assert after['stuff'] > 75
    assert after['things'] > 60
