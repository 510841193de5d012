"""Monitoring a command: what it uses is known beforehand."""

from __future__ import annotations

import sys

import pytest

from benchmarks.process_monitor import MonitoredRun, Sample, run_monitored

if not sys.platform.startswith("linux"):
    pytest.skip("reads /proc", allow_module_level=True)

SCRIPT = """
import subprocess, sys, time

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

if len(sys.argv) > 1:
    held = b"x" * (64 << 20)
    burn(0.5)
    time.sleep(0.3)
else:
    burn(0.25)
    subprocess.run([sys.executable, sys.argv[0], "child"], check=True)
    print("done")
"""


def test_counts_time_and_memory_of_children_too(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = run_monitored([sys.executable, str(script)], memory=True, interval=0.05)
    assert run.output == "done\n"
    assert 0.7 <= run.cpu_seconds <= run.seconds + 0.1
    assert 64 < run.largest < 256
    assert 64 < run.together < 256
    used = [sample.cpu_seconds for sample in run.samples]
    assert used == sorted(used)
    whole = run.utilisation()
    assert run.utilisation(run.started, run.ended) == pytest.approx(whole, rel=0.1)


def test_a_command_that_fails_is_named_with_its_complaint():
    with pytest.raises(SystemExit, match=r"(?s)status 3.*no luck"):
        run_monitored([sys.executable, "-c", "print('no luck'); raise SystemExit(3)"])


def test_utilisation_between_two_times():
    samples = [Sample(time, used, 0, 0) for time, used in ((100, 0), (102, 1), (106, 9), (108, 9))]
    run = MonitoredRun(100, 108, 9, samples, "", cores=2)
    assert run.utilisation() == 9 / 16
    assert run.utilisation(102, 106) == 1
    assert run.utilisation(101, 103) == pytest.approx((3 - 0.5) / 4)
