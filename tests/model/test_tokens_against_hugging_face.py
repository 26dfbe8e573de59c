"""For every layout of tokenizer files: ids, types and scores are those of AutoTokenizer and of sentence-transformers."""

import json
import logging
import os

import pytest
import torch
from helpers import SPECIALS, VOCABULARY, monobert_config, one_sentence, random_weights, small_config, write_checkpoint
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, BertForSequenceClassification, BertTokenizer, PreTrainedTokenizerFast

from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.parity import check_parity

CrossEncoder = pytest.importorskip("sentence_transformers").CrossEncoder

N_CTX = 67
WORDS = list(
    dict.fromkeys([*VOCABULARY, *"HÉÜéüß日本東京首都", "How", "Flea", "HOW", "café", "cafe", "##é", "##E", "##ß", "Ü"])
)
PAIRS = [
    ("how do fleas", "Fleas lay EGGS, how?"),
    ("HOW Flea", "How CAFÉ café cafe cafe\u0301 Überß"),
    ("日本 egg", "日本の首都 東京 egg日本"),
    ("[ENT] how", "fleas[ENT]egg [ent] <new> the<new>"),
    ("egg [SEP] a", " \t two  spaces\u200b\u00adand\nlines 😀👩\u200d👧 "),
    ("lay", ""),
    ("how lay the egg", "flea " * 90),
]


def cased_backend():
    """A WordPiece tokenizer that keeps case and accents, `[CLS] a [SEP] b [SEP]` with types 0 and 1, as `tokenizers` makes one."""
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False, handle_chinese_chars=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return backend


NAMES = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIALS, strict=True))


def saved_fast(folder, **given):
    PreTrainedTokenizerFast(tokenizer_object=cased_backend(), **NAMES, **given).save_pretrained(folder)


