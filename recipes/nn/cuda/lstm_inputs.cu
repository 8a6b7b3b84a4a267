// What comes before an LSTM's recurrence: rows of its input, and their part of the gates. The table of gates is that of
// `lstm.cuh`, which says why it is made apart.
//
// lstm_project_f16(x, weights, bias f32, gates, int rows, int inputs, int x_stride, int columns)
//   x [rows, inputs] in rows of x_stride -> gates [rows, columns], columns = 8 * P. x_stride is even; it is read
//   fastest if it is a multiple of 8 and x is aligned to 16 bytes; what is behind the inputs is not read. weights
//   [columns, inputs up to a multiple of 16], padded with zeros, aligned to 16 bytes; bias [columns] is the sum of
//   torch's two. Block: 128 threads. Grid: (columns / 64, B) for any B: blocks stride over tiles of 64 rows, and
//   B = min(ceil(rows / 64), 3 * 132 * 64 / columns) fills the device. Dynamic shared memory: 384 * (padded inputs + 8)
//   bytes. For 150 inputs and 100 units a row is 300 bytes in, 1,664 out and 0.25 MFLOP, which memory bounds; the
//   kernel runs at 1.3 TB/s, held up by instructions and their latency.
// lstm_project_f32(...)
//   The same in f32 on CUDA cores; weights [columns, inputs] without padding, any x_stride. Block: 256 threads. Grid:
//   (columns / 64, ceil(rows / 64)). Bound by arithmetic.
//
// gather_rows(table, ids u32, out, int rows, int vectors, int out_stride)
//   Embeddings of any type: the first `vectors` pieces of 16 bytes of row r of out become row ids[r] of the table
//   [entries, vectors]. out_stride, in pieces too, leaves room for what stands beside them in another layer's input.
//   Block: 128 threads, a warp for each row. Grid: ceil(rows / 4). Bound by memory.

#include "tile.cuh"

namespace galley {
namespace {

constexpr int ROWS = 64, COLUMNS = 64;  // of a block's tile
constexpr int WARPS = 4;                // two by two, each with 32 rows and 32 columns
constexpr int M_TILES = 2;              // products of a warp, of 16 rows
constexpr int N_TILES = 4;              // by 8 columns
constexpr int GATHERED_ROWS = 4;        // of a block

// Column n of product j is column n / 2 * 8 + 2 * j + n % 2 of its warp: so a thread, which has columns 2 * t and
// 2 * t + 1 of every product, ends up with eight neighbours. Rows of the weights are brought into this order on the way
// to shared memory.
__device__ __forceinline__ int column_of(int row) {
    const int within = row % 32, product = within / 8, n = within % 8;
    return row - within + n / 2 * 8 + product * 2 + n % 2;
}

__device__ __forceinline__ void load_weights(__half* to, int pitch, const __half* from, int inputs) {
    for (int row = threadIdx.x / WARP; row < COLUMNS; row += WARPS) {
        const __half* source = from + static_cast<size_t>(column_of(row)) * inputs;
        for (int k = threadIdx.x % WARP * 8; k < inputs; k += WARP * 8) {
            copy(shared_address(to + row * pitch + k), source + k);
        }
    }
}

// sums += x * weights^T over all inputs, for this warp's part of the tile.
__device__ __forceinline__ void multiply(float (&sums)[M_TILES][N_TILES][4], const __half* x, const __half* weights,
                                         int pitch, int inputs) {
    const int lane = threadIdx.x % WARP;
    const uint32_t x_from = shared_address(x + lane % 16 * pitch + lane / 16 * 8);
    const uint32_t weights_from = shared_address(weights + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8);
#pragma unroll 2
    for (int k = 0; k < inputs; k += 16) {
        uint32_t a[M_TILES][4], b[N_TILES / 2][4];
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) load_matrices(a[m], x_from + (m * 16 * pitch + k) * 2);
#pragma unroll
        for (int n = 0; n < N_TILES / 2; ++n) load_matrices(b[n], weights_from + (n * 16 * pitch + k) * 2);
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
                multiply_add(sums[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
            }
        }
    }
}

// Stores the sums; `to` is the tile's first element for this thread, in the rows given.
__device__ __forceinline__ void store(const float (&sums)[M_TILES][N_TILES][4], __half* to, int columns, int rows) {
#pragma unroll
    for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = m * 16 + half * 8;
            if (row >= rows) continue;
            uint4 bits;
            bits.x = pack_halves(sums[m][0][2 * half], sums[m][0][2 * half + 1]);
            bits.y = pack_halves(sums[m][1][2 * half], sums[m][1][2 * half + 1]);
            bits.z = pack_halves(sums[m][2][2 * half], sums[m][2][2 * half + 1]);
            bits.w = pack_halves(sums[m][3][2 * half], sums[m][3][2 * half + 1]);
            *reinterpret_cast<uint4*>(to + static_cast<size_t>(row) * columns) = bits;
        }
    }
}

