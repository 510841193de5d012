// What a CUDA source needs to be built by a C++ compiler and run on the CPU, with its mistakes made visible.
//
// The threads of a block are fibers of one host thread. A fiber runs until it ends or waits at a barrier; then the next
// one, in an order that changes with the seed and from barrier to barrier. So a race shows as a result that depends on
// the seed, and a barrier that not all threads reach is told from one that they do. Shared memory is poisoned with
// 0xFF bytes (NaN) before each block, and the bands around every allocation are checked after each launch.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <utility>
#include <vector>

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct uint3 {
    unsigned x, y, z;
};
#define EMULATED_VECTOR(type, name)                                                                           \
    struct alignas(2 * sizeof(type)) name##2 { type x, y; };                                                  \
    struct name##3 { type x, y, z; };                                                                         \
    struct alignas(4 * sizeof(type) > 16 ? 16 : 4 * sizeof(type)) name##4 { type x, y, z, w; };               \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                          \
    inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                               \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
EMULATED_VECTOR(float, float)
EMULATED_VECTOR(int, int)
EMULATED_VECTOR(unsigned char, uchar)

#define __global__ __attribute__((visibility("hidden")))
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static __attribute__((section("emulated_shared")))

extern "C" {
// the linker's bounds of all __shared__ variables; null where there are none
extern unsigned char __start_emulated_shared[] __attribute__((weak, visibility("hidden")));
extern unsigned char __stop_emulated_shared[] __attribute__((weak, visibility("hidden")));
void emulation_switch(void** from, void* to);
}
#if defined(__x86_64__)
asm(R"(
.text
.globl emulation_switch
.hidden emulation_switch
.type emulation_switch, @function
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulation_switch, .-emulation_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl emulation_switch
.hidden emulation_switch
.type emulation_switch, %function
emulation_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size emulation_switch, .-emulation_switch
)");
#else
#error "the emulation knows how to switch stacks on x86-64 and AArch64 only"
#endif

static dim3 gridDim, blockDim;
static uint3 blockIdx, threadIdx;
static constexpr int warpSize = 32;

