// All steps of a layer of an LSTM in training in one launch, there or back, in f16: see `train_lstm.cu`, which is for the rest.
//
// A cluster of eight blocks has 64 units of 32 sequences. Each block multiplies an eighth of what a step's product is summed
// over, by weights that stay in its shared memory, 64 KB for 1024 units; then it adds up what all have of eight units, and computes
// their cells. After each step all blocks of the same sequences wait for each other. Bound by latency: a step takes four trips
// through the second-level cache or between multiprocessors.
//
// Blocks that wait have to be there all at once: they are launched as such (cooperative), and there may be no more than the card has
// multiprocessors, of which each has room for two of up to 1088 units (clusters do not fit everywhere). Units are a multiple of 128. Grid (hidden / 8, ceil(sequences / 32)), block 256. `turns`, a word in each 128 bytes for 32
// sequences, are zeros before.
//
// `lstm_steps_f16(recurrent, input_bias, recurrent_bias, gates, cells, y, turns, sequences, steps, hidden)`
//     Forward: recurrent are the weights of states, [4 * hidden, hidden]; gates hold the inputs' part. Dynamic shared memory:
//     64 * hidden + 37888 bytes.
// `lstm_steps_back_f16(recurrent, gates, cells, dy, dgates, turns, sequences, steps, hidden)`
//     Back. Dynamic shared memory: 72 * hidden, and the larger of 32 * hidden + 512 and 9216 bytes.
// The launch before must not write the weights.
#include "tile.cuh"
#include "train_cluster.cuh"
#include "train_lstm.cuh"

namespace galley {

constexpr int THREADS = 256;
constexpr int BLOCKS = 8;
constexpr int UNITS = 64;           // of a cluster
constexpr int OWN = UNITS / BLOCKS;  // of a block
constexpr int SEQUENCES = THREADS / OWN;
constexpr int PAD = 8;               // so that eight rows of 16 bytes lie in different banks
constexpr int TILES = SEQUENCES / 16;

extern __shared__ __align__(16) unsigned char memory[];

// Begins to copy rows of `columns` values, `stride` apart, of which there may be fewer than `rows`; the others become zeros.
__device__ __forceinline__ void copy_in(__half* to, int pitch, const __half* from, size_t stride, int rows, int there,
                                        int columns) {
    const int vectors = columns / 8;
    for (int i = threadIdx.x; i < rows * vectors; i += THREADS) {
        const int row = i / vectors, column = i % vectors * 8;
        const bool valid = row < there;
        copy_or_zero(shared_address(to + row * pitch + column), from + (valid ? row : 0) * stride + column, valid);
    }
}

// Four matrices of 8 by 8, turned.
__device__ __forceinline__ void load_turned(uint32_t (&to)[4], const __half* from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(from))
                 : "memory");
}

// The rows of a tile of sequences, 16 columns of them.
__device__ __forceinline__ void load_states(uint32_t (&to)[4], const __half* states, int pitch, int tile, int column) {
    const int lane = threadIdx.x % WARP;
    load_matrices(to, shared_address(states + (tile * 16 + lane % 16) * pitch + column + lane / 16 * 8));
}

// What a thread has: a unit of a sequence.
struct Unit {
    int rank, base;    // the block's place in its cluster, and the cluster's first unit
    int first, there;  // the first sequence, and how many there are from it on
    int unit, sequence;
    bool alive;

    __device__ __forceinline__ explicit Unit(int sequences)
        : rank(blockIdx.x % BLOCKS), base(blockIdx.x / BLOCKS * UNITS), first(blockIdx.y * SEQUENCES) {
        there = sequences - first;
        unit = base + rank * OWN + threadIdx.x % OWN;
        sequence = first + threadIdx.x / OWN;
        alive = sequence < sequences;
    }
};

// The turns that blocks of the same sequences take.
struct Turns {
    unsigned* word;
    unsigned taken = 0;

    // What the block has written may be read by all, once they have awaited it.
    __device__ __forceinline__ void leave() {
        __syncthreads();
        if (threadIdx.x == 0) asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(word) : "memory");
        taken += gridDim.x;
    }
    __device__ __forceinline__ void await_all() const {
        if (threadIdx.x == 0) {
            unsigned seen;
            do {
                asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(word) : "memory");
            } while (seen < taken);
        }
        __syncthreads();
    }
};

