"""Pictures of architectures: every entry can be drawn, and what is drawn is what the network has."""

import builtins
import io
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import timm
import torch
from PIL import Image
from timm.layers import Mlp
from torch import nn

import zoo
from zoo.console import main
from zoo.entry import Entry
from zoo.errors import ZooError
from zoo.layers.axial_attention import AxialAttention
from zoo.layers.local_attention import LocalAttention
from zoo.layers.non_local import NonLocalAttention
from zoo.layers.token_mixing import TokenMixing
from zoo.layers.window_attention import SelfAttention
from zoo.models import carnet, s3, trionet, uninet
from zoo.models.glit import Arch as GLiTArch
from zoo.models.glit import GLiT, GlobalLocalBlock
from zoo.outline import OPERATORS, Block, make_outline
from zoo.picture import COLORS, draw_architecture

ENTRIES = zoo.list_entries()
BLOCKS = (carnet.Block, s3.Block, trionet.Block, uninet.ConvBlock, uninet.AttentionBlock, uninet.MixerBlock)


def outline_of(entry: Entry) -> Any:
    return make_outline(entry.arch, entry.input.size[1:])


def build(entry: Entry) -> nn.Module:
    return timm.create_model(entry.name, device=torch.device('meta'))


def find_operators(block: nn.Module) -> list[str]:
    """What a network's block consists of, by the names of a picture: told by its layers alone."""
    found = []
    for module in block.modules():
        if isinstance(module, NonLocalAttention):
            found.append('non_local')
        elif isinstance(module, LocalAttention):
            found.append('local')
        elif isinstance(module, AxialAttention):
            found.append('axial')
        elif isinstance(module, TokenMixing):
            found.append('token_mlp')
        elif isinstance(module, s3.WindowAttention):
            found.append('window')
        elif isinstance(module, SelfAttention):
            found.append('window' if module.window_size else 'global')
        elif isinstance(module, Mlp):
            found.append('mlp')
        elif isinstance(module, nn.Conv2d) and module.kernel_size > (1, 1):
            found.append('dwconv' if module.groups == module.in_channels else 'conv')
    if isinstance(block, uninet.AttentionBlock):
        found.remove('dwconv')  # the position encoding, which is not drawn
    return sorted(set(found))


