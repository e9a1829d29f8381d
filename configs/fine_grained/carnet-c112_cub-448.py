# Full-attention nets (arXiv 2111.07139) fine-tuned on CUB-200-2011 (Sec. IV-E):
#
#   searchzoo downstream finetune fine_grained/carnet-c112_cub-448 --work-dir runs/cub \
#       --cfg-options model.checkpoint=runs/carnet/carnet_c112_in1k.safetensors
#
# The folder data/CUB_200_2011 is that of the data set's archive; another one is given as
# train_dataloader.dataset.root=... test_dataloader.dataset.root=...
# The source of each value stands behind it; there is no official code. What the paper leaves open is marked
# "ours".
custom_imports = dict(imports=['downstream.fine_grained'], allow_failed_imports=False)

published = dict(
    source='arXiv 2111.07139, Table V', params=3.82, top1=85.3
)  # those of the searched operators

model = dict(
    type='ZooClassifier',
    name='carnet_c112',  # its operators are a placeholder: the paper shows the searched ones as a picture
    num_classes=200,
    # The paper does not say what the training starts from. The networks that Table V compares with have
    # ImageNet weights. There are none of this one: give your own, of `searchzoo search train carnet_c112
    # train/carnet_imagenet.yaml`; without them it is trained from scratch.
    pretrained=False,
    checkpoint=None,
)

train_dataloader = dict(
    dataset=dict(
        type='ZooImages',
        data='cub',
        root='data/CUB_200_2011',
        split='train',
        size=448,  # paper, Sec. IV-E: resized, not cropped
        interpolation='bicubic',  # ours: as in the zoo's entries
        training=True,
        hflip=0.5,  # ours
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='collate_images'),
    batch_size=64,  # ours
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
)
test_dataloader = dict(
    dataset=dict(type='ZooImages', data='cub', root='data/CUB_200_2011', split='test', size=448),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='collate_images'),
    batch_size=64,
    num_workers=8,
)
test_evaluator = dict(type='ZooAccuracy')

optim_wrapper = dict(
    type='AmpOptimWrapper',  # ours; without a GPU the Runner trains in float32
    dtype='bfloat16',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=5e-4),  # paper, Sec. IV-E
)
# ours: a cosine to 0, as in the paper's other trainings
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, eta_min=0.0, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=200)  # paper, Sec. IV-E
test_cfg = dict()  # the test images are looked at once, at the end

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='CheckpointHook', interval=10, max_keep_ckpts=1),
)
custom_hooks = [dict(type='WriteNetwork')]
randomness = dict(seed=0)  # ours
