"""Two models on one pool: rankings and streams against Hugging Face's scores and hidden states, orders against scipy."""

import logging
from dataclasses import replace

import ir_measures
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import VOCABULARY, bert_tokenizer
from scipy import stats
from small_worlds import collection_folder, forbid_model_work, model_folder, pool_of_words
from tiny_models import D_MODEL, N_LAYERS, port, tiny_hf

from tl_crossenc.cli import main
from tl_crossenc.experiments.compare_models import run_compare_models
from tl_crossenc.experiments.model_divergence import draw_pairs, pair_distances, run_divergence
from tl_crossenc.interventions.conditions import Condition
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.store.cells import Store

QUERIES = {"q1": "how do fleas lay egg .", "q2": "bread rise", "q3": "the flea", "q4": "lay bread", "q5": "egg"}
JUDGED = {"q1": (3, 2, 2, 0), "q2": (3, 1, -1), "q3": (2, 0, 0, 1, -1), "q4": (2, 1, 0, 0), "q5": (3, 0)}
WORDS = ("flea", "fleas", "lay", "egg", "the", "bread", "rise", "how", ".", ",", "do")
THREE = ("nDCG@3", "RR(rel=2)@2")
POOL = pool_of_words("tiny", QUERIES, JUDGED, WORDS, {("q3", 0), ("q2", 2)})


def opened(hf, limit=31):
    ported = port(hf, torch.float64)
    model = HookedCrossEncoder(ported.cfg, bert_tokenizer(model_max_length=limit))
    model.load_state_dict(ported.state_dict())
    return model.eval()


@pytest.fixture(scope="module")
def theirs():
    """Two Hugging Face models in float64."""
    return [tiny_hf(seed=seed, vocab_size=len(VOCABULARY)).double() for seed in (4, 5)]


@pytest.fixture(scope="module")
def models(theirs):
    return [opened(hf) for hf in theirs]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def found(models, store):
    return run_compare_models(models, [POOL], store, measures=THREE, sample=100, token_budget=50)


def run_hf(hf, pair):
    """Logits, hidden states `[layer, position, d_model]` and the positions of each part, of one pair alone."""
    tokenizer = bert_tokenizer(model_max_length=31)
    query, passage = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (pair.query, pair.text))
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    ids = [cls, *query, sep, *passage, sep]
    types = [0] * (len(query) + 2) + [1] * (len(passage) + 1)
    given = {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types])}
    with torch.no_grad():
        out = hf(**given, output_hidden_states=True)
    start = len(query) + 2
    parts = {"CLS": [0], "QUERY": list(range(1, start - 1)), "DOC": list(range(start, start + len(passage)))}
    return out.logits[0].numpy(), torch.cat(out.hidden_states).numpy(), parts


def test_rankings_are_those_of_the_two_models_alone(found, theirs):
    graded = [pair for pair in POOL.pairs if pair.grade >= 0]
    scores = []
    for side, hf in zip("ab", theirs, strict=True):
        logits = [run_hf(hf, pair)[0] for pair in graded]
        scores.append([float(two[1] - two[0]) for two in logits])
        assert found.scores[side].tolist() == pytest.approx(scores[-1], abs=1e-9)
        qrels = [ir_measures.Qrel(p.query_id, p.doc_id, p.grade) for p in graded]
        run = [ir_measures.ScoredDoc(p.query_id, p.doc_id, s) for p, s in zip(graded, scores[-1], strict=True)]
        for row, measure in enumerate((ir_measures.nDCG @ 3, ir_measures.RR(rel=2) @ 2)):
            expected = {m.query_id: m.value for m in ir_measures.iter_calc([measure], qrels, run)}
            column = side if row == 0 else f"{side} RR(rel=2)@2"
            assert found.per_query.droplevel(0)[column].to_dict() == pytest.approx(expected, abs=1e-12)
            assert found.table[side].iloc[row] == pytest.approx(np.mean(list(expected.values())))
    assert found.table["measure"].tolist() == list(found.measures) == list(THREE)
    for (_, query_id), row in found.per_query.iterrows():
        own = [i for i, pair in enumerate(graded) if pair.query_id == query_id]
        one, other = ([side[i] for i in own] for side in scores)
        assert row["tau"] == pytest.approx(stats.kendalltau(one, other).statistic)
        assert row["weighted_tau"] == pytest.approx(stats.weightedtau(one, other).statistic)
        assert (row["n_passages"], row["query"]) == (len(own), QUERIES[query_id])


