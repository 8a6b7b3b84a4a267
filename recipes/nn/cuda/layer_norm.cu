// A transformer's LayerNorms, and what goes into them: embeddings, and the residual sum at the end of a block. How tokens
// lie, and what all kernels of a transformer have in common, is in `text.cuh`.
//
// embeddings_T_hN            N in {256, 512, 768, 1024, 1280, 1792}, the least of at least `hidden`. sums = words[id] +
//   positions[place in the sequence], out = LayerNorm(sums), both [tokens, hidden]; sums may be null. words [vocabulary,
//   hidden]; positions [most tokens, hidden], with the vector of token type 0 added to each. Grid: ceil(tokens / 4). Moves
//   2 elements per output (a word's vector in, the row out), 3 with sums. The host checks that ids lie in the vocabulary,
//   and lengths within the positions.
//
// residual_layer_norm_T_hN   N as above. sums = x + residual, out = LayerNorm(sums) * weight + beta; sums may be null; out
//   and sums may each be x or residual. Grid: ceil(rows / 4). Moves 3 elements per output, 4 with sums, at about 10
//   operations.

#include "text.cuh"

namespace galley {
namespace {

// A row that a warp holds in registers: lane l has the 8 elements from 8 * l, the 8 from 8 * (l + 32), and so on;
// those past the row's end are 0.
template <typename T, int VECTORS> struct Row {
    float x[VECTORS][8];
    int features;

    // The first element of one of this lane's vectors.
    __device__ __forceinline__ static int column(int vector) { return (vector * WARP + lane_index()) * 8; }
    __device__ __forceinline__ bool holds(int vector) const { return column(vector) < features; }

    __device__ __forceinline__ explicit Row(int features) : features(features) {
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
#pragma unroll
            for (int i = 0; i < 8; i++) x[v][i] = 0.0f;
    }

    __device__ __forceinline__ void add(const Vector<T> (&row)[VECTORS]) {
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
            if (holds(v)) row[v].add_to(x[v]);
    }

    template <typename U> __device__ __forceinline__ void add(const U *row) {
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
            if (holds(v)) Vector<U>::load(row + column(v)).add_to(x[v]);
    }

    __device__ __forceinline__ void store(T *out) const {
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
            if (holds(v)) Vector<T>::of(x[v]).store(out + column(v));
    }

    // The variance takes a second pass over the registers, as the one-pass formula loses digits.
    __device__ __forceinline__ void store_normalized(const float *weight, const float *beta, float eps, T *out) const {
        float sum = 0.0f;
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
#pragma unroll
            for (int i = 0; i < 8; i++) sum += x[v][i];
        const float mean = warp_sum(sum) / features;
        float squares = 0.0f;
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
            if (holds(v))
#pragma unroll
                for (int i = 0; i < 8; i++) squares += (x[v][i] - mean) * (x[v][i] - mean);
        const float scale = rsqrtf(warp_sum(squares) / features + eps);
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            if (!holds(v)) continue;
            float w[8] = {}, y[8] = {};
            Vector<float>::load(weight + column(v)).add_to(w);
            Vector<float>::load(beta + column(v)).add_to(y);
#pragma unroll
            for (int i = 0; i < 8; i++) y[i] += (x[v][i] - mean) * scale * w[i];
            Vector<T>::of(y).store(out + column(v));
        }
    }
};

template <typename T, int VECTORS>
__device__ __forceinline__ void load_row(const T *row, int features, Vector<T> (&to)[VECTORS]) {
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        const int column = Row<T, VECTORS>::column(v);
        if (column < features) to[v] = Vector<T>::load(row + column);
    }
}

