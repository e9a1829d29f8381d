# Mask R-CNN on COCO with UniNet-B1, 36 epochs (arXiv 2110.04035v1, Sec. 5.3). The paper's row for Swin-T is
# that of Swin's code for 36 epochs with several scales, so these are its settings. The network's weights were
# not published. Train them, or name others: model.backbone.pretrained=FILE.
#
#   searchzoo search train uninet_b1 train/uninet_imagenet_small.yaml --out runs/uninet_b1 data.root=PATH

_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/datasets/coco_multi-scale.py',
    '../_base_/schedules/adamw_3x.py',
    '../_base_/detection_runtime.py',
]
published = dict(
    source='arXiv 2110.04035v1, Table 4',
    shape=(800, 1280),  # ours: the size at which other papers count; this one prints no cost
    params=28.0,  # paper
    box_ap=44.4,  # paper
    mask_ap=40.1,  # paper
    note=(
        'The published parameters contradict themselves: 28 M (Mask R-CNN) and 38 M (UperNet) leave 8 M and '
        '10 M for one and the same backbone, which has 14 M with its classifier.'
    ),
)
model = dict(
    backbone=dict(
        _delete_=True,
        type='ZooBackbone',
        name='uninet_b1',
        pretrained='runs/uninet_b1/uninet_b1.safetensors',  # paper: trained on ImageNet-1k
        norm_eval=True,  # ours: two images are too few for statistics; as mmdet has it of a ResNet
        drop_path_rate=0.1,  # ours: half of Swin-T's, for half its parameters
    ),
    neck=dict(in_channels=[56, 96, 128, 288]),
)
