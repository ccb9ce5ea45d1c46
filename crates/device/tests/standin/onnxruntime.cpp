// Stands in for the library of ONNX Runtime for GPUs: the one for processors with its own CUDA provider, which computes
// on the processor. A session that was given that provider keeps its tensors in memory of the device, and a run of a
// binding is only queued on the session's stream, as with the real one: it reads the inputs and writes the outputs when
// the stream comes to it. What it does not show: anything about the real provider's arithmetic, speed, or use of memory
// within a network, nor operators that it leaves on the processor.
//
// The compiler is told where each function lies in the table of ONNX Runtime's functions, as AT_Name. This file has the
// table and the real library; what is put in their place is in the folder beside it.

#include "onnxruntime.h"

#include <cstdlib>
#include <cstring>
#include <dlfcn.h>

struct ApiBase {
    const void* (*get)(uint32_t version);
    const char* (*version)();
};

static void* table[TABLE_BYTES / sizeof(void*)];
void* const* real;

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

void must(Status status, const char* what)
{
    if (status) {
        harm("%s: %s", what, REAL(const char* (*)(Status), GetErrorMessage)(status));
    }
}

static const void* memory_info(const char* name)
{
    void* made = nullptr;
    must(REAL(Status (*)(const char*, int, int, int, void**), CreateMemoryInfo)(name, 0, 0, 0, &made),
        "memory information");
    return made;
}

const void* host_info()
{
    static const void* info = memory_info("Cpu");
    return info;
}

const void* device_info()
{
    static const void* info = memory_info("Cuda");
    return info;
}

static const void* get(uint32_t version)
{
    real = static_cast<void* const*>(real_base()->get(version));
    if (!real) {
        return nullptr;
    }
    memcpy(table, real, sizeof table);
    put_sessions(table);
    put_session_memory(table);
    put_bindings(table);
    put_runs(table);
    return table;
}

extern "C" const ApiBase* OrtGetApiBase()
{
    static const ApiBase base = { get, [] { return real_base()->version(); } };
    return &base;
}
