# What every detector of ours shares: mmdet's usual runtime, and the backbones.

_base_ = 'mmdet::_base_/default_runtime.py'
custom_imports = dict(imports=['downstream.backbone'], allow_failed_imports=False)
