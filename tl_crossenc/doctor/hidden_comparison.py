"""The first layer at which another system's hidden states leave ours: `compare_hidden`.

Where they differ from the beginning, the pairs are read in the other known ways, too: the reading that goes with the dump for the
most layers is named.
"""

from __future__ import annotations

from tl_crossenc.doctor.foreign_scores import ForeignScores
from tl_crossenc.doctor.held_states import HeldStates, hold_states
from tl_crossenc.doctor.hidden_dump import HiddenDump
from tl_crossenc.doctor.hidden_report import HiddenReport
from tl_crossenc.doctor.hidden_verdicts import first_difference, notes_on_states, states_frame, verdict_on_states
from tl_crossenc.doctor.readings import OURS, all_readings, uncut_lengths
from tl_crossenc.doctor.score_comparison import encoder_of
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import made_by


def compare_hidden(
    model: HookedCrossEncoder, dump: HiddenDump, foreign: ForeignScores, *, token_budget: int | None = None
) -> HiddenReport:
    """Find the first hidden state of another system that differs from ours.

    Args:
        model: the model that the other system runs, too.
        dump: its hidden states of the first pairs of the file (`read_hidden`).
        foreign: the pairs, from `read_scores` or `scores_of`.
        token_budget: padded tokens a batch.

    Raises:
        ValueError: states of another number of layers or dimensions, or of more pairs than there are; pairs that cannot be read.
    """
    encoder = encoder_of(model)
    n_states, n_pairs, _, d_model = dump.states.shape
    if (n_states, d_model) != (model.cfg.n_layers + 1, model.cfg.d_model):
        raise ValueError(
            f"expected {model.cfg.n_layers + 1} hidden states (what enters layer 0 and what leaves each layer) of "
            f"{model.cfg.d_model} dimensions, got {n_states} of {d_model} in {dump.source}: is it of the same model?"
        )
    if n_pairs > len(foreign.rows):
        raise ValueError(
            f"expected hidden states of at most the {len(foreign.rows):,} pairs of {foreign.source}, got {n_pairs:,} in "
            f"{dump.source}: dump those of its first pairs"
        )
    chosen = foreign.rows[:n_pairs]
    queries, passages = [foreign.queries[i] for i in chosen], [foreign.passages[i] for i in chosen]
    readings = all_readings(encoder, int(uncut_lengths(encoder, queries, passages).max()))
    held: list[HeldStates] = []
    seen = set()
    for reading in readings:
        rows = reading.read(queries, passages)
        whole = [row for row in rows if row is not None]
        key = tuple((ids.tobytes(), types.tobytes()) for ids, types in whole)
        if len(whole) < len(rows) or key in seen:
            continue
        seen.add(key)
        held.append(hold_states(model, dump, reading.name, whole, token_budget))
        if held[0].alike > 0:
            break  # what differs is inside of the model
    if not held or held[0].name != OURS:
        raise ValueError(
            f"expected pairs that can be read here, got a query among the first {n_pairs:,} that leaves its passage no room: leave "
            "that pair out"
        )
    encoded = encoder.encode(queries, passages)
    parts = [encoded.parts[start:stop] for start, stop in zip(encoded.offsets[:-1], encoded.offsets[1:], strict=True)]
    ours = held[0]
    first = first_difference(model, ours, parts)
    return HiddenReport(
        source=dump.source,
        n_pairs=n_pairs,
        states=states_frame(ours, parts),
        first=first,
        verdict=verdict_on_states(model, ours, first),
        notes=tuple(notes_on_states(ours, first, parts, held[1:])),
        made=made_by(model, hidden=dump.source, pairs=n_pairs),
    )
