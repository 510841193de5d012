// Flow to grey levels, bit for bit as flow_cache/quantization.py does it on the host; and the range of floats.
//
//     q = clip(round_half_even(v * scale) + 128, 0, 255), scale = 255 / (2 bound) in single precision

// Quantise flow (pairs, size) float32 into levels (pairs, size) uint8, where size counts all values of a pair.
// counts (pairs, 2) uint32: [0] += values beyond +-bound, [1] += NaN. Block (256), grid (any, pairs), no shared memory.
extern "C" __global__ void quantize(const float* __restrict__ flow, unsigned char* __restrict__ levels, int size,
                                    float scale, float bound, unsigned* counts) {
    const size_t start = (size_t)blockIdx.y * size;
    int clipped = 0, nans = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < size; i += gridDim.x * blockDim.x) {
        float value = flow[start + i];
        clipped += fabsf(value) > bound;
        nans += value != value;
        levels[start + i] = (unsigned char)fminf(fmaxf(rintf(__fmul_rn(value, scale)) + 128.0f, 0.0f), 255.0f);
    }
    for (int bit = 16; bit > 0; bit /= 2) {
        clipped += __shfl_xor_sync(0xffffffffu, clipped, bit);
        nans += __shfl_xor_sync(0xffffffffu, nans, bit);
    }
    if (threadIdx.x % 32 == 0) {
        if (clipped) atomicAdd(counts + 2 * blockIdx.y, (unsigned)clipped);
        if (nans) atomicAdd(counts + 2 * blockIdx.y + 1, (unsigned)nans);
    }
}

// Map floats to unsigned integers of the same order; NaN is larger than all.
static __device__ __forceinline__ unsigned ordered(float value) {
    unsigned bits = __float_as_uint(value);
    return value != value ? 0xffffffffu : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Find the range of values (size) float32. bits (2) uint32, first 0: the largest -v and the largest v, both `ordered`.
// Block (256), grid (any), no shared memory.
extern "C" __global__ void extremes(const float* __restrict__ values, long long size, unsigned* bits) {
    unsigned low = 0, high = 0;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < size; i += (long long)gridDim.x * blockDim.x) {
        low = max(low, ordered(-values[i]));
        high = max(high, ordered(values[i]));
    }
    for (int bit = 16; bit > 0; bit /= 2) {
        low = max(low, __shfl_xor_sync(0xffffffffu, low, bit));
        high = max(high, __shfl_xor_sync(0xffffffffu, high, bit));
    }
    if (threadIdx.x % 32 == 0) {
        atomicMax(bits, low);
        atomicMax(bits + 1, high);
    }
}
