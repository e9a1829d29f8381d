# Cascade Mask R-CNN on COCO with S3-T, 12 epochs (arXiv 2111.14725, Sec. 4.4: Swin's settings, which are
# those of ../_base_).

_base_ = [
    '../_base_/models/cascade-mask-rcnn_4conv1fc-giou.py',
    '../_base_/datasets/coco_multi-scale.py',
    '../_base_/schedules/adamw_1x.py',
    '../_base_/detection_runtime.py',
]
published = dict(
    source='arXiv 2111.14725, Table 2',
    shape=(800, 1280),  # Swin's paper, whose rows the table repeats
    params=86.0,  # paper
    macs=748.0,  # paper
    box_ap=48.4,  # paper
    box_ap50=67.8,  # paper
    box_ap75=52.3,  # paper
    mask_ap=42.0,  # paper
    mask_ap50=64.8,  # paper
    mask_ap75=45.2,  # paper
)
model = dict(
    backbone=dict(
        _delete_=True,
        type='ZooBackbone',
        name='s3_tiny',
        pretrained='hf-hub://timm/swin_s3_tiny_224.ms_in1k',  # paper: its weights on ImageNet-1k
        drop_path_rate=0.0,  # Swin's code, of Swin-T for 12 epochs
        out_norm=True,  # Swin's code; with it the parameters are the paper's
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
