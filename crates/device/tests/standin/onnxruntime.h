// What the files of the runtime of networks share: the functions of the real library, sessions, their memory and their
// bindings. The driver does without it; what it gives is in standin.h.
#pragma once

#include "standin.h"

#include <map>
#include <set>

typedef void* Status;
typedef int64_t Dim;

struct Session {
    Stream* stream;
    bool records;
    // Where inputs and outputs lay when launches were recorded, by the number of the recording.
    std::map<std::string, std::vector<char*>> recorded;
};

struct Allocator {
    uint32_t version;
    void* (*take)(Allocator*, size_t);
    void (*give_back)(Allocator*, void*);
    const void* (*info)(const Allocator*);
};

struct Arena;

struct Tensor {
    std::string name;
    std::vector<Dim> dims;
    int type = 0;
    size_t bytes = 0;
    char* at = nullptr;
    // The binding's own, made in its first run.
    bool is_ours = false;
};

struct Binding {
    const void* session;
    std::vector<Tensor> inputs, outputs;
};

// The stand-in's own: no other library of the process has them, whatever its names are.
#pragma GCC visibility push(hidden)

extern void* const* real;

// A function of the real library. Its type is that of the C interface.
#define REAL(type, name) (reinterpret_cast<type>(real[AT_##name]))
// A function of the stand-in in its place in the table.
#define OURS(name, function) table[AT_##name] = reinterpret_cast<void*>(function)

void put_sessions(void** table);
void put_session_memory(void** table);
void put_bindings(void** table);
void put_runs(void** table);

void must(Status status, const char* what);
const void* host_info();
const void* device_info();

// Those that were given the provider.
extern std::map<const void*, Session> sessions;

Arena* arena_of(const void* session);
char* take(Arena* arena, size_t bytes);
void give_back(Arena* arena, void* at);

extern std::set<Binding*> bindings;
Tensor described(const char* name, const void* value);
void* value_at(const void* info, const Tensor& tensor, char* at);
void release_value(void* value);

#pragma GCC visibility pop
