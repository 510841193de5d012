// The iterations of TV-L1: thresholding and dual step, fused, up to ITERATIONS of them in one pass over memory.
//
//     u <- u - clamp(rho(u) / |g|^2, +-lambda theta) g + theta div p       (Zach, Pock, Bischof 2007, equations 11, 15)
//     p <- (p + tau / theta grad u) / (1 + tau / theta |grad u|)           (equation 12; Chambolle 2004)
//
// with forward differences for grad and backward ones for div, p = 0 before the first pixel.
//
// A warp works for itself on an item: a strip of 32 COLUMNS columns (COLUMNS a lane: 64 or 128) and some chunks of about
// 16 rows, which it walks down: few where few pairs are left, so that all warps have work, else many, since neighbouring
// items repeat one another's rows. At row y it loads the row, does iteration 1 of row y, 2 of y - 1, 3 of y - 2 and so on:
// since the primal step needs p of the row above, and the dual step u of the row below, iteration t + 1 can follow one
// row behind iteration t. So the rows between live in registers (u and p; `carried`) and shared memory (the data term,
// a ring of rows), neighbouring columns come by shuffles, there is no barrier, and memory is read and written once for
// all iterations. Each iteration spoils one more column at the sides of the strip, and one row at its ends: neighbours
// overlap by as many.
//
// Convergence is decided after every iteration, as OpenCV does: each strip of each chunk leaves the sums of squared change
// of each of its iterations, so that they do not depend on the items; the pair's last warp to arrive adds them, in a fixed
// order, and says what is next. If the pair should
// have stopped before the last iteration of the pass, the next launch does that many again, from the state before.
//
// What is fused is written out: else a compiler that fuses otherwise for other COLUMNS would give other flow.
//
// Arrays are float and C-contiguous where nothing else is said; tvl1_layout.cuh names their parts.
//   unknowns   (pairs, 2, 6, height, stride)   two states of u1 u2 p11 p12 p21 p22; a pass reads one, writes the other
//   data       (pairs, 3, height, stride)      gx gy rho_c
//   filtered   (pairs, 2, height, stride)      replaces u in the first pass after a median; null = there is none
//   partials   (pairs, ITERATIONS, chunks, strips)   sums of squared change
//   control    (pairs, 8) int, memory (pairs, 2) double: two copies each, one read and one written
//   arrived    (pairs) int                     items that are done in this pass; 0 between launches
// The first three are 0 beyond the width, and stay so. stride: the width, rounded up to a multiple of 4.
//
// iterate: block (64), which is 2 warps; grid (any), at most RESIDENT blocks a multiprocessor find a place at a time;
// shared 1024 ITERATIONS COLUMNS bytes: in each warp, ITERATIONS rows of 4 numbers a column (12 KiB for 6 and 2); and 1 KiB.
// begin_warp: block (128), grid (pairs / 128, rounded up), no shared memory.
#include "tvl1_work.cuh"
#ifndef ITERATIONS
#define ITERATIONS 6
#endif
#ifndef COLUMNS  // of a lane: 2 or 4
#define COLUMNS 2
#endif
#ifndef RESIDENT  // blocks of a multiprocessor at a time; its registers allow 255, 168 or 128 for 4, 6 or 8
#define RESIDENT 6
#endif
#if COLUMNS == 4
#define VECTOR float4
#else
#define VECTOR float2
#endif
#define LANES 32
#define WARPS 2
#define RING 4    // of a column in the ring: gx, gy, rho_c and 1 / |g|^2
#define INVERSE 3  // the last of them; the others are GX, GY, RHO_C
#define HALO ((ITERATIONS + COLUMNS - 1) / COLUMNS * COLUMNS)  // columns shared with the next strip, on each side
#define STRIP (COLUMNS * LANES)
#define KEPT 4  // numbers of a thread that live in shared memory
#define SIZE 0
#define MINE 1
#define NEXT 2
#define BASE 3
#define LARGEST_ITEM 16  // chunks
#define SLOWEST_DECAY 1.25f  // the change falls at least as iteration ** -1.25; slower decay is seen, but does not last
#define TINY_GRADIENT 1.1920929e-7f  // |grad|^2 below it counts as it
#define ALL 0xffffffffu

