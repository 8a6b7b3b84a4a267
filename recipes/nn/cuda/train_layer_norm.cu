// LayerNorm in training, over the features of rows, and its way back.
//
// Rows are [rows, features], T `f16` or `f32`; parameters and arithmetic are f32. The bound is memory: a row is in registers
// from when it is read to when it is written. A thread has a vector of columns, of 16 bytes in `wide` kernels, for which
// features have to fill these, and of one value in `narrow` ones; a block goes over some rows at a time, in turns with the
// others of its grid. Block: a thread for each vector of a row, up to whole warps, at most 512; grid up to ceil(rows / 4).
//
// `layer_norm_forward_V_T(x, weight, bias, y, kept, rows, features, eps)`
//     y = (x - mean) / deviation * weight + bias. Of each row its mean and its reciprocal deviation are kept, f32 [rows, 2].
// `layer_norm_backward_V_T(x, kept, weight, dy, dx or null, partials, rows, features, adds)`
//     The gradient of x, written or added; those of weight and bias by each block's rows, f32 [blocks, 2, features].
// `layer_norm_finish_T(partials, dweight, dbias, blocks, features)`
//     Their sums over blocks. Block 512, grid ceil(2 * features / 32).
#include "train_vectors.cuh"

namespace galley {

constexpr int THREADS = 512;
constexpr int WARPS = THREADS / WARP;
// Rows of a turn.
constexpr int ROWS = 4;

// Sums over the block's threads, for all of these. Before it is called with the same memory again, the block has to meet.
template <int COUNT> __device__ __forceinline__ void add_up(float (&sums)[COUNT], float (&shared)[WARPS][COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) sums[i] = warp_sum(sums[i]);
    const int warps = blockDim.x / WARP;
    if (warps == 1) return;
    if (threadIdx.x % WARP == 0) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) shared[threadIdx.x / WARP][i] = sums[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COUNT; i++) sums[i] = shared[0][i];
    for (int warp = 1; warp < warps; warp++) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) sums[i] += shared[warp][i];
    }
}

template <typename T, int N>
__device__ __forceinline__ void forward(const T* x, const float* weight, const float* bias, T* y, float* kept, int rows,
                                        int features, float eps) {
    __shared__ __align__(16) float shared[2][WARPS][ROWS];
    const int column = threadIdx.x * N;
    const bool works = column < features;
    take_turn();
    float factor[N], term[N];
#pragma unroll
    for (int i = 0; i < N; i++) factor[i] = works ? weight[column + i] : 0.0f, term[i] = works ? bias[column + i] : 0.0f;
    for (int first = blockIdx.x * ROWS; first < rows; first += gridDim.x * ROWS) {
        const size_t at = static_cast<size_t>(first) * features + column;
        Stored<T, N> values[ROWS];
        float mean[ROWS] = {}, squares[ROWS] = {};
#pragma unroll
        for (int row = 0; row < ROWS; row++)
            if (works && first + row < rows) values[row] = Stored<T, N>::load(x + at + row * features);
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            if (!works || first + row >= rows) continue;
#pragma unroll
            for (int i = 0; i < N; i++) mean[row] += values[row].get(i);
        }
        add_up(mean, shared[0]);
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            mean[row] /= features;
            if (!works || first + row >= rows) continue;
#pragma unroll
            for (int i = 0; i < N; i++) {
                const float distance = values[row].get(i) - mean[row];
                squares[row] = fmaf(distance, distance, squares[row]);
            }
        }
        add_up(squares, shared[1]);
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            if (first + row >= rows) continue;
            const float reciprocal = 1.0f / sqrtf(squares[row] / features + eps);
            if (threadIdx.x == 0) {
                float* to = kept + 2 * static_cast<size_t>(first + row);
                to[0] = mean[row], to[1] = reciprocal;
            }
            if (!works) continue;
#pragma unroll
            for (int i = 0; i < N; i++)
                values[row].set(i, fmaf((values[row].get(i) - mean[row]) * reciprocal, factor[i], term[i]));
            values[row].store(y + at + row * features);
        }
    }
}

