"""What a search says about itself at its end, against what its files say when they are counted by hand."""

import json
import math
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from interruptions import Recorder, Stop, read_all
from scipy.stats import entropy

from search import data as search_data
from search.checklist import build_checklist
from search.checklist_report import describe_checklist
from search.config import RunConfig, load_config
from search.data import Data, DataConfig
from search.evaluate import validate
from search.evidence import compare_ranks, find_front, summarise_random, trace_best
from search.fingerprint import describe_data, fingerprint
from search.methods import METHODS
from search.problem import Problem
from search.run import Run
from search.seeds import describe_seeds, find_overlap, run_seeds
from search.strategies import make_strategy
from zoo.console import main
from zoo.entry import Input, read_entry
from zoo.errors import ZooError

HERE = Path(__file__).parent
GREY = Input(size=(1, 8, 8), mean=(0.3,), std=(0.35,))
SHORT = ('supernet.recipe.epochs=1', 'retrain.epochs=1', 'compare=null')
KEYS = {
    *('space', 'provenance', 'evaluations', 'time', 'best', 'front', 'random', 'history', 'recheck'),
    *('val', 'test', 'comparison', 'rank_correlation', 'predictor', 'space_search', 'ppo', 'differentiable'),
}


def load(name: str, *overrides: str) -> RunConfig:
    return load_config(HERE / f'{name}.yaml', overrides)


def search(folder: Path, name: str, *overrides: str) -> Path:
    config = load(name, *overrides)
    METHODS[config.method](config, folder, quiet=True)
    return folder


def read(folder: Path, name: str = 'result.json'):
    return json.loads((folder / name).read_text())


@pytest.fixture(scope='module')
def one_shot(tmp_path_factory) -> Path:
    """With images held out of val, networks of equal cost, and the test split."""
    return search(tmp_path_factory.mktemp('one_shot'), 'tiny', 'data.recheck_size=0.25')


@pytest.fixture(scope='module')
def runs(one_shot, tmp_path_factory) -> dict[str, Path]:
    """One of each method."""
    changes = {'tiny_glit': (), 'tiny_s3_space': ('compare=null',), 'tiny_carnet': ()}
    changes['tiny_uninet'] = ('search.baseline=false',)
    folders = {name: search(tmp_path_factory.mktemp(name), name, *more) for name, more in changes.items()}
    return {'tiny': one_shot} | folders


class TestEveryMethod:
    def test_all_points_are_there(self, runs):
        for folder in runs.values():
            assert read(folder).keys() == KEYS

    def test_it_is_derived_again_from_the_folder_alone(self, runs):
        for folder in runs.values():
            assert json.loads(json.dumps(build_checklist(folder))) == read(folder)

    def test_best_is_what_was_emitted(self, runs):
        for name, folder in runs.items():
            entry, best = read(folder, f'{name}.json'), read(folder)['best']
            assert (best['params'], best['macs']) == (entry['measured']['params'], entry['measured']['macs'])
            if name != 'tiny_s3_space':
                problem = Problem(load(name))
                arch = problem.space.decode(tuple(best['genotype']))
                assert arch == read_entry(folder / f'{name}.json').arch
                assert problem.space.space.values(tuple(best['genotype'])) == best['values']

    def test_what_is_null_is_printed_as_not_measured(self, runs):
        for folder in runs.values():
            found = read(folder)
            lines = describe_checklist(found)
            for key, name in (('front', 'front of score and MACs'), ('test', 'accuracy on test'),
                              ('rank_correlation', 'rank correlation'), ('predictor', 'predictor'),
                              ('ppo', 'policy'), ('differentiable', 'mixed operators'),
                              ('space_search', 'search of the space'), ('recheck', 'other images'),
                              ('random', 'random candidates'), ('evaluations', 'evaluations')):  # fmt: skip
                line = next(line for line in lines if line.startswith(f'  {name}'))
                assert ('not measured' in line) == (found[key] is None), line

    def test_times_are_of_all_phases(self, runs):
        for folder in runs.values():
            found = read(folder)['time']
            done = torch.load(folder / 'checkpoint.pt', weights_only=True)['done']
            assert [phase['name'] for phase in found['phases']] == list(done)
            assert all(phase['seconds'] >= 0 for phase in found['phases'])
            assert found['total_seconds'] == pytest.approx(sum(p['seconds'] for p in found['phases']))


