# Swin's 36 epochs on COCO.

_base_ = './adamw_1x.py'
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),  # Swin's code
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),  # Swin's code
]
train_cfg = dict(max_epochs=36)  # Swin's code
