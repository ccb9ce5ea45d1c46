// Modules of kernels, and launches. A module is read for what NVRTC says of its kernels' arguments and threads; the
// code in it is not run: see kernels.cpp for what is.

#include "../driver.h"

#include <algorithm>
#include <cstring>
#include <elf.h>

struct Function {
    std::string name;
    unsigned threads_max;
};

struct Module {
    // The whole file: null for text.
    std::vector<char> image;
    std::string text;
    std::map<std::string, std::unique_ptr<Function>> functions;
};

static std::set<Module*> modules;
static std::set<const Function*> functions;

// What the compiler wrote down of a kernel: the bytes of each argument, and most threads of a block. See NVIDIA's
// cuobjdump -elf of any cubin: `.nv.info.NAME` is a list of (format, attribute, length, values).
static bool read_information(
    const std::vector<char>& image, const std::string& name, std::vector<size_t>& bytes, unsigned& threads_max)
{
    const Elf64_Ehdr* header = (const Elf64_Ehdr*)image.data();
    const Elf64_Shdr* sections = (const Elf64_Shdr*)(image.data() + header->e_shoff);
    const char* names = image.data() + sections[header->e_shstrndx].sh_offset;
    bool has_code = false;
    for (int number = 0; number < header->e_shnum; number++) {
        const Elf64_Shdr& section = sections[number];
        has_code |= names + section.sh_name == ".text." + name;
        if (names + section.sh_name != ".nv.info." + name) {
            continue;
        }
        const unsigned char* at = (const unsigned char*)image.data() + section.sh_offset;
        const unsigned char* end = at + section.sh_size;
        while (at + 4 <= end) {
            uint16_t length;
            memcpy(&length, at + 2, 2);
            const int format = at[0], attribute = at[1];
            const unsigned char* value = at + 4;
            at = format == 4 ? value + length : value;
            if (format == 4 && attribute == 0x17 && length == 12) {
                uint16_t ordinal;
                uint32_t rest;
                memcpy(&ordinal, value + 4, 2);
                memcpy(&rest, value + 8, 4);
                if (bytes.size() <= ordinal) {
                    bytes.resize(ordinal + 1);
                }
                bytes[ordinal] = rest >> 18;
            } else if (format == 4 && attribute == 0x05 && length == 12) {
                memcpy(&threads_max, value, 4);
            }
        }
    }
    return has_code;
}

extern "C" {

int cuModuleLoadData(void** made, const void* image)
{
    ENTER
    std::unique_ptr<Module> module(new Module);
    if (!memcmp(image, "\x7f" "ELF", 4)) {
        const Elf64_Ehdr* header = (const Elf64_Ehdr*)image;
        size_t bytes = header->e_shoff + (size_t)header->e_shnum * header->e_shentsize;
        const Elf64_Shdr* sections = (const Elf64_Shdr*)((const char*)image + header->e_shoff);
        for (int number = 0; number < header->e_shnum; number++) {
            const Elf64_Shdr& section = sections[number];
            bytes = std::max(bytes, (size_t)(section.sh_type == SHT_NOBITS ? 0 : section.sh_offset + section.sh_size));
        }
        module->image.assign((const char*)image, (const char*)image + bytes);
    } else {
        module->text = (const char*)image;
        if (module->text.find(".version") == std::string::npos) {
            return INVALID_IMAGE;
        }
    }
    *made = module.get();
    modules.insert(module.release());
    return OK;
}

int cuModuleUnload(void* handle)
{
    ENTER
    Module* module = (Module*)handle;
    if (!modules.count(module)) {
        harm("a module is unloaded that is not there");
    }
    for (const auto& [name, function] : module->functions) {
        for (const Stream* stream : all_streams()) {
            for (const Operation& operation : stream->queued) {
                if (operation.what == "kernel " + name) {
                    harm("the module of %s is unloaded while it is queued", name.c_str());
                }
            }
        }
        functions.erase(function.get());
    }
    modules.erase(module);
    delete module;
    return OK;
}

int cuModuleGetFunction(void** made, void* handle, const char* name)
{
    ENTER
    Module* module = (Module*)handle;
    if (!modules.count(module)) {
        harm("a module is used that is not there");
    }
    std::unique_ptr<Function> function(new Function { name, 1024 });
    if (module->image.empty()) {
        if (module->text.find(std::string(".entry ") + name + "(") == std::string::npos) {
            return NOT_FOUND;
        }
    } else {
        std::vector<size_t> bytes;
        if (!read_information(module->image, name, bytes, function->threads_max)) {
            return NOT_FOUND;
        }
        const std::vector<size_t> ours = argument_bytes(name);
        if (bytes != ours) {
            harm("%s takes %zu arguments here and %zu in what NVRTC made, or of other sizes", name, ours.size(),
                bytes.size());
        }
    }
    functions.insert(function.get());
    *made = function.get();
    module->functions[name] = std::move(function);
    return OK;
}

int cuLibraryLoadData(void** made, const void* code, void*, void*, unsigned, void*, void*, unsigned)
{
    return cuModuleLoadData(made, code);
}
int cuLibraryUnload(void* handle) { return cuModuleUnload(handle); }
int cuLibraryGetKernel(void** made, void* handle, const char* name) { return cuModuleGetFunction(made, handle, name); }

int cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
    unsigned block_z, unsigned shared_bytes, void* on, void** arguments, void** extra)
{
    ENTER
    const Function* function = (const Function*)handle;
    if (!functions.count(function)) {
        harm("a kernel is launched that is not there (any more)");
    }
    const uint64_t threads = (uint64_t)block_x * block_y * block_z;
    if (!grid_x || !grid_y || !grid_z || !threads || grid_x > 0x7fffffff || grid_y > 65535 || grid_z > 65535
        || block_x > 1024 || block_y > 1024 || block_z > 64 || threads > 1024 || shared_bytes > 48 << 10 || extra) {
        return INVALID_VALUE;
    }
    if (threads > function->threads_max) {
        return OUT_OF_RESOURCES;
    }
    Stream* stream = stream_of(on);
    if (function->name == "illegal") {
        queue(stream, { "kernel illegal", [] { sticky = ILLEGAL_ADDRESS; } });
        return OK;
    }
    const std::function<void()> kernel
        = launch_of(function->name, { grid_x, grid_y, grid_z }, { block_x, block_y, block_z }, arguments);
    if (!kernel) {
        harm("kernel %s is not stood in for", function->name.c_str());
    }
    queue(stream, { "kernel " + function->name, [=] {
        if (!is_dry) {
            kernel();
        }
    } });
    return OK;
}

// Green contexts are not stood in for.
int cuDeviceGetDevResource(int, void*, int) { return NOT_SUPPORTED; }

} // extern "C"
