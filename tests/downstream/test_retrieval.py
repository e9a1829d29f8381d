"""Recall against a loop that knows no library, and embeddings of digits that find digits they never saw."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from downstream.image_data import ZooImages
from downstream.retrieval import ZooEmbedder, ZooRecall, find_recalls, retrieve
from downstream.runner import load_config
from zoo.errors import ZooError

DIGITS, CUB = 'retrieval/proxynca_carnet_digits', 'retrieval/proxynca_carnet-c112_cub'
SILENT = {'log_level': 'WARNING'}


def count_naively(embeddings: Tensor, labels: Tensor, k: int) -> float:
    """Every image is looked for among the others, one by one, in float64."""
    points = embeddings.double().tolist()
    hits = queries = 0
    for i, point in enumerate(points):
        if labels.tolist().count(int(labels[i])) == 1:
            continue
        others = [j for j in range(len(points)) if j != i]
        others.sort(key=lambda j, p=point: math.dist(p, points[j]))
        hits += any(labels[j] == labels[i] for j in others[:k])
        queries += 1
    return 100 * hits / queries


def draw_embeddings(
    count: int, dim: int, classes: int, seed: int, spread: float = 1.0
) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    points = rng.normal(size=(classes, dim))[labels] + spread * rng.normal(size=(count, dim))
    return F.normalize(torch.tensor(points, dtype=torch.float32), dim=1), torch.tensor(labels)


class TestRecall:
    @pytest.mark.parametrize('seed', range(5))
    def test_agrees_with_a_plain_loop(self, seed: int):
        embeddings, labels = draw_embeddings(60, 8, 12, seed, spread=1.5)
        found = find_recalls(embeddings, labels, (1, 2, 4, 8))
        expected = {k: count_naively(embeddings, labels, k) for k in (1, 2, 4, 8)}
        assert found == pytest.approx(expected)
        assert 5 < expected[1] < expected[2] < expected[4] < expected[8] < 95

    def test_more_images_than_are_compared_at_once(self):
        embeddings, labels = draw_embeddings(1100, 3, 40, 0, spread=0.5)
        similar = (embeddings.double() @ embeddings.double().T).fill_diagonal_(-2)
        nearest = labels[similar.topk(4).indices]
        expected = {
            k: 100 * (nearest[:, :k] == labels[:, None]).any(1).double().mean().item() for k in (1, 4)
        }
        assert find_recalls(embeddings, labels, (1, 4)) == pytest.approx(expected)

    def test_an_image_does_not_find_itself(self):
        """Each is nearest to itself, then to one of the other class, then to its own."""
        angles = torch.tensor([0.0, 0.1, 1.0, 1.1])
        embeddings = torch.stack([angles.cos(), angles.sin()], 1)
        labels = torch.tensor([0, 1, 0, 1])
        assert find_recalls(embeddings, labels, (1, 2)) == {1: 0.0, 2: 50.0}

    def test_equal_embeddings_of_one_class(self):
        """Many images that are the same: still none finds itself, and all find another."""
        embeddings = F.normalize(torch.tensor([[1.0, 0.2]] * 9 + [[-1.0, 0.2]] * 9), dim=1)
        labels = torch.tensor([0] * 9 + [1] * 9)
        assert find_recalls(embeddings, labels, (1, 8)) == {1: 100.0, 8: 100.0}

    def test_equal_embeddings_of_two_classes(self):
        """Pairs of the same two images, one of each class: the other class is found first, always."""
        embeddings, _ = draw_embeddings(20, 4, 20, 0)
        twice = embeddings.repeat_interleave(2, 0)
        labels = torch.tensor([0, 1] * 20)
        assert find_recalls(twice, labels, (1,)) == {1: 0.0}

    def test_equal_embeddings_of_all_may_be_found_in_any_order(self):
        """A network that has collapsed: between what the worst and the best order would give."""
        labels = torch.arange(10) % 2
        found = find_recalls(torch.ones(10, 4) / 2, labels, (1, 6, 9))
        assert 0 <= found[1] <= 100
        assert found[6] == found[9] == 100.0  # of nine others five are of the other class

    def test_an_image_alone_in_its_class_is_found_but_not_looked_for(self):
        embeddings, _ = draw_embeddings(7, 3, 7, 1)
        labels = torch.tensor([0, 0, 1, 1, 2, 2, 3])
        expected = {k: count_naively(embeddings, labels, k) for k in (1, 2, 3)}
        assert find_recalls(embeddings, labels, (1, 2, 3)) == pytest.approx(expected)

    def test_faiss_finds_the_same_or_is_asked_for(self):
        embeddings, labels = draw_embeddings(60, 8, 12, 0, spread=1.5)
        if importlib.util.find_spec('faiss'):
            assert find_recalls(embeddings, labels, faiss=True) == find_recalls(embeddings, labels)
        else:
            with pytest.raises(ZooError, match=r'faiss=True needs FAISS, .* pip install faiss-cpu'):
                find_recalls(embeddings, labels, faiss=True)

    def test_what_cannot_be_measured(self):
        embeddings, labels = draw_embeddings(8, 3, 2, 0)
        with pytest.raises(ZooError, match='recall@8: with 8 images, k can be 1 to 7'):
            find_recalls(embeddings, labels, (1, 8))
        with pytest.raises(ZooError, match='recall@0'):
            find_recalls(embeddings, labels, (0,))
        with pytest.raises(ZooError, match='no two images of one class'):
            find_recalls(embeddings, torch.arange(8), (1,))
        with pytest.raises(ZooError, match='not finite'):
            find_recalls(embeddings * math.nan, labels, (1,))

    def test_the_metric_collects_batches(self):
        embeddings, labels = draw_embeddings(30, 4, 5, 3)
        metric = ZooRecall((1, 2))
        for batch in (slice(0, 20), slice(20, 30)):
            metric.process(None, list(zip(embeddings[batch], labels[batch].tolist(), strict=True)))
        expected = {f'retrieval/recall@{k}': v for k, v in find_recalls(embeddings, labels, (1, 2)).items()}
        assert metric.evaluate(30) == expected


class TestModel:
    def test_embeddings_have_length_1(self):
        model = ZooEmbedder('glit_digits', 3, embed_dim=6).eval()
        images = torch.randn(4, 1, 32, 32)
        found = model(images, torch.tensor([0, 1, 2, 0]), mode='predict')
        rows = model.network(images)
        for (embedding, label), row, expected in zip(found, rows, [0, 1, 2, 0], strict=True):
            torch.testing.assert_close(embedding, row / row.norm())
            assert embedding.norm().item() == pytest.approx(1)
            assert label == expected

    @pytest.mark.parametrize('scale', [1.0, 9.0])
    def test_the_loss_is_a_softmax_over_proxies(self, scale: float):
        torch.manual_seed(0)
        model = ZooEmbedder('glit_digits', 5, embed_dim=4, scale=scale)
        embeddings, labels = torch.randn(3, 4), [4, 0, 2]
        proxies = [proxy / proxy.norm() for proxy in model.criterion.proxies.detach()]
        total = 0.0
        for row, label in zip(embeddings, labels, strict=True):
            near = [math.exp(-scale * float(((row / row.norm() - proxy) ** 2).sum())) for proxy in proxies]
            total -= math.log(near[label] / sum(near)) / 3
        assert float(model.loss(embeddings, torch.tensor(labels))) == pytest.approx(total, rel=1e-5)

    def test_proxies_are_learnt(self):
        model = ZooEmbedder('glit_digits', 5, embed_dim=4)
        assert dict(model.named_parameters())['criterion.proxies'].shape == (5, 4)


class TestRun:
    """The shipped run: it learns from the digits 0 to 4 and finds those from 5 to 9."""

    def test_finds_digits_that_it_has_not_seen(self, tmp_path: Path):
        metrics = retrieve(DIGITS, tmp_path / 'run', options=SILENT)
        options = SILENT | {'optim_wrapper.optimizer.lr': 0.0, 'train_cfg.max_epochs': 1}
        untrained = retrieve(DIGITS, tmp_path / 'untrained', options=options)
        recalls = [metrics[f'retrieval/recall@{k}'] for k in (1, 2, 4, 8)]
        assert recalls == sorted(recalls)
        # found 65.2 and 48.1; with seeds 1 and 2 62.4 and 43.1, 63.5 and 44.8
        assert recalls[0] > untrained['retrieval/recall@1'] + 10

        # timm takes the weights, and a loop of this test's own comes to the same figure
        overlay = {'file': str(tmp_path / 'run' / 'network.safetensors'), 'num_classes': 64}
        network: Any = timm.create_model(
            'carnet_digits', num_classes=64, pretrained=True, pretrained_cfg_overlay=overlay
        )
        data = ZooImages('digits', size=18, crop=16, split='test', classes=(5, 10), mode='L')
        pixels, labels = zip(*(data[i] for i in range(len(data))), strict=True)
        with torch.no_grad():
            outputs = network.eval()((torch.stack(pixels) / 255 - 0.31) / 0.35)
        assert len(data) == 181
        assert count_naively(outputs / outputs.norm(dim=1, keepdim=True), torch.tensor(labels), 1) == (
            pytest.approx(recalls[0], abs=0.6)  # one image: rounding may decide between two neighbours
        )

    def test_more_neighbours_than_images(self, tmp_path: Path):
        options = QUICK | {'test_evaluator.ks': (1, 500)}
        with pytest.raises(ZooError, match='recall@500: with 74 images, k can be 1 to 73'):
            retrieve(DIGITS, tmp_path, options=options)

    def test_another_number_of_classes_than_the_model_has(self, tmp_path: Path):
        message = r'digits \(train\) gives 2 classes to learn from, model.num_classes is 5'
        with pytest.raises(ZooError, match=message):
            retrieve(DIGITS, tmp_path, options=SILENT | {'train_dataloader.dataset.classes': (0, 2)})


QUICK: dict[str, Any] = SILENT | {
    'model.name': 'glit_digits',
    'model.num_classes': 2,
    'train_dataloader.dataset.size': 32,
    'train_dataloader.dataset.crop': 32,
    'train_dataloader.dataset.classes': (0, 2),
    'test_dataloader.dataset.size': 32,
    'test_dataloader.dataset.crop': 32,
    'test_dataloader.dataset.classes': (5, 7),
    'train_cfg.max_epochs': 1,
}


class TestCub:
    """The paper's recipe, on a copy of the data set's layout with four classes."""

    def test_settings(self):
        config = load_config(CUB)
        assert config.train_cfg.max_epochs == 50
        assert config.optim_wrapper.optimizer == dict(type='Adam', lr=4e-3)
        train, test = (config[f'{part}_dataloader'].dataset for part in ('train', 'test'))
        assert (train.split, train.classes, train['size'], train.crop) == ('all', (0, 100), 256, 227)
        assert (test.split, test.classes, test['size'], test.crop) == ('all', (100, 200), 256, 227)
        assert config.published.recall == {1: 68.4, 2: 78.5, 4: 86.0, 8: 91.6}
        with torch.device('meta'):
            model: Any = MODELS.build(config.model)
            model.eval()
            assert model.network(torch.zeros(1, 3, 227, 227)).shape == (1, 64)

    def test_runs(self, tmp_path: Path):
        rng = np.random.default_rng(0)
        lists: dict[str, list[str]] = {'images': [], 'train_test_split': []}
        for category in ('001.Black_footed_Albatross', '002.Laysan', '003.Sooty', '004.Groove'):
            (tmp_path / 'images' / category).mkdir(parents=True)
            for i in range(4):
                name = f'{category}/{i}.jpg'
                Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / 'images' / name)
                lists['images'].append(name)
                lists['train_test_split'].append(str(i % 2))
        for name, words in lists.items():
            text = ''.join(f'{i} {word}\n' for i, word in enumerate(words, 1))
            (tmp_path / f'{name}.txt').write_text(text)
        options = SILENT | {'model.num_classes': 2, 'train_cfg.max_epochs': 1, 'test_evaluator.ks': (1, 2, 4)}
        options |= {'train_dataloader.batch_size': 4, 'train_dataloader.persistent_workers': False}
        for part, classes in (('train', (0, 2)), ('test', (2, 4))):
            own = {'root': str(tmp_path), 'classes': classes, 'size': 72, 'crop': 64}
            options |= {f'{part}_dataloader.dataset.{key}': value for key, value in own.items()}
            options |= {f'{part}_dataloader.num_workers': 0}
        metrics = retrieve(CUB, tmp_path / 'run', options=options)
        assert list(metrics) == ['retrieval/recall@1', 'retrieval/recall@2', 'retrieval/recall@4']
        assert len(load_file(tmp_path / 'run' / 'network.safetensors')['head.fc.bias']) == 64
