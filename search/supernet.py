"""The supernet: one set of stored tensors, of which every sub-network of a space is a part.

A sub-network is the zoo's own module, built on the meta device (it owns no memory) and run on parts of the
stored tensors (:mod:`search.sharing`); there is no second implementation of any layer. Training reads views,
so that gradients reach the store. Evaluation and extraction read the same contiguous copies, so that an
extracted network gives the supernet's output to the last bit.

Statistics of batch norms belong to a sub-network and are not stored: training updates throw-away ones,
:meth:`Supernet.calibrate` measures a candidate's.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from search.sharing import Groups, Layout, resolve, share
from search.spaces import FamilySpace
from zoo.arch import Arch
from zoo.errors import ZooError
from zoo.models import FAMILIES

__all__ = ['Supernet']

FILLS = {
    *(nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_, nn.init.kaiming_uniform_),
    *(getattr(torch.Tensor, name) for name in ('normal_', 'uniform_', 'erfinv_', 'mul_', 'add_', 'clamp_')),
    *(torch.Tensor.zero_, torch.Tensor.fill_),
}
"""What initialisations change tensors by."""
CACHED_MODULES = 64
"""Built sub-networks that are kept; each is a few hundred kB of Python objects and no tensors."""


class _Uninitialised(TorchFunctionMode):
    """Leaves initial values out, which would take most of the time of building a network without memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in FILLS:
            return args[0] if args else kwargs['tensor']
        return func(*args, **kwargs)


@dataclass(frozen=True)
class Part:
    """Where a sub-network's tensor is stored."""

    stored: str
    shape: torch.Size
    layouts: tuple[Layout, ...]


@dataclass(frozen=True)
class Subnet:
    """A sub-network's module, without memory of its own, and the parts of the store that it runs on."""

    module: nn.Module
    parts: dict[str, Part]
    norms: dict[str, _BatchNorm]


