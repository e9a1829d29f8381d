"""Panoptic quality: cases counted by hand, and random ones counted pixel by pixel from the definition."""

import importlib
from collections.abc import Callable, Collection, Mapping
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from downstream.panoptic_quality import (
    Quality,
    class_quality,
    id2rgb,
    match_segments,
    panoptic_quality,
    rgb2id,
)
from zoo.errors import ZooError

CAT, DOG, SKY = range(3)


def read_map(rows: str) -> np.ndarray:
    """``'112 110'``: rows of ids, one digit each."""
    return np.array([[int(digit) for digit in row] for row in rows.split()])


def count(
    found: str,
    found_labels: Mapping[int, int],
    truth: str,
    truth_labels: Mapping[int, int],
    crowds: Collection[int] = (),
) -> list[list[float]]:
    """Of cats, dogs and sky: [sum of IoU, tp, fp, fn]."""
    return match_segments(read_map(found), found_labels, read_map(truth), truth_labels, 3, crowds).tolist()


NOTHING = [0, 0, 0, 0]


def test_perfect() -> None:
    labels = {1: CAT, 2: CAT, 3: SKY}
    counts = count('1122 1122 3333', labels, '1122 1122 3333', labels)
    assert counts == [[2, 2, 0, 0], NOTHING, [1, 1, 0, 0]]
    assert panoptic_quality(np.array(counts), 2) == {
        'all': Quality(100, 100, 100, 2),
        'things': Quality(100, 100, 100, 1),
        'stuff': Quality(100, 100, 100, 1),
    }


def test_ids_are_names_only() -> None:
    assert count('77', {7: DOG}, '22', {2: DOG}) == [NOTHING, [1, 1, 0, 0], NOTHING]


def test_missed() -> None:
    assert count('0000', {}, '1111', {1: CAT}) == [[0, 0, 0, 1], NOTHING, NOTHING]


def test_invented_on_a_true_segment_of_another_class() -> None:
    counts = count('1111', {1: DOG}, '1111', {1: CAT})
    assert counts == [[0, 0, 0, 1], [0, 0, 1, 0], NOTHING]
    assert panoptic_quality(np.array(counts), 2)['all'] == Quality(0, 0, 0, 2)


def test_split() -> None:
    """6 of 10 pixels match with IoU 0.6, the other 4 are a false positive: SQ 60, RQ 1 / 1.5, PQ 40."""
    counts = count('11111 12222', {1: CAT, 2: CAT}, '11111 11111', {1: CAT})
    assert counts == [[0.6, 1, 1, 0], NOTHING, NOTHING]
    quality = panoptic_quality(np.array(counts), 2)['things']
    assert (quality.pq, quality.sq, quality.rq) == pytest.approx((40, 60, 200 / 3))


def test_iou_of_one_half_is_no_match() -> None:
    assert count('11111 22222', {1: CAT, 2: CAT}, '11111 11111', {1: CAT}) == [[0, 0, 2, 1], NOTHING, NOTHING]


def test_merged() -> None:
    """One found for two true ones of 5 and 3 pixels: 5 / 8 matches, the smaller one is missed."""
    counts = count('1111 1111', {1: CAT}, '1111 1222', {1: CAT, 2: CAT})
    assert counts == [[0.625, 1, 0, 1], NOTHING, NOTHING]


def test_void_of_the_truth_is_no_error_of_the_found() -> None:
    """The cat's 3 pixels are found with 3 more of void: IoU 3 / (6 + 3 - 3 - 3)."""
    assert count('111 111', {1: CAT}, '111 000', {1: CAT}) == [[1, 1, 0, 0], NOTHING, NOTHING]


def test_void_of_the_found_is_an_error() -> None:
    assert count('111 100', {1: CAT}, '111 111', {1: CAT}) == [[4 / 6, 1, 0, 0], NOTHING, NOTHING]


