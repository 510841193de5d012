"""The emulation itself: it runs correct kernels and reports wrong ones."""

from __future__ import annotations

import numpy as np
import pytest

SUM = """
extern "C" __global__ void block_sum(const float* values, int n, float* sums) {
    __shared__ float part[64];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    part[threadIdx.x] = i < n ? values[i] : 0.0f;
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        BARRIER
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = part[0];
}
"""


def block_sums(device, text, n=200):
    values = device.empty(n, np.float32)
    device.upload(np.arange(n, dtype=np.float32) % 7, values)
    sums = device.empty(4, np.float32)
    device.text_module(text).launch("block_sum", (4, 1, 1), (64, 1, 1), (values, n, sums))
    return device.download(sums)


def test_threads_wait_for_each_other(emulated):
    expected = np.pad(np.arange(200) % 7, (0, 56)).reshape(4, 64).sum(axis=1)
    for seed in range(5):
        assert np.array_equal(
            block_sums(emulated(seed), SUM.replace("BARRIER", "__syncthreads();")), expected
        )


def test_a_missing_barrier_shows(emulated, emulation):
    for seed in range(5):
        with pytest.raises(emulation.EmulationError, match="nothing has written"):
            block_sums(emulated(seed), SUM.replace("BARRIER", ""))


def test_a_race_depends_on_the_seed(emulated):
    text = """
extern "C" __global__ void race(int* out) {
    if (threadIdx.x < 2) out[0] = threadIdx.x;
    __syncthreads();
    if (threadIdx.x == 2) out[1] = blockIdx.x;
}"""
    firsts, seconds = set(), set()
    for seed in range(10):
        device = emulated(seed)
        out = device.empty(2, np.int32)
        device.text_module(text).launch("race", (2, 1, 1), (4, 1, 1), (out,))
        firsts.add(int(out[0]))
        seconds.add(int(out[1]))
    assert firsts == {0, 1}
    assert seconds == {0, 1}


@pytest.mark.parametrize("barrier", ["if (i < n) __syncthreads();", "if (i >= n) return; __syncthreads();"])
def test_a_divergent_barrier_fails(emulated, emulation, barrier):
    with pytest.raises(emulation.EmulationError, match="barrier divergence"):
        block_sums(emulated(), SUM.replace("BARRIER", barrier))


@pytest.mark.parametrize("place", [-1, 10, 300])
def test_a_write_out_of_bounds_fails(emulated, emulation, place):
    device = emulated()
    text = 'extern "C" __global__ void write(float* out, int i) { out[i] = 1.0f; }'
    out = device.empty(10, np.float32)
    with pytest.raises(emulation.EmulationError, match="outside an array of 40 bytes"):
        device.text_module(text).launch("write", (1, 1, 1), (1, 1, 1), (out, place))


def test_a_read_out_of_bounds_gives_nan(emulated):
    device = emulated()
    text = 'extern "C" __global__ void copy(const float* in, float* out) { out[threadIdx.x] = in[threadIdx.x] + 1; }'
    values, out = device.empty(3, np.float32), device.empty(4, np.float32)
    device.clear(values)
    device.text_module(text).launch("copy", (1, 1, 1), (4, 1, 1), (values, out))
    assert np.isnan(out).tolist() == [False, False, False, True]


def test_an_output_that_is_not_written_fails(emulated, emulation):
    device = emulated()
    text = (
        'extern "C" __global__ void fill(float* out, int n) { if (threadIdx.x < n) out[threadIdx.x] = 0.0f; }'
    )
    out = device.empty(8, np.float32)
    device.text_module(text).launch("fill", (1, 1, 1), (8, 1, 1), (out, 7))
    with pytest.raises(emulation.EmulationError, match="nothing has written"):
        device.download(out)


