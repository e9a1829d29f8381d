# Cascade Mask R-CNN on COCO with S3-S, 36 epochs (arXiv 2111.14725, Sec. 4.4: Swin's settings).

_base_ = './cascade-mask-rcnn_s3-tiny_fpn_3x_coco.py'
published = dict(
    source='arXiv 2111.14725, Table 2',
    params=107.0,  # paper
    macs=855.0,  # paper
    box_ap=52.6,  # paper
    box_ap50=71.5,  # paper
    box_ap75=56.9,  # paper
    mask_ap=45.5,  # paper
    mask_ap50=68.8,  # paper
    mask_ap75=49.4,  # paper
)
model = dict(
    backbone=dict(
        name='s3_small',
        pretrained='hf-hub://timm/swin_s3_small_224.ms_in1k',  # paper: its weights on ImageNet-1k
        drop_path_rate=0.2,  # Swin's code, of Swin-S for 36 epochs
    )
)
