/* Dense optical flow from polynomial expansion, for a batch of frame pairs.

   Farneback, "Two-Frame Motion Estimation Based on Polynomial Expansion", SCIA 2003, with the conventions of OpenCV's
   calcOpticalFlowFarneback (box window). On every level of a pyramid, coarse to fine:

     smooth_rows, smooth_columns   each frame: Gaussian of the full-size frame, sampled at the level's size
     expand                        each frame: f(x) ~ x'Ax + b'x + c around every pixel
     enlarge_flow                  each pair: start with the coarser level's flow
     then in each iteration
     sum_equations_along_rows      each pair: A = (A1 + A2~) / 2, db = (b1 - b2~) / 2 + A d~, where ~ is sampled at
                                   the current displacement d~; G = A'A, h = A'db, summed over the window's width
     solve_along_columns           each pair: both summed over the window's height; d = G^-1 h

   Arrays are C-contiguous float32, the last axis along a row; frames may be uint8.
     frames        (F, H, W)     grey levels
     image         (F, h, w)     a level's image
     polynomials   S sheets      b_y, b_x, a_yy, a_xx, a_xy, the coefficients of y, x, y^2, x^2, x y
     sums          N sheets      g_yy, g_xy, g_xx, h_y, h_x
     flow          (N, 2, h, w)  u, v in pixels of the level
   A sheet holds five values per pixel: (h w) float4 with four of them, their number rounded up to a multiple of four,
   then (h w) floats with the fifth. So the five values of a pixel are two loads.
   Frame f is stored in slot slots[f] of the polynomials, and pair n goes from slot first[n] to slot second[n]; a
   negative slot means nothing to do. No value depends on the other pairs or on their number, and every sum is computed
   in a fixed order.

   Two kernels need the neighbourhood of a pixel in its row. There a block works on `outputs` neighbouring pixels of
   blockDim.y rows: it computes intermediate values for these, and for `radius` more pixels at both ends, into shared
   memory, then filters them. */

#define RIM 5 /* pixels next to the edge of the frame whose equations have less weight */

struct Five {
    float v[5];
};

/* The number of pixels that a sheet for `count` pixels has room for. */
__device__ __forceinline__ size_t padded(size_t count)
{
    return (count + 3) / 4 * 4;
}

__device__ __forceinline__ Five load(const float *sheet, size_t room, size_t i)
{
    const float4 four = reinterpret_cast<const float4 *>(sheet)[i];
    return {{four.x, four.y, four.z, four.w, sheet[4 * room + i]}};
}

__device__ __forceinline__ void store(float *sheet, size_t room, size_t i, const Five &five)
{
    reinterpret_cast<float4 *>(sheet)[i] = make_float4(five.v[0], five.v[1], five.v[2], five.v[3]);
    sheet[4 * room + i] = five.v[4];
}

__device__ __forceinline__ void add(Five *sum, const Five &five, float weight = 1.0f)
{
#pragma unroll
    for (int i = 0; i < 5; ++i)
        sum->v[i] += weight * five.v[i];
}

/* Where pixel `target` of a resized axis lies in the source: at low + fraction. Pixel centres are at halves; positions
   outside the outermost centres are moved to them. */
__device__ __forceinline__ void find_place(int target, double scale, int size, int *low, float *fraction)
{
    const double place = (target + 0.5) * scale - 0.5;
    const int floor_ = (int)floor(place);
    const bool between = place > 0.0 && floor_ < size - 1;
    *low = between ? floor_ : (place > 0.0 ? size - 1 : 0);
    *fraction = between ? (float)(place - floor_) : 0.0f;
}

/* Mirror an index at the centre of the border pixel, which is not repeated. Mirroring once is always enough. */
__device__ __forceinline__ int mirror(int i, int size)
{
    i = i < 0 ? -i : i;
    return i < size ? i : 2 * (size - 1) - i;
}

__device__ __forceinline__ int clamp(int i, int size)
{
    return max(0, min(i, size - 1));
}

