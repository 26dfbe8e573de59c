"""Models that the doctor's tests share."""

import pytest
from doctored import opened
from foreign_system import Foreign, long_folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """(model, Hugging Face) of a BERT with two logits and room for 601 tokens, which cuts to 512."""
    folder = long_folder(tmp_path_factory.mktemp("two") / "bert")
    return opened(folder), Foreign(folder)
