"""Which grades stand for relevant passages: a rule that follows the collection's own scale, and its text forms.

The scale is 0 to the highest grade in a collection's qrels, whatever of it is drawn into a pool. Relevant is its upper half,

    grade >= (highest + 1) / 2

so 2 and 3 of 0..3 (the paper's), 1 of binary judgments, 2 of 0..2, 3 and 4 of 0..4. Grades between 0 and these are on neither side
of a comparison, as in the paper. Gains in nDCG are the grades themselves and know nothing of this rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

NAMES = {"easy": -1, "hard": 0}
"""Negatives by name: random passages that nobody judged, and passages judged not relevant."""


def relevant_grades(highest: int) -> tuple[int, ...]:
    """The relevant grades of the scale 0..highest, in order; none where nothing is above 0.

    >>> [relevant_grades(highest) for highest in (0, 1, 2, 3, 4)]
    [(), (1,), (2,), (2, 3), (3, 4)]
    """
    return tuple(range((highest + 2) // 2, highest + 1))


def parse_grades(text: str) -> tuple[int, ...]:
    """The grades of `1,2,3`, `-1` or `hard,easy`, each once and in order.

    Raises:
        ValueError: something else, or a grade below -1.

    >>> parse_grades("3, 2"), parse_grades("hard,easy")
    ((2, 3), (-1, 0))
    """
    items = [item.strip() for item in text.split(",")]
    for item in items:
        if item not in NAMES and not re.fullmatch(r"-1|[0-9]{1,9}", item):
            raise ValueError(
                f"expected grades such as 2,3, or {' or '.join(NAMES)} for negatives (-1 and 0), got {item!r} in {text!r}"
            )
    return tuple(sorted({NAMES[item] if item in NAMES else int(item) for item in items}))


def check_sides(relevant: Iterable[int], against: Iterable[int]) -> None:
    """Raise a ValueError unless there are grades on both sides of a comparison and none on both."""
    one, other = set(relevant), set(against)
    if not one or not other or one & other:
        raise ValueError(
            f"expected grades on both sides and none on both, got relevant {sorted(one)} and against {sorted(other)}"
        )


def listed(grades: Iterable[int], last: str = ", ") -> str:
    """`2, 3` in a sentence; `2 or 3` where `last` is " or "."""
    texts = [str(grade) for grade in sorted(grades)]
    return last.join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else "".join(texts) or "none"


def scale_sentence(highest: Iterable[int], relevant: Iterable[int]) -> str:
    """What counts as relevant on the scales of the collections, and whether the rule says so."""
    scales = sorted(set(highest))
    named = " and ".join(f"0..{top}" for top in scales)
    chosen = tuple(sorted(relevant))
    by_rule = all(relevant_grades(top) == chosen for top in scales)
    which = "the upper half of the scale" if by_rule else "as asked, of the scale"
    return f"grade {listed(chosen, ' or ')}, {which} {named}"
