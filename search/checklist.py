"""What can be said about a finished search: the points of the NAS checklist, from the files of its run.

After Lindauer and Hutter, "Best Practices for Scientific Research on NAS" (JMLR 21(243), 2020), and Yang et
al., "NAS evaluation is frustratingly hard" (arXiv 1912.12522). What was not measured is null.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.budget import BudgetSampler, Limits
from search.distributed import agree, world
from search.evidence import (
    binomial_error,
    compare_ranks,
    count,
    find_front,
    find_slack,
    rank,
    summarise_random,
    trace_best,
)
from search.methods_evidence import describe_policy, describe_relaxation, describe_spaces
from search.records import Files
from search.runfiles import DAMAGED
from search.spaces import FamilySpace
from zoo.errors import ZooError
from zoo.files import write_atomic
from zoo.jsonfile import clip, format_json

__all__ = ['RESULT', 'build_checklist', 'write_checklist']

RESULT = 'result.json'
Record = dict[str, Any]


def write_checklist(folder: Path) -> None:
    """Writes a run's ``result.json``, if it is not what stands there."""
    if world()[0] == 0:
        data, path = format_json(build_checklist(folder)).encode(), folder / RESULT
        if not path.exists() or path.read_bytes() != data:
            try:
                write_atomic(path, data)
            except OSError as error:
                raise ZooError(f'{path}: cannot be written: {error.strerror}.') from None
    agree(0)


def build_checklist(folder: Path | str) -> Record:
    """All points, from a run's folder alone.

    Raises:
        ZooError: There is no run in the folder, or a file of it is damaged.
    """
    files = Files.open(folder)
    try:
        return _build(files)
    except ZooError:
        raise
    except (AssertionError, *DAMAGED) as error:
        reason = clip(f'{type(error).__name__}: {error}', 200)
        raise ZooError(f'{folder}: its files are not as this version writes them ({reason}).') from error


def _build(files: Files) -> Record:
    config, entry = files.config, files.read(f'{files.config["name"]}.json')
    weights = next(iter(entry['weights'].values())) if entry else {}
    searches = [Search(files, prefix, space) for prefix, space in list_searches(files)]
    last = searches[-1] if searches else None
    best = last.find_best() if last else files.find_kept()
    data = files.read('data.json') or {}
    tested = {
        role: measured_accuracy(weights.get('metrics') or {}, role, data.get(role))
        for role in ('val', 'test')
    }
    return {
        'space': describe_space(files, entry),
        'provenance': {
            'name': config['name'],
            'method': config['method'],
            'seed': config['seed'],
            'versions': files.versions,
            'device': files.versions.get('device'),
            'data': data or None,
        },
        'evaluations': add([search.count() for search in searches]) if searches else None,
        'time': describe_time(files, searches),
        'best': best and best | {'slack': find_slack(best, files.limits)},
        'front': last and [pick(last.translate(record)) for record in find_front(last.candidates)],
        'random': last.compare_with_random() if last else files.compare_with_trained(),
        'history': last and trace_best(last.candidates),
        'recheck': last and last.recheck(),
        'val': tested['val'],
        'test': tested['test'],
        'comparison': files.comparison(),
        'rank_correlation': files.read('correlation.json'),
        'predictor': None,
        'space_search': describe_spaces([errors for _, errors in files.iterations]),
        'ppo': last
        and describe_policy(config['search'], last.found, files.events_of(f'{last.prefix}policy')),
        'differentiable': describe_relaxation(files.relaxations()),
    }


