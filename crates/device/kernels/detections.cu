// Outputs of detection networks to boxes in source pixels: decode, threshold, the best candidates, suppression. Twin:
// crates/device/src/cuda/twin/detections.rs; the rules are those of crates/processing/src/detections. Compiled without
// contraction, so that all but the exponential rounds alike.
//
// Nothing depends on the order in which threads run: a candidate has a place of its own (its cell or row) and a key that
// no other has; what is sorted is sorted by whole keys.

enum { CANDIDATES_MAX = 4096, SELECT_THREADS = 512 };
#define NO_ROW 0xffffffffu
#define BAD_CLASS 0xffffffffu

// Larger for a higher score, and for an earlier place among equal scores; 0 for no candidate. Finite scores only.
static __device__ __forceinline__ u64 key_of(f32 score, u32 place)
{
    const u32 bits = __float_as_uint(score);
    const u32 ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (u64)ordered << 32 | (u32)~place;
}

static __device__ __forceinline__ f32 score_of(u64 key)
{
    const u32 ordered = (u32)(key >> 32);
    return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

static __device__ __forceinline__ u32 place_of(u64 key) { return ~(u32)key; }

static __device__ __forceinline__ bool is_finite(f32 value)
{
    return (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u;
}

static __device__ __forceinline__ bool is_finite(float4 box)
{
    return is_finite(box.x) && is_finite(box.y) && is_finite(box.z) && is_finite(box.w);
}

// The mean of the bins' numbers under the softmax of their values.
static __device__ __forceinline__ f32 expectation(const f32* __restrict__ bins, u32 count)
{
    f32 largest = __uint_as_float(0xff800000u);
    for (u32 bin = 0; bin < count; bin++) {
        largest = fmaxf(largest, __ldg(bins + bin));
    }
    f32 sum = 0.0f, weighted = 0.0f;
    for (u32 bin = 0; bin < count; bin++) {
        const f32 weight = expf(__ldg(bins + bin) - largest);
        sum += weight;
        weighted += weight * (f32)bin;
    }
    return __fdiv_rn(weighted, sum);
}

// A warp looks at one cell of one image: all its classes, and its distances if it is a candidate.
extern "C" __global__ void __launch_bounds__(256) candidates_dfl(
    const DflStep step, const DflOutputs outputs, u64* __restrict__ keys, float4* __restrict__ boxes,
    u32* __restrict__ classes)
{
    const u32 lane = threadIdx.x & 31;
    const u32 place = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (place >= step.candidates) {
        return;
    }
    // The last level that starts at or before this place; without an index that varies, so that all stays in registers.
    DflLevel level = step.levels[0];
    u64 scores_at = outputs.scores[0], distances_at = outputs.distances[0];
#pragma unroll
    for (u32 index = 1; index < 8; index++) {
        if (index < step.level_count && place >= step.levels[index].first) {
            level = step.levels[index];
            scores_at = outputs.scores[index];
            distances_at = outputs.distances[index];
        }
    }
    const u32 cell = place - level.first;
    const u64 row = (u64)blockIdx.y * level.cells + cell;

    const f32* __restrict__ scores = (const f32*)scores_at + row * step.classes;
    f32 score = __uint_as_float(0xff800000u);
    u32 best = 0;
    for (u32 at = lane; at < step.classes; at += 32) {
        const f32 value = __ldg(scores + at);
        if (value > score) {
            score = value;
            best = at;
        }
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const f32 other = __shfl_xor_sync(0xffffffffu, score, distance);
        const u32 other_best = __shfl_xor_sync(0xffffffffu, best, distance);
        if (other > score || (other == score && other_best < best)) {
            score = other;
            best = other_best;
        }
    }

    u64 key = 0;
    float4 box = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (score >= step.score_min && is_finite(score)) {
        const f32 stride = (f32)level.stride;
        const f32* __restrict__ distances = (const f32*)distances_at + row * 4 * step.bins;
        // Rare, and short: four lanes take a side each, in the order of the twin.
        const f32 side = lane < 4 ? expectation(distances + lane * step.bins, step.bins) * stride : 0.0f;
        const f32 left = __shfl_sync(0xffffffffu, side, 0);
        const f32 top = __shfl_sync(0xffffffffu, side, 1);
        const f32 right = __shfl_sync(0xffffffffu, side, 2);
        const f32 bottom = __shfl_sync(0xffffffffu, side, 3);
        const f32 x = ((f32)(cell % level.columns) + 0.5f) * stride;
        const f32 y = ((f32)(cell / level.columns) + 0.5f) * stride;
        box = make_float4(x - left, y - top, x + right, y + bottom);
        key = is_finite(box) ? key_of(score, place) : 0;
    }
    if (lane == 0) {
        const u64 at = (u64)blockIdx.y * step.candidates + place;
        keys[at] = key;
        classes[at] = best;
        if (key != 0) {
            boxes[at] = box;
        }
    }
}

// A thread looks at one row of one image: x1, y1, x2, y2, score, class.
extern "C" __global__ void __launch_bounds__(256) candidates_rows(
    const RowsStep step, const f32* __restrict__ output, u64* __restrict__ keys, float4* __restrict__ boxes,
    u32* __restrict__ classes)
{
    const u32 place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= step.rows) {
        return;
    }
    const u64 at = (u64)blockIdx.y * step.rows + place;
    // Rows are 24 bytes: three loads of 8.
    const float2* __restrict__ row = (const float2*)(output + 6 * at);
    const float2 from = __ldg(row), to = __ldg(row + 1), rest = __ldg(row + 2);
    const float4 box = make_float4(from.x, from.y, to.x, to.y);
    u64 key = 0;
    u32 index = 0;
    // Not so for what is not a number.
    if (rest.x >= step.score_min) {
        const bool known = rest.y >= 0.0f && rest.y < (f32)step.classes && truncf(rest.y) == rest.y;
        index = known ? (u32)rest.y : BAD_CLASS;
        key = known && is_finite(rest.x) && is_finite(box) ? key_of(rest.x, place) : 0;
    }
    keys[at] = key;
    classes[at] = index;
    boxes[at] = box;
}

static __device__ __forceinline__ f32 area(f32 x1, f32 y1, f32 x2, f32 y2)
{
    return fmaxf(x2 - x1, 0.0f) * fmaxf(y2 - y1, 0.0f);
}

static __device__ __forceinline__ f32 overlap(float4 a, float4 b)
{
    const f32 common = area(fmaxf(a.x, b.x), fmaxf(a.y, b.y), fminf(a.z, b.z), fminf(a.w, b.w));
    const f32 both = area(a.x, a.y, a.z, a.w) + area(b.x, b.y, b.z, b.w) - common;
    return both > 0.0f ? __fdiv_rn(common, both) : 0.0f;
}

static __device__ __forceinline__ f32 to_source(f32 at, u32 source, u32 fitted)
{
    return fminf(fmaxf(at * __fdiv_rn((f32)source, fmaxf((f32)fitted, 1.0f)), 0.0f), (f32)source);
}

// A block finds the boxes of one image.
extern "C" __global__ void __launch_bounds__(SELECT_THREADS) select_boxes(
    const SelectStep step, const u64* __restrict__ all_keys, const float4* __restrict__ all_boxes,
    const u32* __restrict__ all_classes, const Geometry* __restrict__ geometries, Outcome* __restrict__ outcomes,
    Found* __restrict__ all_found)
{
    __shared__ u64 best[CANDIDATES_MAX];
    __shared__ u8 gone[CANDIDATES_MAX];
    __shared__ u32 histogram[256];
    __shared__ u32 total, taken, bad_row, wanted;
    __shared__ u64 least;

    const u32 thread = threadIdx.x;
    const u64 offset = (u64)blockIdx.x * step.candidates;
    const u64* __restrict__ keys = all_keys + offset;
    const float4* __restrict__ boxes = all_boxes + offset;
    const u32* __restrict__ classes = all_classes + offset;

    if (thread == 0) {
        total = 0;
        taken = 0;
        bad_row = NO_ROW;
        wanted = CANDIDATES_MAX;
        least = 0;
    }
    __syncthreads();
    u32 mine = 0, mine_bad = NO_ROW;
    for (u32 at = thread; at < step.candidates; at += SELECT_THREADS) {
        mine += keys[at] != 0;
        mine_bad = classes[at] == BAD_CLASS && at < mine_bad ? at : mine_bad;
    }
    atomicAdd(&total, mine);
    atomicMin(&bad_row, mine_bad);
    __syncthreads();

    // More than can be looked at: the key of the last that can, byte by byte from the highest. Keys are all different.
    if (total > CANDIDATES_MAX) {
        for (int shift = 56; shift >= 0; shift -= 8) {
            for (u32 at = thread; at < 256; at += SELECT_THREADS) {
                histogram[at] = 0;
            }
            __syncthreads();
            const u64 mask = shift == 56 ? 0 : ~0ull << (shift + 8);
            for (u32 at = thread; at < step.candidates; at += SELECT_THREADS) {
                const u64 key = keys[at];
                if (key != 0 && (key & mask) == (least & mask)) {
                    atomicAdd(&histogram[(u32)(key >> shift) & 255u], 1u);
                }
            }
            __syncthreads();
            if (thread == 0) {
                int digit = 255;
                while (digit > 0 && histogram[digit] < wanted) {
                    wanted -= histogram[digit];
                    digit--;
                }
                least |= (u64)digit << shift;
            }
            __syncthreads();
        }
    }

    const u64 from = least == 0 ? 1 : least;
    for (u32 at = thread; at < step.candidates; at += SELECT_THREADS) {
        const u64 key = keys[at];
        if (key >= from) {
            best[atomicAdd(&taken, 1u)] = key;
        }
    }
    __syncthreads();
    const u32 count = taken;
    u32 sorted = 1;
    while (sorted < count) {
        sorted *= 2;
    }
    for (u32 at = thread; at < sorted; at += SELECT_THREADS) {
        gone[at] = 0;
        if (at >= count) {
            best[at] = 0;
        }
    }
    __syncthreads();
    // Bitonic, descending.
    for (u32 run = 2; run <= sorted; run *= 2) {
        for (u32 distance = run / 2; distance > 0; distance /= 2) {
            for (u32 pair = thread; pair < sorted / 2; pair += SELECT_THREADS) {
                const u32 low = 2 * pair - (pair & (distance - 1));
                const u32 high = low + distance;
                const bool descending = (low & run) == 0;
                const u64 a = best[low], b = best[high];
                if ((a < b) == descending) {
                    best[low] = b;
                    best[high] = a;
                }
            }
            __syncthreads();
        }
    }

    const Geometry geometry = geometries[blockIdx.x];
    Found* __restrict__ found = all_found + (u64)blockIdx.x * step.detections_max;
    u32 kept = 0;
    for (u32 at = 0; at < count && kept < step.detections_max; at++) {
        // The same for all threads: nothing up to `at` changes any more.
        if (gone[at]) {
            continue;
        }
        const u32 place = place_of(best[at]);
        const float4 box = boxes[place];
        const u32 index = classes[place];
        const f32 x1 = to_source(box.x, geometry.width, geometry.fitted_width);
        const f32 y1 = to_source(box.y, geometry.height, geometry.fitted_height);
        const f32 x2 = to_source(box.z, geometry.width, geometry.fitted_width);
        const f32 y2 = to_source(box.w, geometry.height, geometry.fitted_height);
        if (area(x1, y1, x2, y2) > 0.0f) {
            if (thread == 0) {
                Found one;
                one.bbox[0] = x1;
                one.bbox[1] = y1;
                one.bbox[2] = x2;
                one.bbox[3] = y2;
                one.score = score_of(best[at]);
                one.class_index = index;
                found[kept] = one;
            }
            kept++;
        }
        for (u32 other = at + 1 + thread; other < count; other += SELECT_THREADS) {
            if (!gone[other]) {
                const u32 other_place = place_of(best[other]);
                if (classes[other_place] == index && overlap(box, boxes[other_place]) > step.iou_max) {
                    gone[other] = 1;
                }
            }
        }
        __syncthreads();
    }
    if (thread == 0) {
        Outcome outcome;
        outcome.count = kept;
        outcome.candidates = total;
        outcome.bad_row = bad_row;
        outcome.reserved = 0;
        outcomes[blockIdx.x] = outcome;
    }
}
