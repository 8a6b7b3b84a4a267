// What follows a tagger's LSTM: scores of each row's tags, and the best path through each sequence's by a linear-chain
// conditional random field. Rows of sequences lie end to end; tags are at most 16.
//
// crf_emissions_f16(x, dense, dense_bias f32, weight f32, bias f32, scores f32,
//                   int rows, int inputs, int x_stride, int units, int tags)
//   scores [rows, tags] = weight * tanh(dense * x + dense_bias) + bias; the hidden units stay in registers, in f32, as
//   do sums. x [rows, inputs] in rows of x_stride, which is even; it is read fastest if it is a multiple of 8 and x is
//   aligned to 16 bytes; what is behind the inputs is not read. units is that of the matrices, a multiple of 8, with
//   zeros where the model has nothing: dense [units, inputs up to a multiple of 32] (zeros there too, aligned to 16
//   bytes), dense_bias [units] (aligned to 8 bytes), weight [tags, units]; bias [tags]. Block: 256 threads. Grid: any
//   number of blocks, which stride over tiles of 64 rows; min(ceil(rows / 64), 264) fills the device. Dynamic shared
//   memory: (units + 64) * (padded inputs + 8) * 2 + 4 * tags * (units + 256) bytes, which limits inputs and units.
//   For 200 inputs, 100 units and 3 tags a row is 400 bytes in and 12 out, with 41 kFLOP: memory would bound it at 4
//   times the speed it has, which waits for its loads and for shared memory.
// crf_emissions_T_plain(x T, dense f32, dense_bias, weight, bias, scores, ...as above)
//   The same on CUDA cores for T of f16 or f32 and any inputs, units and x_stride. dense [inputs, units] (transposed,
//   not padded), or null for scores = weight * x + bias, with units = inputs. Block: 128 threads. Grid: ceil(rows /
//   16). Dynamic shared memory: 64 * (inputs + units + 2) bytes, or 64 * (inputs + 1) without dense. Bound by
//   arithmetic.
//
// crf_viterbi_f32(scores, sequences, start, end, transitions, back, labels, int count, int tags)
//   labels u8 [rows]: of each sequence the tags with the highest sum of scores [rows, tags], start [tags], end [tags]
//   and transitions [from, to], all f32. Of equal ones the lower tag is taken, from the last row to the first, and sums
//   are made in the order of the rows: the result is that of the plain algorithm to the bit. sequences: int4 {first
//   row, length, unused, unused} in any order; a length may be 0. back: uint2 [rows], for the kernel's own use. Block:
//   128 threads. Grid: ceil(count / 4), a warp for each sequence. Bound by latency: a row's step needs the one before.

#include <math_constants.h>

#include "tile.cuh"

namespace galley {
namespace {

constexpr int MAX_TAGS = 16;

// ---- Scores on tensor cores. ----

namespace emissions {

constexpr int ROWS = 64;  // of a block's tile
constexpr int WARPS_DOWN = 2, WARPS_ACROSS = 4;
constexpr int WARPS = WARPS_DOWN * WARPS_ACROSS;
constexpr int WARP_ROWS = ROWS / WARPS_DOWN;
constexpr int M_TILES = WARP_ROWS / 16;  // products of a warp, of 16 rows
constexpr int N_TILES = 4;               // by 8 units: every fourth of all
constexpr int DEPTH = 32;                // inputs at a time

// 1 - 2 / (1 + e^2x), good to 2^-22 of 1.
__device__ __forceinline__ float tanh_of(float x) {
    float power, quotient;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * (2 * 1.44269504088896341f)));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(quotient) : "f"(1.0f + power));
    return 1.0f - 2.0f * quotient;
}

struct Shapes {
    int rows, inputs, x_stride, units, tags;
};

struct Weights {
    const __half* dense;
    const float *dense_bias, *weight, *bias;
};

struct Tile {
    __half *dense, *x;
    float *weight, *parts;  // [tags, units], [WARPS_ACROSS, ROWS, tags]
    int pitch;              // of dense and x
};

// The hidden units of this warp's rows from product `first` on, as far as there are any.
__device__ __forceinline__ void hidden_units(float (&sums)[M_TILES][N_TILES][4], const Tile& tile, int first,
                                             const float* bias, int products, int row) {
    const int lane = threadIdx.x % WARP, depth = tile.pitch - 8;
    const uint32_t x_from = shared_address(tile.x + (row + lane % 16) * tile.pitch + lane / 16 * 8);
    const uint32_t dense_from = shared_address(tile.dense + (first * 8 + lane % 8) * tile.pitch + lane / 8 * 8);
#pragma unroll
    for (int n = 0; n < N_TILES; ++n) {
        const int product = first + n * WARPS_ACROSS;
        const float2 start = product < products ? load_pair(bias + product * 8 + lane % 4 * 2) : make_float2(0, 0);
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[m][n][i] = i % 2 == 0 ? start.x : start.y;
        }
    }
    for (int k = 0; k < depth; k += DEPTH) {
        uint32_t a[M_TILES][2][4];
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                load_matrices(a[m][half], x_from + (m * 16 * tile.pitch + k + half * 16) * 2);
            }
        }
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
            if (first + n * WARPS_ACROSS >= products) continue;
            uint32_t b[4];
            load_matrices(b, dense_from + (n * WARPS_ACROSS * 8 * tile.pitch + k) * 2);
