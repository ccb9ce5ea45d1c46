// Sound to log-mel frames: window, Fourier transform, magnitudes, mel bands, logarithm. Twin:
// crates/device/src/cuda/twin/logmel.rs.
//
// 64 threads make a frame, a block four frames, one row of the grid a sound. The 512 real values are transformed as 256
// complex ones: four passes of radix 4 (Stockham), then the halves are taken apart.

enum { LANES = 64, FRAMES = 4, HALF = 256, BINS = 257 };

static __device__ __forceinline__ float2 plus(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
static __device__ __forceinline__ float2 minus(float2 a, float2 b) { return make_float2(a.x - b.x, a.y - b.y); }
static __device__ __forceinline__ float2 times(float2 a, float2 b)
{
    return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}
// a × −i.
static __device__ __forceinline__ float2 turned(float2 a) { return make_float2(a.y, -a.x); }

// `turns` has e^(−2πi m ÷ 512) for m below 512, `window` 512 values (zeros beyond the window), `bands_first` and `weights`
// the bands: band b is the sum of weights[t × bands + b] × magnitude[bands_first[b] + t] over the taps t.
extern "C" __global__ void __launch_bounds__(LANES * FRAMES) log_mel(
    const LogMelStep step, const f32* __restrict__ samples, const SoundSource* __restrict__ sounds,
    const f32* __restrict__ window, const float2* __restrict__ turns, const u32* __restrict__ bands_first,
    const f32* __restrict__ weights, f32* __restrict__ out)
{
    __shared__ float2 all[FRAMES][HALF];
    __shared__ f32 all_magnitudes[FRAMES][BINS + 3];

    const u32 lane = threadIdx.x;
    const SoundSource sound = sounds[blockIdx.y];
    const u32 frame = blockIdx.x * FRAMES + threadIdx.y;
    if (blockIdx.x * FRAMES >= sound.frames) {
        return;
    }
    // Frames beyond the sound's last one go along, so that all threads of a block meet.
    const bool active = frame < sound.frames;
    float2* data = all[threadIdx.y];
    f32* magnitudes = all_magnitudes[threadIdx.y];

    const f32* __restrict__ from = samples + sound.offset + (u64)frame * step.hop;
    for (u32 at = lane; at < HALF; at += LANES) {
        const u32 even = 2 * at, odd = even + 1;
        float2 value = make_float2(0.0f, 0.0f);
        if (active && even < step.window) {
            value.x = __ldg(from + even) * __ldg(window + even);
        }
        if (active && odd < step.window) {
            value.y = __ldg(from + odd) * __ldg(window + odd);
        }
        data[at] = value;
    }
    __syncthreads();

#pragma unroll
    for (u32 span = 1; span < HALF; span *= 4) {
        const u32 within = lane & (span - 1);
        float2 a = data[lane];
        float2 b = data[lane + LANES];
        float2 c = data[lane + 2 * LANES];
        float2 d = data[lane + 3 * LANES];
        const u32 turn = within * (128 / span);
        b = times(b, __ldg(turns + turn));
        c = times(c, __ldg(turns + 2 * turn));
        d = times(d, __ldg(turns + 3 * turn));
        const float2 ac = plus(a, c), a_c = minus(a, c), bd = plus(b, d), b_d = turned(minus(b, d));
        const u32 to = (lane - within) * 4 + within;
        __syncthreads();
        data[to] = plus(ac, bd);
        data[to + span] = plus(a_c, b_d);
        data[to + 2 * span] = minus(ac, bd);
        data[to + 3 * span] = minus(a_c, b_d);
        __syncthreads();
    }

    for (u32 bin = lane; bin < BINS; bin += LANES) {
        const float2 one = data[bin & (HALF - 1)];
        const float2 other = data[(HALF - bin) & (HALF - 1)];
        const float2 even = make_float2(0.5f * (one.x + other.x), 0.5f * (one.y - other.y));
        const float2 odd = make_float2(0.5f * (one.y + other.y), 0.5f * (other.x - one.x));
        const float2 value = plus(even, times(odd, __ldg(turns + bin)));
        magnitudes[bin] = sqrtf(value.x * value.x + value.y * value.y);
    }
    __syncthreads();

    for (u32 band = lane; band < step.bands; band += LANES) {
        const u32 first = __ldg(bands_first + band);
        f32 sum = 0.0f;
        for (u32 tap = 0; tap < step.taps; tap++) {
            sum += __ldg(weights + tap * step.bands + band) * magnitudes[first + tap];
        }
        if (active) {
            out[(u64)(sound.first_row + frame) * step.bands + band] = logf(sum + step.log_offset);
        }
    }
}