namespace emulation {

enum class State { fresh, ready, at_block, at_warp, done };
constexpr size_t stack_bytes = 64 * 1024, shared_guard = 256;
constexpr uint64_t canary = 0x5AFE5AFE5AFE5AFEull;

struct Fiber {
    void* sp;
    char* stack;
    State state;
    uint3 index;
    int line;
    unsigned mask;
    unsigned collectives;
};
struct Warp {
    uint64_t slots[2][32];
    unsigned present[2];
};

static std::vector<Fiber> fibers;
static std::vector<Warp> warps;
static Fiber* current;
static void* scheduler;
static unsigned char* dynamic_shared;
static char message[400];
static uint64_t generator;
static void (*body)(void**);
static void** body_arguments;

inline unsigned random(unsigned below) {
    generator = generator * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(((generator >> 33) * below) >> 31);
}

inline void wait(State state, int line) {
    current->state = state;
    current->line = line;
    Fiber* self = current;
    emulation_switch(&self->sp, scheduler);
}

[[noreturn]] static void enter() {
    body(body_arguments);
    current->state = State::done;
    emulation_switch(&current->sp, scheduler);
    abort();
}

inline void prepare(Fiber& fiber) {
    void** top = (void**)(fiber.stack + stack_bytes);
#if defined(__x86_64__)
    *--top = nullptr;  // so that the stack is aligned as after a call
    *--top = (void*)enter;
    top -= 6;
#else
    top -= 20;
    top[11] = (void*)enter;
#endif
    fiber.sp = top;
}

inline void resume(Fiber& fiber) {
    current = &fiber;
    threadIdx = fiber.index;
    fiber.state = State::ready;
    emulation_switch(&scheduler, fiber.sp);
}

inline int fail(const char* kernel, const char* format, int a = 0, int b = 0) {
    int n = snprintf(message, sizeof message, "%s, block (%u, %u, %u): ", kernel, blockIdx.x, blockIdx.y, blockIdx.z);
    snprintf(message + n, sizeof message - n, format, a, b);
    return 1;
}

// Let threads go on that wait for others which have all come. Returns whether there were any.
inline bool release(int count) {
    bool any = false;
    for (int first = 0; first < count; first += 32) {
        int lanes = std::min(32, count - first);
        for (int lane = 0; lane < lanes; lane++) {
            Fiber& leader = fibers[first + lane];
            if (leader.state != State::at_warp) continue;
            bool all = true;
            for (int other = 0; other < lanes && all; other++) {
                Fiber& fiber = fibers[first + other];
                if (!(leader.mask >> other & 1) || fiber.state == State::done) continue;
                all = fiber.state == State::at_warp && fiber.mask == leader.mask && fiber.line == leader.line;
            }
            if (!all) continue;
            unsigned mask = leader.mask;
            for (int other = 0; other < lanes; other++)
                if (mask >> other & 1 && fibers[first + other].state == State::at_warp)
                    fibers[first + other].state = State::ready, any = true;
        }
    }
    if (any) return true;
    for (int i = 0; i < count; i++)
        if (fibers[i].state != State::at_block || fibers[i].line != fibers[0].line) return false;
    for (int i = 0; i < count; i++) fibers[i].state = State::ready;
    return true;
}

inline int run_block(const char* kernel, size_t shared) {
    int count = blockDim.x * blockDim.y * blockDim.z;
    if (__start_emulated_shared)
        memset(__start_emulated_shared, 0xFF, __stop_emulated_shared - __start_emulated_shared);
    memset(dynamic_shared - shared_guard, 0xFF, shared + 2 * shared_guard);
    for (int i = 0; i < count; i++) {
        fibers[i].state = State::fresh;
        fibers[i].collectives = 0;
        fibers[i].index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
        prepare(fibers[i]);
    }
    for (Warp& warp : warps) warp.present[0] = warp.present[1] = 0;
    int left = count;
    while (left) {
        // another order each time: start anywhere, go on by a step that shares no factor with the count
        unsigned at = random(count), step = 1 + random(count);
        while (std::__gcd(step, (unsigned)count) != 1) step = 1 + random(count);
        bool progress = false;
        for (int i = 0; i < count; i++, at = (at + step) % count) {
            Fiber& fiber = fibers[at];
            if (fiber.state != State::fresh && fiber.state != State::ready) continue;
            progress = true;
            resume(fiber);
            if (fiber.state == State::done) left--;
            if (*(uint64_t*)fiber.stack != canary) return fail(kernel, "a thread needs more than %d bytes of stack", stack_bytes);
        }
        if (left && !release(count) && !progress) {
            int ended = count - left, line = 0;
            for (int i = 0; i < count; i++)
                if (fibers[i].state != State::done) line = fibers[i].line;
            return ended ? fail(kernel, "barrier divergence: %d threads ended while others wait at line %d", ended, line)
                         : fail(kernel, "barrier divergence: threads wait at different barriers, one at line %d", line);
        }
    }
    for (size_t i = 0; i < shared_guard; i++)
        if (dynamic_shared[-1 - (long)i] != 0xFF || dynamic_shared[shared + i] != 0xFF)
            return fail(kernel, "wrote outside its %d bytes of dynamic shared memory", (int)shared);
    return 0;
}

template <typename Value> struct Code;
#define EMULATED_CODE(type, code) template <> struct Code<type> { static constexpr const char* text = code; };
EMULATED_CODE(unsigned char, "u1") EMULATED_CODE(signed char, "i1") EMULATED_CODE(char, "i1")
EMULATED_CODE(short, "i2") EMULATED_CODE(unsigned short, "u2")
EMULATED_CODE(int, "i4") EMULATED_CODE(unsigned, "u4") EMULATED_CODE(float, "f4") EMULATED_CODE(double, "f8")
EMULATED_CODE(long, "i8") EMULATED_CODE(unsigned long, "u8")
EMULATED_CODE(long long, "i8") EMULATED_CODE(unsigned long long, "u8")
template <typename T> struct Code<const T> : Code<T> {};
EMULATED_CODE(float2, "f4") EMULATED_CODE(float4, "f4") EMULATED_CODE(uchar4, "u1") EMULATED_CODE(int2, "i4")

template <typename T> struct Parameter { static void add(char* out) { strcat(strcat(out, Code<T>::text), " "); } };
template <typename T> struct Parameter<T*> { static void add(char* out) { strcat(strcat(strcat(out, "*"), Code<T>::text), " "); } };

template <auto kernel> struct Caller;
template <typename... Arguments, void (*kernel)(Arguments...)> struct Caller<kernel> {
    template <size_t... I> static void unpack(void** values, std::index_sequence<I...>) {
        kernel(*(std::remove_const_t<Arguments>*)values[I]...);
    }
    static void call(void** values) { unpack(values, std::index_sequence_for<Arguments...>()); }
    static void describe(char* out) {
        *out = 0;
        (Parameter<Arguments>::add(out), ...);
    }
};

struct Entry {
    const char* name;
    void (*call)(void**);
    void (*describe)(char*);
};

// Run a launch; 0, or 1 with a message. `allocations`: base address and whole size of each, bands included.
inline int launch(const Entry& entry, const unsigned* size, size_t shared, void** arguments, uint64_t seed,
                  const uint64_t* allocations, size_t allocated, size_t guard) {
    message[0] = 0;
    gridDim = {size[0], size[1], size[2]};
    blockDim = {size[3], size[4], size[5]};
    blockIdx = {0, 0, 0};
    size_t count = (size_t)size[3] * size[4] * size[5], blocks = (size_t)size[0] * size[1] * size[2];
    if (!count || count > 1024 || !blocks || size[1] > 65535 || size[2] > 65535 || size[5] > 64)
        return fail(entry.name, "impossible launch of %d blocks of %d threads", (int)blocks, (int)count);
    if (shared > 227 * 1024) return fail(entry.name, "wants %d bytes of shared memory, a block has 227 KiB", (int)shared);
    while (fibers.size() < count) {
        Fiber fiber{};
        fiber.stack = (char*)mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        *(uint64_t*)fiber.stack = canary;
        fibers.push_back(fiber);
    }
    warps.resize((count + 31) / 32);
    static std::vector<unsigned char> memory;
    memory.resize(shared + 2 * shared_guard + 16);
    dynamic_shared = (unsigned char*)(((uintptr_t)memory.data() + shared_guard + 15) & ~(uintptr_t)15);
    generator = seed * 0x9E3779B97F4A7C15ull + 1;
    for (int i = 0; i < 4; i++) random(2);
    body = entry.call;
    body_arguments = arguments;
    std::vector<unsigned> order(blocks);
    for (size_t i = 0; i < blocks; i++) order[i] = (unsigned)i;
    for (size_t i = blocks; i > 1; i--) std::swap(order[i - 1], order[random((unsigned)i)]);
    for (unsigned b : order) {
        blockIdx = {b % size[0], b / size[0] % size[1], b / (size[0] * size[1])};
        if (run_block(entry.name, shared)) return 1;
    }
    for (size_t i = 0; i < allocated; i++) {
        const unsigned char* base = (const unsigned char*)allocations[2 * i];
        const unsigned char* end = base + allocations[2 * i + 1];
        for (size_t k = 0; k < guard; k += 8)
            if (*(const uint64_t*)(base + k) != ~0ull || *(const uint64_t*)(end - guard + k) != ~0ull) {
                snprintf(message, sizeof message, "%s: wrote outside an array of %zu bytes", entry.name,
                         (size_t)(end - base) - 2 * guard);
                return 1;
            }
    }
    return 0;
}

template <typename T> T collective(unsigned mask, int line, T value, int source) {
    int i = (int)(current - fibers.data());
    Warp& warp = warps[i / 32];
    int lane = i % 32, turn = current->collectives++ & 1;
    static_assert(sizeof(T) <= 8);
    warp.slots[turn][lane] = 0;
    memcpy(&warp.slots[turn][lane], &value, sizeof(T));
    current->mask = mask;
    wait(State::at_warp, line);
    memcpy(&value, &warp.slots[turn][source], sizeof(T));
    return value;
}

inline int lane() { return (int)(current - fibers.data()) % 32; }

inline unsigned ballot(unsigned mask, int line, bool vote) {
    int i = (int)(current - fibers.data());
    Warp& warp = warps[i / 32];
    int turn = current->collectives & 1;
    collective<int>(mask, line, vote, lane());
    unsigned votes = 0;
    for (int k = 0; k < 32; k++)
        if (mask >> k & 1 && (size_t)(i / 32 * 32 + k) < blockDim.x * blockDim.y * blockDim.z && (int)warp.slots[turn][k]) votes |= 1u << k;
    return votes;
}

template <typename T, typename F> T update(T* address, F change) {
    T old = *address;
    *address = change(old);
    return old;
}
}  // namespace emulation

