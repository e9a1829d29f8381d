"""What candidates have reached so far, kept so that looking it up takes no longer the more there are."""

import heapq
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ['Rivals']


class Rivals:
    """The front of accuracy and MACs, and the best scores, of the first candidates of a search."""

    def __init__(self, top: int):
        """
        Args:
            top: Number of best candidates that matter.
        """
        self._top = top
        self._best: list[float] = []  # a heap of the highest scores
        self._macs: list[int] = []  # the front, ascending in both
        self._accuracies: list[float] = []
        self._count = 0

    def learn(self, records: Sequence[Mapping[str, Any]], count: int) -> None:
        """Takes the first ``count`` records in, of which there are never fewer than before."""
        for record in records[self._count : count]:
            if record['score'] is not None:
                self._add(record['score'], record.get('accuracy', record['score']), record['macs'])
        self._count = max(self._count, count)

    def top_score(self) -> float:
        """The lowest score among the best candidates; minus infinity while there are not so many."""
        return self._best[0] if len(self._best) == self._top else -math.inf

    def accuracy(self, macs: int) -> float:
        """The highest accuracy of the candidates of at most these MACs; minus infinity if there is none."""
        place = bisect_right(self._macs, macs)
        return self._accuracies[place - 1] if place else -math.inf

    def _add(self, score: float, accuracy: float, macs: int) -> None:
        if len(self._best) < self._top:
            heapq.heappush(self._best, score)
        else:
            heapq.heappushpop(self._best, score)
        if accuracy <= self.accuracy(macs):
            return
        start = end = bisect_right(self._macs, macs - 1)
        while end < len(self._macs) and self._accuracies[end] <= accuracy:
            end += 1
        self._macs[start:end] = [macs]
        self._accuracies[start:end] = [accuracy]
