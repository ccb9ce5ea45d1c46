// Stands in for CUDA's driver on a machine that has none, for tests of the code that calls it. It is as lazy and as
// contrary as the real one may be: what is queued on streams runs when somebody waits or asks, in an order that the seed
// chooses and that only the streams and their events bind. Copies from ordinary memory take their bytes at the call, those
// from pinned memory when they run. Each piece of the device's memory ends at a page that may not be touched, and is there
// only from when its stream has come to its allocation until it has come to its end. It ends the process where the real
// driver would do harm in silence. What it does not show: how long anything takes, what NVRTC or a GPU make of the
// kernels, and work that runs at the same moment.

#include "standin.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <elf.h>
#include <fstream>
#include <map>
#include <set>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

std::recursive_mutex everything;

void harm(const char* format, ...)
{
    char text[600];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "harm (seed %llu): %s\n", (unsigned long long)setting("STANDIN_SEED", 0), text);
    abort();
}

uint64_t setting(const char* name, uint64_t otherwise)
{
    const char* text = getenv(name);
    return text ? strtoull(text, nullptr, 10) : otherwise;
}

uint64_t chance(uint64_t below)
{
    // Splitmix (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
    static uint64_t state = (setting("STANDIN_SEED", 0) + 1) * 0xd1342543de82ef95u;
    uint64_t mixed = state += 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
    return below == 0 ? 0 : (mixed ^ mixed >> 31) % below;
}

// ---------------------------------------------------------------- codes and handles

enum {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700,
    OUT_OF_RESOURCES = 701, ALREADY_REGISTERED = 712, NOT_REGISTERED = 713, NOT_SUPPORTED = 801
};

static bool is_initialized;
static int context_of_all;
static thread_local void* current_context;
// After it every call fails.
static int sticky;
// Work is counted and copied, and not done: for measurements, whose work is more than a processor does in time.
static const bool is_dry = setting("STANDIN_DRY", 0) != 0;
static double now_us;

struct Stream {
    // How many were made before: they are chosen from in this order, whatever their addresses are.
    unsigned number = 0;
    int priority = 0;
    std::deque<Operation> queued;
};

struct Event {
    std::shared_ptr<Marker> last;
    bool is_timed;
};

static Stream default_stream;
static std::set<Stream*> streams;
static std::set<Event*> events;

#define ENTER                                                                                                          \
    Locked locked(everything);                                                                                         \
    if (!is_initialized) {                                                                                             \
        return NOT_INITIALIZED;                                                                                        \
    }                                                                                                                  \
    if (sticky) {                                                                                                      \
        return sticky;                                                                                                 \
    }                                                                                                                  \
    if (!current_context) {                                                                                            \
        return INVALID_CONTEXT;                                                                                        \
    }

Stream* stream_of(void* handle)
{
    if (!handle) {
        return &default_stream;
    }
    Stream* stream = static_cast<Stream*>(handle);
    if (!streams.count(stream)) {
        harm("a stream is used that is not there (any more)");
    }
    return stream;
}

static Event* event_of(void* handle)
{
    Event* event = static_cast<Event*>(handle);
    if (!events.count(event)) {
        harm("an event is used that is not there (any more)");
    }
    return event;
}

// ---------------------------------------------------------------- what runs when

static std::vector<Stream*> all_streams()
{
    std::vector<Stream*> all(streams.begin(), streams.end());
    all.push_back(&default_stream);
    return all;
}

static bool can_run(const Stream* stream)
{
    if (stream->queued.empty()) {
        return false;
    }
    const Operation& next = stream->queued.front();
    return next.waits_for ? next.waits_for->done : !next.exchange || next.exchange->can_run();
}

static void run_next(Stream* stream)
{
    // Out of the queue only when it is done: others look for it there.
    Operation& next = stream->queued.front();
    now_us += 1.0 + (double)chance(10);
    if (next.run && !sticky) {
        next.run();
    }
    stream->queued.pop_front();
}

