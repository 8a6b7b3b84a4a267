// The way back of attention on tensor cores (see `train_attention.cu`): with P the softmax's results, M what dropout multiplies
// them by and D of each query the product of output and gradient, dV = (M P)^T dO, dS = P (M (dO V^T) - D), dQ = dS K and
// dK = dS^T Q, the last two divided by the root of `dim` (Dao, "FlashAttention-2", 2023). P is made again from scores and the
// logarithms of their sums. A block has 64 queries and goes through all keys, and then another has 64 keys and goes through all
// queries, so that each sum is one block's, in one order.
//
// attention_queries_dN_f16, attention_queries_dN_drop_f16   N and dropout as forward. First.
//   qkv, out, log_sums as forward gave them, dout [batch * tokens, heads * dim]
//   -> dots f32 [heads, batch * tokens], D
//   -> kept, with dropout alone: which weights it keeps, 32 bits for each thread of each tile, [batch * heads, tiles of queries,
//      tiles of keys, 128] where there are ceil(tokens / 64) tiles
//   -> dqkv [batch * tokens, 3 * heads * dim], the queries of it
//   state ... causal as forward; add: whether the gradient is added to what is there.
// attention_keys_dN_f16, attention_keys_dN_drop_f16         Second.
//   qkv, log_sums, dout, dots, kept (with dropout) -> dqkv, the keys and values of it; state ... causal, add as before.
//   Shared: 6 tiles of 64 * N * 2 bytes, and 2048.
//   Grid, for both: batch * heads * ceil(tokens / 64), 128 threads. All pointers are aligned to 16 bytes.
//   Bound by the matrix units, with dropout by the generator: 7 products of 2 * tokens * tokens * dim operations for each head. 32
//   sequences of 512, 12 heads of 64 take 96 + 134 us on an H200 (279 TFLOP/s, counted as 5 products), 200 + 152 with dropout.

#include "train_attention.cuh"

namespace galley {
namespace {

// The products of outputs and a tile of their gradients, of this lane's rows g and g + 8.
template <int DIM>
__device__ __forceinline__ void multiply_outputs(float (&dots)[2], const __half* out, uint32_t tile, size_t stride, int rows,
                                                 int columns) {
    Fragments<DIM> douts;
    load_fragments<DIM>(douts, tile);
    const int column = lane_index() % 4 * 2;
    dots[0] = dots[1] = 0.0f;
#pragma unroll
    for (int k = 0; k < DIM / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = i % 2 * 8, along = k * 16 + i / 2 * 8;
            if (row >= rows || along >= columns) continue;
            const float2 x = load_pair(out + row * stride + along + column), y = unpack_halves(douts[k][i]);
            dots[i % 2] = fmaf(x.x, y.x, fmaf(x.y, y.y, dots[i % 2]));
        }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        dots[half] += __shfl_xor_sync(0xffffffffu, dots[half], 1);
        dots[half] += __shfl_xor_sync(0xffffffffu, dots[half], 2);
    }
}

struct Pass {
    const __half *qkv, *dout;
    const float* log_sums;
    float* dots;
    uint32_t* kept;
    __half* dqkv;
    Sequences of;
    bool add;
};

template <int DIM, bool DROP>
__device__ __forceinline__ void queries(const Pass& pass, const __half* out, const State* state, const Dropout& dropout) {
    // Keys and values of two stages, then queries and gradients.
    __shared__ __align__(1024) unsigned char tiles[3][2][TILE_BYTES<DIM>];
    const Sequences& of = pass.of;
    Block block(of);
    block.tile = of.tiles() - 1 - block.tile;  // those first that see most
    take_turn();

    const int width = of.width(), first = block.first(), tokens = of.causal ? min(of.tokens, first + TILE) : of.tokens;
    const size_t stride = 3 * width, start = block.start(of, 1) + static_cast<size_t>(first) * width;
    const int parts = (tokens + TILE - 1) / TILE;
    const __half* qkv = pass.qkv + block.start(of, 3);
    const auto load_part = [&](int part) {
        const __half* keys = qkv + part * TILE * stride + width;
        const int rows = tokens - part * TILE;
        load_tile<DIM>(shared_address(tiles[part % 2][0]), keys, stride, rows, of.dim);
        load_tile<DIM>(shared_address(tiles[part % 2][1]), keys + width, stride, rows, of.dim);
        commit_copies();
    };
    const uint32_t left = shared_address(tiles[2][0]), douts = shared_address(tiles[2][1]);
    load_tile<DIM>(left, qkv + first * stride, stride, of.tokens - first, of.dim);
    load_tile<DIM>(douts, pass.dout + start, width, of.tokens - first, of.dim);
    load_part(0);

    await_tiles();
    const int own = warp_index() * ROWS + lane_index() / 4, query = first + own;
    float dots[2], log_sums[2];
    multiply_outputs<DIM>(dots, out + start + static_cast<size_t>(own) * width, douts, width, of.tokens - query, of.dim);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const bool there = query + 8 * half < of.tokens;
        const size_t at = block.token(of) + query + 8 * half;
        log_sums[half] = there ? pass.log_sums[at] * LOG2_E : 0.0f;
        if (there && lane_index() % 4 == 0) pass.dots[at] = dots[half];
    }

