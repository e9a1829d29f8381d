# UperNet on the generated shapes, trained from scratch with a small TrioNet (trionet_shapes.json).
_base_ = './_base_/segmentation.py'

model = dict(
    type='EncoderDecoder',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='ZooBackbone', name='{{ fileDirname }}/trionet_shapes.json'),
    decode_head=dict(
        type='UPerHead',
        in_channels=[64, 128, 192, 256],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=64,
        dropout_ratio=0.1,
        num_classes=_base_.num_classes,
        norm_cfg=_base_.norm_cfg,
        align_corners=False,
        loss_decode=_base_.loss_decode,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
