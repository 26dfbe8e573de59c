"""TransformerLens's own tools on ours, one test for each row of docs/TRANSFORMERLENS_TOOLS.md, against plain loops."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import transformer_lens.patching as patching
from planted_texts import passage_words, whole_words
from small_worlds import tiny_model
from tiny_models import D_MLP, D_MODEL, D_VOCAB, N_HEADS, N_LAYERS, port, tiny_hf, tiny_rows, to_batch
from transformer_lens import SVDInterpreter, evals
from transformer_lens.head_detector import detect_head
from transformer_lens.tools import analysis
from transformer_lens.tools.analysis import attribution_patching
from type_checks import unchecked

from tl_crossenc.checkpoints.planted import MATCHED, MATCHING_HEAD, SHARE
from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.instruments.tl_tools import as_tl_model
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

SIZES = ((3, 5), (2, 4), (1, 1))
PAGE = Path(__file__).parents[2] / "docs" / "TRANSFORMERLENS_TOOLS.md"


@pytest.fixture
def model():
    return port(tiny_hf(2, seed=3))


@pytest.fixture(scope="module")
def clean():
    return to_batch(tiny_rows(SIZES))


@pytest.fixture(scope="module")
def corrupted():
    return to_batch(tiny_rows(SIZES, seed=1))


@pytest.fixture
def view(model, clean, corrupted):
    return as_tl_model(model, clean, corrupted)


def mean(scores):
    return scores.mean()


def plain_patch(model, clean, corrupted, name, where):
    """The mean score of the corrupted pairs with the clean activation at `where` of one hook point."""
    with torch.no_grad(), unchecked():
        _, cache = model.run_with_cache(clean)

        def patch(activation, hook):
            changed = activation.clone()
            changed[where] = cache[name][where]
            return changed

        return float(model.run_with_hooks(corrupted, fwd_hooks=[(name, patch)]).mean())


# The view.


def test_the_view_runs_the_model_with_types_mask_and_parts(model, view, clean, corrupted):
    for batch in (clean, corrupted):
        assert torch.equal(view(batch.tokens), model(batch))
        assert torch.equal(view.run_with_hooks(batch.tokens), model(batch))
        scores, cache = view.run_with_cache(batch.tokens)
        assert torch.allclose(scores, model(batch), atol=1e-12)
        assert cache["pattern", 1].shape[:2] == (3, N_HEADS)
    shuffled = [2, 0]
    assert torch.allclose(view(clean.tokens[shuffled]), model(clean)[shuffled], atol=1e-12)
    assert torch.allclose(view(clean.tokens[1]), model(clean)[[1]], atol=1e-12)
    assert torch.equal(view(clean), model(clean))
    with model.ablating("DOC->QUERY"):
        assert torch.equal(view(clean.tokens), model(clean))
    assert view.W_Q.data_ptr() == model.W_Q.data_ptr()
    assert view.original_model is model


def test_the_view_gives_logits_when_asked(model, clean):
    view = as_tl_model(model, clean, output="logits")
    logits = model(clean, return_type="logits")
    assert torch.equal(view(clean.tokens), logits)
    assert torch.equal(view.run_with_hooks(clean.tokens), logits)
    assert view(clean.tokens, stop_at_layer=2).shape == (*clean.tokens.shape, model.cfg.d_model)


def test_other_tokens_are_refused(model, view, clean):
    other = clean.tokens.clone()
    other[1, 1] += 1
    with pytest.raises(ValueError, match=r"in 1 of 3 rows \(first row 1\)"):
        view(other)
    with pytest.raises(ValueError, match="in 3 of 3 rows"):
        view.run_with_cache(clean.tokens[:, :-1])
    with pytest.raises(ValueError, match="expected an output among scores, logits"):
        as_tl_model(model, clean, output="loss")
    types = PairBatch(clean.tokens, 1 - clean.token_type_ids, clean.attention_mask, clean.parts)
    with pytest.raises(ValueError, match="twice with different types, mask or parts"):
        as_tl_model(model, clean, types)
    with pytest.raises(AttributeError, match="tokens_to_residual_directions"):
        getattr(view, "tokens_to_residual_" + "directions")


def test_texts_are_pairs_with_a_separator(tmp_path):
    model = tiny_model(tmp_path / "m")
    view = as_tl_model(model)
    tokens = view.to_tokens(["how do eggs rise [SEP] the eggs", "flea [SEP] fleas lay the eggs"])
    expected = model.score(["how do eggs rise", "flea"], ["the eggs", "fleas lay the eggs"])
    assert torch.allclose(view(tokens).detach(), expected, atol=1e-12)
    for text in ("eggs", "a [SEP] b [SEP] c"):
        with pytest.raises(ValueError, match=r"expected a pair written 'query \[SEP\] passage'"):
            view.to_tokens(text)


# transformer_lens.patching


@pytest.mark.parametrize(
    ("tool", "point"),
    [
        ("resid_pre", "hook_resid_pre"),
        ("resid_mid", "hook_resid_mid"),
        ("attn_out", "hook_attn_out"),
        ("mlp_out", "hook_mlp_out"),
    ],
)
def test_patching_by_layer_and_position(model, view, clean, corrupted, tool, point):
    _, cache = view.run_with_cache(clean.tokens)
    found = getattr(patching, f"get_act_patch_{tool}")(view, corrupted.tokens, cache, mean)
    for layer in range(N_LAYERS):
        for position in range(clean.tokens.shape[1]):
            expected = plain_patch(model, clean, corrupted, f"blocks.{layer}.{point}", (slice(None), position))
            assert float(found[layer, position]) == pytest.approx(expected, abs=1e-6)
    assert float(found.std()) > 1e-3


@pytest.mark.parametrize(("tool", "point"), [("out", "z"), ("q", "q"), ("k", "k"), ("v", "v"), ("pattern", "pattern")])
def test_patching_of_heads(model, view, clean, corrupted, tool, point):
    _, cache = view.run_with_cache(clean.tokens)
    found = getattr(patching, f"get_act_patch_attn_head_{tool}_all_pos")(view, corrupted.tokens, cache, mean)
    for layer in range(N_LAYERS):
        for head in range(N_HEADS):
            where = (slice(None), head) if point == "pattern" else (slice(None), slice(None), head)
            expected = plain_patch(model, clean, corrupted, f"blocks.{layer}.attn.hook_{point}", where)
            assert float(found[layer, head]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_patching_of_heads_by_position_and_of_single_weights(model):
    clean, corrupted = (to_batch(tiny_rows(((2, 3), (1, 2)), seed=seed)) for seed in (5, 7))
    view = as_tl_model(model, clean, corrupted)
    _, cache = view.run_with_cache(clean.tokens)
    z = patching.get_act_patch_attn_head_out_by_pos(view, corrupted.tokens, cache, mean)
    rows = patching.get_act_patch_attn_head_pattern_by_pos(view, corrupted.tokens, cache, mean)
    weights = patching.get_act_patch_attn_head_pattern_dest_src_pos(view, corrupted.tokens, cache, mean)
    everything = slice(None)
    for layer, head, row, column in ((0, 1, 2, 5), (1, 2, 6, 0), (2, 0, 0, 7)):
        at = f"blocks.{layer}.attn."
        expected = plain_patch(model, clean, corrupted, f"{at}hook_z", (everything, row, head))
        assert float(z[layer, row, head]) == pytest.approx(expected, abs=1e-6)
        expected = plain_patch(model, clean, corrupted, f"{at}hook_pattern", (everything, head, row))
        assert float(rows[layer, head, row]) == pytest.approx(expected, abs=1e-6)
        expected = plain_patch(model, clean, corrupted, f"{at}hook_pattern", (everything, head, row, column))
        assert float(weights[layer, head, row, column]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_patching_in_stacks(model):
    clean, corrupted = (to_batch(tiny_rows(((2, 3), (1, 2)), seed=seed)) for seed in (5, 7))
    view = as_tl_model(model, clean, corrupted)
    _, cache = view.run_with_cache(clean.tokens)
    blocks = patching.get_act_patch_block_every(view, corrupted.tokens, cache, mean)
    heads = patching.get_act_patch_attn_head_all_pos_every(view, corrupted.tokens, cache, mean)
    by_position = patching.get_act_patch_attn_head_by_pos_every(view, corrupted.tokens, cache, mean)
    assert torch.equal(blocks[2], patching.get_act_patch_mlp_out(view, corrupted.tokens, cache, mean))
    assert torch.equal(heads[3], patching.get_act_patch_attn_head_v_all_pos(view, corrupted.tokens, cache, mean))
    expected = patching.get_act_patch_attn_head_k_by_pos(view, corrupted.tokens, cache, mean)
    assert torch.equal(by_position[2], expected)


def test_patching_keeps_every_pair(model, view, clean, corrupted):
    _, cache = view.run_with_cache(clean.tokens)
    found = patching.get_act_patch_resid_pre(
        view, corrupted.tokens, cache, lambda scores: scores, reduce="none", baseline=True
    )
    assert found.values.shape == (N_LAYERS, clean.tokens.shape[1], len(clean))
    with torch.no_grad():
        assert found.baseline.numpy() == pytest.approx(model(corrupted).numpy(), abs=1e-6)
        restored = found.normalized(model(clean).float())
    frame = found.to_dataframe()
    assert len(frame) == found.values.numel()
    # after layer 1 the passage of the last pair, one token, has told CLS less than all; at padding there is nothing to restore
    assert restored[:, 6:, 2].abs().max() < 1e-5
    assert restored[:, :, 2].abs().max() > 0.01


def test_direct_path_patching_is_refused(model, view, clean, corrupted):
    """It adds a head's write to a later head's input; a post-LN layer would have normalized it twice on the way."""
    _, cache = view.run_with_cache(clean.tokens)
    _, other = view.run_with_cache(corrupted.tokens)
    with pytest.raises(ValueError, match="a BERT layer normalizes after every write"):
        patching.get_act_patch_direct_path(view, corrupted.tokens, cache, other, mean, 0, 1, verbose=False)
    with pytest.raises(ValueError, match="a BERT layer normalizes after every write"):
        analysis.get_act_patch_direct_path_all_sources(view, corrupted.tokens, cache, other, mean, verbose=False)
    assert not model.cfg.use_split_qkv_input


# transformer_lens.tools.analysis.attribution_patching


def test_attribution_patching_by_node(model, view, clean, corrupted):
    found = analysis.attribution_patch(view, clean.tokens, corrupted.tokens, torch.sum)
    names = ["hook_full_embed"]
    names += [f"blocks.{layer}.{point}" for layer in range(N_LAYERS) for point in ("attn.hook_z", "hook_mlp_out")]
    kept = {}

    def watch(activation, hook):
        activation.retain_grad()
        kept[hook.name] = activation

    with torch.no_grad():
        _, cache = model.run_with_cache(clean)
    model.run_with_hooks(corrupted, fwd_hooks=[(name, watch) for name in names]).sum().backward()
    effects = {name: ((cache[name] - kept[name]) * kept[name].grad).detach().mean(0) for name in names}
    for node, score in found.node_scores.items():
        if node.kind == "embed":
            expected = effects["hook_full_embed"][node.position].sum()
        elif node.kind == "mlp_out":
            expected = effects[f"blocks.{node.layer}.hook_mlp_out"][node.position].sum()
        else:
            expected = effects[f"blocks.{node.layer}.attn.hook_z"][node.position, node.head].sum()
        assert score == pytest.approx(float(expected), abs=1e-10)
    width = clean.tokens.shape[1]
    assert len(found.node_scores) == width * (1 + N_LAYERS * (N_HEADS + 1))
    assert max(map(abs, found.node_scores.values())) > 1e-3


def test_attribution_patching_by_edge_and_faithfulness_are_refused(model, view, clean, corrupted):
    config = attribution_patching.EdgeAttributionConfig(granularity="edge")
    with pytest.raises(ValueError, match="a BERT layer normalizes after every write"):
        analysis.attribution_patch(view, clean.tokens, corrupted.tokens, torch.sum, config)
    with pytest.raises(ValueError, match="a BERT layer normalizes after every write"):
        analysis.faithfulness(view, clean.tokens[:1], corrupted.tokens[:1], torch.sum, [])
    assert not model.cfg.use_attn_result
    assert not model.cfg.use_split_qkv_input
    assert "blocks.0.attn.hook_result" not in model.hook_dict


def test_training_mode_is_refused_through_the_view(model, view, clean, corrupted):
    _, cache = view.run_with_cache(clean.tokens)
    model.train()
    with pytest.raises(ValueError, match="evaluation mode"):
        patching.get_act_patch_resid_pre(view, corrupted.tokens, cache, mean)


# transformer_lens.head_detector


def test_head_detection_finds_the_planted_matching_head():
    """ "duplicate_token_head": attention to an earlier equal token, which is what DOC->QUERY matching is."""
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    view, rng = as_tl_model(model), random.Random(0)
    query = rng.sample(whole_words(), 5)
    texts = [f"{' '.join(query)} [SEP] {' '.join(passage_words(rng, query, matched))}" for matched in (5, 8)]
    found = detect_head(view, texts, "duplicate_token_head")
    assert np.unravel_index(int(found.argmax()), found.shape) == MATCHING_HEAD
    expected = np.zeros((2, model.cfg.n_layers, model.cfg.n_heads))
    for i, text in enumerate(texts):
        pairs = model.to_pairs(*text.split(" [SEP] "))
        tokens = pairs.tokens[0].tolist()
        _, cache = model.run_with_cache(pairs)
        for layer in range(model.cfg.n_layers):
            for head in range(model.cfg.n_heads):
                pattern = cache["pattern", layer][0, head]
                for row in range(len(tokens)):
                    for column in range(row):
                        if tokens[row] == tokens[column]:
                            expected[i, layer, head] += float(pattern[row, column]) / len(tokens)
    assert found.numpy() == pytest.approx(expected.mean(0), abs=1e-5)


def test_head_detection_by_absolute_difference_wants_a_causal_model(tmp_path):
    view = as_tl_model(tiny_model(tmp_path / "m", dtype="float32"))
    with pytest.raises(AssertionError):
        detect_head(view, "how do eggs rise [SEP] the eggs", "previous_token_head", error_measure="abs")


# transformer_lens.SVDInterpreter


@pytest.mark.parametrize("kind", ["OV", "w_in", "w_out"])
def test_singular_vectors_as_words(model, view, kind):
    found = SVDInterpreter(view).get_singular_vectors(kind, 1, num_vectors=5, head_index=2 if kind == "OV" else None)
    matrix = {"OV": model.W_V[1, 2] @ model.W_O[1, 2], "w_in": model.W_in[1].T, "w_out": model.W_out[1]}[kind]
    _, _, right = np.linalg.svd(matrix.numpy())
    expected = model.W_E.numpy() @ right[:5].T
    assert found.shape == (D_VOCAB, 1, 5)
    assert np.abs(found[:, 0].numpy()) == pytest.approx(np.abs(expected), abs=1e-9)


# transformer_lens.tools.analysis.interchange


def test_interchange_works_on_the_model_itself(model, clean, corrupted):
    """The inputs are row numbers: `task_logits` makes batches of them, so that no view is needed."""
    name, rows = "blocks.1.hook_normalized_resid_post", torch.arange(len(clean))

    def part(batch, i):
        return PairBatch(
            batch.tokens[i], batch.token_type_ids[i], batch.attention_mask[i], type(batch.parts)(batch.parts.codes[i])
        )

    def logits(batch):
        return lambda i: model(part(batch, i), return_type="logits")

    positions = torch.tensor([0, 1, 2])
    source = analysis.collect_activations(model, name, rows, logits(clean), positions=positions, batch_size=2)
    with torch.no_grad():
        _, cache = model.run_with_cache(clean)
    assert torch.allclose(source, cache[name][rows, positions], atol=1e-12)
    basis = analysis.random_basis(model.cfg.d_model, 3, seed=0).double()
    found = analysis.intervened_logits(
        model,
        name,
        analysis.SubspaceInterchange(basis),
        rows,
        source,
        logits(corrupted),
        positions=positions,
        batch_size=2,
    )

    def patch(activation, hook):
        changed = activation.clone()
        for i, position in enumerate(positions):
            changed[i, position] += basis @ (basis.T @ (source[i] - activation[i, position]))
        return changed

    with torch.no_grad():
        expected = model.run_with_hooks(corrupted, return_type="logits", fwd_hooks=[(name, patch)])
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-10)


def test_alignment_search_finds_the_planted_share():
    """The score hangs on one feature of CLS after the last layer; the learnt direction is that feature's."""
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    rng = random.Random(0)
    query = rng.sample(whole_words(), 5)
    matched = [0, 2, 4, 6, 8, 10, 1, 9]
    pairs = model.to_pairs(" ".join(query), [" ".join(passage_words(rng, query, m)) for m in matched])
    view = as_tl_model(model, pairs)
    name, cls = "blocks.3.hook_normalized_resid_post", torch.zeros(32, dtype=torch.long)
    base, source = (torch.tensor([rng.randrange(8) for _ in range(32)]) for _ in range(2))
    middle = float(view(pairs.tokens).detach().median())

    def is_high(tokens):
        scores = view(tokens) - middle
        return torch.stack([-scores, scores], 1)

    targets = (view(pairs.tokens).detach()[source] > middle).long()
    found = analysis.fit_das(
        view,
        name,
        pairs.tokens[base],
        pairs.tokens[source],
        targets,
        is_high,
        rank=1,
        base_positions=cls,
        source_positions=cls,
        epochs=15,
        lr=0.1,
    )
    assert found.losses[-1] < 0.5 * found.losses[0]
    weight = found.basis[:, 0].abs()
    assert sorted(weight.topk(2).indices.tolist()) == [SHARE, SHARE + 1]
    with pytest.raises(ValueError, match="reinitialized cannot reset"):
        analysis.reinitialized(model, 0)


