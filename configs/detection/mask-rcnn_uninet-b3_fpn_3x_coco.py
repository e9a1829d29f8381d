# Mask R-CNN on COCO with UniNet-B3, 36 epochs (arXiv 2110.04035v1, Sec. 5.3), as for UniNet-B1. Sec. 5.3
# calls it UniNet-B4 once, Table 4 B3: its parameters are B3's.
#
#   searchzoo search train uninet_b3 train/uninet_imagenet_large.yaml --out runs/uninet_b3 data.root=PATH

_base_ = './mask-rcnn_uninet-b1_fpn_3x_coco.py'
published = dict(
    _delete_=True,
    source='arXiv 2110.04035v1, Table 4',
    shape=(800, 1280),  # ours: the size at which other papers count; this one prints no cost
    params=50.0,  # paper
    box_ap=47.9,  # paper
    mask_ap=43.3,  # paper
)
model = dict(
    backbone=dict(
        name='uninet_b3',
        pretrained='runs/uninet_b3/uninet_b3.safetensors',  # paper: trained on ImageNet-1k
        drop_path_rate=0.2,  # ours: Swin-T's of Swin's code for 36 epochs, which has as many parameters
    ),
    neck=dict(in_channels=[64, 96, 160, 320]),
)
