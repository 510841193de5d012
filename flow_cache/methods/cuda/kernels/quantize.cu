// Flow to grey levels, bit for bit as flow_cache/quantization.py does it on the host; and the range of floats.
//
//     q = clip(round_half_even(v * scale) + 128, 0, 255), scale = 255 / (2 bound) in single precision
//
// Both kernels: block (256), no shared memory.
#define COUNTS 2  // of a pair
#define CLIPPED 0
#define NANS 1
#define NEGATED_LOW 0
#define HIGH 1

// flow (pairs, size) float, levels (pairs, size) uint8; counts (pairs, COUNTS) unsigned: the number of values beyond
// +-bound, and of NaN, is added. Grid (any, pairs).
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
        if (clipped) atomicAdd(counts + COUNTS * blockIdx.y + CLIPPED, (unsigned)clipped);
        if (nans) atomicAdd(counts + COUNTS * blockIdx.y + NANS, (unsigned)nans);
    }
}

// Map floats to unsigned integers of the same order; NaN is larger than all.
static __device__ __forceinline__ unsigned ordered(float value) {
    unsigned bits = __float_as_uint(value);
    return value != value ? 0xffffffffu : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// values (size) float; bits (2) unsigned, 0 before: the greatest of -v, and of v, mapped by `ordered`. Grid (any).
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
        atomicMax(bits + NEGATED_LOW, low);
        atomicMax(bits + HIGH, high);
    }
}
