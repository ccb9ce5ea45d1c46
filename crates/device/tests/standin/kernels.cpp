// Runs the kernels' own source on a processor, thread by thread. Threads of a block are contexts that take turns at
// barriers, exchanges and some atomic operations, in an order that the seed chooses; a barrier or an exchange that not all
// reach at the same place ends the process. Shared memory has noise in it when a block starts. It says nothing about
// speed, nor about what NVRTC or a GPU make of the source, nor about threads that run at the same moment.

#include "standin.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <tuple>

static Size gridDim, blockDim, blockIdx, threadIdx;
static const char* kernel_now = nullptr;

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
static float2 make_float2(float x, float y) { return { x, y }; }
static float4 make_float4(float x, float y, float z, float w) { return { x, y, z, w }; }
static int4 make_int4(int x, int y, int z, int w) { return { x, y, z, w }; }
static uint2 make_uint2(unsigned x, unsigned y) { return { x, y }; }

std::string running()
{
    if (!kernel_now) {
        return "no kernel";
    }
    char text[200];
    snprintf(text, sizeof text, "%s, block %u %u %u, thread %u %u %u", kernel_now, blockIdx.x, blockIdx.y, blockIdx.z,
        threadIdx.x, threadIdx.y, threadIdx.z);
    return text;
}

// ---------------------------------------------------------------- threads that take turns

struct Barrier {
    unsigned arrived = 0, turn = 0;
    int line = 0;
};

struct Fiber {
    // Where it goes on; null: it was never begun.
    void* at;
    std::vector<char> stack;
    Size place;
    bool finished;
    // What it waits at, and that one's turn; null: it can go on.
    const Barrier* waits;
    unsigned turn;
    uint32_t exchanged;
};

#ifndef __x86_64__
#error "threads take turns in x86-64's own words, as the pinned ONNX Runtime is for x86-64 too"
#endif
// Puts this context's registers on its stack and the stack's place into `from`, and goes on at `to`.
extern "C" void take_turn(void** from, void* to);
__asm__(R"(
.text
.type take_turn, @function
take_turn:
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
.size take_turn, .-take_turn
)");

static void* scheduler;
static std::vector<Fiber> fibers;
static std::vector<unsigned> alive_in_warp;
static std::vector<Barrier> warp_barriers;
static Barrier block_barrier;
static unsigned current, alive;
static const std::function<void()>* body;

static void give_way() { take_turn(&fibers[current].at, scheduler); }

static void open(Barrier& barrier)
{
    barrier.arrived = 0;
    barrier.turn++;
}

static void meet(Barrier& barrier, const unsigned& expected, int line)
{
    if (barrier.arrived > 0 && barrier.line != line) {
        harm("%s: waits in line %d while others of its block or warp wait in line %d", running().c_str(), line, barrier.line);
    }
    barrier.line = line;
    Fiber& fiber = fibers[current];
    if (++barrier.arrived >= expected) {
        open(barrier);
        // Who comes last does not always go first.
        if (chance(2)) {
            give_way();
        }
        return;
    }
    fiber.waits = &barrier;
    fiber.turn = barrier.turn;
    give_way();
    fiber.waits = nullptr;
}

#define __syncthreads() meet(block_barrier, alive, __LINE__)

template <typename T>
static T exchange(unsigned mask, T value, unsigned from, int line)
{
    static_assert(sizeof(T) == 4, "32 bits at a time");
    const unsigned warp = current / 32;
    if (mask != 0xffffffffu) {
        harm("%s: an exchange among some lanes, which is not stood in for", running().c_str());
    }
    memcpy(&fibers[current].exchanged, &value, 4);
    meet(warp_barriers[warp], alive_in_warp[warp], line);
    const unsigned at = warp * 32 + from % 32;
    if (at >= fibers.size() || fibers[at].finished) {
        harm("%s: asks a lane that is not there any more", running().c_str());
    }
    memcpy(&value, &fibers[at].exchanged, 4);
    meet(warp_barriers[warp], alive_in_warp[warp], -line);
    return value;
}

#define __shfl_xor_sync(mask, value, distance) exchange(mask, value, (current % 32) ^ (distance), __LINE__)
#define __shfl_sync(mask, value, lane) exchange(mask, value, lane, __LINE__)

// One thread of a block after the other.
static void run_threads()
{
    for (;;) {
        (*body)();
        fibers[current].finished = true;
        const unsigned warp = current / 32;
        alive--;
        alive_in_warp[warp]--;
        // Whoever has ended is waited for no more.
        if (block_barrier.arrived > 0 && block_barrier.arrived >= alive) {
            open(block_barrier);
        }
        if (warp_barriers[warp].arrived > 0 && warp_barriers[warp].arrived >= alive_in_warp[warp]) {
            open(warp_barriers[warp]);
        }
        give_way();
    }
}

