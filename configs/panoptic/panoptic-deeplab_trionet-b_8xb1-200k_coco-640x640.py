# Panoptic-DeepLab on COCO with TrioNet-B (arXiv 2111.07547, Sec. 4.4 and the appendix). "detectron2" is what
# the paper leaves open and detectron2's configuration of Panoptic-DeepLab for COCO has: its learning rate for
# batches of 64 is the paper's for batches of 8. Data lies where mmdet's instructions put it (data/coco). The
# network's weights were not published. Train them, or name others: model.backbone.pretrained=FILE.
#
#   searchzoo search train trionet_b train/trionet_imagenet.yaml --out runs/trionet_b data.root=/data/imagenet

_base_ = ['mmdet::_base_/datasets/coco_panoptic.py', 'mmdet::_base_/default_runtime.py']
custom_imports = dict(
    imports=['downstream.backbone', 'downstream.panoptic_deeplab.mm'], allow_failed_imports=False
)
published = dict(
    source='arXiv 2111.07547, Table 6',
    shape=(640, 640),  # paper, appendix
    macs=26.15,  # paper: 52.3 GFLOPs, of which it counts two a multiply-accumulate
    pq=31.8,  # paper
    pq_th=32.4,  # paper
    pq_st=30.8,  # paper
    note=(
        'The paper does not describe the decoders. With ordinary convolutions in the atrous pyramids, which '
        'is what is here, all needs 25.6 G multiply-accumulates; with separable ones it would be 20.6 G.'
    ),
)
side = 640  # paper, appendix
model = dict(
    type='PanopticDeepLab',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=side,  # detectron2: all images are padded to the size of the crop
    ),
    backbone=dict(
        type='ZooBackbone',  # paper, of its DeepLabV3: output stride 32, nothing dilated
        name='trionet_b',
        out_indices=(0, 1, 3),  # Panoptic-DeepLab: strides 4, 8 and the last
        pretrained='runs/trionet_b/trionet_b.safetensors',  # paper: trained on ImageNet
        img_size=side,  # ours: tables of positions for maps of the crop, resized when weights are loaded
        sync_bn=True,  # ours: there is one image a process
    ),
    heads=dict(
        in_channels=[128, 256, 1024],
        atrous_rates=(3, 6, 9),  # ours: Panoptic-DeepLab's 6, 12, 18 for an output stride of 16, halved
    ),
    num_things=80,  # COCO's
    num_stuff=53,  # COCO's
    train_cfg=dict(
        targets=dict(sigma=8.0, small_area=4096, small_weight=3.0),  # Panoptic-DeepLab
        losses=dict(hardest=1.0),  # detectron2; factors are Panoptic-DeepLab's
    ),
    test_cfg=dict(
        threshold=0.1,  # Panoptic-DeepLab
        top_k=200,  # Panoptic-DeepLab
        kernel_size=41,  # detectron2
        stuff_area=4096,  # detectron2
    ),
    sync_bn=True,  # ours: there is one image a process
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadPanopticMap'),
    # ours: detectron2's range, where the shorter side is 320 to 960, but the longer one at most the crop's
    dict(type='RandomResize', scale=(side, side), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(
        type='RandomCrop', crop_size=(side, side), recompute_bbox=True, allow_negative_crop=True
    ),  # paper, appendix: the size
    dict(type='RandomFlip', prob=0.5),  # detectron2
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(side, side), keep_ratio=True),  # detectron2
    dict(
        type='PackDetInputs',
        meta_keys=(
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
            'seg_map_path',
            'segments_info',
        ),
    ),
]
train_dataloader = dict(
    batch_size=1,  # paper, appendix: 8 in all; ours: on 8 GPUs
    sampler=dict(type='InfiniteSampler', shuffle=True),
    batch_sampler=None,
    dataset=dict(
        filter_cfg=dict(filter_empty_gt=False),  # ours: stuff is learned from images without things, too
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='PanopticQuality')
test_evaluator = val_evaluator
visualizer = dict(type='PanopticVisualizer')

max_iters = 200000  # paper, appendix
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=6.25e-5, weight_decay=0.0),  # paper, appendix
)
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=max_iters)  # Panoptic-DeepLab
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=20000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=10000, max_keep_ckpts=3))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(enable=False, base_batch_size=8)
