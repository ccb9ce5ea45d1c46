// Images of 8-bit samples to rows of a network's input: convert, resize (bilinear, half-pixel centres), normalise, in one
// pass. Twin: crates/device/src/cuda/twin/prepare.rs, operation by operation; compiled without contraction of a × b + c,
// so that both round alike.
//
// One thread makes four neighbouring pixels of one row, one block 128 × 8 of them, one layer of the grid an image.

enum { RGB24 = 0, BGR24 = 1, GRAY8 = 2, NV12 = 3, I420 = 4 };
enum { BT601 = 0, BT709 = 1 };
enum { NCHW = 0, NHWC = 1 };

// Where a column or row is sampled: between `first` and the one after it (itself when there is only one).
struct Tap {
    u32 first;
    f32 weight;
};

// (index + 0.5) × source ÷ result − 0.5, clamped to the image, in whole numbers over 2 × result.
static __device__ __forceinline__ Tap tap(u32 index, u32 result, u32 source)
{
    const u32 whole = (2 * index + 1) * source;
    Tap at = { 0u, 0.0f };
    if (whole > result) {
        const u32 over = 2 * result;
        const u32 first = (whole - result) / over;
        if (first + 1 < source) {
            at.first = first;
            at.weight = __fdiv_rn((f32)(whole - result - first * over), (f32)over);
        } else if (source > 1) {
            at.first = source - 2;
            at.weight = 1.0f;
        }
    }
    return at;
}

static __device__ __forceinline__ f32 between(f32 first, f32 second, f32 weight)
{
    return first + (second - first) * weight;
}

static __device__ __forceinline__ f32 byte(u32 word, u32 index)
{
    return (f32)((word >> (8 * index)) & 255u);
}

// Six bytes from any address, as aligned words that each hold at least one of them: `low` has the first four. The slab's
// start and length are multiples of four, so such a word lies within it.
static __device__ __forceinline__ void six(const u8* __restrict__ at, u32& low, u32& high)
{
    const u32 off = (u32)((u64)at & 3u);
    const u32* words = (const u32*)(at - off);
    const u32 a = __ldg(words);
    const u32 b = __ldg(words + 1);
    const u32 c = off == 3 ? __ldg(words + 2) : 0u;
    low = __funnelshift_r(a, b, 8 * off);
    high = __funnelshift_r(b, c, 8 * off);
}

// One row of the source at a column's tap: three values, colours in the order of the bytes, or Y, U and V.
template <int FORMAT>
static __device__ __forceinline__ void across(
    const u8* __restrict__ slab, const ImageSource& source, u32 row, Tap column, f32 (&value)[3])
{
    const u32 first = column.first;
    const u32 second = first + (source.width > 1 ? 1u : 0u);
    const u8* line = slab + source.offset + (u64)row * source.stride;
    if (FORMAT == RGB24 || FORMAT == BGR24) {
        const u8* at = line + 3 * first;
        if (source.width > 1) {
            u32 low, high;
            six(at, low, high);
            value[0] = between(byte(low, 0), byte(low, 3), column.weight);
            value[1] = between(byte(low, 1), byte(high, 0), column.weight);
            value[2] = between(byte(low, 2), byte(high, 1), column.weight);
        } else {
            value[0] = (f32)__ldg(at);
            value[1] = (f32)__ldg(at + 1);
            value[2] = (f32)__ldg(at + 2);
        }
    } else {
        value[0] = between((f32)__ldg(line + first), (f32)__ldg(line + second), column.weight);
        if (FORMAT == GRAY8) {
            value[1] = value[0];
            value[2] = value[0];
        } else {
            const u64 chroma_row = (u64)(row / 2) * source.chroma_stride;
            const u8* u = slab + source.chroma_offset + chroma_row;
            const u8* v = FORMAT == NV12 ? u + 1 : slab + source.chroma_offset_second + chroma_row;
            const u32 step = FORMAT == NV12 ? 2 : 1;
            const u32 one = (first / 2) * step;
            const u32 other = (second / 2) * step;
            value[1] = between((f32)__ldg(u + one), (f32)__ldg(u + other), column.weight);
            value[2] = between((f32)__ldg(v + one), (f32)__ldg(v + other), column.weight);
        }
    }
}

// Y, U and V of limited range to red, green and blue of 0 to 255.
static __device__ __forceinline__ void colour(u32 matrix, f32 (&value)[3])
{
    const bool wide = matrix == BT709;
    const f32 red_v = wide ? 1.7927411f : 1.5960268f;
    const f32 green_u = wide ? 0.21324861f : 0.3917623f;
    const f32 green_v = wide ? 0.5329093f : 0.81296766f;
    const f32 blue_u = wide ? 2.1124018f : 2.0172322f;
    const f32 y = (value[0] - 16.0f) * 1.1643835f;
    const f32 u = value[1] - 128.0f;
    const f32 v = value[2] - 128.0f;
    value[0] = fminf(fmaxf(y + v * red_v, 0.0f), 255.0f);
    value[1] = fminf(fmaxf(y - u * green_u - v * green_v, 0.0f), 255.0f);
    value[2] = fminf(fmaxf(y + u * blue_u, 0.0f), 255.0f);
}