/* Gaussian filter and linear sampling along one axis in one pass: a sample between two filtered pixels is one filter
   whose taps are interpolated between the two shifted filters. `source` points to the first pixel of the axis, the next
   one is `step` values on. */
template <typename Level>
__device__ __forceinline__ float filter_at(
    const Level *source, size_t step, int size, int target, double scale, const float *taps, int radius)
{
    int low;
    float fraction;
    find_place(target, scale, size, &low, &fraction);
    float sum = 0.0f, before = 0.0f;
    for (int k = -radius; k <= radius + 1; ++k) {
        const float tap = k <= radius ? taps[k + radius] : 0.0f;
        const float weight = tap + fraction * (before - tap);
        sum += weight * (float)source[mirror(low + k, size) * step];
        before = tap;
    }
    return sum;
}

/* Filter frames (F, height, width) along their rows into (F, height, level_width).
   taps: 2 * radius + 1 of a Gaussian; scale = width / level_width.
   Grid (level_width / bx, height / by, F), block (bx, by). */
template <typename Level>
__device__ __forceinline__ void smooth_rows(
    const Level *frames, const int *slots, float *rows, int width, int height, int level_width, double scale,
    const float *taps, int radius)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= level_width || y >= height || slots[blockIdx.z] < 0)
        return;
    const size_t row = (size_t)blockIdx.z * height + y;
    rows[row * level_width + x] = filter_at(frames + row * width, 1, width, x, scale, taps, radius);
}

extern "C" __global__ void smooth_rows_uint8(
    const unsigned char *__restrict__ frames, const int *__restrict__ slots, float *__restrict__ rows, int width,
    int height, int level_width, double scale, const float *__restrict__ taps, int radius)
{
    smooth_rows(frames, slots, rows, width, height, level_width, scale, taps, radius);
}

extern "C" __global__ void smooth_rows_float32(
    const float *__restrict__ frames, const int *__restrict__ slots, float *__restrict__ rows, int width, int height,
    int level_width, double scale, const float *__restrict__ taps, int radius)
{
    smooth_rows(frames, slots, rows, width, height, level_width, scale, taps, radius);
}

/* Filter rows (F, height, level_width) along the columns into image (F, level_height, level_width).
   scale = height / level_height. Grid (level_width / bx, level_height / by, F), block (bx, by). */
extern "C" __global__ void smooth_columns(
    const float *__restrict__ rows, const int *__restrict__ slots, float *__restrict__ image, int height,
    int level_width, int level_height, double scale, const float *__restrict__ taps, int radius)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= level_width || y >= level_height || slots[blockIdx.z] < 0)
        return;
    const float *column = rows + (size_t)blockIdx.z * height * level_width + x;
    image[((size_t)blockIdx.z * level_height + y) * level_width + x] =
        filter_at(column, level_width, height, y, scale, taps, radius);
}

/* Fit a polynomial of second order around every pixel, weighted by a Gaussian g of `radius` taps to each side.
   weights: g, g k and g k^2 for k = 0 .. radius, then the inverse moments 1/m2, 1/(m4 - m2^2), 1/m2^2 and m2, where mi
   is the sum of g k^i. Borders are replicated.
   A pixel's own grey level is first subtracted from its neighbourhood, in each direction. A constant does not change
   the fit, and large moments, which would cancel, cannot cost precision in float32.
   Grid (width / outputs, height / by, F), block (bx, by), shared by * (outputs + 2 * radius) float4. */
