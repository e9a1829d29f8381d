"""Max-pooling by maxima of shifted maps, beside PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from zoo.layers.pooling import MaxPool2d, max_pool


@given(
    size=st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 9)] * 2),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    seed=st.integers(0, 9),
)
def test_maxima_are_pytorchs(size: tuple[int, int, int, int], layout: torch.memory_format, seed: int) -> None:
    images = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    images[torch.rand(size) < 0.1] = -torch.inf
    x = images.contiguous(memory_format=layout)
    with torch.no_grad():
        found = max_pool(x, 1)
    assert torch.equal(found, F.max_pool2d(x, 3, 1, 1))
    assert found.stride() == x.stride()
    assert torch.equal(x, images)


def test_what_is_not_a_number_stays() -> None:
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 1, 2] = torch.nan
    with torch.no_grad():
        assert torch.equal(max_pool(x, 1).isnan(), F.max_pool2d(x, 3, 1, 1).isnan())


@pytest.mark.parametrize('stride', [1, 2])
def test_inference_and_training_agree(stride: int) -> None:
    pool = MaxPool2d(stride)
    x = torch.randn(2, 4, 7, 6, requires_grad=True)
    trained = pool(x)
    trained.sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        for run in (pool, torch.compile(pool, backend='eager'), torch.jit.script(pool)):
            assert torch.equal(run(x), trained)
        assert torch.equal(torch.func.vmap(pool)(x[:, None])[:, 0], trained)
