// The provider's options, and sessions that were given it: what they are asked for and what they say of themselves.
// Other sessions are the real library's.

#include "../onnxruntime.h"

#include <cstdlib>

struct Provider {
    std::map<std::string, std::string> options;
};

static std::map<const void*, Provider> with_provider;
std::map<const void*, Session> sessions;
static std::set<const void*> parts_of_sessions;

static Status create_options(Provider** made) { return *made = new Provider, nullptr; }
static void release_options(Provider* options) { delete options; }

static Status update_options(Provider* options, const char* const* keys, const char* const* values, size_t count)
{
    for (size_t at = 0; at < count; at++) {
        options->options[keys[at]] = values[at];
    }
    return nullptr;
}

static Status append(void* session_options, const Provider* options)
{
    Locked locked(everything);
    with_provider[session_options] = *options;
    return nullptr;
}

static Status clone_session_options(const void* from, void** made)
{
    Status status = REAL(Status (*)(const void*, void**), CloneSessionOptions)(from, made);
    Locked locked(everything);
    if (!status && with_provider.count(from)) {
        with_provider[*made] = with_provider[from];
    }
    return status;
}

static void release_session_options(void* options)
{
    Locked locked(everything);
    with_provider.erase(options);
    REAL(void (*)(void*), ReleaseSessionOptions)(options);
}

static Status create_session(const void* environment, const char* file, const void* options, void** made)
{
    Status status = REAL(Status (*)(const void*, const char*, const void*, void**), CreateSession)(
        environment, file, options, made);
    Locked locked(everything);
    if (!status && with_provider.count(options)) {
        std::map<std::string, std::string> given = with_provider[options].options;
        if (given["has_user_compute_stream"] != "1" || given["device_id"] != "0") {
            harm("a session without a stream of ours, or on another device");
        }
        if (strtoull(given["gpu_mem_limit"].c_str(), nullptr, 10) == 0) {
            harm("a session whose memory has no limit");
        }
        void* stream = reinterpret_cast<void*>(strtoull(given["user_compute_stream"].c_str(), nullptr, 10));
        const std::string records = given["enable_cuda_graph"];
        sessions[*made] = { stream_of(stream), records == "1" || records == "true", {} };
    }
    return status;
}

static Status assignment(const void* session, const void* const** parts, size_t* count)
{
    Status status = REAL(Status (*)(const void*, const void* const**, size_t*), Session_GetEpGraphAssignmentInfo)(
        session, parts, count);
    Locked locked(everything);
    for (size_t at = 0; !status && sessions.count(session) && at < *count; at++) {
        parts_of_sessions.insert((*parts)[at]);
    }
    return status;
}

static Status provider_of(const void* part, const char** name)
{
    Locked locked(everything);
    if (parts_of_sessions.count(part)) {
        return *name = "CUDAExecutionProvider", nullptr;
    }
    return REAL(Status (*)(const void*, const char**), EpAssignedSubgraph_GetEpName)(part, name);
}

static Status input_infos(const void* session, const void** infos, size_t count)
{
    Status status = REAL(Status (*)(const void*, const void**, size_t), SessionGetMemoryInfoForInputs)(
        session, infos, count);
    Locked locked(everything);
    for (size_t at = 0; !status && sessions.count(session) && at < count; at++) {
        infos[at] = device_info();
    }
    return status;
}

void put_sessions(void** table)
{
    OURS(CreateCUDAProviderOptions, create_options);
    OURS(UpdateCUDAProviderOptions, update_options);
    OURS(ReleaseCUDAProviderOptions, release_options);
    OURS(SessionOptionsAppendExecutionProvider_CUDA_V2, append);
    OURS(CloneSessionOptions, clone_session_options);
    OURS(ReleaseSessionOptions, release_session_options);
    OURS(CreateSession, create_session);
    OURS(Session_GetEpGraphAssignmentInfo, assignment);
    OURS(EpAssignedSubgraph_GetEpName, provider_of);
    OURS(SessionGetMemoryInfoForInputs, input_infos);
}
