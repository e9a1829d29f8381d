# Panoptic-DeepLab on the generated shapes with the UniNet that was found on digits, trained from scratch. Its
# last two maps have strides 4 and 8. All values are ours: for a few minutes on a CPU. The data is made by
# `searchzoo downstream shapes data/shapes`.
_base_ = ['mmdet::_base_/datasets/coco_panoptic.py', 'mmdet::_base_/default_runtime.py']
custom_imports = dict(
    imports=['downstream.backbone', 'downstream.panoptic_deeplab.mm'], allow_failed_imports=False
)

model = dict(
    type='PanopticDeepLab',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(type='ZooBackbone', name='uninet_digits', out_indices=(1, 2)),
    heads=dict(
        in_channels=[8, 24],
        atrous_rates=(1, 2, 4),
        semantic_low=(16,),
        instance_low=(16,),
        aspp_channels=64,
        semantic_channels=64,
        instance_channels=64,
    ),
    num_things=4,
    num_stuff=4,
    train_cfg=dict(targets=dict(sigma=4.0), losses=dict(hardest=1.0)),
    test_cfg=dict(stuff_area=64),
)

metainfo = dict(
    classes=('disc', 'square', 'triangle', 'cross', 'sky', 'grass', 'sand', 'water'),
    thing_classes=('disc', 'square', 'triangle', 'cross'),
    stuff_classes=('sky', 'grass', 'sand', 'water'),
    palette=[
        (220, 20, 60),
        (255, 160, 0),
        (160, 0, 220),
        (0, 0, 0),
        (140, 190, 255),
        (40, 140, 40),
        (220, 200, 120),
        (0, 70, 160),
    ],
)
data_root = 'data/shapes/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadPanopticMap'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='PackDetInputs',
        meta_keys=(
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
            'seg_map_path',
            'segments_info',
        ),
    ),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    batch_sampler=None,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/panoptic_train.json',
        data_prefix=dict(img='train/', seg='annotations/panoptic_train/'),
        metainfo=metainfo,
        filter_cfg=dict(filter_empty_gt=False, min_size=1),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/panoptic_val.json',
        data_prefix=dict(img='val/', seg='annotations/panoptic_val/'),
        metainfo=metainfo,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='PanopticQuality', classwise=True)
test_evaluator = val_evaluator
visualizer = dict(type='PanopticVisualizer')

max_iters = 1000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='ZooOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=4e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=max_iters // 20),
    dict(type='PolyLR', power=0.9, by_epoch=False, begin=max_iters // 20, end=max_iters),
]
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(by_epoch=False, interval=max_iters // 2),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
