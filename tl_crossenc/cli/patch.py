"""`tl-crossenc patch`: contrast pairs of one's own, patched."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tl_crossenc.cli.options import model_options, of_the_model, token_budget_option, wait_option
from tl_crossenc.cli.output import say

HELP = "patch contrast pairs of your own: which heads carry what differs"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("model", metavar="MODEL", help="as for reproduce")
    parser.add_argument(
        "--pairs",
        required=True,
        metavar="FILE",
        help='JSON lines {"query": ..., "clean": ..., "corrupted": ...}, with an id if you like, clean_query or corrupted_query '
        "where the query is what differs",
    )
    parser.add_argument("--out", type=Path, help="folder of tables (default: results/patch-MODEL-FILE)")
    patch_options(parser)
    token_budget_option(parser)
    wait_option(parser)
    model_options(parser)


def patch_options(parser: argparse.ArgumentParser) -> None:
    """What is patched; `of_the_patch` reads it."""
    parser.add_argument(
        "--site",
        default="z",
        help="resid_pre, resid_mid, resid_post, attn_out, mlp_out, z, q, k, v or pattern (default: z, what a head reads)",
    )
    parser.add_argument(
        "--by", help="pieces: part, position or all of a stream; head or head_part (default: the first that fits)"
    )
    parser.add_argument("--direction", help="of a pattern, such as DOC->QUERY")
    parser.add_argument("--mode", default="denoise", help="denoise or noise (default: denoise)")
    parser.add_argument("--receiver", help="the paths from every head to this input of a head, such as 3.1.v, or score")
    parser.add_argument(
        "--measure", default="difference", help="of the summary: difference or restored (default: difference)"
    )
    parser.add_argument(
        "--method",
        default="exact",
        help="exact, a run for each patch, or attribution, from one gradient (default: exact)",
    )


def of_the_patch(arguments: argparse.Namespace) -> dict[str, Any]:
    """What is patched, as `PatchSettings` takes it."""
    names = ("site", "by", "direction", "mode", "receiver", "measure", "method")
    return {name: getattr(arguments, name) for name in names}


def run(arguments: argparse.Namespace) -> int:
    """Run the command; its exit status."""
    from dataclasses import asdict

    from rich.console import Console

    from tl_crossenc.experiments.patch_pairs import PatchSettings, file_digest, patch_file
    from tl_crossenc.model.cross_encoder import HookedCrossEncoder
    from tl_crossenc.report.patched_pairs import patched_sentences, write_patched
    from tl_crossenc.report.terminal import progress_bar
    from tl_crossenc.results.job import Job, model_source
    from tl_crossenc.results.outputs import default_folder
    from tl_crossenc.results.work import with_store

    settings = PatchSettings(**of_the_patch(arguments))
    file = Path(arguments.pairs)
    digest = file_digest(file)
    out = arguments.out or default_folder(arguments.model, [file.stem], "patch-")
    model = HookedCrossEncoder.from_pretrained(arguments.model, **of_the_model(arguments))
    fixed = model_source(model) | {"pairs": digest}
    free = asdict(settings) | {"device": model.device.type}
    job = Job("patch", str(model.cfg.model_name), fixed, free)
    budget = model.token_budget(arguments.token_budget)
    with with_store(out, job, wait=arguments.wait) as (folder, _):
        with progress_bar(Console(stderr=True), "patching", unit="patches") as advance:
            patched = patch_file(model, file, settings, token_budget=budget, progress=advance)
        folder.verify(write_patched(out, patched))
    for sentence in patched_sentences(patched, out):
        say(sentence)
    Console().print(patched.strongest.round(3).to_string(index=False), markup=False, highlight=False)
    return 0
