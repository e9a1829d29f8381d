"""Reinforcement learning: a recurrent controller trained by PPO (arXiv 1707.06347), as in UniNet (Sec. 3.5).

The controller proposes a batch of candidates. Once all of them are told it is trained on their scores, and
the next batch comes from the new policy.
"""

import base64
import math
from collections.abc import Sequence
from random import Random
from statistics import NormalDist
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from search.sampling import Sampler
from search.seeding import derive_seed, forked_rng
from search.space import Genotype
from search.strategies.controller import Controller
from search.strategies.strategy import Key, Strategy
from zoo.arch import Part
from zoo.errors import ZooError

__all__ = ['PRESETS', 'Ppo', 'PpoSettings']

VERSION = 1
"""Of how the controller is kept in a strategy's state."""
HEAT = 0.25
"""What each further round of draws for a batch adds to the temperature."""
MAX_LOG_RATIO = 10.0
NORMAL = NormalDist()


class PpoSettings(Part):
    """The controller, its training and its draws; UniNet gives none of these."""

    batch: Annotated[
        int, Field(ge=1, le=10_000, description='candidates between two updates; more workers than that wait')
    ] = 20
    lr: Annotated[float, Field(gt=0, le=0.1, description="Adam's learning rate")] = 1e-2
    epochs: Annotated[int, Field(ge=1, le=1000, description='steps on each batch')] = 5
    clip: Annotated[float, Field(gt=0, lt=1, description='of probability ratios, around 1')] = 0.2
    entropy: Annotated[float, Field(ge=0, le=10, description="weight of a decision's entropy in nats")] = 0.01
    decay: Annotated[
        float, Field(ge=0, lt=1, description='what a batch of scores weighs, relative to the next one')
    ] = 0.8
    width: Annotated[int, Field(ge=1, le=1024, description="of the LSTM's input and state")] = 32
    rounds: Annotated[int, Field(ge=1, le=1000, description='draws of a batch size each, to fill one')] = 10


PRESETS = {
    'fast': PpoSettings(),
    'steady': PpoSettings(lr=3e-3),
}
"""Chosen by simulation of UniNet's 2,000 candidates on 40 known landscapes (see the tests). In the end both
are level; fast is the default since it is ahead in the first 200 candidates (by 0.4 standard deviations of
the space at 150). From 400 to 700 steady is ahead by 0.2, about twice the standard error. A rate of 2e-2 is
behind both from 300 on."""


