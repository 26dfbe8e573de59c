"""What a run says of itself in `run.json`: the model, the pools, what was measured, the files that are of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.results.kept_pools import Cut
from tl_crossenc.results.layout import RUNS
from tl_crossenc.results.outputs import file_name, run_files, versions


def run_record(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    cut: Sequence[Cut],
    conditions: Iterable[str],
    files: Iterable[str],
    about: Mapping[str, Any],
    device: str,
) -> dict[str, Any]:
    """What was run, on what, with which versions, and the files that are of it. No times: a rerun writes the same bytes.

    Args:
        model: as it ran.
        pools: one a collection.
        cut: how many passages of each were cut.
        conditions: which have a run.
        files: of the run, beside the runs.
        about: more, such as the settings and the measure.
        device: where the model ran.
    """
    runs = run_files(conditions)
    listed = [f"{RUNS}/{file_name(pool.collection)}/{name}" for pool in pools for name in runs.values()]
    return {
        **about,
        "files": sorted([*files, *listed]),
        "model": {
            "name": model.cfg.model_name,
            "revision": model.cfg.revision,
            **({"family": model.cfg.family} if model.cfg.family != "bert" else {}),
            **({"windows": model.cfg.windows} if any(model.cfg.windows or ()) else {}),
            "layers": model.cfg.n_layers,
            "heads": model.cfg.n_heads,
            "d_model": model.cfg.d_model,
            "labels": model.cfg.n_labels,
            "score": model.cfg.score,
            "activation": {"name": model.activation.name, "why": model.activation.why},
            "types_fed": model.types_fed,
            "max_length": model.encoder.max_length if model.encoder else None,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": device,
        },
        "pools": [
            {"collection": pool.collection, "digest": pool.digest, "provenance": pool.provenance, "cut": one._asdict()}
            for pool, one in zip(pools, cut, strict=True)
        ],
        "runs": runs,
        "versions": versions(),
    }
