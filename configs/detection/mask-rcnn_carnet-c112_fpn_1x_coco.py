# Mask R-CNN on COCO with the network of context auto-regression of 112 channels, 12 epochs. Its paper
# (arXiv 2111.07139) has no dense prediction: all here is ours, and that of mask-rcnn_uninet-b1 where no
# word is said, so that backbones compare. Weights were not published. Train them, or name others:
# model.backbone.pretrained=FILE.
#
#   searchzoo search train carnet_c112 train/carnet_imagenet.yaml --out runs/carnet_c112 data.root=PATH

_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_1x.py',
    '../_base_/detection_runtime.py',
]
published = dict(
    shape=(800, 1280),  # ours: the size at which other papers count
    note='The paper has no dense prediction.',
)
model = dict(
    backbone=dict(
        _delete_=True,
        type='ZooBackbone',
        name='carnet_c112',
        pretrained='runs/carnet_c112/carnet_c112.safetensors',
        norm_eval=True,  # ours: two images are too few for statistics; as mmdet has it of a ResNet
        with_cp=True,  # ours: attention over the whole map needs the memory
    ),
    neck=dict(in_channels=[112, 112, 224, 448]),
)
