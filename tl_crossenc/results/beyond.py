"""The artefacts beyond the paper: of the methods of the systems that it cites, and of newer ones (`experiments.beyond`)."""

from __future__ import annotations

from tl_crossenc.results.artefact import Artefact

BEYOND: tuple[Artefact, ...] = ()
"""In the order in which a report shows them, after the paper's; each `beyond=True`, its key that of its method or its `source`."""
