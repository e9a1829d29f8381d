"""The relaxed network of a differentiable search: layers that are a weighted sum of their candidate blocks
(Zhou et al., arXiv 2111.07139, Sec. III-B, Eq. 1).

It is the zoo's own network, in which every layer with several candidates holds the block of each of them:
blocks that share nothing, their two linear layers, norms and shortcut included. With all the weight on one
candidate of each layer it computes what the stand-alone network computes, to the last bit.

Batch norms are the zoo's, with scale and shift, although DARTS leaves those out while it searches: the paper
says nothing of it. Each candidate has statistics of its own, of the mixed maps that reach it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from search.seeding import forked_rng
from search.space import Genotype, Space, Value
from search.spaces import FamilySpace
from zoo.arch import Arch
from zoo.errors import ZooError

__all__ = [
    'Alpha',
    'MixedLayer',
    'choose',
    'extract',
    'find_leaders',
    'mix',
    'mixed_layers',
    'read_alpha',
    'summarise',
    'write_alpha',
]

Alpha = dict[str, dict[str, float]]
"""Architecture parameters by layer and candidate."""


class MixedLayer(nn.Module):
    """Candidate blocks, weighed by the softmax of the architecture parameters (Eq. 1).

    Attributes:
        name: The choice of the space that decides this layer.
        values: Its values, in the order of the candidates.
        alpha: One architecture parameter for each candidate, at first 0 (Sec. IV-B1).
    """

    def __init__(self, name: str, values: Sequence[Value], candidates: Sequence[nn.Module]):
        super().__init__()
        self.name = name
        self.values = [str(value) for value in values]
        self.candidates = nn.ModuleList(candidates)
        self.alpha = nn.Parameter(torch.zeros(len(candidates)))

    def forward(self, x: Tensor) -> Tensor:
        """What every candidate takes and gives."""
        weights = self.alpha.softmax(0)
        out = weights[0] * self.candidates[0](x)
        for weight, block in zip(weights[1:], self.candidates[1:], strict=True):
            out = out + weight * block(x)
        return out


def mix(
    space: FamilySpace, build: Callable[[Arch], nn.Module], seed: int, leaders: dict[str, str] | None = None
) -> nn.Module:
    """The zoo's network with mixed layers in place of the layers that have several candidates.

    Args:
        space: Whose every choice decides one module, as carnet's do.
        build: The zoo's network of an architecture.
        seed: Of the initial values; each candidate's are those of a network of its own.
        leaders: What :func:`find_leaders` gave: layers share the parameters of their leaders.
    """
    networks = []
    for i, genotype in enumerate(space.covering(space.space)):
        with forked_rng(seed, 'candidate', i):
            networks.append(build(space.decode(genotype)))
    model = networks[0]
    for path, (name,) in space.modules.items():
        values = space.space.choices[space.space.position(name)].values
        if len(values) > 1:
            blocks = [network.get_submodule(path) for network in networks[: len(values)]]
            model.set_submodule(path, MixedLayer(name, values, blocks))
    layers = mixed_layers(model)
    for name, layer in layers.items():
        layer.alpha = layers[(leaders or {}).get(name, name)].alpha
    return model


def mixed_layers(model: nn.Module) -> dict[str, MixedLayer]:
    """The mixed layers by the choices that decide them, in the order of the network."""
    return {module.name: module for module in model.modules() if isinstance(module, MixedLayer)}


def find_leaders(space: FamilySpace) -> dict[str, str]:
    """Which layer every layer is tied to without stage-wise diversity (paper, Sec. IV-G1, 'without SSS').

    Stages 1, 3 and 5 have the same operators, which are the stages of stride 1, and so have stages 2 and 4,
    those of stride 2.

    Args:
        space: Of family carnet.

    Returns:
        By the choice of each layer, that of the same layer of the first stage of equal stride.

    Raises:
        ZooError: Stages that are to be identical have other layers or candidates.
    """
    arch = space.decode(space.covering(space.space)[0])
    strides: tuple[int, ...] = arch.strides()  # type: ignore[attr-defined]
    values = {choice.name: choice.values for choice in space.space.choices}
    leaders = {}
    for name in values:
        stage, layer = name.split('.', 1)
        number = int(stage.removeprefix('stage'))
        first = strides.index(strides[number - 1]) + 1
        leaders[name] = f'stage{first}.{layer}'
        found, needed = values[name], values.get(leaders[name], ())
        if found != needed:
            raise ZooError(
                f'search.tied: found candidates {", ".join(map(str, found))} of {name}, those of '
                f'{leaders[name]} are needed: {", ".join(map(str, needed)) or "none"}.'
            )
    return leaders


def read_alpha(model: nn.Module) -> Alpha:
    """The architecture parameters."""
    return {
        name: dict(zip(layer.values, layer.alpha.tolist(), strict=True))
        for name, layer in mixed_layers(model).items()
    }


@torch.no_grad()
def write_alpha(model: nn.Module, alpha: Alpha) -> None:
    """Sets the architecture parameters, of the same candidates, to the last bit as they were read."""
    for name, layer in mixed_layers(model).items():
        layer.alpha.copy_(torch.tensor([alpha[name][value] for value in layer.values]))


def choose(space: Space, alpha: Alpha) -> Genotype:
    """The most probable candidate of each layer (Sec. III-B), the first of equal ones."""
    genotype = []
    for choice in space.choices:
        values = list(alpha.get(choice.name, {'': 0.0}).values())
        genotype.append(values.index(max(values)))
    return tuple(genotype)


def extract(space: FamilySpace, model: nn.Module, genotype: Genotype) -> dict[str, Tensor]:
    """The state dict of the stand-alone network of an architecture, with the tensors of the relaxed one."""
    tensors = dict(model.state_dict())
    layers = mixed_layers(model)
    for path, (name,) in space.modules.items():
        if name not in layers:
            continue
        chosen = f'{path}.candidates.{genotype[space.space.position(name)]}.'
        inner = {key: tensors.pop(key) for key in list(tensors) if key.startswith(f'{path}.')}
        tensors |= {
            f'{path}.{key.removeprefix(chosen)}': x for key, x in inner.items() if key.startswith(chosen)
        }
    return tensors


def summarise(alpha: Alpha) -> dict[str, float]:
    """Where a search stands, for its log.

    Returns:
        ``weight/LAYER/CANDIDATE``: the softmax; ``entropy/LAYER``: its entropy in nats, at most the logarithm
        of the number of candidates; ``margin/LAYER``: the largest weight less the second.
    """
    found: dict[str, float] = {}
    for name, row in alpha.items():
        weights = torch.tensor(list(row.values()), dtype=torch.float64).softmax(0)
        found |= {f'weight/{name}/{value}': w for value, w in zip(row, weights.tolist(), strict=True)}
        found[f'entropy/{name}'] = float(torch.special.entr(weights).sum())
        first, second = weights.topk(2).values.tolist()
        found[f'margin/{name}'] = first - second
    return found
