// A transformer's self-attention for heads of any size, in f16 or f32, on CUDA cores. How tokens lie, and what all kernels of
// a transformer have in common, is in `text.cuh`.
//
// attention_T(qkv, tiles, context, int heads, int dim, int causal)
//   As in `attention.cu` for heads of 1 to 128 features, causal or not; any alignment. Tiles are of the first form only,
//   whatever the length; the first query is a multiple of 32, and there is any number: 64, say.

#include "text.cuh"

#include <math_constants.h>

namespace galley {
namespace {

// Four queries for each warp, and a lane for each of 32 keys at a time.
constexpr int MOST_DIM = 128;
constexpr int QUERIES_OF_WARP = 4;
constexpr int QUERIES_OF_BLOCK = QUERIES_OF_WARP * WARPS;

// Padded, so that the same 16 bytes of 8 rows lie in different banks.
using PlainRow = float[MOST_DIM + 4];

// Rows of a head, as f32 and scaled, with zeros up to a multiple of 4 elements and for rows from `count` on.
template <typename T, int ROWS>
__device__ __forceinline__ void load_plain(PlainRow (&to)[ROWS], const T *from, size_t stride, int count, int dim,
                                           float scale) {
    for (int row = threadIdx.x / WARP; row < ROWS; row += WARPS)
        for (int d = lane_index(); d < (dim + 3) / 4 * 4; d += WARP)
            to[row][d] = row < count && d < dim ? to_float(from[row * stride + d]) * scale : 0.0f;
}

template <typename T>
__device__ __forceinline__ void attention_plain(const T *qkv, const int4 *tiles, T *context, int heads, int dim,
                                                int causal) {
    constexpr int COLUMNS = MOST_DIM / WARP;
    __shared__ __align__(16) PlainRow queries[QUERIES_OF_BLOCK], keys[WARP], values[WARP];
    __shared__ float4 all_weights[WARPS][WARP];
    const int head = blockIdx.x % heads, lane = lane_index(), warp = threadIdx.x / WARP;
    const int4 tile = tiles[blockIdx.x / heads];
    const int tokens = tile.y, width = heads * dim, stride = 3 * width;
    const T *sequence = qkv + size_t(tile.x) * stride + head * dim;
    float4(&weights)[WARP] = all_weights[warp];
    for (int first = tile.z; first < tile.z + tile.w; first += QUERIES_OF_BLOCK) {
        float largest[QUERIES_OF_WARP], sum[QUERIES_OF_WARP] = {}, out[QUERIES_OF_WARP][COLUMNS] = {};
#pragma unroll
        for (int q = 0; q < QUERIES_OF_WARP; q++) largest[q] = -CUDART_INF_F;
        __syncthreads();
        load_plain(queries, sequence + size_t(first) * stride, stride, tile.z + tile.w - first, dim, rsqrtf(dim));
        // Causal or not, a query sees some key of each part.
        const int end = causal ? min(tokens, first + QUERIES_OF_BLOCK) : tokens;
        for (int part = 0; part < end; part += WARP) {
            const int count = min(end - part, WARP);
            const T *key = sequence + size_t(part) * stride + width;
            __syncthreads();
            load_plain(keys, key, stride, count, dim, 1.0f);
            load_plain(values, key + width, stride, count, dim, 1.0f);
            __syncthreads();
            float scores[QUERIES_OF_WARP] = {};
            for (int d = 0; d < dim; d += 4) {
                const float4 k = quad(&keys[lane][d]);
#pragma unroll
                for (int q = 0; q < QUERIES_OF_WARP; q++)
                    scores[q] += dot(quad(&queries[warp * QUERIES_OF_WARP + q][d]), k);
            }
#pragma unroll
            for (int q = 0; q < QUERIES_OF_WARP; q++) {
                const int seen = causal ? first + warp * QUERIES_OF_WARP + q + 1 - part : count;
                const float score = lane < min(count, seen) ? scores[q] : -CUDART_INF_F;
                const float most = fmaxf(largest[q], warp_max(score));
                const float correction = expf(largest[q] - most);
                scores[q] = expf(score - most);
                largest[q] = most;
                sum[q] = sum[q] * correction + scores[q];
#pragma unroll
                for (int i = 0; i < COLUMNS; i++) out[q][i] *= correction;
            }
            weights[lane] = {scores[0], scores[1], scores[2], scores[3]};
            __syncwarp();
            for (int k = 0; k < count; k++) {
                const float4 weight = weights[k];
#pragma unroll
                for (int i = 0; i < COLUMNS; i++) {
                    if (i * WARP >= dim) break;
                    const float value = values[k][i * WARP + lane];
                    out[0][i] += weight.x * value;
                    out[1][i] += weight.y * value;
                    out[2][i] += weight.z * value;
                    out[3][i] += weight.w * value;
                }
            }
        }
#pragma unroll
        for (int q = 0; q < QUERIES_OF_WARP; q++) {
            const int query = first + warp * QUERIES_OF_WARP + q;
            const float scale = 1.0f / warp_sum(sum[q]);
            if (query >= tile.z + tile.w) continue;
            T *to = context + size_t(tile.x + query) * width + head * dim;
#pragma unroll
            for (int i = 0; i < COLUMNS; i++)
                if (i * WARP + lane < dim) to[i * WARP + lane] = from_float<T>(out[q][i] * scale);
        }
    }
}

}  // namespace
}  // namespace galley

#define ATTENTION_KERNEL(NAME, T)                                                                                     \
    extern "C" __global__ void __launch_bounds__(galley::THREADS)                                                     \
        attention_##NAME(const T *qkv, const int4 *tiles, T *context, int heads, int dim, int causal) {               \
        galley::take_turn();                                                                                          \
        galley::attention_plain<T>(qkv, tiles, context, heads, dim, causal);                                          \
    }

ATTENTION_KERNEL(f16, __half)
ATTENTION_KERNEL(f32, float)
