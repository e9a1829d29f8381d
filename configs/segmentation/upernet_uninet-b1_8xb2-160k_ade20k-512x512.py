# UperNet on ADE20K with UniNet-B1 (arXiv 2110.04035v1, Sec. 5.3). The paper gives no settings but that all
# its networks had the same; they are Swin's here, since its row for Swin-T is the one of Swin's paper. Its
# network's weights were not published. Train them, or name others: model.backbone.pretrained=FILE.
#
#   searchzoo search train uninet_b1 train/uninet_imagenet_small.yaml --out runs/uninet_b1 data.root=PATH

_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/segmentation_runtime.py',
]
published = dict(
    source='arXiv 2110.04035v1, Table 4',
    shape=(512, 2048),  # ours: the size at which other papers count; this one prints no cost
    params=38.0,  # paper
    miou=42.7,  # paper
    note=(
        'The published parameters contradict themselves: 28 M (Mask R-CNN) and 38 M (UperNet) leave 8 M and '
        '10 M for one and the same backbone, which has 14 M with its classifier.'
    ),
)
model = dict(
    backbone=dict(
        type='ZooBackbone',
        name='uninet_b1',
        pretrained='runs/uninet_b1/uninet_b1.safetensors',  # paper: trained on ImageNet-1k
        sync_bn=True,  # ours: few images on each GPU; as mmseg has it of a ResNet
        drop_path_rate=0.1,  # ours: a third of Swin-T's, for half its parameters
    ),
    decode_head=dict(in_channels=[56, 96, 128, 288], num_classes=150),  # ADE20K's
    auxiliary_head=dict(in_channels=128, num_classes=150),  # ADE20K's
)