#pragma unroll
            for (int m = 0; m < M_TILES; ++m) {
                multiply_add(sums[m][n], a[m][0], b[0], b[1]);
                multiply_add(sums[m][n], a[m][1], b[2], b[3]);
            }
        }
    }
#pragma unroll
    for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[m][n][i] = tanh_of(sums[m][n][i]);
        }
    }
}

// What these hidden units add to the scores of this warp's rows; the first units set them.
__device__ __forceinline__ void add_scores(const float (&hidden)[M_TILES][N_TILES][4], const Tile& tile, int first,
                                           int products, int row, const Shapes& shapes, float* parts) {
    const int lane = threadIdx.x % WARP;
    for (int tag = 0; tag < shapes.tags; ++tag) {
        float sums[M_TILES][2] = {};
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
            const int product = first + n * WARPS_ACROSS;
            if (product >= products) continue;
            const float2 weight = load_pair(tile.weight + tag * shapes.units + product * 8 + lane % 4 * 2);
#pragma unroll
            for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    sums[m][half] += hidden[m][n][2 * half] * weight.x + hidden[m][n][2 * half + 1] * weight.y;
                }
            }
        }
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float sum = sums[m][half];
                sum += __shfl_xor_sync(0xffffffffu, sum, 1);
                sum += __shfl_xor_sync(0xffffffffu, sum, 2);
                float& part = parts[(row + m * 16 + half * 8 + lane / 4) * shapes.tags + tag];
                if (lane % 4 == 0) part = first < WARPS_ACROSS ? sum : part + sum;
            }
        }
    }
}

__device__ __forceinline__ void score(const __half* x, const Weights& weights, float* scores, const Shapes& shapes) {
    extern __shared__ __align__(16) char shared[];
    const int padded = (shapes.inputs + DEPTH - 1) / DEPTH * DEPTH, products = shapes.units / 8;
    Tile tile;
    tile.pitch = padded + 8;
    tile.dense = reinterpret_cast<__half*>(shared);
    tile.x = tile.dense + shapes.units * tile.pitch;
    tile.weight = reinterpret_cast<float*>(tile.x + ROWS * tile.pitch);
    tile.parts = tile.weight + shapes.tags * shapes.units;

    for (int row = threadIdx.x / WARP; row < shapes.units; row += WARPS) {
        for (int k = threadIdx.x % WARP * 8; k < padded; k += WARP * 8) {
            copy(shared_address(tile.dense + row * tile.pitch + k),
                 weights.dense + static_cast<size_t>(row) * padded + k);
        }
    }
    for (int i = threadIdx.x; i < shapes.tags * shapes.units; i += blockDim.x) tile.weight[i] = weights.weight[i];

    const int warp = threadIdx.x / WARP, across = warp % WARPS_ACROSS, row = warp / WARPS_ACROSS * WARP_ROWS;
    for (int first = blockIdx.x * ROWS; first < shapes.rows; first += gridDim.x * ROWS) {
        const int rows = min(ROWS, shapes.rows - first);
        copy_rows<ROWS, WARPS>(tile.x, tile.pitch, x + static_cast<size_t>(first) * shapes.x_stride, shapes.x_stride,
                               rows, shapes.inputs, padded);
        commit_copies();
        await_copies<0>();
        __syncthreads();
        float* const parts = tile.parts + across * ROWS * shapes.tags;
        for (int product = across; product < max(products, WARPS_ACROSS); product += WARPS_ACROSS * N_TILES) {
            float hidden[M_TILES][N_TILES][4];
            hidden_units(hidden, tile, product, weights.dense_bias, products, row);
            add_scores(hidden, tile, product, products, row, shapes, parts);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < rows * shapes.tags; i += blockDim.x) {
            float sum = __ldg(weights.bias + i % shapes.tags);
#pragma unroll
            for (int part = 0; part < WARPS_ACROSS; ++part) sum += tile.parts[part * ROWS * shapes.tags + i];
            scores[static_cast<size_t>(first) * shapes.tags + i] = sum;
        }
    }
}

// ---- Scores on CUDA cores. ----

