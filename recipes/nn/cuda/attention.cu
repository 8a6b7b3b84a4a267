// A transformer's self-attention on tensor cores: which queries, keys and values a block of threads takes. What it does with
// them is in `attention.cuh`; how tokens lie, and what all kernels of a transformer have in common, in `text.cuh`.
//
// A sequence above 64 tokens has tiles of 64 queries to itself, past which its keys and values stream, 64 at a time. Shorter
// ones share a tile, each from a multiple of 16 rows on, as one with a tile of its own would leave most of it idle. A warp
// then has 16 queries of one of them, and only its keys.
//
// attention_f16_dD           D in {32, 64}, features of a head. qkv [tokens, 3 * heads * D]: the queries of all heads,
//   then keys, then values -> context [tokens, heads * D]. Grid: heads * tiles. A tile is an int4; they may come in any
//   order, of which the long sequences' first balances best:
//   - a sequence of n > 64 tokens takes ceil(n / 64) tiles {its first row, n, first query, queries}: the first query,
//     counted within the sequence, is a multiple of 64, and there are at most 64 queries;
//   - shorter ones share tiles, as many consecutive ones as fit in four blocks of 16 rows, each in blocks of its own:
//     {~first row, tokens, rows, before}, where byte b (from the lowest) is about block b: the tokens of its sequence
//     (0: unused), its own first row counted from the tile's, and the blocks of the same sequence before it;
//   - a tile of zeros does nothing.
//   Moves 4 elements per output; 4 * tokens * heads * D operations for each token of a sequence. Bound by memory below
//   about 200 tokens, then by exponentials and latency. Where the target isn't sm_90a, long sequences take mma.sync in
//   place of wgmma.
// attention_f16_dD_causal    The same, but a query sees no key after it: a tile goes no further than its own queries.

#include "attention.cuh"

namespace galley {
namespace {

// What a tile says of one of its four blocks of 16 rows, where it holds sequences of at most 64 tokens.
struct Block {
    // Tokens of the sequence; 0 where there is none.
    int tokens;
    // The block's first row, counted from the tile's first.
    int row;
    // Blocks of the same sequence before this one.
    int before;