// Runs one operation of some stream that can; false where none can.
static bool step()
{
    std::vector<Stream*> able;
    for (Stream* stream : all_streams()) {
        if (can_run(stream)) {
            able.push_back(stream);
        }
    }
    if (able.empty()) {
        return false;
    }
    std::sort(able.begin(), able.end(), [](const Stream* a, const Stream* b) { return a->number < b->number; });
    run_next(able[chance(able.size())]);
    return true;
}

bool is_next(const Stream* stream, const Exchange* exchange)
{
    return !stream->queued.empty() && stream->queued.front().exchange == exchange;
}

static void blocked(Stream* stream)
{
    for (const Stream* other : all_streams()) {
        if (!other->queued.empty() && other->queued.front().exchange) {
            harm("a stream that may never be done is waited for without a limit");
        }
    }
    harm("a stream waits for ever: %s", stream->queued.front().what.c_str());
}

// Runs what this needs and, unless it is to be only that, other things too.
static void run_until(Stream* stream, const std::function<bool()>& is_done, bool only_needed)
{
    while (!is_done()) {
        if (only_needed && can_run(stream)) {
            run_next(stream);
        } else if (only_needed && !stream->queued.empty() && stream->queued.front().waits_for) {
            const std::shared_ptr<Marker> other = stream->queued.front().waits_for;
            run_until(other->stream, [&] { return other->done; }, true);
        } else if (!step()) {
            blocked(stream);
        }
    }
}

void finish(Stream* stream)
{
    run_until(stream, [&] { return stream->queued.empty(); }, chance(2));
}

static void finish(const std::shared_ptr<Marker>& marker)
{
    run_until(marker->stream, [&] { return marker->done; }, chance(2));
}

void queue(Stream* stream, Operation operation)
{
    stream->queued.push_back(std::move(operation));
    // By seed never, sometimes, or as soon as can be.
    const uint64_t eagerness = setting("STANDIN_SEED", 0) % 3;
    if (eagerness == 2) {
        while (step()) {
        }
    } else if (eagerness == 1) {
        for (uint64_t steps = chance(3); steps > 0; steps--) {
            step();
        }
    }
}

static void behind_an_exchange(const Stream* stream, const char* what)
{
    for (const Operation& operation : stream->queued) {
        if (operation.exchange && !operation.exchange->is_over()) {
            harm("%s is queued behind an exchange that may never be done", what);
        }
    }
}

// ---------------------------------------------------------------- memory of the device

enum State { COMING, THERE, GONE };

struct Memory {
    char* mapping;
    size_t mapping_bytes;
    char* data;
    size_t bytes;
    State state;
};

static const size_t PAGE = 4096;
static const unsigned char NOISE = 0xff;
static const size_t DEVICE_BYTES = (size_t)80 << 30;
static std::map<address_t, Memory> memories;
static size_t used_bytes;

static Memory* memory_at(address_t at)
{
    auto after = memories.upper_bound(at);
    if (after == memories.begin()) {
        return nullptr;
    }
    Memory& memory = std::prev(after)->second;
    return at < (address_t)(memory.mapping + memory.mapping_bytes) ? &memory : nullptr;
}

// Between two pages that may not be touched, at the end, which is rounded up to 16 bytes.
static Memory* new_memory(size_t bytes)
{
    const size_t room = (bytes + 15) / 16 * 16, pages = (room + PAGE - 1) / PAGE * PAGE;
    void* mapping = mmap(nullptr, pages + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) {
        return nullptr;
    }
    char* data = (char*)mapping + PAGE + pages - room;
    used_bytes += bytes;
    return &(memories[(address_t)data] = { (char*)mapping, pages + 2 * PAGE, data, bytes, COMING });
}

static void appear(Memory* memory)
{
    char* start = memory->mapping + PAGE;
    const size_t bytes = memory->mapping_bytes - 2 * PAGE;
    mprotect(start, bytes, PROT_READ | PROT_WRITE);
    if (!is_dry) {
        memset(start, NOISE, bytes);
    }
    memory->state = THERE;
}

