"""A dump of hidden states held against one reading of its pairs.

States are compared at real positions, each by the largest difference over its dimensions, which rounding allows up to

    parity's tolerance  x  max(1, largest value of that state)  +  what the dump's own type rounds off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tl_crossenc.doctor.hidden_dump import HiddenDump
from tl_crossenc.doctor.readings import Tokens
from tl_crossenc.doctor.runs import encoded_rows
from tl_crossenc.inputs.batching import run_batches
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.hidden_states import hidden_states, stream_names
from tl_crossenc.model.parity import tolerance


@dataclass(frozen=True)
class HeldStates:
    """A reading held against a dump.

    Attributes:
        name: of the reading.
        rows: each pair's tokens.
        apart: of each pair `[state, pos]`, the largest difference over the dimensions.
        allowed: `[state]`.
        unlike: the first (row, pos) whose token is another, or at which a pair ends on one side; None where all tokens are alike.
    """

    name: str
    rows: Sequence[Tokens]
    apart: Sequence[np.ndarray]
    allowed: Float[np.ndarray, "state"]
    unlike: tuple[int, int] | None

    def first(self) -> tuple[int, int, int] | None:
        """(state, row, pos) of the first difference; None where there is none."""
        for state, allowed in enumerate(self.allowed):
            for row, apart in enumerate(self.apart):
                beyond = ~(apart[state] <= allowed)  # NaN is beyond
                if beyond.any():
                    return state, row, int(beyond.argmax())
        return None

    @property
    def alike(self) -> int:
        """How many states are alike from the first on; -1 where tokens are not."""
        found = self.first()
        return -1 if self.unlike is not None else len(self.allowed) if found is None else found[0]


def hold_states(
    model: HookedCrossEncoder, dump: HiddenDump, name: str, rows: Sequence[Tokens], token_budget: int | None
) -> HeldStates:
    """Run a reading of the dump's pairs and compare its states."""
    pad = model.encoder.tokenizer.pad_token_id or 0 if model.encoder is not None else 0
    pairs = encoded_rows(rows, pad)
    apart: list[np.ndarray] = [np.zeros((0, 0))] * len(rows)
    largest = np.zeros(len(dump.states))
    unlike: list[tuple[int, int]] = []

    def run(indices: np.ndarray) -> None:
        batch = pairs.batch(indices)
        _, cache = model.run_with_cache(
            batch.tokens,
            token_type_ids=batch.token_type_ids,
            attention_mask=batch.attention_mask,
            return_type="logits",
            names_filter=stream_names(model),
        )
        ours = torch.stack([state.to("cpu", torch.float64) for state in hidden_states(model, cache)])
        for k, i in enumerate(indices):
            mine = ours[:, k, : len(rows[i][0])]
            theirs, ids = _real(dump, int(i), mine.shape[1])
            n = min(mine.shape[1], theirs.shape[1])
            apart[i] = (mine[:, :n] - theirs[:, :n].double()).abs().amax(-1).numpy()
            np.maximum(largest, mine.abs().amax((1, 2)).numpy(), out=largest)
            other = np.zeros(n, bool) if ids is None else ids[:n].numpy() != rows[i][0][:n]
            if other.any() or mine.shape[1] != theirs.shape[1]:
                unlike.append((int(i), int(other.argmax()) if other.any() else n))

    with torch.no_grad():
        for _ in run_batches(pairs.lengths, model.token_budget(token_budget), run):
            pass
    stored = torch.finfo(dump.states.dtype).eps / 2
    allowed = tolerance(model.cfg) * np.maximum(1, largest) + stored * largest
    return HeldStates(name, rows, apart, allowed, min(unlike) if unlike else None)


def _real(dump: HiddenDump, row: int, length: int) -> tuple[Tensor, Tensor | None]:
    """A pair's states `[state, pos, d_model]` and ids at its real tokens; without a mask the first `length`."""
    if dump.mask is None:
        return dump.states[:, row, :length], None if dump.ids is None else dump.ids[row, :length]
    real = dump.mask[row]
    return dump.states[:, row, real], None if dump.ids is None else dump.ids[row, real]
