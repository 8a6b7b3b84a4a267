// Attention in training by ordinary arithmetic, there and back: any head of 1 to 128 features, in f16 or f32, with sums in f32.
// What it computes, and what of it memory holds, is as in `train_attention.cu` and `train_attention_back.cu`.
//
// T below is f16 or f32, and N in {32, 64, 128} the least of at least `dim`. `state` is null where there is no dropout.
//
// attention_forward_plain_dN_T   qkv -> out, log_sums; state, seed_low, seed_high, layer, threshold, factor, batch, tokens,
//   heads, dim, causal. Shared: 3 tiles and the weights.
// attention_queries_plain_dN_T   qkv, out, log_sums, dout -> dots f32 [heads, batch * tokens], nothing, the queries of dqkv;
//   state ... causal, add. Shared: 4 tiles and the weights. First.
// attention_keys_plain_dN_T      qkv, log_sums, dout, dots, nothing -> the keys and values of dqkv; state ... causal, add.
//   Shared: as before.
//   Grid: batch * heads * ceil(tokens / 64), 256 threads. A tile takes 64 * (N + 4) numbers of 4 bytes, weights as one of N = 64.
//   Any alignment. Bound by arithmetic and shared memory: in f32 24 TFLOP/s there and 19 back on an H200, of 67.

#include "train_attention.cuh"

namespace galley {
namespace {

constexpr int SIDE = 16;  // threads along a tile's rows and columns
constexpr int PLAIN_THREADS = SIDE * SIDE;
constexpr int EACH = TILE / SIDE;  // rows of a thread: every 16th

// Padded, so that the same 16 bytes of 8 rows lie in different banks.
template <int DIM> using Row = float[DIM + 4];
using Products = float[EACH][EACH];
template <int DIM> using Columns = float[EACH][DIM / SIDE];

__device__ __forceinline__ int down() { return threadIdx.x / SIDE; }
__device__ __forceinline__ int across() { return threadIdx.x % SIDE; }
__device__ __forceinline__ float4 quad(const float* at) { return *reinterpret_cast<const float4*>(at); }

// A tile behind so many others in shared memory.
template <int DIM> __device__ __forceinline__ Row<DIM>* tile(int index) {
    extern __shared__ __align__(16) float memory[];
    return reinterpret_cast<Row<DIM>*>(memory) + index * TILE;
}
template <int DIM> __device__ __forceinline__ Row<TILE>* weights_behind(int tiles) {
    return reinterpret_cast<Row<TILE>*>(tile<DIM>(tiles));
}

// Rows of a head, with zeros behind the last one and behind their last value.
template <int DIM, typename T>
__device__ __forceinline__ void load_rows(Row<DIM>* to, const T* from, size_t stride, int rows, int columns) {
#pragma unroll 8
    for (int i = threadIdx.x; i < TILE * DIM; i += PLAIN_THREADS) {
        const int row = i / DIM, column = i % DIM;
        to[row][column] = row < rows && column < columns ? to_float(from[row * stride + column]) : 0.0f;
    }
}

// Products of a thread's rows of two tiles.
template <int DIM> __device__ __forceinline__ void multiply(Products& products, const Row<DIM>* left, const Row<DIM>* right) {
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int j = 0; j < EACH; j++) products[i][j] = 0.0f;
#pragma unroll 4
    for (int k = 0; k < DIM; k += 4) {
        float4 x[EACH], y[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            x[i] = quad(left[down() + SIDE * i] + k);
            y[i] = quad(right[across() + SIDE * i] + k);
        }
#pragma unroll
        for (int i = 0; i < EACH; i++)
#pragma unroll
            for (int j = 0; j < EACH; j++) {
                float sum = products[i][j];
                sum = fmaf(x[i].x, y[j].x, sum), sum = fmaf(x[i].y, y[j].y, sum);
                products[i][j] = fmaf(x[i].w, y[j].w, fmaf(x[i].z, y[j].z, sum));
            }
    }
}

// Which column of a row a thread's c-th is: as many as it reads at once, then those of the others.
template <int DIM> constexpr int AT_ONCE = DIM / SIDE < 4 ? DIM / SIDE : 4;
template <int DIM> __device__ __forceinline__ int column(int c) {
    return (c / AT_ONCE<DIM> * SIDE + across()) * AT_ONCE<DIM> + c % AT_ONCE<DIM>;
}

// sums += weights rows. The weights of a row are those of half a warp, which has put them there.
template <int DIM>
__device__ __forceinline__ void add_weighed(Columns<DIM>& sums, const Products& weights, Row<TILE>* shared,
                                            const Row<DIM>* rows) {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int j = 0; j < EACH; j++) shared[down() + SIDE * i][across() + SIDE * j] = weights[i][j];
    __syncwarp();
#pragma unroll 2
    for (int k = 0; k < TILE; k += 4) {
        float4 x[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++) x[i] = quad(shared[down() + SIDE * i] + k);
#pragma unroll
        for (int next = 0; next < 4; next++) {
            float y[DIM / SIDE];
#pragma unroll
            for (int c = 0; c < DIM / SIDE; c += AT_ONCE<DIM>) {
                const float* from = rows[k + next] + column<DIM>(c);
                if constexpr (AT_ONCE<DIM> == 2) {
                    const float2 two = load_pair(from);
                    y[c] = two.x, y[c + 1] = two.y;
                } else {
                    const float4 four = quad(from);
                    y[c] = four.x, y[c + 1] = four.y, y[c + 2] = four.z, y[c + 3] = four.w;
                }
            }
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                const float weight = next == 0 ? x[i].x : next == 1 ? x[i].y : next == 2 ? x[i].z : x[i].w;
#pragma unroll
                for (int c = 0; c < DIM / SIDE; c++) sums[i][c] = fmaf(weight, y[c], sums[i][c]);
            }
        }
    }
}

