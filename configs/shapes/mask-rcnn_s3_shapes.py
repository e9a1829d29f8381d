# Mask R-CNN on the generated shapes, trained from scratch with a small S3 (s3_shapes.json), whose maps have
# strides 4, 8 and 16; the FPN adds 32. Unlike the others it reaches no useful score in minutes: from random
# weights its heads learned next to nothing in 1600 iterations. It shows how such a detector is set up.
_base_ = './_base_/detection.py'

model = dict(
    backbone=dict(_delete_=True, type='ZooBackbone', name='{{ fileDirname }}/s3_shapes.json', out_norm=True),
    neck=dict(in_channels=[48, 96, 192]),
)
