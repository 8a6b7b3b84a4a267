// A transformer (BERT, DistilBERT, GPT-2) on packed sequences, all but its matrix products: embeddings, the end of a block
// (residual, LayerNorm), self-attention, a row for each sequence, and the head over tokens.
//
// A batch's tokens lie end to end, [tokens, features], row-major; sequence s is the rows offsets[s]..offsets[s + 1]
// (int32, offsets[0] = 0). There is no padding. Storage is f16 or f32, as a kernel's name says; "T" below is either.
// Biases and LayerNorm's parameters are f32 always. All sums run in an order that depends on a sequence's own length
// alone, so that a sequence's result does not depend, to the bit, on its batch-mates.
//
// For captured graphs, which are launched with the sizes of their largest batch: offsets past a batch's own may repeat
// the last one (empty sequences), tiles past a batch's own are zeros, and rows past the last offset are computed from
// whatever is there and read by nobody (their ids must lie in the vocabulary, as any).
//
// All pointers are aligned to 16 bytes, and `hidden` is a multiple of 8 and at most 1792, unless said otherwise. Blocks
// are of 128 threads unless said otherwise; shared memory is static, below 48 KiB. "Moves" is the least traffic, which
// at an H100's 3.0 TB/s bounds all of these but attention over long sequences.
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
// attention_T                As above for heads of 1 to 128 features, causal or not, on CUDA cores; any alignment. Tiles are
//   of the first form only, whatever the length; the first query is a multiple of 32, and there is any number: 64, say.
//
// pick_tokens_T              [tokens, hidden] -> [sequences, hidden], row offsets[s], or with `last` the one before
//   offsets[s + 1]; zeros for an empty sequence. Any multiple of 8 as `hidden`. Grid: ceil(sequences / 4). Moves 2 elements
//   per output.
//
// mean_tokens_T              [tokens, hidden] -> [sequences, hidden], the mean of a sequence's rows; zeros for an empty one.
//   Any multiple of 8 as `hidden`. Grid: (sequences, ceil(hidden / 256)). Moves x.
//
// token_head_T               x [rows, hidden], weight [labels, hidden] (T), bias [labels], 1 to 64 labels, `hidden` at most
//   1024 -> logits f32 [rows, labels]. Block: 256. Grid: ceil(rows / 16). Moves x, at 2 * labels operations per element.

#include "common.cuh"

#include <math_constants.h>

namespace galley {
namespace {

constexpr int THREADS = 128;
constexpr int WARPS = THREADS / WARP;

// ---- Vectors of 8 elements, as they are loaded and stored. ----

__device__ __forceinline__ float4 quad(const float *at) { return *reinterpret_cast<const float4 *>(at); }

__device__ __forceinline__ float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }

template <typename T> struct Vector;

template <> struct Vector<__half> {
    uint4 bits;

    __device__ __forceinline__ static Vector load(const __half *from) {
        return {*reinterpret_cast<const uint4 *>(from)};
    }
    __device__ __forceinline__ void store(__half *to) const { *reinterpret_cast<uint4 *>(to) = bits; }
    __device__ __forceinline__ void add_to(float (&x)[8]) const {
        const __half2 *pairs = reinterpret_cast<const __half2 *>(&bits);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 pair = __half22float2(pairs[i]);
            x[2 * i] += pair.x;
            x[2 * i + 1] += pair.y;
        }
    }
    __device__ __forceinline__ static Vector of(const float (&x)[8]) {
        Vector vector;
        __half2 *pairs = reinterpret_cast<__half2 *>(&vector.bits);
#pragma unroll
        for (int i = 0; i < 4; i++) pairs[i] = __floats2half2_rn(x[2 * i], x[2 * i + 1]);
        return vector;
    }
};

template <> struct Vector<float> {
    float4 low, high;

    __device__ __forceinline__ static Vector load(const float *from) {
        return {quad(from), quad(from + 4)};
    }
    __device__ __forceinline__ void store(float *to) const {
        float4 *at = reinterpret_cast<float4 *>(to);
        at[0] = low;
        at[1] = high;
    }
    __device__ __forceinline__ void add_to(float (&x)[8]) const {
        x[0] += low.x, x[1] += low.y, x[2] += low.z, x[3] += low.w;
        x[4] += high.x, x[5] += high.y, x[6] += high.z, x[7] += high.w;
    }
    __device__ __forceinline__ static Vector of(const float (&x)[8]) {
        return {{x[0], x[1], x[2], x[3]}, {x[4], x[5], x[6], x[7]}};
    }
};

__device__ __forceinline__ int lane_index() { return threadIdx.x % WARP; }

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

__device__ __forceinline__ int row_of_warp() { return blockIdx.x * WARPS + threadIdx.x / WARP; }

// ---- Embeddings, and the end of a block: a warp for each row. ----

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

// ---- A row for each sequence. ----

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