static void vanish(Memory* memory)
{
    for (const char* at = memory->mapping + PAGE; !is_dry && at < memory->data; at++) {
        if (*(const unsigned char*)at != NOISE) {
            harm("somebody wrote %zu bytes before the start of memory of %zu bytes", (size_t)(memory->data - at), memory->bytes);
        }
    }
    // The addresses are not used again.
    mmap(memory->mapping, memory->mapping_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    memory->state = GONE;
    used_bytes -= memory->bytes;
}

char* device_memory(size_t bytes)
{
    Memory* memory = new_memory(bytes);
    if (!memory) {
        return nullptr;
    }
    appear(memory);
    return memory->data;
}

void device_memory_goes(char* at) { vanish(memory_at((address_t)at)); }

void check_device(address_t at, size_t bytes, const std::string& what)
{
    const Memory* memory = memory_at(at);
    if (!memory || (char*)at < memory->data) {
        harm("%s: address %#llx is no memory of the device", what.c_str(), at);
    }
    if (memory->state != THERE) {
        harm("%s: memory of %zu bytes is used %s", what.c_str(), memory->bytes,
            memory->state == COMING ? "before its allocation has run" : "after it was freed");
    }
    if ((char*)at + bytes > memory->data + memory->bytes) {
        harm("%s: %zu bytes from byte %zu of memory of %zu bytes", what.c_str(), bytes,
            (size_t)((char*)at - memory->data), memory->bytes);
    }
}

// A signal's stack that has room for what the handler says; the one that a thread has by itself is small.
static void widen_signal_stack()
{
    static thread_local bool is_wide;
    if (is_wide) {
        return;
    }
    is_wide = true;
    const size_t bytes = 128 << 10;
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const stack_t stack = { at, 0, bytes };
    sigaltstack(&stack, nullptr);
}

static void fault(int, siginfo_t* info, void*)
{
    // Another one from here on ends the process.
    signal(SIGSEGV, SIG_DFL);
    signal(SIGBUS, SIG_DFL);
    const address_t at = (address_t)info->si_addr;
    const Memory* memory = memory_at(at);
    // Where memory starts in its mapping, the page before it belongs to it.
    if (!memory) {
        for (const auto& [data, other] : memories) {
            if ((char*)at >= other.mapping && (char*)at < other.data) {
                memory = &other;
            }
        }
    }
    if (!memory && running() == "no kernel") {
        return;
    }
    if (!memory) {
        harm("%s: address %#llx, where no memory of the device is", running().c_str(), at);
    }
    harm("%s: byte %lld of memory of %zu bytes%s", running().c_str(), (long long)((char*)at - memory->data), memory->bytes,
        memory->state == THERE ? "" : memory->state == COMING ? ", whose allocation has not run" : ", which was freed");
}

// ---------------------------------------------------------------- memory of the host

struct Pinned {
    size_t bytes;
    bool is_registered, is_read_only;
};

static std::map<const char*, Pinned> pinned;

// The pinned memory that these bytes lie in; null: they are ordinary ones.
static const Pinned* pinned_at(const void* at, size_t bytes)
{
    const char* from = (const char*)at;
    auto after = pinned.upper_bound(from);
    if (after != pinned.begin()) {
        const auto& [start, memory] = *std::prev(after);
        if (from + bytes <= start + memory.bytes) {
            return &memory;
        }
        if (from < start + memory.bytes) {
            harm("%zu bytes of which some are pinned and some are not", bytes);
        }
    }
    if (after != pinned.end() && from + bytes > after->first) {
        harm("%zu bytes of which some are pinned and some are not", bytes);
    }
    return nullptr;
}

static void check_host(const void* at, size_t bytes, const char* what)
{
    const Memory* memory = memory_at((address_t)at);
    if (memory && bytes > 0) {
        harm("%s: the host's side is memory of the device", what);
    }
}

static void check_unused(const char* start, size_t bytes, const char* what)
{
    for (const Stream* stream : all_streams()) {
        for (const Operation& operation : stream->queued) {
            if (operation.host && operation.host < start + bytes && start < operation.host + operation.host_bytes) {
                harm("pinned memory is %s while this is queued: %s", what, operation.what.c_str());
            }
        }
    }
}

static bool is_writable(const char* start, size_t bytes)
{
    std::ifstream maps("/proc/self/maps");
    std::string line;
    while (std::getline(maps, line)) {
        unsigned long long from, to;
        char may[8];
        if (sscanf(line.c_str(), "%llx-%llx %7s", &from, &to, may) == 3 && from < (address_t)(start + bytes)
            && to > (address_t)start && may[1] != 'w') {
            return false;
        }
    }
    return true;
}

extern "C" {

int cuMemHostAlloc(void** at, size_t bytes, unsigned)
{
    ENTER
    Memory* memory = new_memory(bytes);
    if (!memory) {
        return OUT_OF_MEMORY;
    }
    appear(memory);
    used_bytes -= bytes;
    *at = memory->data;
    pinned[memory->data] = { bytes, false, false };
    // Not the device's.
    memories.erase((address_t)memory->data);
    return OK;
}

int cuMemFreeHost(void* at)
{
    ENTER
    auto found = pinned.find((char*)at);
    if (found == pinned.end() || found->second.is_registered) {
        return INVALID_VALUE;
    }
    check_unused(found->first, found->second.bytes, "freed");
    const size_t pages = (found->second.bytes + PAGE - 1) / PAGE * PAGE;
    mprotect((char*)((uintptr_t)at / PAGE * PAGE), pages, PROT_NONE);
    pinned.erase(found);
    return OK;
}

int cuMemHostRegister_v2(void* at, size_t bytes, unsigned flags)
{
    ENTER
    const unsigned portable = 1, read_only = 8;
    if (bytes == 0 || flags & ~(portable | read_only)) {
        return INVALID_VALUE;
    }
    if (pinned_at(at, bytes)) {
        return ALREADY_REGISTERED;
    }
    const bool can_read_only = setting("STANDIN_READ_ONLY", 1) != 0;
    if ((flags & read_only) ? !can_read_only : !is_writable((char*)at, bytes)) {
        return NOT_SUPPORTED;
    }
    pinned[(char*)at] = { bytes, true, (flags & read_only) != 0 };
    return OK;
}

int cuMemHostUnregister(void* at)
{
    ENTER
    auto found = pinned.find((char*)at);
    if (found == pinned.end() || !found->second.is_registered) {
        return NOT_REGISTERED;
    }
    check_unused(found->first, found->second.bytes, "unregistered");
    pinned.erase(found);
    return OK;
}

// ---------------------------------------------------------------- the device and its context

int cuInit(unsigned)
{
    Locked locked(everything);
    if (!is_initialized) {
        struct sigaction action = {};
        action.sa_sigaction = fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &action, nullptr);
        sigaction(SIGBUS, &action, nullptr);
    }
    is_initialized = true;
    return OK;
}

int cuDriverGetVersion(int* version) { return *version = (int)setting("STANDIN_VERSION", 13000), OK; }
int cuDeviceGet(int* device, int ordinal) { return ordinal == 0 ? (*device = 0, OK) : INVALID_DEVICE; }
int cuDeviceGetCount(int* count) { return *count = 1, OK; }
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = &context_of_all, OK; }
int cuDevicePrimaryCtxRelease_v2(int) { return OK; }

