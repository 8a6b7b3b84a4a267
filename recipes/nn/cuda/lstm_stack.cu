// Stacks of LSTM layers: the steps of some layers at once in one launch, in f16, or of one a step at a time; and the last rows.
//
// Rows stand step by step: row `step * sequences + sequence`, where a sequence has as many as `lengths`, int [sequences], says; what
// the others hold is not looked at. Gates of a unit stand side by side, i, f, g, o: [rows, hidden, 4]; weights and biases are in that
// order too. A stream is a layer, or a direction of one. y has `pitch` values from row to row, and what goes backwards, which is
// stream 1, has its columns behind the other's. T is `f16` or `f32`.
//
// `lstm_wave_f16_mM_gG(recurrent, bias, cells, lengths, gates x 4, y x 4, first, wave, turn, both, from, sequences, hidden, pitch)`
//     A turn of streams `first + blockIdx.y`, whose gates, of that turn alone, and y are the pointer of that number, and others null.
//     With `both` the streams are directions, and the turn is their only one; otherwise a stream is one turn behind the one before it:
//     it takes turn `wave - stream`. Sequences from `from` on, 16 M of them at most.
//     Blocks have 8 G units. They keep these units' weights in shared memory, of which a warp's threads take an eighth of the depth, and
//     read the states before from y. Before, y is not a number in any bit (`lstm_unset`), which no state is: so blocks need no
//     other sign that a state is there. Each waits for those of its stream, so all have to run at once. Bound by latency: a step is a
//     store that others read, through the second-level cache, a product, and a sum over warps.
//     recurrent: f16 [streams][blocks][depth / 32][4 G][32 lanes][8], where depth is hidden up to a multiple of 256: lane l has, of tile
//     4 g + gate, unit 8 (G block + g) + 4 (l / 4 % 2) + l / 8, and columns 32 piece + 8 (l % 4) on; zeros where there is no such.
//     bias f32 [streams, hidden, 4], cells f32 [streams, sequences, hidden], between turns. hidden and pitch are multiples of 8.
//     Grid (ceil(hidden / 8 G), streams), block 256, dynamic shared memory 64 G depth + 16384 M bytes.
// `lstm_advance_T(product, gates, bias, cells, states, y, lengths, step, backward, sequences, hidden, pitch)`
//     A step of a stream: product f32 [sequences, hidden, 4] is what its states make, null at the first; gates are f32 and of all rows.
//     Leaves cells f32 and states [sequences, hidden]. Grid ceil(sequences * hidden / 256), block 256.
// `lstm_last_T(y, lengths, to, sequences, width)`
//     Each sequence's last row of rows of `width` values, zeros where it has none. Grid ceil(sequences * width / 256), block 256.
// `lstm_unset(to, vectors)`
//     All bits of 16-byte vectors. Grid ceil(vectors / 256), block 256.
#include "tile.cuh"