@pytest.mark.parametrize(('truth', 'false_positives'), [('0003', 0), ('0033', 1), ('0333', 1)])
def test_mostly_void_is_ignored(truth: str, false_positives: int) -> None:
    """A dog on 3, 2 or 1 of 4 pixels of void and on sky otherwise: more than half is needed."""
    counts = count('1111', {1: DOG}, truth, {3: SKY})
    assert counts == [NOTHING, [0, 0, false_positives, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ('truth', 'false_positives'), [('9993', 0), ('9933', 1), ('9033', 1), ('9903', 0), ('0093', 0)]
)
def test_mostly_crowd_is_ignored(truth: str, false_positives: int) -> None:
    """A cat on a crowd of cats; void and crowd add up. The crowd is never missed."""
    counts = count('1111', {1: CAT}, truth, {9: CAT, 3: SKY}, crowds={9})
    assert counts == [[0, 0, false_positives, 0], NOTHING, [0, 0, 0, 1]]


def test_crowd_of_another_class_excuses_nothing() -> None:
    assert count('1111', {1: DOG}, '9999', {9: CAT}, {9}) == [NOTHING, [0, 0, 1, 0], NOTHING]


def test_crowd_does_not_match() -> None:
    """The crowd found as a cat counts neither way; a cat found too large, over the crowd, has a lower IoU."""
    assert count('1111', {1: CAT}, '9999', {9: CAT}, {9}) == [NOTHING] * 3
    assert count('1111', {1: CAT}, '1119', {1: CAT, 9: CAT}, {9}) == [[0.75, 1, 0, 0], NOTHING, NOTHING]


def test_of_two_crowds_the_last_one_counts() -> None:
    truth_labels = {8: CAT, 9: CAT}
    assert count('1111', {1: CAT}, '8889', truth_labels, {8, 9}) == [[0, 0, 1, 0], NOTHING, NOTHING]
    truth_labels = {9: CAT, 8: CAT}
    assert count('1111', {1: CAT}, '8889', truth_labels, {8, 9}) == [NOTHING] * 3


def test_true_ids_beside_the_list() -> None:
    """Unlisted pixels are neither void (the dog on them is wrong) nor a segment; listed ones may be empty."""
    assert count('1111', {1: DOG}, '4444', {3: SKY}) == [NOTHING, [0, 0, 1, 0], [0, 0, 0, 1]]


def test_nothing_at_all() -> None:
    counts = count('00', {}, '00', {})
    assert counts == [NOTHING] * 3
    assert np.isnan(class_quality(np.array(counts))).all()
    quality = panoptic_quality(np.array(counts), 2)['all']
    assert np.isnan([quality.pq, quality.sq, quality.rq]).all()
    assert quality.num_classes == 0


def test_means_are_over_the_classes_that_count() -> None:
    """Cats: IoU 0.8 + 0.6 of two matches, one invented, one missed. Dogs: nowhere. Sky: missed."""
    counts = np.array([[1.4, 2, 1, 1], NOTHING, [0, 0, 0, 1]])
    assert class_quality(counts)[0] == pytest.approx([100 * 1.4 / 3, 70, 200 / 3])
    assert np.isnan(class_quality(counts)[1]).all()
    assert class_quality(counts)[2].tolist() == [0, 0, 0]
    quality = panoptic_quality(counts, 2)
    assert quality['all'] == Quality(pytest.approx(70 / 3), pytest.approx(35), pytest.approx(100 / 3), 2)
    assert quality['things'].pq == pytest.approx(140 / 3)
    assert quality['stuff'] == Quality(0, 0, 0, 1)


def test_bad_input() -> None:
    one = np.ones((2, 2), int)
    with pytest.raises(ZooError, match=r'^found: a map of \(2, 2\), the truth has \(2, 3\): .*needed\.$'):
        match_segments(one, {1: 0}, np.ones((2, 3), int), {1: 0}, 1)
    with pytest.raises(ZooError, match=r'segment 1 is in the map, but its class is not given\.$'):
        match_segments(one, {}, one, {1: 0}, 1)
    with pytest.raises(ZooError, match=r'segment 5 has a class, but no pixel of the map\.$'):
        match_segments(one, {1: 0, 5: 0}, one, {1: 0}, 1)
    with pytest.raises(ZooError, match=r'^found_labels: segment 1 has the class 3, 0 to 2 are allowed\.$'):
        match_segments(one, {1: 3}, one, {1: 0}, 3)
    with pytest.raises(ZooError, match=r'^truth_labels: segment 1 has the class -1, 0 to 2 are allowed\.$'):
        match_segments(one, {1: 0}, one, {1: -1}, 3)


# ---- random cases

Labels = dict[int, int]
Case = tuple[np.ndarray, Labels, np.ndarray, Labels, set[int]]
NUM_CLASSES = 3


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Maps that resemble each other, so that some segments match, some nearly, some not."""
    rng = np.random.default_rng(draw(st.integers(0, 10**9)))
    shape = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    truth = rng.integers(0, 5, shape)
    noise = rng.random(shape) < draw(st.sampled_from([0, 0.1, 0.3, 0.6, 1]))
    found = np.where(noise, rng.integers(0, 6, shape), truth)
    truth_labels = {i: int(rng.integers(NUM_CLASSES)) for i in np.unique(truth).tolist() if i}
    found_labels = {
        i: int(rng.integers(NUM_CLASSES)) if rng.random() < 0.3 else truth_labels.get(i, 0)
        for i in np.unique(found).tolist()
        if i
    }
    crowds = {i for i in truth_labels if rng.random() < 0.25}
    return found, found_labels, truth, truth_labels, crowds


def count_naively(case: Case) -> np.ndarray:
    """The definition, segment by segment."""
    found, found_labels, truth, truth_labels, crowds = case
    counts = np.zeros((NUM_CLASSES, 4))
    crowd_of = {label: i for i, label in truth_labels.items() if i in crowds}
    pairs = []
    for i, label in truth_labels.items():
        for j, found_label in found_labels.items():
            a, b = truth == i, (found == j) & (truth != 0)
            iou = Fraction(int((a & b).sum()), int((a | b).sum()))
            if label == found_label and i not in crowds and iou > Fraction(1, 2):
                pairs.append((i, j))
                counts[label] += [float(iou), 1, 0, 0]
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    for i, label in truth_labels.items():
        if i not in crowds and all(i != matched for matched, _ in pairs):
            counts[label, 3] += 1
    for j, label in found_labels.items():
        pixels = truth[found == j]
        excused = (pixels == 0) | (pixels == crowd_of.get(label, 0))
        if all(j != matched for _, matched in pairs) and not excused.sum() > len(pixels) / 2:
            counts[label, 2] += 1
    return counts


def count_by_panopticapi(case: Case) -> np.ndarray:
    """COCO's own code."""
    found, found_labels, truth, truth_labels, crowds = case
    compute = importlib.import_module('panopticapi.evaluation').pq_compute_single_core
    with TemporaryDirectory() as folder:
        for name, ids in [('found.png', found), ('truth.png', truth)]:
            Image.fromarray(id2rgb(ids)).save(Path(folder) / name)
        listed = [
            {'id': i, 'category_id': label, 'iscrowd': int(i in crowds), 'area': int((truth == i).sum())}
            for i, label in truth_labels.items()
        ]
        true = {'image_id': 0, 'file_name': 'truth.png', 'segments_info': listed}
        listed = [{'id': j, 'category_id': label} for j, label in found_labels.items()]
        given = {'image_id': 0, 'file_name': 'found.png', 'segments_info': listed}
        categories = {label: {'id': label, 'isthing': 1} for label in range(NUM_CLASSES)}
        stat = compute(0, [(true, given)], folder, folder, categories)
    return np.array([[stat[c].iou, stat[c].tp, stat[c].fp, stat[c].fn] for c in range(NUM_CLASSES)])


ORACLES = [count_naively] + [count_by_panopticapi] * (find_spec('panopticapi') is not None)


@pytest.mark.parametrize('oracle', ORACLES)
def test_random_cases(oracle: Callable[[Case], np.ndarray]) -> None:
    seen = np.zeros(4)

    @given(cases())
    @settings(max_examples=300)
    def compare(case: Case) -> None:
        found, found_labels, truth, truth_labels, crowds = case
        counts = match_segments(found, found_labels, truth, truth_labels, NUM_CLASSES, crowds)
        np.testing.assert_allclose(counts, oracle(case), atol=1e-12)
        seen[:] += counts.sum(0)

    compare()
    assert (seen > 20).all()


# ---- ids as colours


def test_colours_of_ids() -> None:
    """26 + 2 x 256 + 1 x 65536 = 66074."""
    ids = np.array([[0, 255, 256], [65536, 66074, 256**3 - 1]])
    colours = [[[0, 0, 0], [255, 0, 0], [0, 1, 0]], [[0, 0, 1], [26, 2, 1], [255, 255, 255]]]
    assert id2rgb(ids).dtype == np.uint8
    assert id2rgb(ids).tolist() == colours
    assert rgb2id(np.array(colours, np.uint8)).tolist() == ids.tolist()


@given(st.lists(st.integers(0, 256**3 - 1), min_size=1, max_size=20))
def test_ids_survive_their_colours(ids: list[int]) -> None:
    assert rgb2id(id2rgb(np.array(ids))).tolist() == ids
