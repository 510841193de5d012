/* Dense optical flow from polynomial expansion, for a batch of frame pairs.

   Farneback, "Two-Frame Motion Estimation Based on Polynomial Expansion", SCIA 2003, with the conventions of OpenCV's
   calcOpticalFlowFarneback (box window). On every level of a pyramid, coarse to fine:

     smooth_rows, smooth_columns   every frame: Gaussian of the full-size frame, sampled at the level's size
     expand                        every frame: f(x) ~ x'Ax + b'x + c around every pixel
     enlarge_flow                  every pair: the coarser level's flow as the start
     then per iteration
     sum_equations_along_rows      every pair: A = (A1 + A2~) / 2, db = (b1 - b2~) / 2 + A d~, where ~ is taken at
                                   the present displacement d~; G = A'A, h = A'db, summed over the window's width
     solve_along_columns           every pair: both summed over the window's height; d = G^-1 h

   Arrays are C-contiguous float32, the last axis along a row; frames may be uint8.
     frames        (F, H, W)     grey levels
     image         (F, h, w)     a level's image
     polynomials   (S, 5, h, w)  b_y, b_x, a_yy, a_xx, a_xy, the coefficients of y, x, y^2, x^2, x y
     sums          (N, 5, h, w)  g_yy, g_xy, g_xx, h_y, h_x
     flow          (N, 2, h, w)  u, v in pixels of the level
   Frame f is kept in slot slots[f] of the polynomials, and pair n goes from slot first[n] to slot second[n]; where the
   slot is negative there is nothing to do. No value depends on another pair, nor on how many there are, and every sum
   is taken in a fixed order.

   Two kernels need a row's neighbourhood. There a block takes `outputs` neighbouring pixels of blockDim.y rows: it
   computes an intermediate for these and for `radius` more at both ends into shared memory, then filters that. */

#define PLANES 5  /* of a polynomial without its constant, and of the symmetric equations */
#define MOMENTS 4 /* that `expand` keeps of a column */
#define RIM 5     /* pixels next to the frame's edge that are trusted less */

/* Where pixel `target` of a resized axis lies in the source: between low and low + 1, nearer to low + 1 the larger
   the fraction. Pixel centres are at halves; places beyond the outermost centres are moved onto them. */
__device__ __forceinline__ void find_place(int target, double scale, int size, int *low, float *fraction)
{
    const double place = (target + 0.5) * scale - 0.5;
    const int floor_ = (int)floor(place);
    const bool between = place > 0.0 && floor_ < size - 1;
    *low = between ? floor_ : (place > 0.0 ? size - 1 : 0);
    *fraction = between ? (float)(place - floor_) : 0.0f;
}

/* Mirror an index at the border pixels' centres (the border pixel is not repeated); one mirroring is enough. */
__device__ __forceinline__ int mirror(int i, int size)
{
    i = i < 0 ? -i : i;
    return i < size ? i : 2 * (size - 1) - i;
}

__device__ __forceinline__ int clamp(int i, int size)
{
    return max(0, min(i, size - 1));
}

/* Gaussian and linear sampling along one axis in one pass: the sample between two filtered pixels is one filter whose
   taps are the two shifted ones, mixed. `source` points at the axis's first pixel, `step` apart from the next. */
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
   weights: g, g k and g k^2 for k = 0 .. radius, then the moments' inverses 1/m2, 1/(m4 - m2^2), 1/m2^2 and m2, where
   mi is the sum of g k^i. Borders are replicated.
   A pixel's own level is taken off its neighbourhood first, in each direction: the fit is the same without the
   constant, and float32 loses nothing where large moments would cancel.
   Grid (width / outputs, height / by, F), block (bx, by), shared by * 4 * (outputs + 2 * radius) floats. */
