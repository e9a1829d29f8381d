# Swin's 12 epochs on COCO, with 8 GPUs of 2 images: every value here is its code's, but those marked
# "ours".

optim_wrapper = dict(
    type='AmpOptimWrapper',  # its code trains with apex; on a CPU: optim_wrapper.type=OptimWrapper
    constructor='ZooOptimWrapperConstructor',  # tables of positions are not decayed
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),  # ours: Swin's code spares its own norms, this the heads' too
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=16)