# transformer_lens.tools.analysis.projection_kernel, sparse_probing


@pytest.mark.parametrize("role", ["Q", "K", "V"])
def test_subspace_affinity_of_heads(model, view, role):
    found = analysis.attention_head_subspace_affinity(view, target_role=role)
    for first, second in (((0, 1), (1, 2)), ((1, 0), (2, 2))):
        writes, _ = np.linalg.qr(model.W_O[first].numpy().T)
        reads, _ = np.linalg.qr(getattr(model, f"W_{role}")[second].numpy())
        raw = np.linalg.norm(writes.T @ reads, "fro") ** 2
        assert float(found.scores[first + second]) == pytest.approx(raw, abs=1e-9)


def test_sparse_probe_finds_the_planted_flag():
    """A probe on one dimension of DOC positions after the matching head's layer tells matched pieces from others."""
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    rng = random.Random(1)
    queries = [rng.sample(whole_words(), 5) for _ in range(11)]
    pairs = model.to_pairs([" ".join(q) for q in queries], [" ".join(passage_words(rng, q, 5)) for q in queries])
    _, cache = model.run_with_cache(pairs)
    doc = pairs.parts.codes == 3
    labels = torch.stack(
        [
            torch.isin(row, torch.tensor(model.tokenizer.convert_tokens_to_ids(query)))
            for row, query in zip(pairs.tokens, queries, strict=True)
        ]
    )[doc]
    features = cache["blocks.1.hook_normalized_resid_post"][doc].detach()
    found = analysis.fit_sparse_probe(features, labels.long(), k=1, seed=0)
    assert set(found.selected_features.tolist()) <= {MATCHED, MATCHED + 1}


