# Mask R-CNN on the generated shapes, trained from scratch with a small UniNet (uninet_shapes.json). The maps
# have strides 4, 8 and 16; the FPN adds 32.
_base_ = './_base_/detection.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='ZooBackbone',
        name='{{ fileDirname }}/uninet_shapes.json',
        out_indices=(1, 2, 3),
    ),
    neck=dict(in_channels=[48, 96, 160]),
)
