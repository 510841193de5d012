"""The check on a GPU, as a shell sees it: with no GPU, and with stand-ins for what it runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import lazy_loader
import pytest

from .conftest import TOOLS, read_csv, run

SCRIPT = TOOLS / "gpu_check.sh"
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
STEPS = ("tests", *SANITIZERS, "benchmark")

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

# A python that has a GPU, and whose programs end as $FAIL says; it notes how it was called.
STAND_IN = """#!/usr/bin/env bash
printf '%s|%s\\n' "$FLOW_CACHE_REQUIRE_GPU" "${*//$'\\n'/ }" >>"$CALLS"
case "$*" in
  *open_device*) exit 0 ;;
  *"-m pytest"*) echo "said by the tests"; [[ $FAIL != *tests* ]] ;;
  *--small-case*) [[ $FAIL != *small* ]] ;;
  *benchmark_cuda.py*)
    printf 'said by the benchmark\\nreal video, tvl1 opencv, 1 pairs\\n'
    [[ $FAIL != *benchmark* ]]
    ;;
esac
"""
# Runs what follows its options, as compute-sanitizer does.
SANITIZER = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do case $1 in --tool | --error-exitcode | --report-api-errors) shift ;; esac; shift; done
exec "$@"
"""


def check(*arguments, **environment):
    return run("bash", SCRIPT, *arguments, CUDA_VISIBLE_DEVICES="", **environment)


def executable(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def checked(tmp_path):
    """Run the check with stand-ins; returns what it did, the rows of its CSV, and the calls."""

    def run_check(*arguments, fail="", sanitizer=True):
        python = executable(tmp_path / "bin" / "stand-in", STAND_IN)
        if sanitizer:
            executable(tmp_path / "bin" / "compute-sanitizer", SANITIZER)
        out, calls = tmp_path / "out", tmp_path / "calls"
        path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
        done = check(*arguments, PYTHON=str(python), OUT=str(out), PATH=path, FAIL=fail, CALLS=str(calls))
        return done, read_csv(out / "gpu_check.csv"), calls.read_text().splitlines()

    return run_check


def test_its_syntax_is_good():
    assert subprocess.run(["bash", "-n", str(SCRIPT)], check=False).returncode == 0
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_it_can_be_executed_and_says_how_it_is_used():
    assert os.access(SCRIPT, os.X_OK)
    done = check("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: tools/gpu_check.sh")
    assert not done.stderr


def test_without_a_gpu_it_fails_in_one_line(tmp_path):
    done = check(PYTHON=sys.executable, OUT=str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.startswith("gpu_check: device cuda:0")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout
    assert not (tmp_path / "out").exists()


def test_without_cupy_it_says_so(tmp_path):
    python = executable(tmp_path / "python", f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    packages = tmp_path / "packages"  # all that there are
    shutil.copytree(Path(lazy_loader.__file__).parent, packages / "lazy_loader")
    done = check(PYTHON=str(python), PYTHONPATH=str(packages))
    assert done.returncode == 2
    assert "needs CuPy, which is not installed" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_all_steps_run_and_are_tabled(checked, tmp_path):
    done, rows, calls = checked("--videos", "films")
    assert done.returncode == 0, done.stderr
    assert [(row["step"], row["result"]) for row in rows] == [(step, "passed") for step in STEPS]
    assert all(call.startswith("1|") for call in calls)  # a test that finds no GPU fails
    assert "-m pytest -q -m gpu" in calls[2]
    assert sum("--small-case" in call for call in calls) == 4
    assert f"--out {tmp_path / 'out'} --seconds " in calls[-1]
    assert calls[-1].endswith("--videos films")
    assert "said by the tests" in (tmp_path / "out" / "gpu_check.log").read_text()
    assert "| racecheck | passed | " in (tmp_path / "out" / "gpu_check.md").read_text()
    table = done.stdout.strip().splitlines()[-7:]
    assert [line.split()[0] for line in table] == ["step", *STEPS]
    page = done.stdout[done.stdout.index("=== Result") :]
    assert "real video, tvl1 opencv, 1 pairs" in page
    assert "said by" not in page
    assert "not installed: " in page
    assert "Packages that are not installed: " in (tmp_path / "out" / "gpu_check.md").read_text()


@pytest.mark.parametrize("failing", ["tests", "small", "benchmark"])
def test_a_failing_step_is_told_and_the_others_still_run(checked, failing):
    done, rows, calls = checked(fail=failing)
    assert done.returncode == 1
    results = {row["step"]: row["result"] for row in rows}
    expected = {"small": set(SANITIZERS)}.get(failing, {failing})
    assert {step for step, result in results.items() if result == "failed with status 1"} == expected
    assert {step for step, result in results.items() if result == "passed"} == set(results) - expected
    assert len(calls) == 2 + len(STEPS)


@pytest.mark.skipif(shutil.which("compute-sanitizer") is not None, reason="compute-sanitizer is installed")
def test_without_a_sanitizer_its_steps_are_skipped_and_said(checked):
    done, rows, calls = checked(sanitizer=False)
    assert done.returncode == 0
    assert [row["result"].split(":")[0] for row in rows] == ["passed", *["skipped"] * 4, "passed"]
    assert len(calls) == 4


def test_limits_add_up_to_less_than_eight_minutes():
    text = SCRIPT.read_text()
    assert "left=$((470 - SECONDS))" in text
    assert "step tests 140 " in text
    assert text.count(" 40 compute-sanitizer") == 1
    assert 140 + 4 * 40 + 60 < 470 < 480


@pytest.mark.parametrize(("required", "status", "outcome"), [("", 0, "1 skipped"), ("1", 1, "1 error")])
def test_one_switch_turns_skipped_gpu_tests_into_failures(required, status, outcome):
    test = "tests/flow_cache/methods/cuda/test_tvl1.py::test_far_motion_stays_finite"
    done = run(
        sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", test,
        CUDA_VISIBLE_DEVICES="", FLOW_CACHE_REQUIRE_GPU=required,
        PYTEST_ADDOPTS="",  # this run's may ask for coverage, which one test cannot reach
    )  # fmt: skip
    assert done.returncode == status, done.stdout
    assert outcome in done.stdout