def test_sparse_decomposition_is_of_tensors(model):
    """Two word embeddings, 2 and 3 of them, are found among all, and one is exchanged for another."""
    atoms = torch.nn.functional.normalize(torch.randn(31, 97, generator=torch.Generator().manual_seed(0)), dim=1)
    x = 2 * atoms[5] + 3 * atoms[17]
    found = analysis.get_sparse_decomposition(x, atoms, k=2)
    weights = dict(zip(found.support.tolist(), found.coordinates.tolist(), strict=True))
    assert weights == pytest.approx({5: 2.0, 17: 3.0}, abs=1e-4)
    patched = analysis.solve_coordinate_patch(x, atoms, 5, 23, k=2)
    assert patched.patched.numpy() == pytest.approx((2 * atoms[23] + 3 * atoms[17]).numpy(), abs=1e-4)


# transformer_lens.ActivationCache, FactoredMatrix


def test_caches_stack_and_slice(model, view, clean):
    _, cache = view.run_with_cache(clean.tokens)
    stacked = cache.stack_activation("z")
    assert torch.equal(stacked[1], cache["blocks.1.attn.hook_z"])
    one = cache.apply_slice_to_batch_dim(1)
    assert torch.equal(one["blocks.2.hook_mlp_out"], cache["blocks.2.hook_mlp_out"][1])
    heads = cache.stack_head_results(layer=2)
    expected = torch.einsum("bphe,hed->hbpd", cache["blocks.1.attn.hook_z"], model.W_O[1])
    assert heads[N_HEADS:].detach().numpy() == pytest.approx(expected.detach().numpy(), abs=1e-12)
    neurons = cache.get_neuron_results(1)
    expected = cache["blocks.1.mlp.hook_post"][..., None] * model.W_out[1]
    assert neurons.detach().numpy() == pytest.approx(expected.detach().numpy(), abs=1e-12)


