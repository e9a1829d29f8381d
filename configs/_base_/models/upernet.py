# UperNet (arXiv 1807.10221) as Swin's code has it, and mmseg after it: every value here is Swin's code's.
# What depends on the backbone and the data (in_channels, num_classes, crop) is given where this file is
# inherited.

norm_cfg = dict(type='SyncBN', requires_grad=True)  # BN where one process trains
cross_entropy = dict(type='CrossEntropyLoss', use_sigmoid=False)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],  # ImageNet's
        std=[58.395, 57.12, 57.375],  # ImageNet's
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),  # of training; the crop
        # ours: mmseg cuts off what it predicts for its own padding, and cannot for a backbone's
        test_cfg=dict(size_divisor=32),
    ),
    decode_head=dict(
        type='UPerHead',
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(**cross_entropy, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(**cross_entropy, loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
