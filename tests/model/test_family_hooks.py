"""What every hook point of every family holds, against Hugging Face's own modules, and that the names are TransformerLens's."""

import family_oracle as oracle
import family_texts as texts
import pytest
import torch
from family_models import COVERED, labels_of
from family_worlds import build

from tl_crossenc import HookedCrossEncoder

QUERIES, PASSAGES = (list(side) for side in zip(*texts.PAIRS, strict=True))


@pytest.fixture(scope="module", params=COVERED)
def ran(request, tmp_path_factory):
    """(world, model, trace of Hugging Face, cache of ours, where positions are real)."""
    world = build(request.param, labels_of(request.param)[-1])
    folder = world.write(tmp_path_factory.mktemp("model"))
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu", dtype="float64")
    batch = oracle.encode(world, texts.PAIRS)
    trace = oracle.run(world, batch, [])
    scores, cache = model.run_with_cache(model.to_pairs(QUERIES, PASSAGES))
    torch.testing.assert_close(scores, trace.score, rtol=0, atol=1e-10)
    return world, model, trace, cache, batch.real


def close(found, expected, real):
    torch.testing.assert_close(found[real], expected[real], rtol=1e-11, atol=1e-10)


def test_the_stream_and_what_is_written_to_it_are_hugging_faces(ran):
    _, model, trace, cache, real = ran
    close(cache["hook_full_embed"], trace.hidden[0], real)
    for layer in range(model.cfg.n_layers):
        block = model.block(layer)
        close(cache[block.stream_name("pre")], trace.hidden[layer], real)
        close(cache[block.stream_name("after")], trace.hidden[layer + 1], real)
        close(cache["attn_out", layer], trace.attn_out[layer], real)
        close(cache["mlp_out", layer], trace.mlp_out[layer], real)
        close(cache["resid_mid", layer], trace.hidden[layer] + trace.attn_out[layer], real)


def test_scores_patterns_queries_keys_and_values_are_hugging_faces(ran):
    _, model, trace, cache, real = ran
    for layer in range(model.cfg.n_layers):
        for name, expected in (("attn_scores", trace.scores[layer]), ("pattern", trace.patterns[layer])):
            found = cache[name, layer].transpose(1, 2)
            assert torch.equal(found[real] == -torch.inf, expected.transpose(1, 2)[real] == -torch.inf)
            close(found, expected.transpose(1, 2), real)
        read = "rot_" if model.cfg.positional_embedding_type == "rotary" else ""
        if trace.qkv:
            for name, expected in zip((f"{read}q", f"{read}k", "v"), trace.qkv[layer], strict=True):
                close(cache[name, layer], expected.transpose(1, 2), real)
            z = trace.patterns[layer] @ trace.qkv[layer][2]
            close(cache["z", layer], z.transpose(1, 2), real)


def test_queries_and_keys_before_the_rotation_are_projections_of_what_is_read(ran):
    _, model, trace, cache, real = ran
    for layer in range(model.cfg.n_layers):
        read = trace.hidden[layer]
        if f"blocks.{layer}.ln1.hook_normalized" in cache and model.cfg.norm_order == "pre":
            read = torch.nn.functional.layer_norm(read, read.shape[-1:], eps=model.cfg.eps)
            close(cache[f"blocks.{layer}.ln1.hook_normalized"], read, real)
            read = read * model.stack.ln1_weight[layer] + model.stack.ln1_bias[layer]
        for name, W, b in (("q", model.W_Q, model.b_Q), ("k", model.W_K, model.b_K), ("v", model.W_V, model.b_V)):
            close(cache[name, layer], torch.einsum("bpd,hde->bphe", read, W[layer]) + b[layer], real)


def test_inside_of_the_mlp(ran):
    _, model, trace, cache, real = ran
    for layer in range(model.cfg.n_layers):
        post = cache[f"blocks.{layer}.mlp.hook_post"]
        close(post @ model.W_out[layer] + model.b_out[layer], trace.mlp_out[layer], real)
        bent = model.blocks[layer].mlp.activation(cache[f"blocks.{layer}.mlp.hook_pre"])
        if model.cfg.gated_mlp:
            bent = bent * cache[f"blocks.{layer}.mlp.hook_pre_linear"]
        close(post, bent, real)


def test_the_head_reads_and_gives_what_hugging_faces_does(ran):
    _, model, trace, cache, real = ran
    torch.testing.assert_close(cache["classifier.hook_logits"], trace.logits, rtol=0, atol=1e-10)
    if model.pooler is not None:
        torch.testing.assert_close(cache["pooler.hook_pooler_out"], trace.head, rtol=0, atol=1e-10)
    if model.cfg.final_norm:
        scale = (trace.hidden[-1].var(-1, correction=0, keepdim=True) + model.cfg.eps).sqrt()
        close(cache["ln_final.hook_scale"], scale, real)
        close(
            cache["ln_final.hook_normalized"],
            (trace.hidden[-1] - trace.hidden[-1].mean(-1, keepdim=True)) / scale,
            real,
        )


def test_the_names_are_those_that_the_family_has(ran):
    _, model, _, cache, _ = ran
    names = set(model.hook_dict)
    assert set(cache) == names
    cfg = model.cfg
    rotary, pre = cfg.positional_embedding_type == "rotary", cfg.norm_order == "pre"
    assert ("embed.hook_pos_embed" in names) == (cfg.positional_embedding_type == "standard")
    assert ("embed.hook_token_type_embed" in names) == (cfg.d_vocab_types > 0)
    assert ("ln_final.hook_scale" in names) == ("ln_final.hook_normalized" in names) == cfg.final_norm
    for layer in range(cfg.n_layers):
        at = f"blocks.{layer}."
        assert (f"{at}attn.hook_rot_q" in names) == (f"{at}attn.hook_rot_k" in names) == rotary
        assert (f"{at}mlp.hook_pre_linear" in names) == cfg.gated_mlp
        assert (f"{at}hook_normalized_resid_post" in names) == (not pre)
        assert (f"{at}ln1.hook_scale" in names) == (not pre or layer > 0 or cfg.first_norm)


@pytest.mark.parametrize("part", ["ln_final", "attn.hook_k", "hook_resid_post", "ln1.hook_normalized", "mlp.hook_pre"])
def test_a_point_that_is_looked_at_alone_holds_all_positions(ran, part):
    _, model, trace, cache, real = ran
    names = [name for name in model.hook_dict if part in name]
    kept = {}
    for name in names:
        scores = model.run_with_hooks(
            model.to_pairs(QUERIES, PASSAGES),
            fwd_hooks=[(name, lambda x, hook: kept.__setitem__(hook.name, x.clone()))],
        )
        close(kept[name], cache[name], real)
        torch.testing.assert_close(scores, trace.score, rtol=0, atol=1e-10)
