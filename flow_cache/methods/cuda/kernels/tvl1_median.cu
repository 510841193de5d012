// Median filters 3x3 and 5x5 of the flow, with the border repeated, before each outer iteration.
//
// A thread computes 2x2 values. For 5x5, the windows of both rows share four rows. These are sorted in each column,
// then neighbouring columns are merged, and only values that can still be the median are kept: 97 minima and maxima for
// each value, not 200.
//
// unknowns (pairs, 2, 6, height, stride), of which u of the present state -> filtered (pairs, 2, height, stride), 0
// beyond the width; both float. Items of a pair: tiles of 64 x 16 values, of both components of u.
// Block (32, 8), grid (any; RESIDENT blocks a multiprocessor all find a place at once), shared 5440 bytes: a tile with a
// margin of 2.
#include "tvl1_work.cuh"
#define RESIDENT 4  // blocks of a multiprocessor at a time; its registers allow 64. With 48, for 5, they would spill
#define TILE_WIDTH 64
#define TILE_HEIGHT 16
#define SHARED_WIDTH (TILE_WIDTH + 4)
#define SHARED_HEIGHT (TILE_HEIGHT + 4)

static __device__ __forceinline__ void order(float& a, float& b) {
    float low = fminf(a, b);
    b = fmaxf(a, b);
    a = low;
}

static __device__ __forceinline__ void sort4(float* v) {
    order(v[0], v[1]);
    order(v[2], v[3]);
    order(v[0], v[2]);
    order(v[1], v[3]);
    order(v[1], v[2]);
}

// Merge two sorted lists of four into one of eight (Batcher's odd-even merge).
static __device__ __forceinline__ void merge4(const float* a, const float* b, float* out) {
    float a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3], b0 = b[0], b1 = b[1], b2 = b[2], b3 = b[3];
    order(a0, b0);
    order(a2, b2);
    order(a2, b0);
    order(a1, b1);
    order(a3, b3);
    order(a3, b1);
    order(a1, a2);
    order(a3, b0);
    order(b1, b2);
    out[0] = a0, out[1] = a1, out[2] = a2, out[3] = a3, out[4] = b0, out[5] = b1, out[6] = b2, out[7] = b3;
}

static __device__ __forceinline__ void sort_bitonic4(float* v) {
    order(v[0], v[2]);
    order(v[1], v[3]);
    order(v[0], v[1]);
    order(v[2], v[3]);
}

// The middle six, sorted, of twenty numbers: two sorted lists of eight and one of four.
static __device__ __forceinline__ void middle_six(const float* p, const float* q, const float* c, float* out) {
    float z[16];
#pragma unroll
    for (int i = 0; i < 8; i++) z[i] = p[i], z[i + 8] = q[i];
#pragma unroll
    for (int i = 0; i < 8; i++) order(z[i], z[i + 8]);
#pragma unroll
    for (int i = 4; i < 8; i++) order(z[i], z[i + 4]);
    order(z[2], z[4]);
    order(z[3], z[5]);
    order(z[6], z[8]);
    order(z[7], z[9]);
    order(z[10], z[12]);
    order(z[11], z[13]);
#pragma unroll
    for (int i = 3; i < 12; i += 2) order(z[i], z[i + 1]);
    // drop the four smallest of z3..z6 and c; the four that are left are bitonic; sort them
    float low[4] = {fmaxf(z[3], c[3]), fmaxf(z[4], c[2]), fmaxf(z[5], c[1]), fmaxf(z[6], c[0])};
    sort_bitonic4(low);
    // drop the four largest of these and z9..z12; z7, z8 and four bitonic values are left
    float four[4] = {fminf(z[9], low[3]), fminf(z[10], low[2]), fminf(z[11], low[1]), fminf(z[12], low[0])};
    sort_bitonic4(four);
    // merge z7 <= z8 into the sorted four
    float a = four[0], b = four[1], c2 = four[2], d = four[3], e = z[7], f = z[8];
    order(a, e);
    order(c2, e);
    order(b, f);
    order(d, f);
    order(b, c2);
    order(d, e);
    out[0] = a, out[1] = b, out[2] = c2, out[3] = d, out[4] = e, out[5] = f;
}

// The median of six sorted and five unsorted numbers.
static __device__ __forceinline__ float median_of_six_and_five(const float* g, const float* row) {
    float a = row[0], b = row[1], c = row[2], d = row[3], e = row[4];
    order(a, b);
    order(d, e);
    order(c, e);
    order(c, d);
    order(b, e);
    order(a, d);
    order(a, c);
    order(b, d);
    order(b, c);
    // the sixth smallest of both lists is the minimum over i of max(g[i], sorted[5 - i])
    float left = fminf(g[5], fmaxf(g[4], a));
    float middle = fminf(fmaxf(g[3], b), fmaxf(g[2], c));
    float right = fminf(fmaxf(g[1], d), fmaxf(g[0], e));
    return fminf(left, fminf(middle, right));
}