__device__ __forceinline__ void project(const __half* x, const __half* weights, const float* bias, __half* gates,
                                        int rows, int inputs, int x_stride, int columns) {
    extern __shared__ __align__(16) __half shared[];
    const int padded = (inputs + 15) / 16 * 16, pitch = padded + 8;
    __half* const weight_tile = shared;
    const auto x_tile = [&](int number) { return shared + (COLUMNS + number % 2 * ROWS) * pitch; };
    const auto fetch = [&](int number, int first) {
        if (first < rows) {
            const __half* from = x + static_cast<size_t>(first) * x_stride;
            copy_rows<ROWS, WARPS>(x_tile(number), pitch, from, x_stride, rows - first, inputs, padded);
        }
        commit_copies();
    };

    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int warp_row = warp % 2 * 32, warp_column = warp / 2 * 32;
    const int column = blockIdx.x * COLUMNS + warp_column + lane % 4 * 8;
    int first = blockIdx.y * ROWS;
    load_weights(weight_tile, pitch, weights + static_cast<size_t>(blockIdx.x) * COLUMNS * padded, padded);
    fetch(0, first);
    float bias_of[2 * N_TILES];
#pragma unroll
    for (int i = 0; i < 2 * N_TILES; ++i) bias_of[i] = __ldg(bias + column + i);

    for (int number = 0; first < rows; ++number, first += gridDim.y * ROWS) {
        fetch(number + 1, first + gridDim.y * ROWS);
        await_copies<1>();
        __syncthreads();
        float sums[M_TILES][N_TILES][4];
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[m][n][i] = bias_of[2 * n + i % 2];
            }
        }
        multiply(sums, x_tile(number) + warp_row * pitch, weight_tile + warp_column * pitch, pitch, padded);
        const int row = first + warp_row + lane / 4;
        store(sums, gates + static_cast<size_t>(row) * columns + column, columns, rows - row);
        __syncthreads();  // The next copies go where this tile has been read.
    }
}

// ---- The same on CUDA cores. ----

constexpr int DEPTH = 16;  // inputs at a time
constexpr int SIDE = 16;   // threads along either side of the tile, each with every 16th row and column
constexpr int EACH = ROWS / SIDE;

// Inputs [k, k + DEPTH) of `ROWS` rows, transposed; zeros where there are none.
__device__ __forceinline__ void load_transposed(float (&to)[DEPTH][ROWS + 1], const float* from, int stride, int rows,
                                                int k, int inputs) {
    for (int i = threadIdx.x; i < ROWS * DEPTH; i += SIDE * SIDE) {
        const int row = i / DEPTH, input = i % DEPTH;
        const bool valid = row < rows && k + input < inputs;
        to[input][row] = valid ? __ldg(from + static_cast<size_t>(row) * stride + k + input) : 0.0f;
    }
}

__device__ __forceinline__ void project(const float* x, const float* weights, const float* bias, float* gates,
                                        int rows, int inputs, int x_stride, int columns) {
    __shared__ float x_tile[DEPTH][ROWS + 1], weight_tile[DEPTH][COLUMNS + 1];
    const int first_row = blockIdx.y * ROWS, first_column = blockIdx.x * COLUMNS;
    x += static_cast<size_t>(first_row) * x_stride, weights += static_cast<size_t>(first_column) * inputs;
    const int right = threadIdx.x % SIDE, down = threadIdx.x / SIDE;
    float sums[EACH][EACH];
#pragma unroll
    for (int m = 0; m < EACH; ++m) {
#pragma unroll
        for (int n = 0; n < EACH; ++n) sums[m][n] = __ldg(bias + first_column + right + n * SIDE);
    }
    for (int k = 0; k < inputs; k += DEPTH) {
        load_transposed(x_tile, x, x_stride, rows - first_row, k, inputs);
        load_transposed(weight_tile, weights, inputs, COLUMNS, k, inputs);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < DEPTH; ++i) {
#pragma unroll
            for (int m = 0; m < EACH; ++m) {
#pragma unroll
                for (int n = 0; n < EACH; ++n) {
                    sums[m][n] += x_tile[i][down + m * SIDE] * weight_tile[i][right + n * SIDE];
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < EACH; ++m) {
        const int row = first_row + down + m * SIDE;
        if (row >= rows) continue;
#pragma unroll
        for (int n = 0; n < EACH; ++n) {
            gates[static_cast<size_t>(row) * columns + first_column + right + n * SIDE] = sums[m][n];
        }
    }
}

}  // namespace
}  // namespace galley

using namespace galley;

extern "C" __global__ void __launch_bounds__(WARPS* WARP)
    lstm_project_f16(const __half* x, const __half* weights, const float* bias, __half* gates, int rows, int inputs,
                     int x_stride, int columns) {
    galley::take_turn();
    project(x, weights, bias, gates, rows, inputs, x_stride, columns);
}

extern "C" __global__ void __launch_bounds__(SIDE* SIDE)
    lstm_project_f32(const float* x, const float* weights, const float* bias, float* gates, int rows, int inputs,
                     int x_stride, int columns) {
    galley::take_turn();
    project(x, weights, bias, gates, rows, inputs, x_stride, columns);
}

extern "C" __global__ void __launch_bounds__(GATHERED_ROWS* WARP)
    gather_rows(const uint4* table, const uint32_t* ids, uint4* out, int rows, int vectors, int out_stride) {
    galley::take_turn();
    const int row = blockIdx.x * GATHERED_ROWS + threadIdx.x / WARP;
    if (row >= rows) return;
    const uint4* from = table + static_cast<size_t>(__ldg(ids + row)) * vectors;
    uint4* to = out + static_cast<size_t>(row) * out_stride;
    for (int i = threadIdx.x % WARP; i < vectors; i += WARP) to[i] = __ldg(from + i);
}