extern "C" __global__ void expand(
    const float *__restrict__ image, const int *__restrict__ slots, float *__restrict__ polynomials, int width,
    int height, const float *__restrict__ weights, int radius, int outputs)
{
    extern __shared__ float4 moments[]; /* x: level; y, z, w: sums along the column of g, g k, g k^2 times f - level */
    const int span = outputs + 2 * radius;
    float4 *own = moments + threadIdx.y * span;
    const float *g = weights, *g1 = g + radius + 1, *g2 = g1 + radius + 1, *inverse = g2 + radius + 1;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    const int start = blockIdx.x * outputs;
    const size_t area = (size_t)height * width;
    const int slot = slots[blockIdx.z];

    if (slot < 0)
        return;
    if (y < height) {
        for (int i = threadIdx.x; i < span; i += blockDim.x) {
            const float *column = image + blockIdx.z * area + clamp(start - radius + i, width);
            const float level = column[(size_t)y * width];
            float m0 = 0.0f, m1 = 0.0f, m2 = 0.0f;
            for (int k = 1; k <= radius; ++k) {
                const float above = column[(size_t)clamp(y - k, height) * width] - level;
                const float below = column[(size_t)clamp(y + k, height) * width] - level;
                m0 += g[k] * (below + above);
                m1 += g1[k] * (below - above);
                m2 += g2[k] * (below + above);
            }
            own[i] = make_float4(level, m0, m1, m2);
        }
    }
    __syncthreads();
    if (y >= height)
        return;

    float *sheet = polynomials + slot * 5 * padded(area);
    for (int i = threadIdx.x; i < outputs && start + i < width; i += blockDim.x) {
        const float4 *at = own + i + radius;
        const float mean = at->x + at->y;
        float x0 = 0.0f, x1 = 0.0f, x2 = 0.0f, y0 = g[0] * at->y, y1 = g[0] * at->z, y2 = g[0] * at->w, xy = 0.0f;
        for (int k = 1; k <= radius; ++k) {
            const float4 left = at[-k], right = at[k];
            const float to_left = left.x + left.y - mean, to_right = right.x + right.y - mean;
            x0 += g[k] * (to_right + to_left);
            x1 += g1[k] * (to_right - to_left);
            x2 += g2[k] * (to_right + to_left);
            y0 += g[k] * (right.y + left.y);
            y1 += g[k] * (right.z + left.z);
            y2 += g[k] * (right.w + left.w);
            xy += g1[k] * (right.z - left.z);
        }
        const float a_yy = (y2 - inverse[3] * y0) * inverse[1], a_xx = (x2 - inverse[3] * x0) * inverse[1];
        store(sheet, padded(area), (size_t)y * width + start + i,
              {{y1 * inverse[0], x1 * inverse[0], a_yy, a_xx, xy * inverse[2]}});
    }
}

/* Sample coarse (P, coarse_height, coarse_width) linearly at fine (P, height, width), multiplied by gain.
   P counts planes: two for each pair. Grid (width / bx, height / by, P), block (bx, by). */
extern "C" __global__ void enlarge_flow(
    const float *__restrict__ coarse, const int *__restrict__ first, float *__restrict__ fine, int coarse_width,
    int coarse_height, int width, int height, double scale_x, double scale_y, float gain)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height || first[blockIdx.z / 2] < 0)
        return;
    int left, top;
    float fx, fy;
    find_place(x, scale_x, coarse_width, &left, &fx);
    find_place(y, scale_y, coarse_height, &top, &fy);
    const int right = min(left + 1, coarse_width - 1);
    const float *upper = coarse + ((size_t)blockIdx.z * coarse_height + top) * coarse_width;
    const float *lower = top + 1 < coarse_height ? upper + coarse_width : upper;
    const float above = upper[left] + fx * (upper[right] - upper[left]);
    const float below = lower[left] + fx * (lower[right] - lower[left]);
    fine[((size_t)blockIdx.z * height + y) * width + x] = gain * (above + fy * (below - above));
}

/* The weight of the equations of a pixel `distance` pixels away from an edge. */
__device__ __forceinline__ float trust_at(int distance)
{
    return distance >= RIM ? 1.0f : (distance >= 2 ? 0.4472f : 0.14f);
}

__device__ __forceinline__ float trust_between(int i, int size)
{
    return trust_at(i) * trust_at(size - 1 - i);
}

