from pathlib import Path

import pytest

from flow_cache.cli.printing import print_summary
from flow_cache.pipeline.outcome import Failure, PrecomputeSummary


def test_summary_names_failures(capsys: pytest.CaptureFixture[str]) -> None:
    failures = [Failure(f"[b]{n}.avi", "broken") for n in range(25)]
    print_summary(PrecomputeSummary(1200, 3, failures, 9000, 10.0, Path("/c"), partial=2), "failures.csv")
    out = capsys.readouterr().out
    assert "1,200 (2 only in part)" in out
    assert "10.0 s, 900.0 pairs/s" in out
    assert "failed: [b]0.avi: broken" in out
    assert "[b]20.avi" not in out
    assert "and 5 more, all in /c/failures.csv" in out


def test_summary_ends_with_what_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(PrecomputeSummary(1, 0, [], 9, 1.0, Path("/c"), notes=["left out: [b]x"]), "failures.csv")
    assert capsys.readouterr().out.splitlines()[-1] == "left out: [b]x"