static void begin(Fiber& fiber)
{
    fiber.stack.resize(64 << 10);
    const uintptr_t top = (uintptr_t)(fiber.stack.data() + fiber.stack.size()) / 16 * 16;
    // A place to return to that there is none of, where it begins, and six registers.
    void** words = (void**)top - 8;
    memset(words, 0, 8 * sizeof(void*));
    words[6] = (void*)run_threads;
    fiber.at = words;
}

static void run_block()
{
    const unsigned count = blockDim.x * blockDim.y * blockDim.z;
    if (fibers.size() != count) {
        fibers.resize(count);
    }
    warp_barriers.assign((count + 31) / 32, Barrier());
    alive_in_warp.assign((count + 31) / 32, 0);
    block_barrier = Barrier();
    alive = count;
    for (unsigned at = 0; at < count; at++) {
        Fiber& fiber = fibers[at];
        fiber.place = { at % blockDim.x, at / blockDim.x % blockDim.y, at / (blockDim.x * blockDim.y) };
        fiber.finished = false;
        fiber.waits = nullptr;
        if (!fiber.at) {
            begin(fiber);
        }
        alive_in_warp[at / 32]++;
    }
    while (alive > 0) {
        bool progress = false;
        // Some warps are slower than others; all come, in the end.
        static std::vector<char> skipped;
        skipped.assign(alive_in_warp.size(), 0);
        for (char& skip : skipped) {
            skip = chance(8) == 0;
        }
        skipped[chance(skipped.size())] = 0;
        // Another order of all threads in each round: an odd step visits each of a power of two.
        const unsigned first = chance(count), step = (count & (count - 1)) == 0 ? 2 * chance(count) + 1 : 1;
        for (int pass = 0; pass < 2 && !progress; pass++) {
            for (unsigned number = 0, at = first; number < count; number++, at = (at + step) % count) {
                Fiber& fiber = fibers[at];
                const bool waits = fiber.waits && fiber.waits->turn == fiber.turn;
                if (fiber.finished || waits || (pass == 0 && skipped[at / 32])) {
                    continue;
                }
                progress = true;
                current = at;
                threadIdx = fiber.place;
                take_turn(&scheduler, fiber.at);
            }
        }
        if (!progress) {
            harm("%s, block %u %u %u: %u threads wait for others that never come", kernel_now, blockIdx.x, blockIdx.y,
                blockIdx.z, alive);
        }
    }
}

// Threads that never meet need no contexts of their own.
static void run_block_straight()
{
    const unsigned count = blockDim.x * blockDim.y * blockDim.z;
    const bool backwards = chance(2);
    for (unsigned step = 0; step < count; step++) {
        const unsigned at = backwards ? count - 1 - step : step;
        threadIdx = { at % blockDim.x, at / blockDim.x % blockDim.y, at / (blockDim.x * blockDim.y) };
        (*body)();
    }
}

extern char __start_shared_memory[] __attribute__((visibility("hidden")));
extern char __stop_shared_memory[] __attribute__((visibility("hidden")));

static void run_grid(const char* name, Size grid, Size block, bool meets, const std::function<void()>& kernel)
{
    kernel_now = name;
    gridDim = grid;
    blockDim = block;
    body = &kernel;
    const uint64_t count = (uint64_t)grid.x * grid.y * grid.z;
    // A step that has no common factor with the count visits every block once.
    uint64_t first = chance(count), step = 1;
    for (int tries = 0; tries < 8; tries++) {
        const uint64_t candidate = 1 + chance(count);
        uint64_t a = candidate, b = count;
        while (b) {
            std::swap(a %= b, b);
        }
        if (a == 1) {
            step = candidate;
        }
    }
    for (uint64_t number = 0, at = first; number < count; number++, at = (at + step) % count) {
        blockIdx = { (unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y), (unsigned)(at / ((uint64_t)grid.x * grid.y)) };
        if (meets) {
            memset(__start_shared_memory, (int)chance(256), __stop_shared_memory - __start_shared_memory);
            run_block();
        } else {
            run_block_straight();
        }
    }
    kernel_now = nullptr;
}

// ---------------------------------------------------------------- what the kernels call

template <typename T>
static T __ldg(const T* at)
{
    if (reinterpret_cast<uintptr_t>(at) % sizeof(T) != 0) {
        harm("%s: a load of %zu bytes is not aligned", running().c_str(), sizeof(T));
    }
    return *at;
}
static bool meets_now;
template <typename T>
static T atomicAdd(T* at, T value)
{
    if (meets_now && chance(8) == 0) {
        give_way();
    }
    const T before = *at;
    *at += value;
    return before;
}
template <typename T>
static T atomicMin(T* at, T value)
{
    if (meets_now && chance(8) == 0) {
        give_way();
    }
    const T before = *at;
    *at = value < before ? value : before;
    return before;
}
static uint32_t __float_as_uint(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}
static float __uint_as_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static float __fdiv_rn(float a, float b) { return a / b; }
static uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift)
{
    return (uint32_t)(((uint64_t)high << 32 | low) >> (shift & 31));
}
static int __float2int_rn(float value)
{
    if (std::isnan(value)) {
        return 0;
    }
    const double whole = std::nearbyint((double)value);
    return whole >= 2147483647.0 ? INT_MAX : whole <= -2147483648.0 ? INT_MIN : (int)whole;
}
static long long clock64()
{
    static long long clock;
    return clock += 100000;
}

