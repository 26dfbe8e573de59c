"""What docs/SCALING.md says, recomputed from the constants that stand in it, by formulas written out here."""

import math
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "SCALING.md").read_text(encoding="utf-8")
D, D_MLP, SHARD = 1024, 4096, 256
LOOKED_AT = ("Matches", "Attention, and that of the untrained twin")


def table(first):
    """The rows under the header that begins with `first`, a dictionary each."""
    lines = PAGE.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    header = [cell.strip() for cell in lines[start].strip("|").split("|")]
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(header, [cell.strip() for cell in line.strip("|").split("|")], strict=True)))
    assert rows
    return rows


def number(text):
    """The first number in a cell."""
    return float(re.search(r"[-+]?[\d,.]*\d", text)[0].replace(",", ""))


def stated(name):
    """A constant of the table of what is taken for the hours."""
    return number({row["taken"]: row["value"] for row in table("taken")}[name])


def rounded(value, text):
    """Whether a cell says this value, to the digits that it has, and half a percent for constants that are rounded, too."""
    digits = len(text.split(".")[1].rstrip(" %()")) if "." in text.split(" ")[0] else 0
    return abs(value - number(text)) <= 0.51 * 10**-digits + 0.005 * abs(value)


def test_the_constants_say_what_the_table_of_points_has():
    units = {
        "weights, ps a multiply-add": 1e-12,
        "attention, ps a multiply-add": 1e-12,
        "elements, ns": 1e-9,
        "call, µs": 1e-6,
    }
    found = {row["family"]: [number(row[unit]) * scale for unit, scale in units.items()] for row in table("family")}
    points = table("layer of")
    assert {row["layer of"] for row in points} == set(found)
    for family in found:
        kinds = [row["point"] for row in points if row["layer of"] == family]
        assert kinds.count("held out") >= 5
        assert kinds.count("fitted") > len(units)
    for row in points:
        d, n, pairs = (int(row[name]) for name in ("d", "tokens a pair", "pairs"))
        tokens, (weights, attention, elements, call) = n * pairs, found[row["layer of"]]
        seconds = (
            tokens * (4 * d * d + 2 * d * 4 * d) * weights
            + tokens * n * 2 * d * attention
            + tokens * d * elements
            + call
        )
        assert rounded(1e3 * seconds, row["the constants say"]), row
        assert rounded(1e3 * number(row["ms"]) / tokens, row["µs a token"]), row
        assert abs(100 * (number(row["the constants say"]) / number(row["ms"]) - 1) - number(row["off by"])) < 1.6, row


def test_the_text_names_the_largest_error_of_the_points_that_were_held_out():
    points = [row for row in table("layer of") if row["point"] == "held out"]
    for family in {row["layer of"] for row in points}:
        errors = [abs(number(row["off by"])) for row in points if row["layer of"] == family]
        assert f"{max(errors):.0f} % for {family}" in PAGE


def experiments():
    """name -> (cells a shard, whole layers a pair, TFLOP a pair), of those that a plain run has."""
    rows = [row for row in table("experiment") if not row["experiment"].startswith("(")]
    return {row["experiment"]: (int(row["cells a shard"]), int(row["whole layers a pair"])) for row in rows}


def a_layer(n, squares):
    """FLOPs of a layer of a pair."""
    return 2 * (n * (4 * D * D + 2 * D * D_MLP) + squares * 2 * D)


@pytest.mark.parametrize("row", table("job"), ids=lambda row: row["job"])
def test_hours_are_those_of_the_constants(row):
    years = {row["year"]: int(row["queries"]) for row in table("year")}
    assert years == {"2019": 43, "2020": 54, "2021": 53, "2022": 76}
    what, year, depth = row["job"].rsplit(", ", 2)
    queries = list(years.values()) if year == "all four" else [years[year]]
    done = dict(experiments())
    if what == "and all 36 directions":
        widest = next(row for row in table("experiment") if row["experiment"].startswith("(Figure 1a"))
        done["Figure 1a"] = int(widest["cells a shard"]), int(widest["whole layers a pair"])
    n, squares = stated("tokens of a pair, mean"), stated("their squares, mean")
    flops = cells = 0
    for name, (a_shard, layers) in done.items():
        own = [int(stated("queries that draws are scored on"))] if name.endswith("draws") else queries
        times = stated("a layer whose patterns are looked at, in untouched ones") if name in LOOKED_AT else 1
        flops += sum(own) * int(depth) * layers * times * a_layer(n, squares)
        cells += a_shard * sum(math.ceil(count * int(depth) / SHARD) for count in own)
    assert int(row["cells"].replace(",", "")) == cells
    assert rounded(flops / 1e15, row["PFLOP"])
    rate = stated("peak of a device, TFLOP/s") * 1e12 * stated("utilisation")
    assert rounded(flops / rate / 3600, row["GPU hours"])
    bert = next(row for row in table("family") if row["family"] == "bert")
    core = n * (4 * D * D + 2 * D * D_MLP) * number(bert["weights, ps a multiply-add"]) * 1e-12
    core += (
        squares * 2 * D * number(bert["attention, ps a multiply-add"]) * 1e-12
        + n * D * number(bert["elements, ns"]) * 1e-9
    )
    assert rounded(flops / a_layer(n, squares) * core / 3600, row["core hours"])
    write, rest = (cells * stated(name) / 1e3 for name in ("driver, ms a cell written", "driver, ms a cell otherwise"))
    for devices in (1, 8, 64):
        computing = flops / rate / devices
        whole = max(computing, write) + rest
        said = row[f"minutes on {devices} (not divided)"]
        assert rounded(whole / 60, said.split(" ")[0])
        assert abs(100 * (whole - computing) / whole - number(said.split("(")[1])) < 1


def test_layers_of_the_experiments_are_those_counted_by_hand():
    """One direction up to each of 24 layers: 24 edited, 23 + … + 1 that are left; of each condition the last is CLS alone."""
    done = experiments()
    assert done["Table 1"] == (37, 37 * 23)
    assert done["Figure 1a"] == (1 + 6 * 24, 23 + 6 * (24 + 276 - 24))
    for row in table("experiment"):
        times = 2 if row["experiment"] in LOOKED_AT else 1
        said = int(row["whole layers a pair"]) * times * a_layer(95.9, 10_457) / 1e12
        assert rounded(said, row["TFLOP a pair"])


@pytest.mark.parametrize("script", sorted(set(re.findall(r"benchmarks/(\w+\.py)", PAGE))))
def test_the_commands_that_the_page_names_are_there(script):
    assert (Path(__file__).parents[1] / "benchmarks" / script).is_file()
