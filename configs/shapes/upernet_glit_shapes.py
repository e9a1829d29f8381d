# UperNet on the generated shapes, trained from scratch with a small GLiT (glit_shapes.json). mmseg's neck
# makes four scales of its one, which has stride 8: 4 to 32, from the outputs at the quarters of its depth.
_base_ = './_base_/segmentation.py'

model = dict(
    type='EncoderDecoder',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='ZooBackbone', name='{{ fileDirname }}/glit_shapes.json', out_indices=(1, 3, 5, 7)),
    neck=dict(type='Feature2Pyramid', embed_dim=64, rescales=[2, 1, 0.5, 0.25], norm_cfg=_base_.norm_cfg),
    decode_head=dict(
        type='UPerHead',
        in_channels=[64, 64, 64, 64],
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