// With n = (x - mean) / deviation and g = dy * weight, dx = (g - mean(g) - n * mean(g * n)) / deviation.
template <typename T, int N>
__device__ __forceinline__ void backward(const T* x, const float* kept, const float* weight, const T* dy, T* dx,
                                         float* partials, int rows, int features, int adds) {
    __shared__ __align__(16) float shared[2][WARPS][2 * ROWS];
    const int column = threadIdx.x * N;
    const bool works = column < features;
    take_turn();
    float factor[N], dweight[N], dbias[N];
#pragma unroll
    for (int i = 0; i < N; i++) factor[i] = works ? weight[column + i] : 0.0f, dweight[i] = dbias[i] = 0.0f;
    int turn = 0;
    for (int first = blockIdx.x * ROWS; first < rows; first += gridDim.x * ROWS, turn ^= 1) {
        const size_t at = static_cast<size_t>(first) * features + column;
        Stored<T, N> values[ROWS], gradients[ROWS];
        float mean[ROWS], reciprocal[ROWS], sums[2 * ROWS] = {};
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            if (first + row >= rows) continue;
            const float* from = kept + 2 * static_cast<size_t>(first + row);
            mean[row] = from[0], reciprocal[row] = from[1];
            if (!works) continue;
            values[row] = Stored<T, N>::load(x + at + row * features);
            gradients[row] = Stored<T, N>::load(dy + at + row * features);
        }
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            if (!works || first + row >= rows) continue;
#pragma unroll
            for (int i = 0; i < N; i++) {
                const float normal = (values[row].get(i) - mean[row]) * reciprocal[row], dy = gradients[row].get(i);
                dweight[i] = fmaf(dy, normal, dweight[i]), dbias[i] += dy;
                sums[2 * row] = fmaf(dy, factor[i], sums[2 * row]);
                sums[2 * row + 1] = fmaf(dy * factor[i], normal, sums[2 * row + 1]);
            }
        }
        if (!dx) continue;
        // Whoever writes one of the two has met all others since they read it.
        add_up(sums, shared[turn]);
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            if (!works || first + row >= rows) continue;
            const float plain = sums[2 * row] / features, turned = sums[2 * row + 1] / features;
            T* to = dx + at + row * features;
            Stored<T, N> result;
            if (adds) result = Stored<T, N>::load_own(to);
#pragma unroll
            for (int i = 0; i < N; i++) {
                const float normal = (values[row].get(i) - mean[row]) * reciprocal[row];
                const float gradient = fmaf(gradients[row].get(i), factor[i], -plain);
                const float value = fmaf(normal, -turned, gradient) * reciprocal[row];
                result.set(i, adds ? result.get(i) + value : value);
            }
            result.store(to);
        }
    }
    if (!works) return;
    float* to = partials + static_cast<size_t>(blockIdx.x) * 2 * features + column;
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = dweight[i], to[features + i] = dbias[i];
}

__device__ __forceinline__ void finish(const float* partials, float* dweight, float* dbias, int blocks, int features) {
    __shared__ float shared[THREADS];
    const int lane = threadIdx.x % WARP, columns = 2 * features;
    const int column = blockIdx.x * WARP + lane;
    take_turn();
    float sum = 0.0f;
    if (column < columns) {
#pragma unroll 8
        for (int block = threadIdx.x / WARP; block < blocks; block += WARPS)
            sum += partials[static_cast<size_t>(block) * columns + column];
    }
    shared[threadIdx.x] = sum;
    add_rows(shared, WARPS, WARP);
    if (threadIdx.x >= WARP || column >= columns) return;
    if (column < features) {
        dweight[column] = shared[lane];
    } else {
        dbias[column - features] = shared[lane];
    }
}

}  // namespace galley

#define GALLEY_KERNEL extern "C" __global__ void __launch_bounds__(galley::THREADS)
#define GALLEY_LAYER_NORM(name, T, N)                                                                                  \
    GALLEY_KERNEL layer_norm_forward_##name(const T* x, const float* weight, const float* bias, T* y, float* kept,     \
                                            int rows, int features, float eps) {                                       \
        galley::forward<T, N>(x, weight, bias, y, kept, rows, features, eps);                                          \
    }                                                                                                                  \
    GALLEY_KERNEL layer_norm_backward_##name(const T* x, const float* kept, const float* weight, const T* dy, T* dx,   \
                                             float* partials, int rows, int features, int adds) {                      \
        galley::backward<T, N>(x, kept, weight, dy, dx, partials, rows, features, adds);                               \
    }
#define GALLEY_FINISH(name)                                                                                            \
    GALLEY_KERNEL layer_norm_finish_##name(const float* partials, float* dweight, float* dbias, int blocks,            \
                                           int features) {                                                             \
        galley::finish(partials, dweight, dbias, blocks, features);                                                    \
    }

GALLEY_LAYER_NORM(wide_f16, __half, 8)
GALLEY_LAYER_NORM(narrow_f16, __half, 1)
GALLEY_LAYER_NORM(wide_f32, float, 4)
GALLEY_LAYER_NORM(narrow_f32, float, 1)
GALLEY_FINISH(f16)
GALLEY_FINISH(f32)
