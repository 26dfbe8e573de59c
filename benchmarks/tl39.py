"""TransformerLens 3.9's `HookedEncoder` in an environment of its own, commanded line by line.

What users write today: batches of 32 in the order given, a hook on every layer's `hook_pattern` that multiplies the pattern by
0 where an attender of one part meets an attended position of another. The encoder's output goes through the cross-encoder's
pooler and head, so that both sides give scores; its masked-word head is not run.

Run as a script in that environment, this file is the worker: it reads a folder with weights and pairs, then a JSON command a
line from standard input ({"zero": [[attender parts, attended parts], ...], "layers": [...], "pairs": n}), and answers each with
{"seconds": ..., "scores": [...]}. While it waits it uses no time of the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PACKAGES = ("transformer_lens==3.9.0", "torch==2.13.0")
BATCH = 32


def environment_option(options: argparse.ArgumentParser) -> None:
    """Where the environment is."""
    options.add_argument(
        "--tl39-env", type=Path, help="folder of TransformerLens 3.9's environment; without, it is left out"
    )


def environment(folder: Path) -> Path:
    """The environment's Python; made with pip on first use."""
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        print(f"making the environment of {', '.join(PACKAGES)} in {folder} (minutes, once)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (folder / "made").touch()
    return python


class Worker:
    """The loop over a HookedEncoder of 3.9 with a ported model's weights, on encoded pairs."""

    def __init__(self, folder: Path, model: Any, pairs: Any, threads: int):
        import numpy as np

        self._scratch = tempfile.TemporaryDirectory()
        place = Path(self._scratch.name)
        cfg = model.cfg
        sizes = ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "n_ctx", "d_vocab", "act_fn", "eps")
        (place / "config.json").write_text(json.dumps({name: getattr(cfg, name) for name in sizes}))
        np.savez(place / "weights.npz", **_weights(model))
        columns = {name: getattr(pairs, name) for name in ("tokens", "token_type_ids", "parts", "offsets")}
        np.savez(place / "pairs.npz", **columns)
        command = [str(environment(folder)), "-W", "ignore", __file__, str(place), str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions = self._read()

    def run(
        self, zero: list[tuple[list[int], list[int]]], layers: list[int] | None = None, pairs: int | None = None
    ) -> dict[str, Any]:
        """Seconds and scores of the pairs (or the first so many) without some directions in some layers (or all)."""
        self._process.stdin.write(json.dumps({"zero": zero, "layers": layers, "pairs": pairs}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the worker of TransformerLens 3.9 died: see its message above")
        return json.loads(line)

    def close(self) -> None:
        """End the worker."""
        self._process.stdin.close()
        self._process.wait()
        self._scratch.cleanup()


def _weights(model: Any) -> dict[str, Any]:
    """The ported model's weights under TransformerLens 3.9's names, and the head's."""
    found = {
        "embed.embed.W_E": model.embed.W_E,
        "embed.pos_embed.W_pos": model.embed.W_pos,
        "embed.token_type_embed.W_token_type": model.embed.W_token_type,
        "embed.ln.w": model.embed.ln_weight,
        "embed.ln.b": model.embed.ln_bias,
        "pooler.W": model.pooler.W,
        "pooler.b": model.pooler.bias,
        "head.W": model.classifier.W,
        "head.b": model.classifier.bias,
    }
    for layer in range(model.cfg.n_layers):
        at = f"blocks.{layer}."
        for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"):
            found[f"{at}attn.{name}"] = getattr(model, name)[layer]
        for name in ("W_in", "W_out", "b_in", "b_out"):
            found[f"{at}mlp.{name}"] = getattr(model, name)[layer]
        for norm in ("ln1", "ln2"):
            found[f"{at}{norm}.w"] = getattr(model.stack, f"{norm}_weight")[layer]
            found[f"{at}{norm}.b"] = getattr(model.stack, f"{norm}_bias")[layer]
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def _work(place: Path, threads: int) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # the library prints while it loads
    import logging
    from importlib.metadata import version

    import numpy as np
    import torch
    from transformer_lens import HookedEncoder
    from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig

    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    config = json.loads((place / "config.json").read_text())
    cfg = HookedTransformerConfig(**config, attention_dir="bidirectional", normalization_type="LN", device="cpu")
    model = HookedEncoder(cfg).eval()
    weights = {name: torch.from_numpy(array) for name, array in np.load(place / "weights.npz").items()}
    head = weights.pop("head.W"), weights.pop("head.b")
    missing, unexpected = model.load_state_dict(weights, strict=False)
    lost = [
        name for name in missing if not name.startswith(("mlm_head", "unembed", "nsp_head")) and "IGNORE" not in name
    ]
    lost = [name for name in lost if not name.endswith(".mask")]
    if lost or unexpected:
        raise ValueError(f"weights without a place: {unexpected}; places without weights: {lost}")
    pairs = dict(np.load(place / "pairs.npz"))
    offsets = pairs["offsets"]
    print(json.dumps({name: version(name) for name in ("transformer-lens", "torch")}), file=answers, flush=True)

    def padded(name: str, rows: range, fill: int) -> torch.Tensor:
        width = max(offsets[i + 1] - offsets[i] for i in rows)
        out = np.full((len(rows), width), fill, dtype=np.int64)
        for at, i in enumerate(rows):
            out[at, : offsets[i + 1] - offsets[i]] = pairs[name][offsets[i] : offsets[i + 1]]
        return torch.from_numpy(out)

    batches = []
    for start in range(0, len(offsets) - 1, BATCH):
        rows = range(start, min(start + BATCH, len(offsets) - 1))
        parts = padded("parts", rows, 5)
        batches.append((padded("tokens", rows, 0), padded("token_type_ids", rows, 0), (parts != 5).long(), parts))

    for line in sys.stdin:
        command = json.loads(line)
        layers = range(cfg.n_layers) if command["layers"] is None else command["layers"]
        n_pairs = command["pairs"] or len(offsets) - 1
        scores: list[float] = []
        start_time = time.perf_counter()
        for tokens, types, mask, parts in batches:
            left = n_pairs - len(scores)
            if left <= 0:
                break
            tokens, types, mask, parts = (column[:left] for column in (tokens, types, mask, parts))
            keep = torch.ones(len(tokens), 1, tokens.shape[1], tokens.shape[1])
            for attenders, attended in command["zero"]:
                rows_in = torch.isin(parts, torch.tensor(attenders))
                columns_in = torch.isin(parts, torch.tensor(attended))
                keep[(rows_in[:, None, :, None] & columns_in[:, None, None, :])] = 0.0

            def edit(pattern, hook, keep=keep):
                return pattern * keep

            hooks = [(f"blocks.{layer}.attn.hook_pattern", edit) for layer in layers] if command["zero"] else []
            with model.hooks(fwd_hooks=hooks):
                resid = model.encoder_output(tokens, types, mask)
            logits = model.pooler(resid) @ head[0] + head[1]
            scores += (logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]).tolist()
        took = time.perf_counter() - start_time
        print(json.dumps({"seconds": took, "scores": scores}), file=answers, flush=True)


if __name__ == "__main__":
    _work(Path(sys.argv[1]), int(sys.argv[2]))
