# ADE20K's 150 classes where mmseg's instructions put them (data/ade). Sizes, crops and ratios are Swin's
# code's, and mmseg's. With --tta a test averages over scales and flips, the papers' "ms+flip".

data_root = 'data/ade/ADEChallengeData2016'
crop_size = (512, 512)  # Swin's code
resize = dict(type='Resize', scale=(2048, 512), keep_ratio=True)  # Swin's code
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),  # the data set knows that its label 0 is none
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),  # Swin's code
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),  # Swin's code
    dict(type='RandomFlip', prob=0.5),  # Swin's code
    dict(type='PhotoMetricDistortion'),  # Swin's code
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    resize,
    dict(type='LoadAnnotations'),  # after the resizing: predictions are compared at the image's own size
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [  # Swin's code
                dict(type='Resize', scale=(int(2048 * ratio), int(512 * ratio)), keep_ratio=True)
                for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_dataloader = dict(
    batch_size=2,  # Swin's code: 16 on 8 GPUs
    num_workers=4,  # ours: no effect on the result
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='ADE20KDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,  # images have many sizes
    num_workers=4,  # ours: no effect on the result
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ADE20KDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
