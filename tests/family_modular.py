"""ModernBERT in the modular form of sentence-transformers: an encoder without a head, Pooling, Dense, LayerNorm, Dense."""

import tempfile

import torch
from family_texts import BERT_FRAME
from family_world import World, config_of, fill, stored
from transformers import ModernBertModel
from transformers.modeling_outputs import SequenceClassifierOutput


class ModularReranker(torch.nn.Module):
    """What the modules compute, one after the other: row 0, dense without bias, GELU, LayerNorm, dense."""

    def __init__(self, config, n_labels):
        super().__init__()
        self.model = ModernBertModel(config)
        self.dense = torch.nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.norm = torch.nn.LayerNorm(config.hidden_size)
        self.scores = torch.nn.Linear(config.hidden_size, n_labels)

    def forward(self, **inputs):
        pooled = self.model(**inputs).last_hidden_state[:, 0]
        return SequenceClassifierOutput(logits=self.scores(self.norm(torch.nn.functional.gelu(self.dense(pooled)))))


def modernbert_modular(config, tokenizer, half_windows, n_labels, seed):
    """The world; its folder is written by sentence-transformers itself."""
    model = fill(ModularReranker(config, n_labels), seed)
    return World(
        name="modernbert-modular",
        model=model,
        tokenizer=tokenizer,
        frame=BERT_FRAME,
        config=config_of(model.model),
        state=stored(model.model),
        encoder="model.layers",
        attn="attn.Wo",
        mlp="mlp",
        last="scores",
        half_windows=half_windows,
        writer=write_modular,
    )


def write_modular(world, folder):
    """`modules.json` and a folder a module, through `CrossEncoder.save`."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    model, width = world.model, world.model.dense.in_features
    with tempfile.TemporaryDirectory() as temporary:
        world.tokenizer.save_pretrained(temporary)
        model.model.save_pretrained(temporary)
        encoder = Transformer(temporary)
    dense = Dense(width, width, bias=False, activation_function=torch.nn.GELU(), init_weight=model.dense.weight.data)
    norm = LayerNorm(width)
    norm.norm.load_state_dict(model.norm.state_dict())
    scores = Dense(width, world.n_labels, activation_function=torch.nn.Identity(), module_output_name="scores")
    scores.linear.load_state_dict(model.scores.state_dict())
    modules = [encoder, Pooling(width, pooling_mode="cls"), dense, norm, scores]
    CrossEncoder(modules=modules, device="cpu").save(str(folder), create_model_card=False)