    __device__ __forceinline__ Block(int4 tile, int index)
        : tokens(tile.y >> 8 * index & 255), row(tile.z >> 8 * index & 255), before(tile.w >> 8 * index & 255) {}
    __device__ __forceinline__ int rows() const { return min(tokens - before * ROWS_OF_WARP, ROWS_OF_WARP); }
};

template <int DIM, bool CAUSAL>
__device__ __forceinline__ void attend_short(SharedTiles<DIM> &shared, const __half *qkv, int4 tile, __half *context,
                                             int width) {
    const int stride = 3 * width, first_row = ~tile.x;
    const uint32_t query_rows = shared_address(shared.queries), key_rows = shared_address(shared.keys[0]);
    const uint32_t value_rows = shared_address(shared.values[0]);
    const __half *from = qkv + size_t(first_row) * stride;
    const Chunk<DIM> chunk;
#pragma unroll
    for (int pass = 0; pass < chunk.PASSES; pass++) {
        const int row = chunk.row + pass * chunk.PASS;
        const Block block(tile, row / ROWS_OF_WARP);
        if (block.tokens == 0) continue;
        const int of_block = row % ROWS_OF_WARP;
        const bool valid = of_block < block.rows();
        const __half *source = from + (valid ? (block.row + of_block) * stride : 0) + chunk.column;
        const uint32_t offset = chunk.offset() + pass * chunk.PASS_BYTES;
        copy_async(query_rows + offset, source, valid);
        copy_async(key_rows + offset, source + width, valid);
        copy_async(value_rows + offset, source + 2 * width, valid);
    }
    commit_copies();
    await_copies<0>();
    __syncthreads();

    const int warp = warp_index();
    const Block block(tile, warp);
    if (block.tokens == 0) return;
    Queries<DIM> queries;
    queries.load(query_rows);
    const uint32_t sequence = (warp - block.before) * ROWS_OF_WARP * DIM * 2;
    const uint32_t keys = key_rows + sequence, values = value_rows + sequence;
    const int first = block.before * ROWS_OF_WARP;
    switch (CAUSAL ? block.before + 1 : (block.tokens + 15) / 16) {
    case 1: attend_all<DIM, CAUSAL, 1>(queries, keys, values, block.tokens, first); break;
    case 2: attend_all<DIM, CAUSAL, 2>(queries, keys, values, block.tokens, first); break;
    case 3: attend_all<DIM, CAUSAL, 3>(queries, keys, values, block.tokens, first); break;
    default: attend_all<DIM, CAUSAL, 4>(queries, keys, values, block.tokens, first);
    }
    queries.store(shared.queries, block.rows(), context + size_t(first_row + block.row) * width, width);
}

// Copies this thread's chunks of `rows` rows to a tile, and zeros up to the next multiple of 16 rows.
template <int DIM>
__device__ __forceinline__ void load_tile(uint32_t to, const __half *from, int stride, int rows, Chunk<DIM> chunk) {
#pragma unroll
    for (int pass = 0; pass < chunk.PASSES; pass++) {
        const int row = chunk.row + pass * chunk.PASS;
        if (row < (rows + 15) / 16 * 16) copy_async(to + pass * chunk.PASS_BYTES, from, row < rows);
        from += chunk.PASS * stride;
    }
}

template <int DIM, bool CAUSAL>
__device__ __forceinline__ void attend_long(SharedTiles<DIM> &shared, const __half *qkv, int4 tile, __half *context,
                                            int width) {
    const int first_row = tile.x, first_query = tile.z, query_count = tile.w;
    const int tokens = CAUSAL ? first_query + query_count : tile.y;
    constexpr Seen LAST = CAUSAL ? EARLIER : PRESENT;
    const int stride = 3 * width;
    const Chunk<DIM> chunk;
    const __half *from = qkv + size_t(first_row + chunk.row) * stride + chunk.column;
    const int parts = (tokens + TILE - 1) / TILE;
    const auto load_part = [&](int part) {
        const __half *keys = from + size_t(part * TILE) * stride + width;
        const int rows = min(tokens - part * TILE, TILE);
        load_tile<DIM>(shared_address(shared.keys[part % STAGES]) + chunk.offset(), keys, stride, rows, chunk);
        load_tile<DIM>(shared_address(shared.values[part % STAGES]) + chunk.offset(), keys + width, stride, rows,
                       chunk);
        commit_copies();
    };
    load_tile<DIM>(shared_address(shared.queries) + chunk.offset(), from + size_t(first_query) * stride, stride,
                   query_count, chunk);
    load_part(0);
    Queries<DIM> queries;
    for (int part = 0; part < parts; part++) {
        await_copies<0>();
        publish_copies();
        // This part is there, and nobody reads the one before it any more.
        __syncthreads();
        if (part == 0) queries.load(shared_address(shared.queries));
        const uint32_t keys = shared_address(shared.keys[part % STAGES]);
        const uint32_t values = shared_address(shared.values[part % STAGES]);
        if (part + 1 < parts) {
            load_part(part + 1);
            attend_part<DIM, 4, ALL>(queries, keys, values, TILE);
            continue;
        }
        const int rest = tokens - part * TILE;
        switch ((rest + 15) / 16) {
        case 1: attend_part<DIM, 1, LAST>(queries, keys, values, rest); break;
        case 2: attend_part<DIM, 2, LAST>(queries, keys, values, rest); break;
        case 3: attend_part<DIM, 3, LAST>(queries, keys, values, rest); break;
        default: attend_part<DIM, 4, LAST>(queries, keys, values, rest);
        }
    }
    const int first = warp_index() * ROWS_OF_WARP;
    __half *to = context + size_t(first_row + first_query + first) * width;
    queries.store(shared.queries, query_count - first, to, width);
}

template <int DIM, bool CAUSAL>
__device__ __forceinline__ void attention(const __half *qkv, const int4 *tiles, __half *context, int heads) {
    __shared__ SharedTiles<DIM> shared;
    const int head = blockIdx.x % heads, width = heads * DIM;
    const int4 tile = tiles[blockIdx.x / heads];
    if (tile.y == 0) return;
    qkv += head * DIM;
    context += head * DIM;
    if (tile.x < 0)
        attend_short<DIM, CAUSAL>(shared, qkv, tile, context, width);
    else
        attend_long<DIM, CAUSAL>(shared, qkv, tile, context, width);
}

}  // namespace
}  // namespace galley

#define ATTENTION_KERNEL(NAME, DIM, CAUSAL, BLOCKS_OF_SM)                                                             \
    extern "C" __global__ void __launch_bounds__(galley::THREADS, BLOCKS_OF_SM)                                       \
        attention_f16_##NAME(const __half *qkv, const int4 *tiles, __half *context, int heads) {                      \
        galley::take_turn();                                                                                          \
        galley::attention<DIM, CAUSAL>(qkv, tiles, context, heads);                                                   \
    }

ATTENTION_KERNEL(d64, 64, false, 4)
ATTENTION_KERNEL(d32, 32, false, 5)
ATTENTION_KERNEL(d64_causal, 64, true, 4)
ATTENTION_KERNEL(d32_causal, 32, true, 5)
