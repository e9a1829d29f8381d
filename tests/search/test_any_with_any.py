"""Any strategy searches any space with any evaluator: the whole product, on tiny settings."""

import itertools
import json
import math
from pathlib import Path

import pytest
import yaml

from search.candidates import make_evaluator
from search.config import load_config
from search.problem import Problem
from zoo.errors import ZooError

HERE = Path(__file__).parent
ATTENTION = {'expansion': [0.5], 'qk_rate': [1.0], 'v_rate': [0.5], 'num_heads': [1]}
BLOCK = {
    'conv': {'expansion': [0.5], 'kernel_size': [1, 3]},
    'local': ATTENTION | {'kernel_size': [3]},
    'axial': ATTENTION,
}
SIDES = {'s3': 16, 'carnet': 8}
"""Of images, where the stride is not 32."""
SPACES = {
    's3': yaml.safe_load((HERE / 'tiny.yaml').read_text())['space'],
    'trionet': {
        'family': 'trionet',
        'out_channels': [8, 8, 16, 16],
        'stages': [BLOCK | {'depth': depth} for depth in ([1, 2], [1], [1], [1])],
    },
    'glit': {
        'family': 'glit',
        'embed_dim': 12,
        'depth': 2,
        'all_global': {'qkv_dim': [12, 24], 'mlp_ratio': [1, 2]},
        'all_local': {'kernel_size': [3, 5], 'expansion': [1], 'mlp_ratio': [1]},
        'mixed': {'kernel_size': [3], 'expansion': [1, 2], 'mlp_ratio': [1]},
    },
    'uninet': {
        'family': 'uninet',
        'first': {'operator': 'dwconv', 'expansion': 1.0, 'channels': 8, 'repeats': 1},
        'stages': [
            {'expansion': [1, 2], 'channels': [8], 'repeats': [1, 2]},
            {'operator': ['sa', 'mlp'], 'expansion': [1], 'channels': [8, 16], 'repeats': [1]},
        ],
        'strides': [1, 2, 2],
        'stem_channels': 8,
        'head_channels': 16,
    },
    'carnet': {'family': 'carnet', 'stages': [{'layers': 1, 'operators': ['local_k3_h4', 'non_local']}] * 5},
}
STRATEGIES = {
    'random': {'name': 'random'},
    'evolution': {'name': 'evolution', 'population': 2, 'parents': 1, 'mutation': 1, 'crossover': 0},
    'ppo': {'name': 'ppo', 'batch': 2},
}
RECIPE = {'epochs': 1, 'batch_size': 512, 'lr': 0.01}
EVALUATORS = 'supernet', 'proxy', 'table'
CANDIDATES = 3


def make_problem(space: str, evaluator: str, strategy: str, table: Path) -> Problem:
    side = SIDES.get(space, 32)
    supernet = {'recipe': RECIPE, 'largest': False, 'smallest': False, 'random': 1}
    changes = {
        'name': 'product',
        'input': {'size': [1, side, side], 'mean': [0.3], 'std': [0.35]},
        'space': SPACES[space],
        'supernet': supernet if evaluator == 'supernet' else None,
        'search': {
            'evaluator': {
                'supernet': {'kind': 'supernet'},
                'proxy': {'kind': 'proxy', 'recipe': RECIPE},
                'table': {'kind': 'table', 'file': str(table)},
            }[evaluator],
            'strategy': STRATEGIES[strategy],
            'evaluations': CANDIDATES,
            'calibration_images': 64,
            'batch_size': 64,
        },
        'retrain': RECIPE,
        'compare': None,
    }
    path = table.parent / 'config.yaml'
    path.write_text(json.dumps(changes))
    return Problem(load_config(path))


@pytest.fixture(scope='module')
def evaluators(tmp_path_factory):
    """One evaluator for each space and kind, with an untrained supernet; what was evaluated is kept."""
    from safetensors.torch import save_file

    made: dict = {}

    def find(space: str, kind: str):
        if (space, kind) not in made:
            folder = tmp_path_factory.mktemp(f'{space}_{kind}')
            table = folder / 'table.jsonl'
            problem = make_problem(space, kind, 'random', table)
            if kind == 'supernet':
                store = problem.make_supernet().store
                save_file(
                    {k: v.detach().contiguous() for k, v in store.items()}, folder / 'supernet.safetensors'
                )
            if kind == 'table':
                genotypes = problem.space.space.enumerate()
                lines = ({'genotype': g, 'metrics': {'top1': float(sum(g))}} for g in genotypes)
                table.write_text('\n'.join(map(json.dumps, lines)))
            made[space, kind] = make_evaluator(problem, folder), {}, table
        return made[space, kind]

    return find


@pytest.mark.parametrize('strategy', STRATEGIES)
@pytest.mark.parametrize(
    ('space', 'evaluator'), [p for p in itertools.product(SPACES, EVALUATORS) if p != ('uninet', 'supernet')]
)
def test_any_strategy_on_any_space_with_any_evaluator(space, evaluator, strategy, evaluators):
    evaluate, known, table = evaluators(space, evaluator)
    problem = make_problem(space, evaluator, strategy, table)
    asker = problem.make_strategy()
    archs = set()
    for _ in range(CANDIDATES):
        genotype = asker.ask()
        if genotype not in known:
            known[genotype] = evaluate(genotype)
        assert math.isfinite(known[genotype].score)
        assert 'top1' in known[genotype].metrics
        asker.tell(genotype, known[genotype].score)
        archs.add(problem.space.decode(genotype))
    assert len(archs) == CANDIDATES


def test_uninet_has_no_supernet(tmp_path):
    with pytest.raises(ZooError, match='supernet'):
        make_problem('uninet', 'supernet', 'random', tmp_path / 'table.jsonl').make_supernet()