int cuDeviceGetName(char* name, int bytes, int)
{
    snprintf(name, (size_t)bytes, "stand-in");
    return OK;
}

int cuDeviceGetUuid_v2(void* uuid, int)
{
    for (int at = 0; at < 16; at++) {
        ((unsigned char*)uuid)[at] = (unsigned char)(at * 17);
    }
    return OK;
}

int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = DEVICE_BYTES, OK; }

int cuDeviceGetAttribute(int* value, int attribute, int)
{
    switch (attribute) {
    case 1: *value = 1024; break;
    case 13: *value = 1755000; break;
    case 16: *value = 132; break;
    case 39: *value = 2048; break;
    case 75: *value = 9; break;
    case 76: *value = 0; break;
    case 113: *value = (int)setting("STANDIN_READ_ONLY_SAID", 1); break;
    case 115: *value = (int)setting("STANDIN_POOLS", 1); break;
    default: *value = 0;
    }
    return OK;
}

int cuCtxSetCurrent(void* context)
{
    widen_signal_stack();
    current_context = context;
    return OK;
}

int cuCtxGetCurrent(void** context) { return *context = current_context, is_initialized ? OK : NOT_INITIALIZED; }

int cuCtxSynchronize(void)
{
    ENTER
    for (Stream* stream : all_streams()) {
        finish(stream);
    }
    return sticky;
}

