"""What the doctor's tests on foreign scores share: the pairs, what a system makes of two logits, and the doctor asked."""

import torch
from foreign_system import long_pairs

from tl_crossenc import HookedCrossEncoder
from tl_crossenc.doctor.foreign_scores import scores_of
from tl_crossenc.doctor.score_comparison import compare_scores

SHORT = long_pairs(((3, 9), (5, 14), (2, 26), (4, 4), (7, 2), (9, 30), (1, 9), (3, 13), (6, 7), (1, 1)))


def difference(logits):
    return logits[:, 1] - logits[:, 0]


OF_TWO = {
    "our score": difference,
    "labels swapped, logit[0] - logit[1]": lambda logits: logits[:, 0] - logits[:, 1],
    "logit[0]": lambda logits: logits[:, 0],
    "logit[0], negated": lambda logits: -logits[:, 0],
    "logit[1]": lambda logits: logits[:, 1],
    "logit[1], negated": lambda logits: -logits[:, 1],
    "sigmoid (softmax, column 1)": lambda logits: torch.softmax(logits, 1)[:, 1],
    "softmax, column 0": lambda logits: torch.softmax(logits, 1)[:, 0],
    "log-softmax, column 0": lambda logits: torch.log_softmax(logits, 1)[:, 0],
    "log-softmax, column 1": lambda logits: torch.log_softmax(logits, 1)[:, 1],
    "sigmoid of logit[0]": lambda logits: torch.sigmoid(logits[:, 0]),
    "sigmoid of logit[1]": lambda logits: torch.sigmoid(logits[:, 1]),
}


def opened(folder, **settings):
    return HookedCrossEncoder.from_pretrained(folder, device="cpu", **settings)


def doctor(model, pairs, scores):
    """The report on scores, a list of numbers or texts or a tensor."""
    given = scores.tolist() if isinstance(scores, torch.Tensor) else scores
    return compare_scores(model, scores_of([q for q, _ in pairs], [p for _, p in pairs], given))


def assert_found(report, reading, output, most=1e-5):
    assert report.reproduced == "yes", report.verdict
    assert (report.best.reading, report.best.output) == (reading, output), report.verdict
    assert report.best.max_abs < most
    assert report.verdict.startswith(f"Reproduced by {report.best}, to ")
