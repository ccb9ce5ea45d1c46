// Runs of bindings: queued on the session's stream, computed by the real library when the stream comes to them. Runs
// without a binding are the real library's.

#include "../onnxruntime.h"

#include <algorithm>
#include <cstring>

static Status error(const std::string& text)
{
    const int invalid_argument = 2;
    return REAL(Status (*)(int, const char*), CreateStatus)(invalid_argument, text.c_str());
}

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
    typedef Status (*Run)(
        const void*, const void*, const char* const*, void* const*, size_t, const char* const*, size_t, void**);
    Status status = REAL(Run, Run)(session, nullptr, names.data(), given.data(), given.size(), output_names.data(),
        values.size(), values.data());
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

// Memory for values within a network, which are neither inputs nor outputs. As with the real one, the arena has it back
// as soon as a run is queued, and may give it to others; the run uses it all the same. It is of the sizes that inputs of
// as many rows and of one more have, so that they get it.
struct Within {
    static constexpr int MARK = 0x5a;
    static constexpr size_t MARKED_BYTES = 64;
    std::vector<char*> places;

    explicit Within(const Binding* binding)
    {
        Arena* arena = arena_of(binding->session);
        for (const Tensor& input : binding->inputs) {
            const size_t rows = input.dims.empty() || input.dims[0] < 1 ? 1 : (size_t)input.dims[0];
            for (size_t others : { rows, rows + 1 }) {
                places.push_back(take(arena, std::max(input.bytes / rows * others, MARKED_BYTES)));
            }
        }
        for (char* at : places) {
            memset(at, MARK, MARKED_BYTES);
            give_back(arena, at);
        }
    }

    void check() const
    {
        for (const char* at : places) {
            if (std::count(at, at + MARKED_BYTES, (char)MARK) != (std::ptrdiff_t)MARKED_BYTES) {
                harm("others wrote to memory that a queued network uses for values within it");
            }
        }
    }
};

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
    const Within within(binding);
    Operation operation;
    operation.what = "a network";
    operation.run = [=] {
        within.check();
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

void put_runs(void** table)
{
    OURS(AddRunConfigEntry, add_entry);
    OURS(ReleaseRunOptions, release_run_options);
    OURS(RunWithBinding, run_binding);
}
