// Memory of the device, piece by piece: where it lies, when it is there, and who touches it where it is not. Who asks
// for it and when it comes and goes is said elsewhere.

#include "../driver.h"

#include <csignal>
#include <cstring>
#include <sys/mman.h>

static const unsigned char NOISE = 0xff;
std::map<address_t, Memory> memories;
size_t used_bytes;

Memory* memory_at(address_t at)
{
    auto after = memories.upper_bound(at);
    if (after == memories.begin()) {
        return nullptr;
    }
    Memory& memory = std::prev(after)->second;
    return at < (address_t)(memory.mapping + memory.mapping_bytes) ? &memory : nullptr;
}

Memory* new_memory(size_t bytes)
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

void appear(Memory* memory)
{
    char* start = memory->mapping + PAGE;
    const size_t bytes = memory->mapping_bytes - 2 * PAGE;
    mprotect(start, bytes, PROT_READ | PROT_WRITE);
    if (!is_dry) {
        memset(start, NOISE, bytes);
    }
    memory->state = THERE;
}

void vanish(Memory* memory)
{
    for (const char* at = memory->mapping + PAGE; !is_dry && at < memory->data; at++) {
        if (*(const unsigned char*)at != NOISE) {
            harm("somebody wrote %zu bytes before the start of memory of %zu bytes", (size_t)(memory->data - at),
                memory->bytes);
        }
    }
    // The addresses are not used again.
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    mmap(memory->mapping, memory->mapping_bytes, PROT_NONE, flags, -1, 0);
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
void widen_signal_stack()
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
    const char* unless_there = memory->state == COMING ? ", whose allocation has not run" : ", which was freed";
    harm("%s: byte %lld of memory of %zu bytes%s", running().c_str(), (long long)((char*)at - memory->data),
        memory->bytes, memory->state == THERE ? "" : unless_there);
}

void tell_faults()
{
    struct sigaction action = {};
    action.sa_sigaction = fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
}
