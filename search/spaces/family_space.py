"""What the engine needs to know of a family's search space."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from search.cost import CostModel, Factor
from search.sharing import Rule
from search.space import Genotype, Space, Value
from zoo.arch import Arch, Part
from zoo.entry import describe_faults
from zoo.errors import ZooError

__all__ = ['FamilySpace', 'Options', 'check_covering', 'read_declaration']

T = TypeVar('T')
Options = Annotated[tuple[T, ...], Field(min_length=1, max_length=256)]
"""What a declaration lists for a choice."""
D = TypeVar('D', bound=Part)


@dataclass(frozen=True)
class FamilySpace:
    """The space of a family's architectures, at one input size.

    Args:
        family: A key of ``zoo.models.FAMILIES``.
        space: The choices.
        input_size: (C, H, W) of the images. It decides which genotypes are the same network: a window larger
            than the map, say, is the same as one of the map's size.
        rules: How the tensors of a sub-network of a given architecture are parts of the stored ones.
        covering: Architectures that together have every tensor to be stored, at its largest; where two of
            them have the same tensor, its initial value is the first one's.
        decode_values: The effective architecture of the values of all active choices.
        factors: The closed-form cost of (a subspace of) the space's networks with a number of classes.
        modules: What is timed of a network to predict its latency: disjoint submodules by their paths, each
            with the choices on which its latency depends. A network without a module spends no time in it.
            Choices that a restricted space has no more are those that are never active.
        paper_size: The paper's own count of its space, where it counts something else than architectures.
        first_level: Where a search can have two levels: the choices of (a subspace of) the space that the
            second one decides, and the values at which the first one fixes them (GLiT, Sec. 3.3).
        declaration: Where a search can move the space: the whole space as it is declared, in full, with the
            values of the sizes of each stage (S3, Eq. 6). A size of stage i is the choice
            ``stage<i>.<size>``, or one ``stage<i>.block<j>.<size>`` for each block.
    """

    family: str
    space: Space
    input_size: tuple[int, int, int]
    rules: Callable[[Arch], Sequence[Rule]]
    covering: Callable[[Space], Sequence[Genotype]]
    decode_values: Callable[[Mapping[str, Value]], Arch]
    factors: Callable[[Space, int], list[Factor]]
    modules: Mapping[str, tuple[str, ...]]
    paper_size: int | None = None
    first_level: Callable[[Space], Mapping[str, Value]] | None = None
    declaration: Mapping[str, Any] | None = None

    def decode(self, genotype: Genotype) -> Arch:
        """The effective architecture of a genotype. Genotypes of equal architectures are the same network."""
        return self.decode_values(self.space.values(genotype))

    def cost_model(self, num_classes: int) -> CostModel:
        """Params and MACs of every candidate with a classifier of this many classes."""
        return CostModel(self.space, self.factors(self.space, num_classes))

    def settle(self, rng: Random, hierarchical: bool = True) -> 'FamilySpace':
        """The subspace in which every choice among names is decided by a draw (see :meth:`Space.settle`)."""
        return replace(self, space=self.space.settle(rng, hierarchical))

    def restrict(self, allowed: Mapping[str, Value | Sequence[Value]]) -> 'FamilySpace':
        """The subspace in which the named choices take only the given values (see :meth:`Space.restrict`)."""
        return replace(self, space=self.space.restrict(allowed))


def read_declaration(cls: type[D], data: Mapping[str, Any]) -> D:
    """A family's declaration of a space, checked.

    Raises:
        ZooError: With one line for each fault.
    """
    try:
        return cls.model_validate_json(json.dumps(data))
    except (ValidationError, TypeError, ValueError, RecursionError) as error:
        raise ZooError('\n'.join(describe_faults(error, 'space', data, cls))) from None


def check_covering(family_space: FamilySpace) -> None:
    """Refuses a space whose largest architectures are not valid ones.

    Raises:
        ZooError: What the family's Arch refuses.
    """
    try:
        for genotype in family_space.covering(family_space.space):
            family_space.decode(genotype)
    except ValidationError as error:
        raise ZooError('\n'.join(describe_faults(error, 'space: the largest architecture'))) from None