int cuCtxGetStreamPriorityRange(int* least, int* greatest)
{
    ENTER
    *least = 0;
    *greatest = -5;
    return OK;
}

int cuMemGetInfo_v2(size_t* free, size_t* total)
{
    ENTER
    *total = DEVICE_BYTES;
    *free = DEVICE_BYTES - used_bytes;
    return OK;
}

int cuGetErrorName(int, const char** name) { return *name = "error", OK; }
int cuGetErrorString(int, const char** text) { return *text = "error of the stand-in", OK; }

// ---------------------------------------------------------------- streams and events

int cuStreamCreateWithPriority(void** made, unsigned flags, int priority)
{
    ENTER
    if (flags != 1) {
        harm("a stream that waits for the default one, which is not stood in for");
    }
    static unsigned made_before;
    Stream* stream = new Stream;
    stream->number = ++made_before;
    // The real one takes what lies outside for the nearest.
    stream->priority = std::clamp(priority, -5, 0);
    streams.insert(stream);
    *made = stream;
    return OK;
}

int cuStreamCreate(void** made, unsigned flags) { return cuStreamCreateWithPriority(made, flags, 0); }

int cuStreamGetPriority(void* handle, int* priority)
{
    ENTER
    *priority = stream_of(handle)->priority;
    return OK;
}

int cuStreamDestroy_v2(void* handle)
{
    ENTER
    Stream* stream = stream_of(handle);
    // The real one goes when its work is done.
    finish(stream);
    streams.erase(stream);
    return OK;
}

int cuStreamSynchronize(void* handle)
{
    ENTER
    finish(stream_of(handle));
    return sticky;
}

int cuStreamQuery(void* handle)
{
    ENTER
    Stream* stream = stream_of(handle);
    for (uint64_t steps = chance(3); steps > 0; steps--) {
        step();
    }
    return sticky ? sticky : stream->queued.empty() ? OK : NOT_READY;
}

int cuEventCreate(void** made, unsigned flags)
{
    ENTER
    Event* event = new Event { nullptr, (flags & 2) == 0 };
    events.insert(event);
    *made = event;
    return OK;
}

int cuEventDestroy_v2(void* handle)
{
    ENTER
    Event* event = event_of(handle);
    events.erase(event);
    delete event;
    return OK;
}

int cuEventRecord(void* handle, void* on)
{
    ENTER
    Event* event = event_of(handle);
    Stream* stream = stream_of(on);
    std::shared_ptr<Marker> marker = std::make_shared<Marker>();
    marker->stream = stream;
    event->last = marker;
    queue(stream, { "an event", [marker] {
        marker->done = true;
        marker->us = now_us;
    } });
    return OK;
}

int cuStreamWaitEvent(void* on, void* handle, unsigned)
{
    ENTER
    const Event* event = event_of(handle);
    // For its last record, as it is now; one that was never recorded is done.
    if (event->last && !event->last->done) {
        queue(stream_of(on), { "a wait for an event", nullptr, event->last });
    }
    return OK;
}