struct Few {  // neighbouring columns of a row
    float v[COLUMNS];
};
struct Row {
    Few u1, u2, p11, p12, p21, p22;
};

static __device__ __forceinline__ Few zeros() {
    Few few;
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) few.v[i] = 0.0f;
    return few;
}

static __device__ __forceinline__ Few unpack(const VECTOR& vector) {
#if COLUMNS == 4
    return Few{{vector.x, vector.y, vector.z, vector.w}};
#else
    return Few{{vector.x, vector.y}};
#endif
}

static __device__ __forceinline__ VECTOR pack(const Few& few) {
#if COLUMNS == 4
    return make_float4(few.v[0], few.v[1], few.v[2], few.v[COLUMNS - 1]);
#else
    return make_float2(few.v[0], few.v[1]);
#endif
}

static __device__ __forceinline__ Few load(const float* address, bool inside) {
    return inside ? unpack(*reinterpret_cast<const VECTOR*>(address)) : zeros();
}

static __device__ __forceinline__ void store(float* address, const Few& few) {
    *reinterpret_cast<VECTOR*>(address) = pack(few);
}

struct Weights {
    float theta, limit;
};

// One component's dual step at a row: its p from p, its flow u, that right of it and that below.
static __device__ __forceinline__ void dual(const Few& u, float right, const Few& below, const Few& px,
                                            const Few& py, const Few& taut_x, float taut_y, Few& qx, Few& qy) {
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        float x = __fmul_rn((i < COLUMNS - 1 ? u.v[i + 1] : right) - u.v[i], taut_x.v[i]);
        float y = __fmul_rn(below.v[i] - u.v[i], taut_y);
        float scale = 1.0f / (1.0f + sqrtf(__fmaf_rn(x, x, __fmul_rn(y, y))));
        qx.v[i] = (px.v[i] + x) * scale;
        qy.v[i] = (py.v[i] + y) * scale;
    }
}

// One iteration on the way down: the primal step of `here`, then the dual step of the row above, which is in `carried`.
// Afterwards `carried` is the row of `here` (new u, old p), and `here` the row above (all new). Returns the lane's squared
// change.
static __device__ __forceinline__ float iteration(Row& here, Row& carried, const VECTOR* data, bool first_lane,
                                                  const Weights& weights, const Few& taut_x, float taut_y) {
    const Few gx = unpack(data[GX * LANES]), gy = unpack(data[GY * LANES]);
    const Few rho = unpack(data[RHO_C * LANES]), inverse = unpack(data[INVERSE * LANES]);
    float left1 = __shfl_up_sync(ALL, here.p11.v[COLUMNS - 1], 1), left2 = __shfl_up_sync(ALL, here.p21.v[COLUMNS - 1], 1);
    if (first_lane) left1 = left2 = 0.0f;  // right where the image begins, and spoilt anyway elsewhere
    float right1 = __shfl_down_sync(ALL, carried.u1.v[0], 1), right2 = __shfl_down_sync(ALL, carried.u2.v[0], 1);
    Few new1, new2;
    float changed = 0.0f;
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        float a = here.u1.v[i], b = here.u2.v[i];
        float d = __fmaf_rn(gy.v[i], b, __fmaf_rn(gx.v[i], a, rho.v[i])) * inverse.v[i];
        d = fminf(fmaxf(d, -weights.limit), weights.limit);
        float div1 = (here.p11.v[i] - (i ? here.p11.v[i - 1] : left1)) + (here.p12.v[i] - carried.p12.v[i]);
        float div2 = (here.p21.v[i] - (i ? here.p21.v[i - 1] : left2)) + (here.p22.v[i] - carried.p22.v[i]);
        new1.v[i] = __fmaf_rn(weights.theta, div1, __fmaf_rn(-d, gx.v[i], a));
        new2.v[i] = __fmaf_rn(weights.theta, div2, __fmaf_rn(-d, gy.v[i], b));
        float change1 = new1.v[i] - a, change2 = new2.v[i] - b;
        changed = __fmaf_rn(change1, change1, changed);
        changed = __fmaf_rn(change2, change2, changed);
    }
    Row above;
    dual(carried.u1, right1, new1, carried.p11, carried.p12, taut_x, taut_y, above.p11, above.p12);
    dual(carried.u2, right2, new2, carried.p21, carried.p22, taut_x, taut_y, above.p21, above.p22);
    above.u1 = carried.u1;
    above.u2 = carried.u2;
    carried.u1 = new1;
    carried.u2 = new2;
    carried.p11 = here.p11;
    carried.p12 = here.p12;
    carried.p21 = here.p21;
    carried.p22 = here.p22;
    here = above;
    return changed;
}

