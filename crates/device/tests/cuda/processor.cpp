// Runs the kernels' own source on a processor, thread by thread, so that a test can compare it with the twins where there
// is no GPU. Threads of a block are contexts that take turns at barriers and exchanges; buffers end at a page that may not
// be touched. It says nothing about speed, and nothing about what NVRTC or a GPU make of the source.
//
//   processor KERNEL GRID_X GRID_Y GRID_Z BLOCK_X BLOCK_Y BLOCK_Z
//
// Standard input and output: the kernel's arguments in order, each as a length of 8 bytes and so many bytes.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

struct Size {
    unsigned x, y, z;
};
static Size gridDim, blockDim, blockIdx, threadIdx;

struct float2 {
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

// ---------------------------------------------------------------- threads that take turns

struct Barrier {
    unsigned arrived = 0, turn = 0;
};

static ucontext_t scheduler;
static std::vector<ucontext_t> contexts;
static std::vector<Size> places;
static std::vector<char> finished;
static std::vector<std::vector<char>> stacks;
static std::vector<unsigned> alive_in_warp;
static std::vector<Barrier> warp_barriers;
static std::vector<uint32_t> exchanged;
static Barrier block_barrier;
static unsigned current, alive;
static std::function<void()> body;

static void give_way() { swapcontext(&contexts[current], &scheduler); }

static void meet(Barrier& barrier, const unsigned& expected)
{
    const unsigned turn = barrier.turn;
    barrier.arrived++;
    while (barrier.turn == turn) {
        if (barrier.arrived >= expected) {
            barrier.arrived = 0;
            barrier.turn++;
        } else {
            give_way();
        }
    }
}

static void __syncthreads() { meet(block_barrier, alive); }

template <typename T>
static T exchange(T value, unsigned from)
{
    static_assert(sizeof(T) == 4, "32 bits at a time");
    const unsigned warp = current / 32;
    memcpy(&exchanged[current], &value, 4);
    meet(warp_barriers[warp], alive_in_warp[warp]);
    memcpy(&value, &exchanged[warp * 32 + from % 32], 4);
    meet(warp_barriers[warp], alive_in_warp[warp]);
    return value;
}

template <typename T>
static T __shfl_xor_sync(unsigned, T value, int distance)
{
    return exchange(value, (current % 32) ^ distance);
}
template <typename T>
static T __shfl_sync(unsigned, T value, int lane)
{
    return exchange(value, lane);
}

static void run_thread()
{
    body();
    finished[current] = 1;
    alive--;
    alive_in_warp[current / 32]--;
    give_way();
}

static void run_block()
{
    const unsigned count = blockDim.x * blockDim.y * blockDim.z;
    contexts.resize(count);
    stacks.resize(count);
    places.resize(count);
    finished.assign(count, 0);
    exchanged.assign((count + 31) / 32 * 32, 0);
    warp_barriers.assign((count + 31) / 32, Barrier());
    alive_in_warp.assign((count + 31) / 32, 0);
    block_barrier = Barrier();
    alive = count;
    for (unsigned at = 0; at < count; at++) {
        places[at] = { at % blockDim.x, at / blockDim.x % blockDim.y, at / (blockDim.x * blockDim.y) };
        alive_in_warp[at / 32]++;
        stacks[at].resize(32 << 10);
        getcontext(&contexts[at]);
        contexts[at].uc_stack.ss_sp = stacks[at].data();
        contexts[at].uc_stack.ss_size = stacks[at].size();
        contexts[at].uc_link = &scheduler;
        makecontext(&contexts[at], run_thread, 0);
    }
    // Forwards and backwards in turn: what depends on the order of threads shows.
    for (unsigned round = 0; alive > 0; round++) {
        for (unsigned step = 0; step < count; step++) {
            const unsigned at = round % 2 == 0 ? step : count - 1 - step;
            if (!finished[at]) {
                current = at;
                threadIdx = places[at];
                swapcontext(&scheduler, &contexts[at]);
            }
        }
    }
}

// Threads that never meet need no contexts of their own.
static void run_block_straight()
{
    for (threadIdx.z = 0; threadIdx.z < blockDim.z; threadIdx.z++) {
        for (threadIdx.y = 0; threadIdx.y < blockDim.y; threadIdx.y++) {
            for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) {
                body();
            }
        }
    }
}

static void launch(std::function<void()> kernel, bool meet = true)
{
    body = std::move(kernel);
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++) {
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++) {
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) {
                meet ? run_block() : run_block_straight();
            }
        }
    }
}

// ---------------------------------------------------------------- what the kernels call

