"""What the cells of a folder of results are of, read from their manifests: a job's description tells no versions."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_crossenc.store.cells import Store
from tl_crossenc.store.files import regular
from tl_crossenc.store.keys import CellKey

ENVIRONMENT = ("dtype", "torch", "tokenizers", "device")
"""Fields of every key that all cells of one version have alike, of whichever models."""
VERSION = (*ENVIRONMENT, "arithmetic", "tokenizer")
"""Those that all cells of one version and one model have alike; not the weights, as untrained twins have others."""
WORDS = {
    "dtype": "the number type",
    "torch": "the version of torch",
    "tokenizers": "the version of tokenizers",
    "device": "the kind of device",
    "arithmetic": "the arithmetic (this package's, or a setting of it)",
    "tokenizer": "the tokenizer or the length that it cuts to",
    "method": "the version of the method",
}

_log = logging.getLogger(__name__)

Version = tuple[Any, ...]


@dataclass(frozen=True)
class FolderCells:
    """The cells of a folder, as their manifests describe them; whether they are whole is not looked at.

    Attributes:
        folder: of the results.
        store: of the folder.
        checksums: kind → digest of a cell's key → checksum of its table.
        versions: weights → the values of `VERSION` that their cells have together.
        methods: kind → versions of its method.
        unreadable: kind → how many manifests say nothing.
    """

    folder: Path
    store: Store
    checksums: dict[str, dict[str, str]]
    versions: dict[str, set[Version]]
    methods: dict[str, set[Version]]
    unreadable: dict[str, int]

    @classmethod
    def of(cls, folder: Path, store: Store) -> FolderCells:
        """Read all manifests; one that is damaged is warned of and left out."""
        found = cls(folder, store, {}, {}, {}, {})
        for path in sorted((store.root / "cells").glob("*/*.json")):
            kind = path.parent.name
            own = found.checksums.setdefault(kind, {})
            try:
                manifest = json.loads(regular(path).read_bytes())
                key = _key(manifest)
                if (key.kind, key.digest) != (kind, path.stem):
                    raise ValueError("it is another cell's")
                own[key.digest] = str(manifest["sha256"])
            except (OSError, ValueError, TypeError, LookupError) as error:
                found.unreadable[kind] = found.unreadable.get(kind, 0) + 1
                _log.warning("left out %s: it is no cell's manifest (%s)", path, error)
                continue
            weights, version = str(key.fields.get("weights")), tuple(key.fields.get(name) for name in VERSION)
            found.versions.setdefault(weights, set()).add(version)
            found.methods.setdefault(kind, set()).add((key.fields.get("method"),))
        return found

    def keys(self, kind: str) -> Iterator[CellKey]:
        """The keys of a kind, read anew one by one; those that are gone meanwhile are left out."""
        for digest in self.checksums[kind]:
            try:
                key = self.key(kind, digest)
            except (OSError, ValueError, TypeError, LookupError) as error:
                _log.warning("left out a cell of %s in %s that changed meanwhile (%s)", kind, self.folder, error)
                continue
            yield key

    def key(self, kind: str, digest: str) -> CellKey:
        """The key of a cell."""
        return _key(json.loads(regular(self.store.root / "cells" / kind / f"{digest}.json").read_bytes()))


def refuse_other_versions(folders: Sequence[FolderCells], models: Sequence[str] = ()) -> None:
    """Whether there is a version of which all folders have cells, but for those that have none.

    Args:
        folders: of one job.
        models: weights of each of its models, where it is of several: a folder may have cells of one of them alone, so that what
            is a model's own is asked of each by itself, and of none whose weights are another's too.

    Raises:
        ValueError: there is none; the first difference is named, with the folders.
    """
    every = [(one.folder, set[Version]().union(*one.versions.values())) for one in folders]
    if len(models) < 2:
        _refuse_disjoint(every, VERSION)
    else:
        _refuse_disjoint([(folder, {own[: len(ENVIRONMENT)] for own in found}) for folder, found in every], ENVIRONMENT)
    for weights in (one for one in models if models.count(one) == 1):
        _refuse_disjoint([(one.folder, one.versions.get(weights, set())) for one in folders], VERSION)
    for kind in sorted({kind for one in folders for kind in one.methods}):
        own = [(one.folder, one.methods.get(kind, set())) for one in folders]
        _refuse_disjoint(own, ("method",), f" of {kind!r}")


def refuse_other_tables(folders: Sequence[FolderCells]) -> None:
    """Whether the cells that several folders have are the same ones; of a damaged one that is not asked.

    Raises:
        ValueError: they are not; the first one's key is named, with the folders.
    """
    seen: dict[tuple[str, str], tuple[str, FolderCells]] = {}
    for here in folders:
        for kind, own in here.checksums.items():
            for digest, checksum in own.items():
                other, there = seen.setdefault((kind, digest), (checksum, here))
                if other != checksum:
                    key = here.key(kind, digest)
                    whole = [not one.store.missing([key]) for one in (there, here)]
                    if all(whole):
                        raise ValueError(
                            f"expected one result a cell, but {there.folder} and {here.folder} have different ones of "
                            f"{key.canonical}: which is right cannot be told; remove one of them, its .json first, and run again"
                        )
                    if whole[1]:
                        seen[kind, digest] = checksum, here


def _key(manifest: dict[str, Any]) -> CellKey:
    return CellKey.of(manifest["key"]["kind"], **manifest["key"]["fields"])


def _refuse_disjoint(found: Sequence[tuple[Path, set[Version]]], names: Sequence[str], of: str = "") -> None:
    common: set[Version] = set()
    first = Path()
    for folder, versions in found:
        if not common:
            first, common = folder, versions
        elif versions and not common & versions:
            pairs = [(a, b) for a in sorted(common, key=repr) for b in sorted(versions, key=repr)]
            old, new = min(pairs, key=lambda pair: sum(x != y for x, y in zip(*pair, strict=True)))
            i = next(i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b)
            raise ValueError(
                f"expected cells of one version, but {WORDS[names[i]]}{of} is {_short(old[i])} in {first} and {_short(new[i])} in "
                f"{folder}: merge those alone that belong together, and compute the others anew"
            )
        elif versions:
            common = common & versions


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 32 else f"{text[:12]}…"
