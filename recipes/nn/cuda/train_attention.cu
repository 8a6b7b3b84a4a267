// Attention in training on tensor cores: softmax(Q K^T / sqrt(dim)) V of each head of sequences of one length, without the scores
// ever in memory (Dao, "FlashAttention-2", 2023). Its way back is in `train_attention_back.cu`; heads that are not for it, and
// f32, are in `train_attention_plain.cu`.
//
// attention_forward_dN_f16        N in {32, 64}, the least of at least `dim`, which is a multiple of 8.
// attention_forward_dN_drop_f16   The same with dropout of the softmax's results; without it, what is about it is not read.
//   qkv [batch * tokens, 3 * heads * dim]: of each token the queries of all heads, then keys, then values.
//   -> out [batch * tokens, heads * dim]
//   -> log_sums f32 [heads, batch * tokens], the logarithm of the sum that the softmax divides by.
//   state, and of the dropout seed (two words), layer, threshold, factor: as in `philox.cuh`. A query's numbers begin with the
//   first of group ((its row) * heads + head) * ceil(tokens / 64), that of key k is the k-th.
//   batch, tokens, heads, dim, causal (no query sees a key after it).
//   Grid: batch * heads * ceil(tokens / 64), a block of 128 threads for 64 queries. All pointers are aligned to 16 bytes.
//   Bound by the matrix units and exponentials, with dropout by the generator: 32 sequences of 512, 12 heads of 64 take 78 us on an
//   H200 (329 TFLOP/s), 160 with dropout.

#include "train_attention.cuh"

namespace galley {
namespace {

// Queries of a block.
template <int DIM> struct Queries {
    Tile<DIM> out = {};
    // Of the rows g and g + 8; the sum is of this lane's columns.
    float largest[2] = {-CUDART_INF_F, -CUDART_INF_F};
    float sum[2] = {0.0f, 0.0f};

    // Turns scores into powers of two of (scaled score - maximum), and brings what was summed under an earlier maximum to this
    // one.
    __device__ __forceinline__ void exponentiate(Tile<TILE>& scores, float scale) {
        float shift[2], correction[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float most = largest[half];
#pragma unroll
            for (int j = 0; j < TILE / 8; j++) most = fmaxf(most, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
            shift[half] = most * scale;
            correction[half] = quick_power_of_two(largest[half] * scale - shift[half]);
            sum[half] *= correction[half];
            largest[half] = most;
        }
#pragma unroll
        for (int j = 0; j < TILE / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                scores[j][i] = quick_power_of_two(fmaf(scores[j][i], scale, -shift[i / 2]));
                sum[i / 2] += scores[j][i];
            }
#pragma unroll
        for (int j = 0; j < DIM / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) out[j][i] *= correction[i / 2];
    }
};

// Leaves out the scores of keys from a bound on, which rows g and g + 8 have each their own of.
__device__ __forceinline__ void leave_out(Tile<TILE>& scores, const int (&bounds)[2]) {
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (j * 8 + lane_index() % 4 * 2 + i % 2 >= bounds[i / 2]) scores[j][i] = -CUDART_INF_F;
}

template <int DIM, bool DROP>
__device__ __forceinline__ void attend(const __half* qkv, __half* out, float* log_sums, const State* state,
                                       const Dropout& dropout, const Sequences& of) {
    __shared__ __align__(1024) unsigned char tiles[2][2][TILE_BYTES<DIM>], left[TILE_BYTES<DIM>];  // two stages, and queries
    Block block(of);
    block.tile = of.tiles() - 1 - block.tile;  // those first that see most
    take_turn();

    const int width = of.width(), first = block.first(), tokens = of.causal ? min(of.tokens, first + TILE) : of.tokens;
    const size_t stride = 3 * width;
    const int parts = (tokens + TILE - 1) / TILE;
    qkv += block.start(of, 3);
    const auto load_part = [&](int part) {
        const __half* keys = qkv + part * TILE * stride + width;
        const int rows = tokens - part * TILE;
        load_tile<DIM>(shared_address(tiles[part % 2][0]), keys, stride, rows, of.dim);
        load_tile<DIM>(shared_address(tiles[part % 2][1]), keys + width, stride, rows, of.dim);
        commit_copies();
    };
    load_tile<DIM>(shared_address(left), qkv + first * stride, stride, of.tokens - first, of.dim);
    load_part(0);

    Queries<DIM> queries;
    const Kept kept(of, block, DROP ? dropout.numbers(state) : Philox{}, dropout.threshold);
    const float scale = of.scale();
    const int query = first + warp_index() * ROWS + lane_index() / 4;
    for (int part = 0; part < parts; part++) {
        // This part is there, and nobody reads the one before it any more.
        await_tiles();
        if (part + 1 < parts) load_part(part + 1);
        Tile<TILE> scores;
        begin_scores<DIM>(scores, shared_address(left), shared_address(tiles[part % 2][0]));
        uint32_t bits = 0;
        if constexpr (DROP) bits = kept.of(part);
        await_products<0>(scores);
        const int start = part * TILE;
        if (part + 1 == parts) {
            const int seen = of.causal ? query + 1 : tokens;
            leave_out(scores, {min(seen, tokens) - start, min(seen + (of.causal ? 8 : 0), tokens) - start});
        }
        queries.exponentiate(scores, scale * LOG2_E);
        if constexpr (DROP) {
#pragma unroll
            for (int j = 0; j < TILE / 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (!(bits >> (4 * j + i) & 1)) scores[j][i] = 0.0f;
        }
        Fragments<TILE> weights;
        pack_tile(weights, scores);
        begin_sums<DIM>(queries.out, weights, shared_address(tiles[part % 2][1]));
        await_products<0>(queries.out);
    }

    float factors[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float total = queries.sum[half];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        factors[half] = (DROP ? dropout.factor : 1.0f) / total;
        const int row = query + 8 * half;
        if (lane_index() % 4 == 0 && row < of.tokens)
            log_sums[block.token(of) + row] = queries.largest[half] * scale + logf(total);
    }
    // The stage of the part before the last one.
    store_tile<DIM>(queries.out, factors[0], factors[1], tiles[parts % 2][0], out + block.start(of, 1) + size_t(first) * width,
                    width, of.tokens - first, of.dim, false);
}

}  // namespace
}  // namespace galley

#define KERNEL(NAME, DIM, DROP)                                                                                       \
    extern "C" __global__ void __launch_bounds__(galley::THREADS, DROP ? 3 : 4)                                       \
        attention_forward_##NAME##_f16(const __half* qkv, __half* out, float* log_sums, const galley::State* state,   \
                                       unsigned seed_low, unsigned seed_high, unsigned layer, unsigned threshold,     \
                                       float factor, int batch, int tokens, int heads, int dim, int causal) {         \
        galley::attend<DIM, DROP>(qkv, out, log_sums, state, {seed_low, seed_high, layer, threshold, factor},         \
                                  {batch, tokens, heads, dim, causal});                                               \
    }

KERNEL(d32, 32, false)
KERNEL(d64, 64, false)
KERNEL(d32_drop, 32, true)
KERNEL(d64_drop, 64, true)
