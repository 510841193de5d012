"""TV-L1 compiled for a processor without AVX, and by Numba's public options alone, against what is made of it here."""

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
assembly = "".join(iterate.wave.inspect_asm().values())
assert "xmm" in assembly
assert "ymm" not in assembly
"""


@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="other processors have no AVX anyway"
)
def test_a_processor_without_avx_gives_the_same(stack, tmp_path):
    frames = stack(2, 40, 60, 1.0, 0.5)
    np.save(tmp_path / "frames.npy", frames)
    plain = {
        "NUMBA_CPU_NAME": "x86-64",
        "NUMBA_CPU_FEATURES": "+sse2",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "frames.npy"), str(tmp_path / "flow.npy")]
    subprocess.run(command, env={**os.environ, **plain}, check=True)
    flow = get_method("tvl1")(frames)
    difference = np.hypot(*np.moveaxis(np.load(tmp_path / "flow.npy") - flow, 1, 0))
    assert np.median(difference) < 0.01
    assert np.hypot(*np.moveaxis(flow, 1, 0)).mean() > 0.5


PLAIN_SCRIPT = """
import sys
import numpy as np
from flow_cache.methods.registry import get_method
from flow_cache.methods.tvl1 import iterate

np.save(sys.argv[2], get_method("tvl1")(np.load(sys.argv[1])))
code = "".join(iterate.wave.inspect_llvm().values())
assert "define" in code
assert "prefer-vector-width" not in code
"""


@pytest.mark.slow
def test_numbas_public_options_give_the_same(stack, tmp_path):
    frames = stack(3, 40, 60, 1.0, 0.5)
    np.save(tmp_path / "frames.npy", frames)
    plain = {"FLOW_CACHE_PLAIN_NUMBA": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", PLAIN_SCRIPT, str(tmp_path / "frames.npy"), str(tmp_path / "flow.npy")]
    subprocess.run(command, env={**os.environ, **plain}, check=True)
    flow = get_method("tvl1")(frames)
    difference = np.hypot(*np.moveaxis(np.load(tmp_path / "flow.npy") - flow, 1, 0))
    assert difference.mean() < 0.001  # as against OpenCV's
    assert np.hypot(*np.moveaxis(flow, 1, 0)).mean() > 0.5
