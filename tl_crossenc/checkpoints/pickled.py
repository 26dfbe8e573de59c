"""What a pickled state dict declares, read before torch loads it: which tensors, how large, and that it asks for nothing else.

`torch.load(weights_only=True)` runs no code of the file's, but it allocates whatever the file asks for. A state dict needs an
ordered dictionary, tensors and their storages. The pickle is unpickled here with stand-ins for these alone, which compute sizes;
any other name, a compressed entry, a storage larger than its bytes in the file, or a tensor larger than its storage is refused.

Both of torch's formats are read: the zip archive, where the pickle is `data.pkl` and each storage an entry of its own, stored
without compression; and the older one of five pickles in a row with the storages after them.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import torch

from tl_crossenc.console.shown import listed, quoted, shown

MOST_BYTES = 1 << 22
"""Of the pickle without its storages; one of 24 layers takes 40 kB."""
MOST_COPIED = 1 << 20
"""Entries that a pickle may have copied from one dictionary into another."""
_ZIP = b"PK\x03\x04"
_BEFORE, _AFTER = 3, 1  # pickles around the state in the older format
_STORAGES = {
    **{"DoubleStorage": 8, "LongStorage": 8, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16},
    **{"FloatStorage": 4, "IntStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "ShortStorage": 2},
    **{"CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1, "UntypedStorage": 1},
}
"""Storage class -> bytes a value."""


class Refused(ValueError):
    """The file is whole, perhaps, but not one that is read here; the text says why."""


class _Tensor:
    """Stands for a tensor."""


class _Storage:
    """Stands for a storage of `n_bytes`, holding values of `itemsize` bytes."""

    def __init__(self, n_bytes: int, itemsize: int):
        self.n_bytes, self.itemsize = n_bytes, itemsize


class _Declared(
    pickle._Unpickler
):  # the one in Python: the other's memory grows with the numbers that a file writes in it
    """Unpickles a state dict into stand-ins.

    Args:
        data: the pickle, and what follows it.
        room: bytes that the file has for the storage of this key, or None where it has none.
    """

    def __init__(self, data: io.BytesIO, room: Callable[[str, int], int | None]):
        super().__init__(data)
        self._room = room
        self._copied = 0
        outer = self

        class Ordered(OrderedDict):
            """An OrderedDict whose copying is counted, and whose attributes are dropped."""

            def __init__(self, *items: Any):
                outer.count(*items)
                super().__init__(*items)

            def __setstate__(self, state: Any) -> None:
                outer.count(*(state if isinstance(state, tuple) else (state,)))

        self._known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): Ordered,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        }

    def count(self, *items: Any) -> None:
        """Count what is copied."""
        self._copied += sum(len(item) for item in items if item is not None)
        if self._copied > MOST_COPIED:
            raise Refused(f"copies more than {MOST_COPIED:,} entries, which no state dict does")

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; a name that no state dict needs is refused."""
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) not in self._known:
            raise Refused(f"asks for {shown(f'{module}.{name}', 80)}, which no state dict of tensors needs")
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that the pickle refers to."""
        match pid:
            case ("storage", int(itemsize), str(key), str(), int(length), *_) if length >= 0:
                n_bytes = itemsize * length
                room = self._room(key, n_bytes)
                if room is None or n_bytes > room:
                    raise Refused(
                        f"declares {n_bytes:,} bytes for the storage {shown(key, 40)} and has {room or 0:,} for it"
                    )
                return _Storage(n_bytes, itemsize)
        raise Refused("refers to a storage in a way that torch does not write")

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> _Tensor:
        numbers = (offset, *size, *stride)
        if not isinstance(storage, _Storage) or not all(type(number) is int and number >= 0 for number in numbers):
            raise Refused("describes a tensor in a way that torch does not write")
        dtypes = [one for one in more if isinstance(one, torch.dtype)]
        n_bytes = prod(size) * (dtypes[0].itemsize if dtypes else storage.itemsize)
        if n_bytes > storage.n_bytes:
            raise Refused(
                f"declares a tensor of {quoted(n_bytes)} bytes over a storage of {storage.n_bytes:,}: save each tensor "
                "with .contiguous()"
            )
        return _Tensor()


def check_pickled(path: Path) -> None:
    """Whether a file is a state dict of tensors that takes no more memory than the file has bytes.

    Raises:
        Refused: it is not.
        Exception: of any kind, where the file is damaged.
    """
    with path.open("rb") as stream:
        zipped = stream.read(len(_ZIP)) == _ZIP
    state = _zipped(path) if zipped else _in_a_row(path)
    if not isinstance(state, dict):
        raise Refused(f"holds {quoted(type(state).__name__)}, and a state dict of tensors would do")
    others = [key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, _Tensor))]
    if others:
        raise Refused(
            f"holds more than a state dict of tensors, {listed(map(quoted, others))}: save the model's state_dict alone"
        )


def _zipped(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise Refused(f"has compressed entries, which torch does not write: {listed(packed)}")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise Refused("has entries that are larger, taken together, than the file")
        sizes = {entry.filename.partition("/")[2]: entry.file_size for entry in entries}
        if len({entry.filename.partition("/")[0] for entry in entries}) != 1 or len(sizes) != len(entries):
            raise Refused("has entries of several archives")
        if sizes.get("data.pkl", 0) > MOST_BYTES:
            raise Refused(f"has a pickle of {sizes['data.pkl']:,} bytes; a state dict's has at most {MOST_BYTES:,}")
        data = archive.read(next(entry for entry in entries if entry.filename.partition("/")[2] == "data.pkl"))
    return _Declared(io.BytesIO(data), lambda key, _: sizes.get(f"data/{key}")).load()


def _in_a_row(path: Path) -> Any:
    size = path.stat().st_size
    with path.open("rb") as stream:
        data = io.BytesIO(stream.read(MOST_BYTES))
    storages: dict[str, int] = {}

    def room(key: str, n_bytes: int) -> int:
        storages[key] = max(n_bytes, storages.get(key, 0))
        return size - (sum(storages.values()) - storages[key])

    try:
        for _ in range(_BEFORE):
            _Declared(data, room).load()
        state = _Declared(data, room).load()
        for _ in range(_AFTER):
            _Declared(data, room).load()
    except EOFError:
        if size <= MOST_BYTES:
            raise
        raise Refused(f"is no state dict: its pickle has more than {MOST_BYTES:,} bytes") from None
    return state
