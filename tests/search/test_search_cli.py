"""``searchzoo search``: configs and their mistakes, exit codes, and what is printed."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from search.cli import describe
from search.config import OneShotConfig, load_config
from search.methods import METHODS
from search.problem import Problem
from search.run import Interrupted
from search.yamlfile import parse_yaml
from zoo.console import main
from zoo.errors import ZooError
from zoo.registry import config_path, load_entry

TINY = Path(__file__).with_name('tiny.yaml')
BOMB = b'b0: &b0 [0]\n' + b''.join(b'b%d: &b%d [*b%d, *b%d]\n' % (i, i, i - 1, i - 1) for i in range(1, 40))
MINIMAL = ['search.evaluations=3', 'supernet.recipe.epochs=1', 'retrain.epochs=1', 'compare=null']


class TestConfigs:
    def test_bundled_ones_are_valid(self):
        for path in sorted(config_path('search/s3_digits.yaml').parent.glob('*.yaml')):
            load_config(path)

    def test_the_demo_can_start(self):
        problem = Problem(load_config(config_path('search/demo.yaml')))
        assert problem.space.space.size() == 1_267_812
        assert 0.1 < problem.sampler.share() < 0.5

    def test_imagenet_has_the_papers_settings(self):
        config = load_config(config_path('search/s3_imagenet.yaml'))
        recipe = config.supernet.recipe
        assert (recipe.epochs, recipe.batch_size, recipe.warmup_epochs) == (300, 1024, 20)
        assert (recipe.lr, recipe.min_lr, recipe.weight_decay) == (1e-3, 1e-5, 0.05)
        assert (recipe.label_smoothing, recipe.drop_path_rate) == (0.1, 0.2)
        assert (config.supernet.largest, config.supernet.smallest, config.supernet.random) == (True, True, 2)
        assert (config.input.size, config.input.crop_pct) == ((3, 224, 224), 0.875)
        assert config.space == 's3'

    def test_what_does_not_decide_the_result_is_left_out(self):
        one = load_config(TINY).decisive()
        other = load_config(TINY, ['data.root=/elsewhere', 'data.num_workers=4', 'checkpoint_seconds=1'])
        assert other.decisive() == one
        assert load_config(TINY, ['seed=4']).decisive() != one
        assert OneShotConfig.model_validate_json(load_config(TINY).model_dump_json()).decisive() == one

    @pytest.mark.parametrize(
        ('override', 'key', 'value'),
        [
            ('seed=12', ('seed',), 12),
            ('supernet.recipe.lr=1e-3', ('supernet', 'recipe', 'lr'), 1e-3),
            ('search.limits.params=[1, 2e6]', ('search', 'limits', 'params'), (1, 2e6)),
            ('data.root=', ('data', 'root'), None),
            ('compare=null', ('compare',), None),
        ],
    )
    def test_overrides_are_yaml(self, override, key, value):
        config = load_config(TINY, [override])
        for name in key:
            config = getattr(config, name)
        assert config == value

    @pytest.mark.parametrize(
        ('override', 'message'),
        [
            (
                'supernet.recipe.epoch=3',
                r'\$.supernet.recipe.epoch: found 3, this key is not known here.*epochs',
            ),
            ('supernet.recipe.epochs=0', r'\$.supernet.recipe.epochs: found 0'),
            ('supernet.recipe.epochs=many', r"\$.supernet.recipe.epochs: found 'many'"),
            ('retrain=null', 'retrain is needed'),
            ('seed.x=1', 'seed has no keys in this config'),
            ('=1', 'found no key=value'),
            ('seed=[1', 'not YAML'),
            ('supernet={recipe: {epochs: 1, epochs: 2}}', "found the key 'epochs' twice"),
            ('input.mean=[.nan]', 'input'),
            ('seed=\ud800', 'byte 0 is not UTF-8'),
            ('\x1b' * 5000 + '=1', 'found no key=value'),
        ],
    )
    def test_mistakes_are_named(self, override, message):
        with pytest.raises(ZooError, match=message) as caught:
            load_config(TINY, [override])
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize(
        'content', [b'', b'- 1', b'\xff', b'a: [', b'a: !!python/object:os.system {}', b'? [a]: 1']
    )
    def test_files_that_are_no_config(self, tmp_path, content):
        (tmp_path / 'config.yaml').write_bytes(content)
        with pytest.raises(ZooError, match=r'config\.yaml'):
            load_config(tmp_path / 'config.yaml')

    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            (BOMB, 'found more than 50000 values'),
            (b'a: &a [*a]', r'\$.*: nested too deeply'),
            (b'a: ' + b'- ' * 50_000, 'found more than 100000 bytes'),
            (
                b'a: {b: 2024-01-01}',
                r'\$\.a\.b: found datetime\.date\(2024, 1, 1\), text, a number, .* is needed',
            ),
            (b'a: !!set {b}', r"\$\.a: found \{'b'\}, text, a number"),
            (b'a: {1: 2}', r'\$\.a: found the key 1, text is needed'),
            (b'a: [.inf]', r'\$\.a\[0\]: found inf, a finite number is needed'),
            (b'{[a]: b}', 'not YAML: found a key that is no text at line 1 column 2'),
            (b'a: \0', 'not YAML: special characters are not allowed'),
            (b'a: !!timestamp 1', 'not YAML: AttributeError'),
            (b'a: !!bool x', 'not YAML: KeyError'),
            (b"a: !!int ''", 'not YAML: IndexError'),
            (b'a: 0x_', 'not YAML: ValueError'),
        ],
        ids=range(13),
    )
    def test_yaml_that_json_cannot_hold(self, content, message):
        with pytest.raises(ZooError, match=f'^text: {message}') as caught:
            parse_yaml(content, 'text')
        assert str(caught.value).isprintable()

    def test_anchors_are_fine(self):
        assert parse_yaml(b'a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}', 'text') == {
            'a': {'b': 1},
            'c': {'b': 1},
            'd': {'b': 1, 'e': 2},
        }

    @pytest.mark.parametrize(
        ('text', 'value'),
        [
            ('1e-3', 0.001),
            ('1.5E+3', 1500.0),
            ('-2e4', -20000.0),
            ('3', 3),
            ('e5', 'e5'),
            ('1e', '1e'),
            ('0.1', 0.1),
        ],
    )
    def test_numbers(self, text, value):
        found = parse_yaml(text.encode(), 'text')
        assert found == value
        assert type(found) is type(value)


class TestExitCodes:
    def test_usage(self, capsys):
        assert main(['search']) == 2
        assert main(['search', 'run', str(TINY)]) == 2
        assert main(['search', 'run', str(TINY), '--out', 'x', '--speed', '3']) == 2
        assert main(['search', 'run', str(TINY), '--out', 'x', 'fast']) == 2
        assert 'unrecognized arguments: fast' in capsys.readouterr().err

    @pytest.mark.parametrize('command', [[], ['run'], ['demo']])
    def test_help_has_examples(self, command, capsys):
        assert main(['search', *command, '--help']) == 0
        assert 'searchzoo search run configs/search/s3_digits.yaml --out' in capsys.readouterr().out

    @pytest.mark.parametrize(
        'args',
        [
            ['nothing.yaml', '--out', '{tmp}'],
            [str(TINY), '--out', '{tmp}', 'sead=3'],
            [str(TINY), '--out', '{tmp}', 'data.name=folder', 'data.root={tmp}'],
            [str(TINY), '--out', '{tmp}', 'search.limits.macs=[0, 1]'],
            [str(TINY), '--out', str(TINY)],
        ],
    )
    def test_mistakes_are_one_sentence(self, args, tmp_path, capsys):
        assert main(['search', 'run', *(arg.format(tmp=tmp_path) for arg in args)]) == 1
        error = capsys.readouterr().err
        assert error.count('\n') == 1
        assert 'Traceback' not in error
        assert list(tmp_path.iterdir()) == []

    def test_interrupted(self, tmp_path, capsys, monkeypatch):
        def stop(config, folder):
            raise Interrupted

        monkeypatch.setitem(METHODS, 'one_shot', stop)
        assert main(['search', 'run', str(TINY), '--out', str(tmp_path), 'seed=1']) == 130
        error = capsys.readouterr().err
        assert f'the same command continues: searchzoo search run {TINY} --out {tmp_path} seed=1' in error


def test_run_prints_what_it_found(tmp_path, capsys):
    folder = tmp_path / 'run'
    assert (
        main(['search', 'run', str(TINY), '--out', str(folder), 'name=tiny_printed', 'search.evaluations=4'])
        == 0
    )
    captured = capsys.readouterr()
    assert 'training the supernet: done in' in captured.err
    assert 'Found tiny_printed' in captured.out
    assert re.search(
        r'stage 1: embed_dim \d+\n +block 1: num_heads 1, window_size \d, mlp_ratio', captured.out
    )
    assert re.search(r'params [\d,]+   MACs [\d,]+', captured.out)
    assert re.search(r'test accuracy \d+\.\d\d %', captured.out)
    assert re.search(r'found, 2 trainings +[\d,]+( +[\d.]+ ± [\d.]+){2}', captured.out)
    assert re.search(r'random, 2 networks of equal cost +[\d,]+( +[\d.]+ ± [\d.]+){2}', captured.out)

    assert (
        main(['search', 'run', str(TINY), '--out', str(folder), 'name=tiny_printed', 'search.evaluations=5'])
        == 1
    )
    assert 'search.evaluations was 4, now 5' in capsys.readouterr().err


def test_demo_draws_predictions(tmp_path, capsys):
    overrides = [*MINIMAL, 'name=tiny_demo', 'supernet.recipe.batch_size=512', 'retrain.batch_size=512']
    assert main(['search', 'demo', '--out', str(tmp_path), *overrides, 'data.num_workers=0']) == 0
    output = capsys.readouterr().out
    drawing = output.split('as that model sees them:\n\n')[1].splitlines()
    assert all(len(line) == 5 * 16 + 4 * 3 for line in drawing[:8])
    assert len(re.findall(r'\d \(\d+ %\), is \d', drawing[8])) == 5
    page = tmp_path / 'report' / 'index.html'
    assert drawing[9:] == ['', f'The report, a page for any browser: {page}']
    assert 'data:image/png;base64,' in page.read_text()


def test_ctrl_c(tmp_path):
    command = [sys.executable, '-m', 'search', 'run', str(TINY), '--out', str(tmp_path)]
    overrides = ['supernet.recipe.epochs=500', 'checkpoint_seconds=0']
    process = subprocess.Popen([*command, *overrides], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / 'checkpoint.pt').exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    error = process.communicate()[1]
    assert process.returncode == 130, error
    assert 'Traceback' not in error
    assert 'Stopping after the next checkpoint' in error
    assert f'the same command continues: searchzoo search run {TINY} --out {tmp_path}' in error


@pytest.mark.parametrize(
    ('name', 'lines'),
    [
        ('trionet_a', ['stage 1:', '  block 1: operator conv, expansion 0.25, kernel_size 3']),
        ('carnet_c80', ['channels 80', 'operator 1: local_k3_h8 local_k3_h8 local_k3_h8']),
        ('s3_tiny', ['stage 1: embed_dim 96', '  block 1: num_heads 3, window_size 7, mlp_ratio 4.0']),
        ('uninet_b0', ['stage 1: operator dwconv, expansion 1.0, channels 24, repeats 1']),
        ('glit_tiny', ['block 1: global_heads 3, local_heads 0, qkv_dim 96, mlp_ratio 4.0']),
    ],
)
def test_architectures_are_described(name, lines):
    described = describe(load_entry(name).arch.model_dump(mode='json'))
    start = described.index(lines[0])
    assert described[start : start + len(lines)] == lines
