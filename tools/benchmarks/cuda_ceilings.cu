// What a device can do at most: move memory, and multiply and add. Block (256), any grid.

// Copy `count` float4, four of them at a time so that enough loads are on their way.
extern "C" __global__ void copy(const float4* __restrict__ from, float4* __restrict__ to, long long count) {
    const long long threads = (long long)gridDim.x * blockDim.x;
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    for (; i + 3 * threads < count; i += 4 * threads) {
        const float4 a = from[i], b = from[i + threads], c = from[i + 2 * threads], d = from[i + 3 * threads];
        to[i] = a;
        to[i + threads] = b;
        to[i + 2 * threads] = c;
        to[i + 3 * threads] = d;
    }
    for (; i < count; i += threads) to[i] = from[i];
}

// `rounds` times 16 multiplications and additions in 8 independent chains a thread; out: one float a thread.
extern "C" __global__ void multiply_add(float* __restrict__ out, int rounds, float factor, float term) {
    const long long place = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    float v[8];
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = (float)(threadIdx.x + k);
#pragma unroll 4
    for (int round = 0; round < rounds; round++) {
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = fmaf(v[k], factor, term);
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = fmaf(v[k], factor, term);
    }
    float total = 0.0f;
#pragma unroll
    for (int k = 0; k < 8; k++) total += v[k];
    out[place] = total;
}
