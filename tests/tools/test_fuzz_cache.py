"""Damaged and hostile cache files: 500 cases here; `tools/fuzz_cache.py` does 10,000."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("resource", reason="memory cannot be limited on this system")

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "fuzz_cache.py"


@pytest.fixture(scope="module")
def fuzz_cache() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_cache", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_five_hundred_cases() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--cases", "500"],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "500 cases, 0 broken promises" in done.stdout


def test_a_wrongly_read_file_would_be_noticed(fuzz_cache: ModuleType, tmp_path: Path) -> None:
    original = fuzz_cache.originals(tmp_path)[1]
    path = tmp_path / "case.flow.zip"
    path.write_bytes(original.data)
    assert fuzz_cache.judge(path, original, fuzz_cache.shuffle) == "read"
    for other in (replace(original, flow=original.flow ^ 1), replace(original, rgb=None)):
        with pytest.raises(fuzz_cache.BrokenPromiseError, match="other arrays"):
            fuzz_cache.judge(path, other, fuzz_cache.flip_bits)
    with pytest.raises(fuzz_cache.BrokenPromiseError, match="must be refused"):
        fuzz_cache.judge(path, original, fuzz_cache.rename)


def test_another_error_than_a_named_one_would_be_noticed(
    fuzz_cache: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = fuzz_cache.originals(tmp_path)[0]
    path = tmp_path / "case.flow.zip"
    path.write_bytes(original.data)

    def fail(*arguments: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("flow_cache.container.decode_into", fail)
    with pytest.raises(fuzz_cache.BrokenPromiseError, match="KeyError"):
        fuzz_cache.judge(path, original, fuzz_cache.flip_bits)