// The medians of 2x2 values. corner: the upper left pixel of their common 6x6 window.
static __device__ __forceinline__ void four_medians5(const float* corner, float* out) {
    float columns[6][4], pairs[3][8], top[6], bottom[6];
#pragma unroll
    for (int x = 0; x < 6; x++) {
        top[x] = corner[x];
        bottom[x] = corner[5 * SHARED_WIDTH + x];
#pragma unroll
        for (int y = 0; y < 4; y++) columns[x][y] = corner[(y + 1) * SHARED_WIDTH + x];
        sort4(columns[x]);
    }
#pragma unroll
    for (int k = 0; k < 3; k++) merge4(columns[2 * k], columns[2 * k + 1], pairs[k]);
    float six[6];
    middle_six(pairs[0], pairs[1], columns[4], six);
    out[0] = median_of_six_and_five(six, top);
    out[2] = median_of_six_and_five(six, bottom);
    middle_six(pairs[1], pairs[2], columns[1], six);
    out[1] = median_of_six_and_five(six, top + 1);
    out[3] = median_of_six_and_five(six, bottom + 1);
}

// The same for 3x3: of three sorted columns, the median of the largest minimum, the median middle, the smallest maximum.
static __device__ __forceinline__ void four_medians3(const float* corner, float* out) {
#pragma unroll
    for (int y = 0; y < 2; y++) {
        float least[4], middle[4], greatest[4];
#pragma unroll
        for (int x = 0; x < 4; x++) {
            const float* column = corner + (y + 1) * SHARED_WIDTH + x + 1;
            float a = column[0], b = column[SHARED_WIDTH], c = column[2 * SHARED_WIDTH];
            order(a, b);
            order(a, c);
            order(b, c);
            least[x] = a, middle[x] = b, greatest[x] = c;
        }
#pragma unroll
        for (int x = 0; x < 2; x++) {
            float low = fmaxf(fmaxf(least[x], least[x + 1]), least[x + 2]);
            float high = fminf(fminf(greatest[x], greatest[x + 1]), greatest[x + 2]);
            float between = fmaxf(fminf(middle[x], middle[x + 1]), fminf(fmaxf(middle[x], middle[x + 1]), middle[x + 2]));
            order(low, between);
            out[2 * y + x] = fmaxf(low, fminf(between, high));
        }
    }
}

// Filter the flow of the pairs that begin their outer iteration `outer`. size: 3 or 5. control: see tvl1_work.cuh.
extern "C" __global__ void __launch_bounds__(256, RESIDENT)
median(const int* __restrict__ control, int pairs, int outer, const float* __restrict__ unknowns,
       float* __restrict__ filtered, int height, int width, int stride, int size) {
    __shared__ float tile[SHARED_HEIGHT * SHARED_WIDTH];
    int tiles_x = (stride + TILE_WIDTH - 1) / TILE_WIDTH, tiles_y = (height + TILE_HEIGHT - 1) / TILE_HEIGHT;
    size_t plane = (size_t)height * stride;
    Search search = begin_search(control, pairs, outer, false, blockIdx.x);
    Work work;
    while (find_work(search, pairs, 2 * tiles_x * tiles_y, gridDim.x, work)) {
        int i = work.item % 2, tile_x = work.item / 2 % tiles_x * TILE_WIDTH;
        int tile_y = work.item / 2 / tiles_x * TILE_HEIGHT;
        const int state = control[CONTROL * work.pair + SOURCE];
        const float* source = unknowns + state_offset(work.pair, state, plane) + i * plane;
        float* target = filtered + (size_t)(2 * work.pair + i) * plane;
        __syncthreads();
        for (int k = threadIdx.y * 32 + threadIdx.x; k < SHARED_HEIGHT * SHARED_WIDTH; k += 256) {
            int y = min(max(tile_y + k / SHARED_WIDTH - 2, 0), height - 1);
            int x = min(max(tile_x + k % SHARED_WIDTH - 2, 0), width - 1);
            tile[k] = source[(size_t)y * stride + x];
        }
        __syncthreads();
        float four[4];
        const float* corner = tile + 2 * threadIdx.y * SHARED_WIDTH + 2 * threadIdx.x;
        if (size == 5)
            four_medians5(corner, four);
        else
            four_medians3(corner, four);
        int x = tile_x + 2 * threadIdx.x, y = tile_y + 2 * threadIdx.y;
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (x + k % 2 < stride && y + k / 2 < height)
                target[(size_t)(y + k / 2) * stride + x + k % 2] = x + k % 2 < width ? four[k] : 0.0f;
    }
}
