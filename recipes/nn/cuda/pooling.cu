// A row for each of a transformer's sequences: that of one of its tokens, or the mean of all. How tokens lie, and what all
// kernels of a transformer have in common, is in `text.cuh`.
//
// pick_tokens_T              [tokens, hidden] -> [sequences, hidden], row offsets[s], or with `last` the one before
//   offsets[s + 1]; zeros for an empty sequence. Any multiple of 8 as `hidden`. Grid: ceil(sequences / 4). Moves 2 elements
//   per output.
//
// mean_tokens_T              [tokens, hidden] -> [sequences, hidden], the mean of a sequence's rows; zeros for an empty one.
//   Any multiple of 8 as `hidden`. Grid: (sequences, ceil(hidden / 256)). Moves x.

#include "text.cuh"

namespace galley {
namespace {

template <typename T>
__device__ __forceinline__ void pick_tokens(const T *x, const int *offsets, T *out, int sequences, int hidden, int last) {
    const int sequence = row_of_warp();
    if (sequence >= sequences) return;
    const int first = offsets[sequence], end = offsets[sequence + 1];
    const bool empty = first == end;
    const T *row = x + size_t(last ? end - 1 : first) * hidden;
    for (int column = lane_index() * 8; column < hidden; column += WARP * 8) {
        const float zeros[8] = {};
        const Vector<T> vector = empty ? Vector<T>::of(zeros) : Vector<T>::load(row + column);
        vector.store(out + size_t(sequence) * hidden + column);
    }
}

// Each warp adds up every fourth row, and the first one the sums of all.
template <typename T>
__device__ __forceinline__ void mean_tokens(const T *x, const int *offsets, T *out, int hidden) {
    __shared__ __align__(16) float parts[WARPS][WARP * 8];
    const int sequence = blockIdx.x, first = offsets[sequence], end = offsets[sequence + 1];
    const int warp = threadIdx.x / WARP, own = lane_index() * 8, column = blockIdx.y * WARP * 8 + own;
    float sums[8] = {};
    if (column < hidden) {
#pragma unroll 4
        for (int row = first + warp; row < end; row += WARPS)
            Vector<T>::load(x + size_t(row) * hidden + column).add_to(sums);
    }
    Vector<float>::of(sums).store(&parts[warp][own]);
    __syncthreads();
    if (warp != 0 || column >= hidden) return;
#pragma unroll
    for (int other = 1; other < WARPS; other++) Vector<float>::load(&parts[other][own]).add_to(sums);
    const float scale = 1.0f / max(end - first, 1);
#pragma unroll
    for (int i = 0; i < 8; i++) sums[i] *= scale;
    Vector<T>::of(sums).store(out + size_t(sequence) * hidden + column);
}

}  // namespace
}  // namespace galley

#define POOLING_KERNELS(NAME, T)                                                                                      \
    extern "C" __global__ void __launch_bounds__(galley::THREADS)                                                     \
        pick_tokens_##NAME(const T *x, const int *offsets, T *out, int sequences, int hidden, int last) {             \
        galley::take_turn();                                                                                          \
        galley::pick_tokens<T>(x, offsets, out, sequences, hidden, last);                                             \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(galley::THREADS)                                                     \
        mean_tokens_##NAME(const T *x, const int *offsets, T *out, int hidden) {                                      \
        galley::take_turn();                                                                                          \
        galley::mean_tokens<T>(x, offsets, out, hidden);                                                              \
    }

POOLING_KERNELS(f16, __half)
POOLING_KERNELS(f32, float)
