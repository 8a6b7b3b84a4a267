// What a warp does with 16 queries of a transformer's attention, on the matrix units: their products with keys, softmax, and
// its products with values.
//
// Queries, keys and values of a head are in shared memory; scores stay in registers, with the maximum and the sum of each
// query's. Where keys come in parts, both are kept up to date (Milakov and Gimelshein, "Online normalizer calculation for
// softmax"; Dao et al., "FlashAttention").
#pragma once

#include "matmul_sm90.cuh"
#include "text.cuh"
#include "tile.cuh"

#include <math_constants.h>

namespace galley {

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row));
}

constexpr int TILE = 64;
constexpr int ROWS_OF_WARP = 16;
constexpr int STAGES = 2;

template <int DIM> constexpr int TILE_BYTES = TILE * DIM * 2;

// Rows of DIM elements, whose 16-byte chunks are permuted so that the same chunk of 8 consecutive rows lies in 8
// different groups of 4 banks. It's the permutation that the matrix units know as the swizzle of 128 bytes (of 64, for
// rows of 64 bytes), which repeats after 1024.
template <int DIM> struct alignas(1024) SharedTiles {
    char queries[TILE_BYTES<DIM>], keys[STAGES][TILE_BYTES<DIM>], values[STAGES][TILE_BYTES<DIM>];
};

template <int DIM> __device__ __forceinline__ uint32_t place(int row, int chunk) {
    constexpr int CHUNKS = DIM / 8;
    return row * DIM * 2 + ((chunk ^ (row / (8 / CHUNKS) % CHUNKS)) * 16);
}

// The same in all lanes, and known to be.
__device__ __forceinline__ int warp_index() { return __shfl_sync(0xffffffffu, threadIdx.x / WARP, 0); }

// 16 bytes to shared memory, or zeros.
__device__ __forceinline__ void copy_async(uint32_t to, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

// A thread's part in copying rows to a tile: one chunk of each PASS-th row.
template <int DIM> struct Chunk {
    static constexpr int PASS = THREADS / (DIM / 8);
    static constexpr int PASSES = TILE / PASS;

    int row = threadIdx.x / (DIM / 8), column = threadIdx.x % (DIM / 8) * 8;

    // Where the chunk of the first pass lies in a tile; a pass further on, PASS rows further on.
    __device__ __forceinline__ uint32_t offset() const { return place<DIM>(row, column / 8); }
    static constexpr int PASS_BYTES = PASS * DIM * 2;
};

// 16 queries of a warp.
template <int DIM> struct Queries {
    static constexpr float LOG2_E = 1.4426950408889634f;
    static constexpr float SCALE = LOG2_E * (DIM == 64 ? 0.125f : 0.17677669529663689f);

    uint32_t fragments[DIM / 16][4];
    float out[DIM / 8][4] = {};
    // Of the rows g and g + 8; the sum is of this lane's columns.
    float largest[2] = {-CUDART_INF_F, -CUDART_INF_F};
    float sum[2] = {0.0f, 0.0f};

    __device__ __forceinline__ void load(uint32_t rows) {
        const int lane = lane_index();
        const uint32_t at = rows + place<DIM>(warp_index() * ROWS_OF_WARP + lane % 16, lane / 16);
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) load_matrices(fragments[k], at ^ (k * 32));
    }

    // Leaves out the scores of keys from `keys` on, which lie within the last 16 columns.
    template <int TILES> __device__ __forceinline__ static void mask(float (&scores)[TILES][4], int keys) {
#pragma unroll
        for (int tile = TILES - 2; tile < TILES; tile++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (tile * 8 + lane_index() % LANES_OF_ROW * 2 + i % 2 >= keys) scores[tile][i] = -CUDART_INF_F;
    }

    // Leaves out the scores of keys after their query; the warp's first query is `ahead` of the first key.
    template <int TILES> __device__ __forceinline__ static void mask_after(float (&scores)[TILES][4], int ahead) {
        const int query = ahead + lane_index() / LANES_OF_ROW, column = lane_index() % LANES_OF_ROW * 2;
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (tile * 8 + column + i % 2 > query + i / 2 * 8) scores[tile][i] = -CUDART_INF_F;
    }

    // Turns scores into exp(scaled score - maximum), and brings what was summed under an earlier maximum to this one.
    template <bool FIRST, int TILES> __device__ __forceinline__ void exponentiate(float (&scores)[TILES][4]) {
        float shift[2], correction[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float most = largest[half];
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
                most = fmaxf(most, fmaxf(scores[tile][2 * half], scores[tile][2 * half + 1]));
#pragma unroll
            for (int lanes = 1; lanes < LANES_OF_ROW; lanes *= 2)
                most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, lanes));
            shift[half] = most * SCALE;
            if constexpr (!FIRST) {
                correction[half] = quick_power_of_two(largest[half] * SCALE - shift[half]);
                sum[half] *= correction[half];
            }
            largest[half] = most;
        }
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                scores[tile][i] = quick_power_of_two(scores[tile][i] * SCALE - shift[i / 2]);
                sum[i / 2] += scores[tile][i];
            }
        if constexpr (!FIRST) {
#pragma unroll
            for (int tile = 0; tile < DIM / 8; tile++)
#pragma unroll
                for (int i = 0; i < 4; i++) out[tile][i] *= correction[i / 2];
        }
    }

    // Writes the first `count` rows, by way of the shared memory that they were read from.
    __device__ __forceinline__ void store(char *rows, int count, __half *to, int stride) {
        constexpr int CHUNKS = DIM / 8;
        const int first = warp_index() * ROWS_OF_WARP;
        const int row = lane_index() / LANES_OF_ROW, column = lane_index() % LANES_OF_ROW;
        // No lane may write before all have read their queries.
        __syncwarp();
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float total = sum[half];
#pragma unroll
            for (int lanes = 1; lanes < LANES_OF_ROW; lanes *= 2)
                total += __shfl_xor_sync(0xffffffffu, total, lanes);
            const float scale = __fdividef(1.0f, total);
#pragma unroll
            for (int tile = 0; tile < CHUNKS; tile++) {
                const uint32_t pair = pack_halves(out[tile][2 * half] * scale, out[tile][2 * half + 1] * scale);
                *reinterpret_cast<uint32_t *>(rows + place<DIM>(first + row + 8 * half, tile) + 4 * column) = pair;
            }
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < ROWS_OF_WARP * CHUNKS / WARP; i++) {
            const int index = i * WARP + lane_index();
            const int query = index / CHUNKS, chunk = index % CHUNKS;
            const uint4 values = *reinterpret_cast<const uint4 *>(rows + place<DIM>(first + query, chunk));
            if (query < count) *reinterpret_cast<uint4 *>(to + query * stride + chunk * 8) = values;
        }
    }
};

