// Streams and events: what is queued on streams and how events bind them to each other. Streams that wait for the
// default one are not stood in for.

#include "../driver.h"

#include <algorithm>

struct Event {
    std::shared_ptr<Marker> last;
    bool is_timed;
};

Stream default_stream;
std::set<Stream*> streams;
static std::set<Event*> events;

Stream* stream_of(void* handle)
{
    if (!handle) {
        return &default_stream;
    }
    Stream* stream = static_cast<Stream*>(handle);
    if (!streams.count(stream)) {
        harm("a stream is used that is not there (any more)");
    }
    return stream;
}

static Event* event_of(void* handle)
{
    Event* event = static_cast<Event*>(handle);
    if (!events.count(event)) {
        harm("an event is used that is not there (any more)");
    }
    return event;
}

extern "C" {

int cuStreamCreateWithPriority(void** made, unsigned flags, int priority)
{
    ENTER
    if (flags != 1) {
        harm("a stream that waits for the default one, which is not stood in for");
    }
    static unsigned made_before;
    Stream* stream = new Stream;
    stream->number = ++made_before;
    // The real one takes what lies outside for the nearest.
    stream->priority = std::clamp(priority, -5, 0);
    streams.insert(stream);
    *made = stream;
    return OK;
}

int cuStreamCreate(void** made, unsigned flags) { return cuStreamCreateWithPriority(made, flags, 0); }

int cuStreamGetPriority(void* handle, int* priority)
{
    ENTER
    *priority = stream_of(handle)->priority;
    return OK;
}

int cuStreamDestroy_v2(void* handle)
{
    ENTER
    Stream* stream = stream_of(handle);
    // The real one goes when its work is done.
    finish(stream);
    streams.erase(stream);
    return OK;
}

int cuStreamSynchronize(void* handle)
{
    ENTER
    finish(stream_of(handle));
    return sticky;
}

int cuStreamQuery(void* handle)
{
    ENTER
    Stream* stream = stream_of(handle);
    for (uint64_t steps = chance(3); steps > 0; steps--) {
        step();
    }
    return sticky ? sticky : stream->queued.empty() ? OK : NOT_READY;
}

int cuEventCreate(void** made, unsigned flags)
{
    ENTER
    Event* event = new Event { nullptr, (flags & 2) == 0 };
    events.insert(event);
    *made = event;
    return OK;
}

int cuEventDestroy_v2(void* handle)
{
    ENTER
    Event* event = event_of(handle);
    events.erase(event);
    delete event;
    return OK;
}

int cuEventRecord(void* handle, void* on)
{
    ENTER
    Event* event = event_of(handle);
    Stream* stream = stream_of(on);
    std::shared_ptr<Marker> marker = std::make_shared<Marker>();
    marker->stream = stream;
    event->last = marker;
    queue(stream, { "an event", [marker] {
        marker->done = true;
        marker->us = now_us;
    } });
    return OK;
}

int cuStreamWaitEvent(void* on, void* handle, unsigned)
{
    ENTER
    const Event* event = event_of(handle);
    // For its last record, as it is now; one that was never recorded is done.
    if (event->last && !event->last->done) {
        queue(stream_of(on), { "a wait for an event", nullptr, event->last });
    }
    return OK;
}

int cuEventQuery(void* handle)
{
    ENTER
    const Event* event = event_of(handle);
    for (uint64_t steps = chance(3); steps > 0; steps--) {
        step();
    }
    return sticky ? sticky : !event->last || event->last->done ? OK : NOT_READY;
}

int cuEventSynchronize(void* handle)
{
    ENTER
    const Event* event = event_of(handle);
    if (event->last) {
        finish(std::shared_ptr<Marker>(event->last));
    }
    return sticky;
}

int cuEventElapsedTime_v2(float* ms, void* from, void* to)
{
    ENTER
    const Event *began = event_of(from), *ended = event_of(to);
    if (!began->is_timed || !ended->is_timed || !began->last || !ended->last) {
        return INVALID_HANDLE;
    }
    if (!began->last->done || !ended->last->done) {
        return NOT_READY;
    }
    *ms = (float)((ended->last->us - began->last->us) / 1e3);
    return OK;
}

int cuEventElapsedTime(float* ms, void* from, void* to) { return cuEventElapsedTime_v2(ms, from, to); }

} // extern "C"
