// Memory of the device that a session takes for its tensors, until the session goes. What lies in it is said by
// bindings.

#include "../onnxruntime.h"

#include <cstring>

// As a session's arena does it: what was given back is the next that is given out, whatever is still queued.
struct Arena : Allocator {
    std::map<size_t, std::vector<char*>> given_back;
    std::map<const void*, size_t> given_out;
};

char* take(Arena* arena, size_t bytes)
{
    Locked locked(everything);
    const size_t rounded = (bytes + 255) / 256 * 256;
    std::vector<char*>& free = arena->given_back[rounded];
    char* at;
    if (free.empty()) {
        at = device_memory(rounded);
    } else {
        at = free.back();
        free.pop_back();
    }
    arena->given_out[at] = rounded;
    return at;
}

void give_back(Arena* arena, void* at)
{
    Locked locked(everything);
    auto found = arena->given_out.find(at);
    if (found == arena->given_out.end()) {
        harm("memory of a session is given back twice, or is none of it");
    }
    arena->given_back[found->second].push_back(static_cast<char*>(at));
    arena->given_out.erase(found);
}

static std::map<const void*, std::unique_ptr<Arena>> arenas;

Arena* arena_of(const void* session)
{
    std::unique_ptr<Arena>& arena = arenas[session];
    if (!arena) {
        arena.reset(new Arena);
        arena->version = 1;
        arena->take = [](Allocator* allocator, size_t bytes) -> void* {
            return take(static_cast<Arena*>(allocator), bytes);
        };
        arena->give_back = [](Allocator* allocator, void* at) { give_back(static_cast<Arena*>(allocator), at); };
        arena->info = [](const Allocator*) { return device_info(); };
    }
    return arena.get();
}

static void release_session(void* session)
{
    Locked locked(everything);
    if (sessions.count(session)) {
        finish(sessions[session].stream);
        sessions.erase(session);
        Arena* arena = arena_of(session);
        if (!arena->given_out.empty()) {
            harm("a session goes before the tensors in its memory");
        }
        for (const auto& [bytes, all] : arena->given_back) {
            for (char* at : all) {
                device_memory_goes(at);
            }
        }
        arenas.erase(session);
    }
    REAL(void (*)(void*), ReleaseSession)(session);
}

static Status create_allocator(const void* session, const void* info, Allocator** made)
{
    Locked locked(everything);
    const char* name = nullptr;
    must(REAL(Status (*)(const void*, const char**), MemoryInfoGetName)(info, &name), "the name of a kind of memory");
    if (!strcmp(name, "Cuda") && sessions.count(session)) {
        return *made = arena_of(session), nullptr;
    }
    return REAL(Status (*)(const void*, const void*, Allocator**), CreateAllocator)(session, info, made);
}

static void release_allocator(Allocator* allocator)
{
    Locked locked(everything);
    for (const auto& [session, arena] : arenas) {
        if (arena.get() == allocator) {
            return;
        }
    }
    REAL(void (*)(Allocator*), ReleaseAllocator)(allocator);
}

void put_session_memory(void** table)
{
    OURS(ReleaseSession, release_session);
    OURS(CreateAllocator, create_allocator);
    OURS(ReleaseAllocator, release_allocator);
}
