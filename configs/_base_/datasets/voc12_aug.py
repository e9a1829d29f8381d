# PASCAL VOC 2012's 21 classes with the annotations of SBD ("aug"), where mmseg's instructions put them
# (data/VOCdevkit/VOC2012). Ratios are mmseg's. With --tta a test averages over scales and flips.

data_root = 'data/VOCdevkit/VOC2012'
crop_size = (512, 512)  # TrioNet's paper, appendix
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),  # mmseg
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),  # mmseg
    dict(type='RandomFlip', prob=0.5),  # mmseg
    dict(type='PhotoMetricDistortion'),  # mmseg
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),  # mmseg
    dict(type='LoadAnnotations'),  # after the resizing: predictions are compared at the image's own size
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [  # mmseg
                dict(type='Resize', scale=(int(2048 * ratio), int(512 * ratio)), keep_ratio=True)
                for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
voc = dict(
    type='PascalVOCDataset',
    data_root=data_root,
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
)
train_dataloader = dict(
    batch_size=4,  # TrioNet's paper, appendix: 16; 4 GPUs as in mmseg
    num_workers=4,  # ours: no effect on the result
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='ConcatDataset',
        datasets=[
            dict(**voc, ann_file='ImageSets/Segmentation/train.txt', pipeline=train_pipeline),
            dict(
                type='PascalVOCDataset',
                data_root=data_root,
                data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassAug'),
                ann_file='ImageSets/Segmentation/aug.txt',
                pipeline=train_pipeline,
            ),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,  # images have many sizes
    num_workers=4,  # ours: no effect on the result
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**voc, ann_file='ImageSets/Segmentation/val.txt', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
