# Cascade Mask R-CNN on COCO with S3-S, 12 epochs (arXiv 2111.14725, Sec. 4.4: Swin's settings).

_base_ = './cascade-mask-rcnn_s3-tiny_fpn_1x_coco.py'
published = dict(
    source='arXiv 2111.14725, Table 2',
    params=107.0,  # paper
    macs=855.0,  # paper
    box_ap=50.8,  # paper
    box_ap50=70.1,  # paper
    box_ap75=55.0,  # paper
    mask_ap=43.9,  # paper
    mask_ap50=67.5,  # paper
    mask_ap75=47.2,  # paper
)
model = dict(
    backbone=dict(
        name='s3_small',
        pretrained='hf-hub://timm/swin_s3_small_224.ms_in1k',  # paper: its weights on ImageNet-1k
        drop_path_rate=0.2,  # ours: Swin's code has no Swin-S for 12 epochs; this is its Swin-S's for 36
    )
)