// Where an item lies, for one lane. It lives in registers all the way down, and there are none to spare: what can be
// found from the rest at the price of an instruction a row, such as the state to write, has no place in it.
struct Place {
    const float* flow;               // the lane's first column: u to read,
    float* duals;                    // p to read, a part of the state to read,
    const float* terms;              // and the data term
    long long plane;                 // floats from one plane to the next
    int stride, height, begin, end;  // rows [begin, end) are to be made
    bool second;                     // whether the state to read is the second one, and the first one is to be written
    bool inside, makes;              // whether the lane has columns to read, and to write
};

// The lane's first column in the state to write.
static __device__ __forceinline__ float* state_to_write(const Place& place) {
    return place.duals + ((place.second ? -UNKNOWNS : UNKNOWNS) - P11) * place.plane;
}

// Where the sums of squared change go: all but pair and item are the launch's, and take no register.
struct Sums {
    float* partials;
    int pair, item, strips, chunks, rows;  // rows: of a chunk
};

// Walk down an item and do `count` iterations; WHOLE: count is ITERATIONS, and the compiler knows.
//
// The walk begins `count` rows above the item and ends as many below it; rows outside the image are 0.
template <bool WHOLE>
static __device__ __forceinline__ void walk(const Place& place, VECTOR* ring, int lane, int count,
                                            const Weights& weights, const Few& taut_x, float taut,
                                            const Sums& sums) {
    Row carried[ITERATIONS];
    float changes[ITERATIONS];
#pragma unroll
    for (int t = 0; t < ITERATIONS; t++) {
        carried[t] = Row{zeros(), zeros(), zeros(), zeros(), zeros(), zeros()};
        changes[t] = 0.0f;
#pragma unroll
        for (int i = 0; i < RING; i++) ring[(RING * t + i) * LANES] = pack(zeros());
    }
    int slot = 0;
    int last = place.begin - 1;  // the last row of the chunk that iteration 1 is in; what precedes the item counts as one
    for (int y = place.begin - count; y < place.end + count; y++) {
        const bool loads = place.inside && y >= 0 && y < place.height;
        const long long offset = (long long)y * place.stride;
        Row here;
        here.u1 = load(place.flow + offset, loads);
        here.u2 = load(place.flow + U2 * place.plane + offset, loads);
        here.p11 = load(place.duals + offset, loads);
        here.p12 = load(place.duals + (P12 - P11) * place.plane + offset, loads);
        here.p21 = load(place.duals + (P21 - P11) * place.plane + offset, loads);
        here.p22 = load(place.duals + (P22 - P11) * place.plane + offset, loads);
        const Few gx = load(place.terms + offset, loads), gy = load(place.terms + GY * place.plane + offset, loads);
        const Few rho = load(place.terms + RHO_C * place.plane + offset, loads);
        Few inverse;
#pragma unroll
        for (int i = 0; i < COLUMNS; i++)
            inverse.v[i] = 1.0f / fmaxf(__fmaf_rn(gx.v[i], gx.v[i], __fmul_rn(gy.v[i], gy.v[i])), TINY_GRADIENT);
        VECTOR* now = ring + slot * RING * LANES;
        now[GX * LANES] = pack(gx);
        now[GY * LANES] = pack(gy);
        now[RHO_C * LANES] = pack(rho);
        now[INVERSE * LANES] = pack(inverse);
#pragma unroll
        for (int t = 0; t < ITERATIONS; t++) {
            if (!WHOLE && t >= count) continue;
            const int row = y - t;
            const int of_row = slot >= t ? slot - t : slot - t + ITERATIONS;
            const float taut_y = row > 0 && row < place.height ? taut : 0.0f;
            const VECTOR* data = ring + of_row * RING * LANES;
            changes[t] += iteration(here, carried[t], data, lane == 0, weights, taut_x, taut_y);
        }
        const int beyond = y - last;
        if (beyond >= 0 && beyond < ITERATIONS) {  // one of the iterations has done the last row of the chunk
            float sum = 0.0f;
#pragma unroll
            for (int t = 0; t < ITERATIONS; t++)
                if (t == beyond) {
                    sum = changes[t];
                    changes[t] = 0.0f;
                }
            if (!place.makes) sum = 0.0f;
            for (int bit = LANES / 2; bit > 0; bit /= 2) sum += __shfl_xor_sync(ALL, sum, bit);
            if (lane == 0 && last >= place.begin) {
                const int part = last / sums.rows * sums.strips + sums.item % sums.strips;
                sums.partials[(size_t)(sums.pair * ITERATIONS + beyond) * sums.strips * sums.chunks + part] = sum;
            }
            if (beyond == ITERATIONS - 1) last = min(last + sums.rows, place.end - 1);
        }
        const int made = y - count;  // the row that `here` is now
        if (made >= place.begin && place.makes) {
            float* target = state_to_write(place) + (long long)made * place.stride;
            store(target, here.u1);
            store(target + U2 * place.plane, here.u2);
            store(target + P11 * place.plane, here.p11);
            store(target + P12 * place.plane, here.p12);
            store(target + P21 * place.plane, here.p21);
            store(target + P22 * place.plane, here.p22);
        }
        slot = slot + 1 == ITERATIONS ? 0 : slot + 1;
    }
}

