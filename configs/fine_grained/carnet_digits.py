# Fine-tuning on scikit-learn's digits, seconds on a processor: carnet-c112_cub-448.py in small. The
# network has learnt digits before and gets a new classifier; model.pretrained=False starts from nothing.
#
#   searchzoo downstream finetune fine_grained/carnet_digits --work-dir runs/digits
custom_imports = dict(imports=['downstream.fine_grained'], allow_failed_imports=False)

model = dict(type='ZooClassifier', name='carnet_digits', num_classes=10, pretrained=True)

train_dataloader = dict(
    dataset=dict(type='ZooImages', data='digits', split='train', size=18, crop=16, mode='L', training=True),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='collate_images'),
    batch_size=32,
    drop_last=True,
)
test_dataloader = dict(
    dataset=dict(type='ZooImages', data='digits', split='test', size=18, crop=16, mode='L'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='collate_images'),
    batch_size=64,
)
test_evaluator = dict(type='ZooAccuracy')

optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, eta_min=0.0, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=2)
test_cfg = dict()

default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1))
custom_hooks = [dict(type='WriteNetwork')]
randomness = dict(seed=0)