constexpr int PLAIN_ROWS = 16, PLAIN_THREADS = 128;

template <typename T>
__device__ __forceinline__ void score_plain(const T* x, const float* dense, const float* dense_bias,
                                            const float* weight, const float* bias, float* scores,
                                            const Shapes& shapes) {
    extern __shared__ __align__(16) char shared[];
    const int first = blockIdx.x * PLAIN_ROWS, rows = min(PLAIN_ROWS, shapes.rows - first);
    // A column more, so that threads of different rows read different banks.
    const int x_pitch = shapes.inputs + 1, hidden_pitch = dense ? shapes.units + 1 : x_pitch;
    float* const x_rows = reinterpret_cast<float*>(shared);
    float* const hidden = dense ? x_rows + PLAIN_ROWS * x_pitch : x_rows;

    for (int row = threadIdx.x / WARP; row < PLAIN_ROWS; row += PLAIN_THREADS / WARP) {
        const T* from = x + static_cast<size_t>(first + row) * shapes.x_stride;
        for (int k = threadIdx.x % WARP; k < shapes.inputs; k += WARP) {
            x_rows[row * x_pitch + k] = row < rows ? to_float(from[k]) : 0.0f;
        }
    }
    __syncthreads();
    if (dense) {
        for (int unit = threadIdx.x; unit < shapes.units; unit += PLAIN_THREADS) {
            float sums[PLAIN_ROWS];
#pragma unroll
            for (int row = 0; row < PLAIN_ROWS; ++row) sums[row] = __ldg(dense_bias + unit);
            for (int k = 0; k < shapes.inputs; ++k) {
                const float w = __ldg(dense + static_cast<size_t>(k) * shapes.units + unit);
#pragma unroll
                for (int row = 0; row < PLAIN_ROWS; ++row) sums[row] += w * x_rows[row * x_pitch + k];
            }
#pragma unroll
            for (int row = 0; row < PLAIN_ROWS; ++row) hidden[row * hidden_pitch + unit] = tanhf(sums[row]);
        }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < rows * shapes.tags; i += PLAIN_THREADS) {
        const int row = i / shapes.tags, tag = i % shapes.tags;
        float sum = __ldg(bias + tag);
        for (int k = 0; k < shapes.units; ++k) {
            sum += hidden[row * hidden_pitch + k] * __ldg(weight + static_cast<size_t>(tag) * shapes.units + k);
        }
        scores[static_cast<size_t>(first) * shapes.tags + i] = sum;
    }
}

}  // namespace emissions

// ---- The best path. ----

namespace viterbi {

constexpr int WARPS = 4;     // of a block, with a sequence each
constexpr int CHUNK = WARP;  // rows whose scores are fetched together, and whose steps back each lane has one of

// For each tag of a row, the tag of the row before it on the best path that ends there: bit `tag` of plane p is its
// bit p. Two planes share a word.
struct Back {
    uint2 planes;

    template <int BOUND> __device__ __forceinline__ static Back of(int from) {
        const auto plane = [&](int p) { return __ballot_sync(0xffffffffu, from >> p & 1) & 0xffffu; };
        return {make_uint2(plane(0) | plane(1) << 16, BOUND > 4 ? plane(2) | plane(3) << 16 : 0)};
    }
    template <int BOUND> __device__ __forceinline__ Back of_lane(int lane) const {
        return {make_uint2(__shfl_sync(0xffffffffu, planes.x, lane),
                           BOUND > 4 ? __shfl_sync(0xffffffffu, planes.y, lane) : 0)};
    }
    __device__ __forceinline__ int from(int tag) const {
        const uint32_t low = planes.x >> tag, high = planes.y >> tag;
        return (low & 1) | (low >> 15 & 2) | (high & 1) << 2 | (high >> 13 & 8);
    }
};

// The highest of the first `BOUND` lanes' scores plus what the array adds, the first of equals.
template <int BOUND> __device__ __forceinline__ float best_of(float score, const float (&add)[BOUND], int& from) {
    float best = __shfl_sync(0xffffffffu, score, 0) + add[0];
    from = 0;
#pragma unroll
    for (int tag = 1; tag < BOUND; ++tag) {
        const float candidate = __shfl_sync(0xffffffffu, score, tag) + add[tag];
        if (candidate > best) best = candidate, from = tag;
    }
    return best;
}

__device__ __forceinline__ void fetch_chunk(float* to, const float* from, int values) {
    for (int i = threadIdx.x % WARP; i < values; i += WARP) {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to + i)), "l"(from + i)
                     : "memory");
    }
    commit_copies();
}