@pytest.mark.parametrize('name', ENTRIES)
def test_every_entry_is_drawn(name: str) -> None:
    entry = zoo.load_entry(name)
    data = draw_architecture(entry)
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.format == 'PNG'
    assert 800 <= image.width <= 1600
    assert 300 <= image.height <= 1600
    colors = {
        color
        for _, color in image.convert('RGB')
        .resize((image.width // 2, image.height // 2), 0)
        .getcolors(1 << 20)
    }
    for part in outline_of(entry).parts:
        fill = tuple(int(COLORS[part.operator][i : i + 2], 16) for i in (1, 3, 5))
        assert fill in colors


@pytest.mark.parametrize('name', ENTRIES)
def test_blocks_are_those_of_the_network(name: str) -> None:
    entry = zoo.load_entry(name)
    model, outline = build(entry), outline_of(entry)
    if isinstance(model, GLiT):
        built = [list(model.blocks)]
    else:
        built = [[m for m in stage.modules() if isinstance(m, BLOCKS)] for stage in model.stages]
    if entry.family == 'carnet' and entry.arch.stem:  # the fixed block stands before stage 1's
        built = [built[1][:1], built[1][1:], *built[2:]]
    assert [len(stage.blocks) for stage in outline.stages] == [len(blocks) for blocks in built]
    for stage, blocks in zip(outline.stages, built, strict=True):
        assert [block.label for block in stage.blocks] == [str(i + 1) for i in range(len(blocks))]
        for drawn, block in zip(stage.blocks, blocks, strict=True):
            names = {part.operator for part in drawn.parts}
            assert names <= set(OPERATORS)
            if isinstance(block, GlobalLocalBlock):
                assert ('global' in names, 'conv1d' in names) == (block.attn_dim > 0, block.conv_dim > 0)
                assert 'mlp' in names
            else:
                assert sorted(names - {'projection'}) == find_operators(block)


@pytest.mark.parametrize('name', ['s3_tiny', 'trionet_b', 'uninet_eccv_b2', 'carnet_c112', 'carnet_c80'])
def test_stages_have_the_sizes_of_the_network(name: str) -> None:
    entry = zoo.load_entry(name)
    model, outline = build(entry), outline_of(entry)
    offset = 1 if entry.family == 'carnet' and entry.arch.stem else 0
    x = torch.empty(1, *entry.input.size, device='meta')
    maps = {}
    hooks = [
        stage.register_forward_hook(lambda m, _, out, i=i: maps.update({i: out}))
        for i, stage in enumerate(model.stages)
    ]
    with torch.no_grad():
        model.eval()(x)
    for hook in hooks:
        hook.remove()
    for i, stage in enumerate(outline.stages):
        if i < offset:
            continue
        shape = maps[i].shape
        height, width, channels = shape[2], shape[3], shape[1]
        stride = entry.input.size[1] // height
        assert stage.details == f'{height}x{width}, stride {stride}\n{channels} channels'


def test_parts_of_a_mixed_block() -> None:
    """By hand: one of four heads is global, 3 of 8 x 6 channels wide for 2 of them, ..."""
    arch = GLiTArch.model_validate_json(
        '{"embed_dim": 48, "num_heads": 4, "patch_size": 8, "blocks": [{"global_heads": 1, "local_heads": 3,'
        '"qkv_dim": 24, "kernel_size": 5, "expansion": 2, "mlp_ratio": 3}]}'
    )
    outline = make_outline(arch, (20, 32))
    (stage,) = outline.stages
    assert stage.details == '3x4, stride 8\n48 channels'
    (block,) = stage.blocks
    attention, convolution, mlp = block.parts
    assert (attention.operator, attention.size, attention.share) == ('global', 24 / 12, 1 / 4)
    assert (convolution.operator, convolution.size, convolution.share) == ('conv1d', 2, 3 / 4)
    assert (mlp.operator, mlp.size, mlp.share) == ('mlp', 3, 1)
    assert block.rows() == [[attention, convolution], [mlp]]
    assert attention.text.split() == ['h1', 'd24']
    assert convolution.text.split() == ['h3', 'k5', 'x2']


def test_uninet_without_expansion_has_one_projection() -> None:
    def operators(block: Block) -> list[str]:
        return [part.operator for part in block.parts]

    stages = outline_of(zoo.load_entry('uninet_b0')).stages
    assert operators(stages[0].blocks[0]) == ['dwconv', 'projection']
    assert operators(stages[1].blocks[0]) == ['projection', 'dwconv', 'projection']
    assert [stage.before for stage in stages] == [
        'convolution 3x3 /2', 'L-DSM /2', 'L-DSM /2', 'L-DSM /2', 'LG-DSM', 'LG-DSM /2',
    ]  # fmt: skip


@pytest.mark.parametrize('file_format', ['png', 'svg'])
def test_same_bytes_every_time(file_format: Any) -> None:
    entry = zoo.load_entry('trionet_a')
    first = draw_architecture(entry, file_format=file_format)
    assert first == draw_architecture(entry, file_format=file_format)
    assert first != draw_architecture(entry, (64, 64), file_format=file_format)


def test_svg_is_xml_without_a_date() -> None:
    data = draw_architecture(zoo.load_entry('glit_tiny').arch, file_format='svg')
    assert ElementTree.fromstring(data).tag.endswith('svg')
    assert b'dc:date' not in data


def test_matplotlib_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split('.')[0] == 'matplotlib':
            raise ModuleNotFoundError(name='matplotlib')
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', refuse)
    with pytest.raises(ZooError, match=r"^Pictures need matplotlib.*'searchzoo\[search\]'\.$"):
        draw_architecture(zoo.load_entry('s3_tiny'))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / 'net.png'
    assert main(['zoo', 'picture', 's3_tiny', '--out', str(target)]) == 0
    assert target.read_bytes() == draw_architecture(zoo.load_entry('s3_tiny'))
    assert capsys.readouterr().out == f'{target}: written\n'
    assert main(['zoo', 'picture', 's3_tiny', '--out', str(tmp_path / 'net.gif')]) == 1
    assert '.png or .svg' in capsys.readouterr().err
    assert main(['zoo', 'picture', 's3_tyni', '--out', str(target)]) == 1
    assert 's3_tiny' in capsys.readouterr().err