namespace galley {

constexpr int THREADS = 256, WARPS = THREADS / WARP;
constexpr int GATES = 4, UNITS = 8;  // of a group
constexpr int PIECE = 32;            // of the depth: four lanes with 8 values each
constexpr int AHEAD = 4;             // pieces that a warp reads at once
constexpr uint32_t UNSET = 0xffffffff;

// What other blocks may be writing, and what they may be reading.
__device__ __forceinline__ uint4 load_shared_state(const __half* from) {
    uint4 to;
    asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w)
                 : "l"(from)
                 : "memory");
    return to;
}
__device__ __forceinline__ void store_shared_state(__half* to, uint32_t first, uint32_t second) {
    asm volatile("st.relaxed.gpu.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(first), "r"(second) : "memory");
}
__device__ __forceinline__ bool is_unset(uint4 states) {
    return states.x == UNSET || states.y == UNSET || states.z == UNSET || states.w == UNSET;
}

__device__ __forceinline__ float4 operator+(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// From what gates are made of and the cell before to this one; gives the state.
__device__ __forceinline__ float advance(float4 gates, float& cell) {
    cell = fmaf(sigmoid(gates.y), cell, sigmoid(gates.x) * tanhf(gates.z));
    return sigmoid(gates.w) * tanhf(cell);
}
__device__ __forceinline__ float quick_advance(float4 gates, float& cell) {
    const float input = quick_sigmoid(gates.x) * quick_activate<TANH>(gates.z);
    cell = fmaf(quick_sigmoid(gates.y), cell, input);
    return quick_sigmoid(gates.w) * quick_activate<TANH>(cell);
}

struct Turn {
    int first, wave, turn, both, from, sequences, hidden, pitch;
};

template <int TILES, int GROUPS>
__device__ __forceinline__ void wave(const __half* recurrent, const float* bias, float* cells, const int* lengths,
                                     const __half* gates, __half* y, const Turn& at) {
    constexpr int ACROSS = GROUPS * GATES, OWNERS = TILES * 4;
    extern __shared__ __align__(16) unsigned char memory[];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, stream = at.first + blockIdx.y;
    const int pieces = (at.hidden + WARPS * PIECE - 1) / (WARPS * PIECE);  // of a warp
    const int vectors = WARPS * pieces * ACROSS * WARP;
    uint4* weights = reinterpret_cast<uint4*>(memory);
    float4* parts = reinterpret_cast<float4*>(weights + vectors);
    const uint4* own = reinterpret_cast<const uint4*>(recurrent) +
                       (static_cast<size_t>(stream) * gridDim.x + blockIdx.x) * vectors;
    for (int i = threadIdx.x; i < vectors; i += THREADS) copy(shared_address(weights + i), own + i);
    commit_copies();
    take_turn();

    // The rows that this thread multiplies: of a tile, and 8 further on.
    int have[TILES][2], most = 0;
#pragma unroll
    for (int i = 0; i < TILES; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int sequence = at.from + i * 16 + half * 8 + lane / 4;
            have[i][half] = sequence < at.sequences ? lengths[sequence] : 0;
            most = max(most, have[i][half]);
        }
    }
    // Whose cells it has, if any: warps have four units of eight sequences.
    const bool owner = warp < OWNERS, backwards = at.both && stream == 1;
    const int sequence = at.from + warp / 4 * 16 + warp / 2 % 2 * 8 + lane / 4;
    const int length = owner && sequence < at.sequences ? lengths[sequence] : 0;
    const int base = blockIdx.x * GROUPS * UNITS, unit = base + warp % 2 * 4 + lane % 4;
    const int groups = min(GROUPS, (at.hidden - base) / UNITS);
    float4 biases[GROUPS];
    float c[GROUPS];
    const int begin = at.both ? 0 : (at.wave - stream) * at.turn;
    const int end = min(begin + at.turn, __reduce_max_sync(0xffffffffu, most));
    float* kept = cells + (static_cast<size_t>(stream) * at.sequences + sequence) * at.hidden + unit;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        const bool there = g < groups && owner;
        const size_t place = static_cast<size_t>(stream) * at.hidden + unit + g * UNITS;
        biases[g] = there ? reinterpret_cast<const float4*>(bias)[place] : make_float4(0, 0, 0, 0);
        c[g] = there && length > 0 && begin > 0 ? kept[g * UNITS] : 0.0f;
    }
    await_copies<0>();
    __syncthreads();

    for (int step = begin; step < end; step++) {
        const bool alive = step < length;
        const size_t row = static_cast<size_t>(backwards ? length - 1 - step : step) * at.sequences + sequence;
        // On their way while others compute the step before.
        uint2 inputs[GROUPS];
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            const size_t first = row - static_cast<size_t>(begin) * at.sequences;
            inputs[g] = make_uint2(0, 0);
            if (alive && g < groups)
                inputs[g] = reinterpret_cast<const uint2*>(gates)[first * at.hidden + unit + g * UNITS];
        }
        float sums[TILES][ACROSS][4] = {};
        if (step > 0) {
            const __half* before[TILES][2];
#pragma unroll
            for (int i = 0; i < TILES; i++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int has = have[i][half], row = backwards ? has - step : step - 1;
                    const size_t place = static_cast<size_t>(row) * at.sequences + at.from + i * 16 + half * 8 + lane / 4;
                    before[i][half] = step < has ? y + place * at.pitch : nullptr;
                }
            }
            for (int first = 0; first < pieces; first += AHEAD) {
                const int column = (warp * pieces + first) * PIECE + lane % 4 * 8;
                // Until there is something, one access each is enough to ask for.
                if (before[0][0] && column < at.hidden) {
                    while (is_unset(load_shared_state(before[0][0] + column))) {}
                }
                uint4 states[AHEAD][TILES][2];
#pragma unroll
                for (int k = 0; k < AHEAD; k++) {
                    const bool there = first + k < pieces && column + k * PIECE < at.hidden;
#pragma unroll
                    for (int i = 0; i < TILES; i++) {
#pragma unroll
                        for (int half = 0; half < 2; half++) {
                            states[k][i][half] = make_uint4(0, 0, 0, 0);
                            if (there && before[i][half])
                                states[k][i][half] = load_shared_state(before[i][half] + column + k * PIECE);
                        }
                    }
                }
#pragma unroll
                for (int k = 0; k < AHEAD; k++) {
                    if (first + k >= pieces) break;
#pragma unroll
                    for (int i = 0; i < TILES; i++) {
#pragma unroll
                        for (int half = 0; half < 2; half++) {
                            while (is_unset(states[k][i][half]))
                                states[k][i][half] = load_shared_state(before[i][half] + column + k * PIECE);
                        }
                    }
                    __syncwarp();
                    const uint4* tiles = weights + (warp * pieces + first + k) * ACROSS * WARP + lane;
#pragma unroll
                    for (int j = 0; j < ACROSS; j++) {
                        const uint4 b = tiles[j * WARP];
#pragma unroll
                        for (int i = 0; i < TILES; i++) {
                            const uint4 upper = states[k][i][0], lower = states[k][i][1];
                            const uint32_t even[4] = {upper.x, lower.x, upper.y, lower.y};
                            const uint32_t odd[4] = {upper.z, lower.z, upper.w, lower.w};
                            multiply_add(sums[i][j], even, b.x, b.y);
                            multiply_add(sums[i][j], odd, b.z, b.w);
                        }
                    }
                }
            }
        }
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            if (g >= groups) break;
#pragma unroll
            for (int i = 0; i < TILES; i++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    parts[(warp * OWNERS + i * 4 + e) * WARP + lane] =
                        make_float4(sums[i][g * GATES][e], sums[i][g * GATES + 1][e], sums[i][g * GATES + 2][e],
                                    sums[i][g * GATES + 3][e]);
                }
            }
            __syncthreads();
            if (owner) {
                const float2 low = unpack_halves(inputs[g].x), high = unpack_halves(inputs[g].y);
                float4 total = biases[g] + make_float4(low.x, low.y, high.x, high.y);
#pragma unroll
                for (int from = 0; from < WARPS; from++) total = total + parts[(from * OWNERS + warp) * WARP + lane];
                float cell = c[g];
                const __half h = __float2half_rn(quick_advance(total, cell));
                // Not a number is so in other bits than what is unset.
                const uint32_t bits = min(static_cast<uint32_t>(__half_as_ushort(h)), 0xfffeu);
                const uint32_t pair = bits | __shfl_down_sync(0xffffffffu, bits, 1) << 16;
                const uint32_t next = __shfl_down_sync(0xffffffffu, pair, 2);
                if (alive) {
                    c[g] = cell;
                    if (lane % 4 == 0) store_shared_state(y + row * at.pitch + unit + g * UNITS, pair, next);
                }
            }
            __syncthreads();
        }
    }
    if (length > 0) {
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            if (g < groups) kept[g * UNITS] = c[g];
        }
    }
}

