# COCO's 80 classes with boxes and masks as mmdet has them (data/coco), and the training images of Swin's
# code: half of them at a random scale, half cut from one at another.

_base_ = 'mmdet::_base_/datasets/coco_instance.py'
scales = [(480 + 32 * step, 1333) for step in range(11)]  # Swin's code: short side 480, 512, ..., 800
uncut = [(400, 1333), (500, 1333), (600, 1333)]  # Swin's code: before a part is cut out
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args={{_base_.backend_args}}),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),  # Swin's code
    dict(
        type='RandomChoice',  # Swin's code
        transforms=[
            [dict(type='RandomChoiceResize', scales=scales, keep_ratio=True)],
            [
                dict(type='RandomChoiceResize', scales=uncut, keep_ratio=True),
                dict(
                    type='RandomCrop',
                    crop_type='absolute_range',
                    crop_size=(384, 600),
                    allow_negative_crop=True,
                ),
                dict(type='RandomChoiceResize', scales=scales, keep_ratio=True),
            ],
        ],
    ),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
