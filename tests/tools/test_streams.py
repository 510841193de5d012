"""Every tool does its work, and says once in a line what must be said, whatever its streams and its terminal are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from console import CONDITIONS, Command, Runner, check

ROOT = Path(__file__).parents[2]
SCRIPTS = {path.stem: str(path) for path in sorted((ROOT / "tools").glob("*.py"))}
# The name that a tool gives itself; the packages' own commands have their tests elsewhere.
PROGRAMS = {name: name for name in SCRIPTS} | {"precompute_flow": "flow-cache"}
WORK = {
    "fuzz_cache": Command(
        SCRIPTS["fuzz_cache"], ["--cases=3"], answer="3 cases, 0 broken promises, resident memory grew by "
    ),
    "check_frames": Command(
        SCRIPTS["check_frames"],
        ["{out}", "--ffmpeg=/no/ő"],
        status=2,
        complaint="/no/ő: no such program; install ffmpeg, or name it with --ffmpeg\n",
    ),
    "benchmark_flow": Command(  # a text that ends the program
        SCRIPTS["benchmark_flow"],
        ["{out}", "--sizes=ő"],
        status=1,
        complaint="benchmark_flow: error: a size must be WIDTHxHEIGHT, got 'ő'\n",
    ),
}

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full and POSIX")


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    modules = [
        "cv2",
        "pandas",
        "flow_cache.cli.main",
        "flow_cache.methods.tvl1.estimator",
        "twostream.cli.train",
    ]
    with Runner([*modules, "matplotlib.figure"], [ROOT, ROOT / "tools"]) as runner:
        yield runner


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_help_is_shown(name: str, condition: str, runner: Runner, tmp_path: Path) -> None:
    command = Command(SCRIPTS[name], ["--help"], answer="usage: ")
    outcome = runner.run(command, CONDITIONS[condition], tmp_path, {})
    check(PROGRAMS[name], command, CONDITIONS[condition], outcome, {"out": tmp_path / "out"})


@pytest.mark.parametrize(
    "condition", ["nothing special", "all closed", "both full", "ascii", "one column", "folder deleted"]
)
@pytest.mark.parametrize("name", SCRIPTS)
def test_an_unknown_argument_is_named(name: str, condition: str, runner: Runner, tmp_path: Path) -> None:
    command = Command(SCRIPTS[name], ["--ő"])
    outcome = runner.run(command, CONDITIONS[condition], tmp_path, {})
    assert (outcome.status, outcome.output) == (2, ""), outcome
    if CONDITIONS[condition].error_heard:
        assert "Traceback" not in outcome.error
        assert outcome.error.splitlines()[-1].startswith(
            (f"{name}.py: error: ", f"{PROGRAMS[name]}: error: ")
        )


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("name", WORK)
def test_the_work_is_done_and_said(name: str, condition: str, runner: Runner, tmp_path: Path) -> None:
    places = {"out": tmp_path / "out"}
    outcome = runner.run(WORK[name], CONDITIONS[condition], tmp_path, places)
    check(name, WORK[name], CONDITIONS[condition], outcome, places)


@pytest.mark.parametrize("condition", ["all closed", "folder deleted"])
@pytest.mark.parametrize("name", ["ablate", "draw_overview", "fuzz_decoder"])
def test_a_fresh_interpreter_changes_nothing(
    name: str, condition: str, runner: Runner, tmp_path: Path
) -> None:
    """These import most; what is open and where the process is then matters."""
    command = Command(SCRIPTS[name], ["--help"], answer="usage: ", fresh=True)
    outcome = runner.run(command, CONDITIONS[condition], tmp_path, {})
    check(name, command, CONDITIONS[condition], outcome, {"out": tmp_path / "out"})
