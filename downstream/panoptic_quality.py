"""Panoptic quality (Kirillov et al., arXiv 1801.00868, Sec. 4), counted as COCO's panopticapi counts it.

Per image :func:`match_segments` gives one row of counts a class; the sum of those over all images is what
:func:`panoptic_quality` turns into figures. Beside them, the colour code in which COCO stores segment ids.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from zoo.errors import ZooError

__all__ = [
    'FN',
    'FP',
    'IOU',
    'TP',
    'Quality',
    'class_quality',
    'id2rgb',
    'match_segments',
    'panoptic_quality',
    'rgb2id',
]

VOID = 0
"""The id of pixels that belong to no segment."""
IOU, TP, FP, FN = range(4)
"""The columns of counts: sum of the matches' IoU, true positives, false positives, false negatives."""


@dataclass(frozen=True)
class Quality:
    """Means over classes, in per cent; NaN if there is no class to take the mean of.

    Attributes:
        pq: Panoptic quality, of each class sq x rq.
        sq: Segmentation quality: the mean IoU of the matches; 0 for a class without matches.
        rq: Recognition quality: tp / (tp + fp / 2 + fn / 2).
        num_classes: How many classes occur or were found, and therefore count.
    """

    pq: float
    sq: float
    rq: float
    num_classes: int


def panoptic_quality(counts: np.ndarray, num_things: int) -> dict[str, Quality]:
    """The figures of a data set.

    Args:
        counts: Sum of what :func:`match_segments` gave, (num_classes, 4). The things are the first classes.
        num_things: How many classes are things.

    Returns:
        By ``'all'``, ``'things'`` and ``'stuff'``.
    """
    figures = class_quality(counts)
    parts = {'all': figures, 'things': figures[:num_things], 'stuff': figures[num_things:]}
    return {name: _mean(part[~np.isnan(part[:, 0])]) for name, part in parts.items()}


def _mean(figures: np.ndarray) -> Quality:
    pq, sq, rq = figures.mean(0).tolist() if len(figures) else [float('nan')] * 3
    return Quality(pq, sq, rq, len(figures))


def class_quality(counts: np.ndarray) -> np.ndarray:
    """PQ, SQ and RQ of each class, (num_classes, 3), in per cent; NaN where nothing occurs or was found."""
    iou, tp, fp, fn = counts.T
    total = tp + (fp + fn) / 2
    with np.errstate(invalid='ignore', divide='ignore'):
        sq = np.where(tp > 0, iou / tp, np.where(total > 0, 0.0, np.nan))
        return 100 * np.stack([iou / total, sq, tp / total], axis=1)


def match_segments(
    found: np.ndarray,
    found_labels: Mapping[int, int],
    truth: np.ndarray,
    truth_labels: Mapping[int, int],
    num_classes: int,
    crowds: Collection[int] = (),
) -> np.ndarray:
    """Compares the segments of one image with the true ones.

    Two segments of one class match if their IoU is above 0.5, where what the found one covers of void is
    left out of the union. A found segment without match is no error if more than half of it is void or crowd
    of its class; a crowd itself neither matches nor is missed. Of several crowds of one class the last one
    listed counts, as in panopticapi. Pixels of the truth whose id is not listed are neither void nor a
    segment; a true segment without pixels is missed.

    Args:
        found: Segment ids (H, W), 0 for void.
        found_labels: Class of each of these ids, 0 to num_classes - 1.
        truth: True segment ids (H, W), 0 for void.
        truth_labels: Class of each of the true segments, crowds too.
        num_classes: Number of classes.
        crowds: Ids of the true segments that are groups of things not told apart.

    Returns:
        Float64 (num_classes, 4): :data:`IOU`, :data:`TP`, :data:`FP`, :data:`FN` of each class.

    Raises:
        ZooError: The maps differ in size, a found id is not in map and list, or a class is out of range.
    """
    if found.shape != truth.shape or found.ndim != 2:
        raise ZooError(f'found: a map of {found.shape}, the truth has {truth.shape}: both (H, W) are needed.')
    truth_ids, truth_index = np.unique(truth, return_inverse=True)
    found_ids, found_index = np.unique(found, return_inverse=True)
    _check_ids(found_ids, found_labels)
    _check_labels('found_labels', found_labels, num_classes)
    _check_labels('truth_labels', truth_labels, num_classes)

    pairs = truth_index.ravel() * len(found_ids) + found_index.ravel()
    overlap = np.bincount(pairs, minlength=len(truth_ids) * len(found_ids)).reshape(len(truth_ids), -1)
    area = overlap.sum(0)
    void = overlap[truth_ids == VOID].sum(0)
    union = overlap.sum(1)[:, None] + area - overlap - void
    row = {int(segment): i for i, segment in enumerate(truth_ids)}

    counts = np.zeros((num_classes, 4))
    matched_truth, matched_found = set(), set()
    for i, j in np.argwhere(2 * overlap > union):
        segment, candidate = int(truth_ids[i]), int(found_ids[j])
        label = truth_labels.get(segment)
        if label is None or segment in crowds or label != found_labels.get(candidate):
            continue
        counts[label, [IOU, TP]] += overlap[i, j] / union[i, j], 1
        matched_truth.add(segment)
        matched_found.add(candidate)
    for segment, label in truth_labels.items():
        counts[label, FN] += segment not in matched_truth and segment not in crowds
    crowd_of = {label: segment for segment, label in truth_labels.items() if segment in crowds}
    for j, candidate in enumerate(found_ids.tolist()):
        if candidate == VOID or candidate in matched_found:
            continue
        label = found_labels[candidate]
        ignored = void[j]
        if crowd_of.get(label) in row:
            ignored += overlap[row[crowd_of[label]], j]
        counts[label, FP] += 2 * ignored <= area[j]
    return counts


def _check_ids(ids: np.ndarray, labels: Mapping[int, int]) -> None:
    drawn = set(ids.tolist()) - {VOID}
    if unlisted := drawn - labels.keys():
        raise ZooError(f'found_labels: segment {min(unlisted)} is in the map, but its class is not given.')
    if absent := labels.keys() - drawn:
        raise ZooError(f'found_labels: segment {min(absent)} has a class, but no pixel of the map.')


def _check_labels(name: str, labels: Mapping[int, int], num_classes: int) -> None:
    for segment, label in labels.items():
        if not 0 <= label < num_classes:
            raise ZooError(
                f'{name}: segment {segment} has the class {label}, 0 to {num_classes - 1} are allowed.'
            )


# ---- ids as colours


def rgb2id(pixels: np.ndarray) -> np.ndarray:
    """Segment ids, int64 (...), of colours, uint8 (..., 3): red + 256 green + 65536 blue."""
    return pixels.astype(np.int64) @ np.array([1, 256, 65536])


def id2rgb(ids: np.ndarray) -> np.ndarray:
    """Colours, uint8 (..., 3), of segment ids (...), each from 0 to 256^3 - 1."""
    return (ids[..., None] >> np.array([0, 8, 16]) & 255).astype(np.uint8)