template <typename T>
__device__ __forceinline__ void advance_all(const float* product, const float* gates, const float* bias, float* cells,
                                            T* states, T* y, const int* lengths, int step, int backward, int sequences,
                                            int hidden, int pitch) {
    const unsigned place = blockIdx.x * THREADS + threadIdx.x;
    const int sequence = place / hidden, unit = place % hidden;
    take_turn();
    if (sequence >= sequences || step >= lengths[sequence]) return;
    const size_t row = static_cast<size_t>(backward ? lengths[sequence] - 1 - step : step) * sequences + sequence;
    float4 sum = reinterpret_cast<const float4*>(gates)[row * hidden + unit] + reinterpret_cast<const float4*>(bias)[unit];
    if (product) sum = sum + reinterpret_cast<const float4*>(product)[place];
    float c = step > 0 ? cells[place] : 0.0f;
    const T h = from_float<T>(advance(sum, c));
    cells[place] = c;
    states[place] = y[row * pitch + (backward ? hidden : 0) + unit] = h;
}

template <typename T>
__device__ __forceinline__ void last(const T* y, const int* lengths, T* to, int sequences, int width) {
    const unsigned place = blockIdx.x * THREADS + threadIdx.x;
    const int sequence = place / width, column = place % width;
    take_turn();
    if (sequence >= sequences) return;
    const int length = lengths[sequence];
    const size_t row = static_cast<size_t>(length - 1) * sequences + sequence;
    to[place] = length > 0 ? y[row * width + column] : from_float<T>(0.0f);
}

}  // namespace galley