class Supernet(nn.Module):
    """The stored tensors of a space, as parameters named by their key with '.' written as '/'.

    Not thread-safe: a cached module is state.

    Attributes:
        has_batch_norm: Sub-networks have statistics that must be calibrated before they are evaluated.
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
            seed: Of the initial values, which are those of the zoo's own networks.
            device: Where the store lives.

        Raises:
            ZooError: The family's networks have buffers other than the statistics of batch norms.
        """
        super().__init__()
        self.family_space = family_space
        self.num_classes = num_classes
        self._subnets: OrderedDict[tuple[Arch, float, float], Subnet] = OrderedDict()
        covering = [family_space.decode(genotype) for genotype in family_space.covering(family_space.space)]
        subnets = [self.subnet(arch) for arch in covering]
        self.has_batch_norm = any(subnet.norms for subnet in subnets)
        shapes: dict[str, tuple[int, ...]] = {}
        for subnet in subnets:
            for part in subnet.parts.values():
                known = shapes.get(part.stored, (0,) * len(part.shape))
                shapes[part.stored] = tuple(map(max, part.shape, known))
        self._keys = {stored: stored.replace('.', '/') for stored in shapes}
        self._no_weight_decay = set()
        for subnet in subnets:
            exempt: set[str] = subnet.module.no_weight_decay()  # type: ignore[operator]
            self._no_weight_decay |= {self._keys[subnet.parts[name].stored] for name in exempt}
        store = {stored: torch.zeros(shape) for stored, shape in shapes.items()}
        written: set[str] = set()
        for arch, subnet in reversed(list(zip(covering, subnets, strict=True))):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                network = self.build(arch)
            for name, value in network.named_parameters():
                part = subnet.parts[name]
                if _write(store[part.stored], part, value.detach()):
                    written.add(part.stored)
            del network, value  # before the next one is built
        if missing := sorted(store.keys() - written):
            raise ValueError(f'no covering architecture has {missing[0]} at its largest')
        for stored, initial in store.items():
            self.register_parameter(self._keys[stored], nn.Parameter(initial.to(device)))

    def no_weight_decay(self) -> set[str]:
        """The parameters that the zoo's networks exempt from weight decay, by their names here."""
        return self._no_weight_decay

    @property
    def store(self) -> dict[str, nn.Parameter]:
        """The stored tensors by their keys: the names in the zoo's network, where no rule says otherwise."""
        return {stored: self._parameters[key] for stored, key in self._keys.items()}  # type: ignore[misc]

    def build(self, arch: Arch, **kwargs: Any) -> nn.Module:
        """The zoo's network of an architecture, with tensors of its own."""
        family = FAMILIES[self.family_space.family]
        in_chans, *img_size = self.family_space.input_size
        args = dict(img_size=tuple(img_size), in_chans=in_chans, num_classes=self.num_classes)
        return family.build(arch, self.family_space.family, **args, **kwargs)

    def subnet(self, arch: Arch, drop_path_rate: float = 0.0, drop_rate: float = 0.0) -> Subnet:
        """The sub-network on the meta device; the last few are cached."""
        key = (arch, drop_path_rate, drop_rate)
        subnet = self._subnets.pop(key, None)
        if subnet is None:
            with _Uninitialised():
                module = self.build(arch, drop_path_rate=drop_path_rate, drop_rate=drop_rate, device='meta')
            rules = self.family_space.rules(arch)
            parts = {
                name: Part(stored, value.shape, layouts)
                for name, value in module.named_parameters()
                for stored, layouts in [resolve(name, value.ndim, rules)]
            }
            norms = {name: m for name, m in module.named_modules() if isinstance(m, _BatchNorm)}
            if foreign := {name.rpartition('.')[0] for name, _ in module.named_buffers()} - norms.keys():
                raise ZooError(
                    f'{self.family_space.family}: {sorted(foreign)[0]} has buffers, which cannot be shared.'
                )
            subnet = Subnet(module, parts, norms)
            if len(self._subnets) >= CACHED_MODULES:
                self._subnets.popitem(last=False)
        self._subnets[key] = subnet
        return subnet

    def tensors(self, arch: Arch, contiguous: bool = False) -> dict[str, torch.Tensor]:
        """The sub-network's parameters as parts of the store.

        Args:
            arch: An architecture of the space.
            contiguous: Detached, contiguous and not to be written to, instead of views that carry gradients.
        """
        store = self.store
        out = {}
        for name, part in self.subnet(arch).parts.items():
            tensor = share(store[part.stored], part.shape, part.layouts)
            out[name] = _as_if_copied(tensor.detach()) if contiguous else tensor
        return out

    def calibrate(
        self, arch: Arch, batches: Iterable[torch.Tensor], tensors: dict[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """The statistics of a sub-network's batch norms: the average over the batches, each counting once.

        Everything else runs in evaluation mode. Networks without batch norm have none, and run nothing.

        Args:
            arch: An architecture of the space.
            batches: (B, C, H, W) images each, of equal size.
            tensors: The sub-network's contiguous tensors, if they are at hand.

        Returns:
            Buffers by name, to be added to :meth:`tensors`.

        Raises:
            ZooError: There is no batch.
        """
        subnet = self.subnet(arch)
        if not subnet.norms:
            return {}
        buffers = self._fresh_buffers(subnet)
        tensors = self.tensors(arch, contiguous=True) if tensors is None else tensors
        subnet.module.eval()
        momenta = {name: norm.momentum for name, norm in subnet.norms.items()}
        for norm in subnet.norms.values():
            norm.train()
            norm.momentum = None  # type: ignore[assignment]  # torch: a cumulative average
        try:
            with torch.no_grad():
                for x in batches:
                    functional_call(subnet.module, tensors | buffers, (x,), tie_weights=False, strict=True)
        finally:
            for name, norm in subnet.norms.items():
                norm.momentum = momenta[name]  # type: ignore[assignment]
        if not all(int(buffers[f'{name}.num_batches_tracked']) for name in subnet.norms):
            raise ZooError('Batch norms cannot be calibrated: found no images, at least one batch is needed.')
        return buffers

    def forward(
        self,
        arch: Arch,
        x: torch.Tensor,
        tensors: dict[str, torch.Tensor] | None = None,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
    ) -> torch.Tensor:
        """Runs a sub-network, in the supernet's mode: views while training, contiguous copies in evaluation.

        Args:
            arch: An architecture of the space.
            x: (B, C, H, W) images.
            tensors: What :meth:`tensors` gave for `arch`, to evaluate several batches on one set of copies;
                in evaluation with what :meth:`calibrate` gave, if there are batch norms.
            drop_path_rate: Stochastic depth while training; drawn from torch's global generator.
            drop_rate: Dropout before the classifier while training; drawn from there, too.

        Returns:
            (B, num_classes) logits.
        """
        rates = (drop_path_rate, drop_rate) if self.training else (0.0, 0.0)
        subnet = self.subnet(arch, *rates)
        subnet.module.train(self.training)
        if tensors is None:
            tensors = self.tensors(arch, contiguous=not self.training)
        if self.training:
            tensors = tensors | self._fresh_buffers(subnet)
        with nullcontext() if self.training else torch.no_grad():
            # strict: a tensor that is not passed would silently stay on the meta device
            return functional_call(subnet.module, tensors, (x,), tie_weights=False, strict=True)

    def extract(self, arch: Arch, batches: Sequence[torch.Tensor] = ()) -> dict[str, torch.Tensor]:
        """The state dict of a stand-alone network that gives the supernet's output for `arch` to the last
        bit; `batches` calibrate its batch norms, if there are any."""
        tensors = self.tensors(arch, contiguous=True)
        copies = {name: tensor.clone() for name, tensor in tensors.items()}
        return copies | self.calibrate(arch, batches, tensors)

    def _fresh_buffers(self, subnet: Subnet) -> dict[str, torch.Tensor]:
        first = next(self.parameters())
        like: dict[str, Any] = dict(device=first.device, dtype=first.dtype)
        out = {}
        for name, norm in subnet.norms.items():
            out[f'{name}.running_mean'] = torch.zeros(norm.num_features, **like)
            out[f'{name}.running_var'] = torch.ones(norm.num_features, **like)
            out[f'{name}.num_batches_tracked'] = torch.zeros((), dtype=torch.long, device=first.device)
        return out


def _as_if_copied(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous, and aligned in memory as a copy is: the last bit of a product can depend on that."""
    return tensor.clone() if tensor.storage_offset() else tensor.contiguous()


def _write(stored: torch.Tensor, part: Part, value: torch.Tensor) -> bool:
    """Writes a sub-network's tensor to its place; False where that is not a view of the stored one."""
    if stored.shape == part.shape:
        stored.copy_(value)
    elif any(isinstance(layout, Groups) for layout in part.layouts):
        return False
    else:
        share(stored, part.shape, part.layouts).copy_(value)
    return True
