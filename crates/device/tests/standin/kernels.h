// What runs the threads of a kernel, for the file that has the kernels. The other parts of the stand-in see launches
// only, in standin.h.
#pragma once

#include "standin.h"

// The stand-in's own: no other library of the process has them, whatever its names are.
#pragma GCC visibility push(hidden)

extern Size gridDim, blockDim, blockIdx, threadIdx;
// Threads of the kernel that runs now meet each other.
extern bool meets_now;

// Runs all blocks of a kernel; threads that never meet take no turns.
void run_grid(const char* name, Size grid, Size block, bool meets, const std::function<void()>& kernel);
// Lets others go on first.
void give_way();
// Waits for all threads of the block that have not ended.
void meet_block(int line);
// One lane's part of an exchange of its warp: gives these 32 bits, takes those of lane `from`.
uint32_t exchange_bits(unsigned mask, uint32_t value, unsigned from, int line);
unsigned lane_now();

#pragma GCC visibility pop
