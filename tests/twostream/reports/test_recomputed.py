"""Every figure of a report follows from its `predictions.csv`, by pandas, scikit-learn and scipy alone."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import recompute
from evaluations import CLASSES, made_up_evaluation
from scipy import optimize, special

from twostream.evaluation.files import read_evaluation
from twostream.reports.write import write_reports

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of a report of two streams, their fusion and three baselines."""
    folder = tmp_path_factory.mktemp("report")
    write_reports(made_up_evaluation(), folder)
    return folder


def test_every_figure_of_the_report_follows_from_the_predictions(report):
    recompute.check_report(report)


@pytest.mark.parametrize("run", ["jhmdb/split1", "jhmdb/split2", "jhmdb/split3", "jhmdb-kinetics/split3"])
def test_every_figure_of_the_reports_on_jhmdb_follows_from_their_predictions(run):
    recompute.check_report(ROOT / "reports" / run)


def test_a_report_that_says_more_is_noticed(report, tmp_path):
    for name in ("predictions.csv", "confusion_matrix.csv"):
        shutil.copy(report / name, tmp_path)
    text = (report / "report.md").read_text(encoding="utf-8")
    for more in ("\nTop-3 is 50.0 %.\n", "\n| a |\n|---|\n| 1 |\n"):
        (tmp_path / "report.md").write_text(
            text.replace("\n## Fusions", f"{more}\n## Fusions"), encoding="utf-8"
        )
        with pytest.raises(AssertionError):
            recompute.check_report(tmp_path)


@pytest.mark.parametrize("start", ["| Fused    |", "| both streams |", "| RGB      | "])
def test_a_report_with_another_figure_is_noticed(start, report, tmp_path):
    for name in ("predictions.csv", "confusion_matrix.csv"):
        shutil.copy(report / name, tmp_path)
    text = (report / "report.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith(start))
    number = re.findall(r"\d+\.\d", line)[-1]
    changed = f"{float(number) + 0.2:.1f}".join(line.rsplit(number, 1))
    (tmp_path / "report.md").write_text(text.replace(line, changed), encoding="utf-8")
    with pytest.raises(AssertionError):
        recompute.check_report(tmp_path)


def test_the_weighted_fusion_follows_from_the_validation_predictions(report):
    """Fitted again by another method from what `evaluation.npz` keeps; its test figures are in predictions.csv."""
    text = (report / "report.md").read_text(encoding="utf-8")
    said = next(line for line in text.splitlines() if line.startswith("weighted: RGB"))
    shown = [float(number) for number in re.findall(r"\d+\.\d\d", said)]
    kept = read_evaluation(report)
    labels = kept.validation_labels
    logs = [np.log(kept.validation_probabilities[name].astype(np.float64)) for name in ("rgb", "flow")]

    def loss(exponents, streams):
        scores = special.log_softmax(
            sum(e * stream for e, stream in zip(exponents, streams, strict=True)), axis=1
        )
        return (
            -scores[np.arange(len(labels)), labels].mean() + 0.5e-4 * ((np.asarray(exponents) - 1) ** 2).sum()
        )

    def fit(streams):
        start = np.ones(len(streams))
        options = {"xatol": 1e-7, "fatol": 1e-12, "maxiter": 5000}
        return optimize.minimize(loss, start, (streams,), method="Nelder-Mead", options=options).x

    temperatures = [1 / fit([stream])[0] for stream in logs]
    calibrated = [special.log_softmax(s / t, axis=1) for s, t in zip(logs, temperatures, strict=True)]
    exponents = fit(calibrated)
    spread = exponents * [stream.std(axis=1).mean() for stream in calibrated]
    expected = [*(spread / spread.sum()), *temperatures, *exponents]
    assert shown == pytest.approx(expected, abs=0.0051)
    assert kept.baselines()["weighted"].shape == (84, len(CLASSES))