// Say how many iterations to do in the next pass: as many as seem to be left, since a pass that ends too early costs
// another one, and so does one that goes too far. At first the change falls as a power of the iteration's number, at the
// end faster (as `predict_left` of the CPU has it). change: after `done` iterations; before: after `lag` fewer;
// passes: launches left in this outer iteration.
static __device__ int plan(double change, double before, int lag, int done, double threshold, int left, int passes) {
    int least = max(1, left - (passes - 1) * ITERATIONS), most = min(ITERATIONS, left);
    int wanted = most;
    if (threshold > 0.0 && lag > 0 && change > threshold) {
        float power = logf((float)(before / change)) / logf((float)done / (float)(done - lag));
        float needed = (float)done * (powf((float)(change / threshold), 1.0f / fmaxf(power, SLOWEST_DECAY)) - 1.0f);
        if (needed < (float)most) wanted = (int)ceilf(needed);
    }
    return min(max(wanted, least), most);
}

// How many pairs have work.
static __device__ __forceinline__ int pairs_with_work(const Search& search) {
    int count = __popc(search.mine);
    for (int bit = 16; bit > 0; bit /= 2) count += __shfl_xor_sync(0xffffffffu, count, bit);
    return count;
}

// How many chunks make an item, where `active` pairs have work: those with which the last warp is done first. Rows that
// neighbouring items repeat count as work.
static __device__ __forceinline__ int chunks_of_item(int active, int strips, int chunks, int rows, int workers) {
    int best = 1, least = 0x7fffffff;
    for (int size = 1; size <= LARGEST_ITEM; size *= 2) {
        int rounds = (active * strips * ((chunks + size - 1) / size) + workers - 1) / workers;
        int cost = rounds * (size * rows + 2 * ITERATIONS);
        if (cost <= least) {
            least = cost;
            best = size;
        }
    }
    return best;
}