def test_what_needs_a_stream_that_is_a_sum_is_refused(model, view, clean):
    """The writes do not add up to the stream that the layers normalize; so nothing is computed as if they did."""
    _, cache = view.run_with_cache(clean.tokens)
    pieces = [
        cache[f"blocks.{layer}.{point}"] for layer in range(N_LAYERS) for point in ("hook_attn_out", "hook_mlp_out")
    ]
    assert (sum(pieces, cache["hook_full_embed"]) - cache["blocks.2.hook_resid_post"]).abs().max() > 0.1
    one = view.run_with_cache(clean.tokens[1], remove_batch_dim=True)[1]
    for subject in (cache, one, cache.apply_slice_to_batch_dim(slice(0, 2)), cache.to("cpu")):
        for call, instead in (
            (lambda c: c.decompose_resid(), "direct_attribution"),
            (lambda c: c.decompose_resid(layer=1, mode="mlp", return_labels=True), "direct_attribution"),
            (lambda c: c.accumulated_resid(), "score_lens"),
            (lambda c: c.accumulated_resid(layer=1, incl_mid=True), "score_lens"),
            (lambda c: c.get_full_resid_decomposition(expand_neurons=False), "direct_attribution"),
            (lambda c: c.apply_ln_to_stack(torch.zeros(1, 3, 11, 21), layer=1), "direct_attribution"),
            (lambda c: c.logit_attrs(torch.zeros(1, 3, 11, 21), 5), "direct_attribution"),
            (lambda c: c.logit_lens(), "score_lens"),
            (lambda c: c.stack_head_results(incl_remainder=True), "direct_attribution"),
            (lambda c: c.stack_head_results(layer=1, apply_ln=True), "direct_attribution"),
            (lambda c: c.stack_neuron_results(2, incl_remainder=True), "direct_attribution"),
            (lambda c: c.stack_neuron_results(2, apply_ln=True), "direct_attribution"),
            (lambda c: c.stack_neuron_results(2, mlp_input=True), "direct_attribution"),
        ):
            with pytest.raises(ValueError, match=f"expected a residual stream that is a plain sum.*{instead}"):
                call(subject)


