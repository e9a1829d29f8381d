# UperNet on ADE20K with the network of context auto-regression of 112 channels. Its paper (arXiv
# 2111.07139) has no dense prediction: all here is ours, and Swin's where no word is said, so that backbones
# compare. Weights were not published. Train them, or name others: model.backbone.pretrained=FILE.
#
#   searchzoo search train carnet_c112 train/carnet_imagenet.yaml --out runs/carnet_c112 data.root=PATH

_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/segmentation_runtime.py',
]
published = dict(
    shape=(512, 2048),  # ours: the size at which other papers count
    note='The paper has no dense prediction.',
)
model = dict(
    backbone=dict(
        type='ZooBackbone',
        name='carnet_c112',
        pretrained='runs/carnet_c112/carnet_c112.safetensors',
        sync_bn=True,  # ours: few images on each GPU; as mmseg has it of a ResNet
    ),
    decode_head=dict(in_channels=[112, 112, 224, 448], num_classes=150),  # ADE20K's
    auxiliary_head=dict(in_channels=224, num_classes=150),  # ADE20K's
)