// Writes or adds the first `rows` rows and `columns` columns.
template <int DIM, typename T>
__device__ __forceinline__ void store_rows(const Columns<DIM>& sums, const float (&factors)[EACH], T* to, size_t stride, int rows,
                                           int columns, bool add) {
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int c = 0; c < DIM / SIDE; c++) {
            const int row = down() + SIDE * i;
            if (row >= rows || column<DIM>(c) >= columns) continue;
            T& at = to[row * stride + column<DIM>(c)];
            at = from_float<T>(sums[i][c] * factors[i] + (add ? to_float(at) : 0.0f));
        }
}

// The sum, or the largest, of the half warp that has the same rows.
__device__ __forceinline__ float row_sum(float x) {
#pragma unroll
    for (int lane = SIDE / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}
__device__ __forceinline__ float row_max(float x) {
#pragma unroll
    for (int lane = SIDE / 2; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

// What dropout multiplies four weights by: those of a query and of keys `place`, `place + 16` ... of a group.
struct Factors {
    const State* state;
    Dropout dropout;

    __device__ __forceinline__ void of(float (&factors)[EACH], uint64_t group, int place) const {
        const uint4 words = dropout.numbers(state).block(group * 16 + place);
        factors[0] = dropout.of(words.x), factors[1] = dropout.of(words.y);
        factors[2] = dropout.of(words.z), factors[3] = dropout.of(words.w);
    }
};

template <int DIM, typename T>
__device__ __forceinline__ void attend(const T* qkv, T* out, float* log_sums, const Factors& dropped, const Sequences& of) {
    Row<DIM>*queries = tile<DIM>(0), *keys = tile<DIM>(1), *values = tile<DIM>(2);
    Block block(of);
    block.tile = of.tiles() - 1 - block.tile;  // those first that see most
    take_turn();

    const int width = of.width(), first = block.first(), tokens = of.causal ? min(of.tokens, first + TILE) : of.tokens;
    const size_t stride = 3 * width;
    const float scale = of.scale();
    qkv += block.start(of, 3);
    load_rows<DIM>(queries, qkv + first * stride, stride, of.tokens - first, of.dim);
    float largest[EACH], sum[EACH] = {};
#pragma unroll
    for (int i = 0; i < EACH; i++) largest[i] = -CUDART_INF_F;
    Columns<DIM> sums = {};
    for (int part = 0; part < tokens; part += TILE) {
        const T* from = qkv + part * stride + width;
        __syncthreads();
        load_rows<DIM>(keys, from, stride, tokens - part, of.dim);
        load_rows<DIM>(values, from + width, stride, tokens - part, of.dim);
        __syncthreads();
        Products weights;
        multiply<DIM>(weights, queries, keys);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int query = first + down() + SIDE * i, seen = of.causal ? min(query + 1, tokens) : tokens;
            float most = largest[i];
#pragma unroll
            for (int j = 0; j < EACH; j++) {
                weights[i][j] = part + across() + SIDE * j < seen ? weights[i][j] * scale : -CUDART_INF_F;
                most = fmaxf(most, weights[i][j]);
            }
            most = row_max(most);
            const float correction = expf(largest[i] - most);
            largest[i] = most, sum[i] *= correction;
#pragma unroll
            for (int c = 0; c < DIM / SIDE; c++) sums[i][c] *= correction;
#pragma unroll
            for (int j = 0; j < EACH; j++) sum[i] += weights[i][j] = expf(weights[i][j] - most);
            if (dropped.state != nullptr) {
                float factors[EACH];
                dropped.of(factors, block.group(of, query) + part / TILE, across());
#pragma unroll
                for (int j = 0; j < EACH; j++) weights[i][j] *= factors[j];
            }
        }
        add_weighed<DIM>(sums, weights, weights_behind<DIM>(3), values);
    }
    float factors[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int query = first + down() + SIDE * i;
        const float total = row_sum(sum[i]);
        factors[i] = 1.0f / total;
        if (across() == 0 && query < of.tokens) log_sums[block.token(of) + query] = largest[i] + logf(total);
    }
    out += block.start(of, 1) + static_cast<size_t>(first) * width;
    store_rows<DIM>(sums, factors, out, width, of.tokens - first, of.dim, false);
}

template <typename T> struct Pass {
    const T *qkv, *dout;
    const float* log_sums;
    float* dots;
    T* dqkv;
    Factors dropped;
    Sequences of;
    bool add;
};

template <int DIM, typename T> __device__ __forceinline__ void queries(const Pass<T>& pass, const T* out) {
    Row<DIM>*queries = tile<DIM>(0), *douts = tile<DIM>(1), *keys = tile<DIM>(2), *values = tile<DIM>(3);
    const Sequences& of = pass.of;
    Block block(of);
    block.tile = of.tiles() - 1 - block.tile;  // those first that see most
    take_turn();

    const int width = of.width(), first = block.first(), tokens = of.causal ? min(of.tokens, first + TILE) : of.tokens;
    const size_t stride = 3 * width, start = block.start(of, 1) + static_cast<size_t>(first) * width;
    const float scale = of.scale();
    const T* qkv = pass.qkv + block.start(of, 3);
    load_rows<DIM>(queries, qkv + first * stride, stride, of.tokens - first, of.dim);
    load_rows<DIM>(douts, pass.dout + start, width, of.tokens - first, of.dim);
    __syncthreads();
    float log_sums[EACH], dots[EACH], scales[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int row = down() + SIDE * i, query = first + row;
        const bool there = query < of.tokens;
        const size_t at = block.token(of) + query;
        log_sums[i] = there ? pass.log_sums[at] : 0.0f;
        float dot = 0.0f;
        if (there) {
            for (int c = across(); c < of.dim; c += SIDE)
                dot = fmaf(to_float(out[start + row * size_t(width) + c]), douts[row][c], dot);
        }
        dots[i] = row_sum(dot), scales[i] = scale;
        if (there && across() == 0) pass.dots[at] = dots[i];
    }
    Columns<DIM> sums = {};
    for (int part = 0; part < tokens; part += TILE) {
        const T* from = qkv + part * stride + width;
        __syncthreads();
        load_rows<DIM>(keys, from, stride, tokens - part, of.dim);
        load_rows<DIM>(values, from + width, stride, tokens - part, of.dim);
        __syncthreads();
        Products weights, slopes;
        multiply<DIM>(weights, queries, keys);
        multiply<DIM>(slopes, douts, values);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int query = first + down() + SIDE * i, seen = of.causal ? min(query + 1, tokens) : tokens;
            float factors[EACH] = {1.0f, 1.0f, 1.0f, 1.0f};
            if (pass.dropped.state != nullptr) pass.dropped.of(factors, block.group(of, query) + part / TILE, across());
#pragma unroll
            for (int j = 0; j < EACH; j++) {
                const float weight = expf(weights[i][j] * scale - log_sums[i]), slope = factors[j] * slopes[i][j] - dots[i];
                slopes[i][j] = part + across() + SIDE * j < seen ? weight * slope : 0.0f;
            }
        }
        add_weighed<DIM>(sums, slopes, weights_behind<DIM>(4), keys);
    }
    store_rows<DIM>(sums, scales, pass.dqkv + block.start(of, 3) + first * stride, stride, of.tokens - first, of.dim, pass.add);
}

template <int DIM, typename T> __device__ __forceinline__ void keys(const Pass<T>& pass) {
    Row<DIM>*keys = tile<DIM>(0), *values = tile<DIM>(1), *queries = tile<DIM>(2), *douts = tile<DIM>(3);
    const Sequences& of = pass.of;
    const Block block(of);
    take_turn();

    const int width = of.width(), first = block.first(), rows = of.tokens - first;
    const size_t stride = 3 * width;
    const float scale = of.scale(), *all_log_sums = pass.log_sums + block.token(of), *all_dots = pass.dots + block.token(of);
    const T *qkv = pass.qkv + block.start(of, 3), *dout = pass.dout + block.start(of, 1);
    load_rows<DIM>(keys, qkv + first * stride + width, stride, rows, of.dim);
    load_rows<DIM>(values, qkv + first * stride + 2 * width, stride, rows, of.dim);
    Columns<DIM> key_sums = {}, value_sums = {};
    for (int part = of.causal ? first : 0; part < of.tokens; part += TILE) {
        __syncthreads();
        load_rows<DIM>(queries, qkv + part * stride, stride, of.tokens - part, of.dim);
        load_rows<DIM>(douts, dout + static_cast<size_t>(part) * width, width, of.tokens - part, of.dim);
        __syncthreads();
        Products weights, slopes;
        multiply<DIM>(weights, keys, queries);
        multiply<DIM>(slopes, values, douts);
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const int query = part + across() + SIDE * j;
            const bool there = query < of.tokens;
            const float log_sum = there ? all_log_sums[query] : 0.0f, dot = there ? all_dots[query] : 0.0f;
            float factors[EACH] = {1.0f, 1.0f, 1.0f, 1.0f};
            if (pass.dropped.state != nullptr) pass.dropped.of(factors, block.group(of, query) + block.tile, down());
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                const bool seen = there && (!of.causal || first + down() + SIDE * i <= query);
                const float weight = seen ? expf(weights[i][j] * scale - log_sum) : 0.0f;
                slopes[i][j] = weight * (factors[i] * slopes[i][j] - dot);
                weights[i][j] = weight * factors[i];
            }
        }
        add_weighed<DIM>(value_sums, weights, weights_behind<DIM>(4), douts);
        add_weighed<DIM>(key_sums, slopes, weights_behind<DIM>(4), queries);
    }
    const float scales[EACH] = {scale, scale, scale, scale}, ones[EACH] = {1.0f, 1.0f, 1.0f, 1.0f};
    T* to = pass.dqkv + block.start(of, 3) + first * stride + width;
    store_rows<DIM>(key_sums, scales, to, stride, rows, of.dim, pass.add);
    store_rows<DIM>(value_sums, ones, to + width, stride, rows, of.dim, pass.add);
}

}  // namespace
}  // namespace galley

