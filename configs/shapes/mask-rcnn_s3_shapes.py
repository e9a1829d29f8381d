# Mask R-CNN on the generated shapes, trained from scratch with a small S3 (s3_shapes.json), which has layer
# norms on its maps as Swin has them in detection. The maps have strides 4, 8 and 16; the FPN adds 32.
_base_ = './_base_/detection.py'

model = dict(
    backbone=dict(_delete_=True, type='ZooBackbone', name='{{ fileDirname }}/s3_shapes.json', out_norm=True),
    neck=dict(in_channels=[48, 96, 192]),
)
