"""Panoptic quality as a metric of MMEngine, for mmdet's panoptic data set; panopticapi is not needed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.registry import METRICS

from downstream.panoptic_deeplab.grouping import list_segments
from downstream.panoptic_deeplab.loading import read_ids
from downstream.panoptic_quality import class_quality, match_segments, panoptic_quality
from zoo.errors import ZooError

__all__ = ['PanopticQuality']


@METRICS.register_module()
class PanopticQuality(BaseMetric):
    """PQ, SQ and RQ, in per cent, under the names that mmdet's ``CocoPanopticMetric`` gives them.

    Those of things and stuff end in ``_th`` and ``_st``. The truth is what ``CocoPanopticDataset`` says, so
    that no file has to be named again; its test pipeline must end in ::

        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor',
                                              'seg_map_path', 'segments_info'))

    Predictions are compared when they are made, and only counts are kept and collected from processes.

    Args:
        classwise: Print a table of all classes, too.
        backend_args: Of MMEngine's file backend, with which maps are read.
        collect_device: As for all metrics.
        prefix: As for all metrics.
    """

    default_prefix = 'coco_panoptic'

    def __init__(
        self,
        classwise: bool = False,
        backend_args: dict[str, Any] | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.classwise = classwise
        self.backend_args = backend_args

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Counts the matches of a batch.

        Args:
            data_batch: Not used.
            data_samples: With ``pred_panoptic_seg``, ``seg_map_path`` and ``segments_info``.

        Raises:
            ZooError: There is no truth, it is no panoptic map, or it does not fit the prediction.
        """
        self.results.extend(self._count(sample) for sample in data_samples)

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        """The figures of the data set.

        Args:
            results: Counts of each image, (num_classes, 4).
        """
        counts = np.sum(results, axis=0)
        qualities = panoptic_quality(counts, self._count_classes()[0])
        rows = [(name, q.pq, q.sq, q.rq) for name, q in qualities.items()]
        if self.classwise:
            names = self.dataset_meta['classes']
            rows += [(n, *f) for n, f in zip(names, class_quality(counts).tolist(), strict=True)]
        width = max(len(name) for name, *_ in rows)
        table = [f'{name:{width}} {pq:7.2f} {sq:7.2f} {rq:7.2f}' for name, pq, sq, rq in rows]
        print_log('\n'.join(['', f'{"":{width}}      PQ      SQ      RQ', *table]), logger='current')
        suffixes = {'all': '', 'things': '_th', 'stuff': '_st'}
        return {
            f'{figure.upper()}{suffixes[name]}': getattr(quality, figure)
            for name, quality in qualities.items()
            for figure in ('pq', 'sq', 'rq')
        }

    def _count(self, sample: dict[str, Any]) -> np.ndarray:
        num_things, num_classes = self._count_classes()
        for key in ('seg_map_path', 'segments_info'):
            if sample.get(key) is None:
                raise ZooError(
                    f"{sample.get('img_path', 'an image')}: has no {key}: the data set needs 'seg' in "
                    f'data_prefix, and PackDetInputs {key!r} in meta_keys.'
                )
        path, segments = sample['seg_map_path'], sample['segments_info']
        labels = {segment['id']: segment['category'] for segment in segments}
        things = {segment['id'] for segment in segments if segment['is_thing']}
        if wrong := sorted(labels[i] for i in things if labels[i] >= num_things):
            raise ZooError(
                f'{path}: label {wrong[0]} is a thing, those of things are 0 to {num_things - 1}: the '
                'categories of the annotation file must begin with the things.'
            )
        crowds = {i for i, label in labels.items() if label < num_things and i not in things}
        truth = read_ids(path, self.backend_args)
        found = torch.as_tensor(sample['pred_panoptic_seg']['sem_seg'])[0]
        if tuple(found.shape) != truth.shape:
            raise ZooError(
                f'{path}: the map is of {truth.shape[0]}x{truth.shape[1]}, the prediction for its image of '
                f'{found.shape[0]}x{found.shape[1]}.'
            )
        return match_segments(*list_segments(found, num_classes), truth, labels, num_classes, crowds)

    def _count_classes(self) -> tuple[int, int]:
        """Numbers of things and of all classes."""
        meta = self.dataset_meta or {}
        classes, things = (list(meta.get(key, ())) for key in ('classes', 'thing_classes'))
        if not classes or classes[: len(things)] != things:
            raise ZooError(
                f'metainfo: of the {len(classes)} classes the first must be the {len(things)} thing_classes.'
            )
        return len(things), len(classes)
