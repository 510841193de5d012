"""Counting the instructions of TV-L1's inner loop: on a text as nvdisasm prints it, and for a useful pixel."""

from __future__ import annotations

import pytest

import count_instructions
from flow_cache.errors import DeviceError
from flow_cache.methods.cuda.tvl1 import TUNINGS

from .conftest import run_tool


def listing(*lines, kernel="iterate"):
    """Write instructions and labels (which end with a colon) as nvdisasm does."""
    text = [f'\t.section\t.text.{kernel},"ax",@progbits', f"{kernel}:"]
    for n, line in enumerate(lines):
        text.append(line if line.endswith(":") else f"        /*{16 * n:04x}*/                   {line} ;")
    return "\n".join(text) + "\n"


CONDITIONAL = [".L_x_1:", "MUFU.RCP R1, R2", *["FADD R1, R2, R3"] * 9, "@P0 BRA `(.L_x_1)"]
WHOLE = [
    ".L_x_2:", "MUFU.RCP R1, R2", "@P1 BRA `(.L_x_3)", "SHFL.BFLY PT, R1, R2", "BRA.DIV UR4, `(.L_x_9)", "STG R1",
    ".L_x_3:", "@P0 BRA `(.L_x_2)",
]  # fmt: skip
PLAIN = [".L_x_4:", "FADD R1, R2, R3", "@P0 BRA `(.L_x_4)"]


def test_the_loop_with_the_roots_is_counted_and_what_a_chunk_takes_apart():
    text = listing(*PLAIN, kernel="other") + listing(
        ".L_x_0:", *PLAIN, *CONDITIONAL, *WHOLE, "@P2 BRA `(.L_x_0)"
    )
    assert count_instructions.inner_loop(text) == count_instructions.Loop(each=3, of_a_chunk=3)


def test_a_kernel_without_a_loop_is_refused():
    with pytest.raises(DeviceError, match="no loop was found in the kernel iterate"):
        count_instructions.inner_loop(listing("FADD R1, R2, R3"))


def test_a_useful_pixel_takes_what_strips_and_rows_repeat():
    """340x256: seven strips of 64 columns, one item of 256 rows and 6 more at both ends."""
    step, computed, useful = count_instructions.figures(
        count_instructions.Loop(880, 64), TUNINGS[0], 340, 256
    )
    assert step == 880 + 64 * 6 / 16
    assert computed == step / 12
    assert useful == pytest.approx(computed * (7 * 64 / 340) * (268 / 256))


def test_the_default_is_counted_where_nvdisasm_is():
    try:
        count_instructions.find_nvdisasm()
    except DeviceError as error:
        pytest.skip(str(error))
    done = run_tool("count_instructions.py", "--architectures", "sm_90")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) == 2 + len(TUNINGS)


def test_unusable_arguments_are_one_line_and_status_2():
    done = run_tool("count_instructions.py", "--architectures", "hopper")
    assert done.returncode == 2
    assert "an architecture must be sm_ and a number, got 'hopper'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