/* Set up the normal equations of pixel (x, y) at the displacement (u, v) from the polynomials of both frames. */
__device__ __forceinline__ Five form_equations(
    const float *from, const float *to, float u, float v, int x, int y, int width, int height)
{
    const size_t room = padded((size_t)height * width);
    const float px = x + u, py = y + v;
    const float left = floorf(px), top = floorf(py);
    const Five here = load(from, room, (size_t)y * width + x);
    float b_y = here.v[0], b_x = here.v[1], a_yy = here.v[2], a_xx = here.v[3], a_xy = here.v[4];

    /* written so that the comparison is false for an invalid displacement (NaN) */
    if (left >= 0.0f && left < width - 1 && top >= 0.0f && top < height - 1) {
        const float fx = px - left, fy = py - top;
        const size_t at = (size_t)(int)top * width + (int)left;
        Five there = {};
        add(&there, load(to, room, at), (1.0f - fx) * (1.0f - fy));
        add(&there, load(to, room, at + 1), fx * (1.0f - fy));
        add(&there, load(to, room, at + width), (1.0f - fx) * fy);
        add(&there, load(to, room, at + width + 1), fx * fy);
        b_y -= there.v[0];
        b_x -= there.v[1];
        a_yy = 0.5f * (a_yy + there.v[2]);
        a_xx = 0.5f * (a_xx + there.v[3]);
        a_xy = 0.5f * (a_xy + there.v[4]);
    }
    a_xy *= 0.5f; /* the coefficient of x y is twice the matrix's entry */
    b_y = 0.5f * b_y + a_yy * v + a_xy * u;
    b_x = 0.5f * b_x + a_xy * v + a_xx * u;

    /* unsigned as in OpenCV: if a side is shorter than both rims, both sides of the comparison wrap around */
    if ((unsigned)(x - RIM) >= (unsigned)(width - 2 * RIM) || (unsigned)(y - RIM) >= (unsigned)(height - 2 * RIM)) {
        const float trust = trust_between(x, width) * trust_between(y, height);
        b_y *= trust;
        b_x *= trust;
        a_yy *= trust;
        a_xx *= trust;
        a_xy *= trust;
    }
    return {{a_yy * a_yy + a_xy * a_xy, (a_yy + a_xx) * a_xy, a_xx * a_xx + a_xy * a_xy, a_yy * b_y + a_xy * b_x,
             a_xy * b_y + a_xx * b_x}};
}

/* Set up every pixel's normal equations at the current flow, and sum them over 2 * radius + 1 columns, borders
   replicated. One kernel does both, so the equations (20 bytes per pixel) stay on the chip. Groups of four are summed
   first: a window of 13 then needs 10 accesses to shared memory instead of 14, one of 31 needs 16 instead of 32.
   Grid (width / outputs, height / by, N), block (bx, by), shared by * 10 * padded(outputs + 2 * radius) floats. */
extern "C" __global__ void sum_equations_along_rows(
    const float *__restrict__ polynomials, const int *__restrict__ first, const int *__restrict__ second,
    const float *__restrict__ flow, float *__restrict__ sums, int width, int height, int radius, int outputs)
{
    extern __shared__ float4 shared[];
    const int span = outputs + 2 * radius, room = padded(span);
    float *equations = reinterpret_cast<float *>(shared) + threadIdx.y * 10 * room, *fours = equations + 5 * room;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    const int start = blockIdx.x * outputs;
    const size_t area = (size_t)height * width, sheet = 5 * padded(area);
    const int from = first[blockIdx.z], to = second[blockIdx.z];

    if (from < 0)
        return;
    if (y < height) {
        const float *u = flow + blockIdx.z * 2 * area + (size_t)y * width, *v = u + area;
        for (int i = threadIdx.x; i < span; i += blockDim.x) {
            const int x = clamp(start - radius + i, width);
            store(equations, room, i, form_equations(
                polynomials + from * sheet, polynomials + to * sheet, u[x], v[x], x, y, width, height));
        }
    }
    __syncthreads();
    if (y < height) {
        for (int i = threadIdx.x; i < span - 3; i += blockDim.x) {
            Five sum = load(equations, room, i);
            for (int k = 1; k < 4; ++k)
                add(&sum, load(equations, room, i + k));
            store(fours, room, i, sum);
        }
    }
    __syncthreads();
    if (y >= height)
        return;

    for (int i = threadIdx.x; i < outputs && start + i < width; i += blockDim.x) {
        const int end = i + 2 * radius + 1;
        int k = i;
        Five sum = {};
        for (; k + 4 <= end; k += 4)
            add(&sum, load(fours, room, k));
        for (; k < end; ++k)
            add(&sum, load(equations, room, k));
        store(sums + blockIdx.z * sheet, padded(area), (size_t)y * width + start + i, sum);
    }
}

