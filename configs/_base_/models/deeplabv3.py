# DeepLabV3 (arXiv 1706.05587) as mmseg has it. TrioNet's paper does not say whose it used: with these
# widths, at an output stride of 32, a ResNet-50 has the cost that it prints, 66.4 GFLOPs at 512x512 (here
# 66.5).

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
        type='ASPPHead',
        in_index=3,
        channels=512,  # mmseg
        dilations=(1, 12, 24, 36),  # mmseg, for an output stride of 8
        dropout_ratio=0.1,  # mmseg
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(**cross_entropy, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_index=2,
        channels=256,  # mmseg
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,  # mmseg
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(**cross_entropy, loss_weight=0.4),  # mmseg
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
