"""A space in words: its choices, how many architectures they span, what those cost."""

import re
from collections.abc import Sequence

from search.budget import BudgetSampler, Limits
from search.choice import Choice
from search.spaces import FamilySpace

__all__ = ['describe_space']


def describe_space(family_space: FamilySpace, num_classes: int, limits: Limits) -> list[str]:
    """Lines for people.

    Args:
        family_space: The space, at its input size.
        num_classes: Of the classifier, which costs as well.
        limits: The share of architectures within them is estimated; none if they are empty.

    Raises:
        ZooError: No architecture lies within the limits.
    """
    space = family_space.space
    size = 'x'.join(map(str, family_space.input_size))
    lines = [f'{family_space.family}, images of {size}, {num_classes} classes: {len(space.choices)} choices']
    lines += [f'  {name}: {values}' for name, values in group(space.choices)]
    count = space.size()
    lines.append(f'architectures: {count:,} ({scientific(count)})')
    if family_space.paper_size is not None and family_space.paper_size != count:
        paper = family_space.paper_size
        lines.append(f"in the paper's counting: {paper:,} ({scientific(paper)})")
    everything = BudgetSampler(family_space.cost_model(num_classes), Limits())
    for name, (least, most) in everything.attainable().items():
        lines.append(f'{name}: {least:,} to {most:,}')
    if limits != Limits():
        share = BudgetSampler(everything.model, limits).share()
        lines.append(f'within the limits: {100 * share:.3g} % of them, about {share * count:.2g}')
    return lines


def group(choices: Sequence[Choice]) -> list[tuple[str, str]]:
    """Choices with their values; those that differ only in the number of the block stand in one line."""
    found: dict[tuple[str, str], list[str]] = {}
    for choice in choices:
        values = ', '.join(map(str, choice.values))
        place = re.fullmatch(r'(.*?)((?:block|layer)(\d+))(.*)', choice.name)
        key = (f'{place[1]}{place[2].rstrip("0123456789")}*{place[4]}' if place else choice.name), values
        found.setdefault(key, []).append(place[3] if place else '')
    return [
        (name.replace('*', numbers[0] + (f'-{numbers[-1]}' if len(numbers) > 1 else '')), values)
        for (name, values), numbers in found.items()
    ]


def scientific(count: int) -> str:
    """``7.181e25``, of integers that no float can hold, too."""
    digits = str(count)
    if len(digits) < 5:
        return digits
    rounded = str(round(count, 4 - len(digits)))
    return f'{rounded[0]}.{rounded[1:4]}e{len(rounded) - 1}'
