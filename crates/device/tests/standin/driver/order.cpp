// What runs when: the next operation of any stream that can go on, in an order that the seed chooses. It knows what
// operations wait for, and nothing of what they do.

#include "../driver.h"

#include <algorithm>

double now_us;

std::vector<Stream*> all_streams()
{
    std::vector<Stream*> all(streams.begin(), streams.end());
    all.push_back(&default_stream);
    return all;
}

bool can_run(const Stream* stream)
{
    if (stream->queued.empty()) {
        return false;
    }
    const Operation& next = stream->queued.front();
    return next.waits_for ? next.waits_for->done : !next.exchange || next.exchange->can_run();
}

void run_next(Stream* stream)
{
    // Out of the queue only when it is done: others look for it there.
    Operation& next = stream->queued.front();
    now_us += 1.0 + (double)chance(10);
    if (next.run && !sticky) {
        next.run();
    }
    stream->queued.pop_front();
}

bool step()
{
    std::vector<Stream*> able;
    for (Stream* stream : all_streams()) {
        if (can_run(stream)) {
            able.push_back(stream);
        }
    }
    if (able.empty()) {
        return false;
    }
    std::sort(able.begin(), able.end(), [](const Stream* a, const Stream* b) { return a->number < b->number; });
    run_next(able[chance(able.size())]);
    return true;
}

bool is_next(const Stream* stream, const Exchange* exchange)
{
    return !stream->queued.empty() && stream->queued.front().exchange == exchange;
}

static void blocked(Stream* stream)
{
    for (const Stream* other : all_streams()) {
        if (!other->queued.empty() && other->queued.front().exchange) {
            harm("a stream that may never be done is waited for without a limit");
        }
    }
    harm("a stream waits for ever: %s", stream->queued.front().what.c_str());
}

// Runs what this needs and, unless it is to be only that, other things too.
static void run_until(Stream* stream, const std::function<bool()>& is_done, bool only_needed)
{
    while (!is_done()) {
        if (only_needed && can_run(stream)) {
            run_next(stream);
        } else if (only_needed && !stream->queued.empty() && stream->queued.front().waits_for) {
            const std::shared_ptr<Marker> other = stream->queued.front().waits_for;
            run_until(other->stream, [&] { return other->done; }, true);
        } else if (!step()) {
            blocked(stream);
        }
    }
}

void finish(Stream* stream)
{
    run_until(stream, [&] { return stream->queued.empty(); }, chance(2));
}

void finish(const std::shared_ptr<Marker>& marker)
{
    run_until(marker->stream, [&] { return marker->done; }, chance(2));
}

void queue(Stream* stream, Operation operation)
{
    stream->queued.push_back(std::move(operation));
    // By seed never, sometimes, or as soon as can be.
    const uint64_t eagerness = setting("STANDIN_SEED", 0) % 3;
    if (eagerness == 2) {
        while (step()) {
        }
    } else if (eagerness == 1) {
        for (uint64_t steps = chance(3); steps > 0; steps--) {
            step();
        }
    }
}
