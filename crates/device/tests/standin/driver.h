// What the files of the driver share: its codes, streams, memory, and how each call begins. The other parts of the
// stand-in do without it; what they use too is in standin.h.
#pragma once

#include "standin.h"

#include <deque>
#include <map>
#include <set>

enum {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700,
    OUT_OF_RESOURCES = 701, ALREADY_REGISTERED = 712, NOT_REGISTERED = 713, NOT_SUPPORTED = 801
};

struct Stream {
    // How many were made before: they are chosen from in this order, whatever their addresses are.
    unsigned number = 0;
    int priority = 0;
    std::deque<Operation> queued;
};

enum State { COMING, THERE, GONE };

struct Memory {
    char* mapping;
    size_t mapping_bytes;
    char* data;
    size_t bytes;
    State state;
};

const size_t PAGE = 4096;
const size_t DEVICE_BYTES = (size_t)80 << 30;

// The stand-in's own: no other library of the process has them, whatever its names are.
#pragma GCC visibility push(hidden)

// Why a call cannot be made, or OK.
int refused();
// After it every call fails.
extern int sticky;
// Work is counted and copied, and not done: for measurements, whose work is more than a processor does in time.
extern const bool is_dry;

#define ENTER                                                                                                          \
    Locked locked(everything);                                                                                         \
    if (const int code = refused()) {                                                                                  \
        return code;                                                                                                   \
    }

// What runs when: driver/order.cpp.
std::vector<Stream*> all_streams();
bool can_run(const Stream* stream);
void run_next(Stream* stream);
// Runs one operation of some stream that can; false where none can.
bool step();
void finish(const std::shared_ptr<Marker>& marker);
// What time it is for events: operations take some of it, and nothing else does.
extern double now_us;

// Streams: driver/streams.cpp.
extern Stream default_stream;
extern std::set<Stream*> streams;

// Memory of the device: driver/device_memory.cpp.
extern std::map<address_t, Memory> memories;
extern size_t used_bytes;
Memory* memory_at(address_t at);
// Between two pages that may not be touched, at the end, which is rounded up to 16 bytes.
Memory* new_memory(size_t bytes);
void appear(Memory* memory);
void vanish(Memory* memory);
// Says of a fault in a kernel what it touched, in every thread that calls the driver.
void tell_faults();
void widen_signal_stack();

// Memory of the host: driver/host_memory.cpp.
struct Pinned {
    size_t bytes;
    bool is_registered, is_read_only;
};
// The pinned memory that these bytes lie in; null: they are ordinary ones.
const Pinned* pinned_at(const void* at, size_t bytes);
void check_host(const void* at, size_t bytes, const char* what);

#pragma GCC visibility pop
