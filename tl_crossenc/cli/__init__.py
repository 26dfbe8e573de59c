"""The command line: `tl-crossenc reproduce | compare-masks | parity | score`. Thin: arguments in, library calls, text out."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tl_crossenc.console.shown import PLAIN, ShownFormatter, quoted, short_name, shown

DTYPES = ("float32", "bfloat16", "float64")
QUANTITIES = ("excess", "mass", "density")
MOST_DRAWS, MOST_TOKENS, MOST_PASSAGES, MOST_SECONDS = 10_000, 1 << 24, 1_000_000, 10_000_000
"""Of random sets of heads, of padded tokens a batch, of passages a query, of waiting."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status. A user's mistake is one sentence on standard error and status 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that lacks a character gets another one, and not an error
            stream.reconfigure(errors=PLAIN)
    arguments = _parser().parse_args(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(ShownFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if arguments.debug else logging.WARNING, handlers=[handler])
    logging.getLogger("tl_crossenc").setLevel(logging.DEBUG if arguments.debug else logging.INFO)
    if not arguments.debug:  # the hub's own retries; what matters of them is in our sentence
        os.environ.setdefault("HF_HUB_VERBOSITY", "critical")
    logging.getLogger("transformers").setLevel(logging.INFO if arguments.debug else logging.ERROR)
    try:
        return int(arguments.run(arguments))
    except (ValueError, TypeError, OSError) as error:
        if arguments.debug:
            raise
        sys.stderr.write(f"tl-crossenc: {_one_line(error)}\n")
        return 2
    except (RuntimeError, MemoryError, ImportError) as error:
        if arguments.debug:
            raise
        full = isinstance(error, MemoryError) or "out of memory" in str(error)
        hint = "use a smaller --token-budget or another device" if full else "run again with --debug to see where"
        sys.stderr.write(f"tl-crossenc: {type(error).__name__}: {_one_line(error)[:300]}: {hint}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("tl-crossenc: interrupted; run the same command again to go on where it stopped\n")
        return 130


def _one_line(error: Exception) -> str:
    return " ".join(shown(error).split()) or type(error).__name__


class _Parser(argparse.ArgumentParser):
    """A parser whose errors hold no control character of what was typed."""

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser.error`."""
        super().error(shown(message, 1000))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tl-crossenc", description="See which attention carries query-document matching in a neural reranker."
    )
    parser.add_argument("--version", action=_Version, help="show the versions of this package, torch and transformers")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    reproduce = _command(commands, "reproduce", _reproduce, "run the paper's experiments on a model and collections")
    reproduce.add_argument(
        "--model",
        default="demo",
        help="demo, planted, a folder with a checkpoint or a LoRA adapter, or a Hugging Face hub name (default: demo)",
    )
    reproduce.add_argument(
        "--collection",
        action="append",
        metavar="C",
        help="demo, a folder with docs.tsv, queries.tsv and qrels.txt or in BEIR's layout, gzipped or not, trec-dl-2019 ... "
        "trec-dl-2022, or an ir_datasets id; several times for several (default: demo)",
    )
    reproduce.add_argument("--out", type=Path, help="results folder (default: results/MODEL-COLLECTION)")
    reproduce.add_argument(
        "--mode", choices=("zero", "mask"), default="zero", help="how attention is removed (default: zero)"
    )
    reproduce.add_argument(
        "--per-grade", type=_count_or_all, default=10, help="passages a grade and query, or all (default: 10)"
    )
    reproduce.add_argument(
        "--easy-negatives", type=_negatives, default=10, help="passages a query that nobody judged for it (default: 10)"
    )
    reproduce.add_argument(
        "--easy-negatives-draw",
        choices=("matched", "random"),
        default="matched",
        help="as long as the query's relevant passages, or at random as in the paper (default: matched)",
    )
    reproduce.add_argument("--seed", type=_seed, default=0, help="of the pool's draw (default: 0)")
    reproduce.add_argument(
        "--gain", choices=("linear", "exponential"), default="linear", help="of nDCG@10 (default: linear)"
    )
    reproduce.add_argument(
        "--token-budget", type=_budget, help="padded tokens a batch (default: what suits the device)"
    )
    reproduce.add_argument("--only-table1", action="store_true", help="leave the figures, the heads and the report")
    reproduce.add_argument(
        "--direction", action="append", metavar="D", help="of Figure 1a, such as DOC->QUERY; several times for several"
    )
    reproduce.add_argument(
        "--span", choices=("up_to", "from", "only"), default="up_to", help="of layers in Figure 1a (default: up_to)"
    )
    reproduce.add_argument(
        "--heads", help="to ablate, best first: 3.7,4.1 or @matching or @matching:8 (default: as Figure 1b ranks them)"
    )
    reproduce.add_argument(
        "--relevant-grades",
        type=_grades,
        metavar="G",
        help="of relevant passages in Figures 1b and 1c, such as 1,2,3 (default: the upper half of the collection's scale)",
    )
    reproduce.add_argument(
        "--against",
        type=_grades,
        metavar="G",
        default=(-1,),
        help="grades that Figure 1b compares them with: -1 or easy, 0 or hard, or several such as hard,easy (default: -1)",
    )
    reproduce.add_argument(
        "--quantity",
        choices=QUANTITIES,
        default="excess",
        help="of Figure 1b: attention mass less the part's share of the tokens, mass as in the paper, or mass a token "
        "(default: excess)",
    )
    _wait_option(reproduce)
    reproduce.add_argument(
        "--no-control",
        action="store_true",
        help="leave Figure 1b of the untrained twin: attention once more over the pools",
    )
    reproduce.add_argument(
        "--draws",
        type=_draws,
        default=19,
        help="random sets of heads to compare with; p is 1 / (1 + draws) at least (default: 19)",
    )
    reproduce.add_argument(
        "--draw-queries",
        type=_count_or_all,
        default=12,
        help="queries that random sets of heads are scored on, or all (default: 12)",
    )
    _model_options(reproduce)

    masks = _command(
        commands, "compare-masks", _compare_masks, "put the masks of three papers in one table, each in both modes"
    )
    masks.add_argument("--model", default="demo", help="as for reproduce (default: demo)")
    masks.add_argument("--collection", action="append", metavar="C", help="as for reproduce (default: demo)")
    masks.add_argument("--out", type=Path, help="results folder (default: results/masks-MODEL-COLLECTION)")
    masks.add_argument(
        "--preset",
        action="append",
        metavar="P",
        help="such as zhan-q2d, or zhan-q2d:4 for the first four layers; several times for several (default: all compared)",
    )
    masks.add_argument(
        "--per-grade", type=_count_or_all, default=10, help="passages a grade and query, or all (default: 10)"
    )
    masks.add_argument("--seed", type=_seed, default=0, help="of the pool's draw (default: 0)")
    masks.add_argument("--token-budget", type=_budget, help="padded tokens a batch (default: what suits the device)")
    _wait_option(masks)
    _model_options(masks)

    parity = _command(commands, "parity", _parity, "port a model and compare it with Hugging Face's")
    parity.add_argument("model", metavar="MODEL")
    _model_options(parity)

    score = _command(commands, "score", _score, "score passages for a query")
    score.add_argument("model", metavar="MODEL")
    score.add_argument("--query", required=True)
    score.add_argument("--passage", required=True, action="append")
    score.add_argument(
        "--ablate",
        action="append",
        metavar="CONDITION",
        help="such as 'DOC->QUERY', 'zero(CLS->ALL; layers=0-3)' or '@zhan-q2d:4'",
    )
    _model_options(score)
    return parser


class _Version(argparse.Action):
    """Versions as they are installed: torch alone would take seconds to import."""

    def __init__(self, option_strings, dest, **settings):
        super().__init__(option_strings, dest, nargs=0, **settings)

    def __call__(self, parser, namespace, values, option_string=None):
        from importlib.metadata import version

        shown = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
        sys.stdout.write(f"tl-crossenc {version('tl-crossenc')} ({shown})\n")
        parser.exit()


def _command(commands, name: str, run, description: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=description, description=description)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=run)
    return parser


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps or xpu (default: auto)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="(default: float32)")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--tokenizer", help="folder or hub name of a tokenizer, in place of the checkpoint's own")
    parser.add_argument("--max-length", type=_length, help="tokens a pair is cut to (default: the tokenizer's limit)")
    parser.add_argument(
        "--score",
        metavar="RULE",
        help="what of the logits is the score: single, difference, difference:K (K the relevant label of two) or index:K (default: "
        "as the checkpoint's labels say, else logit 1 minus logit 0)",
    )


def _of_the_model(arguments: argparse.Namespace) -> dict[str, Any]:
    """How the model is opened, as keyword arguments of `from_pretrained`, `check_parity` and `Settings`."""
    return {
        "device": arguments.device,
        "dtype": arguments.dtype,
        "revision": arguments.revision,
        "tokenizer": arguments.tokenizer,
        "max_length": arguments.max_length,
        "score": arguments.score,
    }


def _wait_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        type=_wait,
        default=3600,
        metavar="SECONDS",
        help="to wait for another process that does the same into the same folder (default: 3600)",
    )


def _number(least: int, most: int) -> Callable[[str], int]:
    """What reads a whole number in these bounds: more than anything can use would take all memory or run for ever."""

    def read(text: str) -> int:
        digits = text.isascii() and text.isdigit() and len(text) <= len(str(most))
        if not digits or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {quoted(text, 40)}")
        return int(text)

    return read


_draws, _budget, _wait = _number(1, MOST_DRAWS), _number(1, MOST_TOKENS), _number(1, MOST_SECONDS)
_length = _number(4, MOST_TOKENS)
_passages, _negatives, _seed = _number(1, MOST_PASSAGES), _number(0, MOST_PASSAGES), _number(0, 2**63 - 1)


def _count_or_all(text: str) -> int | None:
    return None if text == "all" else _passages(text)


def _grades(text: str) -> tuple[int, ...]:
    from tl_crossenc.pools.grades import parse_grades

    try:
        return parse_grades(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _say(text: str) -> None:
    """A line on standard output: texts of the user's are no markup, and paths are not broken over lines."""
    from rich.console import Console

    Console().print(shown(text), markup=False, emoji=False, highlight=False, soft_wrap=True)


def _reproduce(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from tl_crossenc.experiments.layers import FIGURE_1A
    from tl_crossenc.experiments.paper import PaperOptions
    from tl_crossenc.interventions.directions import parse_directions
    from tl_crossenc.pools.pool import PoolSpec
    from tl_crossenc.report.terminal import progress_bar, table1_for_terminal
    from tl_crossenc.reproduce import Settings, reproduce
    from tl_crossenc.results.outputs import default_folder

    collections = tuple(arguments.collection or ["demo"])
    folder = default_folder(arguments.model, collections)
    for value, default in ((arguments.mode, "zero"), (arguments.dtype, "float32"), (arguments.seed, 0)):
        folder = folder if value == default else Path(f"{folder}-{value}")
    directions = [direction for text in arguments.direction or [] for direction in parse_directions(text)]
    settings = Settings(
        model=arguments.model,
        collections=collections,
        out=arguments.out or folder,
        **_of_the_model(arguments),
        mode=arguments.mode,
        pool=PoolSpec(
            arguments.per_grade,
            arguments.easy_negatives,
            arguments.seed,
            match_length=arguments.easy_negatives_draw == "matched",
            match_grades=arguments.relevant_grades,
        ),
        gain=arguments.gain,
        token_budget=arguments.token_budget,
        options=PaperOptions(
            directions=tuple(directions) or FIGURE_1A,
            span=arguments.span,
            relevant_grades=arguments.relevant_grades,
            against=arguments.against,
            quantity=arguments.quantity,
            control=not arguments.no_control,
            n_draws=arguments.draws,
            draw_queries=arguments.draw_queries,
            seed=arguments.seed,
        ),
        heads=arguments.heads,
        only_table1=arguments.only_table1,
    )
    errors = Console(stderr=True)
    found = reproduce(settings, lambda what: progress_bar(errors, what), wait=arguments.wait)
    title = f"Table 1: {short_name(found.model_label)} on {found.collection_label}, nDCG@{settings.cutoff}"
    table1 = found.table1
    Console().print(table1_for_terminal(table1.comparison, table1.unablated, title, found.caption, found.published))
    for name, part in (("Table 1", found.table1), *found.results.items()):
        if hasattr(part, "layers_run"):
            _say(f"{name}: {part.layers_run:,} pair-layers run now ({part.layers_alone:,} without shared prefixes).")
    if not settings.only_table1:
        _say(f"Relevant passages: {found.relevance}.")
    for pool, cut in zip(found.pools, found.cut, strict=True):
        _say(f"Passages of {pool.collection}: {cut}.")
    for name, reason in found.unavailable.items():
        _say(f"{name}: not drawn: {reason}")
    _say(f"Everything is in {settings.out}/" + (f"; open {found.report}" if found.report else ""))
    return 0


def _compare_masks(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from rich.console import Console

    from tl_crossenc.experiments.compare_masks import mask_conditions, run_compare_masks
    from tl_crossenc.interventions.presets import COMPARED
    from tl_crossenc.model.cross_encoder import HookedCrossEncoder
    from tl_crossenc.pools.pool import PoolSpec
    from tl_crossenc.report.tables import markdown, masks_caption, masks_markdown, measure_text
    from tl_crossenc.report.terminal import masks_for_terminal, progress_bar
    from tl_crossenc.results.job import Job, at_work, model_source
    from tl_crossenc.results.kept_pools import count_cut
    from tl_crossenc.results.outputs import default_folder, versions, write_frame
    from tl_crossenc.store.cells import Store
    from tl_crossenc.store.files import write_atomic

    collections = arguments.collection or ["demo"]
    out = arguments.out or default_folder(arguments.model, collections, "masks-")
    presets = arguments.preset or COMPARED
    model = HookedCrossEncoder.from_pretrained(
        arguments.model,
        **_of_the_model(arguments),
    )
    mask_conditions(presets, model.cfg.n_layers)  # before anything is drawn or written
    store = Store(out, versions={"torch": versions()["torch"]})
    spec = PoolSpec(arguments.per_grade, 0, arguments.seed)
    rules = {f"pool.{name}": value for name, value in asdict(spec).items()}
    free = {"presets": list(presets), "token_budget": arguments.token_budget, "device": model.device.type}
    job = Job("compare-masks", model.cfg.model_name, model_source(model) | rules, free)
    with at_work(out, job, collections, spec, wait=arguments.wait) as (folder, pools):
        with progress_bar(Console(stderr=True), "masks") as advance:
            found = run_compare_masks(
                model,
                pools,
                store,
                presets=presets,
                token_budget=arguments.token_budget,
                progress=advance,
            )
        names = ", ".join(pool.collection for pool in pools)
        called = short_name(str(model.cfg.model_name))
        caption = masks_caption(
            called,
            names,
            found.table,
            found.unablated,
            found.random,
            found.cutoff,
            measure=measure_text(found.cutoff, found.ideal, found.gain),
            one_gain=found.one_gain,
        )
        folder.verify()
        write_frame(out / "compare_masks.csv", found.table, index=False)
        write_frame(out / "compare_masks_per_query.csv", found.per_query)
        write_atomic(out / "compare_masks.md", f"{masks_markdown(found.table, found.cutoff)}\n{markdown(caption)}\n")
        folder.verify([f"compare_masks{end}" for end in (".csv", "_per_query.csv", ".md")])
    title = f"Masks of three papers: {called} on {names}"
    Console().print(masks_for_terminal(found.table, found.cutoff, title, caption))
    for pool in pools:
        _say(f"Passages of {pool.collection}: {count_cut(model, pool)}.")
    _say(f"Everything is in {out}/")
    return 0


def _parity(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tl_crossenc.model.parity import check_parity

    found = check_parity(
        arguments.model,
        **_of_the_model(arguments),
    )
    table = Table(title=Text(shown(f"Parity with Hugging Face: {short_name(str(found.model))}")), title_justify="left")
    for column in ("compared", "values", "max abs", "max relative", "largest value"):
        table.add_column(column, justify="left" if column == "compared" else "right", no_wrap=True)
    for row in found.differences:
        table.add_row(row.what, f"{row.compared:,}", f"{row.max_abs:.2e}", f"{row.max_rel:.2e}", f"{row.scale:.4g}")
    Console().print(table)
    _say(f"{found.shape}; {found.dtype} on {found.device}; revision {found.revision}")
    _say(f"token types {'fed' if found.types_fed else 'not fed'}; score: {found.score}")
    _say(f"{'within' if found.passed else 'OUTSIDE of'} tolerance ({found.tolerance:g} x max(1, largest value))")
    return 0 if found.passed else 1


def _score(arguments: argparse.Namespace) -> int:
    from contextlib import nullcontext

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tl_crossenc.interventions.presets import resolve_ablations
    from tl_crossenc.model.cross_encoder import HookedCrossEncoder
    from tl_crossenc.model.score_rule import describe_rule

    model = HookedCrossEncoder.from_pretrained(
        arguments.model,
        **_of_the_model(arguments),
    )
    ablations = resolve_ablations(arguments.ablate or [], model.cfg.n_layers)
    with model.ablating(ablations) if ablations else nullcontext():
        scores = model.score(arguments.query, arguments.passage)
        condition = str(model.active_condition)
    if not bool(scores.isfinite().all()):
        raise ValueError(
            f"expected finite scores, got {scores.tolist()}: check the checkpoint's weights, or use --dtype float32"
        )
    table = Table("score", "passage")
    for i in scores.argsort(descending=True, stable=True).tolist():
        table.add_row(f"{scores[i]:.4f}", Text(shown(arguments.passage[i])))
    rule = describe_rule(str(model.cfg.score))
    _say(
        f"query: {arguments.query}; model: {short_name(str(model.cfg.model_name))}; score: {rule}; ablated: {condition}"
    )
    Console().print(table)
    return 0
