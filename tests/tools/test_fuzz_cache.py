"""Damaged and hostile cache files: 500 cases here; `tools/fuzz_cache.py` does 10,000."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from flow_cache.cache.reader import CacheReader

from .conftest import run_tool

pytest.importorskip("resource", reason="memory cannot be limited on this system")

import fuzz_cache
from benchmarks.damaged_caches import flip_bits, originals, rename, shuffle


def test_five_hundred_cases() -> None:
    done = run_tool("fuzz_cache.py", "--cases", 500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "500 cases, 0 broken promises" in done.stdout


def test_a_wrongly_read_file_would_be_noticed(tmp_path: Path) -> None:
    original = originals(tmp_path)[1]
    path = tmp_path / "case.flow.zip"
    path.write_bytes(original.data)
    assert fuzz_cache.judge(path, original, shuffle) == "read"
    for other in (replace(original, flow=original.flow ^ 1), replace(original, rgb=None)):
        with pytest.raises(fuzz_cache.BrokenPromiseError, match="other arrays"):
            fuzz_cache.judge(path, other, flip_bits)
    with pytest.raises(fuzz_cache.BrokenPromiseError, match="must be refused"):
        fuzz_cache.judge(path, original, rename)


def test_another_error_than_a_named_one_would_be_noticed(tmp_path: Path) -> None:
    original = originals(tmp_path)[0]
    path = tmp_path / "case.flow.zip"
    path.write_bytes(original.data)

    class FailingReader(CacheReader):
        def flow(self, *arguments: Any, **options: Any) -> NoReturn:
            raise KeyError("x")

    with pytest.raises(fuzz_cache.BrokenPromiseError, match="KeyError"):
        fuzz_cache.judge(path, original, flip_bits, FailingReader)
