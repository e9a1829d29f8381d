# Mask R-CNN on COCO with UniNet-B3, 12 epochs (arXiv 2110.04035v1, Sec. 5.3), as for UniNet-B1. Sec. 5.3
# calls it UniNet-B4 once, Table 4 B3: its parameters are B3's.
#
#   searchzoo search train uninet_b3 train/uninet_imagenet_large.yaml --out runs/uninet_b3 data.root=PATH

_base_ = './mask-rcnn_uninet-b1_fpn_1x_coco.py'
published = dict(
    _delete_=True,
    source='arXiv 2110.04035v1, Table 4',
    shape=(800, 1280),  # ours: the size at which other papers count; this one prints no cost
    params=50.0,  # paper
    box_ap=45.6,  # paper
    mask_ap=41.6,  # paper
)
model = dict(
    backbone=dict(
        name='uninet_b3',
        pretrained='runs/uninet_b3/uninet_b3.safetensors',  # paper: trained on ImageNet-1k
        drop_path_rate=0.1,  # ours: as in its classification, and as Swin-T's of Swin's code for 12 epochs
    ),
    neck=dict(in_channels=[64, 96, 160, 320]),
)