class TestOneShot:
    def test_space(self, one_shot):
        problem, found = Problem(load('tiny')), read(one_shot)['space']
        within = [20_000 <= problem.cost(g).macs <= 80_000 for g in problem.space.space.enumerate()]
        assert found['architectures'] == str(len(within))
        assert found['log10'] == pytest.approx(math.log10(len(within)))
        assert found['feasible_share'] == pytest.approx(sum(within) / len(within), rel=0.1)

    def test_evaluations_and_history(self, one_shot):
        found, candidates = read(one_shot), read(one_shot, 'search.json')['candidates']
        assert found['evaluations'] == {'asked': 10, 'unique': 10, 'failed': 0, 'given_up': 0}
        scores = [candidate['score'] for candidate in candidates]
        assert found['history'] == {'25': max(scores[:3]), '50': max(scores[:5]), '100': max(scores)}

    def test_front(self, one_shot):
        candidates = read(one_shot, 'search.json')['candidates']
        better = [
            [b for b in candidates if b['macs'] <= a['macs'] and b['score'] > a['score']] for a in candidates
        ]
        alone = [a for a, rivals in zip(candidates, better, strict=True) if not rivals]
        found = [(row['macs'], row['score']) for row in read(one_shot)['front']]
        assert found == sorted({(a['macs'], a['score']) for a in alone})

    def test_slack_and_standard_error(self, one_shot):
        best = read(one_shot)['best']
        assert best['slack']['macs']['slack'] == 80_000 - best['macs']
        assert best['score'] == read(one_shot, 'search.json')['best']['score'] == -best['metrics']['loss']
        assert 0 < best['standard_error'] < 1

    def test_random_candidates_are_as_many_as_evaluated(self, one_shot):
        """The first generation, then new ones that nothing but the sampler decides."""
        found, baseline = read(one_shot)['random'], read(one_shot, 'random.json')
        searched, problem = read(one_shot, 'search.json'), Problem(load('tiny'))
        assert found['count'] == len(baseline['candidates']) == 10
        assert baseline['candidates'][:4] == searched['candidates'][:4]
        assert (baseline['reused'], searched['unguided']) == (4, 4)
        assert len({problem.space.decode(tuple(c['genotype'])) for c in baseline['candidates']}) == 10
        assert all(20_000 <= c['macs'] <= 80_000 and 'images' not in c for c in baseline['candidates'])
        scores = [c['score'] for c in baseline['candidates']]
        assert found['scores'] == scores
        assert found['mean'] == pytest.approx(np.mean(scores))
        assert found['std'] == pytest.approx(np.std(scores, ddof=1))
        assert found['best'] == max(scores)
        gain = (searched['best']['score'] - np.mean(scores)) / abs(np.mean(scores))
        assert found['relative_improvement'] == pytest.approx(gain)

    def test_random_search_is_its_own_baseline(self, tmp_path):
        folder = search(tmp_path, 'tiny', *SHORT, 'search.strategy={name: random}', 'search.evaluations=4')
        assert not (folder / 'random.json').exists()
        found, scores = read(folder), [c['score'] for c in read(folder, 'search.json')['candidates']]
        assert (found['random']['of'], found['random']['scores']) == ('search', scores)
        assert found['random']['best'] == found['best']['score']

    def test_the_best_are_scored_again_on_images_that_no_search_has_seen(self, one_shot):
        rows = read(one_shot)['recheck']
        assert [row['rank'] for row in rows] == list(range(1, 11))
        assert [row['score'] for row in rows] == sorted((row['score'] for row in rows), reverse=True)
        by_recheck = sorted(rows, key=lambda row: row['recheck_rank'])
        assert [row['recheck_score'] for row in by_recheck] == sorted(
            (row['recheck_score'] for row in rows), reverse=True
        )
        assert {row['score'] for row in rows}.isdisjoint(row['recheck_score'] for row in rows)

    def test_accuracies_have_binomial_errors(self, one_shot):
        found, metrics = read(one_shot), read(one_shot, 'tiny.json')['weights']['digits']['metrics']
        for role, images in (('val', 272), ('test', 364)):
            share = metrics[f'{role}_top1'] / 100
            error = 100 * math.sqrt(share * (1 - share) / images)
            assert found[role] == {
                'top1': metrics[f'{role}_top1'],
                'standard_error': pytest.approx(error),
                'images': images,
            }

    def test_comparison(self, one_shot):
        found = read(one_shot)['comparison']
        assert [row['test_top1'] for row in found['found'][1:]] == [
            read(one_shot, 'comparison/again1.json')['test_top1']
        ]
        assert found['random'] == [read(one_shot, f'comparison/random{i}.json') for i in (1, 2)]

    def test_seconds_of_random_search_are_those_of_the_new_candidates(self, one_shot):
        seconds = {phase['name']: phase['seconds'] for phase in read(one_shot)['time']['phases']}
        assert read(one_shot)['time']['random_search_seconds'] == pytest.approx(seconds['random'] / 6 * 10)

    def test_a_correlation_is_taken_in_when_it_is_there(self, one_shot):
        measured = {
            'tau': 0.5, 'interval': [0.3, 0.7], 'n': 50, 'tau_top_third': 0.1,
            'interval_top_third': [-0.3, 0.4], 'n_top_third': 17, 'spearman': 0.66, 'points': [],
        }  # fmt: skip
        (one_shot / 'correlation.json').write_text(json.dumps(measured))
        try:
            found = build_checklist(one_shot)
        finally:
            (one_shot / 'correlation.json').unlink()
        assert found['rank_correlation'] == measured
        assert any('tau 0.500 (95 %: 0.30 to 0.70) of 50 networks' in x for x in describe_checklist(found))


