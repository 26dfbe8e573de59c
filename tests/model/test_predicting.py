"""`predict` and `rank` against sentence-transformers' own CrossEncoder on the same checkpoint."""

import json

import family_texts as texts
import numpy as np
import pytest
import torch
from family_worlds import build

from tl_crossenc import HookedCrossEncoder

CrossEncoder = pytest.importorskip("sentence_transformers").CrossEncoder
PAIRS = [*map(tuple, texts.PAIRS), ("a", "a"), tuple(texts.PAIRS[0])]  # the last ties with the first
QUIET = {"show_progress_bar": False}
IDENTITY = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}
SOFTMAX = {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Softmax"}}


def both(folder, name, n_labels=1, dtype="float64", **changes):
    """Our model and theirs of one saved checkpoint, whose configuration has the changes."""
    build(name, n_labels).write(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    theirs = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    ours = HookedCrossEncoder.from_pretrained(folder, device="cpu", dtype=dtype)
    return ours, theirs.double() if dtype == "float64" else theirs


def same(found, expected, atol=1e-6):
    assert type(found) is type(expected)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=atol)


@pytest.mark.filterwarnings("ignore:Implicit dimension")  # theirs, of a softmax
@pytest.mark.parametrize(
    ("name", "n_labels", "changes"),
    [
        ("bert", 1, {}),
        ("bert", 1, IDENTITY),
        ("bert", 2, SOFTMAX),
        ("roberta", 1, {}),
        ("roberta", 2, {}),
        ("modernbert-cls", 2, {}),
        ("distilbert", 1, IDENTITY),
    ],
)
def test_predictions_are_cross_encoders(name, n_labels, changes, tmp_path):
    ours, theirs = both(tmp_path, name, n_labels, **changes)
    atol = 5e-6 if name.startswith("modernbert") else 1e-6  # whose rotations are float32 there, whatever the weights
    found = ours.predict(PAIRS)
    same(found, theirs.predict(PAIRS, **QUIET), atol)
    assert found.shape == ((len(PAIRS),) if n_labels == 1 else (len(PAIRS), 2))
    assert np.ptp(found) > 1e-3
    same(ours.predict(PAIRS, apply_softmax=True), theirs.predict(PAIRS, apply_softmax=True, **QUIET), atol)
    one = ours.predict(list(PAIRS[2]))
    assert np.shape(one) == np.shape(theirs.predict(list(PAIRS[2]), **QUIET))
    np.testing.assert_allclose(one, theirs.predict(list(PAIRS[2]), **QUIET), rtol=1e-6, atol=atol)
    given = ours.predict(PAIRS, activation_fn=torch.nn.Tanh(), convert_to_tensor=True)
    same(given, theirs.predict(PAIRS, activation_fn=torch.nn.Tanh(), convert_to_tensor=True, **QUIET), atol)


@pytest.mark.parametrize("changes", [{}, IDENTITY])
def test_rankings_are_cross_encoders(changes, tmp_path):
    ours, theirs = both(tmp_path, "bert", **changes)
    query, documents = PAIRS[0][0], [passage for _, passage in PAIRS]
    for asked in ({}, {"top_k": 3}, {"top_k": 99, "return_documents": True}):
        found, expected = ours.rank(query, documents, **asked), theirs.rank(query, documents, **asked, **QUIET)
        assert [hit["corpus_id"] for hit in found] == [hit["corpus_id"] for hit in expected]
        assert [hit.get("text") for hit in found] == [hit.get("text") for hit in expected]
        assert [hit["score"] for hit in found] == pytest.approx([hit["score"] for hit in expected], abs=1e-6)
        assert found[0].keys() == expected[0].keys()
    tanh, short = torch.nn.Tanh(), {"max_length": 11}
    for found in (
        ours.rank(query, documents, activation_fn=tanh),
        ours.rank(query, documents, activation_fn=tanh, token_budget=1),
    ):
        expected = theirs.rank(query, documents, activation_fn=tanh, **QUIET)
        assert [hit["corpus_id"] for hit in found] == [hit["corpus_id"] for hit in expected]
        assert [hit["score"] for hit in found] == pytest.approx([hit["score"] for hit in expected], abs=1e-6)
    pairs = [(query, text) for text in documents]
    cut = ours.activated(ours.score(query, documents, **short)).numpy()
    np.testing.assert_allclose(ours.predict(pairs, **short), cut, atol=1e-6)
    assert np.abs(ours.predict(pairs) - cut).max() > 1e-6
    by_id = ours.rank(query, {f"d{i}": text for i, text in enumerate(documents)}, top_k=2)
    assert [hit["corpus_id"] for hit in by_id] == [f"d{hit['corpus_id']}" for hit in ours.rank(query, documents)[:2]]


def test_of_two_labels_the_score_is_ranked_by(tmp_path):
    ours, theirs = both(tmp_path, "bert", 2)
    query, documents = PAIRS[0][0], [passage for _, passage in PAIRS]
    with pytest.raises(ValueError, match="num_labels=1"):
        theirs.rank(query, documents, **QUIET)
    logits = theirs.predict([(query, text) for text in documents], **QUIET)
    expected = logits[:, 1] - logits[:, 0]
    found = ours.rank(query, documents)
    assert [hit["corpus_id"] for hit in found] == sorted(range(len(documents)), key=lambda i: -expected[i])
    assert [hit["score"] for hit in found] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)
    squashed = ours.rank(query, documents, activation_fn=torch.sigmoid)
    assert [hit["score"] for hit in squashed] == pytest.approx(
        [1 / (1 + np.exp(-hit["score"])) for hit in found], abs=1e-6
    )


