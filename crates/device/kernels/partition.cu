// Work of a known length, to measure what one stream's work does to another's. No twin: it computes nothing.

// Every thread waits for so many clocks of its processor.
extern "C" __global__ void wait_clocks(const u64 clocks)
{
    const u64 from = clock64();
    while ((u64)clock64() - from < clocks) {
    }
}
