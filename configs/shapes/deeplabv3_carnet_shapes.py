# DeepLabV3 on the generated shapes, trained from scratch with a small network of full attention
# (carnet_shapes.json), from its map of stride 8.
_base_ = './_base_/segmentation.py'

model = dict(
    type='EncoderDecoder',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='ZooBackbone', name='{{ fileDirname }}/carnet_shapes.json', out_indices=(1,)),
    decode_head=dict(
        type='ASPPHead',
        in_channels=32,
        in_index=0,
        channels=64,
        dilations=(1, 3, 6, 9),
        dropout_ratio=0.1,
        num_classes=_base_.num_classes,
        norm_cfg=_base_.norm_cfg,
        align_corners=False,
        loss_decode=_base_.loss_decode,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