int cuEventQuery(void* handle)
{
    ENTER
    const Event* event = event_of(handle);
    for (uint64_t steps = chance(3); steps > 0; steps--) {
        step();
    }
    return sticky ? sticky : !event->last || event->last->done ? OK : NOT_READY;
}

int cuEventSynchronize(void* handle)
{
    ENTER
    const Event* event = event_of(handle);
    if (event->last) {
        finish(std::shared_ptr<Marker>(event->last));
    }
    return sticky;
}

int cuEventElapsedTime_v2(float* ms, void* from, void* to)
{
    ENTER
    const Event *began = event_of(from), *ended = event_of(to);
    if (!began->is_timed || !ended->is_timed || !began->last || !ended->last) {
        return INVALID_HANDLE;
    }
    if (!began->last->done || !ended->last->done) {
        return NOT_READY;
    }
    *ms = (float)((ended->last->us - began->last->us) / 1e3);
    return OK;
}

int cuEventElapsedTime(float* ms, void* from, void* to) { return cuEventElapsedTime_v2(ms, from, to); }

// ---------------------------------------------------------------- allocations and copies

int cuMemAlloc_v2(address_t* at, size_t bytes)
{
    ENTER
    if (bytes == 0) {
        return INVALID_VALUE;
    }
    *at = (address_t)device_memory(bytes);
    return *at ? OK : OUT_OF_MEMORY;
}

int cuMemFree_v2(address_t at)
{
    ENTER
    Memory* memory = memory_at(at);
    if (!memory || memory->data != (char*)at || memory->state != THERE) {
        return INVALID_VALUE;
    }
    for (Stream* stream : all_streams()) {
        for (const Operation& operation : stream->queued) {
            if (operation.exchange && !operation.exchange->is_over() && operation.exchange->uses(at)) {
                harm("memory is freed that an exchange may still use");
            }
        }
    }
    // The real one waits for the device.
    for (Stream* stream : all_streams()) {
        while (can_run(stream)) {
            run_next(stream);
        }
    }
    vanish(memory);
    return OK;
}

int cuMemAllocAsync(address_t* at, size_t bytes, void* on)
{
    ENTER
    if (bytes == 0) {
        return INVALID_VALUE;
    }
    Memory* memory = new_memory(bytes);
    if (!memory) {
        return OUT_OF_MEMORY;
    }
    *at = (address_t)memory->data;
    queue(stream_of(on), { "an allocation", [memory] { appear(memory); } });
    return OK;
}

int cuMemFreeAsync(address_t at, void* on)
{
    ENTER
    Memory* memory = memory_at(at);
    if (!memory || memory->data != (char*)at || memory->state == GONE) {
        return INVALID_VALUE;
    }
    queue(stream_of(on), { "the end of an allocation", [memory] {
        if (memory->state != THERE) {
            harm("memory of %zu bytes is freed %s", memory->bytes, memory->state == COMING ? "before it is there" : "twice");
        }
        vanish(memory);
    } });
    return OK;
}

int cuMemsetD8Async(address_t at, unsigned char byte, size_t bytes, void* on)
{
    ENTER
    queue(stream_of(on), { "a fill", [=] {
        check_device(at, bytes, "a fill");
        if (!is_dry) {
            memset((void*)at, byte, bytes);
        }
    } });
    return OK;
}

int cuMemcpyHtoDAsync_v2(address_t to, const void* from, size_t bytes, void* on)
{
    ENTER
    Stream* stream = stream_of(on);
    behind_an_exchange(stream, "a copy");
    check_host(from, bytes, "a copy to the device");
    const std::string what = "a copy of " + std::to_string(bytes) + " bytes to the device";
    if (pinned_at(from, bytes)) {
        queue(stream, { what, [=] {
            check_device(to, bytes, what);
            memcpy((void*)to, from, bytes);
        }, nullptr, nullptr, (const char*)from, bytes });
        return OK;
    }
    std::vector<char> taken((const char*)from, (const char*)from + bytes);
    queue(stream, { what, [=] {
        check_device(to, bytes, what);
        memcpy((void*)to, taken.data(), bytes);
    } });
    return OK;
}

