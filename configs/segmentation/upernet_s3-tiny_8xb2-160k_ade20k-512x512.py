# UperNet on ADE20K with S3-T (arXiv 2111.14725, Sec. 4.4: Swin's settings, which are those of ../_base_).
# With --tta the test is the paper's "ms+flip".

_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/segmentation_runtime.py',
]
published = dict(
    source='arXiv 2111.14725, Table 3',
    shape=(512, 2048),  # Swin's code; what the paper says is Swin's
    params=60.0,  # paper; with the auxiliary head
    macs=954.0,  # paper; without the auxiliary head
    miou=44.87,  # paper
    miou_tta=46.27,  # paper
)
model = dict(
    backbone=dict(
        type='ZooBackbone',
        name='s3_tiny',
        pretrained='hf-hub://timm/swin_s3_tiny_224.ms_in1k',  # paper: its weights on ImageNet-1k
        drop_path_rate=0.3,  # Swin's code
        out_norm=True,  # Swin's code; with it the parameters are the paper's
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768], num_classes=150),  # ADE20K's
    auxiliary_head=dict(in_channels=384, num_classes=150),  # ADE20K's
)
