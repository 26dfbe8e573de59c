"""Attention of one pair as a picture: any heads of a layer to click through, or one head as a matrix for a report.

`attention_view` is circuitsvis's (an optional package) with its JavaScript in the page: 1.3 MB, and no network. `attention_matrix`
is a few kilobytes of SVG without any script. Both show the pattern of the run as it is, with what `model.ablating` removes gone.
Rows are attenders, columns are attended.

>>> from tl_crossenc.model.cross_encoder import HookedCrossEncoder
>>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
>>> matrix = attention_matrix(model, "tune a guitar", "a guitar garden", layer=1, head=2, direction="DOC->QUERY")
>>> matrix
AttentionMatrix(head 1.2 of planted, DOC->QUERY, 3 x 3 tokens)
>>> matrix.to_frame().round(2).loc[["guitar", "garden"]]
attended  tune    a  guitar
attender
guitar     0.0  0.0    0.99
garden     0.0  0.0    0.00
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from tl_crossenc.console.framed import Made
from tl_crossenc.console.shown import short_name
from tl_crossenc.inputs.parts import Part
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.interventions.indices import Indices, within
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.store.files import write_atomic
from tl_crossenc.views.markup import CARD, FAINT, INK, MUTED, PART_COLOURS, page, tinted
from tl_crossenc.views.tokens import shown_tokens

CELL, LABEL = 15, 6.4
"""Pixels: a cell's side, and a letter's width."""
FAINTEST = 0.01
"""Cells with less weight are left white."""


@dataclass(frozen=True)
class AttentionView:
    """Heads of one layer, in a page that needs no network. Displays itself in a notebook.

    Attributes:
        title: what it shows.
        html: the view with all of its JavaScript.
    """

    title: str
    html: str

    def __repr__(self) -> str:
        return f"AttentionView({self.title}, {len(self.html) / 1e6:.1f} MB; shows itself in a notebook, .save(path) makes a page)"

    def _repr_html_(self) -> str:
        return self.html

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as an HTML page that works offline."""
        write_atomic(path, page(self.title, self.html))


