// Who works on what: only pairs that have work take any of the machine, however the others stand.
//
// A launch has a fixed number of workers (warps or blocks); every one looks through the pairs' control records, counts
// the items of those that have work, and takes items worker, worker + workers, ... That costs a microsecond, needs no
// list, and which worker does an item has no influence on its result.
//
// Control record of a pair, 8 ints: where its iterations stand. Launches of iterations read one copy and write another.
#define CONTROL 8
#define SOURCE 0      // which of the two states holds the unknowns
#define PHASE 1       // one of the following
#define OUTER 2       // outer iterations done in this warp
#define DONE 3        // iterations done in this outer one
#define COUNT 4       // iterations to do next
#define ITERATED 6    // iterations since the pair was begun, for statistics
#define PASSES 7      // launches that it took
#define ITERATE 0     // go on
#define REDO 1        // do `COUNT` iterations again, the last of which proved to be the last of the warp
#define FINISHED 2

struct Work {
    int pair, item;
};

// The state of a worker's search; every lane of its warp holds the same values but for `wants`.
struct Search {
    int next;           // the item to take, counted over all pairs with work
    int seen;           // items of the pairs before the ones at hand
    int base;           // the first of the 32 pairs at hand
    unsigned having;    // which of them have work
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
    Search search = {worker, 0, 0, 0u};
    search.having = __ballot_sync(0xffffffffu, has_work(control, threadIdx.x & 31, pairs, outer, redo));
    return search;
}

// Find the next item of this worker; false where there is none. All lanes call it together.
static __device__ __forceinline__ bool find_work(Search& search, const int* __restrict__ control, int pairs, int outer,
                                                 bool redo, int items, int workers, Work& work) {
    while (search.base < pairs) {
        int here = __popc(search.having) * items;
        if (search.next < search.seen + here) {
            int k = (search.next - search.seen) / items;
            unsigned having = search.having;
            for (int i = 0; i < k; i++) having &= having - 1u;
            work.pair = search.base + __ffs((int)having) - 1;
            work.item = (search.next - search.seen) % items;
            search.next += workers;
            return true;
        }
        search.seen += here;
        search.base += 32;
        search.having = __ballot_sync(0xffffffffu, has_work(control, search.base + (threadIdx.x & 31), pairs, outer, redo));
    }
    return false;
}
