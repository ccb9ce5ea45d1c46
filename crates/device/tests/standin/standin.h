// What the parts of the stand-in share: the driver's streams and memory, the kernels, the group's transport and the
// runtime of networks. See driver.cpp for what it stands in for, and how.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

typedef unsigned long long address_t;

// Ends the process: what was done would do harm in silence with the real ones.
[[noreturn]] void harm(const char* format, ...) __attribute__((format(printf, 1, 2)));

// One for all: the stand-in does one thing at a time.
extern std::recursive_mutex everything;
typedef std::lock_guard<std::recursive_mutex> Locked;

// A number below `below`, from the seed.
uint64_t chance(uint64_t below);

// A number from the environment.
uint64_t setting(const char* name, uint64_t otherwise);

// A point in a stream's work.
struct Stream;
struct Marker {
    Stream* stream;
    bool done = false;
    double us = 0.0;
};

// What members of a group do together.
struct Exchange {
    virtual ~Exchange() = default;
    virtual bool is_over() const = 0;
    virtual bool can_run() const = 0;
    virtual bool uses(address_t at) const = 0;
};

struct Operation {
    std::string what;
    std::function<void()> run;
    std::shared_ptr<Marker> waits_for;
    Exchange* exchange = nullptr;
    // Pinned memory that it reads or writes.
    const char* host = nullptr;
    size_t host_bytes = 0;
};

// The stream of this handle; null is the default one.
Stream* stream_of(void* handle);
void queue(Stream* stream, Operation operation);
bool is_next(const Stream* stream, const Exchange* exchange);
void finish(Stream* stream);

// Memory of the device, there at once.
char* device_memory(size_t bytes);
void device_memory_goes(char* at);
// Ends the process unless `bytes` at `at` lie in one piece of memory of the device that is there now.
void check_device(address_t at, size_t bytes, const std::string& what);

// A launch's arguments as they are at the launch. Null: the kernel is not known.
struct Size {
    unsigned x, y, z;
};
std::function<void()> launch_of(const std::string& kernel, Size grid, Size block, void** arguments);
std::vector<size_t> argument_bytes(const std::string& kernel);
// What runs now, for whoever finds a harm: a kernel, its block and thread.
std::string running();
