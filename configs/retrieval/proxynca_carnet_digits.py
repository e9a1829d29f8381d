# Zero-shot retrieval of scikit-learn's digits, half a minute on a processor: carnet-c112_cub.py in small. The
# network learns from 0 to 4 and finds 5 to 9. It starts from nothing: the entry's weights have seen all ten.
#
#   searchzoo downstream retrieve retrieval/proxynca_carnet_digits --work-dir runs/digits-retrieval
custom_imports = dict(imports=['downstream.retrieval'], allow_failed_imports=False)

model = dict(type='ZooEmbedder', name='carnet_digits', num_classes=5, embed_dim=64, scale=9.0)

train_dataloader = dict(
    dataset=dict(
        type='ZooImages',
        data='digits',
        split='train',
        classes=(0, 5),
        size=18,
        crop=16,
        mode='L',
        training=True,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='collate_images'),
    batch_size=32,
    drop_last=True,
)
test_dataloader = dict(
    dataset=dict(type='ZooImages', data='digits', split='test', classes=(5, 10), size=18, crop=16, mode='L'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='collate_images'),
    batch_size=64,
)
test_evaluator = dict(type='ZooRecall', ks=(1, 2, 4, 8))

optim_wrapper = dict(optimizer=dict(type='Adam', lr=1e-3))
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, eta_min=0.0, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=10)
test_cfg = dict()

default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1))
custom_hooks = [dict(type='WriteNetwork')]
randomness = dict(seed=0)