class Search:
    """One search by a strategy.

    Args:
        files: Of the run.
        prefix: Of the search's files and phases.
        space: In which it was.
    """

    def __init__(self, files: Files, prefix: str, space: FamilySpace):
        self.files, self.prefix, self.space = files, prefix, space
        self.found: Record = files.read(f'{prefix}search.json')
        self.candidates: list[Record] = self.found['candidates']

    def count(self) -> dict[str, int]:
        networks = {self.space.decode(tuple(record['genotype'])) for record in self.candidates}
        return count(self.candidates, len(networks))

    def translate(self, record: Mapping[str, Any]) -> Record:
        """With the genotype that the network has in the whole space."""
        values = self.space.space.values(tuple(record['genotype']))
        return {**record, 'genotype': list(self.files.space.space.genotype(values)), 'values': values}

    def find_kept(self) -> Record:
        """The candidate that is the result: of those that were trained, the one that is best on val."""
        ranked = rank(self.candidates)
        trained = [self.files.read(f'{self.prefix}top/top{i}.json') for i in range(1, len(ranked) + 1)]
        scores = [-math.inf if found is None else found['score'] for found in trained]
        return dict(ranked[scores.index(max(scores))])

    def find_best(self) -> Record:
        record = self.translate(self.find_kept())
        keys = ('genotype', 'values', 'params', 'macs', 'fvcore', 'latency', 'score', 'accuracy')
        return {
            **{key: record[key] for key in keys if key in record},
            'metrics': {key: record[key] for key in ('top1', 'loss') if key in record},
            'standard_error': record.get('standard_error'),
        }

    def compare_with_random(self) -> Record | None:
        """Beside as many random candidates; else beside those that the strategy asked first."""
        baseline, score = self.files.read(f'{self.prefix}random.json'), self.found['best']['score']
        if baseline is not None:
            of, candidates = 'baseline', baseline['candidates']
        elif self.files.config['search']['strategy'].get('name') == 'random':
            of, candidates = 'search', self.candidates
        else:
            of, candidates = 'first', self.candidates[: self.found.get('unguided', 0)]
        scores = [record['score'] for record in candidates if record['score'] is not None]
        if not scores:
            return None
        return {'of': of, 'found': score, **summarise_random(scores, score, of != 'first')}

    def recheck(self) -> list[Record] | None:
        found = self.files.read(f'{self.prefix}recheck.json')
        return found and compare_ranks([self.translate(record) for record in found])

    def random_seconds(self) -> float:
        """What scoring as many random candidates takes: as measured, else as the search's own took."""
        measured = self.files.seconds.get(f'{self.prefix}random')
        baseline = self.files.read(f'{self.prefix}random.json')
        if measured is None or baseline is None or len(baseline['candidates']) == baseline['reused']:
            return self.files.seconds.get(f'{self.prefix}search', 0.0)
        new = len(baseline['candidates']) - baseline['reused']
        return measured / new * len(self.candidates)


def list_searches(files: Files) -> list[tuple[str, FamilySpace]]:
    """The searches by a strategy that are done, each with its space: one, or one for each level."""
    if (files.folder / 'search.json').is_file():
        return [('', files.space)]
    if not (files.folder / 'level1' / 'search.json').is_file() or files.space.first_level is None:
        return []
    details = files.space.first_level(files.space.space)
    first = files.load_space({name: [value] for name, value in details.items()})
    found = [('level1/', first)]
    if (files.folder / 'level2' / 'search.json').is_file():
        genotype = Search(files, 'level1/', first).find_kept()['genotype']
        values = first.space.values(tuple(genotype))
        fixed = {name: [value] for name, value in values.items() if name not in details}
        found.append(('level2/', files.load_space(fixed)))
    return found


def describe_space(files: Files, entry: Record | None) -> Record:
    """How many architectures there are, and what share of them is within the limits of params and MACs."""
    size, limits = files.space.space.size(), files.limits
    share = None
    if not limits:
        share = 1.0
    elif entry is not None and 'latency' not in limits:
        model = files.space.cost_model(entry['num_classes'])
        share = BudgetSampler(model, Limits(**limits)).share()  # type: ignore[arg-type]
    return {
        'architectures': str(size),
        'log10': math.log10(size),
        'feasible_share': share,
        'limits': limits,
    }


def describe_time(files: Files, searches: Sequence[Search]) -> Record | None:
    """Wall-clock seconds of every phase, interruptions left out."""
    if not files.seconds:
        return None
    return {
        'phases': [{'name': name, 'seconds': seconds} for name, seconds in files.seconds.items()],
        'total_seconds': sum(files.seconds.values()),
        'random_search_seconds': sum(search.random_seconds() for search in searches) if searches else None,
    }


def measured_accuracy(metrics: Mapping[str, float], role: str, images: int | None) -> Record | None:
    """The result's accuracy on a split, with its standard error over draws of the images."""
    top1 = metrics.get(f'{role}_top1')
    if top1 is None:
        return None
    error = binomial_error(top1, images) if images else None
    return {'top1': top1, 'standard_error': error, 'images': images}


def add(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {key: sum(found[key] for found in counts) for key in counts[0]}


def pick(record: Record) -> Record:
    return {key: record[key] for key in ('genotype', 'params', 'macs', 'score', 'accuracy') if key in record}