class TestOtherMethods:
    def test_both_levels_are_counted_and_the_last_one_shown(self, runs):
        found, folder = read(runs['tiny_glit']), runs['tiny_glit']
        levels = [read(folder, f'level{i}/search.json')['candidates'] for i in (1, 2)]
        assert found['evaluations']['asked'] == sum(map(len, levels))
        assert found['history']['100'] == max(c['score'] for c in levels[1])
        assert found['random']['scores'] == [
            c['score'] for c in read(folder, 'level2/random.json')['candidates']
        ]
        kept = max(read(folder, f'level2/top/top{i}.json')['score'] for i in (1, 2))
        trained = [read(folder, f'level2/top/top{i}.json')['score'] for i in (1, 2)]
        ranked = sorted(levels[1], key=lambda c: (-c['score'], c['macs']))
        assert found['best']['score'] == ranked[trained.index(kept)]['score']

    def test_errors_of_spaces(self, runs):
        folder = runs['tiny_s3_space']
        for t, iteration in enumerate(read(folder)['space_search'], 1):
            errors = read(folder, f'iteration{t}/errors.json')
            assert iteration['dimensions'] == errors['dimensions']
            for row, full in zip(iteration['subspaces'], errors['subspaces'], strict=True):
                assert row['n'] == len(full['errors'])
                if row['n']:
                    assert row['e_error'] == pytest.approx(np.mean(full['errors']))
                    assert row['t_error'] == pytest.approx(min(full['errors']))

    def test_policy(self, runs):
        folder = runs['tiny_uninet']
        batches, candidates = read(folder)['ppo'], read(folder, 'search.json')['candidates']
        assert [batch['count'] for batch in batches] == [4, 4, 2]
        for i, batch in enumerate(batches):
            scores = [c['score'] for c in candidates[4 * i : 4 * i + 4]]
            assert batch['mean'] == pytest.approx(np.mean(scores))
            assert batch['std'] == pytest.approx(np.std(scores, ddof=1))
        assert batches[0]['duplicates'] == 0
        assert all(batch['kl'] > 0 for batch in batches[:2])
        assert batches[2]['entropy'] is None

    def test_proxy_without_baseline_shows_what_was_asked_blindly(self, runs):
        found, folder = read(runs['tiny_uninet'])['random'], runs['tiny_uninet']
        first = [c['score'] for c in read(folder, 'search.json')['candidates'][:4]]
        assert (found['of'], found['scores'], found['best']) == ('first', first, None)
        assert found['mean'] == pytest.approx(statistics.mean(first))

    def test_mixed_operators(self, runs):
        folder = runs['tiny_carnet']
        for row in read(folder)['differentiable']:
            alpha = read(folder, f'seed{row["seed"]}/target.json')['alpha']
            for name, layer in row['layers'].items():
                values = np.array(list(alpha[name].values()))
                weights = np.exp(values) / np.exp(values).sum()
                assert layer['entropy'] == pytest.approx(entropy(weights))
                assert layer['margin'] == pytest.approx(np.diff(np.sort(weights)[-2:])[0])
                assert layer['operator'] == list(alpha[name])[weights.argmax()]
            assert row['skip_share'] is None