    Tile<DIM> sums = {};
    const Kept kept(of, block, DROP ? dropout.numbers(state) : Philox{}, dropout.threshold);
    uint32_t* all_bits = pass.kept + (static_cast<size_t>(block.pair) * of.tiles() + block.tile) * of.tiles() * THREADS;
    const float scale = of.scale();
    for (int part = 0; part < parts; part++) {
        // This part is there, and nobody reads the one before it any more.
        await_tiles();
        const uint32_t keys = shared_address(tiles[part % 2][0]), values = shared_address(tiles[part % 2][1]);
        if (part + 1 < parts) load_part(part + 1);
        Tile<TILE> weights, slopes;
        begin_scores<DIM>(weights, left, keys);
        begin_scores<DIM>(slopes, douts, values);
        uint32_t bits = 0;
        if constexpr (DROP) all_bits[part * THREADS + threadIdx.x] = bits = kept.of(part);
        await_products<1>(weights);
#pragma unroll
        for (int j = 0; j < TILE / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                weights[j][i] = quick_power_of_two(fmaf(weights[j][i], scale * LOG2_E, -log_sums[i / 2]));
        if (part + 1 == parts) {
            const int column = part * TILE + lane_index() % 4 * 2;
#pragma unroll
            for (int j = 0; j < TILE / 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int key = column + 8 * j + i % 2;
                    if (key >= tokens || (of.causal && key > query + i / 2 * 8)) weights[j][i] = 0.0f;
                }
        }
        await_products<0>(slopes);
#pragma unroll
        for (int j = 0; j < TILE / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if constexpr (DROP) slopes[j][i] *= bits >> (4 * j + i) & 1 ? dropout.factor : 0.0f;
                slopes[j][i] = weights[j][i] * (slopes[j][i] - dots[i / 2]);
            }
        Fragments<TILE> packed;
        pack_tile(packed, slopes);
        begin_sums<DIM>(sums, packed, keys);
        await_products<0>(sums);
    }
    // The stage of the part before the last one.
    store_tile<DIM>(sums, scale, scale, tiles[parts % 2][0], pass.dqkv + block.start(of, 3) + first * stride, stride,
                    of.tokens - first, of.dim, pass.add);
}

// Of a part of queries, what is of each, and which weights of the block's keys dropout keeps.
struct Numbers {
    float log_sums[TILE], dots[TILE];
    uint32_t kept[THREADS];
};

template <int DIM, bool DROP> __device__ __forceinline__ void keys(const Pass& pass, float factor) {
    extern __shared__ __align__(1024) unsigned char memory[];
    // Queries and gradients of two stages, then keys and values.
    auto tiles = reinterpret_cast<unsigned char(*)[2][TILE_BYTES<DIM>]>(memory);
    Numbers* numbers = reinterpret_cast<Numbers*>(tiles + 3);
    const Sequences& of = pass.of;
    const Block block(of);
    take_turn();

    const int width = of.width(), first = block.first(), parts = of.tiles(), begin = of.causal ? block.tile : 0;
    const size_t stride = 3 * width, token = block.token(of);
    const __half *qkv = pass.qkv + block.start(of, 3), *dout = pass.dout + block.start(of, 1);
    // Of the queries of the first part, the bits of this block's keys.
    const uint32_t* bits = pass.kept + (static_cast<size_t>(block.pair) * parts * parts + block.tile) * THREADS;
    const auto load_part = [&](int part) {
        const int stage = (part - begin) % 2, query = part * TILE, own = threadIdx.x;
        load_tile<DIM>(shared_address(tiles[stage][0]), qkv + query * stride, stride, of.tokens - query, of.dim);
        load_tile<DIM>(shared_address(tiles[stage][1]), dout + static_cast<size_t>(query) * width, width, of.tokens - query,
                       of.dim);
        const int place = own % TILE;
        const float* from = own < TILE ? pass.log_sums : pass.dots;
        float* to = own < TILE ? numbers[stage].log_sums : numbers[stage].dots;
        copy_word(shared_address(to + place), from + token + query + place, query + place < of.tokens);
        if (DROP && own < WARP)
            copy(shared_address(numbers[stage].kept + own * 4), bits + static_cast<size_t>(part) * parts * THREADS + own * 4);
        commit_copies();
    };
    const uint32_t left = shared_address(tiles[2][0]), values = shared_address(tiles[2][1]);
    load_tile<DIM>(left, qkv + first * stride + width, stride, of.tokens - first, of.dim);
    load_tile<DIM>(values, qkv + first * stride + 2 * width, stride, of.tokens - first, of.dim);
    load_part(begin);

    Tile<DIM> key_sums = {}, value_sums = {};
    const float scale = of.scale();
    const int row = lane_index() / 4, column = lane_index() % 4 * 2;
    for (int part = begin; part < parts; part++) {
        // This part is there, and nobody reads the one before it any more.
        await_tiles();
        const int stage = (part - begin) % 2;
        const uint32_t queries = shared_address(tiles[stage][0]), douts = shared_address(tiles[stage][1]);
        const Numbers& own = numbers[stage];
        if (part + 1 < parts) load_part(part + 1);
        Tile<TILE> weights, slopes;
        begin_scores<DIM>(weights, left, queries);
        begin_scores<DIM>(slopes, values, douts);
        await_products<1>(weights);
#pragma unroll
        for (int j = 0; j < TILE / 8; j++) {
            const float2 log_sums = load_pair(own.log_sums + 8 * j + column);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float log_sum = i % 2 == 0 ? log_sums.x : log_sums.y;
                weights[j][i] = quick_power_of_two(fmaf(weights[j][i], scale * LOG2_E, -LOG2_E * log_sum));
            }
        }
        if (of.causal && part == begin) {
            const int key = warp_index() * ROWS + row;
#pragma unroll
            for (int j = 0; j < TILE / 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (key + i / 2 * 8 > 8 * j + column + i % 2) weights[j][i] = 0.0f;
        }
        // Bit 4 r + 2 h of the bits of two eights of queries is that of key g + 8 r and eight h.
        uint32_t bits[TILE / 16][2];
        if constexpr (DROP) {
#pragma unroll
            for (int two = 0; two < TILE / 16; two++)
#pragma unroll
                for (int i = 0; i < 2; i++)
                    bits[two][i] = own.kept[two * WARP + (column + i) * 4 + row / 2] >> (8 * warp_index() + row % 2);
        }
        Tile<TILE> left_weights;
#pragma unroll
        for (int j = 0; j < TILE / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                left_weights[j][i] = weights[j][i];
                if (DROP && !(bits[j / 2][i % 2] >> (4 * (i / 2) + 2 * (j % 2)) & 1)) left_weights[j][i] = 0.0f;
            }
        Fragments<TILE> packed, packed_slopes;
        pack_tile(packed, left_weights);
        begin_sums<DIM>(value_sums, packed, douts);
        await_products<1>(slopes);
#pragma unroll
        for (int j = 0; j < TILE / 8; j++) {
            const float2 dots = load_pair(own.dots + 8 * j + column);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if constexpr (DROP)
                    slopes[j][i] *= bits[j / 2][i % 2] >> (4 * (i / 2) + 2 * (j % 2)) & 1 ? factor : 0.0f;
                slopes[j][i] = weights[j][i] * (slopes[j][i] - (i % 2 == 0 ? dots.x : dots.y));
            }
        }
        pack_tile(packed_slopes, slopes);
        begin_sums<DIM>(key_sums, packed_slopes, queries);
        await_products<0>(key_sums);
        await_products<0>(value_sums);
    }
    // The stage of the part before the last one.
    unsigned char(&stage)[2][TILE_BYTES<DIM>] = tiles[(parts - begin) % 2];
    __half* to = pass.dqkv + block.start(of, 3) + first * stride + width;
    store_tile<DIM>(key_sums, scale, scale, stage[0], to, stride, of.tokens - first, of.dim, pass.add);
    const float whole = DROP ? factor : 1.0f;
    store_tile<DIM>(value_sums, whole, whole, stage[1], to + width, stride, of.tokens - first, of.dim, pass.add);
}

}  // namespace
}  // namespace galley

