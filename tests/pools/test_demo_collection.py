"""The embedded collection keeps what its data card promises, checked on the files alone."""

import re
import unicodedata
from collections import Counter
from importlib.resources import files

import pytest

ROOT = files("tl_crossenc.demo").joinpath("collection")
STOPWORDS = frozenset(
    re.findall(
        "[a-z]+",
        """
        a an and are as at be been but by can could did do does for from had has have how i if in into is it its
        me my no not of off on or our should so than that the their them then there these they this those to too
        up vs was we were what when where which who why will with would you your
        """,
    )
)
GRADES = (0, 1, 2, 3)


def lines(name):
    text = ROOT.joinpath(name).read_bytes().decode("utf-8", errors="strict")
    assert text.endswith("\n")
    assert "\r" not in text
    return text[:-1].split("\n")


def table(name):
    rows = [line.split("\t") for line in lines(name)]
    assert all(len(row) == 2 and all(field == field.strip() != "" for field in row) for row in rows)
    assert len({row[0] for row in rows}) == len(rows), f"an id is given twice in {name}"
    return dict(rows)


def words(text):
    return {word for word in re.findall(r"[^\W_]+", text.lower()) if word not in STOPWORDS}


def stem(word):
    """Strip one common ending, its doubled consonant, final e, i, y; keep at most six letters."""
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            if ending in ("ing", "ed") and word[-1] == word[-2] not in "lsz":
                word = word[:-1]
            break
    return (word.rstrip("eiy") or word)[:6]


def stems(text):
    return {stem(word) for word in words(text)}


def is_exact(query, text):
    return bool(words(query) & words(text))


def is_inflected(query, text):
    """A word of the text has a query word's stem and is none of the query's words."""
    return any(stem(word) in stems(query) for word in words(text) - words(query))


def is_semantic(query, text):
    return len(stems(query) & stems(text)) <= 1


def is_lookalike(query, text):
    return len(stems(query) & stems(text)) >= (2 if len(words(query)) > 2 else 1)


def normalized(text):
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower()))


QUERIES, DOCS = table("queries.tsv"), table("docs.tsv")
QRELS = [line.split(" ") for line in lines("qrels.txt")]


def judged(query_id, *grades):
    """[(doc id, text)] of the query's passages with one of the grades."""
    return [(row[2], DOCS[row[2]]) for row in QRELS if row[0] == query_id and int(row[3]) in grades]


each_need = pytest.mark.parametrize("query_id", sorted(QUERIES))


def test_helpers_on_known_words():
    assert stem("babies") == stem("baby") == "bab"
    assert stem("pruning") == stem("prune") == stem("prunes") == "prun"
    assert stem("migrating") == stem("migration") == "migrat"
    assert stem("running") == stem("runs") == "run"
    assert stem("compost") != stem("compound")
    assert is_exact("how to prune apple trees", "A Prune.")
    assert not is_exact("how to prune apple trees", "how to do it: pruning")
    assert is_inflected("how to prune apple trees", "Pruning.")
    assert not is_inflected("how to prune apple trees", "prune trees")
    assert is_semantic("how to prune apple trees", "Cut the tree back.")
    assert not is_semantic("how to prune apple trees", "Cut apple trees back.")
    assert is_lookalike("how to prune apple trees", "Apples and prunes")
    assert not is_lookalike("how to prune apple trees", "Apples and pears")
    assert is_lookalike("jet lag", "a jet")
    assert normalized("A  b, C!") == normalized("a B c")


def test_enough_needs_and_ids():
    assert len(QUERIES) >= 20
    assert all(re.fullmatch(r"d\d\d", query_id) for query_id in QUERIES)
    assert all(re.fullmatch(r"p\d{4}", doc_id) for doc_id in DOCS)


def test_queries_look_like_web_queries():
    assert all(query == query.lower() for query in QUERIES.values())
    lengths = [len(query.split()) for query in QUERIES.values()]
    assert 2 <= min(lengths) <= 3
    assert 9 <= max(lengths) <= 10
    assert len(set(QUERIES.values())) == len(QUERIES)


def test_qrels_are_well_formed_and_known():
    assert all(len(row) == 4 and row[1] == "0" and row[3] in {"0", "1", "2", "3"} for row in QRELS)
    assert {row[0] for row in QRELS} == set(QUERIES)
    assert {row[2] for row in QRELS} == set(DOCS), "a judged passage is missing, or a passage is not judged"
    assert len({(row[0], row[2]) for row in QRELS}) == len(QRELS)


@each_need
def test_passages_and_grades_of_a_need(query_id):
    counts = Counter(int(row[3]) for row in QRELS if row[0] == query_id)
    assert sum(counts.values()) >= 12
    assert set(counts) == set(GRADES)
    assert all(counts[grade] >= 3 for grade in GRADES), counts


@each_need
def test_relevant_passages_match_in_three_ways(query_id):
    query, relevant = QUERIES[query_id], [text for _, text in judged(query_id, 2, 3)]
    assert any(is_exact(query, text) for text in relevant)
    assert any(is_inflected(query, text) for text in relevant)
    assert any(is_semantic(query, text) for text in relevant)


@each_need
def test_some_irrelevant_passages_are_lookalikes(query_id):
    query = QUERIES[query_id]
    assert sum(is_lookalike(query, text) for _, text in judged(query_id, 0)) >= 2


def test_no_text_is_repeated():
    counts = Counter(map(normalized, DOCS.values()))
    assert [text for text, count in counts.items() if count > 1] == []
    openings = Counter(" ".join(text.split()[:8]) for text in map(normalized, DOCS.values()))
    assert [opening for opening, count in openings.items() if count > 1] == []


def test_passage_lengths_vary():
    lengths = sorted(len(text.split()) for text in DOCS.values())
    assert 10 <= lengths[0] <= 20
    assert 80 <= lengths[-1] <= 100
    tenth, ninetieth = lengths[len(lengths) // 10], lengths[-len(lengths) // 10]
    assert ninetieth >= 2 * tenth


@each_need
def test_passage_lengths_vary_within_a_need(query_id):
    lengths = [len(text.split()) for _, text in judged(query_id, *GRADES)]
    assert max(lengths) - min(lengths) >= 20


def test_id_order_does_not_reveal_need_or_grade():
    """Ranks and grades of 380 shuffled ids correlate by about 1/sqrt(380) = 0.05; sorted ones by far more."""
    rows = sorted(QRELS, key=lambda row: row[2])
    n, ranks = len(rows), range(len(rows))

    def correlation(values):
        mean_rank, mean = (n - 1) / 2, sum(values) / n
        cov = sum((r - mean_rank) * (v - mean) for r, v in zip(ranks, values, strict=True))
        spread = sum((r - mean_rank) ** 2 for r in ranks) * sum((v - mean) ** 2 for v in values)
        return cov / spread**0.5

    assert abs(correlation([int(row[3]) for row in rows])) < 0.15
    assert abs(correlation([int(row[0][1:]) for row in rows])) < 0.15


def test_data_card_counts_agree():
    card = ROOT.joinpath("README.md").read_text(encoding="utf-8")
    counts = Counter(int(row[3]) for row in QRELS)
    for grade in GRADES:
        assert re.search(rf"^\| {grade} \|.*\| {counts[grade]} \|$", card, flags=re.M), (grade, counts[grade])
    assert f"{len(QUERIES)} queries" in card
    assert f"{len(DOCS)} passages" in card
