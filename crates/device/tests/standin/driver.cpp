// Stands in for CUDA's driver on a machine that has none, for tests of the code that calls it. It is as lazy and as
// contrary as the real one may be: what is queued on streams runs when somebody waits or asks, in an order that the
// seed chooses and that only the streams and their events bind. Copies from ordinary memory take their bytes at the
// call, those from pinned memory when they run. Each piece of the device's memory ends at a page that may not be
// touched, and is there only from when its stream has come to its allocation until it has come to its end. It ends the
// process where the real driver would do harm in silence. What it does not show: how long anything takes, what NVRTC or
// a GPU make of the kernels, and work that runs at the same moment.
//
// This file has the device and its context; what they do is in the folder beside it.

#include "driver.h"

#include <cstdio>

static bool is_initialized;
static int context_of_all;
static thread_local void* current_context;
int sticky;
const bool is_dry = setting("STANDIN_DRY", 0) != 0;

int refused()
{
    if (!is_initialized) {
        return NOT_INITIALIZED;
    }
    if (sticky) {
        return sticky;
    }
    return current_context ? OK : INVALID_CONTEXT;
}

extern "C" {

int cuInit(unsigned)
{
    Locked locked(everything);
    if (!is_initialized) {
        tell_faults();
    }
    is_initialized = true;
    return OK;
}

int cuDriverGetVersion(int* version) { return *version = (int)setting("STANDIN_VERSION", 13000), OK; }
int cuDeviceGet(int* device, int ordinal) { return ordinal == 0 ? (*device = 0, OK) : INVALID_DEVICE; }
int cuDeviceGetCount(int* count) { return *count = 1, OK; }
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = &context_of_all, OK; }
int cuDevicePrimaryCtxRelease_v2(int) { return OK; }

int cuDeviceGetName(char* name, int bytes, int)
{
    snprintf(name, (size_t)bytes, "stand-in");
    return OK;
}

int cuDeviceGetUuid_v2(void* uuid, int)
{
    for (int at = 0; at < 16; at++) {
        ((unsigned char*)uuid)[at] = (unsigned char)(at * 17);
    }
    return OK;
}

int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = DEVICE_BYTES, OK; }

int cuDeviceGetAttribute(int* value, int attribute, int)
{
    switch (attribute) {
    case 1: *value = 1024; break;
    case 13: *value = 1755000; break;
    case 16: *value = 132; break;
    case 39: *value = 2048; break;
    case 75: *value = 9; break;
    case 76: *value = 0; break;
    case 113: *value = (int)setting("STANDIN_READ_ONLY_SAID", 1); break;
    case 115: *value = (int)setting("STANDIN_POOLS", 1); break;
    default: *value = 0;
    }
    return OK;
}

int cuCtxSetCurrent(void* context)
{
    widen_signal_stack();
    current_context = context;
    return OK;
}

int cuCtxGetCurrent(void** context) { return *context = current_context, is_initialized ? OK : NOT_INITIALIZED; }

int cuCtxSynchronize(void)
{
    ENTER
    for (Stream* stream : all_streams()) {
        finish(stream);
    }
    return sticky;
}

int cuCtxGetStreamPriorityRange(int* least, int* greatest)
{
    ENTER
    *least = 0;
    *greatest = -5;
    return OK;
}

int cuMemGetInfo_v2(size_t* free, size_t* total)
{
    ENTER
    *total = DEVICE_BYTES;
    *free = DEVICE_BYTES - used_bytes;
    return OK;
}

int cuGetErrorName(int, const char** name) { return *name = "error", OK; }
int cuGetErrorString(int, const char** text) { return *text = "error of the stand-in", OK; }

} // extern "C"