extern "C" __global__ void expand(
    const float *__restrict__ image, const int *__restrict__ slots, float *__restrict__ polynomials, int width,
    int height, const float *__restrict__ weights, int radius, int outputs)
{
    extern __shared__ float shared[];
    const int span = outputs + 2 * radius;
    float *moments = shared + threadIdx.y * MOMENTS * span; /* level; sums along y of g, g k, g k^2 times (f - level) */
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
            moments[i] = level;
            moments[i + span] = m0;
            moments[i + 2 * span] = m1;
            moments[i + 3 * span] = m2;
        }
    }
    __syncthreads();
    if (y >= height)
        return;

    for (int i = threadIdx.x; i < outputs && start + i < width; i += blockDim.x) {
        const float *m0 = moments + i + radius, *m1 = m0 + 2 * span, *m2 = m0 + 3 * span;
        const float own = m0[0] + m0[span];
        float x0 = 0.0f, x1 = 0.0f, x2 = 0.0f, y0 = g[0] * m0[span], y1 = g[0] * m1[0], y2 = g[0] * m2[0], xy = 0.0f;
        for (int k = 1; k <= radius; ++k) {
            const float left = m0[-k] + m0[span - k] - own, right = m0[k] + m0[span + k] - own;
            x0 += g[k] * (right + left);
            x1 += g1[k] * (right - left);
            x2 += g2[k] * (right + left);
            y0 += g[k] * (m0[span + k] + m0[span - k]);
            y1 += g[k] * (m1[k] + m1[-k]);
            y2 += g[k] * (m2[k] + m2[-k]);
            xy += g1[k] * (m1[k] - m1[-k]);
        }
        float *out = polynomials + slot * PLANES * area + (size_t)y * width + start + i;
        out[0] = y1 * inverse[0];
        out[area] = x1 * inverse[0];
        out[2 * area] = (y2 - inverse[3] * y0) * inverse[1];
        out[3 * area] = (x2 - inverse[3] * x0) * inverse[1];
        out[4 * area] = xy * inverse[2];
    }
}

/* Sample coarse (P, coarse_height, coarse_width) linearly at fine (P, height, width), multiplied by gain.
   P counts planes: two a pair. Grid (width / bx, height / by, P), block (bx, by). */
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

/* How far the equations of a pixel `distance` pixels away from an edge are trusted. */
__device__ __forceinline__ float trust_at(int distance)
{
    return distance >= RIM ? 1.0f : (distance >= 2 ? 0.4472f : 0.14f);
}

__device__ __forceinline__ float trust_between(int i, int size)
{
    return trust_at(i) * trust_at(size - 1 - i);
}

/* Form the normal equations of pixel (x, y) for the displacement (u, v) from the polynomials r0 and r1 of both frames.
   Each plane of `out` is `stride` floats after the last. */
__device__ __forceinline__ void form_equations(
    const float *r0, const float *r1, float u, float v, int x, int y, int width, int height, float *out,
    int stride)
{
    const size_t area = (size_t)height * width;
    const size_t here = (size_t)y * width + x;
    const float px = x + u, py = y + v;
    const float left = floorf(px), top = floorf(py);
    float b_y = r0[here], b_x = r0[here + area];
    float a_yy = r0[here + 2 * area], a_xx = r0[here + 3 * area], a_xy = r0[here + 4 * area];

    /* written so that an unusable displacement (NaN) fails the comparison */
    if (left >= 0.0f && left < width - 1 && top >= 0.0f && top < height - 1) {
        const float fx = px - left, fy = py - top;
        const float w00 = (1.0f - fx) * (1.0f - fy), w01 = fx * (1.0f - fy), w10 = (1.0f - fx) * fy, w11 = fx * fy;
        const float *at = r1 + (size_t)(int)top * width + (int)left;
        float sampled[PLANES];
#pragma unroll
        for (int plane = 0; plane < PLANES; ++plane) {
            const float *p = at + plane * area;
            sampled[plane] = w00 * p[0] + w01 * p[1] + w10 * p[width] + w11 * p[width + 1];
        }
        b_y -= sampled[0];
        b_x -= sampled[1];
        a_yy = 0.5f * (a_yy + sampled[2]);
        a_xx = 0.5f * (a_xx + sampled[3]);
        a_xy = 0.5f * (a_xy + sampled[4]);
    }
    a_xy *= 0.5f; /* the coefficient of x y is twice the matrix's entry */
    b_y = 0.5f * b_y + a_yy * v + a_xy * u;
    b_x = 0.5f * b_x + a_xy * v + a_xx * u;

    /* unsigned like OpenCV's: where a side is shorter than both rims both sides of the comparison wrap around */
    if ((unsigned)(x - RIM) >= (unsigned)(width - 2 * RIM) || (unsigned)(y - RIM) >= (unsigned)(height - 2 * RIM)) {
        const float trust = trust_between(x, width) * trust_between(y, height);
        b_y *= trust;
        b_x *= trust;
        a_yy *= trust;
        a_xx *= trust;
        a_xy *= trust;
    }
    out[0] = a_yy * a_yy + a_xy * a_xy;
    out[stride] = (a_yy + a_xx) * a_xy;
    out[2 * stride] = a_xx * a_xx + a_xy * a_xy;
    out[3 * stride] = a_yy * b_y + a_xy * b_x;
    out[4 * stride] = a_xy * b_y + a_xx * b_x;
}

