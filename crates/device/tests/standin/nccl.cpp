// Stands in for NCCL, as far as it is called: members of a group are threads. What they exchange happens when all have
// asked for it and each one's stream has come to it; until then their streams are busy. It ends the process where the
// real one would do harm in silence.

#include "standin.h"

#include <cstdio>
#include <cstring>
#include <map>

enum { NCCL_OK = 0, NCCL_ARGUMENT = 4, NCCL_REMOTE = 6, NCCL_IN_PROGRESS = 7, FLOAT = 7 };
static const int RANKS_MAX = 16;

extern "C" int cuCtxGetCurrent(void** context);

struct Communicator;

struct Together;

// One member's part of it.
struct Part : Exchange {
    Together* together = nullptr;
    Communicator* member = nullptr;
    Stream* stream = nullptr;
    const char* from = nullptr;
    char* to = nullptr;

    bool is_over() const override;
    bool can_run() const override;
    bool uses(address_t at) const override;
};

struct Together {
    int ranks = 0, arrived = 0;
    bool is_done = false;
    Part parts[RANKS_MAX];
    size_t count = 0;
    int kind = 0, root = 0;

    void run();
};

struct Group {
    int ranks = 0, joined = 0, left = 0;
    // By their number.
    std::map<int, Together> exchanges;
};

struct Communicator {
    Group* group;
    int rank, next = 0;
    bool is_aborted = false;
};

static std::map<std::string, Group> groups;

bool Part::is_over() const { return together->is_done || member->is_aborted; }

bool Part::can_run() const
{
    if (is_over()) {
        return true;
    }
    for (int rank = 0; rank < together->ranks; rank++) {
        const Part& part = together->parts[rank];
        if (!part.stream || part.member->is_aborted || !is_next(part.stream, &part)) {
            return false;
        }
    }
    return true;
}

bool Part::uses(address_t at) const { return (address_t)from == at || (address_t)to == at; }

void Together::run()
{
    const size_t bytes = count * sizeof(float);
    for (int rank = 0; rank < ranks; rank++) {
        check_device((address_t)parts[rank].from, bytes, "what a member gives");
        check_device((address_t)parts[rank].to, kind ? bytes : bytes * (size_t)ranks, "room for what a member gets");
    }
    for (int to_rank = 0; to_rank < ranks; to_rank++) {
        if (kind) {
            memmove(parts[to_rank].to, parts[root].from, bytes);
            continue;
        }
        for (int rank = 0; rank < ranks; rank++) {
            memcpy(parts[to_rank].to + (size_t)rank * bytes, parts[rank].from, bytes);
        }
    }
    is_done = true;
}

struct Id {
    char bytes[128];
};

struct Configuration {
    size_t size;
    unsigned magic, version;
    int blocking, cga_cluster_size, ctas_min, ctas_max;
    const char* net_name;
    int split_share;
};

static int begin(Communicator* communicator, const void* from, void* to, size_t count, int type, int kind, int root,
    void* on)
{
    Locked locked(everything);
    if (type != FLOAT || communicator->is_aborted) {
        harm("an exchange of something else, or after an abort");
    }
    Together* together = &communicator->group->exchanges[communicator->next++];
    if (together->arrived && (together->count != count || together->kind != kind || together->root != root)) {
        harm("members do different things");
    }
    const int rank = communicator->rank;
    together->ranks = communicator->group->ranks;
    together->count = count;
    together->kind = kind;
    together->root = root;
    Part* part = &together->parts[rank];
    part->together = together;
    part->member = communicator;
    part->stream = stream_of(on);
    part->from = (const char*)from;
    part->to = (char*)to;
    together->arrived++;
    Operation operation;
    operation.what = "an exchange";
    operation.run = [part] {
        if (!part->is_over()) {
            part->together->run();
        }
    };
    operation.exchange = part;
    queue(stream_of(on), std::move(operation));
    return NCCL_OK;
}

extern "C" {

int ncclGetVersion(int* version) { return *version = 23203, NCCL_OK; }
const char* ncclGetErrorString(int code) { return code == NCCL_REMOTE ? "remote process exited" : "other error"; }

int ncclGetUniqueId(Id* id)
{
    Locked locked(everything);
    static int made;
    memset(id, 0, sizeof *id);
    snprintf(id->bytes, sizeof id->bytes, "group %d", ++made);
    return NCCL_OK;
}

int ncclCommInitRankConfig(Communicator** made, int ranks, Id id, int rank, const Configuration* c)
{
    const int unset = -2147483647 - 1;
    void* context = nullptr;
    if (cuCtxGetCurrent(&context) != 0 || !context) {
        harm("no context is current");
    }
    if (c->size != 44 || c->magic != 0xcafebeef || c->version != 21700 || c->blocking != 0 || c->net_name
        || c->cga_cluster_size != unset || c->ctas_min != unset || c->ctas_max != unset || c->split_share != unset
        || ranks > RANKS_MAX) {
        return NCCL_ARGUMENT;
    }
    Locked locked(everything);
    Group& group = groups[std::string(id.bytes, sizeof id.bytes)];
    group.ranks = ranks;
    group.joined++;
    *made = new Communicator { &group, rank };
    return NCCL_IN_PROGRESS;
}

int ncclCommGetAsyncError(Communicator* communicator, int* state)
{
    Locked locked(everything);
    const Group* group = communicator->group;
    *state = group->left ? NCCL_REMOTE : group->joined < group->ranks ? NCCL_IN_PROGRESS : NCCL_OK;
    return NCCL_OK;
}

int ncclCommAbort(Communicator* communicator)
{
    Locked locked(everything);
    if (communicator->is_aborted) {
        harm("a communicator is aborted twice");
    }
    communicator->is_aborted = true;
    communicator->group->left++;
    return NCCL_OK;
}

int ncclAllGather(const void* from, void* to, size_t count, int type, Communicator* communicator, void* on)
{
    return begin(communicator, from, to, count, type, 0, 0, on);
}

int ncclBroadcast(const void* from, void* to, size_t count, int type, int root, Communicator* communicator, void* on)
{
    return begin(communicator, from, to, count, type, 1, root, on);
}

} // extern "C"