def saved_bert(folder, **given):
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, **given)
    tokenizer.add_tokens(["<new>"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENT]"]})
    tokenizer.save_pretrained(folder)


def old(folder, *, settings=None, special=None, added=None):
    """The layout of transformers before 4: a vocabulary, and what there is of the three small files."""
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    for file, content in (
        ("tokenizer_config.json", settings),
        ("special_tokens_map.json", special),
        ("added_tokens.json", added),
    ):
        if content is not None:
            (folder / file).write_text(json.dumps(content))


def alone(folder):
    cased_backend().save(str(folder / "tokenizer.json"))


ADDED = {"<new>": len(WORDS), "[ENT]": len(WORDS) + 1}
MAP = {**NAMES, "additional_special_tokens": ["[ENT]"]}
TYPED = ["input_ids", "token_type_ids", "attention_mask"]
LAYOUTS = {
    "transformers 5, no types": saved_fast,
    "transformers 5, types": lambda folder: saved_fast(folder, model_input_names=TYPED),
    "transformers 5, cut at 23": lambda folder: saved_fast(folder, model_input_names=TYPED, model_max_length=23),
    "PreTrainedTokenizerFast": lambda folder: renamed(folder, "PreTrainedTokenizerFast"),
    "an unknown class": lambda folder: renamed(folder, "MyOwnTokenizer"),
    "BertTokenizer, uncased": saved_bert,
    "BertTokenizer, cased": lambda folder: saved_bert(folder, do_lower_case=False),
    "BertTokenizer, accents kept": lambda folder: saved_bert(folder, strip_accents=False),
    "BertTokenizer, cased, accents stripped": lambda folder: saved_bert(
        folder, do_lower_case=False, strip_accents=True
    ),
    "BertTokenizer, Chinese whole": lambda folder: saved_bert(folder, tokenize_chinese_chars=False),
    "truncated on the left": lambda folder: saved_bert(folder, truncation_side="left"),
    "vocab.txt alone": old,
    "old, cased": lambda folder: old(folder, settings={"do_lower_case": False, "model_max_length": 512}),
    "old, class named": lambda folder: old(
        folder, settings={"do_lower_case": False, "tokenizer_class": "BertTokenizerFast"}
    ),
    "old, Chinese whole": lambda folder: old(
        folder, settings={"tokenize_chinese_chars": False, "strip_accents": False}
    ),
    "old, added tokens": lambda folder: old(folder, settings={"do_lower_case": True}, special=MAP, added=ADDED),
    "tokenizer.json alone": alone,
}


def renamed(folder, name):
    saved_fast(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tokenizer_class": name}))


def checkpoint(folder, layout, config=None, **changes):
    config = config or small_config(1, vocab_size=len(WORDS) + 2, max_position_embeddings=N_CTX, **changes)
    write_checkpoint(folder, config, random_weights(config, 1))
    LAYOUTS[layout](folder)
    return str(folder)


def ours_of(model, queries, passages):
    """(ids, types) of each pair as the model is fed them."""
    batch = model.to_pairs(queries, passages)
    return [
        (batch.tokens[i][real].tolist(), batch.token_type_ids[i][real].tolist())
        for i, real in enumerate(batch.attention_mask)
    ]


def theirs_of(tokenizer, queries, passages, truncation="only_second"):
    fed = tokenizer(queries, passages, truncation=truncation, max_length=min(N_CTX, tokenizer.model_max_length))
    rows = fed["input_ids"]
    return list(zip(rows, fed.get("token_type_ids", [[0] * len(ids) for ids in rows]), strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ids_types_and_scores_are_those_of_hugging_face_and_of_sentence_transformers(tmp_path, layout):
    folder = checkpoint(tmp_path, layout)
    queries, passages = (list(texts) for texts in zip(*PAIRS, strict=True))
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu")
    expected = theirs_of(AutoTokenizer.from_pretrained(folder), queries, passages)

    assert ours_of(model, queries, passages) == expected
    named = "token_type_ids" in AutoTokenizer.from_pretrained(folder).model_input_names
    assert model.types_fed == named == any(any(types) for _, types in expected)
    scores = model.score(queries, passages)
    theirs = CrossEncoder(folder, device="cpu", local_files_only=True).predict(
        PAIRS, activation_fn=torch.nn.Identity(), convert_to_tensor=True, show_progress_bar=False
    )
    torch.testing.assert_close(scores, theirs.cpu(), rtol=0, atol=2e-5)
    hf = BertForSequenceClassification.from_pretrained(folder).eval()
    for score, (ids, types) in zip(scores, expected, strict=True):
        with torch.no_grad():
            alone = hf(torch.tensor([ids]), token_type_ids=torch.tensor([types])).logits[0, 0]
        assert abs(float(score - alone)) < 2e-5


def test_the_layouts_differ_so_that_one_for_all_cannot_pass(tmp_path):
    queries, passages = (list(texts) for texts in zip(*PAIRS, strict=True))
    seen = set()
    for i, layout in enumerate(LAYOUTS):
        tokenizer = AutoTokenizer.from_pretrained(checkpoint(tmp_path / str(i), layout))
        seen.add(json.dumps(theirs_of(tokenizer, queries, passages)))
    assert len(seen) >= 10


@pytest.mark.parametrize("layout", ["vocab.txt alone", "old, cased", "old, added tokens"])
def test_without_a_model_type_it_is_berts(tmp_path, layout):
    """MonoBERT's layout, which AutoTokenizer cannot load: its files are read as BertTokenizer reads them."""
    config = monobert_config(1, vocab_size=len(WORDS) + 2, max_position_embeddings=N_CTX)
    folder = checkpoint(tmp_path, layout, config)
    queries, passages = (list(texts) for texts in zip(*PAIRS, strict=True))
    with pytest.raises(Exception, match=r"."):
        AutoTokenizer.from_pretrained(folder)
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu")
    assert ours_of(model, queries, passages) == theirs_of(BertTokenizer.from_pretrained(folder), queries, passages)
    assert model.types_fed
    assert check_parity(folder, device="cpu").passed


def test_what_is_not_fed_is_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        HookedCrossEncoder.from_pretrained(checkpoint(tmp_path / "typed", "transformers 5, types"), device="cpu")
        HookedCrossEncoder.from_pretrained(checkpoint(tmp_path / "bert", "BertTokenizer, cased"), device="cpu")
        assert "token_type_ids" not in caplog.text
        HookedCrossEncoder.from_pretrained(checkpoint(tmp_path / "none", "transformers 5, no types"), device="cpu")
    assert "has 2 token types, but its tokenizer does not name token_type_ids" in caplog.text


def test_one_type_of_a_tokenizer_that_gives_two_is_said(tmp_path, caplog):
    folder = checkpoint(tmp_path, "BertTokenizer, cased", type_vocab_size=1)
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu")
    assert "one token type, but its tokenizer gives two" in caplog.text
    assert not model.types_fed
    assert not model.to_pairs("how", "egg").token_type_ids.any()


def test_more_types_than_the_model_has_are_refused(tmp_path):
    folder = checkpoint(tmp_path, "transformers 5, types")
    file = tmp_path / "tokenizer.json"
    text = file.read_text().replace('"type_id": 1', '"type_id": 2')
    assert text != file.read_text()
    file.write_text(text)
    with pytest.raises(ValueError, match=r"token types below 2 .* got 2") as error:
        HookedCrossEncoder.from_pretrained(folder, device="cpu")
    assert one_sentence(error.value)


def test_padding_on_the_left_is_said(tmp_path, caplog):
    folder = checkpoint(tmp_path, "BertTokenizer, cased")
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "padding_side": "left"}))
    HookedCrossEncoder.from_pretrained(folder, device="cpu")
    assert "pads on the left" in caplog.text
    assert check_parity(folder, device="cpu").passed


def test_rules_of_tokenizer_json_that_transformers_passes_over_are_said(tmp_path, caplog):
    HookedCrossEncoder.from_pretrained(checkpoint(tmp_path / "saved", "BertTokenizer, cased"), device="cpu")
    assert "normalizer" not in caplog.text
    HookedCrossEncoder.from_pretrained(checkpoint(tmp_path / "alone", "tokenizer.json alone"), device="cpu")
    assert "'lowercase': True" in caplog.text
    assert "do_lower_case" in caplog.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "basic"}, "BertJapaneseTokenizer"),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, "cannot be read"),
        ({"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}, ""),
    ],
)
def test_other_tokenizers_are_refused_and_no_code_is_run(tmp_path, settings, said):
    folder = checkpoint(tmp_path, "vocab.txt alone")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "own.py").write_text("raise SystemExit('run')\n")
    with pytest.raises(ValueError, match=r"expected a tokenizer in") as error:
        HookedCrossEncoder.from_pretrained(folder, device="cpu")
    assert said in str(error.value)
    assert one_sentence(error.value)


