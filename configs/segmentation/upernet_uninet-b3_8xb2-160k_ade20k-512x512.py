# UperNet on ADE20K with UniNet-B3 (arXiv 2110.04035v1, Sec. 5.3), as for UniNet-B1.
#
#   searchzoo search train uninet_b3 train/uninet_imagenet_large.yaml --out runs/uninet_b3 data.root=PATH

_base_ = './upernet_uninet-b1_8xb2-160k_ade20k-512x512.py'
published = dict(
    _delete_=True,
    source='arXiv 2110.04035v1, Table 4',
    shape=(512, 2048),  # ours: the size at which other papers count; this one prints no cost
    params=59.0,  # paper
    miou=49.0,  # paper
)
model = dict(
    backbone=dict(
        name='uninet_b3',
        pretrained='runs/uninet_b3/uninet_b3.safetensors',  # paper: trained on ImageNet-1k
        drop_path_rate=0.3,  # ours: Swin-T's, which has as many parameters
    ),
    decode_head=dict(in_channels=[64, 96, 160, 320]),
    auxiliary_head=dict(in_channels=160),
)