#define __syncthreads() emulation::wait(emulation::State::at_block, __LINE__)
#define __syncwarp(...) \
    (void)emulation::collective<int>(0xffffffffu __VA_OPT__(&(__VA_ARGS__)), __LINE__, 0, emulation::lane())
#define __shfl_sync(mask, value, source, ...) \
    emulation::collective(mask, __LINE__, value, (source) & 31)
#define __shfl_up_sync(mask, value, delta, ...) \
    emulation::collective(mask, __LINE__, value, emulation::lane() < (int)(delta) ? emulation::lane() : emulation::lane() - (int)(delta))
#define __shfl_down_sync(mask, value, delta, ...) \
    emulation::collective(mask, __LINE__, value, emulation::lane() + (int)(delta) > 31 ? emulation::lane() : emulation::lane() + (int)(delta))
#define __shfl_xor_sync(mask, value, bits, ...) \
    emulation::collective(mask, __LINE__, value, emulation::lane() ^ (bits))
#define __ballot_sync(mask, vote) emulation::ballot(mask, __LINE__, vote)
#define __any_sync(mask, vote) (emulation::ballot(mask, __LINE__, vote) != 0)
#define __all_sync(mask, vote) (emulation::ballot(mask, __LINE__, !(vote)) == 0)

inline void __threadfence() {}
inline void __threadfence_block() {}
template <typename T> T __ldg(const T* address) { return *address; }
template <typename T> T __ldcg(const T* address) { return *address; }
template <typename T> T __ldcs(const T* address) { return *address; }
template <typename T> void __stcs(T* address, T value) { *address = value; }
template <typename T, typename U> T atomicAdd(T* a, U v) { return emulation::update(a, [=](T o) { return (T)(o + (T)v); }); }
template <typename T, typename U> T atomicSub(T* a, U v) { return emulation::update(a, [=](T o) { return (T)(o - (T)v); }); }
template <typename T, typename U> T atomicMax(T* a, U v) { return emulation::update(a, [=](T o) { return std::max(o, (T)v); }); }
template <typename T, typename U> T atomicMin(T* a, U v) { return emulation::update(a, [=](T o) { return std::min(o, (T)v); }); }
template <typename T, typename U> T atomicOr(T* a, U v) { return emulation::update(a, [=](T o) { return (T)(o | (T)v); }); }
template <typename T, typename U> T atomicExch(T* a, U v) { return emulation::update(a, [=](T) { return (T)v; }); }
template <typename T, typename U> T atomicCAS(T* a, U c, U v) { return emulation::update(a, [=](T o) { return o == (T)c ? (T)v : o; }); }