// Decide, from the sums of squared change of a pair's pass, what it does next. Called by one whole warp. cells: the
// level's pixels in units of 64, for statistics.
static __device__ void decide(const int* record, int* next, const double* memory, double* next_memory,
                              const float* partials, int parts, int lane, int outers, int inner, int passes,
                              int cells, double threshold, int cuda_conventions) {
    int source = record[SOURCE], phase = record[PHASE], outer = record[OUTER], done = record[DONE];
    int count = record[COUNT];
    int stop = -1;
    double counter = memory[COUNTER], last = memory[LAST], before = last;
    // how many iterations ago the change was `before`; 0 = it is not known
    const int lag = done ? min(3, count) : min(3, count - 1);
    if (phase == REDO) {
        stop = count - 1;
    } else {
        double changes[ITERATIONS];
#pragma unroll
        for (int t = 0; t < ITERATIONS; t++) changes[t] = 0.0;
        for (int i = lane; i < parts; i += LANES)
#pragma unroll
            for (int t = 0; t < ITERATIONS; t++)
                if (t < count) changes[t] += (double)__ldcg(partials + t * parts + i);
#pragma unroll
        for (int t = 0; t < ITERATIONS; t++) {
            double change = changes[t];
            for (int bit = LANES / 2; bit > 0; bit /= 2) change += __shfl_xor_sync(ALL, change, bit);
            if (t >= count || stop >= 0) continue;
            // OpenCV's CUDA version looks on odd iterations only, and not before a counter has run down
            bool look = threshold > 0.0 && (!cuda_conventions || ((done + t) % 2 == 1 && counter < threshold));
            if (!look) counter -= threshold;
            if (look && change <= threshold) stop = t;
            if (look) counter = change;
            if (t == count - 1 - lag) before = change;
            last = change;
        }
    }
    if (lane) return;
    next[ITERATED] = record[ITERATED] + count * cells;
    next[PASSES] = record[PASSES] + cells;
    if (stop >= 0 && stop < count - 1) {  // taken too far
        next[SOURCE] = source, next[PHASE] = REDO, next[OUTER] = outer, next[DONE] = done, next[COUNT] = stop + 1;
        return;
    }
    done += count;
    bool ended = done >= inner;
    bool finished = stop >= 0 || (ended && (outer + 1 >= outers || (threshold > 0.0 && last <= threshold)));
    next[SOURCE] = 1 - source;
    next[PHASE] = finished ? FINISHED : ITERATE;
    next[OUTER] = ended ? outer + 1 : outer;
    next[DONE] = ended ? 0 : done;
    next[COUNT] = ended ? min(inner, ITERATIONS) : plan(last, before, lag, done, threshold, inner - done, passes);
    next_memory[COUNTER] = ended ? 0.0 : counter;
    next_memory[LAST] = last;
}

// Prepare the pairs for the iterations after a warp; pairs that are not there (first < 0) have finished.
// control: the copy that the last launch wrote; next, next_memory: the ones that the next launch reads.
extern "C" __global__ void begin_warp(const int* __restrict__ first, int pairs, const int* control, int* next,
                                      double* next_memory, int* arrived, int inner) {
    int pair = blockIdx.x * blockDim.x + threadIdx.x;
    if (pair >= pairs) return;
    int source = control[CONTROL * pair + SOURCE];
    int iterated = control[CONTROL * pair + ITERATED], passes = control[CONTROL * pair + PASSES];
    int* record = next + CONTROL * pair;
    record[SOURCE] = source;
    record[PHASE] = first[pair] < 0 ? FINISHED : ITERATE;
    record[OUTER] = record[DONE] = record[PADDING] = 0;
    record[COUNT] = min(inner, ITERATIONS);
    record[ITERATED] = iterated;
    record[PASSES] = passes;
    next_memory[MEMORY * pair + COUNTER] = next_memory[MEMORY * pair + LAST] = 0.0;
    arrived[pair] = 0;
}