def test_nothing_in_nothing_out_and_one_by_one(tmp_path):
    ours, theirs = both(tmp_path, "bert")
    assert ours.predict([]).shape == theirs.predict([], **QUIET).shape == (0,)
    assert ours.predict([], convert_to_numpy=False) == ours.rank("a", []) == []
    listed = ours.predict(PAIRS, convert_to_numpy=False)
    assert all(isinstance(score, torch.Tensor) for score in listed)
    np.testing.assert_allclose([ours.predict(pair) for pair in PAIRS], listed, atol=1e-6)
    np.testing.assert_allclose(ours.predict(PAIRS, token_budget=1), listed, atol=1e-6)
    np.testing.assert_allclose(ours.predict(np.array(PAIRS)), listed, atol=1e-6)
    assert ours.predict(PAIRS).dtype == np.float64
    single = HookedCrossEncoder.from_pretrained(tmp_path, device="cpu").predict(PAIRS)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, listed, atol=3e-6)
    with ours.ablating("DOC->QUERY"):
        ablated = ours.predict(PAIRS)
    np.testing.assert_allclose(ablated, 1 / (1 + np.exp(-ours_ablated(ours))), atol=1e-6)
    assert np.abs(ablated - np.array(listed)).max() > 1e-6


def ours_ablated(model):
    with model.ablating("DOC->QUERY"):
        return model.score(*zip(*PAIRS, strict=True)).numpy()


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ("a query", "expected pairs .*, got str"),
        (["a", "b", "c"], "number 0 has str"),
        ([("a", "b"), ("a", "b", "c")], "number 1 has str, str, str"),
        ([("a", 3)], "number 0 has str, int"),
        ([()], "number 0 has nothing"),
        (7, "got int"),
    ],
)
def test_what_is_no_pair_is_refused(inputs, said):
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    with pytest.raises(TypeError, match=said):
        model.predict(inputs)


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_ranked_is_refused(tmp_path):
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    for top_k in (0, -1, True):
        with pytest.raises(ValueError, match=f"expected top_k of at least 1, .*, got {top_k}"):
            model.rank("a", ["b"], top_k=top_k)
    with pytest.raises(TypeError, match="expected one query"):
        model.rank(["a", "b"], ["c", "d"])
    odd, _ = both(tmp_path, "bert", sentence_transformers={"activation_fn": "torch.nn.modules.activation.GLU"})
    with pytest.raises(ValueError, match=r"torch.nn.modules.activation.GLU .*: pass activation_fn="):
        odd.predict(PAIRS)
    np.testing.assert_allclose(
        odd.predict(PAIRS, activation_fn=lambda x: x), odd.score(*zip(*PAIRS, strict=True)), atol=1e-6
    )
