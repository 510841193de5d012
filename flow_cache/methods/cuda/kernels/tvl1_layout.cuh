// Layout of the arrays that the kernels of TV-L1 share; all are C-contiguous.
//
// level (frames, 3, height + 2 BORDER, width + 2 BORDER) float: planes of grey, d/dx and d/dy of each frame.
#define BORDER 5
// unknowns (pairs, STATES, UNKNOWNS, height, stride) float: the flow u = (u1, u2) and its dual p. 0 beyond the width.
#define STATES 2
#define UNKNOWNS 6
#define U1 0
#define U2 1
#define P11 2
#define P12 3
#define P21 4
#define P22 5
// data (pairs, TERMS, height, stride) float: rho(u) = rho_c + gx u1 + gy u2. 0 beyond the width.
#define TERMS 3
#define GX 0
#define GY 1
#define RHO_C 2

// control (pairs, CONTROL) int: where a pair's iterations stand. Launches of iterations read a copy and write another.
#define CONTROL 8
#define SOURCE 0      // which of the two states holds the unknowns
#define PHASE 1       // ITERATE, REDO or FINISHED
#define OUTER 2       // outer iterations done in this warp
#define DONE 3        // iterations done in this outer one
#define COUNT 4       // iterations to do next
#define PADDING 5     // 0; with it a record has 32 bytes
#define ITERATED 6    // iterations since the pair was begun, each times the pixels / 64, for statistics
#define PASSES 7      // the same for the passes over memory that they took
// Values of PHASE.
#define ITERATE 0     // go on
#define REDO 1        // do `COUNT` iterations again, the last of which proved to be the last of the warp
#define FINISHED 2
// memory (pairs, MEMORY) double: sums of squared change that the next pass needs. Copied as `control` is.
#define MEMORY 2
#define COUNTER 0     // the change at the last look for convergence, less the threshold for each iteration since
#define LAST 1        // the change of the last iteration

// Where a state of a pair begins in `unknowns`; plane: height * stride.
static __device__ __forceinline__ size_t state_offset(int pair, int state, size_t plane) {
    return (size_t)(STATES * pair + state) * UNKNOWNS * plane;
}
