"""Watching a command: what it uses is known beforehand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("reads /proc", allow_module_level=True)

TOOLS = Path(__file__).parents[2] / "tools"

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


@pytest.fixture(scope="module")
def watching():
    spec = importlib.util.spec_from_file_location("watching", TOOLS / "watching.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_counts_time_and_memory_of_children_too(watching, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    watched = watching.watch([sys.executable, str(script)], memory=True, every=0.05)
    assert watched.output == "done\n"
    assert 0.7 <= watched.busy <= watched.seconds + 0.1
    assert 64 < watched.largest < 256
    assert 64 < watched.together < 256
    busy = [sample.busy for sample in watched.samples]
    assert busy == sorted(busy)
    whole = watched.utilisation()
    assert watched.utilisation(watched.started, watched.ended) == pytest.approx(whole, rel=0.1)


def test_a_command_that_fails_is_named_with_its_complaint(watching):
    with pytest.raises(SystemExit, match=r"(?s)status 3.*no luck"):
        watching.watch([sys.executable, "-c", "print('no luck'); raise SystemExit(3)"])


def test_utilisation_of_a_stretch(watching, monkeypatch):
    monkeypatch.setattr(watching, "available_cores", lambda: 2)
    samples = [watching.Sample(at, busy, 0, 0) for at, busy in ((100, 0), (102, 1), (106, 9), (108, 9))]
    watched = watching.Watched(100, 108, 9, samples, "")
    assert watched.utilisation() == 9 / 16
    assert watched.utilisation(102, 106) == 1
    assert watched.utilisation(101, 103) == pytest.approx((3 - 0.5) / 4)
