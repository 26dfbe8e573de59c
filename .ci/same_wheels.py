"""Hold two wheels to each other and to what git has: `same_wheels.py WHEEL WHEEL FILES`, FILES as `git ls-files -z` writes them.

A wheel has every file of the package (code, demo, planted model, template, py.typed), no other but its metadata, and no test.
"""

import sys
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

PACKAGE = "tl_crossenc"


def contents(wheel: Path) -> dict[str, bytes]:
    """Each file's bytes, but for the list of files itself (RECORD)."""
    with ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist() if not name.endswith((".dist-info/RECORD", "/"))}


def differences(first: dict[str, bytes], second: dict[str, bytes], tracked: list[str]) -> list[str]:
    """A sentence for each file that one has and the other has not, or has otherwise."""
    found = [f"{name} is in one wheel only" for name in sorted(first.keys() ^ second.keys())]
    found += [f"{name} differs" for name in sorted(first.keys() & second.keys()) if first[name] != second[name]]
    expected = {name for name in tracked if PurePosixPath(name).parts[0] == PACKAGE}
    packed = {name for name in first if not PurePosixPath(name).parts[0].endswith(".dist-info")}
    found += [f"{name} is not in the wheel" for name in sorted(expected - packed)]
    found += [f"{name} is in the wheel and not in the package" for name in sorted(packed - expected)]
    return found


if __name__ == "__main__":
    one, other, listed = map(Path, sys.argv[1:])
    tracked = [name for name in listed.read_text(encoding="utf-8").split("\0") if name]
    wrong = differences(contents(one), contents(other), tracked)
    sys.exit("\n".join([f"{one.name} is not what it should be:", *wrong]) if wrong else 0)
