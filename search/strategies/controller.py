"""The recurrent controller: a distribution over a space's architectures, one token for each decision.

An LSTM reads the decisions taken so far and gives the odds of the values of the next choice. Choices that are
not active are no tokens: each architecture has a sequence of its own length.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.space import INACTIVE, Genotype, Space

__all__ = ['Controller', 'Decisions']

NEVER = -1e9
"""Logit of what is no value of a choice. (Minus infinity has no entropy.)"""
START = 0
"""The token before the first decision."""


class Decisions(NamedTuple):
    """Architectures as sequences, padded to the longest.

    Attributes:
        tokens: int64 (T, N), what was decided before: the start token first.
        choices: int64 (T, N), which choice is decided; 0 where the sequence has ended.
        picks: int64 (T, N), index of the value decided for; 0 where the sequence has ended.
        active: float32 (T, N), 1 for a decision and 0 where the sequence has ended.
    """

    tokens: Tensor
    choices: Tensor
    picks: Tensor
    active: Tensor


class Controller(nn.Module):
    """LSTM with an embedding of every value of every choice, and a linear head for every choice.

    The heads start at zero: at first every value of a choice is equally likely, whatever was decided before.
    """

    unknown: Tensor

    def __init__(self, space: Space, width: int) -> None:
        """
        Args:
            space: What is decided, in the order of its choices.
            width: Of the embedding and of the LSTM's state.
        """
        super().__init__()
        self.space = space
        sizes = [len(choice.values) for choice in space.choices]
        self.first_tokens = [0, *accumulate(sizes)][:-1]
        self.embedding = nn.Embedding(1 + sum(sizes), width)
        self.lstm = nn.LSTM(width, width)
        self.weight = nn.Parameter(torch.zeros(len(sizes), max(sizes) * width))
        self.bias = nn.Parameter(torch.zeros(len(sizes), max(sizes)))
        values = torch.arange(max(sizes)).expand(len(sizes), -1)
        unknown = torch.where(values < torch.tensor(sizes)[:, None], 0.0, NEVER)
        self.register_buffer('unknown', unknown, persistent=False)

    def forward(self, decisions: Decisions) -> Tensor:
        """Log-probabilities of the values of each decision, given those before: (T, N, most values)."""
        hidden, _ = self.lstm(self.embedding(decisions.tokens))
        return self._logits(hidden, decisions.choices).log_softmax(-1)

    @torch.no_grad()
    def sample(self, number: int, generator: torch.Generator, temperature: float = 1.0) -> list[Genotype]:
        """Draws architectures, duplicates among them.

        Args:
            number: How many.
            generator: Of every random number, on the CPU.
            temperature: Divides the logits: above 1 the draws differ more.
        """
        genotypes = [[INACTIVE] * len(self.space.choices) for _ in range(number)]
        open_choices = [0] * number
        tokens, state = [START] * number, None
        while min(open_choices) < len(self.space.choices):
            choices = [choice % len(self.space.choices) for choice in open_choices]
            hidden, state = self.lstm(self.embedding(torch.tensor(tokens))[None], state)
            logits = self._logits(hidden[0], torch.tensor(choices)) / temperature
            picks = logits.softmax(-1).multinomial(1, generator=generator)[:, 0].tolist()
            for i, (genotype, choice, pick) in enumerate(zip(genotypes, open_choices, picks, strict=True)):
                if choice < len(self.space.choices):
                    genotype[choice] = pick
                    tokens[i] = self._token(choice, pick)
                    open_choices[i] = self._next(genotype, choice + 1)
        return list(map(tuple, genotypes))

    def encode(self, genotypes: Sequence[Genotype]) -> Decisions:
        """Genotypes as what :meth:`forward` takes."""
        rows: list[list[tuple[int, int, int, int]]] = []
        for genotype in genotypes:
            row, token = [], START
            for choice, pick in enumerate(genotype):
                if pick != INACTIVE:
                    row.append((token, choice, pick, 1))
                    token = self._token(choice, pick)
            rows.append(row)
        longest = max(map(len, rows))
        padded = [row + [(START, 0, 0, 0)] * (longest - len(row)) for row in rows]
        tokens, choices, picks, active = torch.tensor(padded).permute(2, 1, 0)
        return Decisions(tokens, choices, picks, active.float())

    def _logits(self, hidden: Tensor, choices: Tensor) -> Tensor:
        """(..., width) states and (...) choices -> (..., most values)."""
        weight = F.embedding(choices, self.weight).unflatten(-1, (-1, hidden.shape[-1]))
        bias = F.embedding(choices, self.bias) + F.embedding(choices, self.unknown)
        return (weight @ hidden[..., None])[..., 0] + bias

    def _token(self, choice: int, pick: int) -> int:
        return 1 + self.first_tokens[choice] + pick

    def _next(self, genotype: Sequence[int], choice: int) -> int:
        """The first active choice from this one on."""
        while choice < len(genotype) and not self.space.is_active(choice, genotype):
            choice += 1
        return choice
