"""Counting: equal to arithmetic by hand, to fvcore and to the papers' official code."""

import pytest
import timm
import torch
import torch.nn.functional as F
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

import zoo
from zoo.profile import Profile, measure, profile

OFFICIAL = {
    's3_tiny': (28_328_674, 4.6233e9, None),
    's3_small': (49_737_298, 9.4047e9, None),
    's3_base': (71_125_762, 13.6550e9, None),
    's3_small_384': (50_100_898, 32.72e9, None),
    's3_base_384': (71_682_322, 45.72e9, None),
    'glit_tiny': (7_264_456, 1.4729e9, 1.33247e9),
    'glit_small': (24_600_616, 4.902e9, 4.3982e9),
    'glit_base': (96_146_152, 19.082e9, 16.9901e9),
    'uninet_b0': (11_450_864, 543_530_688, 555_380_288),
    'uninet_b1': (13_861_408, 0.9825e9, 1.0018e9),
    'uninet_b2': (22_774_240, 2.3245e9, 2.3714e9),
    'uninet_b3': (31_700_664, 4.1798e9, 4.2523e9),
    'uninet_b4': (73_594_912, 9.7661e9, 9.9022e9),
    'uninet_b5': (73_594_912, 23.1437e9, 23.4501e9),
    'uninet_eccv_b1': (11_450_864, 1.0946e9, 1.1179e9),
    'uninet_eccv_b2': (16_211_472, 2.1140e9, 2.1591e9),
    'uninet_eccv_b3': (24_020_184, 4.1856e9, 4.2585e9),
    'uninet_eccv_b4': (43_796_288, 9.2961e9, 9.4291e9),
    'uninet_eccv_b5': (72_883_072, 20.1903e9, 20.4233e9),
    'uninet_eccv_b6': (116_687_344, 50.5074e9, 51.0352e9),
    'trionet_a': (5_098_280, 996_101_888, 1.9992e9),
    'trionet_b': (9_404_968, 1_499_555_328, 3.0021e9),
    'trionet_c': (10_602_408, 1_996_573_696, 3.9992e9),
    'trionet_d': (10_896_552, 2_345_497_600, 4.6990e9),
    'carnet_c80': (1_772_370, 0.343e9, None),
    'carnet_c96': (2_546_938, 0.483e9, None),
    'carnet_c112': (4_095_776, 0.788e9, None),
}
"""Parameters, MACs and the paper's own count, of the official code where it exists."""


def test_every_bundled_entry_is_counted_here() -> None:
    searched = set(zoo.list_entries('*_digits'))
    assert OFFICIAL.keys() == set(zoo.list_entries()) - searched


@pytest.mark.parametrize('name', OFFICIAL)
def test_measured_is_what_the_network_executes(name: str) -> None:
    entry = zoo.load_entry(name)
    found = measure(entry)
    assert found == entry.measured
    params, macs, cost = OFFICIAL[name]
    assert found.params == params
    assert found.macs == pytest.approx(macs, rel=1e-3 if name.startswith('carnet') else 2e-4)
    if name == 'uninet_b0':
        assert (found.macs, found.cost) == (macs, cost)
    elif cost is not None:
        assert found.cost == pytest.approx(cost, rel=2e-4)
    else:
        assert found.cost is None


class Net(nn.Module):
    """One layer of each kind that is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 5, padding=2, groups=8)
        self.qkv = nn.Linear(8, 3 * 16)
        self.layer_norm = nn.LayerNorm(16)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 10)
        self.pretrained_cfg = {'input_size': (3, 16, 12)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.norm(self.conv(x)))
        batch, _, height, width = x.shape
        qkv = self.qkv(x.flatten(2).transpose(1, 2)).view(batch, -1, 3, 2, 8).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2)
        x = self.layer_norm(x).transpose(1, 2).view(batch, 16, height, width)
        return self.fc(self.pool(x).flatten(1))


def by_hand(height: int, width: int) -> tuple[int, int]:
    """MACs and fvcore's total of Net."""
    tokens = (height // 2) * (width // 2)
    macs = tokens * (8 * 3 * 9 + 8 * 25 + 8 * 48) + 2 * tokens * tokens * 16 + 160
    return macs, macs + 2 * 8 * tokens + 5 * 16 * tokens + 16 * tokens


@pytest.mark.parametrize('size', [(16, 12), (32, 8)])
def test_counts_are_those_by_hand(size: tuple[int, int]) -> None:
    net = Net()
    macs, fvcore = by_hand(*size)
    params = sum(parameter.numel() for parameter in net.parameters())
    assert profile(net, (3, *size)) == Profile(params, macs, fvcore)


def test_input_size_of_the_model_is_the_default() -> None:
    assert profile(Net()).macs == by_hand(16, 12)[0]


@pytest.mark.filterwarnings('ignore')
def test_counts_are_those_of_fvcore() -> None:
    with timm.layers.set_layer_config(exportable=True):  # fvcore knows no fused attention
        model = timm.create_model('vit_tiny_patch16_224', depth=2).eval()
    assert profile(model).fvcore == FlopCountAnalysis(model, torch.zeros(1, 3, 224, 224)).total()
    model = timm.create_model('resnet18').eval()
    found = FlopCountAnalysis(model, torch.zeros(1, 3, 64, 64)).by_operator()
    assert profile(model, (3, 64, 64)).macs == found['conv'] + found['linear']
    assert profile(model, (3, 64, 64)).fvcore == sum(found.values())


def test_model_is_not_changed() -> None:
    net = Net().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    profile(net)
    assert net.training
    assert all(parameter.device.type == 'cpu' and parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_half_precision_models_count_the_same() -> None:
    assert profile(Net().bfloat16()) == profile(Net())


def test_other_input_sizes() -> None:
    """The local part of S3's cost grows with the pixels; the classifier's stays."""
    entry = zoo.load_entry('s3_tiny')
    head = 768 * 1000
    assert (measure(entry, (3, 448, 448)).macs - head) / (entry.measured.macs - head) == pytest.approx(
        4, rel=0.01
    )
    assert measure(entry, (3, 448, 448)).params == entry.measured.params
