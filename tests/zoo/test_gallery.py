"""The gallery: the page says what the entries say, needs nothing else, and makes no markup of their texts."""

import ast
import base64
import builtins
import hashlib
import html
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import zoo
from zoo import cli
from zoo.console import main
from zoo.entry import Entry, make_entry
from zoo.gallery import make_gallery
from zoo.gallery_card import describe_stage, list_figures, list_snippets, make_card, shorten
from zoo.outline import Block, Part, Stage, make_outline
from zoo.picture import COLORS

ENTRIES = Path(zoo.__file__).parent / 'entries'
NAMES = zoo.list_entries()
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>\'{{ 7 * 7 }}'
VOID = {'meta', 'link', 'input', 'br', 'img'}


class Page(HTMLParser):
    """The page's elements as (tag, attributes, text), and the text of each article."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[list[Any]] = []
        self.open: list[list[Any]] = []
        self.page = page
        self.feed(page)
        self.close()
        assert not self.open, 'elements that are not closed'

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), attrs
        element = [tag, dict(attrs), '']
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element[2] += data

    def find(self, tag: str, **wanted: str) -> list[list[Any]]:
        return [
            element
            for element in self.elements
            if element[0] == tag and wanted.items() <= {'class': '', **element[1]}.items()
        ]

    def card(self, name: str) -> str:
        """One article, as a page's part."""
        start = self.page.index(f'<article class="card" id="{name}"')
        return self.page[start : self.page.index('</article>', start)]


@pytest.fixture(scope='module')
def page() -> Page:
    return Page(make_gallery())


def altered(**changes: Any) -> Entry:
    """An entry of another name, as a user's file would have it."""
    data = json.loads((ENTRIES / 's3_tiny.json').read_text())
    return make_entry({**data, 'name': 'mine', **changes})


def test_there_is_a_card_for_every_entry(page: Page) -> None:
    assert [attrs['id'] for _, attrs, _ in page.find('article')] == NAMES
    links = [text for _, attrs, text in page.find('a') if attrs['href'] == f'#{text}']
    assert links == NAMES * 2, 'in the list, and as titles'


@pytest.mark.parametrize('name', NAMES)
def test_a_card_says_what_the_entry_says(name: str, page: Page) -> None:
    entry, card = zoo.load_entry(name), html.unescape(page.card(name))
    assert entry.measured is not None
    wanted = [
        f'{entry.measured.params:,}',
        f'{entry.measured.macs:,}',
        entry.family,
        entry.provenance.kind.replace('_', ' '),
        entry.provenance.note,
        f'{"x".join(map(str, entry.input.size))} images, {entry.num_classes} classes',
        f"timm.create_model('{name}'",
    ]
    if entry.published:
        wanted += [entry.published.source, entry.published.note or '']
        wanted += [f'{entry.published.top1:g} %'] if entry.published.top1 is not None else []
        wanted += [f'{100 * value:+.2f} %' for value in entry.deviations().values()]
    for tag, weights in (entry.weights or {}).items():
        wanted += [tag, weights.license or 'none was given', weights.data or 'not known', weights.note or '']
        wanted += [f'{value:g}' for value in (weights.metrics or {}).values()]
        wanted += [weights.evaluation or '']
        for source in weights.sources:
            wanted += [source.place, source.sha256 or 'sha256 not known yet']
    if not entry.weights:
        wanted += ['no weights', f'{name} has no published weights: ']
    assert [text for text in wanted if text not in card] == []


@pytest.mark.parametrize('name', NAMES)
def test_the_picture_has_the_parts_of_the_network(name: str, page: Page) -> None:
    entry = zoo.load_entry(name)
    outline = make_outline(entry.arch, entry.input.size[1:])
    picture = page.card(name).partition('<figcaption>')[0]
    assert picture.count('<div class="stage">') == len(outline.stages)
    assert picture.count('<div class="block">') == len(outline.blocks)
    drawn = re.findall(r'<i class="(\w+)" style="height:(\d+)px(?:;width:([\d.]+)%)?">([^<]*)</i>', picture)
    assert [(operator, text) for operator, _, _, text in drawn] == [
        (part.operator, part.text) for part in outline.parts
    ]
    for (_, _, width, _), part in zip(drawn, outline.parts, strict=True):
        assert float(width or 100) == pytest.approx(100 * part.share, rel=1e-3)
    for lines in range(4):
        heights = [
            (part.size, int(height))
            for (_, height, _, _), part in zip(drawn, outline.parts, strict=True)
            if part.text.count('\n') == lines
        ]
        assert [height for _, height in sorted(heights)] == sorted(height for _, height in heights)


