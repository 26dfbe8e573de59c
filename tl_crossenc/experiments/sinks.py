"""The sinks: attention on CLS, the separators and full stops, where heads look when they have nothing to do ("no-op").

Clark et al. 2019 and Zhan et al. 2020 read such mass as a head's resting place. Masses are means over pairs of the rows of an
attender; a passage or query without full stops gives them 0. The attender ALL is every position of the pair, which is what Zhan
et al. 2020 average over (`published.ZHAN_2020_SEP_MASS`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.experiments.attention import Attention, Group
from tl_crossenc.instruments.attention_flow import ATTENDED, ATTENDERS, DOC_STOPS, QUANTITIES, QUERY_STOPS
from tl_crossenc.results.unavailable import Unavailable

SINKS: dict[str, tuple[str, ...]] = {
    "CLS": ("CLS",),
    "SEP1": ("SEP1",),
    "SEP2": ("SEP2",),
    "SEP": ("SEP1", "SEP2"),
    QUERY_STOPS: (QUERY_STOPS,),
    DOC_STOPS: (DOC_STOPS,),
    "STOPS": (QUERY_STOPS, DOC_STOPS),
}
"""What is summed for each sink: `SEP` is both separators, `STOPS` all full stops."""


@dataclass(frozen=True)
class Sinks(Framed):
    """Attention on sinks.

    Attributes:
        by_layer: a row a (layer, attender, sink): `mass`, the mean over heads and pairs; `lowest_head` and `highest_head`, the
            extremes over heads; `n_pairs`.
        by_head: a row a (layer, head, attender, sink): `mass`, `n_pairs`.
    """

    by_layer: pd.DataFrame
    by_head: pd.DataFrame

    __repr__ = short_repr


def measure_sinks(attention: Attention, *, grades: Iterable[int] | None = None) -> Sinks:
    """The mass on every sink, over the pairs of some grades (all by default).

    Raises:
        Unavailable: the pool has none of the grades.
    """
    wanted = set(attention.grades if grades is None else grades)
    flow = attention.flow.regroup(lambda group: "pairs" if cast(Group, group).grade in wanted else None)
    if not flow.groups:
        raise Unavailable(
            f"the attention on sinks needs passages of grades {sorted(wanted)}, but the pool has only "
            f"{sorted(attention.grades)}: choose other grades"
        )
    mass = QUANTITIES.index("mass")
    columns = [[ATTENDED.index(name) for name in names] for names in SINKS.values()]
    masses = flow.moments.observed_mean[0, :, :, mass]
    summed = np.stack([masses[..., column].sum(-1) for column in columns], axis=-1)  # [layer, head, attender, sink]
    counts = np.stack([flow.moments.count[0, 0, 0, mass][:, column[0]] for column in columns], axis=-1)
    axes = {
        "layer": range(attention.n_layers),
        "head": range(attention.n_heads),
        "attender": ATTENDERS,
        "sink": tuple(SINKS),
    }
    by_head = pd.MultiIndex.from_product(axes.values(), names=axes.keys()).to_frame(index=False)
    by_head["mass"] = summed.reshape(-1)
    by_head["n_pairs"] = np.broadcast_to(counts, summed.shape).reshape(-1)
    axes.pop("head")
    by_layer = pd.MultiIndex.from_product(axes.values(), names=axes.keys()).to_frame(index=False)
    for name, reduce in (("mass", np.mean), ("lowest_head", np.min), ("highest_head", np.max)):
        by_layer[name] = reduce(summed, axis=1).reshape(-1)
    by_layer["n_pairs"] = np.broadcast_to(counts, (attention.n_layers, *counts.shape)).reshape(-1)
    return Sinks(by_layer, by_head, made=attention.made)