int cuMemcpyDtoHAsync_v2(void* to, address_t from, size_t bytes, void* on)
{
    ENTER
    Stream* stream = stream_of(on);
    behind_an_exchange(stream, "a copy");
    check_host(to, bytes, "a copy from the device");
    const std::string what = "a copy of " + std::to_string(bytes) + " bytes from the device";
    const Pinned* memory = pinned_at(to, bytes);
    if (memory && memory->is_read_only) {
        harm("%s goes to memory that is pinned for reading only", what.c_str());
    }
    queue(stream, { what, [=] {
        check_device(from, bytes, what);
        memcpy(to, (const void*)from, bytes);
    }, nullptr, nullptr, memory ? (const char*)to : nullptr, memory ? bytes : 0 });
    if (!memory) {
        finish(stream);
    }
    return sticky;
}

int cuMemcpyDtoDAsync_v2(address_t to, address_t from, size_t bytes, void* on)
{
    ENTER
    queue(stream_of(on), { "a copy within the device", [=] {
        check_device(to, bytes, "a copy within the device");
        check_device(from, bytes, "a copy within the device");
        if (!is_dry) {
            memcpy((void*)to, (const void*)from, bytes);
        }
    } });
    return OK;
}

} // extern "C"

// ---------------------------------------------------------------- kernels

struct Function {
    std::string name;
    unsigned threads_max;
};

struct Module {
    // The whole file: null for text.
    std::vector<char> image;
    std::string text;
    std::map<std::string, std::unique_ptr<Function>> functions;
};

static std::set<Module*> modules;
static std::set<const Function*> functions;

// What the compiler wrote down of a kernel: the bytes of each argument, and most threads of a block. See NVIDIA's
// cuobjdump -elf of any cubin: `.nv.info.NAME` is a list of (format, attribute, length, values).
static bool read_information(const std::vector<char>& image, const std::string& name, std::vector<size_t>& bytes, unsigned& threads_max)
{
    const Elf64_Ehdr* header = (const Elf64_Ehdr*)image.data();
    const Elf64_Shdr* sections = (const Elf64_Shdr*)(image.data() + header->e_shoff);
    const char* names = image.data() + sections[header->e_shstrndx].sh_offset;
    bool has_code = false;
    for (int number = 0; number < header->e_shnum; number++) {
        const Elf64_Shdr& section = sections[number];
        has_code |= names + section.sh_name == ".text." + name;
        if (names + section.sh_name != ".nv.info." + name) {
            continue;
        }
        const unsigned char* at = (const unsigned char*)image.data() + section.sh_offset;
        const unsigned char* end = at + section.sh_size;
        while (at + 4 <= end) {
            uint16_t length;
            memcpy(&length, at + 2, 2);
            const int format = at[0], attribute = at[1];
            const unsigned char* value = at + 4;
            at = format == 4 ? value + length : value;
            if (format == 4 && attribute == 0x17 && length == 12) {
                uint16_t ordinal;
                uint32_t rest;
                memcpy(&ordinal, value + 4, 2);
                memcpy(&rest, value + 8, 4);
                if (bytes.size() <= ordinal) {
                    bytes.resize(ordinal + 1);
                }
                bytes[ordinal] = rest >> 18;
            } else if (format == 4 && attribute == 0x05 && length == 12) {
                memcpy(&threads_max, value, 4);
            }
        }
    }
    return has_code;
}