def test_differences_are_paired_b_less_a_and_the_largest_come_first(found):
    apart = found.per_query["difference"]
    assert apart.to_numpy() == pytest.approx((found.per_query["b"] - found.per_query["a"]).to_numpy())
    assert apart.abs().is_monotonic_decreasing
    assert apart.abs().max() > 0.05
    row = found.table.iloc[0]
    test = stats.ttest_rel(found.per_query["b"], found.per_query["a"])
    assert row["p_t"] == pytest.approx(test.pvalue)
    assert (row["diff_low"], row["diff_high"]) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert row["b_better"] + row["a_better"] + row["equal"] == row["n_queries"] == 5
    assert found.to_frame().attrs["against"]["model"] == found.made["model"] == "tiny"


def test_streams_are_as_far_apart_as_hugging_faces_hidden_states(found, theirs):
    graded = [pair for pair in POOL.pairs if pair.grade >= 0]
    rows = {}
    for pair in graded:
        (_, x, parts), (_, y, _) = (run_hf(hf, pair) for hf in theirs)
        for part, positions in parts.items():
            for layer in range(N_LAYERS + 1):
                if positions:
                    apart = sum(np.sum((x[layer, i] - y[layer, i]) ** 2) for i in positions)
                    size = sum(np.sum(x[layer, i] ** 2) + np.sum(y[layer, i] ** 2) for i in positions) / 2
                    rows.setdefault((part, layer), {}).setdefault(pair.query_id, []).append(np.sqrt(apart / size))
    frame = found.layers.set_index(["part", "layer"])
    assert len(frame) == 3 * (N_LAYERS + 1)
    for place, by_query in rows.items():
        means = [np.mean(values) for values in by_query.values()]
        assert frame.loc[place, "distance"] == pytest.approx(np.mean(means), rel=1e-5)
        assert frame.loc[place, "n_pairs"] == sum(map(len, by_query.values()))
        if place == ("CLS", 0):  # one token at one place: the same in all pairs
            assert np.isnan(frame.loc[place, "cka"])
            continue
        low, high = stats.t.interval(0.95, len(means) - 1, np.mean(means), stats.sem(means))
        assert (frame.loc[place, "low"], frame.loc[place, "high"]) == pytest.approx((low, high), rel=1e-4)
    assert frame.loc[("DOC", 1), "n_pairs"] == frame.loc[("CLS", 1), "n_pairs"] - 1  # one passage is empty
    assert (frame["distance"] > 0.3).all()
    assert frame["cka"].drop([("CLS", 0)]).abs().lt(1.5).all()  # unbiased, of few tokens


def test_a_change_in_one_layer_shows_from_there_on(theirs, tmp_path):
    edited = tiny_hf(seed=4, vocab_size=len(VOCABULARY)).double()
    with torch.no_grad():
        edited.bert.encoder.layer[1].output.dense.weight.mul_(1.5)
    layers = run_compare_models([opened(theirs[0]), opened(edited)], [POOL], Store(tmp_path / "s")).layers
    by = layers.pivot(index="layer", columns="part", values="distance")
    assert (by.loc[:1] == 0).all(axis=None)
    assert (by.loc[2:] > 0.01).all(axis=None)


def test_the_same_model_twice_differs_nowhere(models, theirs, store):
    same = run_compare_models([models[0], opened(theirs[0])], [POOL], store, measures=THREE)
    assert same.same
    assert same.per_query["difference"].eq(0).all()
    assert same.per_query[["tau", "weighted_tau"]].to_numpy() == pytest.approx(1)
    assert same.layers["distance"].eq(0).all()
    assert same.layers["cka"].dropna().eq(1).all()
    for _, row in same.table.iterrows():
        assert (row["difference"], row["diff_low"], row["diff_high"], row["p_t"], row["p_randomization"]) == (
            0,
            0,
            0,
            1,
            1,
        )