class TestPolicyReports:
    def reports(self, problem: Problem, restart: int | None = None) -> list[dict[str, float]]:
        """Of 20 candidates with made-up scores, perhaps with a restart after some of them."""
        data = {'name': 'ppo', 'batch': 5, 'width': 8, 'lr': 0.1}
        strategy = make_strategy(data, problem.sampler, 0, problem.space.decode)
        found = []
        for number in range(20):
            if number == restart:
                state = strategy.state()
                found += strategy.reports
                strategy = make_strategy(data, problem.sampler, 0, problem.space.decode)
                strategy.restore(state)
            strategy.tell(genotype := strategy.ask(), -problem.cost(genotype).macs)
        strategy.learn()
        return found + strategy.reports

    def test_they_do_not_depend_on_restarts(self):
        problem = Problem(load('tiny_uninet'))
        whole = self.reports(problem)
        assert [report['batch'] for report in whole] == [1, 2, 3, 4]
        for restart in (1, 5, 7, 15, 19):
            assert self.reports(problem, restart) == whole

    def test_a_policy_that_learns_becomes_certain_and_repeats_itself(self):
        found = self.reports(Problem(load('tiny_uninet')))
        assert found[-1]['entropy'] < found[0]['entropy']
        assert all(0 <= report['duplicates'] <= 1 for report in found)

    def test_entropy_and_divergence_of_a_policy(self):
        """The first batch's policy is uniform in every decision."""
        problem = Problem(load('tiny_uninet'))
        data = {'name': 'ppo', 'batch': 5, 'width': 8}
        strategy = make_strategy(data, problem.sampler, 0, problem.space.decode)
        for _ in range(5):
            strategy.tell(genotype := strategy.ask(), float(sum(genotype)))
        strategy.learn()
        sizes = [len(choice.values) for choice in problem.space.space.choices]
        decided = [math.log(sizes[i]) for g in strategy.genotypes for i, pick in enumerate(g) if pick >= 0]
        assert strategy.reports[0]['entropy'] == pytest.approx(statistics.mean(decided), rel=1e-5)
        assert strategy.reports[0]['kl'] > 0