// Scores of a warp's queries against 16 * STEPS keys.
template <int DIM, int STEPS>
__device__ __forceinline__ void multiply_keys(float (&scores)[2 * STEPS][4], const Queries<DIM> &queries,
                                              uint32_t keys) {
    const int lane = lane_index();
    const uint32_t at = keys + place<DIM>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
    for (int step = 0; step < STEPS; step++)
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) {
            uint32_t b[4];
            load_matrices(b, (at ^ (k * 32)) + step * 16 * DIM * 2);
            multiply_add(scores[2 * step], queries.fragments[k], b[0], b[1]);
            multiply_add(scores[2 * step + 1], queries.fragments[k], b[2], b[3]);
        }
}

// Exponentials as the left operand of their product with values.
template <int TILES>
__device__ __forceinline__ void pack_step(uint32_t (&a)[4], const float (&weights)[TILES][4], int step) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float(&pair)[4] = weights[2 * step + i / 2];
        a[i] = pack_halves(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
    }
}

template <int DIM, int STEPS>
__device__ __forceinline__ void multiply_values(Queries<DIM> &queries, const float (&weights)[2 * STEPS][4],
                                                uint32_t values) {
    const int lane = lane_index();
    const uint32_t at = values + place<DIM>(lane % 16, lane / 16);
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        uint32_t a[4];
        pack_step(a, weights, step);
#pragma unroll
        for (int pair = 0; pair < DIM / 16; pair++) {
            uint32_t b[4];
            load_matrices_transposed(b, (at ^ (pair * 32)) + step * 16 * DIM * 2);
            multiply_add(queries.out[2 * pair], a, b[0], b[1]);
            multiply_add(queries.out[2 * pair + 1], a, b[2], b[3]);
        }
    }
}

