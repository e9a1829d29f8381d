"""Searching a small network for a large one (Zhou et al., arXiv 2111.07139, Sec. IV-B1, IV-D and IV-G3).

The paper searches with 16 initial channels and 5 stages on images of 32 x 32, and trains what it finds with
up to 112, with a stem for larger images, or with 8 stages: stages 1, 3 and 5 of the 5 are then repeated.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field, JsonValue

from search.space import Genotype, Space
from search.spaces import FamilySpace, load_space
from zoo.arch import Dim, Part
from zoo.entry import Input
from zoo.errors import ZooError

__all__ = ['Frame', 'deepen', 'searched_space']

REPEATED = {
    (5, 5): (0, 1, 2, 3, 4),
    (8, 8): (0, 1, 2, 3, 4, 5, 6, 7),
    (5, 8): (0, 0, 1, 2, 2, 3, 4, 4),
}
"""Which stage of the searched network each stage of the result repeats, by their numbers of stages."""


class Frame(Part):
    """The sizes of the network that is searched, where they are not those of the result."""

    channels: Dim = 16
    stages: Literal[5, 8] = Field(5, description='5, and 8 in the result: stages 1, 3 and 5 are repeated')
    stem: Literal['conv'] | None = None
    input: Input | None = Field(None, description="null: the result's")


def searched_space(
    declared: JsonValue, result: FamilySpace, frame: Frame | None, size: tuple[int, int, int]
) -> FamilySpace:
    """The space of the networks that are searched: those of the result with the sizes of the frame.

    Args:
        declared: The space of the result, as a config declares it.
        result: That space, restricted as the config says.
        frame: None for the sizes of the result.
        size: (C, H, W) of the images.

    Raises:
        ZooError: The result is no full-attention net, or has stages that repeat no searched one.
    """
    if result.family != 'carnet':
        raise ZooError(
            f'space: found family {result.family}, method differentiable needs carnet, whose layers each '
            'choose a block of their own.'
        )
    if frame is None:
        return result
    searched: dict[str, Any] = dict(declared) if isinstance(declared, Mapping) else {}
    stages = searched.get('stages', [{}] * 5)
    repeated = REPEATED.get((frame.stages, len(stages)))
    if repeated is None:
        raise ZooError(
            f'search.frame.stages: found {frame.stages}, at most the {len(stages)} of the space are allowed.'
        )
    searched |= {
        'family': 'carnet',
        'channels': frame.channels,
        'stem': frame.stem,
        'stages': [stages[repeated.index(i)] for i in range(frame.stages)],
    }
    space = load_space(searched, size)
    allowed = {choice.name: choice.values for choice in result.space.choices}
    own = {choice.name: allowed[_move(choice.name, repeated.index)] for choice in space.space.choices}
    for name, values in allowed.items():
        source = _move(name, repeated.__getitem__)
        if (needed := own.get(source, ())) != values:
            raise ZooError(
                f'space: found candidates {", ".join(map(str, values))} of {name}, those of the searched '
                f'{source} are needed: {", ".join(map(str, needed)) or "none"}.'
            )
    return space.restrict(own)


def deepen(genotype: Genotype, searched: Space, result: Space) -> Genotype:
    """The result that repeats the stages of a searched network.

    Args:
        genotype: In the searched space.
        searched: That space.
        result: The space of the result, with as many stages or more.
    """
    values = searched.values(genotype)
    repeated = REPEATED[_num_stages(searched), _num_stages(result)]
    return tuple(choice.index(values[_move(choice.name, repeated.__getitem__)]) for choice in result.choices)


def _move(name: str, stage_of: Callable[[int], int]) -> str:
    """The choice of the same layer of another stage; stages are counted from 1 in names only."""
    stage, rest = name.split('.', 1)
    return f'stage{stage_of(int(stage.removeprefix("stage")) - 1) + 1}.{rest}'


def _num_stages(space: Space) -> int:
    return len({choice.name.split('.', 1)[0] for choice in space.choices})
