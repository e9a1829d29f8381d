# UperNet on ADE20K with S3-S (arXiv 2111.14725, Sec. 4.4: Swin's settings). With --tta the test is the
# paper's "ms+flip".

_base_ = './upernet_s3-tiny_8xb2-160k_ade20k-512x512.py'
published = dict(
    source='arXiv 2111.14725, Table 3',
    params=81.0,  # paper; with the auxiliary head
    macs=1071.0,  # paper; without the auxiliary head
    miou=48.04,  # paper
    miou_tta=49.31,  # paper
)
model = dict(
    backbone=dict(
        name='s3_small',
        pretrained='hf-hub://timm/swin_s3_small_224.ms_in1k',  # paper: its weights on ImageNet-1k
    )
)