// The queries of a warp, of which the first is the sequence's `first`-th; they see at most 16 * STEPS tokens.
template <int DIM, bool CAUSAL, int STEPS>
__device__ __forceinline__ void attend_all(Queries<DIM> &queries, uint32_t keys, uint32_t values, int tokens, int first) {
    float scores[2 * STEPS][4] = {};
    multiply_keys<DIM, STEPS>(scores, queries, keys);
    if constexpr (CAUSAL)
        queries.mask_after(scores, first);
    else
        queries.mask(scores, tokens);
    queries.template exponentiate<true>(scores);
    multiply_values<DIM, STEPS>(queries, scores, values);
}

// Which of a part's keys a tile's queries see: all; those of the sequence, in whose last 16 some may be past it; or none
// after themselves, where queries and keys begin at the same token.
enum Seen { ALL, PRESENT, EARLIER };

template <Seen SEEN, int DIM, int TILES>
__device__ __forceinline__ void mask_unseen(const Queries<DIM> &queries, float (&scores)[TILES][4], int count) {
    if constexpr (SEEN == PRESENT) queries.mask(scores, count);
    if constexpr (SEEN == EARLIER) queries.mask_after(scores, warp_index() * ROWS_OF_WARP);
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// A tile in shared memory as the right operand, B, of the matrix units. Whether its rows are columns of B or rows, they
// come in groups of 8, end to end.
template <int DIM> __device__ __forceinline__ uint64_t operand(uint32_t at) {
    constexpr uint64_t SWIZZLE = DIM == 64 ? 1 : 2, GROUP_BYTES = 8 * DIM * 2;
    return (at & 0x3ffff) >> 4 | uint64_t(1) << 16 | GROUP_BYTES / 16 << 32 | SWIZZLE << 62;
}

// d = a b (+ d) for a warpgroup, with 64 rows of d; TRANSPOSED if the rows in memory are those of B.
template <int TRANSPOSED>
__device__ __forceinline__ void multiply_add(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b, bool add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %37, 0;"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, "
                 "%11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, "
                 "%31}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;}"
                 : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),
                   "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
                   "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),
                   "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
                   "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),
                   "+f"(d[7][2]), "+f"(d[7][3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(TRANSPOSED));
}

template <int TRANSPOSED>
__device__ __forceinline__ void multiply_add(float (&d)[4][4], const uint32_t (&a)[4], uint64_t b, bool add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %21, 0;"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, "
                 "%11, %12, %13, %14, %15}, {%16, %17, %18, %19}, %20, p, 1, 1, %22;}"
                 : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),
                   "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
                   "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(TRANSPOSED));
}

__device__ __forceinline__ void finish_products() {
    hopper::wgmma_commit();
    hopper::wgmma_wait<0>();
}

// Lets the matrix units see what this thread's copies wrote to shared memory.
__device__ __forceinline__ void publish_copies() { hopper::async_proxy_fence(); }

// The part of 16 * STEPS keys in the results of a tile's queries.
template <int DIM, int STEPS, Seen SEEN>
__device__ __forceinline__ void attend_part(Queries<DIM> &queries, uint32_t keys, uint32_t values, int count) {
    float all[TILE / 8][4];
    hopper::wgmma_fence();
#pragma unroll
    for (int k = 0; k < DIM / 16; k++)
        multiply_add<0>(all, queries.fragments[k], operand<DIM>(keys + k * 32), k > 0);
    finish_products();
    float scores[2 * STEPS][4];
#pragma unroll
    for (int tile = 0; tile < 2 * STEPS; tile++)
#pragma unroll
        for (int i = 0; i < 4; i++) scores[tile][i] = all[tile][i];
    mask_unseen<SEEN>(queries, scores, count);
    queries.template exponentiate<false>(scores);
    uint32_t weights[STEPS][4];
#pragma unroll
    for (int step = 0; step < STEPS; step++) pack_step(weights[step], scores, step);
    hopper::wgmma_fence();
#pragma unroll
    for (int step = 0; step < STEPS; step++)
        multiply_add<1>(queries.out, weights[step], operand<DIM>(values + step * 16 * DIM * 2), true);
    finish_products();
}

#else

__device__ __forceinline__ void publish_copies() {}

template <int DIM, int STEPS, Seen SEEN>
__device__ __forceinline__ void attend_part(Queries<DIM> &queries, uint32_t keys, uint32_t values, int count) {
    float scores[2 * STEPS][4] = {};
    multiply_keys<DIM, STEPS>(scores, queries, keys);
    mask_unseen<SEEN>(queries, scores, count);
    queries.template exponentiate<false>(scores);
    multiply_values<DIM, STEPS>(queries, scores, values);
}

#endif


}  // namespace galley
