"""What a cell is found again by: a kind and named values."""

import hashlib
import json
import math
import re
from dataclasses import dataclass
from functools import lru_cache

Value = str | int | float | None

_KIND = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True, eq=False)
class CellKey:
    """What a cell's content depends on: a kind and named values. Build it with `CellKey.of`.

    Two keys are equal when their canonical JSON is: in any order; `1`, `1.0`, `"1"` and `True` differ.
    """

    kind: str
    items: tuple[tuple[str, Value], ...]

    @classmethod
    def of(cls, kind: str, /, **fields: object) -> "CellKey":
        """Return the key of a kind, which names a folder, and named values: text, numbers, booleans or None.

        Raises ValueError for a kind that is not of lower-case letters, digits, `-` and `_`, and for NaN and
        infinity; TypeError for any other type of value.
        """
        if not _KIND.fullmatch(kind):
            raise ValueError(
                f"expected a cell kind of lower-case letters, digits, '-' and '_', got {kind!r}: rename it"
            )
        items: list[tuple[str, Value]] = []
        for name, value in sorted(fields.items()):
            if value is not None and not isinstance(value, str | int | float):
                got = type(value).__name__
                raise TypeError(f"expected text, a number or None for {name!r} in a cell key, got {got}: convert it")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"expected a finite number for {name!r} in a cell key, got {value}: use text")
            items.append((name, value) if isinstance(value, float) else _item(name, value))
        return cls(kind, tuple(items))

    @property
    def fields(self) -> dict[str, Value]:
        """The named values, sorted by name."""
        return dict(self.items)

    @property
    def canonical(self) -> str:
        """The key as JSON: names sorted, no spaces, ASCII."""
        return canonical_json({"kind": self.kind, "fields": self.fields})

    @property
    def digest(self) -> str:
        """First 24 hexadecimal digits of the SHA-256 of `canonical`: the cell's file name."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:24]

    def __eq__(self, other: object) -> bool:
        return self.canonical == other.canonical if isinstance(other, CellKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(
            (self.kind, self.items)
        )  # of equal keys equal, and taken many times a key: `canonical` is five times dearer


@lru_cache(maxsize=4096, typed=True)  # True and 1 are two; of floats it would take 0.0 and -0.0 for one
def _item(name: str, value: Value) -> tuple[str, Value]:
    """One object for what many keys have: a million keys of one model name it once."""
    return name, value


def canonical_json(value: object) -> str:
    """One text for equal values: names sorted, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
