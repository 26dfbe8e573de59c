"""What a model shows at the prompt, as its methods.

What shows things is built on the instruments, and these on the model; so the model cannot import it. It looks it up by name when
asked, as the package does with its public names, and nothing that computes depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

HOME = {
    "explain": "views.explain",
    "contrast": "views.contrast",
    "attention_view": "views.attention",
    "attention_matrix": "views.attention",
    "export_attention": "doors.export",
    "as_pyterrier": "doors.reranker",
}
"""Method -> the module that has the function of that name, whose first argument is the model."""


class Prompt:
    """Methods that show one pair, or hand the model to other tools. Each is documented in full where its function is."""

    def explain(
        self,
        query: str,
        passage: str,
        against: str | None = None,
        *,
        top: int = 5,
        links: int = 3,
        attribution: str | None = "leave-one-out",
        removal: str | None = None,
        max_length: int | Iterable[int] | None = None,
        statistics: Any = None,
        most_runs: int | None = None,
        progress: Any = None,
    ) -> Any:
        """What makes the score, word by word and head by head: an `Explanation`, HTML in a notebook and tables in a terminal.

        With a second passage, why the one outranks the other: a `Contrast` (`views.contrast`), also with the fewest words that turn
        the order, in whose search `most_runs` is the limit.

        >>> from tl_crossenc import HookedCrossEncoder
        >>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
        >>> found = model.explain("tune a guitar", "a guitar garden")
        >>> found.top_contributions[0][0], found.top_heads("DOC->QUERY")[0][0]
        ('head 3.1', '1.2')
        >>> found.to_frame("words")[["text", "word", "value"]].round(2).tail(3)
              text    word  value
        3  passage       a   1.19
        4  passage  guitar   1.19
        5  passage  garden  -1.77
        >>> model.explain("tune guitar", "old guitar garden", "old piano garden tune").removal_sentence("A")
        'A falls below B without 1 word: guitar (0.0007 against 2.4165; the fewest that do).'
        """
        if against is not None:
            if attribution != "leave-one-out" or statistics is not None:
                raise ValueError(
                    "expected neither attribution nor statistics beside a second passage, whose words are left out one at a time: "
                    "leave them away, or explain one passage"
                )
            limit = {} if most_runs is None else {"most_runs": most_runs}
            return _function("contrast")(
                self,
                query,
                passage,
                against,
                top=top,
                links=links,
                removal=removal,
                max_length=max_length,
                progress=progress,
                **limit,
            )
        if most_runs is not None:
            raise ValueError("expected a second passage beside most_runs, got none: leave one out, or add the other")
        return _function("explain")(
            self,
            query,
            passage,
            top=top,
            links=links,
            attribution=attribution,
            removal=removal,
            max_length=max_length,
            statistics=statistics,
            progress=progress,
        )

    def attention_view(self, query: str, passage: str, *, layer: int, heads: Iterable[int] | None = None) -> Any:
        """A layer's heads to click through, in a notebook or on a page (needs circuitsvis); works offline."""
        return _function("attention_view")(self, query, passage, layer=layer, heads=heads)

    def attention_matrix(self, query: str, passage: str, *, layer: int, head: int, direction: Any = "ALL->ALL") -> Any:
        """One head's attention, or a direction of it, as numbers and as SVG.

        >>> from tl_crossenc import HookedCrossEncoder
        >>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
        >>> model.attention_matrix("tune a guitar", "guitar", layer=1, head=2, direction="DOC->QUERY").to_frame().round(2)
        attended  tune    a  guitar
        attender
        guitar     0.0  0.0    0.99
        """
        return _function("attention_matrix")(self, query, passage, layer=layer, head=head, direction=direction)

    def export_attention(self, query: str, passage: str, **chosen: Any) -> dict[str, Any]:
        """The attention of one pair as bertviz takes it (`to="bertviz"`) or circuitsvis (`to="circuitsvis"`, of one `layer`).

        >>> from tl_crossenc import HookedCrossEncoder
        >>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
        >>> found = model.export_attention("tune a guitar", "guitar", condition="DOC->QUERY")
        >>> len(found["attention"]), found["attention"][1].shape, found["sentence_b_start"]
        (4, torch.Size([1, 4, 7, 7]), 5)
        """
        return _function("export_attention")(self, query, passage, **chosen)

    def as_pyterrier(self, condition: Any = None, **chosen: Any) -> Any:
        """The model, or the model under a condition, as a reranker in PyTerrier's pipelines (extra `pyterrier`)."""
        return _function("as_pyterrier")(self, condition, **chosen)


def _function(name: str) -> Any:
    return getattr(import_module(f"tl_crossenc.{HOME[name]}"), name)
