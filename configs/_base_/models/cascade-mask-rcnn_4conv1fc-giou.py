# Cascade Mask R-CNN with the box heads of Swin's code, with which S3's parameters are the published ones;
# the rest is mmdet's.

_base_ = 'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py'
model = dict(
    roi_head=dict(
        bbox_head=[  # Swin's code, all of it; the spreads are those of mmdet's three stages
            dict(
                type='ConvFCBBoxHead',
                num_shared_convs=4,
                num_shared_fcs=1,
                in_channels=256,
                conv_out_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=80,
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder',
                    target_means=[0.0, 0.0, 0.0, 0.0],
                    target_stds=[spread, spread, 2 * spread, 2 * spread],
                ),
                reg_class_agnostic=False,
                reg_decoded_bbox=True,
                norm_cfg=dict(type='SyncBN', requires_grad=True),  # batch norm where one process trains
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type='GIoULoss', loss_weight=10.0),
            )
            for spread in (0.1, 0.05, 0.033)
        ]
    )
)
