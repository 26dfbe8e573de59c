"""What the tests of query-key circuits compare with: Hugging Face's hidden states and weights, a pair or a head at a time."""

import numpy as np
import torch
from tiny_models import D_HEAD, N_HEADS, N_LAYERS, run_hf, to_batch

from tl_crossenc.inputs.pairs import EncodedPairs


def encoded(rows):
    """Rows of `tiny_rows` as encoded pairs."""
    columns = [np.asarray([value for row in rows for value in row[i]], dtype) for i, dtype in enumerate("ibb")]
    offsets = np.cumsum([0, *(len(row[0]) for row in rows)], dtype=np.int64)
    return EncodedPairs(*columns, offsets, np.zeros(len(rows), bool), 0)


def hidden_states(hf, rows):
    """For each pair alone, `[layer, pos, d_model]`: the input of every block, from Hugging Face."""
    return [torch.stack(run_hf(hf, to_batch([row])).hidden_states)[:N_LAYERS, 0].numpy() for row in rows]


def heads(weight):
    """Hugging Face's (out, in) projection as one (d_model, d_head) matrix a head."""
    weight = weight.detach().numpy().T
    return [weight[:, h * D_HEAD : (h + 1) * D_HEAD] for h in range(N_HEADS)]
