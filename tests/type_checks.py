"""Types and shapes of every function of the package are checked while tests run; here that is left out where it shows nothing."""

from contextlib import contextmanager

from jaxtyping import config


@contextmanager
def unchecked():
    """For what a test compares with, and for jobs run again: the same calls as are checked elsewhere, at a third of the time."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", before)
