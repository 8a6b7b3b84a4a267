// What the kernels of attention in training share: the sequences' sizes, and for those on tensor cores tiles of a head in shared
// memory, their products, and which weights dropout keeps.
#pragma once

#include <math_constants.h>

#include "matmul_sm90.cuh"
#include "philox.cuh"
#include "tile.cuh"

namespace galley {

constexpr int TILE = 64;  // queries, or keys, that a block has or goes through at once
constexpr float LOG2_E = 1.4426950408889634f;

// Sequences of one length. Their tokens lie end to end, those of `qkv` as the queries of all heads, then keys, then values.
struct Sequences {
    int batch, tokens, heads, dim, causal;

    __device__ __forceinline__ int width() const { return heads * dim; }
    __device__ __forceinline__ int tiles() const { return (tokens + TILE - 1) / TILE; }
    __device__ __forceinline__ float scale() const { return 1.0f / sqrtf(static_cast<float>(dim)); }
};

// A tile of a head of a sequence, which a block has.
struct Block {
    int pair;  // of sequence and head
    int head, tile;
    size_t row;  // the sequence's first token

    __device__ __forceinline__ explicit Block(const Sequences& of)
        : pair(blockIdx.x / of.tiles()), head(pair % of.heads), tile(blockIdx.x % of.tiles()),
          row(static_cast<size_t>(pair / of.heads) * of.tokens) {}

    __device__ __forceinline__ int first() const { return tile * TILE; }
    // Of arrays [tokens, `parts` * heads * dim], the head's first value.
    __device__ __forceinline__ size_t start(const Sequences& of, int parts) const {
        return row * parts * of.width() + head * of.dim;
    }
    // Of arrays [heads, tokens], the first token.
    __device__ __forceinline__ size_t token(const Sequences& of) const {
        return static_cast<size_t>(head) * of.batch * of.tokens + row;
    }
    // The first group of a query's numbers; a key's is so many further on as there are groups of 64 keys before it.
    __device__ __forceinline__ uint64_t group(const Sequences& of, int query) const {
        return ((row + query) * of.heads + head) * of.tiles();
    }
};

// ---- Tensor cores. A warp has 16 rows of a tile, and of sums lane 4 g + t the rows g and g + 8, columns 8 j + 2 t and next. ----

constexpr int THREADS = 128;
constexpr int ROWS = TILE * WARP / THREADS;  // of a warp

template <int DIM> constexpr int TILE_BYTES = TILE * DIM * 2;
template <int DIM> using Fragments = uint32_t[DIM / 16][4];
template <int COLUMNS> using Tile = float[COLUMNS / 8][4];

// Where 16 bytes of a row lie: the same of 8 consecutive rows in 8 different groups of 4 banks. It is the permutation that
// matrix units know as the swizzle of 128 bytes (of 64 for rows of 64), which repeats after 1024.
template <int DIM> __device__ __forceinline__ uint32_t place(int row, int chunk) {
    constexpr int CHUNKS = DIM / 8;
    return row * DIM * 2 + ((chunk ^ (row / (8 / CHUNKS) % CHUNKS)) * 16);
}

__device__ __forceinline__ int lane_index() { return threadIdx.x % WARP; }
// The same in all lanes, and known to be.
__device__ __forceinline__ int warp_index() { return __shfl_sync(0xffffffffu, threadIdx.x / WARP, 0); }

// Begins to copy `rows` rows of `columns` values to a tile, and zeros behind both.
template <int DIM>
__device__ __forceinline__ void load_tile(uint32_t to, const __half* from, size_t stride, int rows, int columns) {
    constexpr int CHUNKS = DIM / 8, PASS = THREADS / CHUNKS;
    const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    const bool there = chunk * 8 < columns;
    to += place<DIM>(row, chunk);
    from += row * stride + chunk * 8;
#pragma unroll
    for (int pass = 0; pass < TILE; pass += PASS)
        copy_or_zero(to + pass * DIM * 2, from + pass * stride, there && row + pass < rows);
}

// A number to shared memory, or zero.
__device__ __forceinline__ void copy_word(uint32_t to, const void* from, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(valid ? 4 : 0) : "memory");
}

// The warp's rows of a tile, as the left operand of products.
template <int DIM> __device__ __forceinline__ void load_fragments(Fragments<DIM>& to, uint32_t tile) {
    const int lane = lane_index();
    const uint32_t at = tile + place<DIM>(warp_index() * ROWS + lane % 16, lane / 16);
#pragma unroll
    for (int k = 0; k < DIM / 16; k++) load_matrices(to[k], at ^ (k * 32));
}

