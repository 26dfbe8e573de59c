"""The figures: data frames in, a matplotlib figure out. Nothing is read, written or computed here beyond what is drawn."""

from tl_crossenc.report.figures.ablation import figure1a, head_ablation
from tl_crossenc.report.figures.alignment import decomposition, figure2, spectrum
from tl_crossenc.report.figures.distributions import figure1c, matches
from tl_crossenc.report.figures.matching import figure1b
from tl_crossenc.report.figures.sinks import sinks

__all__ = [
    "decomposition",
    "figure1a",
    "figure1b",
    "figure1c",
    "figure2",
    "head_ablation",
    "matches",
    "sinks",
    "spectrum",
]
