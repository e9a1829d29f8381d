"""The supernet: one set of stored tensors, of which every sub-network of a space is a part.

A sub-network is the zoo's own module, built on the meta device (it owns no memory) and run on parts of the
stored tensors (:mod:`search.sharing`); there is no second implementation of any layer. Training reads views,
so that gradients reach the store. Evaluation and extraction read the same contiguous copies, so that an
extracted network gives the supernet's output to the last bit.
"""

from collections import OrderedDict
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from search.sharing import layouts_of, share
from search.spaces import FamilySpace
from zoo.arch import Arch
from zoo.errors import ZooError
from zoo.models import FAMILIES

__all__ = ['Supernet']

CACHED_MODULES = 64
"""Built sub-networks that are kept; each is a few hundred kB of Python objects and no tensors."""


class Supernet(nn.Module):
    """The stored tensors of a space, as parameters named by their key with '.' written as '/'.

    Not thread-safe: a cached module is state. Batch norm is not supported yet, because its statistics belong
    to a sub-network and not to the store; building the supernet of a network with buffers is refused.
    """

    def __init__(
        self,
        family_space: FamilySpace,
        num_classes: int,
        seed: int = 0,
        device: torch.device | str | None = None,
    ):
        """
        Args:
            family_space: The space, its input size, and the sharing rules of its family.
            num_classes: Classes of the head.
            seed: Of the initial values, which are those of the zoo's own network.
            device: Where the store lives.
        """
        super().__init__()
        self.family_space = family_space
        self.num_classes = num_classes
        self._modules_by_arch: OrderedDict[tuple[Arch, float], nn.Module] = OrderedDict()
        self.largest = family_space.decode(family_space.space.largest())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.build(self.largest)
        if any(True for _ in network.buffers()):
            raise ZooError(
                f'{family_space.family}: a network with buffers (batch norm) cannot share its weights.'
            )
        exempt: set[str] = network.no_weight_decay()  # type: ignore[operator]
        self._no_weight_decay = {key.replace('.', '/') for key in exempt}
        self._layouts = {
            key: layouts_of(key, value.ndim, family_space.rules) for key, value in network.named_parameters()
        }
        for key, value in network.named_parameters():
            self.register_parameter(key.replace('.', '/'), nn.Parameter(value.detach().to(device)))

    def no_weight_decay(self) -> set[str]:
        """The parameters that the zoo's network exempts from weight decay, by their names here."""
        return self._no_weight_decay

    @property
    def store(self) -> dict[str, nn.Parameter]:
        """The stored tensors by the names they have in the zoo's network."""
        return {key: self._parameters[key.replace('.', '/')] for key in self._layouts}  # type: ignore[misc]

    def build(self, arch: Arch, **kwargs: Any) -> nn.Module:
        """The zoo's network of an architecture, with tensors of its own."""
        family = FAMILIES[self.family_space.family]
        in_chans, *img_size = self.family_space.input_size
        args = dict(img_size=tuple(img_size), in_chans=in_chans, num_classes=self.num_classes)
        return family.build(arch, self.family_space.family, **args, **kwargs)

    def module(self, arch: Arch, drop_path_rate: float = 0.0) -> nn.Module:
        """The sub-network's module, on the meta device; the last few are cached."""
        key = (arch, drop_path_rate)
        module = self._modules_by_arch.pop(key, None)
        if module is None:
            module = self.build(arch, drop_path_rate=drop_path_rate, device='meta')
            if len(self._modules_by_arch) >= CACHED_MODULES:
                self._modules_by_arch.popitem(last=False)
        self._modules_by_arch[key] = module
        return module

    def tensors(self, arch: Arch, contiguous: bool = False) -> dict[str, torch.Tensor]:
        """The sub-network's parameters as parts of the store.

        Args:
            arch: An architecture of the space.
            contiguous: Detached copies of their own memory, instead of views that carry gradients.
        """
        store = self.store
        out = {}
        for key, value in self.module(arch).named_parameters():
            part = share(store[key], value.shape, self._layouts[key])
            out[key] = part.detach().clone(memory_format=torch.contiguous_format) if contiguous else part
        return out

    def forward(
        self,
        arch: Arch,
        x: torch.Tensor,
        tensors: dict[str, torch.Tensor] | None = None,
        drop_path_rate: float = 0.0,
    ) -> torch.Tensor:
        """Runs a sub-network, in the supernet's mode: views while training, contiguous copies in evaluation.

        Args:
            arch: An architecture of the space.
            x: (B, C, H, W) images.
            tensors: What :meth:`tensors` gave for `arch`, to evaluate several batches on one set of copies.
            drop_path_rate: Stochastic depth while training; drawn from torch's global generator.

        Returns:
            (B, num_classes) logits.
        """
        module = self.module(arch, drop_path_rate if self.training else 0.0).train(self.training)
        if tensors is None:
            tensors = self.tensors(arch, contiguous=not self.training)
        with nullcontext() if self.training else torch.no_grad():
            # strict: a tensor that is not passed would silently stay on the meta device
            return functional_call(module, tensors, (x,), tie_weights=False, strict=True)

    def extract(self, arch: Arch) -> dict[str, torch.Tensor]:
        """The state dict of a stand-alone network that gives the supernet's output for `arch` to the last
        bit."""
        return self.tensors(arch, contiguous=True)