/* Form every pixel's normal equations at the present flow and sum them over 2 * radius + 1 columns, borders replicated.
   One kernel and not two: the equations themselves, 20 bytes a pixel to write and to read again, stay on the chip.
   Grid (width / outputs, height / by, N), block (bx, by), shared by * 5 * (outputs + 2 * radius) floats. */
extern "C" __global__ void sum_equations_along_rows(
    const float *__restrict__ polynomials, const int *__restrict__ first, const int *__restrict__ second,
    const float *__restrict__ flow, float *__restrict__ sums, int width, int height, int radius, int outputs)
{
    extern __shared__ float shared[];
    const int span = outputs + 2 * radius;
    float *equations = shared + threadIdx.y * PLANES * span;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    const int start = blockIdx.x * outputs;
    const size_t area = (size_t)height * width;
    const int from = first[blockIdx.z], to = second[blockIdx.z];

    if (from < 0)
        return;
    if (y < height) {
        const float *r0 = polynomials + from * PLANES * area, *r1 = polynomials + to * PLANES * area;
        const float *u = flow + blockIdx.z * 2 * area + (size_t)y * width;
        for (int i = threadIdx.x; i < span; i += blockDim.x) {
            const int x = clamp(start - radius + i, width);
            form_equations(r0, r1, u[x], u[x + area], x, y, width, height, equations + i, span);
        }
    }
    __syncthreads();
    if (y >= height)
        return;

    for (int i = threadIdx.x; i < outputs && start + i < width; i += blockDim.x) {
        float sum[PLANES] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
        for (int k = i; k <= i + 2 * radius; ++k) {
#pragma unroll
            for (int plane = 0; plane < PLANES; ++plane)
                sum[plane] += equations[plane * span + k];
        }
        float *out = sums + blockIdx.z * PLANES * area + (size_t)y * width + start + i;
#pragma unroll
        for (int plane = 0; plane < PLANES; ++plane)
            out[plane * area] = sum[plane];
    }
}

/* A sum and what its roundings lost (Knuth's two-sum): twice float32's digits from float32's adders. The equations of
   an edge leave nothing behind when they leave the window, and their determinant, which nearly cancels where all edges
   are parallel, is as good as from OpenCV's float64, which most cards are slow at. */
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

/* a b - c d, free of the rounding of the products (Kahan). */
__device__ __forceinline__ float difference_of_products(Sum a, Sum b, Sum c, Sum d)
{
    const float product = c.high * d.high;
    const float high = fmaf(a.high, b.high, -product) + fmaf(-c.high, d.high, product);
    return high + (a.high * b.low + a.low * b.high - (c.high * d.low + c.low * d.high));
}

/* Sum the equations over 2 * radius + 1 rows, borders replicated, and solve them for the flow.
   A thread walks down `rows` pixels of one column with running sums. regularisation: for the sums' determinant.
   Grid (width / bx, height / (by * rows), N), block (bx, by). */
extern "C" __global__ void solve_along_columns(
    const float *__restrict__ sums, const int *__restrict__ first, float *__restrict__ flow, int width, int height,
    int radius, int rows, float regularisation)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int top = (blockIdx.y * blockDim.y + threadIdx.y) * rows;
    if (x >= width || top >= height || first[blockIdx.z] < 0)
        return;
    const size_t area = (size_t)height * width;
    const float *column = sums + blockIdx.z * PLANES * area + x;
    float *out = flow + blockIdx.z * 2 * area + x;

    Sum window[PLANES] = {};
    for (int k = top - radius; k < top + radius; ++k) {
        const float *row = column + (size_t)clamp(k, height) * width;
#pragma unroll
        for (int plane = 0; plane < PLANES; ++plane)
            add(&window[plane], row[plane * area]);
    }
#pragma unroll 4
    for (int y = top; y < min(top + rows, height); ++y) {
        const float *entering = column + (size_t)clamp(y + radius, height) * width;
        const float *leaving = column + (size_t)clamp(y - radius, height) * width;
#pragma unroll
        for (int plane = 0; plane < PLANES; ++plane)
            add(&window[plane], entering[plane * area]);
        const Sum g_yy = window[0], g_xy = window[1], g_xx = window[2], h_y = window[3], h_x = window[4];
        const float determinant = difference_of_products(g_yy, g_xx, g_xy, g_xy) + regularisation;
        out[(size_t)y * width] = difference_of_products(g_yy, h_x, g_xy, h_y) / determinant;
        out[(size_t)y * width + area] = difference_of_products(g_xx, h_y, g_xy, h_x) / determinant;
#pragma unroll
        for (int plane = 0; plane < PLANES; ++plane)
            add(&window[plane], -leaving[plane * area]);
    }
}
