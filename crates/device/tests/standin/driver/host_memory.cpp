// Memory of the host that is pinned, by address: allocated so, or registered. Ordinary memory is told from it, and
// nothing more is known of that.

#include "../driver.h"

#include <cstdio>
#include <fstream>
#include <sys/mman.h>

static std::map<const char*, Pinned> pinned;

const Pinned* pinned_at(const void* at, size_t bytes)
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

void check_host(const void* at, size_t bytes, const char* what)
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

} // extern "C"