// Weights as the left operand of their product with a tile's rows.
__device__ __forceinline__ void pack_tile(Fragments<TILE>& to, const Tile<TILE>& weights) {
#pragma unroll
    for (int step = 0; step < TILE / 16; step++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float(&four)[4] = weights[2 * step + i / 2];
            to[step][i] = pack_halves(four[i % 2 * 2], four[i % 2 * 2 + 1]);
        }
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// A tile as the right operand, whether its rows are columns of it or rows: they come in groups of 8, end to end.
template <int DIM> __device__ __forceinline__ uint64_t operand(uint32_t at) {
    constexpr uint64_t SWIZZLE = DIM == 64 ? 1 : 2, GROUP_BYTES = 8 * DIM * 2;
    return (at & 0x3ffff) >> 4 | uint64_t(1) << 16 | GROUP_BYTES / 16 << 32 | SWIZZLE << 62;
}

#define GALLEY_ROW(d, i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define GALLEY_ROWS(d, i) GALLEY_ROW(d, i), GALLEY_ROW(d, i + 1), GALLEY_ROW(d, i + 2), GALLEY_ROW(d, i + 3)
#define GALLEY_0_15 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define GALLEY_0_31 \
    GALLEY_0_15 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"

// d = a b^T (+ d) for a warpgroup, with 64 rows and columns of d. `a` comes from shared memory: what is in registers and is read
// in each turn of a loop, ptxas 13.0 takes for free after the first.
__device__ __forceinline__ void multiply_group(Tile<64>& d, uint64_t a, uint64_t b, int add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0;"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" GALLEY_0_31 "}, %32, %33, p, 1, 1, 0, 0;}"
                 : GALLEY_ROWS(d, 0), GALLEY_ROWS(d, 4)
                 : "l"(a), "l"(b), "r"(add));
}

// d += a b, where the rows in memory are those of b.
__device__ __forceinline__ void multiply_group(Tile<64>& d, const uint32_t (&a)[4], uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" GALLEY_0_31 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
                 : GALLEY_ROWS(d, 0), GALLEY_ROWS(d, 4)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void multiply_group(Tile<32>& d, const uint32_t (&a)[4], uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {" GALLEY_0_15 "}, {%16, %17, %18, %19}, %20, 1, 1, 1, 1;"
                 : GALLEY_ROWS(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef GALLEY_ROW
#undef GALLEY_ROWS
#undef GALLEY_0_15
#undef GALLEY_0_31

// Begins scores = left rows^T: products of the rows of two tiles.
template <int DIM> __device__ __forceinline__ void begin_scores(Tile<TILE>& scores, uint32_t left, uint32_t rows) {
    hopper::wgmma_fence();
#pragma unroll
    for (int k = 0; k < DIM / 16; k++) multiply_group(scores, operand<DIM>(left + k * 32), operand<DIM>(rows + k * 32), k > 0);
    hopper::wgmma_commit();
}

// Begins sums += weights rows.
template <int DIM>
__device__ __forceinline__ void begin_sums(Tile<DIM>& sums, const Fragments<TILE>& weights, uint32_t rows) {
    hopper::wgmma_fence();
#pragma unroll
    for (int step = 0; step < TILE / 16; step++)
        multiply_group(sums, weights[step], operand<DIM>(rows + step * 16 * DIM * 2));
    hopper::wgmma_commit();
}

// Waits until at most `PENDING` of what was begun is under way; `done` is finished then.
template <int PENDING, int TILES> __device__ __forceinline__ void await_products(float (&done)[TILES][4]) {
    hopper::wgmma_wait<PENDING>();
#pragma unroll
    for (int j = 0; j < TILES; j++) hopper::settle(done[j]);
}

// Lets the matrix units see what this thread's copies wrote to shared memory.
__device__ __forceinline__ void publish_copies() { hopper::async_proxy_fence(); }

#else

__device__ __forceinline__ void load_matrices_turned(uint32_t (&to)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from));
}

template <int DIM> __device__ __forceinline__ void begin_scores(Tile<TILE>& scores, uint32_t left, uint32_t rows) {
    const int lane = lane_index();
    Fragments<DIM> fragments;
    load_fragments<DIM>(fragments, left);
    const uint32_t at = rows + place<DIM>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
    for (int step = 0; step < TILE / 16; step++) {
#pragma unroll
        for (int i = 0; i < 4; i++) scores[2 * step][i] = scores[2 * step + 1][i] = 0.0f;
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) {
            uint32_t b[4];
            load_matrices(b, (at ^ (k * 32)) + step * 16 * DIM * 2);
            multiply_add(scores[2 * step], fragments[k], b[0], b[1]);
            multiply_add(scores[2 * step + 1], fragments[k], b[2], b[3]);
        }
    }
}

