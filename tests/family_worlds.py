"""Builders of a tiny random checkpoint of every family that rerankers come in, by Hugging Face's own classes.

`FAMILIES` maps a name to a builder, `builder(n_labels, seed)` gives a `World`. Sizes are distinct primes where the architecture
allows: 3 heads of 7 (of 10 where positions are rotary), 67 positions for a pair, MLPs of 53, vocabularies of 251, 283 or 401; 3
layers, or 5 where global and windowed layers alternate.
"""

from dataclasses import replace
from functools import partial

import family_texts as texts
import torch
import transformers as hf
from family_rotary import ROTARY
from family_world import SIZES, config_of, fill, fused, next_prime, plain_world, renamed, special_tokens, stored
from transformers.modeling_outputs import SequenceClassifierOutput

DISTIL_SIZES = {"dim": 21, "n_layers": 3, "n_heads": 3, "hidden_dim": 53, "max_position_embeddings": texts.N_CTX}


def _roberta(name, config_class, model_class, make_tokenizer, n_labels=1, seed=0):
    """Positions from `padding_idx + 1`, one token type, two separators, a tanh head on `<s>`."""
    tokenizer = make_tokenizer()
    sizes = {**SIZES, "max_position_embeddings": texts.N_CTX + 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    config = config_class(**sizes, **special_tokens(tokenizer), num_labels=n_labels, attn_implementation="eager")
    model = fill(model_class(config), seed)
    return plain_world(name, model, tokenizer, texts.ROBERTA_FRAME, "roberta.encoder.layer", "classifier.out_proj")


xlm_roberta = partial(
    _roberta, "xlm-roberta", hf.XLMRobertaConfig, hf.XLMRobertaForSequenceClassification, texts.xlm_roberta
)
roberta = partial(_roberta, "roberta", hf.RobertaConfig, hf.RobertaForSequenceClassification, texts.roberta)
camembert = partial(_roberta, "camembert", hf.CamembertConfig, hf.CamembertForSequenceClassification, texts.camembert)


def jina(n_labels=1, seed=0):
    """XLM-R in the key layout of jina-reranker-v2: no `model_type`, fused q, k, v, bfloat16, and code of its own named."""
    world = xlm_roberta(n_labels, seed)
    model = fill(world.model, seed, torch.bfloat16)
    state = stored(model, torch.bfloat16)
    state = fused(state, [f"attention.self.{kind}." for kind in ("query", "key", "value")], "mixer.Wqkv.")
    state = renamed(
        state,
        ("embeddings.LayerNorm", "emb_ln"),
        ("encoder.layer.", "encoder.layers."),
        ("attention.output.dense", "mixer.out_proj"),
        ("attention.output.LayerNorm", "norm1"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
        ("output.LayerNorm", "norm2"),
    )
    config = config_of(
        model,
        model_type=None,
        dtype=None,
        torch_dtype="bfloat16",
        position_embedding_type="absolute",
        num_labels=n_labels,
        use_flash_attn=True,
        emb_pooler=None,
        auto_map={
            "AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig",
            "AutoModel": "modeling_xlm_roberta.XLMRobertaModel",
            "AutoModelForSequenceClassification": "modeling_xlm_roberta.XLMRobertaForSequenceClassification",
        },
    )
    return replace(world, name="jina-v2", model=model, state=state, config=config)


def electra(n_labels=1, seed=0, *, embedding_size=21, name="electra", make_tokenizer=texts.bert):
    """A GELU head on [CLS] and no pooler; embeddings of another size go through `embeddings_project`."""
    tokenizer = make_tokenizer()
    config = hf.ElectraConfig(
        **SIZES,
        embedding_size=embedding_size,
        vocab_size=next_prime(len(tokenizer)),
        pad_token_id=tokenizer.pad_token_id,
        num_labels=n_labels,
        attn_implementation="eager",
    )
    model = fill(hf.ElectraForSequenceClassification(config), seed)
    return plain_world(name, model, tokenizer, texts.BERT_FRAME, "electra.encoder.layer", "classifier.out_proj")


electra_projected = partial(electra, embedding_size=11, name="electra-projected")
electra_untyped = partial(electra, name="electra-untyped", make_tokenizer=texts.bert_without_types)


class LightningReranker(torch.nn.Module):
    """What lightning-ir computes: a linear map without bias of the first row of an ELECTRA encoder."""

    def __init__(self, config, n_labels):
        super().__init__()
        self.electra = hf.ElectraModel(config)
        self.linear = torch.nn.Linear(config.hidden_size, n_labels, bias=False)

    def forward(self, **inputs):
        return SequenceClassifierOutput(logits=self.linear(self.electra(**inputs).last_hidden_state[:, 0]))


def lightning(n_labels=1, seed=0, *, model_type="mono"):
    """ELECTRA as lightning-ir stores it: no prefix before the encoder's keys, the head `linear.weight`."""
    world = electra_projected(n_labels, seed)
    model = fill(LightningReranker(world.model.config, n_labels), seed)
    config = config_of(
        world.model,
        architectures=["MonoElectraModel" if model_type == "mono" else "CrossEncoderElectraModel"],
        model_type=model_type,
        backbone_model_type="electra",
        query_length=11,
        doc_length=41,
        pooling_strategy="first",
        linear_bias=False,
        scoring_strategy=("rank" if n_labels == 1 else "mono") if model_type == "mono" else None,
    )
    state = renamed(stored(model), ("electra.", ""))
    return replace(world, name=f"lightning-{model_type}", model=model, config=config, state=state, last="linear")


def distilbert(n_labels=1, seed=0):
    """No token types, a ReLU head on [CLS], names and sizes of its own."""
    tokenizer = texts.distilbert()
    sizes = {**DISTIL_SIZES, "vocab_size": next_prime(len(tokenizer)), "pad_token_id": tokenizer.pad_token_id}
    model = hf.DistilBertForSequenceClassification(
        hf.DistilBertConfig(**sizes, num_labels=n_labels, attn_implementation="eager")
    )
    return plain_world(
        "distilbert",
        fill(model, seed),
        tokenizer,
        texts.BERT_FRAME,
        "distilbert.transformer.layer",
        "classifier",
        attn="attention.out_lin",
        mlp="ffn.lin2",
    )


DEBERTA_V3 = {
    "type_vocab_size": 0,
    "position_biased_input": False,
    "relative_attention": True,
    "max_relative_positions": -1,
    "position_buckets": 256,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
}
"""What the configurations of DeBERTa-v3 have in common, whatever their size."""


def deberta(n_labels=1, seed=0, **changes):
    """Relative attention with shared keys and log buckets, no types, no absolute positions, float16 on disk, a GELU pooler.

    `changes` are to its configuration.
    """
    tokenizer = texts.deberta()
    settings = {
        **SIZES,
        **DEBERTA_V3,
        "vocab_size": next_prime(len(tokenizer)),
        "pad_token_id": tokenizer.pad_token_id,
        "position_buckets": 10,
        "pooler_dropout": 0,
        "num_labels": n_labels,
    }
    config = hf.DebertaV2Config(**settings | changes, attn_implementation="eager")
    model = fill(hf.DebertaV2ForSequenceClassification(config), seed, torch.float16)
    return plain_world(
        "deberta-v2",
        model,
        tokenizer,
        texts.BERT_FRAME,
        "deberta.encoder.layer",
        "classifier",
        config=config_of(model, dtype="float16"),
        state=stored(model, torch.float16),
    )


def bert(n_labels=1, seed=0):
    """The first family, for tables that go over all of them."""
    tokenizer = texts.bert()
    sizes = {**SIZES, "vocab_size": next_prime(len(tokenizer)), "pad_token_id": tokenizer.pad_token_id}
    config = hf.BertConfig(**sizes, num_labels=n_labels, attn_implementation="eager")
    model = fill(hf.BertForSequenceClassification(config), seed)
    return plain_world("bert", model, tokenizer, texts.BERT_FRAME, "bert.encoder.layer", "classifier")


def mpnet(n_labels=1, seed=0):
    """One bias a head and distance bucket for all layers, positions from 2, no types, a tanh head on `<s>`."""
    tokenizer = texts.mpnet()
    sizes = {**SIZES, "max_position_embeddings": texts.N_CTX + 2, "layer_norm_eps": 1e-5}
    config = hf.MPNetConfig(
        **sizes,
        **special_tokens(tokenizer),
        relative_attention_num_buckets=32,
        num_labels=n_labels,
        attn_implementation="eager",
    )
    model = fill(hf.MPNetForSequenceClassification(config), seed)
    return plain_world(
        "mpnet",
        model,
        tokenizer,
        texts.ROBERTA_FRAME,
        "mpnet.encoder.layer",
        "classifier.out_proj",
        attn="attention.attn.o",
    )


def ernie(n_labels=1, seed=0, *, use_task_id=True, name="ernie"):
    """BERT with a table of task types, of which row 0 is always added, or without one."""
    tokenizer = texts.bert()
    config = hf.ErnieConfig(
        **SIZES,
        vocab_size=next_prime(len(tokenizer)),
        pad_token_id=tokenizer.pad_token_id,
        use_task_id=use_task_id,
        task_type_vocab_size=5,
        num_labels=n_labels,
        attn_implementation="eager",
    )
    model = fill(hf.ErnieForSequenceClassification(config), seed)
    return plain_world(name, model, tokenizer, texts.BERT_FRAME, "ernie.encoder.layer", "classifier")


FAMILIES = {
    "bert": bert,
    "xlm-roberta": xlm_roberta,
    "roberta": roberta,
    "camembert": camembert,
    "jina-v2": jina,
    "electra": electra,
    "electra-projected": electra_projected,
    "electra-untyped": electra_untyped,
    "lightning-mono": lightning,
    "lightning-cross-encoder": partial(lightning, model_type="cross-encoder"),
    "distilbert": distilbert,
    **ROTARY,
    "deberta-v2": deberta,
    "mpnet": mpnet,
    "ernie": ernie,
    "ernie-without-tasks": partial(ernie, use_task_id=False, name="ernie-without-tasks"),
}


SAME_MODEL = {  # the same model on disk under other keys or other names in the configuration
    "lightning-cross-encoder": "lightning-mono",
    "modernbert-old": "modernbert-cls",
    "gte-split": "gte",
    "gte-old": "gte",
    "gte-ntk-old": "gte-ntk",
}
MODELS = tuple(name for name in FAMILIES if name not in SAME_MODEL)


def build(name, n_labels=1, seed=0):
    """The world `name`."""
    return FAMILIES[name](n_labels, seed)
