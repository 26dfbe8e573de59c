"""torch.compile on the hook-free path. In a process of its own: the types that tests check at run time cannot be traced."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
from tiny_models import N_LAYERS, port, tiny_hf, tiny_rows, to_batch
torch.set_grad_enabled(False)
torch._dynamo.config.skip_nnmodule_hook_guards = False  # as it is by default, hooks that come later are left out in silence
model, batch = port(tiny_hf()), to_batch(tiny_rows())
given = model.attention_input(batch.attention_mask, batch.parts)
start = model.run_embed(batch.tokens, batch.token_type_ids)
def run(resid):
    for layer in range(N_LAYERS):
        resid = model.run_layer(layer, resid, given, only_cls=layer == N_LAYERS - 1)
    return model.run_head(resid)
found = torch.compile(run, backend="eager", fullgraph=True)(start)
torch.testing.assert_close(found, model(batch, return_type="logits"), rtol=0, atol=1e-12)
hooked = []
with model.hooks(fwd_hooks=[("blocks.1.attn.hook_pattern", lambda pattern, hook: hooked.append(pattern.shape))]):
    torch.testing.assert_close(torch.compile(run, backend="eager")(start), found, rtol=0, atol=1e-12)
print(len(hooked), "hooks ran;", "one graph")
"""


@pytest.mark.slow
def test_the_hook_free_path_is_one_graph_and_hooks_still_run():
    script = SCRIPT.format(tests=str(Path(__file__).parents[1]))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1 hooks ran; one graph"