#define DROPOUT                                                                                                       \
    const galley::State *state, unsigned seed_low, unsigned seed_high, unsigned layer, unsigned threshold, float factor
#define DROPPED {state, {seed_low, seed_high, layer, threshold, factor}}
#define SEQUENCES int batch, int tokens, int heads, int dim, int causal

#define KERNELS(DIM, NAME, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(galley::PLAIN_THREADS, 2)                                            \
        attention_forward_plain_d##DIM##_##NAME(const T* qkv, T* out, float* log_sums, DROPOUT, SEQUENCES) {          \
        galley::attend<DIM, T>(qkv, out, log_sums, DROPPED, {batch, tokens, heads, dim, causal});                     \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(galley::PLAIN_THREADS, DIM == 128 ? 1 : 2)                           \
        attention_queries_plain_d##DIM##_##NAME(const T* qkv, const T* out, const float* log_sums, const T* dout,     \
                                                float* dots, uint32_t*, T* dqkv, DROPOUT, SEQUENCES, int add) {       \
        galley::queries<DIM, T>({qkv, dout, log_sums, dots, dqkv, DROPPED, {batch, tokens, heads, dim, causal},       \
                                 add != 0},                                                                           \
                                out);                                                                                 \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(galley::PLAIN_THREADS, DIM == 128 ? 1 : 2)                           \
        attention_keys_plain_d##DIM##_##NAME(const T* qkv, const float* log_sums, const T* dout, float* dots,         \
                                             uint32_t*, T* dqkv, DROPOUT, SEQUENCES, int add) {                       \
        galley::keys<DIM, T>({qkv, dout, log_sums, dots, dqkv, DROPPED, {batch, tokens, heads, dim, causal},          \
                              add != 0});                                                                             \
    }

#define ELEMENTS(DIM) KERNELS(DIM, f16, __half) KERNELS(DIM, f32, float)

ELEMENTS(32)
ELEMENTS(64)
ELEMENTS(128)
