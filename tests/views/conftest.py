"""Models that tests of what is shown share."""

import pytest
import torch
from tiny_models import tiny_hf

from tl_crossenc.checkpoints.checkpoint import Checkpoint
from tl_crossenc.checkpoints.planted import vocabulary
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.porting import config_from_checkpoint, port_weights


@pytest.fixture(scope="module")
def planted():
    return HookedCrossEncoder.from_pretrained("planted", device="cpu")


@pytest.fixture(scope="module")
def random_model(planted):
    """Random weights of 3 layers x 3 heads in float64, with the planted model's tokenizer."""
    hf = tiny_hf(n_labels=2, seed=7, vocab_size=len(vocabulary()))
    checkpoint = Checkpoint("tiny", "sha256:0", hf.config.to_dict(), lambda: iter(hf.state_dict().items()), None, None)
    model = HookedCrossEncoder(config_from_checkpoint(checkpoint, torch.float64), planted.tokenizer)
    port_weights(model, checkpoint)
    return model.eval()
