// The pyramids of TV-L1: grey values, their gradient and a border on each level; and resizing the flow between levels.
//
// Two conventions: OpenCV's CPU version resizes between pixel centres and sees 0 outside the image; its CUDA version
// (`corner`) resizes from the top left corner and repeats the border. Both filter linearly, without smoothing.
//
// level, unknowns, control: see tvl1_layout.cuh. slots (staged frames): the place of each in the pyramid; first
// (pairs): that of each pair's first frame; -1 = none, nothing is to be done.
//
// All kernels: block (32, 8), grid (columns / 32, rows / 8, frames or pairs) rounded up, no shared memory, one pixel a
// thread; the columns are the target's, up to `stride` where it has one, and with the border in `differentiate`.
#include "tvl1_layout.cuh"

// The source pixel before the position of a target pixel, and the weight of the one after it. In double precision where
// OpenCV uses it, since warps magnify a rounding of the position.
static __device__ __forceinline__ int position(int index, double scale, int size, int corner, float* weight) {
    double centre = corner ? (double)__fmul_rn((float)index, (float)scale)
                           : __dadd_rn(__dmul_rn((double)index + 0.5, scale), -0.5);
    int cell = (int)floor(centre);
    *weight = (float)(centre - (double)cell);
    if (cell < 0) {
        *weight = 0.0f;
        return 0;
    }
    if (cell >= size - 1) {
        *weight = 0.0f;
        return size - 1;
    }
    return cell;
}

// A plane's value at a target pixel of a linear resize: rows first, then columns.
static __device__ __forceinline__ float resized(const float* __restrict__ plane, int stride, int height, int width,
                                                int y, int x, double scale_y, double scale_x, int corner) {
    float weight_y, weight_x;
    int upper = position(y, scale_y, height, corner, &weight_y);
    int left = position(x, scale_x, width, corner, &weight_x);
    const float* above = plane + (size_t)upper * stride;
    const float* below = plane + (size_t)min(upper + 1, height - 1) * stride;
    int right = min(left + 1, width - 1);
    float a = above[left] + (below[left] - above[left]) * weight_y;
    float b = above[right] + (below[right] - above[right]) * weight_y;
    return a + (b - a) * weight_x;
}

// Write staged frames (n, height, width), uint8 or float32, into the grey plane of level 0 of their slots.
template <typename Grey>
static __device__ __forceinline__ void place_frame(const Grey* __restrict__ frames, const int* __restrict__ slots,
                                                   float* __restrict__ level, int height, int width) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    int slot = slots[blockIdx.z];
    if (slot < 0 || x >= width || y >= height) return;
    int stride = width + 2 * BORDER;
    size_t plane = (size_t)(height + 2 * BORDER) * stride;
    level[3 * plane * slot + (size_t)(y + BORDER) * stride + x + BORDER] =
        (float)frames[((size_t)blockIdx.z * height + y) * width + x];
}

extern "C" __global__ void grey_from_bytes(const unsigned char* __restrict__ frames, const int* __restrict__ slots,
                                           float* __restrict__ level, int height, int width) {
    place_frame(frames, slots, level, height, width);
}

extern "C" __global__ void grey_from_floats(const float* __restrict__ frames, const int* __restrict__ slots,
                                            float* __restrict__ level, int height, int width) {
    place_frame(frames, slots, level, height, width);
}

// Resize the grey plane of a level into that of the next coarser one.
extern "C" __global__ void shrink(const int* __restrict__ slots, const float* __restrict__ finer, int finer_height,
                                  int finer_width, float* __restrict__ level, int height, int width, double scale,
                                  int corner) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    int slot = slots[blockIdx.z];
    if (slot < 0 || x >= width || y >= height) return;
    int finer_stride = finer_width + 2 * BORDER, stride = width + 2 * BORDER;
    const float* source = finer + (size_t)3 * (finer_height + 2 * BORDER) * finer_stride * slot;
    float* target = level + (size_t)3 * (height + 2 * BORDER) * stride * slot;
    target[(size_t)(y + BORDER) * stride + x + BORDER] =
        resized(source + (size_t)BORDER * finer_stride + BORDER, finer_stride, finer_height, finer_width, y, x, scale,
                scale, corner);
}

