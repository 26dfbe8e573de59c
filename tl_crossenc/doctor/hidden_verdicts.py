"""What a comparison of hidden states comes to: the first difference, a frame, sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tl_crossenc.console.shown import quoted
from tl_crossenc.doctor.held_states import HeldStates
from tl_crossenc.doctor.hidden_report import FirstDifference, state_name
from tl_crossenc.doctor.terminal import number
from tl_crossenc.inputs.parts import REAL_PART_NAMES, Part
from tl_crossenc.model.cross_encoder import HookedCrossEncoder


def first_difference(
    model: HookedCrossEncoder, held: HeldStates, parts: Sequence[np.ndarray]
) -> FirstDifference | None:
    """The first difference; None where there is none, or where tokens differ."""
    found = held.first()
    if found is None or held.unlike is not None:
        return None
    state, row, pos = found
    token = str(model.tokenizer.convert_ids_to_tokens(int(held.rows[row][0][pos])))
    difference = float(held.apart[row][state, pos])
    return FirstDifference(
        state, row, pos, Part(int(parts[row][pos])).name, token, difference, float(held.allowed[state])
    )


def states_frame(held: HeldStates, parts: Sequence[np.ndarray]) -> pd.DataFrame:
    """A row a state: the largest difference in each part, over all, and what is allowed."""
    rows = []
    for state, allowed in enumerate(held.allowed):
        values: dict[str, float] = {}
        for code, name in enumerate(REAL_PART_NAMES):
            there = [apart[state][own[: apart.shape[1]] == code] for apart, own in zip(held.apart, parts, strict=True)]
            values[name] = float(np.concatenate(there).max(initial=0.0))
        rows.append({"state": state, "name": state_name(state), **values, "allowed": float(allowed)})
    frame = pd.DataFrame(rows)
    frame["max_abs"] = frame[list(REAL_PART_NAMES)].max(axis=1, skipna=False)
    return frame


def verdict_on_states(model: HookedCrossEncoder, held: HeldStates, first: FirstDifference | None) -> str:
    """What a dump is, in one sentence."""
    if held.unlike is not None:
        row, pos = held.unlike
        ids = held.rows[row][0]
        mine = quoted(str(model.tokenizer.convert_ids_to_tokens(int(ids[pos])))) if pos < len(ids) else "the pair's end"
        return f"The tokens differ already: in pair {row + 1} at position {pos}, where here is {mine}."
    if first is None:
        largest = max(float(apart.max(initial=0.0)) for apart in held.apart)
        return f"All hidden states are ours, to {number(largest)}: what differs comes later, in the head or what is made of it."
    before = max((float(apart[: first.state].max(initial=0.0)) for apart in held.apart), default=0.0)
    upto = f"; up to there they are ours, to {number(before)}" if first.state else ""
    where = "what enters layer 0" if not first.state else f"what leaves layer {first.state - 1}"
    return (
        f"They first differ in {where} (hidden_states.{first.state}): in pair {first.row + 1} at position {first.pos}, "
        f"{quoted(first.token, 30)} ({first.part}), by {number(first.difference)} (allowed: {number(first.allowed)}){upto}."
    )


def notes_on_states(
    held: HeldStates, first: FirstDifference | None, parts: Sequence[np.ndarray], others: Sequence[HeldStates]
) -> list[str]:
    """What speaks for the cause of a difference, a sentence each."""
    found = []
    if first is not None:
        beyond: set[str] = set()
        alike: set[str] = set()
        for apart, own in zip(held.apart, parts, strict=True):
            wrong = ~(apart[first.state] <= held.allowed[first.state])
            for code in np.unique(own[: len(wrong)]):
                name = Part(int(code)).name
                (beyond if wrong[own[: len(wrong)] == code].any() else alike).add(name)
        alike -= beyond
        there = ", ".join(name for name in REAL_PART_NAMES if name in beyond)
        if alike:
            found.append(f"There it is in {there} alone: {', '.join(n for n in REAL_PART_NAMES if n in alike)} agree.")
        else:
            found.append("There it is in every part.")
        if first.state:
            found.append(
                f"Look at the weights, the mask and the settings of layer {first.state - 1} in the other system."
            )
    best = max(others, key=lambda other: other.alike, default=None)
    if best is not None and best.alike > max(held.alike, 0):
        upto = "all states" if best.alike == len(best.allowed) else f"all up to {state_name(best.alike - 1)}"
        found.append(f"With {best.name}, {upto} agree.")
    return found