extern "C" {

int cuModuleLoadData(void** made, const void* image)
{
    ENTER
    std::unique_ptr<Module> module(new Module);
    if (!memcmp(image, "\x7f" "ELF", 4)) {
        const Elf64_Ehdr* header = (const Elf64_Ehdr*)image;
        size_t bytes = header->e_shoff + (size_t)header->e_shnum * header->e_shentsize;
        const Elf64_Shdr* sections = (const Elf64_Shdr*)((const char*)image + header->e_shoff);
        for (int number = 0; number < header->e_shnum; number++) {
            bytes = std::max(bytes, (size_t)(sections[number].sh_type == SHT_NOBITS ? 0 : sections[number].sh_offset + sections[number].sh_size));
        }
        module->image.assign((const char*)image, (const char*)image + bytes);
    } else {
        module->text = (const char*)image;
        if (module->text.find(".version") == std::string::npos) {
            return INVALID_IMAGE;
        }
    }
    *made = module.get();
    modules.insert(module.release());
    return OK;
}

int cuModuleUnload(void* handle)
{
    ENTER
    Module* module = (Module*)handle;
    if (!modules.count(module)) {
        harm("a module is unloaded that is not there");
    }
    for (const auto& [name, function] : module->functions) {
        for (const Stream* stream : all_streams()) {
            for (const Operation& operation : stream->queued) {
                if (operation.what == "kernel " + name) {
                    harm("the module of %s is unloaded while it is queued", name.c_str());
                }
            }
        }
        functions.erase(function.get());
    }
    modules.erase(module);
    delete module;
    return OK;
}

int cuModuleGetFunction(void** made, void* handle, const char* name)
{
    ENTER
    Module* module = (Module*)handle;
    if (!modules.count(module)) {
        harm("a module is used that is not there");
    }
    std::unique_ptr<Function> function(new Function { name, 1024 });
    if (module->image.empty()) {
        if (module->text.find(std::string(".entry ") + name + "(") == std::string::npos) {
            return NOT_FOUND;
        }
    } else {
        std::vector<size_t> bytes;
        if (!read_information(module->image, name, bytes, function->threads_max)) {
            return NOT_FOUND;
        }
        const std::vector<size_t> ours = argument_bytes(name);
        if (bytes != ours) {
            harm("%s takes %zu arguments here and %zu in what NVRTC made, or of other sizes", name, ours.size(), bytes.size());
        }
    }
    functions.insert(function.get());
    *made = function.get();
    module->functions[name] = std::move(function);
    return OK;
}

int cuLibraryLoadData(void** made, const void* code, void*, void*, unsigned, void*, void*, unsigned)
{
    return cuModuleLoadData(made, code);
}
int cuLibraryUnload(void* handle) { return cuModuleUnload(handle); }
int cuLibraryGetKernel(void** made, void* handle, const char* name) { return cuModuleGetFunction(made, handle, name); }

int cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
    unsigned block_z, unsigned shared_bytes, void* on, void** arguments, void** extra)
{
    ENTER
    const Function* function = (const Function*)handle;
    if (!functions.count(function)) {
        harm("a kernel is launched that is not there (any more)");
    }
    const uint64_t threads = (uint64_t)block_x * block_y * block_z;
    if (!grid_x || !grid_y || !grid_z || !threads || grid_x > 0x7fffffff || grid_y > 65535 || grid_z > 65535
        || block_x > 1024 || block_y > 1024 || block_z > 64 || threads > 1024 || shared_bytes > 48 << 10 || extra) {
        return INVALID_VALUE;
    }
    if (threads > function->threads_max) {
        return OUT_OF_RESOURCES;
    }
    Stream* stream = stream_of(on);
    if (function->name == "illegal") {
        queue(stream, { "kernel illegal", [] { sticky = ILLEGAL_ADDRESS; } });
        return OK;
    }
    const std::function<void()> kernel = launch_of(function->name, { grid_x, grid_y, grid_z }, { block_x, block_y, block_z }, arguments);
    if (!kernel) {
        harm("kernel %s is not stood in for", function->name.c_str());
    }
    queue(stream, { "kernel " + function->name, [=] {
        if (!is_dry) {
            kernel();
        }
    } });
    return OK;
}

// Green contexts are not stood in for.
int cuDeviceGetDevResource(int, void*, int) { return NOT_SUPPORTED; }

} // extern "C"