class TestNumbers:
    def record(self, score, macs=1, **more):
        return {'genotype': [0], 'params': 1, 'macs': macs, 'score': score, **more}

    def test_front_ignores_what_failed_and_what_was_given_up(self):
        rows = [self.record(1.0, 5), self.record(None, 1), self.record(9.0, 1, images=3), self.record(2.0, 6)]
        assert [row['score'] for row in find_front(rows)] == [1.0, 2.0]

    def test_front_is_of_accuracy_where_the_score_has_the_cost_in_it(self):
        rows = [self.record(3.0, 5, accuracy=1.0), self.record(2.0, 6, accuracy=4.0)]
        assert find_front(rows) == rows

    def test_best_so_far_of_none(self):
        assert trace_best([self.record(None), self.record(1.0)]) == {'25': None, '50': None, '100': 1.0}

    def test_one_random_candidate_has_no_deviation(self):
        found = summarise_random([0.0], 1.0, True)
        assert (found['std'], found['relative_improvement']) == (None, None)

    def test_a_failed_recheck_has_no_rank(self):
        rows = [
            self.record(2.0) | {'recheck': self.record(None)},
            self.record(1.0) | {'recheck': self.record(3.0)},
        ]
        assert [row['recheck_rank'] for row in compare_ranks(rows)] == [None, 1]

    @pytest.mark.parametrize('objective', ['top1', 'loss'])
    def test_standard_error_of_a_score(self, objective):
        torch.manual_seed(0)
        logits, labels = torch.randn(90, 4), torch.randint(4, (90,))
        found = validate(lambda x: x, logits, labels, 40, objective)
        each = 100.0 * (logits.argmax(1) == labels)
        if objective == 'loss':
            each = torch.nn.functional.cross_entropy(logits, labels, reduction='none')
        assert found.standard_error == pytest.approx(float(each.std(correction=0)) / math.sqrt(90), rel=1e-5)


class TestData:
    @pytest.mark.parametrize('size', [0.25, 90])
    def test_what_is_held_out_of_val(self, size):
        whole, cut = (Data(DataConfig(recheck_size=s), GREY) for s in (0, size))
        indices = {role: set(cut.images(role).indices) for role in ('train', 'val', 'recheck', 'test')}
        assert len(indices['recheck']) == 90
        assert indices['val'] | indices['recheck'] == set(whole.images('val').indices)
        assert sum(map(len, indices.values())) == len(set.union(*indices.values())) == 1797
        shares = np.bincount([cut.images('recheck').source[i][1] for i in indices['recheck']])
        assert shares.min() >= 8
        assert shares.max() <= 10

    def test_the_split_seed_decides(self):
        first, second, third = (
            list(Data(DataConfig(recheck_size=0.25, split_seed=s), GREY).images('recheck').indices)
            for s in (0, 0, 1)
        )
        assert first == second != third

    def test_too_much_is_refused(self):
        with pytest.raises(ZooError, match='362 val images were to be held out, 1 to 361 can be'):
            Data(DataConfig(recheck_size=362), GREY).images('val')

    def test_a_fingerprint_changes_with_a_label_and_with_a_pixel(self):
        data = Data(DataConfig(), GREY)
        before = fingerprint(data, ['train', 'val'])
        assert fingerprint(Data(DataConfig(), GREY), ['train', 'val']) == before
        source, place = data.images('train').source, data.images('train').indices[7]
        changed = list(source)
        image, label = source[place]
        for other in ((image, (label + 1) % 10), (image.transpose(0), label)):
            changed[place] = other
            data._sources['train'] = changed
            assert fingerprint(data, ['train', 'val']) != before
        changed[place] = (image, label)
        assert fingerprint(data, ['train', 'val']) == before

    def test_files_are_told_apart_by_name_and_label(self, tmp_path):
        from PIL import Image

        for split in ('train', 'test'):
            for label in 'ab':
                (tmp_path / split / label).mkdir(parents=True)
                for i in range(4):
                    Image.new('L', (8, 8), i).save(tmp_path / split / label / f'{i}.png')
        config = DataConfig(name='folder', root=str(tmp_path), val_size=2)
        first = json.loads(describe_data(Data(config, GREY), True))
        assert [first[role] for role in ('train', 'val', 'recheck', 'test')] == [6, 2, 0, 8]
        (tmp_path / 'test' / 'a' / '0.png').rename(tmp_path / 'test' / 'b' / '9.png')
        assert json.loads(describe_data(Data(config, GREY), True))['fingerprint'] != first['fingerprint']
        unread = json.loads(describe_data(Data(config, GREY), False))
        assert (unread['test'], unread['train']) == (None, 6)


