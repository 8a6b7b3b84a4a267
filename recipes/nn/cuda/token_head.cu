// The head over a transformer's tokens: a score for each of a token's labels. How tokens lie, and what all kernels of a
// transformer have in common, is in `text.cuh`.
//
// token_head_T               x [rows, hidden], weight [labels, hidden] (T), bias [labels], 1 to 64 labels, `hidden` at most
//   1024 -> logits f32 [rows, labels]. Block: 256. Grid: ceil(rows / 16). Moves x, at 2 * labels operations per element.

#include "text.cuh"
#include "tile.cuh"

namespace galley {
namespace {

constexpr int HEAD_THREADS = 256;
constexpr int HEAD_WARPS = HEAD_THREADS / WARP;
constexpr int HEAD_ROWS = 16;
constexpr int MOST_LABELS = 64;
constexpr int LANES_OF_HEAD_ROW = HEAD_THREADS / HEAD_ROWS;

// Padded, so that a fragment's rows do not meet in a bank.
using PartialSums = float[HEAD_ROWS][MOST_LABELS + 4];

// Adds up PARTS partial sums and the bias: 16 lanes for each row.
template <int PARTS>
__device__ __forceinline__ void finish_head(const PartialSums (&parts)[PARTS], const float *bias, float *logits, int rows,
                                            int labels) {
    const int local = threadIdx.x / LANES_OF_HEAD_ROW, row = blockIdx.x * HEAD_ROWS + local;
    if (row >= rows) return;
    for (int label = threadIdx.x % LANES_OF_HEAD_ROW; label < labels; label += LANES_OF_HEAD_ROW) {
        float sum = bias[label];
#pragma unroll
        for (int part = 0; part < PARTS; part++) sum += parts[part][local][label];
        logits[size_t(row) * labels + label] = sum;
    }
}

// The features of a block of products are taken in an order in which each lane's share of A and B is 16 bytes in a
// row: lane t of a row has 8 t..8 t + 7 of 32, which stand for the fragments' columns of two products.
constexpr int HEAD_FEATURES = 32;

__device__ __forceinline__ uint4 load_or_zero(const __half *row, int column, bool valid) {
    return valid ? *reinterpret_cast<const uint4 *>(row + column) : uint4{};
}

__device__ __forceinline__ void token_head(const __half *x, const __half *weight, const float *bias, float *logits,
                                           int rows, int hidden, int labels) {
    constexpr int BLOCKS = 1024 / HEAD_FEATURES / HEAD_WARPS;
    __shared__ PartialSums parts[HEAD_WARPS];
    const int warp = threadIdx.x / WARP, g = lane_index() / LANES_OF_ROW, t = lane_index() % LANES_OF_ROW;
    const int low = blockIdx.x * HEAD_ROWS + g, high = low + 8;
    const auto column = [&](int block) { return (block * HEAD_WARPS + warp) * HEAD_FEATURES + t * 8; };
    uint4 a[2][BLOCKS];
#pragma unroll
    for (int block = 0; block < BLOCKS; block++) {
        const bool inside = column(block) < hidden;
        a[0][block] = load_or_zero(x + size_t(low) * hidden, column(block), inside && low < rows);
        a[1][block] = load_or_zero(x + size_t(high) * hidden, column(block), inside && high < rows);
    }
#pragma unroll 2
    for (int first = 0; first < labels; first += 8) {
        const __half *of_label = weight + size_t(first + g) * hidden;
        float sums[4] = {};
#pragma unroll
        for (int block = 0; block < BLOCKS; block++) {
            const uint4 b = load_or_zero(of_label, column(block), column(block) < hidden && first + g < labels);
            multiply_add(sums, {a[0][block].x, a[1][block].x, a[0][block].y, a[1][block].y}, b.x, b.y);
            multiply_add(sums, {a[0][block].z, a[1][block].z, a[0][block].w, a[1][block].w}, b.z, b.w);
        }
#pragma unroll
        for (int half = 0; half < 2; half++)
            *reinterpret_cast<float2 *>(&parts[warp][g + half * 8][first + t * 2]) = {sums[2 * half],
                                                                                      sums[2 * half + 1]};
    }
    __syncthreads();
    finish_head(parts, bias, logits, rows, labels);
}

// Two rows for each warp, which share the weights, and eight labels at a time, which share the rows.
__device__ __forceinline__ void token_head(const float *x, const float *weight, const float *bias, float *logits,
                                           int rows, int hidden, int labels) {
    constexpr int LABELS = 8, ROWS = HEAD_ROWS / HEAD_WARPS;
    __shared__ PartialSums all_sums[1];
    const int local = threadIdx.x / WARP * ROWS, first_row = blockIdx.x * HEAD_ROWS + local;
    for (int first = 0; first < labels; first += LABELS) {
        float sums[ROWS][LABELS] = {};
        for (int column = lane_index() * 4; column < hidden; column += WARP * 4) {
            float4 values[ROWS];
#pragma unroll
            for (int i = 0; i < ROWS; i++)
                values[i] = quad(x + size_t(min(first_row + i, rows - 1)) * hidden + column);
#pragma unroll
            for (int label = 0; label < LABELS; label++) {
                const float4 w = quad(weight + size_t(min(first + label, labels - 1)) * hidden + column);
#pragma unroll
                for (int i = 0; i < ROWS; i++) sums[i][label] += dot(values[i], w);
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int label = 0; label < LABELS; label++) {
                const float sum = warp_sum(sums[i][label]);
                if (lane_index() == 0) all_sums[0][local + i][first + label] = sum;
            }
    }
    __syncthreads();
    finish_head(all_sums, bias, logits, rows, labels);
}

}  // namespace
}  // namespace galley

#define TOKEN_HEAD_KERNEL(NAME, T)                                                                                    \
    extern "C" __global__ void __launch_bounds__(galley::HEAD_THREADS, 4)                                             \
        token_head_##NAME(const T *x, const T *weight, const float *bias, float *logits, int rows, int hidden,        \
                          int labels) {                                                                               \
        galley::take_turn();                                                                                          \
        galley::token_head(x, weight, bias, logits, rows, hidden, labels);                                            \
    }

TOKEN_HEAD_KERNEL(f16, __half)
TOKEN_HEAD_KERNEL(f32, float)