/* A sum and its rounding error (Knuth's two-sum): twice the digits of float32, by additions of float32. So the
   equations of an edge leave no error behind when they leave the window. Where all edges are parallel their determinant
   nearly cancels, and is still as exact as with OpenCV's float64, which is slow on most GPUs. */
struct Sum {
    float high, low;
};

__device__ __forceinline__ void add(Sum *sum, float value)
{
    const float total = sum->high + value;
    const float added = total - sum->high;
    sum->low += (sum->high - (total - added)) + (value - added);
    sum->high = total;
}

/* a b - c d without the rounding errors of the products (Kahan). */
__device__ __forceinline__ float difference_of_products(Sum a, Sum b, Sum c, Sum d)
{
    const float product = c.high * d.high;
    const float high = fmaf(a.high, b.high, -product) + fmaf(-c.high, d.high, product);
    return high + (a.high * b.low + a.low * b.high - (c.high * d.low + c.low * d.high));
}

/* Sum the equations over 2 * radius + 1 rows, borders replicated, and solve them for the flow.
   A thread goes down `rows` pixels of one column with running sums. regularisation: added to the sums' determinant.
   Grid (width / bx, height / (by * rows), N), block (bx, by). */
extern "C" __global__ void solve_along_columns(
    const float *__restrict__ sums, const int *__restrict__ first, float *__restrict__ flow, int width, int height,
    int radius, int rows, float regularisation)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int top = (blockIdx.y * blockDim.y + threadIdx.y) * rows;
    if (x >= width || top >= height || first[blockIdx.z] < 0)
        return;
    const size_t area = (size_t)height * width, room = padded(area);
    const float *sheet = sums + blockIdx.z * 5 * room;
    float *out = flow + blockIdx.z * 2 * area + x;

    Sum window[5] = {};
    for (int k = top - radius; k < top + radius; ++k) {
        const Five entering = load(sheet, room, (size_t)clamp(k, height) * width + x);
#pragma unroll
        for (int i = 0; i < 5; ++i)
            add(&window[i], entering.v[i]);
    }
#pragma unroll 4
    for (int y = top; y < min(top + rows, height); ++y) {
        const Five entering = load(sheet, room, (size_t)clamp(y + radius, height) * width + x);
        const Five leaving = load(sheet, room, (size_t)clamp(y - radius, height) * width + x);
#pragma unroll
        for (int i = 0; i < 5; ++i)
            add(&window[i], entering.v[i]);
        const Sum g_yy = window[0], g_xy = window[1], g_xx = window[2], h_y = window[3], h_x = window[4];
        const float determinant = difference_of_products(g_yy, g_xx, g_xy, g_xy) + regularisation;
        out[(size_t)y * width] = difference_of_products(g_yy, h_x, g_xy, h_y) / determinant;
        out[(size_t)y * width + area] = difference_of_products(g_xx, h_y, g_xy, h_x) / determinant;
#pragma unroll
        for (int i = 0; i < 5; ++i)
            add(&window[i], -leaving.v[i]);
    }
}