def test_what_is_stored_is_not_run_again(found, models, store, monkeypatch):
    forbid_model_work(monkeypatch)
    again = run_compare_models(models, [POOL], store, measures=THREE, sample=100, token_budget=50)
    pd.testing.assert_frame_equal(again.per_query, found.per_query)
    pd.testing.assert_frame_equal(again.layers, found.layers)
    assert (again.layers_run, again.same) == (0, False)
    assert found.layers_run == 2 * N_LAYERS * len(POOL.ranked)


def test_models_of_two_shapes_are_ranked_and_the_layers_say_why_not(models, store):
    deeper = opened(tiny_hf(seed=6, vocab_size=len(VOCABULARY), num_hidden_layers=2).double())
    wider = opened(tiny_hf(seed=6, vocab_size=len(VOCABULARY), hidden_size=33).double())
    shorter = opened(tiny_hf(seed=6, vocab_size=len(VOCABULARY)).double(), limit=29)
    for other, said in (
        (deeper, f"one has {N_LAYERS} layers, the other 2"),
        (wider, f"the states of one have {D_MODEL} numbers, those of the other 33"),
        (shorter, "their tokenizers, or the lengths that they cut a pair to, are not the same"),
    ):
        compared = run_compare_models([models[0], other], [POOL], store, measures=THREE)
        assert compared.layers is None
        assert said in compared.why_no_layers
        assert len(compared.per_query) == 5
    with pytest.raises(Unavailable, match="where they share a shape, and one has 3 layers, the other 2"):
        run_divergence([models[0], deeper], [POOL], store)


def test_a_condition_is_of_both(models, theirs, store):
    ablated = run_compare_models(models, [POOL], store, condition=Condition.ablate("DOC->QUERY"), measures=THREE)
    for side, model in zip("ab", models, strict=True):
        with model.ablating("DOC->QUERY"):
            pairs = POOL.ranked.pairs
            expected = model.score([p.query for p in pairs], [p.text for p in pairs]).tolist()
        assert ablated.scores[side].tolist() == pytest.approx(expected, abs=1e-10)
    with pytest.raises(ValueError, match="expected two models to compare, got 3"):
        run_compare_models([*models, models[0]], [POOL], store)


def test_under_several_conditions_each_is_what_it_is_alone_and_one_correction_is_over_all(models, tmp_path):
    """A ranks best what is judged best in four queries of five, B the other way round, so that p-values are not all 1."""
    store, chosen = Store(tmp_path / "s"), [Condition.ablate("DOC->QUERY"), Condition()]
    opposite = tiny_hf(seed=4, vocab_size=len(VOCABULARY)).double()
    with torch.no_grad():
        opposite.classifier.weight.neg_()
        opposite.classifier.bias.neg_()
    ranked = POOL.ranked.pairs
    scores = models[0].score([pair.query for pair in ranked], [pair.text for pair in ranked]).tolist()
    best = {
        query_id: (min if query_id == "q5" else max)(
            score for pair, score in zip(ranked, scores, strict=True) if pair.query_id == query_id
        )
        for query_id in QUERIES
    }
    pairs = [p._replace(grade=3 * (score == best[p.query_id])) for p, score in zip(ranked, scores, strict=True)]
    given = {"measures": THREE, "sample": 7, "token_budget": 50}
    asked = [models[0], opened(opposite)], [replace(POOL, pairs=tuple(pairs))], store
    several = run_compare_models(*asked, condition=[*chosen, chosen[0]], **given)
    texts = ["zero(DOC->QUERY)", "none"]
    assert list(several.conditions) == several.made["condition_of_both"] == texts
    assert several.table["condition"].tolist() == [text for text in texts for _ in THREE]
    alone = {text: run_compare_models(*asked, condition=one, **given) for text, one in zip(texts, chosen, strict=True)}
    for text, one in alone.items():
        assert (one.conditions, one.made["condition_of_both"]) == ((text,), text)
        pd.testing.assert_frame_equal(one.layers, several.layers)  # of the unablated models
        for name in ("table", "per_query", "scores"):
            own, together = getattr(one, name), getattr(several, name)
            assert "condition" not in own
            rows = together[together["condition"] == text].drop(columns="condition")
            kept = [column for column in own if column != "p_holm"]
            rows = rows if name == "per_query" else rows.reset_index(drop=True)
            pd.testing.assert_frame_equal(rows[kept], own[kept])
    assert several.per_query["difference"].abs().is_monotonic_decreasing
    p = several.table["p_t"].tolist()  # Holm: the i-th smallest of n times n - i, and none below a smaller one's
    steps = [min(1, value * (len(p) - i)) for i, value in enumerate(sorted(p))]
    expected = {value: max(steps[: i + 1]) for i, value in reversed(list(enumerate(sorted(p))))}
    assert several.table["p_holm"].tolist() == pytest.approx([expected[value] for value in p])
    assert several.table["p_holm"].min() < 0.9
    assert several.table["p_holm"].tolist() != [p for one in alone.values() for p in one.table["p_holm"]]
    with pytest.raises(ValueError, match="expected at least one condition to rank under, got none"):
        run_compare_models(*asked, condition=[])


