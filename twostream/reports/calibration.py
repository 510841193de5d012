"""Write the section on how far an evaluation's probabilities can be believed."""

from __future__ import annotations

from twostream.evaluation.metrics import CALIBRATION_BINS
from twostream.reports.document import Block, Heading, Paragraph, Table
from twostream.reports.numbers import percent
from twostream.reports.outputs import NAMES
from twostream.reports.tables import Figures


def calibration_blocks(figures: Figures) -> list[Block]:
    """Tabulate expected calibration error and negative log-likelihood of every output, baselines included."""
    rows = tuple(
        (NAMES[output], percent(values.ece), f"{values.nll:.3f}")
        for output, values in figures.overall.items()
    )
    text = (
        "ECE: expected calibration error, the mean gap between confidence and share of right answers over "
        f"{CALIBRATION_BINS} equally wide bins of the top confidence. NLL: mean negative log-likelihood of the "
        "true class. Both are 0 at best."
    )
    if figures.baselines:
        text += " Probabilities that are multiplied should be calibrated: one that is too sure of itself outvotes."
    return [
        Heading(2, "Calibration"),
        Table(("Output", "ECE (%)", "NLL (nats)"), rows, frozenset({"Output"})),
        Paragraph((text,)),
    ]
