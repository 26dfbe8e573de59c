"""One artefact: something that a run shows, and the files that hold its numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tl_crossenc.results.layout import TABLES


@dataclass(frozen=True)
class Artefact:
    """Something that the paper shows, or that we add.

    Attributes:
        key: its name in files and results.
        title: its name for people.
        tables: name -> file in the results folder.
        source: the key of the result that it is made from.
        drawn: whether a figure of this key is drawn.
        beyond: whether it is of a method beyond the paper, which a run may leave out.
    """

    key: str
    title: str
    tables: dict[str, str]
    source: str = ""
    drawn: bool = True
    beyond: bool = False

    @property
    def result(self) -> str:
        """The key of the result that it is made from."""
        return self.source or self.key


def by_result(artefacts: Iterable[Artefact]) -> dict[str, list[Artefact]]:
    """The key of a result -> the artefacts that are made from it, in the order given."""
    found: dict[str, list[Artefact]] = {}
    for artefact in artefacts:
        found.setdefault(artefact.result, []).append(artefact)
    return found


def tables(**files: str) -> dict[str, str]:
    """Where an artefact's tables lie, by name."""
    return {name: f"{TABLES}/{file}" for name, file in files.items()}