// Lane `to` keeps the score of the best path that ends in that tag. Tags that don't exist are never better than tag 0.
template <int BOUND>
__device__ __forceinline__ void decode(const float* scores, int length, const float* start, const float* end,
                                       const float* transitions, uint2* back, uint8_t* labels, int tags,
                                       float (&fetched)[2][CHUNK * MAX_TAGS]) {
    const int lane = threadIdx.x % WARP, tag = min(lane, tags - 1);
    const auto chunk_steps = [&](int first) { return min(CHUNK, length - first); };

    fetch_chunk(fetched[0], scores, chunk_steps(0) * tags);
    float add[BOUND];
#pragma unroll
    for (int from = 0; from < BOUND; ++from) {
        add[from] = from < tags ? __ldg(transitions + from * tags + tag) : -CUDART_INF_F;
    }
    float score = __ldg(start + tag);
    Back kept = {};
    for (int first = 0, number = 0; first < length; first += CHUNK, ++number) {
        const int steps = chunk_steps(first);
        if (first + CHUNK < length) {
            fetch_chunk(fetched[~number & 1], scores + static_cast<size_t>(first + CHUNK) * tags,
                        chunk_steps(first + CHUNK) * tags);
            await_copies<1>();
        } else {
            await_copies<0>();
        }
        __syncwarp();
        const float* row = fetched[number & 1] + tag;
#pragma unroll 4
        for (int step = 0; step < steps; ++step, row += tags) {
            int from = 0;
            if (first + step > 0) score = best_of<BOUND>(score, add, from);
            score += *row;
            const Back now = Back::of<BOUND>(from);
            if (lane == step) kept = now;
        }
        if (lane < steps) back[first + lane] = kept.planes;
        __syncwarp();  // The next copies go where these scores have been read.
    }

#pragma unroll
    for (int from = 0; from < BOUND; ++from) add[from] = from < tags ? 0.0f : -CUDART_INF_F;
    int label;
    best_of<BOUND>(score + __ldg(end + tag), add, label);
    for (int first = (length - 1) / CHUNK * CHUNK; first >= 0; first -= CHUNK) {
        const int steps = chunk_steps(first);
        Back before = {};
        if (first > 0) before.planes = back[first - CHUNK + lane];
        int own = 0;
#pragma unroll 4
        for (int step = steps - 1; step >= 0; --step) {
            if (lane == step) own = label;
            label = kept.of_lane<BOUND>(step).from(label);
        }
        if (lane < steps) labels[first + lane] = static_cast<uint8_t>(own);
        kept = before;
    }
}

}  // namespace viterbi
}  // namespace
}  // namespace galley

using namespace galley;

extern "C" __global__ void __launch_bounds__(emissions::WARPS* WARP, 2)
    crf_emissions_f16(const __half* x, const __half* dense, const float* dense_bias, const float* weight,
                      const float* bias, float* scores, int rows, int inputs, int x_stride, int units, int tags) {
    galley::take_turn();
    emissions::score(x, {dense, dense_bias, weight, bias}, scores, {rows, inputs, x_stride, units, tags});
}

#define CRF_EMISSIONS_PLAIN(NAME, T)                                                                                   \
    extern "C" __global__ void __launch_bounds__(emissions::PLAIN_THREADS) crf_emissions_##NAME##_plain(               \
        const T* x, const float* dense, const float* dense_bias, const float* weight, const float* bias,               \
        float* scores, int rows, int inputs, int x_stride, int units, int tags) {                                      \
        galley::take_turn();                                                                                           \
        emissions::score_plain<T>(x, dense, dense_bias, weight, bias, scores, {rows, inputs, x_stride, units, tags});  \
    }

CRF_EMISSIONS_PLAIN(f16, __half)
CRF_EMISSIONS_PLAIN(f32, float)

extern "C" __global__ void __launch_bounds__(viterbi::WARPS* WARP)
    crf_viterbi_f32(const float* scores, const int4* sequences, const float* start, const float* end,
                    const float* transitions, uint2* back, uint8_t* labels, int count, int tags) {
    galley::take_turn();
    const int number = blockIdx.x * viterbi::WARPS + threadIdx.x / WARP;
    if (number >= count) return;
    const int4 sequence = __ldg(sequences + number);
    if (sequence.y == 0) return;
    const size_t first = sequence.x;
    __shared__ float fetched[viterbi::WARPS][2][viterbi::CHUNK * MAX_TAGS];
    float(&mine)[2][viterbi::CHUNK * MAX_TAGS] = fetched[threadIdx.x / WARP];
    scores += first * tags, back += first, labels += first;
    if (tags <= 4) {
        viterbi::decode<4>(scores, sequence.y, start, end, transitions, back, labels, tags, mine);
    } else {
        viterbi::decode<MAX_TAGS>(scores, sequence.y, start, end, transitions, back, labels, tags, mine);
    }
}
