// The words of CUDA C that the kernels use and C++ has not: types, functions and qualifiers. It has those that are
// used, no others, and is for kernels.cpp alone, whose kernels it is compiled with.
#pragma once

#include "../kernels.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
static float2 make_float2(float x, float y) { return { x, y }; }
static float4 make_float4(float x, float y, float z, float w) { return { x, y, z, w }; }
static int4 make_int4(int x, int y, int z, int w) { return { x, y, z, w }; }
static uint2 make_uint2(unsigned x, unsigned y) { return { x, y }; }

#define __syncthreads() meet_block(__LINE__)

template <typename T>
static T exchange(unsigned mask, T value, unsigned from, int line)
{
    static_assert(sizeof(T) == 4, "32 bits at a time");
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits = exchange_bits(mask, bits, from, line);
    memcpy(&value, &bits, 4);
    return value;
}

#define __shfl_xor_sync(mask, value, distance) exchange(mask, value, lane_now() ^ (distance), __LINE__)
#define __shfl_sync(mask, value, lane) exchange(mask, value, lane, __LINE__)

template <typename T>
static T __ldg(const T* at)
{
    if (reinterpret_cast<uintptr_t>(at) % sizeof(T) != 0) {
        harm("%s: a load of %zu bytes is not aligned", running().c_str(), sizeof(T));
    }
    return *at;
}
template <typename T>
static T atomicAdd(T* at, T value)
{
    if (meets_now && chance(8) == 0) {
        give_way();
    }
    const T before = *at;
    *at += value;
    return before;
}
template <typename T>
static T atomicMin(T* at, T value)
{
    if (meets_now && chance(8) == 0) {
        give_way();
    }
    const T before = *at;
    *at = value < before ? value : before;
    return before;
}
static uint32_t __float_as_uint(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}
static float __uint_as_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static float __fdiv_rn(float a, float b) { return a / b; }
static uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift)
{
    return (uint32_t)(((uint64_t)high << 32 | low) >> (shift & 31));
}
static int __float2int_rn(float value)
{
    if (std::isnan(value)) {
        return 0;
    }
    const double whole = std::nearbyint((double)value);
    return whole >= 2147483647.0 ? INT_MAX : whole <= -2147483648.0 ? INT_MIN : (int)whole;
}
static long long clock64()
{
    static long long clock;
    return clock += 100000;
}

// To half precision, to the nearest and ties to even.
static uint16_t half_of(float value)
{
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const double magnitude = std::fabs((double)value);
    if (std::isnan(value)) {
        return 0x7fff;
    }
    if (magnitude >= 65520.0) {
        return sign | 0x7c00;
    }
    if (magnitude == 0.0) {
        return sign;
    }
    int exponent;
    std::frexp(magnitude, &exponent);
    // Units in the last place: 2^-24 for the smallest.
    const int unit = std::max(exponent - 11, -24);
    const int steps = (int)std::nearbyint(std::ldexp(magnitude, -unit));
    return (uint16_t)(sign | (unit == -24 ? steps : ((unit + 24) << 10) + steps));
}

#define __device__
#define __global__
#define __shared__ static __attribute__((section("shared_memory")))
#define __forceinline__ inline
#define __launch_bounds__(threads)
// The one instruction that the kernels name: cvt.rn.f16.f32 of `value` to `bits`.
#define asm(...) bits = half_of(value)
