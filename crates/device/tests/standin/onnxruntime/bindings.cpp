// Bindings of a session's inputs and outputs to memory of the device. Nothing is run here, and the bytes in the tensors
// are not looked at.

#include "../onnxruntime.h"

static size_t bytes_of_type(int type)
{
    // Of ONNXTensorElementDataType: float, uint8, int8, uint16, int16, int32, int64, string, bool, half, double, …
    static const size_t bytes[] = { 0, 4, 1, 1, 2, 2, 4, 8, 0, 1, 2, 8, 4, 8 };
    return (size_t)type < sizeof bytes / sizeof *bytes ? bytes[type] : 0;
}

Tensor described(const char* name, const void* value)
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

void* value_at(const void* info, const Tensor& tensor, char* at)
{
    void* value = nullptr;
    must(REAL(Status (*)(const void*, void*, size_t, const Dim*, size_t, int, void**), CreateTensorWithDataAsOrtValue)(
             info, at, tensor.bytes, tensor.dims.data(), tensor.dims.size(), tensor.type, &value),
        "a tensor");
    return value;
}

void release_value(void* value) { REAL(void (*)(void*), ReleaseValue)(value); }

std::set<Binding*> bindings;

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
    bindings.count(binding) ? drop(binding->session, binding->outputs)
                            : REAL(void (*)(Binding*), ClearBoundOutputs)(binding);
}

static Status bound_outputs(const Binding* binding, Allocator* allocator, void*** values, size_t* count)
{
    Locked locked(everything);
    if (!bindings.count(const_cast<Binding*>(binding))) {
        return REAL(Status (*)(const Binding*, Allocator*, void***, size_t*), GetBoundOutputValues)(
            binding, allocator, values, count);
    }
    *count = binding->outputs.size();
    *values = static_cast<void**>(allocator->take(allocator, *count * sizeof(void*)));
    for (size_t at = 0; at < *count; at++) {
        const Tensor& output = binding->outputs[at];
        (*values)[at] = value_at(device_info(), output, output.at);
    }
    return nullptr;
}

void put_bindings(void** table)
{
    OURS(CreateIoBinding, create_binding);
    OURS(ReleaseIoBinding, release_binding);
    OURS(BindInput, bind_input);
    OURS(BindOutput, bind_output);
    OURS(BindOutputToDevice, bind_output_to_device);
    OURS(ClearBoundInputs, clear_inputs);
    OURS(ClearBoundOutputs, clear_outputs);
    OURS(GetBoundOutputValues, bound_outputs);
}
