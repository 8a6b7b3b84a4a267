// What a layer of an LSTM does in training beside its products.
//
// Values are [sequences, steps, hidden], T `f16` or `f32`; gates [sequences, steps, 4 * hidden] and cells as values, both f32.
// Gates are torch's, in its order i, f, g, o. Each step waits for the one before it: what a step takes is what matters.
//
// `lstm_cell_T(gates, input_bias, recurrent_bias, cells, y, sequences, steps, step, hidden)`
//     A step forward: gates, which hold what inputs and states make of them, get biases and become what they are; cells and y.
// `lstm_cell_back_T(gates, cells, dy, product, dcells, dgates, sequences, steps, step, hidden)`
//     A step back: product, f32 [sequences, hidden], is the gradient of the step's states by what follows, and dcells, of the
//     same shape, that of its cells, which becomes that of the cells before; the last step has no product, and reads no dcells.
//     dgates are as gates, but T.
//     Both: grid ceil(sequences * hidden / 256), block 256.
// `lstm_bias_sums_T(dgates, partials, rows, columns, per)`
//     Sums of columns over `per` rows each, f32 [parts, columns]; columns, of which there are a multiple of 4, are 4 * hidden.
//     Grid (ceil(columns / 128), parts), block 256.
// `lstm_bias_T(partials, dinput_bias, drecurrent_bias, parts, columns)`
//     Their sums over parts, twice. Grid ceil(columns / 32), block 256.
// `lstm_clear_T(dgates, sequences, steps, columns)`
//     Zeros for each sequence's first step. Grid ceil(sequences * columns / 256), block 256.
#include "train_lstm.cuh"
#include "train_vectors.cuh"

namespace galley {

constexpr int THREADS = 256;
constexpr int GROUPS = THREADS / WARP;

// What a thread has of a step: a unit of a sequence.
struct Unit {
    int sequence, unit;
    size_t row;

