# UperNet on ADE20K with GLiT-Tiny. Its paper (ICCV 2021) has no dense prediction: all here is ours, and
# Swin's where no word is said, so that backbones compare. The authors' weights are downloaded by hand:
#
#   searchzoo zoo info glit_tiny    # says where, and how they are converted: to glit_tiny.safetensors
#
# They, or others: model.backbone.pretrained=FILE.

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
        name='glit_tiny',
        pretrained='glit_tiny.safetensors',
        sync_bn=True,  # ours: few images on each GPU; as mmseg has it of a ResNet
        out_indices=(2, 5, 8, 11),  # ours: the ends of the quarters of its depth, as mmseg has it of BEiT
        img_size=512,  # ours: the position embedding for the crop, resized once, when weights are loaded
        out_norm=True,  # ours: the residual stream has no norm, and grows with depth
        drop_path_rate=0.1,  # ours: as in its classification
    ),
    # ours: one scale becomes four as in mmseg's BEiT
    neck=dict(
        type='Feature2Pyramid',
        embed_dim=192,
        rescales=[4, 2, 1, 0.5],
        norm_cfg=dict(type='SyncBN', requires_grad=True),
    ),
    decode_head=dict(in_channels=[192, 192, 192, 192], num_classes=150),  # ADE20K's
    auxiliary_head=dict(in_channels=192, num_classes=150),  # ADE20K's
)