// A pass: `COUNT` iterations of each pair that is in its outer iteration `outer`, or has iterations to do again.
// passes: launches left in the outer iteration after this one.
extern "C" __global__ void __launch_bounds__(WARPS * LANES, RESIDENT)
iterate(const int* __restrict__ control, const double* __restrict__ memory, int* next, double* next_memory,
        int* arrived, float* partials, int pairs, int outer, int passes, float* unknowns,
        const float* __restrict__ data, const float* __restrict__ filtered, int height, int width, int stride,
        int strips, int chunks, int rows, float theta, float limit, float taut, double threshold, int inner,
        int outers, int cuda_conventions) {
    __shared__ VECTOR rings[WARPS * ITERATIONS * RING * LANES];
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const size_t plane = (size_t)height * stride;
    const Weights weights = {theta, limit};
    VECTOR* ring = rings + warp * ITERATIONS * RING * LANES + lane;
    const int worker = blockIdx.x * WARPS + warp;
    for (int pair = worker * LANES + lane; pair < pairs; pair += gridDim.x * WARPS * LANES)
        if (!has_work(control, pair, pairs, outer, true)) {  // it keeps its record
            for (int i = 0; i < CONTROL; i++) next[CONTROL * pair + i] = control[CONTROL * pair + i];
            for (int i = 0; i < MEMORY; i++) next_memory[MEMORY * pair + i] = memory[MEMORY * pair + i];
        }
    Search search = begin_search(control, pairs, outer, true, worker);
    // what is needed only between items has no place in registers; each thread has its own
    __shared__ volatile int kept[KEPT * WARPS * LANES];
    volatile int* own = kept + threadIdx.x;
    own[SIZE * WARPS * LANES] = chunks_of_item(pairs_with_work(search), strips, chunks, rows, gridDim.x * WARPS);
    own[MINE * WARPS * LANES] = (int)search.mine;
    Work work;
    for (;;) {
        const int size = own[SIZE * WARPS * LANES];
        search.mine = (unsigned)own[MINE * WARPS * LANES];
        if (!find_work(search, pairs, strips * ((chunks + size - 1) / size), gridDim.x * WARPS, work)) break;
        own[NEXT * WARPS * LANES] = search.next;
        own[BASE * WARPS * LANES] = search.base;
        const int* record = control + CONTROL * work.pair;
        const int source = record[SOURCE], count = record[COUNT];
        const int strip = work.item % strips, begin = work.item / strips * size * rows;
        const int end = min(begin + size * rows, height);             // rows to be made
        const int x = strip * (STRIP - 2 * HALO) + COLUMNS * lane;          // the lane's first column
        const bool inside = x < stride;
        const bool makes = inside && (strip == 0 || lane >= HALO / COLUMNS) && (strip == strips - 1 || lane < LANES - HALO / COLUMNS);
        float* from = unknowns + state_offset(work.pair, source, plane) + x;
        const bool after_median = filtered && record[DONE] == 0;
        const Place place = {
            after_median ? filtered + (size_t)work.pair * 2 * plane + x : from,
            from + P11 * plane,
            data + (size_t)work.pair * TERMS * plane + x,
            (long long)plane, stride, height, begin, end, source == 1, inside, makes};
        Few taut_x;
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) taut_x.v[i] = x + i < width - 1 ? taut : 0.0f;
        const Sums sums = {partials, work.pair, work.item, strips, chunks, rows};
        if (count == ITERATIONS)
            walk<true>(place, ring, lane, ITERATIONS, weights, taut_x, taut, sums);
        else
            walk<false>(place, ring, lane, count, weights, taut_x, taut, sums);
        int arrivals = 0;
        if (lane == 0) {
            __threadfence();
            arrivals = atomicAdd(arrived + work.pair, 1) + 1;
        }
        search.next = own[NEXT * WARPS * LANES];
        search.base = own[BASE * WARPS * LANES];
        const int each = own[SIZE * WARPS * LANES];
        if (__shfl_sync(ALL, arrivals, 0) == strips * ((chunks + each - 1) / each)) {
            __threadfence();
            __syncwarp();  // a shuffle orders no memory: now all lanes see what lane 0 has seen
            if (lane == 0) arrived[work.pair] = 0;
            const int parts = strips * chunks;
            decide(record, next + CONTROL * work.pair, memory + MEMORY * work.pair, next_memory + MEMORY * work.pair,
                   partials + (size_t)work.pair * ITERATIONS * parts, parts, lane, outers, inner, passes, (height * width + 63) / 64, threshold, cuda_conventions);
        }
    }
}
