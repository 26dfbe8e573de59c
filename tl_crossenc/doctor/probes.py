"""The built-in pairs on which a model's scores are looked at: four queries, each with a passage that answers it and all others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from tl_crossenc.checkpoints.checkpoint import Checkpoint
from tl_crossenc.doctor.runs import encoded_rows, run_rows, scores_of_logits
from tl_crossenc.inputs.encoder import PairEncoder
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.parity import tolerance

QUERIES = ("how do fleas reproduce", "what is the capital of france", "what makes bread rise", "why is the sky blue")
PASSAGES = (
    "Fleas lay eggs on their host; the eggs drop off and hatch in carpets and bedding.",
    "Paris is the capital of France.",
    "Bread rises because yeast feeds on the sugars in flour and gives off gas, which the web of gluten holds in the dough.",
    "The sky is blue since air scatters blue light from the sun more than it scatters red light.",
    "A bicycle chain should be cleaned and oiled every two hundred miles.",
    "Bread.",
)
"""The first four answer the queries in their order."""
LONGEST_MEASURED = 1024
"""Tokens of a pair that is run only to see what cutting it does."""


@dataclass(frozen=True)
class Probes:
    """A model and what it gives for the built-in pairs.

    Attributes:
        model, encoder: the model, and what reads texts for it.
        checkpoint: where it is from; None where that is not known.
        queries, passages: the texts of each pair.
        answers: `[pair]`, whether the passage answers the query.
        pairs: as they are read here.
        logits: `[pair, label]`, each pair run alone.
        scores: `[pair]`.
    """

    model: HookedCrossEncoder
    encoder: PairEncoder
    checkpoint: Checkpoint | None
    queries: tuple[str, ...]
    passages: tuple[str, ...]
    answers: Bool[np.ndarray, "pair"]
    pairs: EncodedPairs
    logits: Float[np.ndarray, "pair label"]
    scores: Float[np.ndarray, "pair"]

    @property
    def slack(self) -> float:
        """How far apart scores may be that count as the same: parity's tolerance of the dtype."""
        return tolerance(self.model.cfg) * max(1.0, float(np.abs(self.logits).max(initial=0.0)))

    def scored(self, logits: Float[np.ndarray, "pair label"]) -> Float[np.ndarray, "pair"]:
        """The scores of logits."""
        return scores_of_logits(logits, str(self.model.cfg.score))

    def rerun(self, types: np.ndarray) -> Float[np.ndarray, "pair"]:
        """The scores with other token types, one a token."""
        rows = [
            (self.pairs.tokens[start:stop], types[start:stop].astype(np.int8))
            for start, stop in zip(self.pairs.offsets[:-1], self.pairs.offsets[1:], strict=True)
        ]
        return self.scored(run_rows(self.model, encoded_rows(rows, self.pairs.pad_token_id), 1))

    def moved(self, scores: Float[np.ndarray, "pair"]) -> float:
        """The largest difference from the scores of the pairs alone; infinite of scores that are no numbers."""
        difference = np.abs(scores - self.scores).max(initial=0.0)
        return float(difference) if np.isfinite(difference) else float("inf")


def probe(model: HookedCrossEncoder, encoder: PairEncoder, checkpoint: Checkpoint | None) -> Probes:
    """Run the built-in pairs, each alone."""
    queries, passages = zip(*((query, passage) for query in QUERIES for passage in PASSAGES), strict=True)
    answers = np.asarray([i == j for i in range(len(QUERIES)) for j in range(len(PASSAGES))])
    pairs = encoder.encode(queries, passages)
    logits = run_rows(model, pairs, 1)
    scores = scores_of_logits(logits, str(model.cfg.score))
    return Probes(model, encoder, checkpoint, queries, passages, answers, pairs, logits, scores)
