"""The pairs of a pool from the columns of a frame."""

from __future__ import annotations

import pandas as pd

from tl_crossenc.pools.spec import PoolPair


def frame_pairs(frame: pd.DataFrame, name: str) -> tuple[PoolPair, ...]:
    """The rows of a frame with the columns of `Pool.to_frame`; other columns are ignored.

    Raises:
        ValueError: a column is missing, a cell is empty, a grade is not whole, or there is no row.
    """
    missing = [column for column in PoolPair._fields if column not in frame.columns]
    if missing:
        raise ValueError(f"frame {name!r} lacks {', '.join(missing)}; expected {', '.join(PoolPair._fields)}.")
    chosen = frame[list(PoolPair._fields)]
    if chosen.empty or chosen.isna().any(axis=None):
        what = "no row" if chosen.empty else "empty cells"
        raise ValueError(f"frame {name!r} has {what}; expected a value in every cell.")
    grades = pd.to_numeric(chosen["grade"], errors="coerce")
    if not grades.mod(1).eq(0).all():
        raise ValueError(f"frame {name!r} has a grade that is not a whole number; expected 0, 1, 2, 3 or -1.")
    texts = [[str(cell) for cell in chosen[column]] for column in PoolPair._fields[:4]]
    return tuple(PoolPair(*row) for row in zip(*texts, [int(grade) for grade in grades], strict=True))
