"""Accuracy and cost in one number, as in MnasNet (arXiv 1807.11626) and UniNet (arXiv 2110.04035v1)."""

import math
from typing import Annotated, Literal

from pydantic import Field

from zoo.arch import Part
from zoo.errors import ZooError

__all__ = ['Reward']


class Reward(Part):
    """``accuracy * (cost / target) ** alpha``: the accuracy itself for a network that costs the target.

    UniNet (Sec. 3.5) prints ``target / cost``, with the same alpha of -0.07. That is a slip: of two equally
    accurate networks the larger one would earn more. MnasNet, whose formula it takes over, has it this way
    round.
    """

    target: Annotated[float, Field(ge=1, le=1e18, description="in the cost's unit; UniNet: 550e6 FLOPs")]
    alpha: Annotated[float, Field(ge=-10, le=0, description='0: the cost does not matter')] = -0.07
    cost: Literal['macs', 'fvcore'] = Field(
        'macs',
        description="multiply-accumulates, or what UniNet's papers call FLOPs: fvcore's count, with norms "
        'and poolings, which is about 2 % larger',
    )

    def __call__(self, accuracy: float, cost: float) -> float:
        """The reward of a network.

        Args:
            accuracy: Zero or more, in any unit; NaN gives NaN.
            cost: More than zero, in the target's unit.

        Raises:
            ZooError: The accuracy is negative (a negated loss, say, for which a larger cost would be a
                gain), or the cost is not positive.
        """
        if accuracy < 0:
            raise ZooError(f'reward: found accuracy {accuracy}, zero or more is needed.')
        if not cost > 0:
            raise ZooError(f'reward: found cost {cost}, more than zero is needed.')
        return accuracy * (cost / self.target) ** self.alpha

    def find_accuracy(self, reward: float, cost: float) -> float:
        """The least accuracy that earns so much, to the last bit; minus infinity where any accuracy does."""
        if not reward > 0:
            return -math.inf
        found = reward / self(1.0, cost)
        while self(found, cost) >= reward:
            found = math.nextafter(found, -math.inf)
        while self(found, cost) < reward:
            found = math.nextafter(found, math.inf)
        return found
