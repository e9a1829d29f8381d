"""What is made of a table is kept for a size, until the table changes or is trained."""

import copy
import pickle

import torch
from torch import Tensor, nn

from zoo.layers.table_cache import MOST, TableCache


class Maker:
    def __init__(self, cache: TableCache, table: nn.Parameter):
        self.cache, self.table, self.count = cache, table, 0

    def __call__(self, size: int) -> Tensor:
        def make() -> Tensor:
            self.count += 1
            return self.table * size

        return self.cache.get(self.table, size, make)


def maker() -> Maker:
    cache = TableCache()
    cache.on = True
    return Maker(cache, nn.Parameter(torch.ones(3)))


@torch.no_grad()
def test_kept_by_size_until_the_table_changes() -> None:
    made = maker()
    for _ in range(2):
        assert made(2).tolist() == [2, 2, 2]
        assert made(3).tolist() == [3, 3, 3]
    assert made.count == 2
    made.table.mul_(2)
    assert made(2).tolist() == [4, 4, 4]
    made.table.data = torch.zeros(3)
    made.cache.clear()
    assert made(2).tolist() == [0, 0, 0]


@torch.no_grad()
def test_nothing_is_kept_before_it_is_on() -> None:
    made = maker()
    made.cache.on = False
    made(2)
    made.table.data = torch.zeros(3)
    assert made(2).tolist() == [0, 0, 0]


@torch.no_grad()
def test_only_the_last_sizes_are_kept() -> None:
    made = maker()
    for size in range(MOST + 1):
        made(size)
    assert len(made.cache.made) == MOST
    made(MOST)
    assert made.count == MOST + 1
    made(0)
    assert made.count == MOST + 2


def test_what_is_trained_is_made_anew_each_time() -> None:
    made = maker()
    for _ in range(2):
        made(2).sum().backward()
    assert made.count == 2
    assert made.table.grad is not None
    assert made.table.grad.tolist() == [4, 4, 4]
    made.table.requires_grad = False
    made(2)
    made(2)
    assert made.count == 3


def test_what_inference_mode_has_made_is_not_given_to_autograd() -> None:
    made = maker()
    made.table.requires_grad = False
    with torch.inference_mode():
        made(2)
    weight = torch.ones(3, requires_grad=True)
    (weight * made(2)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [2, 2, 2]


@torch.no_grad()
def test_no_more_memory_is_taken_than_allowed() -> None:
    made = maker()
    made.cache.most_bytes = 30
    for size in (1, 2, 3):  # 12 bytes each
        made(size)
        assert len(made.cache.made) == min(size, 2)
    made(2)
    assert made.count == 3
    made.cache.most_bytes = 11
    for count in (4, 5):
        assert made(4).tolist() == [4, 4, 4]
        assert (made.count, made.cache.made) == (count, {})


@torch.no_grad()
def test_another_type_of_the_table_is_noticed() -> None:
    made = maker()
    made(2)
    made.table.data = made.table.data.double()
    assert made(2).dtype == torch.float64


@torch.no_grad()
def test_copies_are_empty() -> None:
    made = maker()
    made(2)
    for other in (copy.deepcopy(made.cache), pickle.loads(pickle.dumps(made.cache))):
        assert (other.on, other.made) == (True, {})
    assert made.cache.made