def test_stacks_equal_loops(model, view, clean):
    _, cache = view.run_with_cache(clean.tokens)
    cache.toggle_autodiff(False)
    torch.set_grad_enabled(True)
    heads, labels = cache.stack_head_results(return_labels=True, pos_slice=[0, 3])
    neurons, names = cache.stack_neuron_results(2, neuron_slice=[4, 1], return_labels=True, pos_slice=slice(1, 4))
    direction = torch.randn(D_MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    projected = cache.stack_neuron_results(project_output_onto=direction)
    cache.compute_head_results()
    for layer in range(N_LAYERS):
        z = cache[f"blocks.{layer}.attn.hook_z"].detach().numpy()
        for head in range(N_HEADS):
            at, write = layer * N_HEADS + head, z[:, :, head] @ model.W_O[layer, head].numpy()
            assert labels[at] == f"L{layer}H{head}"
            np.testing.assert_allclose(heads[at].detach(), write[:, [0, 3]], atol=1e-12)
            np.testing.assert_allclose(cache["result", layer][:, :, head].detach(), write, atol=1e-12)
        post = cache[f"blocks.{layer}.mlp.hook_post"].detach().numpy()
        for neuron in range(D_MLP):
            write = post[..., neuron, None] * model.W_out[layer, neuron].numpy()
            along = projected[layer * D_MLP + neuron].detach()
            np.testing.assert_allclose(along, write @ direction.numpy(), atol=1e-12)
            if layer < 2 and neuron in (1, 4):
                at = 2 * layer + [4, 1].index(neuron)
                assert names[at] == f"L{layer}N{neuron}"
                np.testing.assert_allclose(neurons[at].detach(), write[:, 1:4], atol=1e-12)
    scales = cache.stack_activation("scale", sublayer_type="ln1")
    mids = cache.stack_activation("resid_mid").detach().numpy()
    np.testing.assert_allclose(scales[..., 0].detach(), np.sqrt(mids.var(-1) + model.cfg.eps), atol=1e-12)
    assert cache.ssm_layers() == []
    for call in (
        cache.stack_head_results,
        cache.stack_neuron_results,
        lambda layer: cache.stack_activation("z", layer),
    ):
        for layer in (0, -2, 4):
            with pytest.raises(ValueError, match=r"expected a layer in 1\.\.3"):
                call(layer)


def test_pieces_of_a_cache_are_of_positions_and_pairs(model, clean):
    """`pos_slice` cuts positions, nothing else; a batch is taken away where there is one pair."""
    model.set_use_split_qkv_input(True)
    _, whole = model.run_with_cache(clean)
    for chosen, kept in ((2, [2]), ([0, 3], [0, 3]), ((1, 4), slice(1, 4))):
        _, cut = model.run_with_cache(clean, pos_slice=chosen)
        assert cut.keys() == whole.keys()
        for name, activation in whole.items():
            where = (slice(None), kept)
            if name.startswith(("pooler", "classifier")):
                where = (slice(None),)
            elif name.endswith(("hook_pattern", "hook_attn_scores")):
                where = (slice(None), slice(None), kept)
            assert torch.equal(cut[name], activation[where]), name
    for given in (clean, clean.tokens):
        beside = (
            {} if given is clean else {"token_type_ids": clean.token_type_ids, "attention_mask": clean.attention_mask}
        )
        with pytest.raises(ValueError, match="expected one pair with remove_batch_dim=True, got 3"):
            model.run_with_cache(given, **beside, remove_batch_dim=True)
    _, one = model.run_with_cache(to_batch(tiny_rows(SIZES[:1])), remove_batch_dim=True)
    assert one["z", 1].shape == (11, N_HEADS, 7)
    assert torch.allclose(one.stack_head_results()[0], one["z", 0][:, 0] @ model.W_O[0, 0])


def test_caching_hooks_of_no_point_are_errors(model):
    for add in (model.add_caching_hooks, model.get_caching_hooks):
        with pytest.raises(ValueError, match="did you mean"):
            add("blocks.0.attn.hook_patern")
        with pytest.raises(ValueError, match="matched none"):
            add(lambda name: False)
        with pytest.raises(ValueError, match="matched none"):
            add([])
    assert not model.hooked


def test_factored_matrices(model):
    product = model.OV[1, 2]
    assert torch.allclose(product.AB, model.W_V[1, 2] @ model.W_O[1, 2], atol=1e-12)
    singular = np.linalg.svd((model.W_V[1, 2] @ model.W_O[1, 2]).numpy(), compute_uv=False)[:7]
    assert product.S.numpy() == pytest.approx(singular, abs=1e-9)


# What needs an unembedding, a causal model or a bridge.


def test_what_reads_through_an_unembedding_is_refused(view, clean):
    _, cache = view.run_with_cache(clean.tokens)
    with pytest.raises(NotImplementedError, match="unembed"):
        analysis.logit_lens(view, clean.tokens)
    with pytest.raises(NotImplementedError, match="unembed"):
        analysis.logit_readout(view, cache["blocks.2.hook_resid_post"])
    with pytest.raises(ValueError, match="expected a residual stream that is a plain sum, read by an unembedding"):
        analysis.direct_logit_attribution(view, clean.tokens, answer_tokens=5)


def test_what_is_for_language_models_is_refused(view, clean):
    with pytest.raises(TypeError, match="TransformerBridge only"):
        analysis.JacobianLens.fit(view, ["how do eggs rise"], corpus="none")
    with pytest.raises((ValueError, TypeError), match="return_type"):  # what `tools.training.train` asks for
        view(clean.tokens, return_type="loss")
    with pytest.raises(ValueError, match="expected the tokens of pairs that the view was made for"):
        evals.induction_loss(view, batch_size=2, subseq_len=3, prepend_bos=False, device="cpu")


def test_the_page_lists_every_tool():
    """Every module of TransformerLens's analysis tools, and every patching function, has its row."""
    text = PAGE.read_text(encoding="utf-8")
    folder = Path(analysis.__file__).parent
    modules = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")]
    functions = [name for name in vars(patching) if name.startswith("get_act_patch")]
    assert [name for name in (*modules, *functions, *analysis.__all__) if name not in text] == []