template <int DIM>
__device__ __forceinline__ void begin_sums(Tile<DIM>& sums, const Fragments<TILE>& weights, uint32_t rows) {
    const int lane = lane_index();
    const uint32_t at = rows + place<DIM>(lane % 16, lane / 16);
#pragma unroll
    for (int step = 0; step < TILE / 16; step++)
#pragma unroll
        for (int pair = 0; pair < DIM / 16; pair++) {
            uint32_t b[4];
            load_matrices_turned(b, (at ^ (pair * 32)) + step * 16 * DIM * 2);
            multiply_add(sums[2 * pair], weights[step], b[0], b[1]);
            multiply_add(sums[2 * pair + 1], weights[step], b[2], b[3]);
        }
}

template <int PENDING, int TILES> __device__ __forceinline__ void await_products(float (&)[TILES][4]) {}

__device__ __forceinline__ void publish_copies() {}

#endif

// Waits for this thread's copies, and for what all others have copied and done.
__device__ __forceinline__ void await_tiles() {
    await_copies<0>();
    publish_copies();
    __syncthreads();
}

// Which weights of a tile dropout keeps, of those that a lane has where rows are queries.
struct Kept {
    Philox numbers;
    unsigned threshold;
    uint64_t group;  // of the query in row g, the first one
    uint64_t below;  // so many groups further on are those of row g + 8

    __device__ __forceinline__ Kept(const Sequences& of, const Block& block, const Philox& numbers, unsigned threshold)
        : numbers(numbers), threshold(threshold),
          group(block.group(of, block.first() + warp_index() * ROWS + lane_index() / 4)),
          below(uint64_t(8) * of.heads * of.tiles()) {}

    // Of a tile of keys: bit 4 j + i is that of value i of columns 8 j and those after it.
    __device__ __forceinline__ uint32_t of(int tile) const {
        uint32_t bits = 0;
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int eight = 0; eight < 2; eight++) {
                const int column = eight * 8 + lane_index() % 4 * 2 + i % 2;
                const uint4 words = numbers.block((group + i / 2 * below + tile) * 16 + column);
                // A block's words are numbers of keys that are 16 apart.
                bits |= static_cast<uint32_t>(words.x >= threshold) << (4 * eight + i);
                bits |= static_cast<uint32_t>(words.y >= threshold) << (8 + 4 * eight + i);
                bits |= static_cast<uint32_t>(words.z >= threshold) << (16 + 4 * eight + i);
                bits |= static_cast<uint32_t>(words.w >= threshold) << (24 + 4 * eight + i);
            }
        return bits;
    }
};

// Writes or adds the first `rows` rows and `columns` columns of a tile, those of rows g times `upper` and of g + 8 times
// `lower`, by way of a tile of shared memory that nobody uses.
template <int DIM>
__device__ __forceinline__ void store_tile(const Tile<DIM>& sums, float upper, float lower, unsigned char* shared,
                                           __half* to, size_t stride, int rows, int columns, bool add) {
    constexpr int CHUNKS = DIM / 8;
    const int first = warp_index() * ROWS, lane = lane_index();
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const float scale = i == 0 ? upper : lower;
#pragma unroll
        for (int j = 0; j < CHUNKS; j++) {
            const uint32_t at = place<DIM>(first + lane / 4 + 4 * i, j) + lane % 4 * 4;
            *reinterpret_cast<uint32_t*>(shared + at) = pack_halves(sums[j][i] * scale, sums[j][i + 1] * scale);
        }
    }
    __syncwarp();
#pragma unroll
    for (int turn = 0; turn < ROWS * CHUNKS / WARP; turn++) {
        const int index = turn * WARP + lane, row = first + index / CHUNKS, chunk = index % CHUNKS;
        if (row >= rows || chunk * 8 >= columns) continue;
        uint4 values = *reinterpret_cast<const uint4*>(shared + place<DIM>(row, chunk));
        uint4* at = reinterpret_cast<uint4*>(to + row * stride + chunk * 8);
        if (add) {
            const uint4 before = *at;
            const uint32_t* others = reinterpret_cast<const uint32_t*>(&before);
            uint32_t* pairs = reinterpret_cast<uint32_t*>(&values);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float2 x = unpack_halves(pairs[i]), y = unpack_halves(others[i]);
                pairs[i] = pack_halves(x.x + y.x, x.y + y.y);
            }
        }
        *at = values;
    }
}

}  // namespace galley