// Where sums of a cluster's columns lie, a row for each sequence: a warp's rows in different banks.
template <int COLUMNS> struct Shared {
    static constexpr int PITCH = COLUMNS + 8;

    // The warp's tiles side by side from a column on.
    template <int ACROSS>
    __device__ static __forceinline__ void put(float* to, const float (&sums)[TILES][ACROSS][4], int column) {
        const int lane = threadIdx.x % WARP;
        column += lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < TILES; i++) {
#pragma unroll
            for (int j = 0; j < ACROSS; j++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float* at = to + (i * 16 + half * 8 + lane / 4) * PITCH + column + j * 8;
                    *reinterpret_cast<float2*>(at) = make_float2(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
                }
            }
        }
    }
    // What all blocks have for the thread's unit, counted from a column.
    __device__ static __forceinline__ float add(const float* from, const Unit& of, int column) {
        const float* own = from + threadIdx.x / OWN * PITCH + column + of.rank * OWN + threadIdx.x % OWN;
        float parts[BLOCKS], sum = 0.0f;
#pragma unroll
        for (int block = 0; block < BLOCKS; block++) parts[block] = of_block(own, block);
#pragma unroll
        for (int block = 0; block < BLOCKS; block++) sum += parts[block];
        return sum;
    }
};

__device__ __forceinline__ void forward(const __half* recurrent, const __half* input_bias, const __half* recurrent_bias,
                                        float* gates, float* cells, __half* y, unsigned* turns, int sequences,
                                        int steps, int hidden) {
    using All = Shared<GATES * UNITS>;
    constexpr int ACROSS = GATES * UNITS / 8 / (THREADS / WARP);
    const Unit of(sequences);
    const int depth = hidden / BLOCKS, pitch = depth + PAD, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    __half* weights = reinterpret_cast<__half*>(memory);
    __half* states = weights + GATES * UNITS * pitch;
    // Sums take the states' place.
    float* exchanged = reinterpret_cast<float*>(states);
    for (int gate = 0; gate < GATES; gate++) {
        const size_t row = static_cast<size_t>(gate) * hidden + of.base;
        copy_in(weights + gate * UNITS * pitch, pitch, recurrent + row * hidden + of.rank * depth, hidden, UNITS, UNITS,
                depth);
    }
    commit_copies();
    take_turn();
    Turns taking = {turns + blockIdx.y * WARP};
    float bias[GATES], c = 0.0f;
#pragma unroll
    for (int i = 0; i < GATES; i++) {
        const int column = i * hidden + of.unit;
        bias[i] = to_float(input_bias[column]) + to_float(recurrent_bias[column]);
    }
    for (int step = 0; step < steps; step++) {
        const size_t row = static_cast<size_t>(of.sequence) * steps + step;
        float* gate = gates + row * GATES * hidden + of.unit;
        float parts[GATES] = {};
        if (of.alive) {
#pragma unroll
            for (int i = 0; i < GATES; i++) parts[i] = gate[i * hidden];
        }
        if (step > 0) {
            taking.await_all();
            const size_t before = static_cast<size_t>(of.first) * steps + step - 1;
            copy_in(states, pitch, y + before * hidden + of.rank * depth, static_cast<size_t>(steps) * hidden,
                    SEQUENCES, of.there, depth);
            commit_copies();
            float sums[TILES][ACROSS][4] = {};
            await_copies<0>();
            __syncthreads();
            const __half* own = weights + (warp * ACROSS * 8 + lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8;
#pragma unroll 4
            for (int k = 0; k < depth; k += 16) {
                uint32_t a[TILES][4], b[ACROSS / 2][4];
#pragma unroll
                for (int i = 0; i < TILES; i++) load_states(a[i], states, pitch, i, k);
#pragma unroll
                for (int j = 0; j < ACROSS / 2; j++) load_matrices(b[j], shared_address(own + j * 16 * pitch + k));
#pragma unroll
                for (int i = 0; i < TILES; i++)
#pragma unroll
                    for (int j = 0; j < ACROSS; j++)
                        multiply_add(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
            }
            __syncthreads();
            All::put(exchanged, sums, warp * ACROSS * 8);
            arrive();
            await();
#pragma unroll
            for (int i = 0; i < GATES; i++) parts[i] += All::add(exchanged, of, i * UNITS);
        }
#pragma unroll
        for (int i = 0; i < GATES; i++) parts[i] += bias[i];
        const float h = advance(parts, c);
        if (of.alive) y[row * hidden + of.unit] = __float2half_rn(h);
        taking.leave();
        if (of.alive) {
            cells[row * hidden + of.unit] = c;
#pragma unroll
            for (int i = 0; i < GATES; i++) gate[i * hidden] = parts[i];
        }
    }
    // Nobody leaves as long as others read what it has.
    arrive();
    await();
}

__device__ __forceinline__ void backward(const __half* recurrent, const float* gates, const float* cells,
                                         const __half* dy, __half* dgates, unsigned* turns, int sequences, int steps,
                                         int hidden) {
    using All = Shared<UNITS>;
    constexpr int WEIGHTS = UNITS + PAD;
    const Unit of(sequences);
    const int depth = GATES * hidden / BLOCKS, pitch = depth + PAD, warp = threadIdx.x / WARP;
    __half* weights = reinterpret_cast<__half*>(memory);
    __half* after = weights + depth * WEIGHTS;
    float* exchanged = reinterpret_cast<float*>(after);
    copy_in(weights, WEIGHTS, recurrent + static_cast<size_t>(of.rank) * depth * hidden + of.base, hidden, depth, depth,
            UNITS);
    commit_copies();
    take_turn();
    Turns taking = {turns + blockIdx.y * WARP};
    const size_t columns = GATES * static_cast<size_t>(hidden);
    size_t row = static_cast<size_t>(of.sequence) * steps + steps - 1;
    float c = of.alive ? cells[row * hidden + of.unit] : 0.0f, dc = 0.0f;
    for (int step = steps - 1; step >= 0; step--, row--) {
        const size_t first = row * columns + of.unit, here = row * hidden + of.unit;
        float parts[GATES] = {}, before = 0.0f, dh = 0.0f;
        if (of.alive) {
#pragma unroll
            for (int i = 0; i < GATES; i++) parts[i] = gates[first + i * hidden];
            if (step > 0) before = cells[here - hidden];
            dh = to_float(dy[here]);
        }
        if (step + 1 < steps) {
            taking.await_all();
            const size_t from = (static_cast<size_t>(of.first) * steps + step + 1) * columns + of.rank * depth;
            copy_in(after, pitch, dgates + from, steps * columns, SEQUENCES, of.there, depth);
            commit_copies();
            // Two sums a tile, so that products need not wait for each other.
            float sums[TILES][1][4] = {}, others[TILES][1][4] = {};
            await_copies<0>();
            __syncthreads();
            const __half* own = weights + threadIdx.x % WARP * WEIGHTS + warp * 8;
#pragma unroll 2
            for (int k = 0; k < depth; k += 32) {
                uint32_t a[2][TILES][4], b[4];
                load_turned(b, own + k * WEIGHTS);
#pragma unroll
                for (int i = 0; i < TILES; i++) {
                    load_states(a[0][i], after, pitch, i, k);
                    load_states(a[1][i], after, pitch, i, k + 16);
                }
#pragma unroll
                for (int i = 0; i < TILES; i++) {
                    multiply_add(sums[i][0], a[0][i], b[0], b[1]);
                    multiply_add(others[i][0], a[1][i], b[2], b[3]);
                }
            }
#pragma unroll
            for (int i = 0; i < TILES; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][0][j] += others[i][0][j];
            __syncthreads();
            All::put(exchanged, sums, warp * 8);
            arrive();
            await();
            dh += All::add(exchanged, of, 0);
        }
        go_back(parts, c, before, dh, dc);
        c = before;
        if (of.alive) {
#pragma unroll
            for (int i = 0; i < GATES; i++) dgates[first + i * hidden] = __float2half_rn(parts[i]);
        }
        taking.leave();
    }
    arrive();
    await();
}

}  // namespace galley

#define GALLEY_KERNEL                                                                                                  \
    extern "C" __global__ void __cluster_dims__(galley::BLOCKS, 1, 1) __launch_bounds__(galley::THREADS)

GALLEY_KERNEL lstm_steps_f16(const __half* recurrent, const __half* input_bias, const __half* recurrent_bias,
                             float* gates, float* cells, __half* y, unsigned* turns, int sequences, int steps,
                             int hidden) {
    galley::forward(recurrent, input_bias, recurrent_bias, gates, cells, y, turns, sequences, steps, hidden);
}
GALLEY_KERNEL lstm_steps_back_f16(const __half* recurrent, const float* gates, const float* cells, const __half* dy,
                                  __half* dgates, unsigned* turns, int sequences, int steps, int hidden) {
    galley::backward(recurrent, gates, cells, dy, dgates, turns, sequences, steps, hidden);
}
