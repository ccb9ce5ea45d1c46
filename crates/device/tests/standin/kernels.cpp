// Runs the kernels' own source on a processor, thread by thread. Threads of a block are contexts that take turns at
// barriers, exchanges and some atomic operations, in an order that the seed chooses; a barrier or an exchange that not
// all reach at the same place ends the process. Shared memory has noise in it when a block starts. It says nothing
// about speed, nor about what NVRTC or a GPU make of the source, nor about threads that run at the same moment.
//
// This file has the kernels and their launches; see kernels/threads.cpp for the turns.

#include "kernels/words.h"

#include <map>
#include <tuple>

#include "../../kernels/arguments.cuh"
namespace prepare_file {
#include "../../kernels/prepare.cu"
}
namespace detections_file {
#include "../../kernels/detections.cu"
}
namespace logmel_file {
#include "../../kernels/logmel.cu"
}
namespace partition_file {
#include "../../kernels/partition.cu"
}
#undef asm

template <typename T>
static void check_argument(const std::string& kernel, size_t number, const T&)
{
    (void)kernel;
    (void)number;
}
template <typename T>
static void check_argument(const std::string& kernel, size_t number, T* const& at)
{
    check_device((address_t)at, sizeof(T), "argument " + std::to_string(number) + " of " + kernel);
    if ((uintptr_t)at % alignof(T) != 0) {
        harm("argument %zu of %s is not aligned to %zu bytes", number, kernel.c_str(), alignof(T));
    }
}

struct Kernel {
    std::vector<size_t> bytes;
    std::function<std::function<void()>(Size, Size, void**)> launch;
};

template <typename... A, size_t... I>
static Kernel kernel_of(const char* name, void (*function)(A...), bool meets, std::index_sequence<I...>)
{
    auto launch = [=](Size grid, Size block, void** arguments) -> std::function<void()> {
        std::tuple<std::decay_t<A>...> taken;
        (memcpy(&std::get<I>(taken), arguments[I], sizeof(std::get<I>(taken))), ...);
        return [=] {
            (check_argument(name, I, std::get<I>(taken)), ...);
            run_grid(name, grid, block, meets, [&] { std::apply(function, taken); });
        };
    };
    return { { sizeof(std::decay_t<A>)... }, launch };
}

template <typename... A>
static Kernel kernel_of(const char* name, void (*function)(A...), bool meets)
{
    return kernel_of(name, function, meets, std::index_sequence_for<A...>());
}

static const std::map<std::string, Kernel>& kernels()
{
    static const std::map<std::string, Kernel> all = {
        { "prepare_f32", kernel_of("prepare_f32", prepare_file::prepare_f32, false) },
        { "prepare_f16", kernel_of("prepare_f16", prepare_file::prepare_f16, false) },
        { "prepare_i32", kernel_of("prepare_i32", prepare_file::prepare_i32, false) },
        { "candidates_dfl", kernel_of("candidates_dfl", detections_file::candidates_dfl, true) },
        { "candidates_rows", kernel_of("candidates_rows", detections_file::candidates_rows, false) },
        { "select_boxes", kernel_of("select_boxes", detections_file::select_boxes, true) },
        { "log_mel", kernel_of("log_mel", logmel_file::log_mel, true) },
        { "wait_clocks", kernel_of("wait_clocks", partition_file::wait_clocks, false) },
    };
    return all;
}

std::vector<size_t> argument_bytes(const std::string& kernel)
{
    const auto found = kernels().find(kernel);
    return found == kernels().end() ? std::vector<size_t>() : found->second.bytes;
}

std::function<void()> launch_of(const std::string& kernel, Size grid, Size block, void** arguments)
{
    const auto found = kernels().find(kernel);
    return found == kernels().end() ? nullptr : found->second.launch(grid, block, arguments);
}
