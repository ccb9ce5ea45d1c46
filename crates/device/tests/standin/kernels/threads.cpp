// Threads of a block, as contexts that take turns at barriers, exchanges and some atomic operations, in an order that
// the seed chooses. It knows no kernel by name, and nothing of memory but the noise that shared memory starts with.

#include "../kernels.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

Size gridDim, blockDim, blockIdx, threadIdx;
bool meets_now;
static const char* kernel_now = nullptr;

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

void give_way() { take_turn(&fibers[current].at, scheduler); }

static void open(Barrier& barrier)
{
    barrier.arrived = 0;
    barrier.turn++;
}

static void meet(Barrier& barrier, const unsigned& expected, int line)
{
    if (barrier.arrived > 0 && barrier.line != line) {
        harm("%s: waits in line %d while others of its block or warp wait in line %d", running().c_str(), line,
            barrier.line);
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

void meet_block(int line) { meet(block_barrier, alive, line); }

uint32_t exchange_bits(unsigned mask, uint32_t value, unsigned from, int line)
{
    const unsigned warp = current / 32;
    if (mask != 0xffffffffu) {
        harm("%s: an exchange among some lanes, which is not stood in for", running().c_str());
    }
    fibers[current].exchanged = value;
    meet(warp_barriers[warp], alive_in_warp[warp], line);
    const unsigned at = warp * 32 + from % 32;
    if (at >= fibers.size() || fibers[at].finished) {
        harm("%s: asks a lane that is not there any more", running().c_str());
    }
    value = fibers[at].exchanged;
    meet(warp_barriers[warp], alive_in_warp[warp], -line);
    return value;
}

unsigned lane_now() { return current % 32; }

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

void run_grid(const char* name, Size grid, Size block, bool meets, const std::function<void()>& kernel)
{
    kernel_now = name;
    gridDim = grid;
    blockDim = block;
    body = &kernel;
    meets_now = meets;
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
        const uint64_t layer = (uint64_t)grid.x * grid.y;
        blockIdx = { (unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y), (unsigned)(at / layer) };
        if (meets) {
            memset(__start_shared_memory, (int)chance(256), __stop_shared_memory - __start_shared_memory);
            run_block();
        } else {
            run_block_straight();
        }
    }
    kernel_now = nullptr;
}
