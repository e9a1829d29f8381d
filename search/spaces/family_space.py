"""What the engine needs to know of a family's search space."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from search.cost import CostModel, Factor
from search.sharing import Rule
from search.space import Genotype, Space, Value
from zoo.arch import Arch

__all__ = ['FamilySpace']


@dataclass(frozen=True)
class FamilySpace:
    """The space of a family's architectures, at one input size.

    Args:
        family: A key of ``zoo.models.FAMILIES``.
        space: The choices.
        input_size: (C, H, W) of the images. It decides which genotypes are the same network: a window larger
            than the map, say, is the same as one of the map's size.
        rules: How the tensors of a sub-network are parts of the largest one's.
        decode_values: The effective architecture of the values of all active choices.
        factors: The closed-form cost of (a subspace of) the space's networks with a number of classes.
    """

    family: str
    space: Space
    input_size: tuple[int, int, int]
    rules: tuple[Rule, ...]
    decode_values: Callable[[Mapping[str, Value]], Arch]
    factors: Callable[[Space, int], list[Factor]]

    def decode(self, genotype: Genotype) -> Arch:
        """The effective architecture of a genotype. Genotypes of equal architectures are the same network."""
        return self.decode_values(self.space.values(genotype))

    def cost_model(self, num_classes: int) -> CostModel:
        """Params and MACs of every candidate with a classifier of this many classes."""
        return CostModel(self.space, self.factors(self.space, num_classes))

    def restrict(self, allowed: Mapping[str, Value | Sequence[Value]]) -> 'FamilySpace':
        """The subspace in which the named choices take only the given values (see :meth:`Space.restrict`)."""
        return replace(self, space=self.space.restrict(allowed))