@pytest.mark.parametrize('name', ['tiny', 'tiny_carnet'])
def test_the_test_split_is_not_opened_unless_it_is_asked_for(name, tmp_path, monkeypatch):
    original: Callable = search_data.Data._select

    def select(self, role):
        if role == 'test':
            raise AssertionError('the test split was opened')
        return original(self, role)

    monkeypatch.setattr(search_data.Data, '_select', select)
    more = SHORT if name == 'tiny' else ('search.seeds=1',)
    folder = search(
        tmp_path / 'run', name, *more, 'test=false', *(['search.evaluations=3'] * (name == 'tiny'))
    )
    found = read(folder)
    assert (found['test'], found['provenance']['data']['test']) == (None, None)
    assert read(folder, f'{name}.json')['weights']['digits']['metrics'].keys() == {'val_top1'}
    assert '(test)' not in read(folder, f'{name}.json')['weights']['digits']['evaluation']
    if name == 'tiny':
        with pytest.raises(AssertionError, match='the test split was opened'):
            search(tmp_path / 'asked', name, *SHORT, 'test=true', 'search.evaluations=3')


class TestSeconds:
    def test_they_add_up_over_interruptions(self, tmp_path):
        """What was lost since the last checkpoint is not in them."""

        def work(run: Run, stop: bool) -> bytes:
            time.sleep(0.2)
            if run.load('a') is None:
                run.save('a', {})
            if stop:
                time.sleep(0.5)
                raise Stop
            return b'done'

        for stop in (True, False):
            with Run(tmp_path, {'a': 1}, {'searchzoo': '1'}, 0.0, quiet=True) as run:
                try:
                    run.phase('a', 'a.bin', lambda run=run, stop=stop: work(run, stop))
                except Stop:
                    time.sleep(0.3)
        with Run(tmp_path, {'a': 1}, {'searchzoo': '1'}, 0.0, quiet=True) as run:
            run.phase('a', 'a.bin', lambda: b'')
            run.phase('b', 'b.bin', lambda: b'')
        seconds = torch.load(tmp_path / 'checkpoint.pt', weights_only=True)['seconds']
        assert 0.4 <= seconds['a'] < 0.7
        assert 0 <= seconds['b'] < 0.2

    def test_an_interrupted_baseline_ends_in_the_same_bytes(self, one_shot, tmp_path):
        recorder = Recorder()
        config = load('tiny', 'data.recheck_size=0.25', 'checkpoint_seconds=0')

        def stop_in_the_middle(point: str) -> None:
            recorder(point)
            if recorder.points.count('random: saved') == 3 and point == 'random: saved':
                raise Stop

        with pytest.raises(Stop):
            METHODS['one_shot'](config, tmp_path, fault=stop_in_the_middle, quiet=True)
        METHODS['one_shot'](config, tmp_path, quiet=True)
        assert read_all(tmp_path) == read_all(one_shot)
        assert (tmp_path / 'result.json').is_file()


