// Stands in for the library of ONNX Runtime for GPUs: the one for processors with its own CUDA provider, which computes on
// the processor. A session that was given that provider keeps its tensors in memory of the device, and a run of a binding is
// only queued on the session's stream, as with the real one: it reads the inputs and writes the outputs when the stream
// comes to it. What it does not show: anything about the real provider's arithmetic, speed, or use of memory within a
// network, nor operators that it leaves on the processor.
//
// The compiler is told where each function lies in the table of ONNX Runtime's functions, as AT_Name.

#include "standin.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <dlfcn.h>
#include <map>
#include <set>

typedef void* Status;
typedef int64_t Dim;

struct ApiBase {
    const void* (*get)(uint32_t version);
    const char* (*version)();
};

static void* table[TABLE_BYTES / sizeof(void*)];
static void* const* real;

// A function of the real library. Its type is that of the C interface.
#define REAL(type, name) (reinterpret_cast<type>(real[AT_##name]))

static const ApiBase* real_base()
{
    static const ApiBase* base = [] {
        const char* file = getenv("STANDIN_ONNXRUNTIME");
        void* library = file ? dlopen(file, RTLD_NOW | RTLD_LOCAL) : nullptr;
        if (!library) {
            harm("STANDIN_ONNXRUNTIME names no library of ONNX Runtime: %s", file ? dlerror() : "it is not set");
        }
        typedef const ApiBase* (*Get)();
        return reinterpret_cast<Get>(dlsym(library, "OrtGetApiBase"))();
    }();
    return base;
}

static void must(Status status, const char* what)
{
    if (status) {
        harm("%s: %s", what, REAL(const char* (*)(Status), GetErrorMessage)(status));
    }
}

static Status error(const std::string& text)
{
    const int invalid_argument = 2;
    return REAL(Status (*)(int, const char*), CreateStatus)(invalid_argument, text.c_str());
}

static const void* memory_info(const char* name)
{
    void* made = nullptr;
    must(REAL(Status (*)(const char*, int, int, int, void**), CreateMemoryInfo)(name, 0, 0, 0, &made), "memory information");
    return made;
}
static const void* host_info()
{
    static const void* info = memory_info("Cpu");
    return info;
}
static const void* device_info()
{
    static const void* info = memory_info("Cuda");
    return info;
}

// ---------------------------------------------------------------- sessions with the provider

struct Provider {
    std::map<std::string, std::string> options;
};

struct Session {
    Stream* stream;
    bool records;
    // Where inputs and outputs lay when launches were recorded, by the number of the recording.
    std::map<std::string, std::vector<char*>> recorded;
};

static std::map<const void*, Provider> with_provider;
static std::map<const void*, Session> sessions;
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
    Status status = REAL(Status (*)(const void*, const char*, const void*, void**), CreateSession)(environment, file, options, made);
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
        sessions[*made] = { stream_of(stream), given["enable_cuda_graph"] == "1" || given["enable_cuda_graph"] == "true", {} };
    }
    return status;
}

static Status assignment(const void* session, const void* const** parts, size_t* count)
{
    Status status = REAL(Status (*)(const void*, const void* const**, size_t*), Session_GetEpGraphAssignmentInfo)(session, parts, count);
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
    Status status = REAL(Status (*)(const void*, const void**, size_t), SessionGetMemoryInfoForInputs)(session, infos, count);
    Locked locked(everything);
    for (size_t at = 0; !status && sessions.count(session) && at < count; at++) {
        infos[at] = device_info();
    }
    return status;
}

// ---------------------------------------------------------------- memory of sessions

struct Allocator {
    uint32_t version;
    void* (*take)(Allocator*, size_t);
    void (*give_back)(Allocator*, void*);
    const void* (*info)(const Allocator*);
};

// As a session's arena does it: what was given back is the next that is given out, whatever is still queued.
struct Arena : Allocator {
    std::map<size_t, std::vector<char*>> given_back;
    std::map<const void*, size_t> given_out;
};

static char* take(Arena* arena, size_t bytes)
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

static void give_back(Arena* arena, void* at)
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