def test_the_page_needs_nothing_else(page: Page) -> None:
    outside = [attrs for tag, attrs, _ in page.elements if tag != 'a' and {'src', 'href'} & set(attrs)]
    assert outside == [{'rel': 'icon', 'href': 'data:,'}]
    assert not {tag for tag, _, _ in page.elements} & {
        'img',
        'iframe',
        'object',
        'embed',
        'video',
        'audio',
        'base',
    }
    (style,) = page.find('style')
    assert not re.search(r'url\(|@import|@font-face', style[2])
    (script,) = page.find('script')
    assert not re.search(r'https?:|fetch|XMLHttp|import\b|innerHTML|eval\b', script[2])
    (policy,) = [a['content'] for _, a, _ in page.find('meta') if 'http-equiv' in a]
    digest = base64.b64encode(hashlib.sha256(script[2].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}';" in policy
    assert len(page.page.encode()) < 4_000_000


def test_no_text_of_an_entry_becomes_markup() -> None:
    weights = {
        'sources': [{'page': 'https://x.org/"><script>alert(3)</script>'}],
        'license': EVIL, 'data': EVIL, 'note': EVIL, 'metrics': {'top1': 1}, 'evaluation': EVIL,
    }  # fmt: skip
    published = {'params': 1e6, 'top1': 50, 'source': EVIL, 'note': EVIL, 'reproducible': False}
    provenance = {'kind': 'searched', 'note': EVIL, 'commit': EVIL, 'cost': {'steps': EVIL}}
    provenance['config'] = {'method': EVIL}
    zoo.register(altered(provenance=provenance, published=published, weights={'own': weights}))
    page = Page(make_gallery(['mine']))
    assert len(page.find('script')) == 1
    assert not page.find('img')
    assert not [attrs for _, attrs, _ in page.elements if any(key.startswith('on') for key in attrs)]
    (article,) = page.find('article')
    texts = json.dumps([provenance, published, weights]).count('alert(1)')
    assert article[2].count(EVIL) == texts == 10, 'each is shown as it is written'


def test_same_entries_same_bytes(page: Page) -> None:
    assert make_gallery() == page.page
    assert make_gallery(NAMES[:3]) != page.page


def test_references_within_the_page(page: Page) -> None:
    ids = [attrs['id'] for _, attrs, _ in page.elements if 'id' in attrs]
    assert len(ids) == len(set(ids))
    used = [attrs['href'][1:] for _, attrs, _ in page.find('a') if attrs['href'].startswith('#')]
    for key in ('aria-labelledby', 'aria-describedby'):
        used += [attrs[key] for _, attrs, _ in page.elements if key in attrs]
    assert set(used) <= set(ids)
    (script,) = page.find('script')
    assert set(re.findall(r"find\('([\w-]+)'\)", script[2])) <= set(ids)


def test_for_those_who_do_not_see_it(page: Page) -> None:
    assert page.find('html')[0][1]['lang'] == 'en'
    assert len(page.find('main')) == len(page.find('h1')) == 1
    pictures = page.find('div', role='img')
    assert len(pictures) == len(NAMES)
    assert (
        pictures[NAMES.index('s3_tiny')][1]['aria-label']
        == 'The architecture of s3_tiny: 4 stages, 12 blocks'
    )
    fields = len(page.find('input')) + len(page.find('select'))
    assert len(page.find('label')) == fields == 5
    assert all(attrs.get('scope') for _, attrs, _ in page.find('th'))


def test_filters_offer_what_the_cards_have(page: Page) -> None:
    cards = [attrs for _, attrs, _ in page.find('article')]
    offered = [attrs.get('value', text) for _, attrs, text in page.find('option')]
    for key in ('family', 'kind', 'weights'):
        assert {attrs[f'data-{key}'] for attrs in cards} <= set(offered)
    states = {attrs['id']: attrs['data-weights'] for attrs in cards}
    assert states['s3_tiny'] == states['glit_digits'] == 'auto'
    assert states['glit_tiny'] == 'hand'
    assert states['trionet_a'] == 'none'
    tiny = next(attrs for attrs in cards if attrs['id'] == 's3_tiny')
    assert [tiny[f'data-{key}'] for key in ('params', 'macs', 'top1')] == ['28328674', '4623332352', '82.1']
    digits = next(attrs for attrs in cards if attrs['id'] == 's3_digits')
    assert digits['data-top1'] == ''


def luminance(color: str) -> float:
    """Of WCAG 2: relative, of '#rrggbb'."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_contrast_of_text_in_both_themes(page: Page) -> None:
    (style,) = page.find('style')
    pairs = dict(re.findall(r'--(\w+): light-dark\((#\w+, #\w+)\)', style[2]))
    shades = {name: pair.split(', ') for name, pair in pairs.items()}
    for i in (0, 1):
        for text in ('text', 'quiet', 'link'):
            for ground in ('page', 'card', 'code'):
                values = sorted((luminance(shades[text][i]), luminance(shades[ground][i])))
                assert (values[1] + 0.05) / (values[0] + 0.05) >= 4.5, (text, ground, i)
    (ink,) = re.findall(r'\.block i \{[^}]*[^-]color: (#\w+)', style[2])
    for operator, color in COLORS.items():
        assert f'.{operator} {{ background: {color}; }}' in style[2]
        assert (luminance(color) + 0.05) / (luminance(ink) + 0.05) >= 4, operator


def test_a_stage_in_words() -> None:
    parts = (Part('projection', 0), Part('axial', 1, 'h4\nx0.5'))
    mixed = (Part('global', 1, 'h1\nd24', 0.25), Part('conv1d', 1, 'h3\nk5\nx2', 0.75), Part('mlp', 2, 'x2'))
    blocks = (
        Block('1', parts),
        Block('2', parts),
        Block('3', mixed),
        Block('4', (Part('token_mlp', 1, 'tokens'),)),
    )
    assert describe_stage(Stage('stage 2', '7x7, stride 32\n8 channels', 'patches', blocks)) == (
        'Stage 2 (7x7, stride 32, 8 channels), after patches.',
        [
            'Blocks 1 to 2: 1x1 convolution; axial attention, heads 4, expansion 0.5.',
            'Block 3: global attention, heads 1, width of q, k, v 24 beside '
            'local heads: gated 1-D convolution, heads 3, kernel 5, expansion 2; MLP, expansion 2.',
            'Block 4: token-mixing MLP, tokens.',
        ],
    )


@pytest.mark.parametrize(
    ('value', 'text'),
    [(7, '7'), (999, '999'), (1000, '1.00 k'), (21706, '21.7 k'), (999_499, '999 k'), (999_500, '1.00 M'),
     (5_100_000, '5.10 M'), (116_687_344, '117 M'), (4_623_332_352, '4.62 G')],
)  # fmt: skip
def test_short_counts(value: int, text: str) -> None:
    assert shorten(value) == text


def test_figures_in_the_papers_unit() -> None:
    assert list_figures(zoo.load_entry('glit_tiny')) == [
        ('parameters', '7,264,456', '7.3 M', '-0.49 %'),
        ('MACs', '1,472,873,280', '', ''),
        ('cost (glit)', '1,332,470,592', '1.33 G', '+0.19 %'),
        ('top-1 accuracy', 'not measured', '76.4 %', ''),
    ]
    assert list_figures(altered(measured=None, published=None)) == [
        ('parameters', '', '', ''),
        ('MACs', '', '', ''),
    ]


def test_an_accuracy_that_was_measured_stands_beside_the_published_one() -> None:
    data = json.loads((ENTRIES / 's3_tiny.json').read_text())['weights']
    data['ms_in1k'] |= {'metrics': {'top1': 81.9}, 'evaluation': 'How.'}
    assert list_figures(altered(weights=data))[-1] == ('top-1 accuracy', '81.9 %', '82.1 %', '')


@pytest.mark.parametrize('name', NAMES)
def test_code_is_code(name: str, page: Page) -> None:
    """Python compiles, commands are understood, and their recipes are bundled."""
    entry = zoo.load_entry(name)
    for title, code in list_snippets(entry):
        assert f'<pre>{html.escape(code, quote=False)}</pre>' in page.card(name).replace('&#39;', "'")
        if not code.startswith('searchzoo '):
            ast.parse(code)
        elif title == 'Train it':
            words = shlex.split(code)
            assert words[:5] == ['searchzoo', 'search', 'train', name, entry.recipe]
            assert zoo.config_path(words[4]).is_file()
        else:
            assert cli._parser().parse_args(shlex.split(code)[2:]).target == f'{name}.safetensors'


@pytest.mark.parametrize('name', [name for name in NAMES if name.endswith('_digits')])
def test_code_runs(name: str) -> None:
    entry = zoo.load_entry(name)
    scope: dict[str, Any] = {}
    for title, code in list_snippets(entry):
        if title in ('With weights', 'As a backbone'):
            exec(code, scope)
    scores = scope['model'](torch.zeros(1, *entry.input.size))
    assert scores.shape == (1, entry.num_classes)
    assert scope['backbone'].feature_info.channels()


def test_code_for_weights_that_were_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    entry = zoo.load_entry('glit_tiny')
    model = timm.create_model('glit_tiny')
    save_file(model.state_dict(), tmp_path / 'glit_tiny.safetensors')
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(dict(list_snippets(entry))['With the converted weights'], scope)
    for key, value in model.state_dict().items():
        assert torch.equal(scope['model'].state_dict()[key], value)


def test_code_for_an_entry_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / 'my nets' / 'of mine.json'
    path.parent.mkdir()
    path.write_text(altered().to_json())
    zoo.register(path)
    page = html.unescape(make_gallery(['mine']))
    assert (
        "import zoo\n\nzoo.register('of mine.json')\nmodel = timm.create_model('mine', pretrained=True)"
        in page
    )
    assert "searchzoo search train 'of mine.json' train/s3_imagenet.yaml --out runs/mine" in page
    assert "name='of mine.json', pretrained=True" in page
    assert str(tmp_path) not in page


def test_code_takes_the_weights_that_can_be_fetched() -> None:
    by_hand = {'sources': [{'page': 'https://x.org/'}]}
    fetched = {'sources': [{'hf_hub_id': 'x/y'}]}
    entry = altered(weights={'one': by_hand, 'two': fetched})
    assert "create_model('mine.two', pretrained=True)" in dict(list_snippets(entry))['With weights']
    assert make_card(entry).weights == 'auto'


def test_command(tmp_path: Path, page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / 'gallery.html'
    assert main(['zoo', 'gallery', str(out)]) == 0
    size = len(page.page.encode())
    assert capsys.readouterr() == (f'{out}: written, {len(NAMES)} entries, {size:,} bytes\n', '')
    assert out.read_text(encoding='utf-8') == page.page

    (tmp_path / 'mine.json').write_text(altered().to_json())
    assert main(['zoo', 'gallery', str(out), '--entries', str(tmp_path / 'mine.json')]) == 0
    shown = [attrs['id'] for _, attrs, _ in Page(out.read_text(encoding='utf-8')).find('article')]
    assert shown == zoo.list_entries() == sorted([*NAMES, 'mine'], key=shown.index)
    assert {path.name for path in tmp_path.iterdir()} == {'gallery.html', 'mine.json'}

    with pytest.raises(SystemExit) as stop:
        cli.main(['gallery', '--help'])
    assert stop.value.code == 0
    assert 'example: searchzoo zoo gallery gallery.html' in capsys.readouterr().out


def test_mistakes_are_named_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'folder.html').mkdir()
    (tmp_path / 'bad.json').write_text('{"name": "Bad"}')
    kept = tmp_path / 'kept.html'
    kept.write_text('old')
    for argv, message in [
        (
            [tmp_path / 'page.txt'],
            f"OUT: found '{tmp_path / 'page.txt'}', the name of a .html file is needed.",
        ),
        ([tmp_path / 'folder.html'], 'the name of a .html file is needed.'),
        ([tmp_path / 'no' / 'page.html'], f'page.html: there is no folder {tmp_path / "no"}.'),
        (
            [kept, '--entries', tmp_path / 'none.json'],
            'none.json: cannot be read: No such file or directory.',
        ),
        ([kept, '--entries', tmp_path / 'bad.json'], "bad.json: $.name: found 'Bad', "),
    ]:
        assert main(['zoo', 'gallery', *map(str, argv)]) == 1
        out, err = capsys.readouterr()
        assert (out, message in err, 'Traceback' in err) == ('', True, False), err
    assert kept.read_text() == 'old'


def test_jinja2_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split('.')[0] == 'jinja2':
            raise ModuleNotFoundError("No module named 'jinja2'", name='jinja2')
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', refuse)
    assert main(['zoo', 'gallery', str(tmp_path / 'page.html')]) == 1
    assert capsys.readouterr().err == (
        "`searchzoo zoo` needs jinja2, which is not installed: pip install 'searchzoo[search]'.\n"
    )
    assert not list(tmp_path.iterdir())