    __device__ __forceinline__ Unit(int steps, int step, int hidden) {
        const unsigned number = blockIdx.x * THREADS + threadIdx.x;
        sequence = number / hidden, unit = number % hidden;
        row = static_cast<size_t>(sequence) * steps + step;
    }
};

template <typename T>
__device__ __forceinline__ void cell(float* gates, const T* input_bias, const T* recurrent_bias, float* cells, T* y,
                                     int sequences, int steps, int step, int hidden) {
    const Unit of(steps, step, hidden);
    take_turn();
    if (of.sequence >= sequences) return;
    float* gate = gates + of.row * GATES * hidden + of.unit;
    const size_t here = of.row * hidden + of.unit;
    float parts[GATES];
#pragma unroll
    for (int i = 0; i < GATES; i++) {
        const int column = i * hidden + of.unit;
        parts[i] = gate[i * hidden] + (to_float(input_bias[column]) + to_float(recurrent_bias[column]));
    }
    float c = step > 0 ? cells[here - hidden] : 0.0f;
    y[here] = from_float<T>(advance(parts, c));
    cells[here] = c;
#pragma unroll
    for (int i = 0; i < GATES; i++) gate[i * hidden] = parts[i];
}

template <typename T>
__device__ __forceinline__ void cell_back(const float* gates, const float* cells, const T* dy, const float* product,
                                          float* dcells, T* dgates, int sequences, int steps, int step, int hidden) {
    const Unit of(steps, step, hidden);
    take_turn();
    if (of.sequence >= sequences) return;
    const size_t first = of.row * GATES * hidden + of.unit, here = of.row * hidden + of.unit;
    const size_t now = static_cast<size_t>(of.sequence) * hidden + of.unit;
    float parts[GATES];
#pragma unroll
    for (int i = 0; i < GATES; i++) parts[i] = gates[first + i * hidden];
    const float before = step > 0 ? cells[here - hidden] : 0.0f;
    float dh = to_float(dy[here]), dc = 0.0f;
    if (product) dh += product[now], dc = dcells[now];
    go_back(parts, cells[here], before, dh, dc);
    dcells[now] = dc;
#pragma unroll
    for (int i = 0; i < GATES; i++) dgates[first + i * hidden] = from_float<T>(parts[i]);
}

template <typename T>
__device__ __forceinline__ void bias_sums(const T* dgates, float* partials, int rows, int columns, int per) {
    constexpr int N = 4;
    __shared__ float shared[GROUPS * WARP * N];
    const int lane = threadIdx.x % WARP, group = threadIdx.x / WARP;
    const int column = (blockIdx.x * WARP + lane) * N, end = min((blockIdx.y + 1) * per, rows);
    take_turn();
    float sums[N] = {};
    if (column < columns) {
#pragma unroll 8
        for (int row = blockIdx.y * per + group; row < end; row += GROUPS) {
            const auto values = Stored<T, N>::load(dgates + static_cast<size_t>(row) * columns + column);
#pragma unroll
            for (int i = 0; i < N; i++) sums[i] += values.get(i);
        }
    }
#pragma unroll
    for (int i = 0; i < N; i++) shared[(group * N + i) * WARP + lane] = sums[i];
    add_rows(shared, GROUPS, WARP * N);
    if (group > 0 || column >= columns) return;
    float* to = partials + static_cast<size_t>(blockIdx.y) * columns + column;
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = shared[i * WARP + lane];
}

__device__ __forceinline__ void bias(const float* partials, float* dinput, float* drecurrent, int parts, int columns) {
    __shared__ float shared[THREADS];
    const int lane = threadIdx.x % WARP, column = blockIdx.x * WARP + lane;
    take_turn();
    float sum = 0.0f;
    if (column < columns) {
#pragma unroll 4
        for (int part = threadIdx.x / WARP; part < parts; part += GROUPS)
            sum += partials[static_cast<size_t>(part) * columns + column];
    }
    shared[threadIdx.x] = sum;
    add_rows(shared, GROUPS, WARP);
    if (threadIdx.x < WARP && column < columns) dinput[column] = drecurrent[column] = shared[lane];
}

template <typename T> __device__ __forceinline__ void clear(T* dgates, int sequences, int steps, int columns) {
    const unsigned number = blockIdx.x * THREADS + threadIdx.x;
    const int sequence = number / columns, column = number % columns;
    take_turn();
    if (sequence < sequences)
        dgates[static_cast<size_t>(sequence) * steps * columns + column] = from_float<T>(0.0f);
}

}  // namespace galley

#define GALLEY_KERNEL extern "C" __global__ void __launch_bounds__(galley::THREADS)
#define GALLEY_LSTM(name, T)                                                                                           \
    GALLEY_KERNEL lstm_cell_##name(float* gates, const T* input_bias, const T* recurrent_bias, float* cells, T* y,     \
                                   int sequences, int steps, int step, int hidden) {                                   \
        galley::cell<T>(gates, input_bias, recurrent_bias, cells, y, sequences, steps, step, hidden);                  \
    }                                                                                                                  \
    GALLEY_KERNEL lstm_cell_back_##name(const float* gates, const float* cells, const T* dy, const float* product,     \
                                        float* dcells, T* dgates, int sequences, int steps, int step, int hidden) {    \
        galley::cell_back<T>(gates, cells, dy, product, dcells, dgates, sequences, steps, step, hidden);               \
    }                                                                                                                  \
    GALLEY_KERNEL lstm_bias_sums_##name(const T* dgates, float* partials, int rows, int columns, int per) {            \
        galley::bias_sums<T>(dgates, partials, rows, columns, per);                                                    \
    }                                                                                                                  \
    GALLEY_KERNEL lstm_bias_##name(const float* partials, float* dinput_bias, float* drecurrent_bias, int parts,       \
                                   int columns) {                                                                      \
        galley::bias(partials, dinput_bias, drecurrent_bias, parts, columns);                                          \
    }                                                                                                                  \
    GALLEY_KERNEL lstm_clear_##name(T* dgates, int sequences, int steps, int columns) {                                \
        galley::clear<T>(dgates, sequences, steps, columns);                                                           \
    }

GALLEY_LSTM(f16, __half)
GALLEY_LSTM(f32, float)
