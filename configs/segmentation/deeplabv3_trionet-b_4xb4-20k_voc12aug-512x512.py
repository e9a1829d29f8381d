# DeepLabV3 on PASCAL VOC with TrioNet-B (arXiv 2111.07547, Sec. 4.4 and the appendix). "mmseg" is what the
# paper leaves open and mmseg's configuration for a ResNet-50 has. The network's weights were not published.
# Train them, or name others: model.backbone.pretrained=FILE.
#
#   searchzoo search train trionet_b train/trionet_imagenet.yaml --out runs/trionet_b data.root=PATH

_base_ = [
    '../_base_/models/deeplabv3.py',
    '../_base_/datasets/voc12_aug.py',
    '../_base_/schedules/sgd_20k.py',
    '../_base_/segmentation_runtime.py',
]
published = dict(
    source='arXiv 2111.07547, Table 6',
    shape=(512, 512),  # paper, appendix
    macs=14.8,  # paper: 29.6 GFLOPs, of which it counts two a multiply-accumulate
    miou=69.3,  # paper
    note='The paper says neither whether SBD was among its images, as here, nor what its heads are.',
)
model = dict(
    backbone=dict(
        type='ZooBackbone',  # paper: output stride 32, nothing dilated
        name='trionet_b',
        pretrained='runs/trionet_b/trionet_b.safetensors',  # paper: trained on ImageNet
        sync_bn=True,  # ours: mmseg, of a ResNet
        img_size=512,  # ours: tables of positions for the crop, resized when weights are loaded
    ),
    decode_head=dict(
        in_channels=1024,
        # ours: DeepLabV3's 6, 12, 18 for an output stride of 16, halved. mmseg's 12, 24, 36 are for one of 8:
        # two of them reach beyond the map, of 16x16.
        dilations=(1, 3, 6, 9),
        num_classes=21,  # PASCAL VOC's
    ),
    auxiliary_head=dict(in_channels=512, num_classes=21),  # PASCAL VOC's; that there is one: mmseg
)
