"""The frame of the methods beyond the paper: which run, what is saved of them, and what a report says of those that do not."""

import pytest

from tl_crossenc.experiments.beyond import METHODS, check_methods
from tl_crossenc.report import beyond as drawn
from tl_crossenc.results.artefacts import ARTEFACTS


def test_every_method_has_an_artefact_a_figure_and_a_caption():
    artefacts = {key: artefact for key, artefact in ARTEFACTS.items() if artefact.beyond}
    assert {artefact.result for artefact in artefacts.values()} == {method.key for method in METHODS}
    assert set(drawn.DRAWERS) == {key for key, artefact in artefacts.items() if artefact.drawn}
    assert set(drawn.CAPTIONS) >= set(drawn.DRAWERS)


def test_unknown_methods_are_named():
    with pytest.raises(ValueError, match=r"expected methods among .*, got 'colour'"):
        check_methods(["colour"])
