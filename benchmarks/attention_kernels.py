"""Which attention kernel runs, by the profiler, and what one call of it takes, for every form in which attention is called.

python benchmarks/attention_kernels.py [--device cuda]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from common import interleave, parse, parser, print_machine, print_table

KERNELS = ("_scaled_dot_product", "_efficient_attention", "_flash_attention", "cudnn_attention")


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, pairs=1)
    options.add_argument("--device", default="cpu")
    given = parse(options, argv)
    print_machine()
    for dtype in (torch.float32, torch.bfloat16):
        table(given, dtype)


def table(given, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    pairs, heads, width, d_head = (2, 3, 17, 32) if given.smoke else (20, 12, 101, 32)
    q, k, v = (torch.randn(pairs, heads, width, d_head, device=given.device, dtype=dtype) for _ in range(3))
    kept = torch.arange(width, device=given.device) < torch.randint(width // 2, width, (pairs, 1), device=given.device)
    bias = torch.zeros(pairs, 1, 1, width, device=given.device, dtype=dtype).masked_fill(
        ~kept[:, None, None], -torch.inf
    )
    zeroed = v * (torch.arange(width, device=given.device) % 3 > 0)[None, None, :, None]
    doubled = torch.cat([v, zeroed], -1)
    masses = F.pad(torch.randn(pairs, heads, width, 5, device=given.device, dtype=dtype), (0, d_head - 5))
    forms = {
        "no mask": lambda: F.scaled_dot_product_attention(q, k, v),
        "float mask a column, [pair, 1, 1, pos]": lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=bias),
        "bool mask a column": lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=kept[:, None, None]),
        "float mask a cell, [pair, head, pos, pos]": lambda: F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias.expand(-1, heads, width, -1).contiguous()
        ),
        "values twice as wide, V beside V zeroed": lambda: F.scaled_dot_product_attention(
            q, k, doubled, attn_mask=bias
        ),
        "the same as two calls": lambda: (
            F.scaled_dot_product_attention(q, k, v, attn_mask=bias),
            F.scaled_dot_product_attention(q, k, zeroed, attn_mask=bias),
        ),
        "two calls, the second for a tenth of the rows": lambda: (
            F.scaled_dot_product_attention(q, k, v, attn_mask=bias),
            F.scaled_dot_product_attention(q[:, :, : width // 10], k, zeroed, attn_mask=bias),
        ),
        "values of 5 one-hot parts, padded to d_head": lambda: F.scaled_dot_product_attention(
            q, k, masses, attn_mask=bias
        ),
        "values of 5 one-hot parts, as they are": lambda: F.scaled_dot_product_attention(
            q, k, masses[..., :5], attn_mask=bias
        ),
    }
    timings = interleave({name: _repeat(form, given) for name, form in forms.items()}, given.rounds)
    repeats = 2 if given.smoke else 20
    rows = [
        (name, _kernel(form), f"{1e3 * timings.median(name) / repeats:.2f}", f"{timings.ratio(name, 'no mask'):.2f}")
        for name, form in forms.items()
    ]
    title = (
        f"Attention over {pairs} x {heads} x {width} x {d_head}, {str(dtype).removeprefix('torch.')}, {given.device}"
    )
    print_table(title, ("form", "kernel", "ms", "against no mask"), rows)


def _repeat(form, given):
    def run() -> None:
        for _ in range(2 if given.smoke else 20):
            form()
        if given.device != "cpu":
            torch.cuda.synchronize()

    return run


def _kernel(form) -> str:
    """The attention operation that does the work; math where it is several plain ones."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        form()
    names = {event.key.removeprefix("aten::") for event in recorded.key_averages()}
    fused = sorted(name for name in names if any(kernel in name for kernel in KERNELS))
    return ", ".join(fused) or "none (matmul, softmax, matmul)"


if __name__ == "__main__":
    main()
