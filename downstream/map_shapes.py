"""Label maps of images that are one pixel high or wide."""

from typing import Any

from mmcv.transforms import BaseTransform

__all__ = ['KeepMapShape', 'keep_map_shapes']


class KeepMapShape(BaseTransform):
    """Gives a label map back the dimensions of size one that mmseg's ``LoadAnnotations`` takes away."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Changes ``gt_seg_map``, if it is there, to (H, W) of ``img``."""
        found = results.get('gt_seg_map')
        if found is not None and found.ndim < 2:
            results['gt_seg_map'] = found.reshape(results['img'].shape[:2])
        return results


def keep_map_shapes(dataset: Any) -> None:
    """Puts the above behind every ``LoadAnnotations`` of a data set, and of those inside of it."""
    for inner in (getattr(dataset, 'dataset', None), *getattr(dataset, 'datasets', ())):
        if inner is not None:
            keep_map_shapes(inner)
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
    for index in reversed(range(len(steps))):
        if type(steps[index]).__name__ == 'LoadAnnotations':
            steps.insert(index + 1, KeepMapShape())
