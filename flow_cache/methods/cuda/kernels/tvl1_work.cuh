// Who works on what: only pairs that have work take any of the machine, however the others stand.
//
// A launch has a fixed number of workers (warps or blocks); every one looks through the pairs' control records, counts
// the items of those that have work, and takes items worker, worker + workers, ... That costs a microsecond, needs no
// list, and which worker does an item has no influence on its result.
#include "tvl1_layout.cuh"

struct Work {
    int pair, item;
};

// The state of a worker's search.
struct Search {
    int next;       // the item to take, counted from the first one of the pairs at hand
    int base;       // the first of the 32 pairs at hand
    unsigned mine;  // bit i: pair 32 i + lane has work. So a launch has 1024 pairs at most
};

static __device__ __forceinline__ bool has_work(const int* __restrict__ control, int pair, int pairs, int outer,
                                                bool redo) {
    if (pair >= pairs) return false;
    const int* record = control + CONTROL * pair;
    int phase = record[PHASE];
    return (phase == ITERATE && record[OUTER] == outer) || (redo && phase == REDO);
}

static __device__ __forceinline__ Search begin_search(const int* __restrict__ control, int pairs, int outer, bool redo,
                                                      int worker) {
    Search search = {worker, 0, 0u};
    const int lane = threadIdx.x & 31;
#pragma unroll 8
    for (int i = 0; i < (pairs + 31) / 32; i++)
        search.mine |= (unsigned)has_work(control, 32 * i + lane, pairs, outer, redo) << i;
    return search;
}

// Find the next item of this worker; false where there is none. All lanes call it together.
static __device__ __forceinline__ bool find_work(Search& search, int pairs, int items, int workers, Work& work) {
    for (; search.base < pairs; search.base += 32) {
        unsigned having = __ballot_sync(0xffffffffu, search.mine >> (search.base / 32) & 1u);
        const int here = __popc(having) * items;
        if (search.next < here) {
            const int k = search.next / items;
            for (int i = 0; i < k; i++) having &= having - 1u;
            work.pair = search.base + __ffs((int)having) - 1;
            work.item = search.next % items;
            search.next += workers;
            return true;
        }
        search.next -= here;
    }
    return false;
}