#define GALLEY_KERNEL extern "C" __global__ void __launch_bounds__(galley::THREADS, 1)
#define GALLEY_WAVE(TILES, GROUPS)                                                                                     \
    GALLEY_KERNEL lstm_wave_f16_m##TILES##_g##GROUPS(                                                                  \
        const __half* recurrent, const float* bias, float* cells, const int* lengths, const __half* gates0,            \
        const __half* gates1, const __half* gates2, const __half* gates3, __half* y0, __half* y1, __half* y2,          \
        __half* y3, int first, int wave, int turn, int both, int from, int sequences, int hidden, int pitch) {         \
        const int stream = first + blockIdx.y;                                                                         \
        const __half* gates = stream == 0 ? gates0 : stream == 1 ? gates1 : stream == 2 ? gates2 : gates3;             \
        __half* y = stream == 0 ? y0 : stream == 1 ? y1 : stream == 2 ? y2 : y3;                                       \
        if (both) y += stream * hidden;                                                                                \
        const galley::Turn at = {first, wave, turn, both, from, sequences, hidden, pitch};                             \
        galley::wave<TILES, GROUPS>(recurrent, bias, cells, lengths, gates, y, at);                                    \
    }

GALLEY_WAVE(1, 1)
GALLEY_WAVE(1, 2)
GALLEY_WAVE(1, 3)
GALLEY_WAVE(2, 1)
GALLEY_WAVE(2, 2)
GALLEY_WAVE(2, 3)

#define GALLEY_STEP(name, T)                                                                                           \
    GALLEY_KERNEL lstm_advance_##name(const float* product, const float* gates, const float* bias, float* cells,       \
                                      T* states, T* y, const int* lengths, int step, int backward, int sequences,      \
                                      int hidden, int pitch) {                                                         \
        galley::advance_all<T>(product, gates, bias, cells, states, y, lengths, step, backward, sequences, hidden,     \
                               pitch);                                                                                 \
    }                                                                                                                  \
    GALLEY_KERNEL lstm_last_##name(const T* y, const int* lengths, T* to, int sequences, int width) {                  \
        galley::last<T>(y, lengths, to, sequences, width);                                                             \
    }

GALLEY_STEP(f16, __half)
GALLEY_STEP(f32, float)

GALLEY_KERNEL lstm_unset(uint4* to, int vectors) {
    const unsigned place = blockIdx.x * galley::THREADS + threadIdx.x;
    galley::take_turn();
    if (place < vectors) to[place] = make_uint4(galley::UNSET, galley::UNSET, galley::UNSET, galley::UNSET);
}