// The build forbids fusing (-ffp-contract=off), so plain arithmetic rounds each result to nearest.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float a) { return 1.0f / std::sqrt(a); }
inline float __saturatef(float a) { return a > 1 ? 1.0f : a > 0 ? a : 0.0f; }
inline int __float2int_rd(float a) { return (int)std::floor(a); }
inline int __float2int_rn(float a) { return (int)std::nearbyint(a); }
inline int __float2int_rz(float a) { return (int)a; }
inline float __int2float_rn(int a) { return (float)a; }
inline int __double2int_rd(double a) { return (int)std::floor(a); }
inline int __double2int_rn(double a) { return (int)std::nearbyint(a); }
inline float __double2float_rn(double a) { return (float)a; }
inline long long __double2ll_rn(double a) { return (long long)std::nearbyint(a); }
inline long long __float2ll_rn(float a) { return (long long)std::nearbyint(a); }
inline int __float_as_int(float a) { int b; memcpy(&b, &a, 4); return b; }
inline unsigned __float_as_uint(float a) { unsigned b; memcpy(&b, &a, 4); return b; }
inline float __int_as_float(int a) { float b; memcpy(&b, &a, 4); return b; }
inline float __uint_as_float(unsigned a) { float b; memcpy(&b, &a, 4); return b; }
inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __clz(int a) { return a ? __builtin_clz((unsigned)a) : 32; }
using std::max;
using std::min;