@dataclass(frozen=True)
class AttentionMatrix(Made):
    """The attention of one head on one pair, or a direction of it.

    Attributes:
        title: the head and the model.
        direction: what is shown of the pattern.
        weights: `[attender pos, attended pos]`.
        attenders, attended: the word pieces of rows and columns.
        attender_parts, attended_parts: their parts.
    """

    title: str
    direction: str
    weights: Float[np.ndarray, "row column"]
    attenders: tuple[str, ...]
    attended: tuple[str, ...]
    attender_parts: Int[np.ndarray, "row"]
    attended_parts: Int[np.ndarray, "column"]

    def __repr__(self) -> str:
        return f"AttentionMatrix({self.title}, {self.direction}, {len(self.attenders)} x {len(self.attended)} tokens)"

    def to_frame(self) -> pd.DataFrame:
        """The weights, a row an attender and a column an attended token."""
        rows, columns = pd.Index(self.attenders, name="attender"), pd.Index(self.attended, name="attended")
        return self.told(pd.DataFrame(self.weights, index=rows, columns=columns))

    def to_svg(self) -> str:
        """The matrix alone; darker is more, weights and tokens are under the pointer."""
        left = 12 + LABEL * max(map(len, self.attenders), default=0)
        top = 12 + LABEL * max(map(len, self.attended), default=0)
        width, height = left + CELL * len(self.attended) + 2, top + CELL * len(self.attenders) + 2
        size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
        font = 'font-family="Helvetica,Arial,DejaVu Sans,sans-serif" font-size="11"'
        about = f'role="img" aria-label="{escape(repr(self))}"'
        drawn = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font} {about}>']
        for i, (token, part) in enumerate(zip(self.attenders, self.attender_parts, strict=True)):
            fill = PART_COLOURS[Part(int(part))]
            drawn.append(
                f'<text x="{left - 5:.0f}" y="{top + CELL * i + 11:.0f}" text-anchor="end" fill="{fill}">{escape(token)}</text>'
            )
        for j, (token, part) in enumerate(zip(self.attended, self.attended_parts, strict=True)):
            at = f"translate({left + CELL * j + 11:.0f} {top - 5:.0f}) rotate(-90)"
            drawn.append(f'<text transform="{at}" fill="{PART_COLOURS[Part(int(part))]}">{escape(token)}</text>')
        side = CELL - 1
        for i, j in np.argwhere(self.weights >= FAINTEST):
            weight = float(self.weights[i, j])
            told = escape(f"{self.attenders[i]} → {self.attended[j]}: {weight:.3f}")
            at = f'x="{left + CELL * j:.0f}" y="{top + CELL * i:.0f}" width="{side}" height="{side}"'
            drawn.append(f'<rect {at} fill="{tinted(INK, weight)}"><title>{told}</title></rect>')
        drawn += [_rule(left, top, i, len(self.attended), True) for i in _borders(self.attender_parts)]
        drawn += [_rule(left, top, j, len(self.attenders), False) for j in _borders(self.attended_parts)]
        return "".join(drawn) + "</svg>"

    def _repr_html_(self) -> str:
        about = f'<b>{escape(self.title)}</b> <span style="color:{MUTED}">rows attend to columns; black is 1, white 0</span>'
        return f'<div style="{CARD};max-width:none;overflow:auto">{about}<br>{self.to_svg()}</div>'

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as an SVG file (`.svg`) or an HTML page (`.html`).

        Raises:
            ValueError: another ending.
        """
        suffix = os.path.splitext(os.fspath(path))[1].lower()
        if suffix not in (".svg", ".html"):
            raise ValueError(f"expected a path that ends in .svg or .html, got {os.fspath(path)!r}")
        write_atomic(path, self.to_svg() if suffix == ".svg" else page(self.title, self._repr_html_()))


def attention_view(
    model: HookedCrossEncoder, query: str, passage: str, *, layer: int, heads: Indices = None
) -> AttentionView:
    """Heads of one layer to click through, with query and passage tokens marked `Q:` and `D:`.

    Args:
        model: the model.
        query, passage: one text each.
        layer: from 0, or from the end if negative.
        heads: which heads: a number (from the end if negative), several, or text such as "0-3,7"; all by default.

    Raises:
        ImportError: circuitsvis is not installed.
        ValueError: no such layer or head.
        TypeError: not one text each.
    """
    try:
        attention_heads = importlib.import_module("circuitsvis.attention").attention_heads
    except ImportError:
        raise ImportError(
            "attention_view needs circuitsvis, which is not installed: pip install 'tl-crossenc[notebook]' "
            "(attention_matrix needs nothing more)"
        ) from None
    at = _in_range(layer, model.cfg.n_layers, "layer")
    chosen = list(within(heads, model.cfg.n_heads, "head"))
    pattern, tokens, parts = _pattern(model, query, passage, at)
    marks = {Part.QUERY: "Q:", Part.DOC: "D:"}
    # A token that closes a script element would end the page's; "<" never has to stand in a JavaScript string as itself.
    shown = [
        (marks.get(Part(int(part)), "") + token).replace("<", "‹") for token, part in zip(tokens, parts, strict=True)
    ]
    view = attention_heads(
        attention=pattern[chosen].round(4), tokens=shown, attention_head_names=[f"{at}.{head}" for head in chosen],
        min_value=0.0, max_value=1.0, mask_upper_tri=False,
    )  # fmt: skip
    names = "all heads" if heads is None else f"heads {', '.join(map(str, chosen))}"
    html = view.local_src.replace("/>", "></div>", 1)  # the view's own element; HTML has no short form of a div
    return AttentionView(
        f"layer {at}, {names} of {short_name(str(model.cfg.model_name))}", f'<div style="{CARD}">{html}</div>'
    )


@recorded
def attention_matrix(
    model: HookedCrossEncoder,
    query: str,
    passage: str,
    *,
    layer: int,
    head: int,
    direction: Direction | str = "ALL->ALL",
) -> AttentionMatrix:
    """The attention of one head, as numbers and as a picture without scripts.

    Args:
        model: the model.
        query, passage: one text each.
        layer, head: from 0, or from the end if negative.
        direction: only its rows and columns, such as "DOC->QUERY".

    Raises:
        ValueError: no such layer, head or direction.
        TypeError: not one text each.
    """
    shown = Direction.parse(direction) if isinstance(direction, str) else direction
    at, which = _in_range(layer, model.cfg.n_layers, "layer"), _in_range(head, model.cfg.n_heads, "head")
    pattern, tokens, parts = _pattern(model, query, passage, at)
    rows, columns = (np.flatnonzero(np.isin(parts, sides)) for sides in (shown.attenders, shown.attendeds))
    return AttentionMatrix(
        f"head {at}.{which} of {short_name(str(model.cfg.model_name))}",
        str(shown),
        pattern[which][np.ix_(rows, columns)],
        tuple(tokens[i] for i in rows),
        tuple(tokens[j] for j in columns),
        parts[rows],
        parts[columns],
    )


def _pattern(
    model: HookedCrossEncoder, query: str, passage: str, layer: int
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """(`[head, pos, pos]`, tokens, parts) of one pair."""
    for name, text in (("query", query), ("passage", passage)):
        if not isinstance(text, str):
            raise TypeError(f"expected the {name} as one text, got {type(text).__name__}: view pairs one by one")
    pair = model.encode_pairs(query, passage)
    batch = pair.batch().to(model.device)
    name = f"blocks.{layer}.attn.hook_pattern"
    _, cache = model.run_with_cache(batch, names_filter=name, return_cache_object=False)
    pattern = cache[name][0].detach().double().cpu().numpy()
    return pattern, shown_tokens(model, pair), batch.parts.codes[0].cpu().numpy().astype(np.int64)


def _in_range(value: int, count: int, name: str) -> int:
    """A layer or head counted from 0."""
    if not isinstance(value, int) or not -count <= value < count:
        raise ValueError(f"expected a {name} in 0..{count - 1} (or from the end, -1..-{count}), got {value!r}")
    return value % count


def _borders(parts: np.ndarray) -> list[int]:
    """Where a new part begins, and both ends."""
    return [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(parts)]


def _rule(left: float, top: float, index: int, length: int, horizontal: bool) -> str:
    """A line between two parts."""
    across, along = ("y", "x") if horizontal else ("x", "y")
    start, offset = (left, top) if horizontal else (top, left)
    at = offset + CELL * index - 0.5
    ends = f'{along}1="{start:.0f}" {along}2="{start + CELL * length:.0f}" {across}1="{at:.1f}" {across}2="{at:.1f}"'
    return f'<line {ends} stroke="{FAINT}"/>'