// To half precision, to the nearest and ties to even.
static uint16_t half_of(float value)
{
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const double magnitude = std::fabs((double)value);
    if (std::isnan(value)) {
        return 0x7fff;
    }
    if (magnitude >= 65520.0) {
        return sign | 0x7c00;
    }
    if (magnitude == 0.0) {
        return sign;
    }
    int exponent;
    std::frexp(magnitude, &exponent);
    // Units in the last place: 2^-24 for the smallest.
    const int unit = std::max(exponent - 11, -24);
    const int steps = (int)std::nearbyint(std::ldexp(magnitude, -unit));
    return (uint16_t)(sign | (unit == -24 ? steps : ((unit + 24) << 10) + steps));
}

#define __device__
#define __global__
#define __shared__ static __attribute__((section("shared_memory")))
#define __forceinline__ inline
#define __launch_bounds__(threads)
// The one instruction that the kernels name: cvt.rn.f16.f32 of `value` to `bits`.
#define asm(...) bits = half_of(value)

#include "../../kernels/arguments.cuh"
namespace prepare_file {
#include "../../kernels/prepare.cu"
}
namespace detections_file {
#include "../../kernels/detections.cu"
}
namespace logmel_file {
#include "../../kernels/logmel.cu"
}
namespace partition_file {
#include "../../kernels/partition.cu"
}
#undef asm

// ---------------------------------------------------------------- launches

template <typename T>
static void check_argument(const std::string& kernel, size_t number, const T&)
{
    (void)kernel;
    (void)number;
}
template <typename T>
static void check_argument(const std::string& kernel, size_t number, T* const& at)
{
    check_device((address_t)at, sizeof(T), "argument " + std::to_string(number) + " of " + kernel);
    if ((uintptr_t)at % alignof(T) != 0) {
        harm("argument %zu of %s is not aligned to %zu bytes", number, kernel.c_str(), alignof(T));
    }
}

struct Kernel {
    std::vector<size_t> bytes;
    std::function<std::function<void()>(Size, Size, void**)> launch;
};

template <typename... A, size_t... I>
static Kernel kernel_of(const char* name, void (*function)(A...), bool meets, std::index_sequence<I...>)
{
    auto launch = [=](Size grid, Size block, void** arguments) -> std::function<void()> {
        std::tuple<std::decay_t<A>...> taken;
        (memcpy(&std::get<I>(taken), arguments[I], sizeof(std::get<I>(taken))), ...);
        return [=] {
            (check_argument(name, I, std::get<I>(taken)), ...);
            meets_now = meets;
            run_grid(name, grid, block, meets, [&] { std::apply(function, taken); });
        };
    };
    return { { sizeof(std::decay_t<A>)... }, launch };
}

template <typename... A>
static Kernel kernel_of(const char* name, void (*function)(A...), bool meets)
{
    return kernel_of(name, function, meets, std::index_sequence_for<A...>());
}

static const std::map<std::string, Kernel>& kernels()
{
    static const std::map<std::string, Kernel> all = {
        { "prepare_f32", kernel_of("prepare_f32", prepare_file::prepare_f32, false) },
        { "prepare_f16", kernel_of("prepare_f16", prepare_file::prepare_f16, false) },
        { "prepare_i32", kernel_of("prepare_i32", prepare_file::prepare_i32, false) },
        { "candidates_dfl", kernel_of("candidates_dfl", detections_file::candidates_dfl, true) },
        { "candidates_rows", kernel_of("candidates_rows", detections_file::candidates_rows, false) },
        { "select_boxes", kernel_of("select_boxes", detections_file::select_boxes, true) },
        { "log_mel", kernel_of("log_mel", logmel_file::log_mel, true) },
        { "wait_clocks", kernel_of("wait_clocks", partition_file::wait_clocks, false) },
    };
    return all;
}

std::vector<size_t> argument_bytes(const std::string& kernel)
{
    const auto found = kernels().find(kernel);
    return found == kernels().end() ? std::vector<size_t>() : found->second.bytes;
}

std::function<void()> launch_of(const std::string& kernel, Size grid, Size block, void** arguments)
{
    const auto found = kernels().find(kernel);
    return found == kernels().end() ? nullptr : found->second.launch(grid, block, arguments);
}