// A token's place in its sequence, found by the whole warp: each round looks at 32 offsets and leaves a 32nd of them.
// Of the offsets at most `token`, the last one is its sequence's, whatever empty sequences come before. A token past
// all sequences gets 0.
__device__ __forceinline__ int position_of(int token, const int *offsets, int sequences) {
    int first = 0, count = sequences + 1, start = 0;
    while (true) {
        const int step = (count + WARP - 1) / WARP;
        const int index = lane_index() * step;
        const int offset = index < count ? offsets[first + index] : 0x7fffffff;
        const int before = __popc(__ballot_sync(0xffffffffu, offset <= token)) - 1;
        start = __shfl_sync(0xffffffffu, offset, before);
        first += before * step;
        if (step == 1) break;
        count = min(step, count - before * step);
    }
    return first < sequences ? token - start : 0;
}

template <typename T, int VECTORS>
__device__ __forceinline__ void embeddings(const uint32_t *ids, const int *offsets, const T *words, const T *positions,
                                           const float *weight, const float *beta, T *out, T *sums, int tokens,
                                           int sequences, int hidden, float eps) {
    const int token = row_of_warp();
    if (token >= tokens) return;
    // The word's vector comes from afar: it is on its way while the position is looked for.
    Vector<T> word[VECTORS];
    load_row(words + size_t(ids[token]) * hidden, hidden, word);
    const int position = position_of(token, offsets, sequences);
    Row<T, VECTORS> row(hidden);
    row.add(positions + size_t(position) * hidden);
    row.add(word);
    if (sums != nullptr) row.store(sums + size_t(token) * hidden);
    row.store_normalized(weight, beta, eps, out + size_t(token) * hidden);
}

template <typename T, int VECTORS>
__device__ __forceinline__ void residual_layer_norm(const T *x, const T *residual, const float *weight,
                                                    const float *beta, T *out, T *sums, int rows, int hidden,
                                                    float eps) {
    const int index = row_of_warp();
    if (index >= rows) return;
    const size_t at = size_t(index) * hidden;
    Vector<T> one[VECTORS], other[VECTORS];
    load_row(x + at, hidden, one);
    load_row(residual + at, hidden, other);
    Row<T, VECTORS> row(hidden);
    row.add(one);
    row.add(other);
    if (sums != nullptr) row.store(sums + at);
    row.store_normalized(weight, beta, eps, out + at);
}

}  // namespace
}  // namespace galley

#define ROW_KERNELS(NAME, T, VECTORS)                                                                                 \
    extern "C" __global__ void __launch_bounds__(galley::THREADS) embeddings_##NAME(                                  \
        const uint32_t *ids, const int *offsets, const T *words, const T *positions, const float *weight,             \
        const float *beta, T *out, T *sums, int tokens, int sequences, int hidden, float eps) {                       \
        galley::take_turn();                                                                                          \
        galley::embeddings<T, VECTORS>(ids, offsets, words, positions, weight, beta, out, sums, tokens, sequences,    \
                                       hidden, eps);                                                                  \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(galley::THREADS) residual_layer_norm_##NAME(                         \
        const T *x, const T *residual, const float *weight, const float *beta, T *out, T *sums, int rows, int hidden, \
        float eps) {                                                                                                  \
        galley::take_turn();                                                                                          \
        galley::residual_layer_norm<T, VECTORS>(x, residual, weight, beta, out, sums, rows, hidden, eps);             \
    }

ROW_KERNELS(f16_h256, __half, 1)
ROW_KERNELS(f16_h512, __half, 2)
ROW_KERNELS(f16_h768, __half, 3)
ROW_KERNELS(f16_h1024, __half, 4)
ROW_KERNELS(f16_h1280, __half, 5)
ROW_KERNELS(f16_h1792, __half, 7)
ROW_KERNELS(f32_h256, float, 1)
ROW_KERNELS(f32_h512, float, 2)
ROW_KERNELS(f32_h768, float, 3)
ROW_KERNELS(f32_h1024, float, 4)
ROW_KERNELS(f32_h1280, float, 5)
ROW_KERNELS(f32_h1792, float, 7)
