"""The papers of the families: what a model card cites."""

from dataclasses import dataclass

__all__ = ['PAPERS', 'Paper']


@dataclass(frozen=True)
class Paper:
    """A publication.

    Attributes:
        key: Of its BibTeX entry.
        title: Its title.
        authors: 'First Last', in the paper's order.
        venue: Conference or journal; '' for one that is on arXiv alone.
        year: Of publication.
        arxiv: arXiv identifier, without version.
    """

    key: str
    title: str
    authors: tuple[str, ...]
    venue: str
    year: int
    arxiv: str

    @property
    def short(self) -> str:
        """'Chen et al., NeurIPS 2021', for running text."""
        where = f'{self.venue} {self.year}' if self.venue else f'arXiv {self.year}'
        return f'{self.authors[0].split()[-1]} et al., {where}'

    def bibtex(self) -> str:
        """The BibTeX entry, without a final newline."""
        names = [name.rpartition(' ') for name in self.authors]
        fields = {
            'title': f'{{{self.title}}}',
            'author': ' and '.join(f'{last}, {first}' for first, _, last in names),
            **({'booktitle': VENUES[self.venue]} if self.venue else {}),
            'year': str(self.year),
            'eprint': self.arxiv,
            'archivePrefix': 'arXiv',
        }
        lines = [f'  {name} = {{{value}}},' for name, value in fields.items()]
        kind = 'inproceedings' if self.venue else 'misc'
        return '\n'.join([f'@{kind}{{{self.key},', *lines, '}'])


VENUES = {
    'BMVC': 'British Machine Vision Conference',
    'ECCV': 'European Conference on Computer Vision',
    'ICCV': 'IEEE/CVF International Conference on Computer Vision',
    'NeurIPS': 'Advances in Neural Information Processing Systems',
}

UNINET = 'UniNet: Unified Architecture Search with Convolution, Transformer, and MLP'
PAPERS: dict[str, tuple[Paper, ...]] = {
    'carnet': (
        Paper(
            'zhou2021fullattention',
            'Full-attention based Neural Architecture Search using Context Auto-regression',
            ('Yuan Zhou', 'Haiyang Wang', 'Shuwei Huo', 'Boyu Wang'),
            '',
            2021,
            '2111.07139',
        ),
    ),
    'glit': (
        Paper(
            'chen2021glit',
            'GLiT: Neural Architecture Search for Global and Local Image Transformer',
            (
                'Boyu Chen',
                'Peixia Li',
                'Chuming Li',
                'Baopu Li',
                'Lei Bai',
                'Chen Lin',
                'Ming Sun',
                'Junjie Yan',
                'Wanli Ouyang',
            ),
            'ICCV',
            2021,
            '2107.02960',
        ),
    ),
    's3': (
        Paper(
            'chen2021searching',
            'Searching the Search Space of Vision Transformer',
            (
                'Minghao Chen',
                'Kan Wu',
                'Bolin Ni',
                'Houwen Peng',
                'Bei Liu',
                'Jianlong Fu',
                'Hongyang Chao',
                'Haibin Ling',
            ),
            'NeurIPS',
            2021,
            '2111.14725',
        ),
    ),
    'trionet': (
        Paper(
            'pi2021trionet',
            'Searching for TrioNet: Combining Convolution with Local and Global Self-Attention',
            ('Huaijin Pi', 'Huiyu Wang', 'Yingwei Li', 'Zizhang Li', 'Alan Yuille'),
            'BMVC',
            2021,
            '2111.07547',
        ),
    ),
    'uninet': (
        Paper(
            'liu2021uninet',
            UNINET,
            ('Jihao Liu', 'Hongsheng Li', 'Guanglu Song', 'Xin Huang', 'Yu Liu'),
            '',
            2021,
            '2110.04035',
        ),
        Paper(
            'liu2022uninet',
            UNINET,
            ('Jihao Liu', 'Xin Huang', 'Guanglu Song', 'Hongsheng Li', 'Yu Liu'),
            'ECCV',
            2022,
            '2207.05420',
        ),
    ),
}
"""By family; UniNet has two, with other networks in each."""
