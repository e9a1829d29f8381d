"""Compound scaling: EfficientNet's rounding, limits, and how far UniNet's families follow from its B0."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from timm.models._efficientnet_builder import decode_arch_def, round_channels

from search.scaling import Scaling, scale_arch, scale_depth, scale_side, scale_width
from zoo.errors import ZooError
from zoo.registry import load_entry

DIVISORS = (8, 8, 16, 32, 32, 32)
"""Of UniNet's six stages, the first included: fitted, as the factors below are."""
FACTORS = st.decimals('0.05', '8', places=2).map(float)


@given(width=st.integers(1, 2000), factor=FACTORS, divisor=st.sampled_from([1, 8, 16, 32]))
def test_widths_are_the_nearest_multiples_but_not_10_percent_too_small(width, factor, divisor):
    product = width * factor
    multiples = [divisor * i for i in range(1, 3 + math.ceil(product / divisor))]
    nearest = min(multiples, key=lambda multiple: (abs(multiple - product), -multiple))
    found = scale_width(width, factor, divisor)
    assert found == (nearest if nearest >= 0.9 * product else nearest + divisor)


@given(depth=st.integers(1, 256), factor=FACTORS)
def test_depths_are_rounded_up_exactly(depth, factor):
    assert scale_depth(depth, factor) == math.ceil(depth * Fraction(str(factor)))


def test_rounding_is_that_of_efficientnet():
    """timm's own code, with the factors of EfficientNet-B0 to B7."""
    repeats, widths = (1, 2, 2, 3, 3, 4, 1), (32, 16, 24, 40, 80, 112, 192, 320, 1280)
    stages = [[f'ir_r{count}_k3_s1_e6_c16'] for count in repeats]
    for w, d in ((1, 1), (1, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8), (1.6, 2.2), (1.8, 2.6), (2, 3.1)):
        expected = [len(stage) for stage in decode_arch_def(stages, depth_multiplier=d)]
        assert [scale_depth(count, d) for count in repeats] == expected
        assert [scale_width(c, w) for c in widths] == [round_channels(c, w, round_limit=0.9) for c in widths]


def test_sides_are_whole_strides():
    assert [scale_side(160, factor, 32) for factor in (1, 1.2, 1.4, 1.6, 2.4, 2.8)] == [
        160, 192, 224, 256, 384, 448
    ]  # fmt: skip
    assert scale_side(160, 1.3, 32) == 224  # 208 lies in the middle
    assert scale_side(160, 1.29, 32) == 192
    with pytest.raises(ZooError, match=r'found 0\.05 x 160 pixels, rounded 0; 32 to 4096 can'):
        scale_side(160, 0.05, 32)
    with pytest.raises(ZooError, match=r'found 30\.0 x 160 pixels, rounded 4800; 32 to 4096 can'):
        scale_side(160, 30.0, 32)


def scaled(width: float, depth: float, resolution: float, divisors=DIVISORS):
    base = load_entry('uninet_b0')
    scaling = Scaling(width=width, depth=depth, resolution=resolution, divisors=divisors)
    return scale_arch(base.arch, base.input.size, scaling)


@pytest.mark.parametrize(
    ('name', 'factors'),
    [
        ('uninet_b1', (1.1, 1.0, 1.2)),
        ('uninet_b2', (1.1, 1.65, 1.4)),
        ('uninet_b3', (1.25, 1.9, 1.6)),
        ('uninet_b4', (1.6, 2.8, 1.6)),
        ('uninet_b5', (1.6, 2.8, 2.4)),
        ('uninet_eccv_b1', (1.0, 1.0, 1.4)),
        ('uninet_eccv_b2', (1.0, 1.5, 1.6)),
    ],
)
def test_uninets_scaled_from_b0_are_those_of_the_zoo(name, factors):
    """Those of the paper are themselves reconstructed with these factors: nothing published gives them."""
    entry = load_entry(name)
    assert scaled(*factors) == (entry.arch, entry.input.size)


@pytest.mark.parametrize(
    ('name', 'widths', 'depths'),
    [
        ('uninet_eccv_b3', False, False),
        ('uninet_eccv_b4', True, False),
        ('uninet_eccv_b5', False, True),
        ('uninet_eccv_b6', True, False),
    ],
)
def test_uninets_of_the_code_follow_from_no_factors(name, widths, depths):
    """Whether any one factor gives the widths of UniNet-B3 to B6 of the official code, and the depths."""
    base, entry = load_entry('uninet_b0').arch.stages, load_entry(name).arch.stages
    factors = [i / 1000 for i in range(1000, 4001)]
    assert widths == any(
        all(
            scale_width(a.channels, factor, divisor) == b.channels
            for a, b, divisor in zip(base, entry, DIVISORS, strict=True)
        )
        for factor in factors
    )
    assert depths == any(
        all(scale_depth(a.repeats, factor) == b.repeats for a, b in zip(base, entry, strict=True))
        for factor in factors
    )


def test_what_is_not_scaled_stays():
    base, (found, size) = load_entry('uninet_b0'), scaled(2.0, 3.0, 2.8)
    assert size == (3, 448, 448)
    for a, b in zip(base.arch.stages, found.stages, strict=True):
        same = 'operator', 'downsample', 'expansion'
        assert [getattr(a, key) for key in same] == [getattr(b, key) for key in same]
    frame = 'strides', 'stem_channels', 'stem_stride', 'head_channels'
    assert [getattr(base.arch, key) for key in frame] == [getattr(found, key) for key in frame]
    assert scaled(1.0, 1.0, 1.0) == (base.arch, base.input.size)


def test_one_divisor_is_for_all_stages():
    assert scaled(1.1, 1.0, 1.0, 16) == scaled(1.1, 1.0, 1.0, (16,) * 6)


def test_faults():
    with pytest.raises(ZooError, match='divisors: found 2 for 6 stages'):
        scaled(1.0, 1.0, 1.0, (8, 8))
    with pytest.raises(ZooError, match='family s3, only those of uninet'):
        scale_arch(load_entry('s3_tiny').arch, (3, 224, 224), Scaling())
    with pytest.raises(ZooError, match='repeats'):
        scaled(1.0, 64.0, 1.0)
    for fault in (
        {'width': 0.0},
        {'depth': -1.0},
        {'resolution': math.inf},
        {'divisors': 0},
        {'divisors': ()},
    ):
        with pytest.raises(ValidationError):
            Scaling(**fault)
