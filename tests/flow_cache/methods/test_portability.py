"""TV-L1 compiled for a processor without AVX, and with Numba's public options only, against the usual build."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from flow_cache.methods.registry import get_method

SCRIPT = """
import sys
import numpy as np
from flow_cache.methods.registry import get_method
from flow_cache.methods.tvl1 import iterate

np.save(sys.argv[2], get_method("tvl1")(np.load(sys.argv[1])))
"""
NO_AVX = """
assembly = "".join(iterate.wave.inspect_asm().values())
assert "xmm" in assembly
assert "ymm" not in assembly
"""
NOT_TUNED = """
code = "".join(iterate.wave.inspect_llvm().values())
assert "define" in code
assert "prefer-vector-width" not in code
"""


def compare(frames, folder, variables, check):
    """Return the lengths of the flow, and its distances from the flow of a process with other environment variables.

    check: Python text that the process runs afterwards.
    """
    np.save(folder / "frames.npy", frames)
    command = [sys.executable, "-c", SCRIPT + check, str(folder / "frames.npy"), str(folder / "flow.npy")]
    environment = {**os.environ, **variables, "NUMBA_CACHE_DIR": str(folder)}
    subprocess.run(command, env=environment, check=True)
    flow = get_method("tvl1")(frames)
    other = np.load(folder / "flow.npy")
    return (np.hypot(*np.moveaxis(field, 1, 0)) for field in (flow, other - flow))


@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="other processors have no AVX anyway"
)
def test_a_processor_without_avx_gives_the_same(stack, tmp_path):
    plain = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"}
    lengths, differences = compare(stack(2, 40, 60, 1.0, 0.5), tmp_path, plain, NO_AVX)
    assert np.median(differences) < 0.01
    assert lengths.mean() > 0.5


@pytest.mark.slow
def test_numbas_public_options_give_the_same(stack, tmp_path):
    plain = {"FLOW_CACHE_PLAIN_NUMBA": "1"}
    lengths, differences = compare(stack(3, 40, 60, 1.0, 0.5), tmp_path, plain, NOT_TUNED)
    assert differences.mean() < 0.001  # the same limit as for the distance from OpenCV's flow
    assert lengths.mean() > 0.5
