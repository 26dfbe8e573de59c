"""What tests of commands share."""

import pytest

from tl_crossenc.cli import main


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """No hub, and at once: the hub's own client would try for twenty seconds."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def run(capsys):
    """Run a command in this process: (exit status, standard output, standard error)."""

    def call(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            status = stop.code
        out, err = capsys.readouterr()
        return status, out, err

    return call
