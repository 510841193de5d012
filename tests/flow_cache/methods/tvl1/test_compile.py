"""Compiled kernels: found on disk by the next process, made anew where nothing can be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from numba.core import caching

from flow_cache.methods.tvl1 import compile as _compile

SCRIPT = """
import numpy as np
from flow_cache.methods.tvl1 import iterate
iterate.restore(np.zeros(256, np.float32), np.zeros(96, np.float32), 0, 16)
print(sum(iterate.restore.stats.cache_hits.values()))
"""


def test_the_next_process_need_not_compile(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    hits = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, check=True, capture_output=True, text=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert hits == [["0"], ["1"]]
    assert list(Path(tmp_path).rglob("*restore*.nbc"))


def test_compiles_without_a_folder_to_write(monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])

    @_compile.kernel
    def double(values):
        for i in range(len(values)):
            values[i] *= 2

    values = np.arange(5.0)
    double(values)
    assert values.tolist() == [0, 2, 4, 6, 8]


def test_asks_llvm_for_the_widest_vectors():
    @_compile.row_kernel
    def double(values):
        for i in range(len(values)):
            values[i] *= 2

    double.compile("(float32[::1],)")
    (code,) = double.inspect_llvm().values()
    assert '"prefer-vector-width"="512"' in code


def test_rows_start_on_cache_lines():
    for size in (1, 15, 16, 1000):
        memory = _compile.aligned(size)
        assert len(memory) == size
        assert memory.ctypes.data % 64 == 0
        assert not memory.any()