#define KERNELS(NAME, DIM, DROP)                                                                                      \
    extern "C" __global__ void __launch_bounds__(galley::THREADS, 3) attention_queries_##NAME##_f16(                  \
        const __half* qkv, const __half* out, const float* log_sums, const __half* dout, float* dots, uint32_t* kept, \
        __half* dqkv, const galley::State* state, unsigned seed_low, unsigned seed_high, unsigned layer,              \
        unsigned threshold, float factor, int batch, int tokens, int heads, int dim, int causal, int add) {           \
        galley::queries<DIM, DROP>(                                                                                   \
            {qkv, dout, log_sums, dots, kept, dqkv, {batch, tokens, heads, dim, causal}, add != 0}, out, state,       \
            {seed_low, seed_high, layer, threshold, factor});                                                         \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(galley::THREADS, 2) attention_keys_##NAME##_f16(                     \
        const __half* qkv, const float* log_sums, const __half* dout, float* dots, uint32_t* kept, __half* dqkv,      \
        const galley::State*, unsigned, unsigned, unsigned, unsigned, float factor, int batch, int tokens, int heads, \
        int dim, int causal, int add) {                                                                               \
        galley::keys<DIM, DROP>(                                                                                      \
            {qkv, dout, log_sums, dots, kept, dqkv, {batch, tokens, heads, dim, causal}, add != 0}, factor);          \
    }

KERNELS(d32, 32, false)
KERNELS(d64, 64, false)
KERNELS(d32_drop, 32, true)
KERNELS(d64_drop, 64, true)