def test_shared_memory_starts_poisoned(emulated):
    device = emulated()
    text = """
extern "C" __global__ void peek(float* out) {
    extern __shared__ float dynamic[];
    __shared__ float fixed[4];
    out[2 * blockIdx.x] = dynamic[1];
    out[2 * blockIdx.x + 1] = fixed[1];
    dynamic[1] = fixed[1] = 3.0f;
}"""
    out = device.empty(6, np.float32)
    device.text_module(text).launch("peek", (3, 1, 1), (1, 1, 1), (out,), shared=16)
    assert np.isnan(out).all()


def test_a_write_outside_dynamic_shared_memory_fails(emulated, emulation):
    text = """
extern "C" __global__ void touch(int i) {
    extern __shared__ float dynamic[];
    dynamic[i] = 0.0f;
}"""
    module = emulated().text_module(text)
    module.launch("touch", (1, 1, 1), (1, 1, 1), (7,), shared=32)
    with pytest.raises(emulation.EmulationError, match="outside its 32 bytes of dynamic shared memory"):
        module.launch("touch", (1, 1, 1), (1, 1, 1), (8,), shared=32)


def test_warp_intrinsics(emulated):
    text = """
extern "C" __global__ void warp(const int* in, int* out) {
    int lane = threadIdx.x & 31, v = in[threadIdx.x];
    int* mine = out + 6 * threadIdx.x;
    mine[0] = __shfl_up_sync(0xffffffffu, v, 1);
    mine[1] = __shfl_down_sync(0xffffffffu, v, 2);
    mine[2] = __shfl_sync(0xffffffffu, v, 5);
    int total = v;
    for (int bit = 16; bit > 0; bit /= 2) total += __shfl_xor_sync(0xffffffffu, total, bit);
    mine[3] = total;
    mine[4] = (int)__ballot_sync(0xffffffffu, v % 3 == 0);
    __syncwarp();
    mine[5] = __any_sync(0xffffffffu, lane == 40) + 2 * __all_sync(0xffffffffu, lane < 32);
}"""
    values = np.random.default_rng(0).integers(0, 1000, 64).astype(np.int32)
    for seed in range(3):
        device = emulated(seed)
        given, out = device.empty(64, np.int32), device.empty((64, 6), np.int32)
        device.upload(values, given)
        device.text_module(text).launch("warp", (1, 1, 1), (64, 1, 1), (given, out))
        for warp in (0, 1):
            v, got = values[32 * warp :][:32], device.download(out)[32 * warp :][:32]
            assert np.array_equal(got[1:, 0], v[:-1])
            assert np.array_equal(got[:-2, 1], v[2:])
            assert (got[:, 2] == v[5]).all()
            assert (got[:, 3] == v.sum()).all()
            votes = sum(1 << i for i in range(32) if v[i] % 3 == 0)
            assert (got[:, 4].astype(np.uint32) == votes).all()
            assert (got[:, 5] == 2).all()


def test_atomics_and_order_of_blocks(emulated):
    text = """
extern "C" __global__ void count(unsigned* total, int* order) {
    unsigned place = atomicAdd(total, 1u);
    order[place] = blockIdx.x;
}"""
    orders = set()
    for seed in range(3):
        device = emulated(seed)
        total, order = device.empty(1, np.uint32), device.empty(20, np.int32)
        device.clear(total)
        device.text_module(text).launch("count", (20, 1, 1), (1, 1, 1), (total, order))
        assert sorted(order) == list(range(20))
        orders.add(tuple(order))
    assert len(orders) == 3


def test_arguments_of_another_type_fail(emulated, emulation):
    device = emulated()
    module = device.text_module('extern "C" __global__ void take(const float* a, int n, float f) {}')
    floats, doubles = device.empty(4, np.float32), device.empty(4, np.float64)
    module.launch("take", (1, 1, 1), (1, 1, 1), (floats, 1, 2.0))
    module.launch("take", (1, 1, 1), (1, 1, 1), (None, 1, 2.0))
    for arguments in [(doubles, 1, 2.0), (floats, 1.0, 2.0), (floats, 1, np.float64(2)), (floats, 1)]:
        with pytest.raises(emulation.EmulationError):
            module.launch("take", (1, 1, 1), (1, 1, 1), arguments)
