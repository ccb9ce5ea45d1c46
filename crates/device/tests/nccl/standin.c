// Stands in for CUDA's driver and NCCL on a machine that has neither, for tests of the code that calls them: memory is
// this process's own, streams do at once what they are told, and members of a group are threads. What they exchange
// happens when all have asked for it, as with the real ones; until then streams are busy. It ends the process where the
// real ones would do harm in silence.

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long u64;
enum { OK = 0, NOT_READY = 600 };
enum { NCCL_OK = 0, NCCL_ARGUMENT = 4, NCCL_REMOTE = 6, NCCL_IN_PROGRESS = 7, FLOAT = 7 };
enum { RANKS_MAX = 16, GROUPS_MAX = 64, OPERATIONS_MAX = 4096 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void harm(const char *what)
{
    fprintf(stderr, "harm: %s\n", what);
    abort();
}

// What the members of a group do together, by its number.
typedef struct {
    int arrived, is_done;
    const void *from[RANKS_MAX];
    void *to[RANKS_MAX];
    size_t count;
    int kind, root;
} Operation;

typedef struct {
    char id[128];
    int ranks, joined, left;
    Operation operations[OPERATIONS_MAX];
} Group;

typedef struct {
    Group *group;
    int rank, next, is_aborted;
} Communicator;

// What a stream or an event waits for.
typedef struct {
    Communicator *communicator;
    Operation *operation;
} Pending;

static Group groups[GROUPS_MAX];
static int group_count;

static int is_busy(const Pending *pending)
{
    return pending->operation && !pending->operation->is_done && !pending->communicator->is_aborted;
}

// The driver, as far as it is called.
static __thread void *current;
static int context_of_all;

int cuInit(unsigned flags) { (void)flags; return OK; }
int cuDriverGetVersion(int *version) { *version = 13000; return OK; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return OK; }
int cuDevicePrimaryCtxRetain(void **context, int device) { (void)device; *context = &context_of_all; return OK; }
int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return OK; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { (void)attribute; (void)device; *value = 0; return OK; }
int cuCtxSetCurrent(void *context) { current = context; return OK; }
int cuCtxGetCurrent(void **context) { *context = current; return OK; }
int cuCtxSynchronize(void) { return OK; }
int cuGetErrorName(int code, const char **name) { (void)code; *name = "error"; return OK; }
int cuGetErrorString(int code, const char **text) { (void)code; *text = "error"; return OK; }
int cuStreamCreate(void **stream, unsigned flags) { (void)flags; *stream = calloc(1, sizeof(Pending)); return OK; }
int cuStreamDestroy_v2(void *stream) { free(stream); return OK; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { (void)stream; (void)event; (void)flags; return OK; }
int cuEventCreate(void **event, unsigned flags) { (void)flags; *event = calloc(1, sizeof(Pending)); return OK; }
int cuEventDestroy_v2(void *event) { free(event); return OK; }
int cuEventRecord(void *event, void *stream) { *(Pending *)event = *(Pending *)stream; return OK; }

int cuStreamSynchronize(void *stream)
{
    pthread_mutex_lock(&lock);
    if (is_busy(stream)) {
        harm("a stream that may never be done is waited for without a limit");
    }
    pthread_mutex_unlock(&lock);
    return OK;
}

int cuEventQuery(void *event)
{
    pthread_mutex_lock(&lock);
    const int code = is_busy(event) ? NOT_READY : OK;
    pthread_mutex_unlock(&lock);
    return code;
}

int cuEventSynchronize(void *event) { return cuStreamSynchronize(event); }
int cuEventElapsedTime(float *ms, void *from, void *to) { (void)from; (void)to; *ms = 0.5f; return OK; }
int cuEventElapsedTime_v2(float *ms, void *from, void *to) { return cuEventElapsedTime(ms, from, to); }
int cuMemAlloc_v2(u64 *at, size_t bytes) { *at = (u64)malloc(bytes); return OK; }

int cuMemFree_v2(u64 at)
{
    pthread_mutex_lock(&lock);
    for (int group = 0; group < group_count; group++) {
        for (int number = 0; number < OPERATIONS_MAX; number++) {
            const Operation *operation = &groups[group].operations[number];
            for (int rank = 0; rank < RANKS_MAX && operation->arrived && !operation->is_done; rank++) {
                if (operation->from[rank] == (void *)at || operation->to[rank] == (void *)at) {
                    harm("memory is freed that an exchange may still use");
                }
            }
        }
    }
    pthread_mutex_unlock(&lock);
    free((void *)at);
    return OK;
}

int cuMemsetD8Async(u64 at, unsigned char byte, size_t bytes, void *stream)
{
    (void)stream;
    memset((void *)at, byte, bytes);
    return OK;
}

static int copy(void *to, const void *from, size_t bytes, void *stream)
{
    pthread_mutex_lock(&lock);
    if (is_busy(stream)) {
        harm("a copy is queued behind an exchange that may never be done");
    }
    pthread_mutex_unlock(&lock);
    memcpy(to, from, bytes);
    return OK;
}

int cuMemcpyHtoDAsync_v2(u64 to, const void *from, size_t bytes, void *stream)
{
    return copy((void *)to, from, bytes, stream);
}

int cuMemcpyDtoHAsync_v2(void *to, u64 from, size_t bytes, void *stream)
{
    return copy(to, (const void *)from, bytes, stream);
}

// NCCL, as far as it is called.
typedef struct {
    char bytes[128];
} Id;

typedef struct {
    size_t size;
    unsigned magic, version;
    int blocking, cga_cluster_size, ctas_min, ctas_max;
    const char *net_name;
    int split_share;
} Configuration;

int ncclGetVersion(int *version) { *version = 23203; return NCCL_OK; }
const char *ncclGetErrorString(int code) { return code == NCCL_REMOTE ? "remote process exited" : "other error"; }

int ncclGetUniqueId(Id *id)
{
    static int made;
    pthread_mutex_lock(&lock);
    memset(id, 0, sizeof(*id));
    snprintf(id->bytes, sizeof(id->bytes), "group %d", ++made);
    pthread_mutex_unlock(&lock);
    return NCCL_OK;
}

int ncclCommInitRankConfig(Communicator **made, int ranks, Id id, int rank, const Configuration *configuration)
{
    const int unset = -2147483647 - 1;
    const Configuration *c = configuration;
    if (current != &context_of_all) {
        harm("no context is current");
    }
    if (c->size != 44 || c->magic != 0xcafebeef || c->version != 21700 || c->blocking != 0 || c->net_name
        || c->cga_cluster_size != unset || c->ctas_min != unset || c->ctas_max != unset || c->split_share != unset) {
        return NCCL_ARGUMENT;
    }
    pthread_mutex_lock(&lock);
    Group *group = NULL;
    for (int at = 0; at < group_count; at++) {
        if (!memcmp(groups[at].id, id.bytes, sizeof(id.bytes))) {
            group = &groups[at];
        }
    }
    if (!group) {
        group = &groups[group_count++];
        memcpy(group->id, id.bytes, sizeof(id.bytes));
        group->ranks = ranks;
    }
    group->joined++;
    *made = calloc(1, sizeof(Communicator));
    (*made)->group = group;
    (*made)->rank = rank;
    pthread_mutex_unlock(&lock);
    return NCCL_IN_PROGRESS;
}

int ncclCommGetAsyncError(Communicator *communicator, int *state)
{
    pthread_mutex_lock(&lock);
    const Group *group = communicator->group;
    *state = group->left ? NCCL_REMOTE : group->joined < group->ranks ? NCCL_IN_PROGRESS : NCCL_OK;
    pthread_mutex_unlock(&lock);
    return NCCL_OK;
}

int ncclCommAbort(Communicator *communicator)
{
    pthread_mutex_lock(&lock);
    if (communicator->is_aborted) {
        harm("a communicator is aborted twice");
    }
    communicator->is_aborted = 1;
    communicator->group->left++;
    for (int number = 0; number < OPERATIONS_MAX; number++) {
        Operation *operation = &communicator->group->operations[number];
        operation->from[communicator->rank] = operation->to[communicator->rank] = NULL;
    }
    pthread_mutex_unlock(&lock);
    return NCCL_OK;
}

static int begin(Communicator *communicator, const void *from, void *to, size_t count, int type, int kind, int root,
                 Pending *stream)
{
    if (type != FLOAT || communicator->is_aborted) {
        harm("an exchange of something else, or after an abort");
    }
    pthread_mutex_lock(&lock);
    Operation *operation = &communicator->group->operations[communicator->next++];
    const int ranks = communicator->group->ranks;
    if (operation->arrived && (operation->count != count || operation->kind != kind || operation->root != root)) {
        harm("members do different things");
    }
    operation->count = count;
    operation->kind = kind;
    operation->root = root;
    operation->from[communicator->rank] = from;
    operation->to[communicator->rank] = to;
    stream->communicator = communicator;
    stream->operation = operation;
    if (++operation->arrived == ranks) {
        const size_t bytes = count * sizeof(float);
        for (int to_rank = 0; to_rank < ranks; to_rank++) {
            if (kind) {
                memmove(operation->to[to_rank], operation->from[root], bytes);
                continue;
            }
            for (int rank = 0; rank < ranks; rank++) {
                memcpy((char *)operation->to[to_rank] + rank * bytes, operation->from[rank], bytes);
            }
        }
        operation->is_done = 1;
    }
    pthread_mutex_unlock(&lock);
    return NCCL_OK;
}

int ncclAllGather(const void *from, void *to, size_t count, int type, Communicator *communicator, void *stream)
{
    return begin(communicator, from, to, count, type, 0, 0, stream);
}

int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, Communicator *communicator, void *stream)
{
    return begin(communicator, from, to, count, type, 1, root, stream);
}
