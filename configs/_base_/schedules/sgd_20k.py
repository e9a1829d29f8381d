# TrioNet's 20000 iterations on PASCAL VOC, which are mmseg's: so is what the paper leaves open.

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='ZooOptimWrapperConstructor',  # ours: tables of positions are not decayed
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4),  # paper, appendix
)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=1e-4, by_epoch=False, begin=0, end=20000)]  # mmseg
train_cfg = dict(type='IterBasedTrainLoop', max_iters=20000, val_interval=2000)  # paper, appendix
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2000),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