// Fill the gradient planes by central differences (at the edges half the one-sided ones), and the border of all three
// planes with the values at the edge (`repeat_border`) or 0.
extern "C" __global__ void differentiate(const int* __restrict__ slots, float* level, int height, int width,
                                         int repeat_border) {
    int stride = width + 2 * BORDER, rows = height + 2 * BORDER;
    int px = blockIdx.x * blockDim.x + threadIdx.x, py = blockIdx.y * blockDim.y + threadIdx.y;
    int slot = slots[blockIdx.z];
    if (slot < 0 || px >= stride || py >= rows) return;
    size_t plane = (size_t)rows * stride;
    float* grey = level + 3 * plane * slot;
    int x = min(max(px - BORDER, 0), width - 1), y = min(max(py - BORDER, 0), height - 1);
    bool inside = x == px - BORDER && y == py - BORDER;
    bool filled = inside || repeat_border;
    const float* here = grey + (size_t)(y + BORDER) * stride + BORDER;
    const float* above = y > 0 ? here - stride : here;
    const float* below = y < height - 1 ? here + stride : here;
    float gx = (here[min(x + 1, width - 1)] - here[max(x - 1, 0)]) * 0.5f;
    float gy = (below[x] - above[x]) * 0.5f;
    size_t place = (size_t)py * stride + px;
    if (!inside) grey[place] = filled ? here[x] : 0.0f;
    grey[plane + place] = filled ? gx : 0.0f;
    grey[2 * plane + place] = filled ? gy : 0.0f;
}

// Zoom the flow of the coarser level, times `factor`, into `target` (pairs, 2, height, stride); 0 beyond the width.
// unknowns: the coarser level's (pairs, 2, 6, coarse_height, coarse_stride).
extern "C" __global__ void zoom(const int* __restrict__ first, const int* __restrict__ control,
                                const float* __restrict__ unknowns, int coarse_height, int coarse_width,
                                int coarse_stride, float* __restrict__ target, int height, int width, int stride,
                                double scale_y, double scale_x, int corner, float factor) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y, pair = blockIdx.z;
    if (first[pair] < 0 || x >= stride || y >= height) return;
    size_t coarse = (size_t)coarse_height * coarse_stride;
    const float* source = unknowns + state_offset(pair, control[CONTROL * pair + SOURCE], coarse);
    for (int i = 0; i < 2; i++) {
        float value = 0.0f;
        if (x < width)
            value = resized(source + i * coarse, coarse_stride, coarse_height, coarse_width, y, x, scale_y, scale_x,
                            corner) * factor;
        target[((size_t)(2 * pair + i) * height + y) * stride + x] = value;
    }
}

// Start a level in the first of the two states: u from `zoomed` (null on the coarsest level: u = 0), p = 0.
extern "C" __global__ void begin_level(const int* __restrict__ first, int* __restrict__ control,
                                       const float* __restrict__ zoomed, float* __restrict__ unknowns, int height,
                                       int stride) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y, pair = blockIdx.z;
    if (x == 0 && y == 0) control[CONTROL * pair + SOURCE] = 0;
    if (first[pair] < 0 || x >= stride || y >= height) return;
    size_t plane = (size_t)height * stride, place = (size_t)y * stride + x;
    float* state = unknowns + state_offset(pair, 0, plane) + place;
    for (int i = U1; i <= U2; i++) state[i * plane] = zoomed ? zoomed[(2 * pair + i) * plane + place] : 0.0f;
    for (int i = P11; i <= P22; i++) state[i * plane] = 0.0f;
}

// Copy the flow from the finest level's state to flow (pairs, 2, height, width).
extern "C" __global__ void take_flow(const int* __restrict__ first, const int* __restrict__ control,
                                     const float* __restrict__ unknowns, float* __restrict__ flow, int height,
                                     int width, int stride) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y, pair = blockIdx.z;
    if (first[pair] < 0 || x >= width || y >= height) return;
    size_t plane = (size_t)height * stride;
    const float* state = unknowns + state_offset(pair, control[CONTROL * pair + SOURCE], plane);
    const float* source = state + (size_t)y * stride + x;
    for (int i = 0; i < 2; i++) flow[((size_t)(2 * pair + i) * height + y) * width + x] = source[i * plane];
}
