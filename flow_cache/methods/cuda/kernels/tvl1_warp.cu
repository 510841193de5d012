// Bicubic warp of the second frame and its gradient, and the data term for the iterations.
//
// rho(u) = I1(x + u0) + <grad I1(x + u0), u - u0> - I0 is linear in u (Zach, Pock, Bischof 2007, equation 13). The
// kernel stores grad I1(x + u0) and rho's constant part. Keys' cubic has slope -0.75 as in OpenCV's remap, or -0.5 as in
// its CUDA version.
//
// level, unknowns, control, data: see tvl1_layout.cuh; first, second (pairs): the places of each pair's frames in the
// level, -1 = none, nothing is to be done. Of unknowns, the state that control names is read.
// Block (32, 8), grid (stride / 32, height / 8, pairs) rounded up, no shared memory.
#include "tvl1_layout.cuh"

static __device__ __forceinline__ void weights(float t, float a, float* w) {
    float r = 1.0f - t;
    w[0] = a * t * r * r;
    w[3] = a * r * t * t;
    w[1] = ((a + 2.0f) * t - (a + 3.0f)) * t * t + 1.0f;
    w[2] = 1.0f - w[0] - w[1] - w[3];
}

static __device__ __forceinline__ float sample(const float* __restrict__ corner, int stride, const float* w,
                                               const float* v) {
    float total = 0.0f;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const float* row = corner + j * stride;
        total += v[j] * (w[0] * row[0] + w[1] * row[1] + w[2] * row[2] + w[3] * row[3]);
    }
    return total;
}

extern "C" __global__ void warp(const int* __restrict__ first, const int* __restrict__ second,
                                const int* __restrict__ control, const float* __restrict__ level,
                                const float* __restrict__ unknowns, float* __restrict__ data, int height, int width,
                                int stride, float slope) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y, pair = blockIdx.z;
    if (first[pair] < 0 || x >= stride || y >= height) return;
    size_t plane = (size_t)height * stride, place = (size_t)y * stride + x;
    float* out = data + (size_t)pair * TERMS * plane + place;
    if (x >= width) {
        out[GX * plane] = out[GY * plane] = out[RHO_C * plane] = 0.0f;
        return;
    }
    const float* u = unknowns + state_offset(pair, control[CONTROL * pair + SOURCE], plane) + place;
    float u1 = u[U1 * plane], u2 = u[U2 * plane];
    int wide = width + 2 * BORDER;
    size_t area = (size_t)(height + 2 * BORDER) * wide;
    const float* before = level + 3 * area * first[pair];
    const float* after = level + 3 * area * second[pair];
    // positions far outside read only the border
    float px = fminf(fmaxf((float)x + u1, -3.0f), (float)(width + 1));
    float py = fminf(fmaxf((float)y + u2, -3.0f), (float)(height + 1));
    float fx = floorf(px), fy = floorf(py);
    float w[4], v[4];
    weights(px - fx, slope, w);
    weights(py - fy, slope, v);
    const float* corner = after + ((int)fy + BORDER - 1) * wide + (int)fx + BORDER - 1;
    float grey = sample(corner, wide, w, v);
    float gx = sample(corner + area, wide, w, v);
    float gy = sample(corner + 2 * area, wide, w, v);
    out[GX * plane] = gx;
    out[GY * plane] = gy;
    out[RHO_C * plane] = grey - gx * u1 - gy * u2 - before[(size_t)(y + BORDER) * wide + x + BORDER];
}
