"""The command line of the zoo: ``searchzoo zoo ...``, also ``python -m zoo ...``."""

import argparse
import sys
from pathlib import Path

from zoo import autoload, evaluate, export_command, gallery
from zoo.entry import Entry, Source, read_entry
from zoo.errors import ZooError
from zoo.files import write_atomic
from zoo.hub import publish, verify
from zoo.jsonfile import format_json
from zoo.registry import list_entries, load_entry, suggest

__all__ = ['main']

DESCRIPTION = (
    'The zoo: its entries and their weights, which it explains, checks, measures, exports and publishes.'
)

EXAMPLES = """examples:
  searchzoo zoo list 'uninet_*'
  searchzoo zoo info s3_tiny --size 512
  searchzoo zoo validate my_network.json
  searchzoo zoo convert s3_tiny S3-T.pth s3_tiny.safetensors
  searchzoo zoo verify --all
"""


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments after ``searchzoo zoo``, by default those of the process.

    Returns:
        Exit code: 0, or 1 if ``validate`` found a fault.

    Raises:
        ZooError: The user's mistake, in one sentence.
        SystemExit: With code 2 on wrong usage, with 0 after ``--help``.
    """
    args = _parser().parse_args(argv)
    return int(args.run(args))


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        'searchzoo zoo', description=DESCRIPTION, epilog=EXAMPLES, formatter_class=raw
    )
    commands = parser.add_subparsers(metavar='COMMAND', required=True)

    command = commands.add_parser(
        'list', help='list the entries', epilog="example: searchzoo zoo list 's3_*'"
    )
    command.add_argument('pattern', nargs='?', default='*', metavar='PATTERN', help='shell pattern of names')
    command.set_defaults(run=_list)

    command = commands.add_parser(
        'info',
        help='show what is known about an entry',
        epilog='example: searchzoo zoo info s3_tiny --size 384',
    )
    command.add_argument('name', metavar='NAME', help="a name, or the path of an entry's .json file")
    command.add_argument('--size', type=_side, metavar='PIXELS', help='count MACs at this height and width')
    command.set_defaults(run=_info)

    command = commands.add_parser(
        'validate', help="check entries' files", epilog='example: searchzoo zoo validate DIR/*.json'
    )
    command.add_argument('files', nargs='+', metavar='FILE')
    command.set_defaults(run=_validate)

    command = commands.add_parser(
        'convert',
        help='convert an official checkpoint',
        epilog='example: searchzoo zoo convert s3_tiny S3-T.pth s3_tiny.safetensors',
    )
    command.add_argument('name', metavar='NAME', help='the entry whose network it is')
    command.add_argument(
        'source', metavar='SRC', help='.safetensors, or what torch.save wrote (no code is run)'
    )
    command.add_argument('target', metavar='DST.safetensors')
    command.add_argument('--key', help='where in the checkpoint the weights are, such as state_dict_ema')
    command.set_defaults(run=_convert)

    command = commands.add_parser(
        'table',
        help='print the Markdown table of all entries',
        epilog='example: searchzoo zoo table --write README.md',
    )
    command.add_argument('--write', metavar='FILE', help='write it between the markers of this file instead')
    command.set_defaults(run=_table)

    command = commands.add_parser(
        'picture',
        help="draw an entry's architecture",
        epilog='example: searchzoo zoo picture s3_tiny --out s3_tiny.png',
    )
    command.add_argument('name', metavar='NAME', help="a name, or the path of an entry's .json file")
    command.add_argument('--out', required=True, metavar='FILE', help='of the ending .png or .svg')
    command.set_defaults(run=_picture)

    command = commands.add_parser(
        'schema',
        help="print the JSON Schema of an entry's file",
        epilog='example: searchzoo zoo schema --write entry.schema.json',
    )
    command.add_argument('--write', metavar='FILE', help='write it to this file instead')
    command.set_defaults(run=_schema)

    command = commands.add_parser(
        'measure',
        help='count params and MACs and store them in entry files, written in canonical form',
        epilog='example: searchzoo zoo measure my_network.json',
    )
    command.add_argument('files', nargs='+', metavar='FILE')
    command.set_defaults(run=_measure)

    autoload.add_parser(commands)
    evaluate.add_parser(commands)
    export_command.add_parser(commands)
    gallery.add_parser(commands)
    publish.add_parser(commands)
    verify.add_parser(commands)
    return parser


def _side(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 1 to 4096')
    return int(text)


def _list(args: argparse.Namespace) -> int:
    names = list_entries(args.pattern)
    if not names:
        raise ZooError(f'No entry matches {args.pattern!r}{suggest(args.pattern, list_entries())}.')
    width = max(map(len, names))
    for name in names:
        entry = load_entry(name)
        size = 'x'.join(map(str, entry.input.size[1:]))
        tags = ' '.join(entry.weights or ()) or 'no weights'
        cost = ''
        if entry.measured:
            cost = f'{entry.measured.params / 1e6:8.2f} M params {entry.measured.macs / 1e9:7.2f} G MACs'
        print(f'{name:{width}}  {size:>9} {cost:36}  {tags}')
    return 0


def _info(args: argparse.Namespace) -> int:
    entry = _find(args.name)
    for label, value in _facts(entry, args.size):
        print(f'{label:13}{value}')
    return 0


def _find(name: str) -> Entry:
    """An entry by its name, or by its file."""
    return read_entry(name) if name.endswith('.json') else load_entry(name)


def _facts(entry: Entry, size: int | None) -> list[tuple[str, str]]:
    from zoo.profile import build_meta, profile  # imports torch's counters, which only this command needs

    channels, height, width = entry.input.size
    if size:
        height = width = size
    try:
        found = profile(build_meta(entry, (channels, height, width)), (channels, height, width))
    except (ValueError, RuntimeError, AssertionError) as error:
        raise ZooError(f'{entry.name} cannot be built for {height}x{width} pixels: {error}') from error
    facts = [
        ('name', entry.name),
        ('family', entry.family),
        ('input', f'{channels}x{height}x{width}, {entry.num_classes} classes'),
        ('params', f'{found.params:,}'),
        ('MACs', f'{found.macs:,}'),
    ]
    if published := entry.published:
        figures = [f'{published.params / 1e6:g} M params'] if published.params else []
        figures += [f'{published.cost.value / 1e9:g} G ({published.cost.unit})'] if published.cost else []
        figures += [f'{published.top1:g} % top-1'] if published.top1 is not None else []
        facts.append(('published', f'{", ".join(figures)}; {published.source}'))
        compared = [f'{key} {100 * value:+.2f} %' for key, value in entry.deviations().items()]
        facts += [('deviation', ', '.join(compared))] if compared else []
        facts += [('', published.note)] if published.note else []
    for tag, weights in (entry.weights or {}).items():
        facts += [
            ('weights' if i == 0 else '', f'{tag}: {_describe_source(source)}')
            for i, source in enumerate(weights.sources)
        ]
        facts.append(
            ('', f'license: {weights.license or "none was given"}; data: {weights.data or "not known"}')
        )
        facts += [('', f'{key} {value:g}') for key, value in (weights.metrics or {}).items()]
        facts += [('', text) for text in (weights.evaluation, weights.note) if text]
        if weights.by_hand:
            facts.append(('', f'then: searchzoo zoo convert {entry.name} FILE {entry.name}.safetensors'))
    if not entry.weights:
        facts.append(('weights', 'none published'))
    if entry.recipe:
        facts.append(('recipe', f'searchzoo search train {entry.name} {entry.recipe}'))
    facts.append(('architecture', f'{entry.provenance.kind.replace("_", " ")}: {entry.provenance.note}'))
    return facts


def _describe_source(source: Source) -> str:
    how = 'download by hand from ' if source.page else ''
    revision = f'@{source.revision}' if source.revision else ''
    size = f', {source.size:,} bytes' if source.size else ''
    return f'{how}{source.place}{revision} (sha256 {source.sha256 or "not known yet"}{size})'


def _validate(args: argparse.Namespace) -> int:
    faulty = False
    for file in args.files:
        try:
            read_entry(file)
        except ZooError as error:
            print(error)
            faulty = True
        else:
            print(f'{file}: valid')
    return int(faulty)


def _convert(args: argparse.Namespace) -> int:
    from zoo.convert import convert

    done = convert(args.name, args.source, args.target, args.key)
    place = f' (from {done.key!r})' if done.key else ''
    print(f'{done.path}: written{place}, sha256 {done.sha256}')
    print(
        f"timm.create_model('{args.name}', pretrained=True, pretrained_cfg_overlay=dict(file='{done.path}'))"
    )
    return 0


def _table(args: argparse.Namespace) -> int:
    from zoo.table import markdown_table, replace_table

    if args.write:
        path = Path(args.write)
        write_atomic(path, replace_table(path.read_text(encoding='utf-8'), args.write).encode())
    else:
        sys.stdout.write(markdown_table())
    return 0


def _picture(args: argparse.Namespace) -> int:
    from zoo.picture import draw_architecture

    ending = args.out.rpartition('.')[2]
    if ending not in ('png', 'svg'):
        raise ZooError(f'--out: found {args.out!r}, the name of a .png or .svg file is needed.')
    write_atomic(Path(args.out), draw_architecture(_find(args.name), file_format=ending))
    print(f'{args.out}: written')
    return 0


def _schema(args: argparse.Namespace) -> int:
    from zoo.schema import entry_schema

    text = format_json(entry_schema())
    if args.write:
        write_atomic(Path(args.write), text.encode())
    else:
        sys.stdout.write(text)
    return 0


def _measure(args: argparse.Namespace) -> int:
    from zoo.profile import measure

    entries = [(file, read_entry(file)) for file in args.files]
    for file, entry in entries:
        measured = measure(entry)
        write_atomic(Path(file), entry.model_copy(update={'measured': measured}).to_json().encode())
        print(f'{file}: {measured.params:,} params, {measured.macs:,} MACs')
    return 0
