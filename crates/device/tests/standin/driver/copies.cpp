// Allocations, fills and copies: those that are queued on a stream, and those that are done at once. Copies that wait
// for nothing of a stream, or go between devices, are not stood in for.

#include "../driver.h"

#include <cstring>

static void behind_an_exchange(const Stream* stream, const char* what)
{
    for (const Operation& operation : stream->queued) {
        if (operation.exchange && !operation.exchange->is_over()) {
            harm("%s is queued behind an exchange that may never be done", what);
        }
    }
}

extern "C" {

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
            harm("memory of %zu bytes is freed %s", memory->bytes,
                memory->state == COMING ? "before it is there" : "twice");
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
