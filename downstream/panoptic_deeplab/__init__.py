"""Panoptic-DeepLab (Cheng et al., arXiv 1911.10194) in plain PyTorch: heads, targets, losses, grouping.

A panoptic segmentation is predicted as three maps: a class for each pixel, a heat map of instances' centres,
and from each pixel of a thing the way to the centre of its instance. Classes are numbered with the things
first: 0 to num_things - 1 are things, the others stuff, 255 is unlabelled.
"""
