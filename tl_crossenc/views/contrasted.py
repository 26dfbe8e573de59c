"""Two contrasted passages as they are shown: HTML in a notebook and as a file, coloured tables in a terminal."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Group

from tl_crossenc.console.shown import shown
from tl_crossenc.store.files import write_atomic
from tl_crossenc.views.contrast_html import contrast_html
from tl_crossenc.views.contrast_text import contrast_group
from tl_crossenc.views.contrasted_pairs import ContrastedPairs
from tl_crossenc.views.markup import page
from tl_crossenc.views.terminal import as_text, in_terminal


class Contrast(ContrastedPairs):
    """Why one passage outranks another, as it is shown; `ContrastedPairs` says what it holds."""

    def __repr__(self) -> str:
        rows = self.top_contributions[:-1][:2]
        terms = ", ".join(f"{name} {difference:+.3g}" for name, *_, difference in rows)
        return f"Contrast({self.score_a:.4g} against {self.score_b:.4g}: {self.verdict} {terms})"

    def __str__(self) -> str:
        return as_text(self)

    def __rich__(self) -> Group:
        return contrast_group(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": as_text(self, colours=in_terminal()), "text/html": self._repr_html_()}

    def _repr_html_(self) -> str:
        return contrast_html(self)

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write it as an HTML page that works offline and runs no script.

        Raises:
            StoreError: the file system refuses.
        """
        write_atomic(path, page(f"{self.model}: {shown(self.query, 60)}", self._repr_html_()))