def test_pairs_are_drawn_from_all_pools_the_same_ones_again():
    other = pool_of_words("other", QUERIES, {"q1": (1, 0), "q2": (2, 0)}, WORDS)
    drawn = draw_pairs([POOL, other], 11, 3)
    assert sum(map(len, drawn)) == 11
    assert drawn == draw_pairs([POOL, other], 11, 3) != draw_pairs([POOL, other], 11, 4)
    assert all(pair.grade >= 0 for pool in drawn for pair in pool.pairs)
    assert draw_pairs([POOL], 1000, 0)[0].pairs == POOL.ranked.pairs
    with pytest.raises(ValueError, match="expected a sample of at least one pair of at least one, got 0 of 16"):
        draw_pairs([POOL], 0, 0)


def test_distances_by_hand():
    x = np.array([[[3.0, 4.0]], [[1.0, 0.0]], [[0.0, 0.0]]])
    y = np.array([[[3.0, 4.0]], [[-1.0, 0.0]], [[0.0, 0.0]]])
    assert pair_distances(x, y, np.array([0, 1, 1, 2, 3]))[:, 0].tolist() == pytest.approx(
        [0, np.nan, 2, 0], nan_ok=True
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = tmp_path_factory.mktemp("world")
    for name, seed in (("a", 1), ("b", 2)):
        model_folder(place / name, seed=seed)
    collection_folder(place / "fleas", n_queries=4, per_grade=(2, 1, 1, 1))
    return place


def arguments(world, out, *more, models="ab"):
    given = [str(world / name) for name in models]
    return ["compare", *given, "--collection", str(world / "fleas"), "--out", str(out), "--device", "cpu", *more]


@pytest.mark.usefixtures("unchecked")
def test_the_command_writes_every_query_and_says_the_rest(world, tmp_path, capsys, monkeypatch, caplog):
    out = tmp_path / "out"
    with caplog.at_level(logging.INFO):
        assert main(arguments(world, out)) == 0
    assert "computing anew" not in caplog.text  # that the cells stored are A's says nothing of B's
    said = capsys.readouterr().out
    assert all(
        len(line) <= 80 for line in said[said.index("The queries that") : said.index("All queries")].splitlines()
    )
    for text in (
        "A (a) and B (b) on fleas",
        "B - A ",
        "paired t-test p",
        "Kendall's tau",
        "The queries that differ most",
        "Where the two part",
    ):
        assert text in said, text
    table = pd.read_csv(out / "tables" / "compare_models_per_query.csv")
    assert len(table) == 4
    assert pd.read_csv(out / "tables" / "compare_models_layers.csv")["distance"].gt(0).all()
    assert len(pd.read_parquet(out / "tables" / "compare_models_scores.parquet")) > 15
    files = {path.name: path.read_bytes() for path in (out / "tables").iterdir()}
    forbid_model_work(monkeypatch)
    assert main(arguments(world, out)) == 0
    assert {path.name: path.read_bytes() for path in (out / "tables").iterdir()} == files
    capsys.readouterr()
    assert main(arguments(world, out, models="ba")) == 2  # the other way round is another job
    assert "A.weights there is" in capsys.readouterr().err


@pytest.mark.usefixtures("blank_drawings")
def test_the_command_under_the_conditions_of_a_file(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out, file = tmp_path / "out", tmp_path / "c.txt"
    file.write_text("match: zero(DOC->QUERY)\nnone  # as it is\n")
    asked = ["--conditions", str(file), "--ablate", "zero(CLS->ALL; layers=1)", "--ablate", "none"]
    assert main(arguments(world, out, *asked)) == 0
    said = capsys.readouterr().out
    shown = said[said.index("The two under each") : said.index("Where the two part")]
    assert all(len(line) <= 80 for line in shown.splitlines())
    texts = ["zero(CLS->ALL; layers=1)", "none", "zero(DOC->QUERY)"]
    for text in (
        "on fleas, under 3 conditions: 4 queries",
        "of the unablated models after each layer",
        "match: zero(DOC->Q",
    ):
        assert text in said, text
    table = pd.read_csv(out / "tables" / "compare_models.csv")
    assert table["condition"].tolist() == texts
    for text, mean in zip(texts, table["a"], strict=True):
        rows = [line for line in shown.splitlines() if line.startswith(text[:14])]
        assert any(f"{mean:.3f}" in line for line in rows)
        assert f"| {text} | nDCG@10 | {mean:.3f} |" in (out / "tables" / "compare_models.md").read_text()
    for name in ("_per_query.csv", "_scores.parquet"):
        path = out / "tables" / f"compare_models{name}"
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        assert frame["condition"].value_counts().tolist() == [len(frame) // 3] * 3
    forbid_model_work(monkeypatch)
    assert main(arguments(world, out, "--conditions", str(file))) == 2  # other conditions, another job
    assert "the choice of conditions (--ablate, --conditions) there is" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_in_two_shards_and_one_model_twice(world, tmp_path, capsys):
    out = tmp_path / "out"
    for shard in ("1/2", "2/2"):
        assert main(arguments(world, out, "--shard", shard, models="aa")) == 0
    capsys.readouterr()
    assert main(arguments(world, out, models="aa")) == 0
    said = capsys.readouterr().out
    assert "A and B are the same model, by weights, arithmetic and tokenizer: every difference is exactly 0." in said
    assert "The queries that differ most" not in said


def test_bad_input_is_one_sentence(world, tmp_path, capsys):
    file = tmp_path / "c.txt"
    file.write_text("none\nlate: zero(DOC->QUERY; layers=7)\n")
    for more, said in (
        (["--ablate", "zero(DOC->QUERY; layers=7)"], "expected layers 0..1"),
        (["--ablate", "DOC->QUERY"], "expected an edit such as zero"),
        (["--depth", "3"], "expected --run beside --depth"),
        (["--conditions", str(file)], f"{file}, line 2: expected layers 0..1 in zero(DOC->QUERY; layers=7)"),
        (["--conditions", str(world / "nowhere")], "there is no file of conditions at"),
    ):
        assert main(arguments(world, tmp_path / "out", *more)) == 2
        assert said in capsys.readouterr().err
    file.write_text("none\nearly: @paper-doc-query:2\n")
    given = ["compare", str(world / "a"), "planted", "--device", "cpu", "--conditions", str(file)]
    assert main([*given, "--out", str(tmp_path / "out")]) == 2  # of two layers, and of four
    said = "got 'early', which is zero(DOC->QUERY) in A and zero(DOC->QUERY; layers=0-1) in B: write its edits out"
    assert f"expected a condition that is one in both models, {said}" in capsys.readouterr().err
