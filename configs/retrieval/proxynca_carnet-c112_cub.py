# Full-attention nets (arXiv 2111.07139) for zero-shot image retrieval on CUB-200-2011 (Sec. IV-F):
#
#   searchzoo downstream retrieve retrieval/proxynca_carnet-c112_cub --work-dir runs/cub-retrieval \
#       --cfg-options model.checkpoint=runs/carnet/carnet_c112_in1k.safetensors
#
# The folder data/CUB_200_2011 is that of the data set's archive; another one is given as
# train_dataloader.dataset.root=... test_dataloader.dataset.root=...
# The source of each value stands behind it; there is no official code. What the paper leaves open is marked
# "ours".
custom_imports = dict(imports=['downstream.retrieval'], allow_failed_imports=False)

# those of the searched operators
published = dict(source='arXiv 2111.07139, Table VI', recall={1: 68.4, 2: 78.5, 4: 86.0, 8: 91.6})

model = dict(
    type='ZooEmbedder',
    name='carnet_c112',  # its operators are a placeholder: the paper shows the searched ones as a picture
    num_classes=100,
    embed_dim=64,  # ours
    scale=9.0,  # ours
    # The paper does not say what the training starts from. The networks that Table VI compares with have
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
        split='all',  # of each class all images: those of CUB's train and of its test
        classes=(0, 100),  # paper, Sec. IV-F
        size=256,  # paper, Sec. IV-F
        crop=227,  # paper, Sec. IV-F
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
    dataset=dict(
        type='ZooImages',
        data='cub',
        root='data/CUB_200_2011',
        split='all',
        classes=(100, 200),  # paper, Sec. IV-F
        size=256,  # ours: as in training, cropped in the middle
        crop=227,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='collate_images'),
    batch_size=64,
    num_workers=8,
)
test_evaluator = dict(type='ZooRecall', ks=(1, 2, 4, 8))  # paper, Table VI

optim_wrapper = dict(
    type='AmpOptimWrapper',  # ours; without a GPU the Runner trains in float32
    dtype='bfloat16',
    optimizer=dict(type='Adam', lr=4e-3),  # paper, Sec. IV-F; it speaks of no weight decay
)
# ours: a cosine to 0, as in the paper's other trainings
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, eta_min=0.0, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=50)  # paper, Sec. IV-F
test_cfg = dict()  # the classes that have not been seen are looked at once, at the end

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='CheckpointHook', interval=10, max_keep_ckpts=1),
)
custom_hooks = [dict(type='WriteNetwork')]
randomness = dict(seed=0)  # ours