class TestSeeds:
    def test_three_seeds(self, tmp_path, capsys):
        args = ['search', 'run', str(HERE / 'tiny.yaml'), '--out', str(tmp_path), '--seeds', '2']
        short = [*SHORT, 'search.evaluations=3', 'search.baseline=false', 'name=tiny_seeds']
        assert main([*args, *short]) == 0
        output = capsys.readouterr().out
        found, results = read(tmp_path, 'seeds.json'), [read(tmp_path / f'seed{i}') for i in (3, 4)]
        assert [run['seed'] for run in found['runs']] == [3, 4]
        for key, values in (
            ('score', [result['best']['score'] for result in results]),
            ('test', [result['test']['top1'] for result in results]),
        ):
            assert found[key]['mean'] == pytest.approx(np.mean(values))
            assert found[key]['std'] == pytest.approx(np.std(values, ddof=1))
        assert '2 seeds, mean ± standard deviation' in output
        assert f'{found["test"]["mean"]:.5g}' in output
        before = (tmp_path / 'seeds.json').read_bytes()
        assert main([*args, *short]) == 0
        assert (tmp_path / 'seeds.json').read_bytes() == before
        with pytest.raises(ZooError, match='holds a run of one seed'):
            run_seeds(METHODS['one_shot'], load('tiny', *short), tmp_path / 'seed3', 2)

    def test_overlap(self):
        found = find_overlap([{'a': 1, 'b': 2}, {'a': 1}, {'a': 3}])
        assert found == {
            'a': {'value': 1, 'share': pytest.approx(2 / 3)},
            'b': {'value': 2, 'share': pytest.approx(1 / 3)},
        }

    def test_what_was_not_measured_is_said(self):
        run = {'seed': 0, 'score': 1.0, 'val': 50.0, 'test': None, 'macs': 5, 'values': {'a': 1}}
        spread = {'mean': 1.0, 'std': None}
        lines = describe_seeds({'runs': [run], 'score': spread, 'val': spread, 'test': None,
                                'overlap': {'a': {'value': 1, 'share': 1.0}}})  # fmt: skip
        assert any('test' in line and 'not measured' in line for line in lines)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(ZooError, match=r'found no config\.json; the folder of a'):
        build_checklist(tmp_path)


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        (
            'config.json',
            lambda data: data['config']['input'].pop('size'),
            r"as this version writes them \(KeyError: 'size'",
        ),
        (
            'config.json',
            lambda data: data['config'].update(input=None),
            r'as this version writes them \(TypeError',
        ),
        (
            'search.json',
            lambda data: data['candidates'][0].update(genotype=None),
            'as this version writes them',
        ),
        ('tiny.json', lambda data: data.update(weights=[]), 'as this version writes them'),
    ],
    ids=range(4),
)
def test_damaged_data_are_named(one_shot, tmp_path, name, change, message):
    folder = shutil.copytree(one_shot, tmp_path / 'run')
    data = read(folder, name)
    change(data)
    (folder / name).write_text(json.dumps(data))
    with pytest.raises(ZooError, match=f'^{folder}: .*{message}') as caught:
        build_checklist(folder)
    assert str(caught.value).isprintable()


def test_layers_of_one_operator_are_damaged(runs, tmp_path):
    folder = shutil.copytree(runs['tiny_carnet'], tmp_path / 'run')
    data = read(folder, 'seed1/target.json')
    data['alpha'] = {name: dict([*weights.items()][:1]) for name, weights in data['alpha'].items()}
    (folder / 'seed1' / 'target.json').write_text(json.dumps(data))
    with pytest.raises(ZooError, match=r'as this version writes them \(RuntimeError'):
        build_checklist(folder)


def test_a_damaged_checkpoint_is_named(one_shot, tmp_path):
    folder = shutil.copytree(one_shot, tmp_path / 'run')
    (folder / 'checkpoint.pt').write_bytes(b'PK')
    with pytest.raises(ZooError, match=r'checkpoint\.pt: is damaged'):
        build_checklist(folder)


def test_an_unfinished_run_has_what_there_is(tmp_path):
    def stop(point: str) -> None:
        if point == 'weights: begin':
            raise Stop

    with pytest.raises(Stop):
        METHODS['one_shot'](load('tiny', *SHORT, 'search.evaluations=3'), tmp_path, fault=stop, quiet=True)
    found = build_checklist(tmp_path)
    assert found['evaluations']['asked'] == 3
    assert (found['val'], found['test'], found['provenance']['data']) == (None, None, None)
    assert describe_checklist(found)
