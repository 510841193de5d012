"""Compiled kernels: found on disk by the next process, compiled again without a folder, plain if Numba has changed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core import caching

from flow_cache.methods.tvl1 import compile as compiling
from flow_cache.methods.tvl1 import numba_internals

SCRIPT = """
import numpy as np
from flow_cache.methods.tvl1 import iterate
state, backup = np.zeros(256, np.float32), np.arange(96, dtype=np.float32)
iterate.restore(state, backup, 1, 16)
assert state.tolist() == [0] * 160 + backup.tolist()
print(sum(iterate.restore.stats.cache_hits.values()))
"""

# Changes that another release of Numba may bring; run before SCRIPT.
OTHER_VERSION = "import numba; numba.__version__ = '0.0.0'\n"
WITHOUT_THE_PASS = "from numba.core import typed_passes; del typed_passes.NativeLowering\n"
WITH_ANOTHER_SIGNATURE = """
from numba.core import compiler
changed = {"define_pipelines": lambda self, level: []}
compiler.Compiler = type("Compiler", (compiler.Compiler,), changed)
"""


def run(folder, script=SCRIPT, plain="0"):
    """Run a script in a new process that stores compiled code in `folder`; return its output and its warnings."""
    environment = {
        **os.environ,
        "FLOW_CACHE_PLAIN_NUMBA": plain,
        "NUMBA_CACHE_DIR": str(folder),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.split(), done.stderr.splitlines()


def test_the_next_process_need_not_compile(tmp_path):
    hits = [run(tmp_path)[0] for _ in range(2)]
    assert hits == [["0"], ["1"]]
    assert list(Path(tmp_path).rglob("*restore*.nbc"))


def test_neither_way_loads_the_code_of_the_other(tmp_path):
    hits = [run(tmp_path, plain=plain)[0] for plain in "0101"]
    assert hits == [["0"], ["0"], ["1"], ["1"]]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (WITHOUT_THE_PASS, "NativeLowering"),
        (OTHER_VERSION + WITH_ANOTHER_SIGNATURE, "'level'"),
    ],
    ids=["import", "signature"],
)
def test_falls_back_where_numbas_internals_have_changed(tmp_path, change, cause):
    environment = "import os; print(os.environ['FLOW_CACHE_PLAIN_NUMBA'])"  # what further processes are told
    output, (warning,) = run(tmp_path, change + SCRIPT + environment)
    assert output == ["0", "1"]
    assert "slower" in warning
    assert cause in warning
    assert list(Path(tmp_path).rglob("*restore.plain*.nbc"))


def test_an_untested_numba_that_works_is_tuned(tmp_path):
    assert run(tmp_path, OTHER_VERSION + SCRIPT) == (["0"], [])
    assert not list(Path(tmp_path).rglob("*.plain*"))


def test_says_once_why_it_is_slower(caplog):
    def load():
        raise ImportError("no such pass\nsecond line")

    environment = {"FLOW_CACHE_PLAIN_NUMBA": "0"}
    with caplog.at_level(logging.WARNING):
        assert compiling.choose(load, environment) is compiling.PLAIN
        assert compiling.choose(load, environment) is compiling.PLAIN
    (message,) = caplog.messages
    assert message.endswith(": no such pass")


def test_takes_the_plain_way_only_where_it_is_asked_for():
    tuned = compiling.load_tuned()
    for value in ("", "0"):
        assert compiling.choose(lambda: tuned, {"FLOW_CACHE_PLAIN_NUMBA": value}) is tuned
    assert compiling.choose(lambda: tuned, {}) is tuned
    assert compiling.choose(lambda: tuned, {"FLOW_CACHE_PLAIN_NUMBA": "1"}) is compiling.PLAIN


def test_this_numba_passes_the_check():
    numba_internals.check()


def test_compiles_without_a_folder_to_write(monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])

    @compiling.kernel
    def double(values):
        for i in range(len(values)):
            values[i] *= 2

    values = np.arange(5.0)
    double(values)
    assert values.tolist() == [0, 2, 4, 6, 8]


def test_asks_llvm_for_the_widest_vectors():
    def double(values):
        for i in range(len(values)):
            values[i] *= 2

    compiled = compiling.row_kernel(double, compiling.load_tuned())
    compiled.compile("(float32[::1],)")
    (code,) = compiled.inspect_llvm().values()
    assert '"prefer-vector-width"="512"' in code


def test_rows_start_on_cache_lines():
    for size in (1, 15, 16, 1000):
        memory = compiling.aligned(size)
        assert len(memory) == size
        assert memory.ctypes.data % 64 == 0
        assert not memory.any()
