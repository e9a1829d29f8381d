# Mask R-CNN on COCO with GLiT-Tiny, 12 epochs. Its paper (ICCV 2021) has no dense prediction: all here is
# ours, and that of mask-rcnn_uninet-b1 where no word is said, so that backbones compare. The authors'
# weights are downloaded by hand:
#
#   searchzoo zoo info glit_tiny    # says where, and how they are converted: to glit_tiny.safetensors
#
# They, or others: model.backbone.pretrained=FILE. mmsegmentation, whose pyramid is used, must be installed
# too.

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
        name='glit_tiny',
        pretrained='glit_tiny.safetensors',
        norm_eval=True,  # ours: two images are too few for statistics; as mmdet has it of a ResNet
        out_indices=(2, 5, 8, 11),  # ours: the ends of the quarters of its depth
        # ours: no img_size, since images have many: in training the position embedding is resized at any rate
        out_norm=True,  # ours: the residual stream has no norm, and grows with depth
        drop_path_rate=0.1,  # ours: as in its classification
        with_cp=True,  # ours: attention over the whole map needs the memory
    ),
    # ours: one scale becomes four, by mmseg's pyramid for BEiT, and these are the input of an ordinary FPN
    neck=[
        dict(
            type='mmseg.Feature2Pyramid',
            embed_dim=192,
            rescales=[4, 2, 1, 0.5],
            norm_cfg=dict(type='SyncBN', requires_grad=True),
        ),
        dict(type='FPN', in_channels=[192, 192, 192, 192], out_channels=256, num_outs=5),
    ],
)