template <int FORMAT>
static __device__ __forceinline__ void pixel(
    const u8* __restrict__ slab, const ImageSource& source, const PrepareStep& step, Tap row, u32 x, f32 (&out)[3])
{
    const Tap column = tap(x, source.fitted_width, source.width);
    const u32 below = row.first + (source.height > 1 ? 1u : 0u);
    f32 upper[3], lower[3], value[3];
    across<FORMAT>(slab, source, row.first, column, upper);
    across<FORMAT>(slab, source, below, column, lower);
#pragma unroll
    for (int channel = 0; channel < 3; channel++) {
        value[channel] = between(upper[channel], lower[channel], row.weight);
    }
    if (FORMAT == NV12 || FORMAT == I420) {
        colour(source.matrix, value);
    }
    const bool swap = (FORMAT == BGR24) != (step.channels != 0);
#pragma unroll
    for (int channel = 0; channel < 3; channel++) {
        const f32 taken = channel == 1 ? value[1] : (swap ? value[2 - channel] : value[channel]);
        out[channel] = (taken - step.mean[channel]) * step.scale[channel];
    }
}

// Four pixels from column x on; zero (the mean) beyond the part that shows the source.
template <int FORMAT>
static __device__ __forceinline__ void four(
    const u8* __restrict__ slab, const ImageSource& source, const PrepareStep& step, u32 x, u32 y, f32 (&out)[4][3])
{
    const Tap row = tap(y, source.fitted_height, source.height);
#pragma unroll
    for (int index = 0; index < 4; index++) {
        out[index][0] = out[index][1] = out[index][2] = 0.0f;
        if (x + index < source.fitted_width) {
            pixel<FORMAT>(slab, source, step, row, x + index, out[index]);
        }
    }
}

struct Half {
    u16 bits;
};

static __device__ __forceinline__ u16 half_bits(f32 value)
{
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

static __device__ __forceinline__ void put(f32* at, f32 value) { *at = value; }
static __device__ __forceinline__ void put(i32* at, f32 value) { *at = __float2int_rn(value); }
static __device__ __forceinline__ void put(Half* at, f32 value) { at->bits = half_bits(value); }

static __device__ __forceinline__ void put4(f32* at, f32 a, f32 b, f32 c, f32 d)
{
    *(float4*)at = make_float4(a, b, c, d);
}
static __device__ __forceinline__ void put4(i32* at, f32 a, f32 b, f32 c, f32 d)
{
    *(int4*)at = make_int4(__float2int_rn(a), __float2int_rn(b), __float2int_rn(c), __float2int_rn(d));
}
static __device__ __forceinline__ void put4(Half* at, f32 a, f32 b, f32 c, f32 d)
{
    const u32 low = half_bits(a) | (u32)half_bits(b) << 16;
    const u32 high = half_bits(c) | (u32)half_bits(d) << 16;
    *(uint2*)at = make_uint2(low, high);
}

template <typename Out>
static __device__ __forceinline__ void prepare(
    const u8* __restrict__ slab, const ImageSource* __restrict__ sources, const PrepareStep& step,
    Out* __restrict__ out)
{
    const u32 x = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
    const u32 y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= step.width || y >= step.height) {
        return;
    }
    const ImageSource source = sources[blockIdx.z];
    f32 value[4][3];
    if (y < source.fitted_height && x < source.fitted_width) {
        // The same way for all threads of a block.
        switch (source.format) {
        case RGB24: four<RGB24>(slab, source, step, x, y, value); break;
        case BGR24: four<BGR24>(slab, source, step, x, y, value); break;
        case GRAY8: four<GRAY8>(slab, source, step, x, y, value); break;
        case NV12: four<NV12>(slab, source, step, x, y, value); break;
        default: four<I420>(slab, source, step, x, y, value); break;
        }
    } else {
#pragma unroll
        for (int index = 0; index < 4; index++) {
            value[index][0] = value[index][1] = value[index][2] = 0.0f;
        }
    }
    const u64 plane = (u64)step.width * step.height;
    const u64 at = (u64)y * step.width + x;
    Out* image = out + 3 * plane * source.slot;
    if ((step.width & 3) == 0) {
        // Whole groups of four, each aligned to four values.
        if (step.layout == NCHW) {
#pragma unroll
            for (int channel = 0; channel < 3; channel++) {
                put4(image + channel * plane + at, value[0][channel], value[1][channel], value[2][channel],
                    value[3][channel]);
            }
        } else {
            put4(image + 3 * at, value[0][0], value[0][1], value[0][2], value[1][0]);
            put4(image + 3 * at + 4, value[1][1], value[1][2], value[2][0], value[2][1]);
            put4(image + 3 * at + 8, value[2][2], value[3][0], value[3][1], value[3][2]);
        }
        return;
    }
#pragma unroll
    for (int index = 0; index < 4; index++) {
        if (x + index < step.width) {
#pragma unroll
            for (int channel = 0; channel < 3; channel++) {
                const u64 place = step.layout == NCHW ? channel * plane + at + index : 3 * (at + index) + channel;
                put(image + place, value[index][channel]);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) prepare_f32(
    const u8* __restrict__ slab, const ImageSource* __restrict__ sources, const PrepareStep step,
    f32* __restrict__ out)
{
    prepare(slab, sources, step, out);
}

extern "C" __global__ void __launch_bounds__(256) prepare_f16(
    const u8* __restrict__ slab, const ImageSource* __restrict__ sources, const PrepareStep step,
    Half* __restrict__ out)
{
    prepare(slab, sources, step, out);
}

extern "C" __global__ void __launch_bounds__(256) prepare_i32(
    const u8* __restrict__ slab, const ImageSource* __restrict__ sources, const PrepareStep step,
    i32* __restrict__ out)
{
    prepare(slab, sources, step, out);
}