// ---- Matrix fragments, m16n8k16: lane 4 g + t holds of A and D the rows g and g + 8, of B the column g. ----

constexpr int LANES_OF_ROW = 4;

__device__ __forceinline__ void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8x8 matrices from the rows that lanes 0-7, 8-15, 16-23 and 24-31 point at.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row));
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row));
}

__device__ __forceinline__ uint32_t pack(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&pair);
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ---- Attention on the matrix units. ----
//
// Queries, keys and values of a head go to shared memory; scores stay in registers, with the maximum and the sum of
// each query's. A sequence above 64 tokens has tiles of 64 queries to itself, past which its keys and values stream, 64
// at a time, while maximum and sum are kept up to date (Milakov and Gimelshein, "Online normalizer calculation for
// softmax"; Dao et al., "FlashAttention"). Shorter ones share a tile, each from a multiple of 16 rows on, as one with a
// tile of its own would leave most of it idle. A warp then has 16 queries of one of them, and only its keys.

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

__device__ __forceinline__ uint32_t address(const void *shared) { return __cvta_generic_to_shared(shared); }

// The same in all lanes, and known to be.
__device__ __forceinline__ int warp_index() { return __shfl_sync(0xffffffffu, threadIdx.x / WARP, 0); }

// 16 bytes to shared memory, or zeros.
__device__ __forceinline__ void copy_async(uint32_t to, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

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
                correction[half] = exp2_fast(largest[half] * SCALE - shift[half]);
                sum[half] *= correction[half];
            }
            largest[half] = most;
        }
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                scores[tile][i] = exp2_fast(scores[tile][i] * SCALE - shift[i / 2]);
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
                const uint32_t pair = pack(out[tile][2 * half] * scale, out[tile][2 * half + 1] * scale);
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
        a[i] = pack(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
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
    const uint32_t query_rows = address(shared.queries), key_rows = address(shared.keys[0]);
    const uint32_t value_rows = address(shared.values[0]);
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
    wait_for_copies();
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

__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void finish_products() {
    asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
}

// Lets the matrix units see what this thread's copies wrote to shared memory.
__device__ __forceinline__ void publish_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// The part of 16 * STEPS keys in the results of a tile's queries.
template <int DIM, int STEPS, Seen SEEN>
__device__ __forceinline__ void attend_part(Queries<DIM> &queries, uint32_t keys, uint32_t values, int count) {
    float all[TILE / 8][4];
    begin_products();
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
    begin_products();
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
        load_tile<DIM>(address(shared.keys[part % STAGES]) + chunk.offset(), keys, stride, rows, chunk);
        load_tile<DIM>(address(shared.values[part % STAGES]) + chunk.offset(), keys + width, stride, rows, chunk);
        commit_copies();
    };
    load_tile<DIM>(address(shared.queries) + chunk.offset(), from + size_t(first_query) * stride, stride, query_count,
                   chunk);
    load_part(0);
    Queries<DIM> queries;
    for (int part = 0; part < parts; part++) {
        wait_for_copies();
        publish_copies();
        // This part is there, and nobody reads the one before it any more.
        __syncthreads();
        if (part == 0) queries.load(address(shared.queries));
        const uint32_t keys = address(shared.keys[part % STAGES]), values = address(shared.values[part % STAGES]);
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

// ---- Attention for any head and storage: four queries for each warp, and a lane for each of 32 keys at a time. ----

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

// ---- The head over tokens: 16 rows for each block. ----

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

#define PLAIN_KERNELS(NAME, T)                                                                                        \
    extern "C" __global__ void __launch_bounds__(galley::THREADS)                                                     \
        attention_##NAME(const T *qkv, const int4 *tiles, T *context, int heads, int dim, int causal) {               \
        galley::take_turn();                                                                                          \
        galley::attention_plain<T>(qkv, tiles, context, heads, dim, causal);                                          \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(galley::THREADS)                                                     \
        pick_tokens_##NAME(const T *x, const int *offsets, T *out, int sequences, int hidden, int last) {             \
        galley::take_turn();                                                                                          \
        galley::pick_tokens<T>(x, offsets, out, sequences, hidden, last);                                             \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(galley::THREADS)                                                     \
        mean_tokens_##NAME(const T *x, const int *offsets, T *out, int hidden) {                                      \
        galley::take_turn();                                                                                          \
        galley::mean_tokens<T>(x, offsets, out, hidden);                                                              \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(galley::HEAD_THREADS, 4)                                             \
        token_head_##NAME(const T *x, const T *weight, const float *bias, float *logits, int rows, int hidden,        \
                          int labels) {                                                                               \
        galley::take_turn();                                                                                          \
        galley::token_head(x, weight, bias, logits, rows, hidden, labels);                                            \
    }

PLAIN_KERNELS(f16, __half)
PLAIN_KERNELS(f32, float)