static Arena* arena_of(const void* session)
{
    std::unique_ptr<Arena>& arena = arenas[session];
    if (!arena) {
        arena.reset(new Arena);
        arena->version = 1;
        arena->take = [](Allocator* allocator, size_t bytes) -> void* { return take(static_cast<Arena*>(allocator), bytes); };
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

// ---------------------------------------------------------------- bindings

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

static size_t bytes_of_type(int type)
{
    // Of ONNXTensorElementDataType: float, uint8, int8, uint16, int16, int32, int64, string, bool, half, double, …
    static const size_t bytes[] = { 0, 4, 1, 1, 2, 2, 4, 8, 0, 1, 2, 8, 4, 8 };
    return (size_t)type < sizeof bytes / sizeof *bytes ? bytes[type] : 0;
}

static Tensor described(const char* name, const void* value)
{
    Tensor tensor;
    tensor.name = name;
    void* shape = nullptr;
    size_t count = 0;
    must(REAL(Status (*)(const void*, void**), GetTensorTypeAndShape)(value, &shape), "a shape");
    must(REAL(Status (*)(const void*, int*), GetTensorElementType)(shape, &tensor.type), "a type");
    must(REAL(Status (*)(const void*, size_t*), GetDimensionsCount)(shape, &count), "dimensions");
    tensor.dims.resize(count);
    must(REAL(Status (*)(const void*, Dim*, size_t), GetDimensions)(shape, tensor.dims.data(), count), "dimensions");
    REAL(void (*)(void*), ReleaseTensorTypeAndShapeInfo)(shape);
    tensor.bytes = bytes_of_type(tensor.type);
    for (Dim dim : tensor.dims) {
        tensor.bytes *= (size_t)dim;
    }
    void* at = nullptr;
    must(REAL(Status (*)(const void*, void**), GetTensorMutableData)(value, &at), "a tensor's place");
    tensor.at = static_cast<char*>(at);
    return tensor;
}

static void* value_at(const void* info, const Tensor& tensor, char* at)
{
    void* value = nullptr;
    must(REAL(Status (*)(const void*, void*, size_t, const Dim*, size_t, int, void**), CreateTensorWithDataAsOrtValue)(
             info, at, tensor.bytes, tensor.dims.data(), tensor.dims.size(), tensor.type, &value),
        "a tensor");
    return value;
}

static void release_value(void* value) { REAL(void (*)(void*), ReleaseValue)(value); }

static std::set<Binding*> bindings;

static Status create_binding(void* session, Binding** made)
{
    Locked locked(everything);
    if (!sessions.count(session)) {
        return REAL(Status (*)(void*, Binding**), CreateIoBinding)(session, made);
    }
    *made = new Binding { session, {}, {} };
    bindings.insert(*made);
    return nullptr;
}

static void drop(const void* session, std::vector<Tensor>& tensors)
{
    for (const Tensor& tensor : tensors) {
        if (tensor.is_ours) {
            give_back(arena_of(session), tensor.at);
        }
    }
    tensors.clear();
}

static void release_binding(Binding* binding)
{
    Locked locked(everything);
    if (!bindings.erase(binding)) {
        REAL(void (*)(Binding*), ReleaseIoBinding)(binding);
        return;
    }
    drop(binding->session, binding->outputs);
    delete binding;
}

static void put(const void* session, std::vector<Tensor>& tensors, const Tensor& tensor)
{
    for (Tensor& other : tensors) {
        if (other.name == tensor.name) {
            if (other.is_ours) {
                give_back(arena_of(session), other.at);
            }
            other = tensor;
            return;
        }
    }
    tensors.push_back(tensor);
}

static Status bind_input(Binding* binding, const char* name, const void* value)
{
    Locked locked(everything);
    if (!bindings.count(binding)) {
        return REAL(Status (*)(Binding*, const char*, const void*), BindInput)(binding, name, value);
    }
    const Tensor tensor = described(name, value);
    check_device((address_t)tensor.at, tensor.bytes, "input " + tensor.name);
    put(binding->session, binding->inputs, tensor);
    return nullptr;
}

static Status bind_output(Binding* binding, const char* name, const void* value)
{
    Locked locked(everything);
    if (!bindings.count(binding)) {
        return REAL(Status (*)(Binding*, const char*, const void*), BindOutput)(binding, name, value);
    }
    const Tensor tensor = described(name, value);
    check_device((address_t)tensor.at, tensor.bytes, "output " + tensor.name);
    put(binding->session, binding->outputs, tensor);
    return nullptr;
}

static Status bind_output_to_device(Binding* binding, const char* name, const void* info)
{
    Locked locked(everything);
    if (!bindings.count(binding)) {
        return REAL(Status (*)(Binding*, const char*, const void*), BindOutputToDevice)(binding, name, info);
    }
    Tensor tensor;
    tensor.name = name;
    put(binding->session, binding->outputs, tensor);
    return nullptr;
}

static void clear_inputs(Binding* binding)
{
    Locked locked(everything);
    bindings.count(binding) ? binding->inputs.clear() : REAL(void (*)(Binding*), ClearBoundInputs)(binding);
}

static void clear_outputs(Binding* binding)
{
    Locked locked(everything);
    bindings.count(binding) ? drop(binding->session, binding->outputs) : REAL(void (*)(Binding*), ClearBoundOutputs)(binding);
}

static Status bound_outputs(const Binding* binding, Allocator* allocator, void*** values, size_t* count)
{
    Locked locked(everything);
    if (!bindings.count(const_cast<Binding*>(binding))) {
        return REAL(Status (*)(const Binding*, Allocator*, void***, size_t*), GetBoundOutputValues)(binding, allocator, values, count);
    }
    *count = binding->outputs.size();
    *values = static_cast<void**>(allocator->take(allocator, *count * sizeof(void*)));
    for (size_t at = 0; at < *count; at++) {
        const Tensor& output = binding->outputs[at];
        (*values)[at] = value_at(device_info(), output, output.at);
    }
    return nullptr;
}

// ---------------------------------------------------------------- runs

static std::map<const void*, std::map<std::string, std::string>> entries_of_runs;

static Status add_entry(void* options, const char* key, const char* value)
{
    Locked locked(everything);
    entries_of_runs[options][key] = value;
    return REAL(Status (*)(void*, const char*, const char*), AddRunConfigEntry)(options, key, value);
}

static void release_run_options(void* options)
{
    Locked locked(everything);
    entries_of_runs.erase(options);
    REAL(void (*)(void*), ReleaseRunOptions)(options);
}

// Runs a session on these inputs; outputs that are null are made.
static Status run(const void* session, const std::vector<Tensor>& inputs, const std::vector<char*>& from,
    const std::vector<Tensor>& outputs, std::vector<void*>& values)
{
    std::vector<const char*> names, output_names;
    std::vector<void*> given;
    for (size_t at = 0; at < inputs.size(); at++) {
        names.push_back(inputs[at].name.c_str());
        given.push_back(value_at(host_info(), inputs[at], from[at]));
    }
    for (const Tensor& output : outputs) {
        output_names.push_back(output.name.c_str());
    }
    Status status = REAL(Status (*)(const void*, const void*, const char* const*, void* const*, size_t, const char* const*, size_t, void**), Run)(
        session, nullptr, names.data(), given.data(), given.size(), output_names.data(), values.size(), values.data());
    for (void* value : given) {
        release_value(value);
    }
    return status;
}

// Makes room for the outputs that have none. How large they are shows when the network runs on zeros.
static Status place_outputs(Binding* binding)
{
    bool is_placed = true;
    for (const Tensor& output : binding->outputs) {
        is_placed &= output.at != nullptr;
    }
    if (is_placed) {
        return nullptr;
    }
    std::vector<std::vector<char>> zeros;
    std::vector<char*> from;
    for (const Tensor& input : binding->inputs) {
        zeros.emplace_back(input.bytes + 64);
        from.push_back(zeros.back().data());
    }
    std::vector<void*> values(binding->outputs.size(), nullptr);
    if (Status status = run(binding->session, binding->inputs, from, binding->outputs, values)) {
        return status;
    }
    for (size_t at = 0; at < values.size(); at++) {
        Tensor& output = binding->outputs[at];
        if (!output.at) {
            output = described(output.name.c_str(), values[at]);
            output.at = take(arena_of(binding->session), output.bytes);
            output.is_ours = true;
        }
        release_value(values[at]);
    }
    return nullptr;
}

static Status run_binding(void* session, const void* options, Binding* binding)
{
    Locked locked(everything);
    if (!bindings.count(binding)) {
        return REAL(Status (*)(void*, const void*, Binding*), RunWithBinding)(session, options, binding);
    }
    if (binding->session != session || !sessions.count(session)) {
        harm("a binding of another session is run");
    }
    Session& with = sessions[session];
    if (Status status = place_outputs(binding)) {
        return status;
    }
    std::vector<char*> places;
    for (const std::vector<Tensor>* tensors : { &binding->inputs, &binding->outputs }) {
        for (const Tensor& tensor : *tensors) {
            check_device((address_t)tensor.at, tensor.bytes, "tensor " + tensor.name);
            places.push_back(tensor.at);
        }
    }
    std::map<std::string, std::string> entries = entries_of_runs[options];
    const std::string number = entries["gpu_graph_id"];
    if (with.records && number != "-1") {
        // Recorded launches read and write where they did when they were recorded.
        const auto [found, is_new] = with.recorded.insert({ number, places });
        if (!is_new && found->second != places) {
            return error("launches that were recorded for other memory");
        }
    } else if (!with.records && !number.empty() && number != "-1") {
        harm("a number of recorded launches for a session that records none");
    }
    const std::vector<Tensor> inputs = binding->inputs, outputs = binding->outputs;
    Operation operation;
    operation.what = "a network";
    operation.run = [=] {
        std::vector<char*> from;
        std::vector<void*> values;
        for (const Tensor& input : inputs) {
            check_device((address_t)input.at, input.bytes, "input " + input.name);
            from.push_back(input.at);
        }
        for (const Tensor& output : outputs) {
            check_device((address_t)output.at, output.bytes, "output " + output.name);
            values.push_back(value_at(host_info(), output, output.at));
        }
        must(run(session, inputs, from, outputs, values), "a network that was queued");
        for (void* value : values) {
            release_value(value);
        }
    };
    queue(with.stream, std::move(operation));
    if (entries["disable_synchronize_execution_providers"] != "1") {
        finish(with.stream);
    }
    return nullptr;
}

// ---------------------------------------------------------------- the table

static const void* get(uint32_t version)
{
    real = static_cast<void* const*>(real_base()->get(version));
    if (!real) {
        return nullptr;
    }
    memcpy(table, real, sizeof table);
#define OURS(name, function) table[AT_##name] = reinterpret_cast<void*>(function)
    OURS(CreateCUDAProviderOptions, create_options);
    OURS(UpdateCUDAProviderOptions, update_options);
    OURS(ReleaseCUDAProviderOptions, release_options);
    OURS(SessionOptionsAppendExecutionProvider_CUDA_V2, append);
    OURS(CloneSessionOptions, clone_session_options);
    OURS(ReleaseSessionOptions, release_session_options);
    OURS(CreateSession, create_session);
    OURS(ReleaseSession, release_session);
    OURS(Session_GetEpGraphAssignmentInfo, assignment);
    OURS(EpAssignedSubgraph_GetEpName, provider_of);
    OURS(SessionGetMemoryInfoForInputs, input_infos);
    OURS(CreateAllocator, create_allocator);
    OURS(ReleaseAllocator, release_allocator);
    OURS(CreateIoBinding, create_binding);
    OURS(ReleaseIoBinding, release_binding);
    OURS(BindInput, bind_input);
    OURS(BindOutput, bind_output);
    OURS(BindOutputToDevice, bind_output_to_device);
    OURS(ClearBoundInputs, clear_inputs);
    OURS(ClearBoundOutputs, clear_outputs);
    OURS(GetBoundOutputValues, bound_outputs);
    OURS(AddRunConfigEntry, add_entry);
    OURS(ReleaseRunOptions, release_run_options);
    OURS(RunWithBinding, run_binding);
    return table;
}

extern "C" const ApiBase* OrtGetApiBase()
{
    static const ApiBase base = { get, [] { return real_base()->version(); } };
    return &base;
}
