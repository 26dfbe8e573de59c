"""Fixtures: a tiny BERT classifier of each head, its ports, and a padded batch of uneven pairs."""

import gc
import os

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores, so a thread each, theirs too
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def pytest_collection_finish():
    """What is imported stays: the collector need not look at it again, which takes up to a tenth of the time."""
    import hypothesis  # noqa: F401  asks the collector who holds others' sources of randomness, and has to see them

    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    """Who asks the collector then, as hypothesis does for its randomness, sees everything."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _no_method_unless_asked():
    """Whole jobs take the methods beyond the paper that their test names: each has tests of its own, and costs seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tl_crossenc.experiments.paper.usual_methods", tuple)
        yield


@pytest.fixture(scope="session")
def rows():
    """Four unpadded pairs, one with a one-word passage, one with an empty one."""
    from tiny_models import tiny_rows

    return tiny_rows()


@pytest.fixture
def unchecked():
    """No check of types and shapes in this test: `type_checks.unchecked`."""
    from type_checks import unchecked

    with unchecked():
        yield


@pytest.fixture
def blank_drawings(monkeypatch):
    """Figures are composed and their files written, but nothing is drawn in them: for tests of which files are there."""
    from small_worlds import blank

    blank(monkeypatch)


@pytest.fixture
def batch(rows):
    """The four pairs as one padded batch."""
    from tiny_models import to_batch

    return to_batch(rows)


@pytest.fixture(params=[1, 2], ids=["1-label", "2-labels"])
def any_hf(request):
    """A tiny Hugging Face classifier with 1 label, then with 2."""
    from tiny_models import tiny_hf

    return tiny_hf(request.param, seed=request.param)


@pytest.fixture
def hf():
    """A tiny Hugging Face classifier with 2 labels."""
    from tiny_models import tiny_hf

    return tiny_hf()


@pytest.fixture
def model(hf):
    """Its port in float64."""
    from tiny_models import port

    return port(hf, torch.float64)