@pytest.mark.parametrize(
    "file", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "large", "dangling"])
def test_only_regular_files_of_a_sensible_size_are_read(tmp_path, file, kind):
    folder = checkpoint(tmp_path, "vocab.txt alone")
    path = tmp_path / file
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "dangling":
        path.symlink_to("nowhere")
    else:
        with path.open("wb") as stream:
            stream.truncate(1 << 32)
    with pytest.raises(ValueError, match=r"expected a (regular )?file") as error:
        HookedCrossEncoder.from_pretrained(folder, device="cpu")
    assert str(path) in str(error.value)
    assert one_sentence(error.value)


def test_a_query_of_at_most_half_the_room_is_cut_as_cross_encoders_are(tmp_path, caplog):
    """`longest_first` is `only_second` while the query has at most half of the places; beyond that the difference is said."""
    folder = checkpoint(tmp_path, "BertTokenizer, uncased")
    model, tokenizer = HookedCrossEncoder.from_pretrained(folder, device="cpu"), AutoTokenizer.from_pretrained(folder)
    half = (N_CTX - 3) // 2
    passages = ["flea " * n for n in (half, half + 1, 90)]
    for n_words in (1, half - 1, half):
        queries = ["egg " * n_words] * 3
        assert ours_of(model, queries, passages) == theirs_of(tokenizer, queries, passages, "longest_first")
    assert caplog.text == ""
    queries = ["egg " * (half + 1)] * 3
    assert ours_of(model, queries, passages) == theirs_of(tokenizer, queries, passages)
    assert ours_of(model, queries, passages) != theirs_of(tokenizer, queries, passages, "longest_first")
    assert caplog.text.count("would cut such queries too") == 1


def test_a_cross_encoders_own_settings_are_followed_or_named(tmp_path, caplog):
    folder = checkpoint(tmp_path / "plain", "BertTokenizer, uncased")
    saved = tmp_path / "saved"
    CrossEncoder(folder, device="cpu").save_pretrained(str(saved))
    caplog.clear()
    assert HookedCrossEncoder.from_pretrained(str(saved), device="cpu").encoder.max_length == N_CTX
    assert caplog.text == ""

    def edit(file, **changes):
        content = json.loads((saved / file).read_text())
        (saved / file).write_text(json.dumps({**content, **changes}))

    edit("sentence_bert_config.json", max_seq_length=29)
    model = HookedCrossEncoder.from_pretrained(str(saved), device="cpu")
    theirs = CrossEncoder(str(saved), device="cpu")
    assert model.encoder.max_length == theirs.max_seq_length == 29
    scores = theirs.predict(PAIRS, activation_fn=torch.nn.Identity(), convert_to_tensor=True)
    torch.testing.assert_close(model.score(*map(list, zip(*PAIRS, strict=True))), scores, rtol=0, atol=2e-5)
    assert "scores differ" not in caplog.text

    edit("sentence_bert_config.json", do_lower_case=True)
    edit("config_sentence_transformers.json", prompts={"q": "query: "}, default_prompt_name="q")
    HookedCrossEncoder.from_pretrained(str(saved), device="cpu")
    assert "with the prompt 'query: '" in caplog.text
    assert "with do_lower_case True" in caplog.text
    (saved / "modules.json").write_text("{}")
    with pytest.raises(ValueError, match="as sentence-transformers writes them") as error:
        HookedCrossEncoder.from_pretrained(str(saved), device="cpu")
    assert one_sentence(error.value)