template <typename T>
static T __ldg(const T* at)
{
    if (reinterpret_cast<uintptr_t>(at) % sizeof(T) != 0) {
        fprintf(stderr, "a load of %zu bytes is not aligned\n", sizeof(T));
        abort();
    }
    return *at;
}
template <typename T>
static T atomicAdd(T* at, T value)
{
    const T before = *at;
    *at += value;
    return before;
}
template <typename T>
static T atomicMin(T* at, T value)
{
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
    return whole >= 2147483647.0 ? INT32_MAX : whole <= -2147483648.0 ? INT32_MIN : (int)whole;
}

// To half precision, to the nearest and ties to even.
static uint16_t half_of(float value)
{
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const double magnitude = std::fabs((double)value);
    if (std::isnan(value)) {
        return sign | 0x7fff;
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
#define __shared__ static
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

// ---------------------------------------------------------------- arguments in and out

struct Buffer {
    char* data;
    size_t bytes;
    template <typename T>
    T* as() const { return reinterpret_cast<T*>(data); }
};

// Its end, rounded up to 16 bytes, lies at a page that may not be touched.
static Buffer buffer_of(size_t bytes)
{
    const size_t page = 4096, room = (bytes + 15) / 16 * 16, pages = (room + page - 1) / page * page;
    char* base = (char*)mmap(nullptr, pages + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect(base + pages, page, PROT_NONE) != 0) {
        perror("memory");
        exit(2);
    }
    return { base + pages - room, bytes };
}

int main(int count, char** words)
{
    if (count != 8) {
        fprintf(stderr, "processor KERNEL GRID_X GRID_Y GRID_Z BLOCK_X BLOCK_Y BLOCK_Z\n");
        return 2;
    }
    const std::string kernel = words[1];
    unsigned sizes[6];
    for (int at = 0; at < 6; at++) {
        sizes[at] = (unsigned)strtoul(words[at + 2], nullptr, 10);
    }
    gridDim = { sizes[0], sizes[1], sizes[2] };
    blockDim = { sizes[3], sizes[4], sizes[5] };
    std::vector<Buffer> b;
    uint64_t bytes;
    while (fread(&bytes, 8, 1, stdin) == 1) {
        b.push_back(buffer_of(bytes));
        if (fread(b.back().data, 1, bytes, stdin) != bytes) {
            fprintf(stderr, "the input ends early\n");
            return 2;
        }
    }
    if (kernel == "prepare_f32") {
        launch([&] { prepare_file::prepare_f32(b[1].as<u8>(), b[2].as<ImageSource>(), *b[0].as<PrepareStep>(), b[3].as<f32>()); }, false);
    } else if (kernel == "prepare_f16") {
        launch([&] { prepare_file::prepare_f16(b[1].as<u8>(), b[2].as<ImageSource>(), *b[0].as<PrepareStep>(), b[3].as<prepare_file::Half>()); }, false);
    } else if (kernel == "prepare_i32") {
        launch([&] { prepare_file::prepare_i32(b[1].as<u8>(), b[2].as<ImageSource>(), *b[0].as<PrepareStep>(), b[3].as<i32>()); }, false);
    } else if (kernel == "candidates_dfl") {
        // The step, keys, boxes and classes, then scores and distances of each level.
        const DflStep step = *b[0].as<DflStep>();
        DflOutputs outputs = {};
        for (u32 level = 0; level < step.level_count; level++) {
            outputs.scores[level] = (u64)b[4 + 2 * level].data;
            outputs.distances[level] = (u64)b[5 + 2 * level].data;
        }
        launch([&] { detections_file::candidates_dfl(step, outputs, b[1].as<u64>(), b[2].as<float4>(), b[3].as<u32>()); });
    } else if (kernel == "candidates_rows") {
        launch([&] { detections_file::candidates_rows(*b[0].as<RowsStep>(), b[4].as<f32>(), b[1].as<u64>(), b[2].as<float4>(), b[3].as<u32>()); });
    } else if (kernel == "select_boxes") {
        launch([&] { detections_file::select_boxes(*b[0].as<SelectStep>(), b[1].as<u64>(), b[2].as<float4>(), b[3].as<u32>(), b[4].as<Geometry>(), b[5].as<Outcome>(), b[6].as<Found>()); });
    } else if (kernel == "log_mel") {
        launch([&] { logmel_file::log_mel(*b[0].as<LogMelStep>(), b[1].as<f32>(), b[2].as<SoundSource>(), b[3].as<f32>(), b[4].as<float2>(), b[5].as<u32>(), b[6].as<f32>(), b[7].as<f32>()); });
    } else {
        fprintf(stderr, "there is no kernel %s\n", kernel.c_str());
        return 2;
    }
    for (const Buffer& one : b) {
        bytes = one.bytes;
        fwrite(&bytes, 8, 1, stdout);
        fwrite(one.data, 1, one.bytes, stdout);
    }
    return fflush(stdout) == 0 ? 0 : 2;
}
