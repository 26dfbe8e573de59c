"""Named conditions: the masks of three papers, as directions of attention.

A preset removes some directions in the first n layers (in all of them unless n is given), in every head. It is named on the
command line as `@name`, `@name:n` or, to choose the mode, `mask(@name:n)`; what a result is labelled with is always the canonical
text of the condition that it stands for.

    @paper-doc-query   what DOC reads from QUERY, and so on for the 30 directions of the table: `paper-ATTENDER-ATTENDED`.
                       Vast et al. 2025, Table 1: every layer, after the softmax, not renormalized (our `zero`).
    @zhan-q2d          query to document: the rows of DOC and SEP2 keep DOC and SEP2, and lose CLS, QUERY and SEP1.
    @zhan-d2q          document to query: the rows of QUERY keep QUERY, and lose CLS, SEP1, DOC and SEP2.
    @zhan-both         both. Zhan et al. 2020, section 4: layers 0..n-1, after the softmax, not renormalized (`zero`).
    @mice-mask0        nothing but CLS attends to CLS; DOC not to SEP1, QUERY not to SEP2; the separators only to themselves.
    @mice-mask1        mask0, and CLS not to DOC and SEP2.
    @mice-mask2        mask1, and DOC not to QUERY. Vast et al. 2026 (MICE): every layer, before the softmax (`mask`).

How Zhan et al. 2020 is read. Their "query to document" is the way that information flows, so the rows that they cut are the
document's, as their abstract has it (document representations are "query-independent") and as their published code does: for
the passage and its closing separator, every column of `[CLS] query [SEP]` is set to 0; for the query's tokens, every column but
the query's own. So each mask cuts more than one of our directions, CLS and the separators too, while a part still reads itself;
CLS and SEP1 keep their rows. What they call query-to-document is therefore a wider DOC->QUERY here, and document-to-query a wider
QUERY->DOC. Since CLS keeps its row, the cut of the last layer cannot move a score: n and n - 1 of n layers give the same ranking.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tl_crossenc.interventions.conditions import Condition, Mode
from tl_crossenc.interventions.directions import PAPER_DIRECTIONS, Direction, parse_directions

VAST = "Vast et al. 2025, Table 1"
ZHAN = "Zhan et al. 2020"
MICE = "Vast et al. 2026 (MICE)"
_NAMED = re.compile(r"@([^:@()\s]+)(?::([^:@()\s]*))?")
_WITH_MODE = re.compile(r"(zero|mask)\(\s*(@[^();]*?)\s*\)")


@dataclass(frozen=True)
class Preset:
    """One paper's mask.

    Attributes:
        name: what it is called after the `@`.
        description: what loses what.
        source: the paper.
        mode: how that paper removes attention, "zero" or "mask".
        directions: what is removed.
    """

    name: str
    description: str
    source: str
    mode: Mode
    directions: tuple[Direction, ...]

    def condition(self, n_layers: int, first: int | None = None, mode: Mode | None = None) -> Condition:
        """The condition on a model of `n_layers` layers.

        Args:
            n_layers: of the model.
            first: remove in the first so many layers; in all of them where None. 0 is the unablated model.
            mode: "zero" or "mask"; the paper's own where None.

        Raises:
            ValueError: more layers than the model has, or fewer than none.
        """
        if first is not None and not 0 <= first <= n_layers:
            raise ValueError(f"expected 0 to {n_layers} layers for @{self.name} on this model, got {first}")
        if first == 0:
            return Condition()
        layers = None if first in (None, n_layers) else range(first)
        return Condition.ablate(self.directions, layers=layers, mode=mode or self.mode)


def _directions(*texts: str) -> tuple[Direction, ...]:
    return tuple(direction for text in texts for direction in parse_directions(text))


_Q2D = _directions("DOC->CLS", "DOC->QUERY", "DOC->SEP1", "SEP2->CLS", "SEP2->QUERY", "SEP2->SEP1")
_D2Q = _directions("QUERY->CLS", "QUERY->SEP1", "QUERY->DOC", "QUERY->SEP2")
_MASK0 = _directions(
    *("QUERY->CLS", "SEP1->CLS", "DOC->CLS", "SEP2->CLS", "DOC->SEP1", "QUERY->SEP2"),
    *("SEP1->QUERY", "SEP1->DOC", "SEP1->SEP2", "SEP2->QUERY", "SEP2->SEP1", "SEP2->DOC"),
)
_MASK1 = _MASK0 + _directions("CLS->DOC", "CLS->SEP2")
_MASK2 = _MASK1 + _directions("DOC->QUERY")


def _paper(direction: Direction) -> Preset:
    attender, attended = str(direction).split("->")
    name = f"paper-{attender.lower()}-{attended.lower()}"
    whole = "everything" if direction.attended is None else attended
    return Preset(name, f"what {attender} reads from {whole}", VAST, "zero", (direction,))


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        *map(_paper, PAPER_DIRECTIONS),
        Preset("zhan-q2d", "DOC and SEP2 lose CLS, QUERY and SEP1 (query to document)", ZHAN, "zero", _Q2D),
        Preset("zhan-d2q", "QUERY loses CLS, SEP1, DOC and SEP2 (document to query)", ZHAN, "zero", _D2Q),
        Preset("zhan-both", "query to document and document to query", ZHAN, "zero", _Q2D + _D2Q),
        Preset("mice-mask0", "no-ops: CLS and separators neither read nor serve as sinks", MICE, "mask", _MASK0),
        Preset("mice-mask1", "mask0, and CLS loses DOC and SEP2", MICE, "mask", _MASK1),
        Preset("mice-mask2", "mask1, and DOC loses QUERY", MICE, "mask", _MASK2),
    )
}
"""Name → preset, with its description and source."""

COMPARED: tuple[str, ...] = (
    *("paper-query-query", "paper-query-doc", "paper-doc-query", "paper-doc-doc", "paper-cls-query", "paper-cls-doc"),
    *("zhan-q2d", "zhan-d2q", "zhan-both", "mice-mask0", "mice-mask1", "mice-mask2"),
)
"""What is compared by default: six directions of Vast et al., between and within the texts, and the masks of the other two."""


def parse_preset(text: str) -> tuple[Preset, int | None]:
    """(preset, number of first layers or None for all) from `zhan-q2d` or `zhan-q2d:4`, with or without the `@`.

    Raises:
        ValueError: there is no such preset, or what follows the colon is no number of layers.
    """
    stripped = text.strip()
    match = _NAMED.fullmatch(stripped if stripped.startswith("@") else f"@{stripped}")
    if match is None:
        raise ValueError(f"expected a preset such as @zhan-q2d or @zhan-q2d:4, got {text!r}")
    name, first = match[1].lower(), match[2]
    if name not in PRESETS:
        raise ValueError(f"expected a preset among {_choices()}, got {match[1]!r}")
    if first is not None and not (first.isascii() and first.isdigit()):
        raise ValueError(f"expected a number of layers after the colon, such as @{name}:4, got {text!r}")
    return PRESETS[name], None if first is None else int(first)


def _choices() -> str:
    named = [name for name in PRESETS if not name.startswith("paper-")]
    return ", ".join([*named, "paper-ATTENDER-ATTENDED (such as paper-doc-query)"])


def preset(name: str, n_layers: int, *, mode: Mode | None = None) -> Condition:
    """The condition that a preset stands for on a model of `n_layers` layers.

    Args:
        name: `zhan-q2d`, or `zhan-q2d:4` for the first four layers; an `@` in front is allowed.
        n_layers: of the model.
        mode: "zero" or "mask"; the paper's own where None.

    Raises:
        ValueError: an unknown preset, or more layers than the model has.

    >>> str(preset("paper-doc-query", 12))
    'zero(DOC->QUERY)'
    >>> str(preset("zhan-d2q:4", 12)).split(" + ")[0]
    'zero(QUERY->CLS; layers=0-3)'
    """
    found, first = parse_preset(name)
    return found.condition(n_layers, first, mode)


def resolve_condition(text: str, n_layers: int) -> Condition:
    """A condition from its text, in which presets may stand for edits.

    Raises:
        ValueError: the text is not the form of a condition, or names an unknown preset.

    >>> str(resolve_condition("mask(@paper-doc-query:2) + zero(CLS->ALL)", 6))
    'mask(DOC->QUERY; layers=0-1) + zero(CLS->ALL)'
    """
    condition = Condition()
    for part in text.split(" + "):
        with_mode = _WITH_MODE.fullmatch(part.strip())
        if with_mode is not None:
            condition += preset(with_mode[2], n_layers, mode="mask" if with_mode[1] == "mask" else "zero")
        elif part.strip().startswith("@"):
            condition += preset(part, n_layers)
        elif "@" in part:
            raise ValueError(
                f"expected a preset as @zhan-q2d, @zhan-q2d:4 or mask(@zhan-q2d:4), got {part.strip()!r}: a preset says itself "
                "what it removes and where"
            )
        else:
            condition += Condition.parse(part)
    return condition


def resolve_ablations(texts: Sequence[str], n_layers: int) -> list[Condition | str]:
    """`texts` for `model.ablating`, with presets replaced by what they stand for and directions left as they are."""
    return [resolve_condition(text, n_layers) if "@" in text else text for text in texts]