class Ppo(Strategy):
    """Trains a controller. Between batches it waits until all scores are told.

    **Candidates.** The draws for a batch are one stream, and each candidate is the first in it that is new
    and allowed: draws without replacement. A policy that has converged repeats itself, and one within a tight
    budget often misses it; therefore each round of the stream is hotter than the one before. After the last
    round the sampler draws, as in random search. All candidates of a batch are learned from.

    **Rewards.** Only the order of scores matters, so neither their scale nor an outlier does. The advantage
    of a candidate is the normal quantile of its rank among all scores so far, in which a batch weighs less
    the older it is: zero for what equals the moving median. A failed candidate ranks below all scores, since
    what cannot be evaluated is not wanted.

    **Workers.** The candidates of a batch can be evaluated side by side, but the next batch waits for the
    last of them: workers beyond a batch's size are idle, as are others at its end.

    **State.** The controller is a function of the seed and of the scores told: without it in the state,
    :meth:`restore` leads to the same bits on the same machine, by learning all of it again.
    """

    def __init__(
        self,
        sampler: Sampler,
        seed: int,
        key: Key | None = None,
        settings: PpoSettings = PRESETS['fast'],
    ) -> None:
        """
        Args:
            sampler: The architectures that may be asked, and how those are drawn that no policy proposes.
            seed: Every random decision derives from it and from (batch, round).
            key: Tells which genotypes are the same network; none are without it.
            settings: The controller, its training and its draws.
        """
        self.settings = settings
        self.num_unguided = settings.batch
        super().__init__(sampler, seed, key)

    def _forget(self) -> None:
        super()._forget()
        with forked_rng(self.seed, 'ppo', 'init'):
            self._controller = Controller(self.space, self.settings.width)
        self._optimizer = torch.optim.Adam(self._controller.parameters(), self.settings.lr)
        for weight in self._controller.parameters():
            moments = {key: torch.zeros_like(weight) for key in ('exp_avg', 'exp_avg_sq')}
            self._optimizer.state[weight] = {'step': torch.zeros(()), **moments}
        self._learned = 0
        self._draws: tuple[int, int, list[Genotype]] = (0, 0, [])
        self._first: tuple[int, list[Genotype]] = (-1, [])

    def propose(self) -> Genotype | None:
        batch, slot = divmod(len(self.genotypes), self.settings.batch)
        if slot == 0 and self._pending:
            return None
        self.learn()
        rng = Random(derive_seed(self.seed, 'ppo', 'new', len(self.genotypes)))
        return self._draw(batch) or self.draw_new(rng)

    def state(self) -> dict[str, Any]:
        """Everything but the constructor's arguments, as JSON data."""
        self.learn()
        memory = np.concatenate([tensor.numpy().ravel() for tensor in self._memory()]).astype('<f4')
        controller = {
            'version': VERSION,
            'learned': self._learned,
            'memory': base64.b64encode(memory.tobytes()).decode(),
        }
        return super().state() | {'controller': controller}

    def restore(self, data: dict[str, Any]) -> None:
        """Continues from a state, in a strategy that was made with the same arguments.

        Raises:
            ZooError: A genotype is not one of the space, or the controller is of another version or of other
                settings.
        """
        super().restore(data)
        if 'controller' not in data:
            return
        if (version := data['controller']['version']) != VERSION:
            raise ZooError(f'Controller: found version {version!r:.80}, {VERSION} is needed.')
        found = np.frombuffer(base64.b64decode(data['controller']['memory']), '<f4')
        memory = self._memory()
        if found.size != (size := sum(tensor.numel() for tensor in memory)):
            raise ZooError(f'Controller: found {found.size} numbers, {size} are needed with these settings.')
        for tensor, part in zip(
            memory, np.split(found, np.cumsum([tensor.numel() for tensor in memory])[:-1]), strict=True
        ):
            tensor.copy_(torch.tensor(part).view(tensor.shape))
        self._learned = data['controller']['learned']

    def _memory(self) -> list[Tensor]:
        """Everything that learning changes, to be read or overwritten in place: float32."""
        return [
            tensor
            for weight in self._controller.parameters()
            for tensor in (weight.detach(), *self._optimizer.state[weight].values())
        ]

    def _draw(self, batch: int) -> Genotype | None:
        """The first new one of a batch's draws; None after the last round."""
        rounds, left = self._draws[1:] if self._draws[0] == batch else (0, [])
        while True:
            for i, genotype in enumerate(left):
                if self.is_new(genotype):
                    self._draws = batch, rounds, left[i:]
                    return genotype
            if rounds == self.settings.rounds:
                self._draws = batch, rounds, []
                return None
            left = self._sample(batch, rounds)
            rounds += 1

    def _sample(self, batch: int, number: int) -> list[Genotype]:
        """A round of draws for a batch, by the policy that has learned from those before it."""
        if number == 0 and self._first[0] == batch:
            return self._first[1]
        generator = torch.Generator().manual_seed(derive_seed(self.seed, 'ppo', batch, number))
        drawn = self._controller.sample(self.settings.batch, generator, 1 + HEAT * number)
        if number == 0:
            self._first = batch, drawn
        return drawn

    def _count_repeats(self, batch: int) -> int:
        """How many of the first draws for a batch were asked before it, or drawn before in it."""
        drawn = [self.key(genotype) for genotype in self._sample(batch, 0)]
        asked = set(map(self.key, self.genotypes[: batch * self.settings.batch]))
        return len(drawn) - len(set(drawn) - asked)

    def learn(self) -> None:
        """Catches up with the batches that are told, and reports on each."""
        told = min(self._pending, default=len(self.genotypes)) // self.settings.batch
        while self._learned < told:
            self.reports.append(self._update(self._learned))
            self._learned += 1

    def _update(self, batch: int) -> dict[str, float]:
        """Learns from a batch: clipped steps of the policy towards what was better than the baseline.

        Returns:
            Its number, from 1 on; the share of its first draws that were duplicates; the policy's mean
            entropy in a decision before it learned, and the divergence KL(before | after) of what it learned,
            both in nats.
        """
        size, clip = self.settings.batch, self.settings.clip
        advantage = torch.tensor(
            find_advantages(self.scores[: (batch + 1) * size], size, self.settings.decay)
        )
        decisions = self._controller.encode(self.genotypes[batch * size : (batch + 1) * size])
        duplicates = self._count_repeats(batch) / size
        before, policy = None, None
        for _ in range(self.settings.epochs):
            with torch.enable_grad():
                log_probs = self._controller(decisions)
                entropy = -(log_probs.exp() * log_probs).sum(-1)
                log_prob = log_probs.gather(-1, decisions.picks[..., None])[..., 0]
                if before is None or policy is None:
                    before, policy = log_prob.detach(), log_probs.detach()
                ratio = (log_prob - before).clamp(max=MAX_LOG_RATIO).exp()
                gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
                objective = (gain + self.settings.entropy * entropy) * decisions.active
                self._optimizer.zero_grad()
                (-objective.sum() / decisions.active.sum()).backward()
            self._optimizer.step()
        assert policy is not None
        with torch.no_grad():
            after = self._controller(decisions)
        count, active = decisions.active.sum(), decisions.active[..., None]
        return {
            'batch': batch + 1,
            'duplicates': duplicates,
            'entropy': float(-(policy.exp() * policy * active).sum() / count),
            'kl': float((policy.exp() * (policy - after) * active).sum() / count),
        }


def find_advantages(scores: Sequence[float | None], batch: int, decay: float) -> list[float]:
    """How good the candidates of the last batch are, compared with all so far.

    Args:
        scores: Of all candidates up to that batch; None for those that failed.
        batch: Its size.
        decay: How much a batch weighs, relative to the next one.

    Returns:
        For each candidate of the last batch the normal quantile of its weighted rank; equal ones share it.
    """
    values = np.array([-math.inf if score is None else score for score in scores])
    weights = decay ** (np.arange(len(values))[::-1] // batch).astype(float)
    _, levels = np.unique(values, return_inverse=True)
    shares = np.bincount(levels, weights / weights.sum())
    ranks = np.cumsum(shares) - shares / 2
    return [NORMAL.inv_cdf(rank) for rank in ranks[levels[-batch:]].tolist()]
