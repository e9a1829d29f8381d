# Cascade Mask R-CNN on COCO with S3-B, 12 epochs (arXiv 2111.14725, Sec. 4.4: Swin's settings).

_base_ = './cascade-mask-rcnn_s3-tiny_fpn_1x_coco.py'
published = dict(
    source='arXiv 2111.14725, Table 2',
    params=128.0,  # paper
    macs=947.0,  # paper
    box_ap=50.8,  # paper
    box_ap50=69.7,  # paper
    box_ap75=55.2,  # paper
    mask_ap=43.7,  # paper
    mask_ap50=67.1,  # paper
    mask_ap75=47.0,  # paper
)
model = dict(
    backbone=dict(
        name='s3_base',
        pretrained='hf-hub://timm/swin_s3_base_224.ms_in1k',  # paper: its weights on ImageNet-1k
        drop_path_rate=0.3,  # ours: Swin's code has no Swin-B for 12 epochs; this is its Swin-B's for 36
    )
)
