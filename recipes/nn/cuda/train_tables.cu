// Rows of tables for tokens, their gradients, and softmax cross-entropy.
//
// T is `f16` or `f32`; arithmetic is f32, and all sums are in a fixed order. Ids and labels are i32, and in their table. `by` says
// which row a token has. 0: that of its id; 1: that of its place in its sequence of `each` tokens; 2: the first one. Block 256.
//
// `lookup_T(table, ids, y, tokens, each, features, by, length)`
//     y [tokens, features] from table [rows, features], both T; vectors of `length` values, which divides the features. A
//     thread has two of 16 bytes or four smaller ones: grid ceil(vectors / 512), or / 1024. ids are null unless `by` is 0.
//
// The gradient of a table, f32 [rows, features], from dy [tokens, features]. Tokens are put into the order of their rows; that of
// an id is the number of tokens before it in that order, so that it takes no more than to count, and is always the same. Sums are
// of 64 at once. Where `by` is not 0 the order is known, the first two kernels are not launched, and what these make is null.
//
// `order_T(ids, order, sorted, tokens)`
//     order: of each place the token; sorted: its id. Eight threads a token: grid ceil(tokens / 32). Bound by comparing all with all:
//     about 45 us for 16384 tokens.
//
// `starts_T(sorted, starts, tokens, rows)`
//     starts i32 [rows + 1]: of each row the place of its first token, if it has any. A thread each: grid ceil((rows + 1) / 256).
//
// `parts_T(dy, sorted, order, starts, parts, tokens, each, features, by, padding, length)`
//     parts f32 [ceil(tokens / 64), 2, features]: of 64 places the sums of those that are of a row of more than 64, of which there
//     can be two, the row of the first place and that of the last. A thread a vector of at most four values: grid
//     ceil(ceil(tokens / 64) * vectors / 256). No gradient is for the row `padding`; -1 is none.
//
// `table_T(dy, order, starts, parts, dtable, tokens, each, features, by, padding, rows, length)`
//     Writes dtable: grid ceil(rows * vectors / 256).
//
// `cross_entropy_T(logits, labels, losses, gradient, classes, share, adds, state)`
//     losses f32 [batch], and gradient = (softmax - 1 where the label is) * share * state->scale, unless that is null. A block a
//     row: grid batch. A row is read twice, or thrice with a gradient, from the cache.
//
// `loss_T(losses, loss, batch, share)`
//     loss f32 [1], the sum of `share` times each: one block.
#include "train_state.cuh"
#include "train_vectors.cuh"

namespace galley {

enum By { ID, PLACE, FIRST };

template <typename T, int N>
__device__ __forceinline__ void lookup(const T* table, const int* ids, T* y, int tokens, int each, int features, int by) {
    Vector<T, N> values[Rows<T, N>::EACH];
    Rows<T, N>::run(
        tokens, features / N,
        [&](int i, size_t token, int feature) {
            const int row = by == ID ? ids[token] : by == PLACE ? static_cast<int>(token) % each : 0;
            values[i] = Vector<T, N>::load(table + static_cast<size_t>(row) * features + feature);
        },
        [&](int i, size_t token, int feature) { values[i].store(y + token * features + feature); });
}

constexpr int SHARES = 8;          // threads of a token
constexpr int TILE = 2048;         // ids in shared memory
constexpr int NOBODYS = INT32_MAX;  // no id

__device__ __forceinline__ void order_all(const int* ids, int* order, int* sorted, int tokens) {
    __shared__ int4 tile[TILE / 4];
    const int first = blockIdx.x * (BLOCK / SHARES), token = first + threadIdx.x / SHARES;
    const int id = token < tokens ? ids[token] : 0;
    int before = 0;
    for (int start = 0; start < tokens; start += TILE) {
        __syncthreads();
        for (int i = threadIdx.x; i < TILE; i += BLOCK)
            reinterpret_cast<int*>(tile)[i] = start + i < tokens ? ids[start + i] : NOBODYS;
        __syncthreads();
        // A token comes before those of its id that are behind it.
        const bool mixed = start <= first && first < start + TILE;
        const int limit = id + (start + TILE <= first);
        if (mixed) {
            for (int i = threadIdx.x % SHARES; i < TILE; i += SHARES) {
                const int other = reinterpret_cast<const int*>(tile)[i];
                before += other < id || other == id && start + i < token;
            }
        } else {
#pragma unroll 8
            for (int i = threadIdx.x % SHARES; i < TILE / 4; i += SHARES) {
                const int4 others = tile[i];
                before += (others.x < limit) + (others.y < limit) + (others.z < limit) + (others.w < limit);
            }
        }
    }
#pragma unroll
    for (int lane = SHARES / 2; lane > 0; lane /= 2) before += __shfl_xor_sync(0xffffffffu, before, lane);
    if (token < tokens && threadIdx.x % SHARES == 0) order[before] = token, sorted[before] = id;
}

__device__ __forceinline__ void find_starts(const int* sorted, int* starts, int tokens, int rows) {
    const int row = blockIdx.x * BLOCK + threadIdx.x;
    if (row > rows) return;
    int low = 0, high = tokens;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (sorted[middle] < row) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    starts[row] = low;
}

constexpr int AT_ONCE = 64;

// Tokens in the order of their rows.
struct Tokens {
    const int *order, *starts;
    int count, each, by;

    // Where a row's tokens begin; also where those before it end.
    __device__ __forceinline__ int start(int row) const {
        if (by == ID) return starts[row];
        return by == PLACE ? min(row, each) * (count / each) : row > 0 ? count : 0;
    }
    __device__ __forceinline__ size_t at(int place, int row) const {
        if (by == ID) return order[place];
        return by == PLACE ? static_cast<size_t>(place - row * (count / each)) * each + row : place;
    }
    __device__ __forceinline__ int row(int place, const int* sorted) const {
        if (by == ID) return sorted[place];
        return by == PLACE ? place / (count / each) : 0;
    }
};

template <typename T, int N>
__device__ __forceinline__ Vector<float, N> sum_of(const T* dy, Tokens tokens, int row, int from, int to, int features) {
    Vector<float, N> sum = {};
#pragma unroll 8
    for (int place = from; place < to; place++) {
        const auto value = Vector<T, N>::load(dy + tokens.at(place, row) * features);
#pragma unroll
        for (int i = 0; i < N; i++) sum.values[i] += value.values[i];
    }
    return sum;
}

template <typename T, int N>
__device__ __forceinline__ void parts_of(const T* dy, const int* sorted, Tokens tokens, float* parts, int features,
                                         int padding) {
    size_t part;
    unsigned vector;
    divide(static_cast<size_t>(blockIdx.x) * BLOCK + threadIdx.x, features / N, part, vector);
    if (part * AT_ONCE >= tokens.count) return;
    const int from = part * AT_ONCE, to = min(from + AT_ONCE, tokens.count), feature = vector * N;
    const int rows[2] = {tokens.row(from, sorted), tokens.row(to - 1, sorted)};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int start = tokens.start(rows[i]), end = tokens.start(rows[i] + 1);
        if (i == 1 && rows[0] == rows[1] || end - start <= AT_ONCE || rows[i] == padding) continue;
        const auto sum = sum_of<T, N>(dy + feature, tokens, rows[i], max(from, start), min(to, end), features);
        sum.store(parts + (part * 2 + i) * features + feature);
    }
}

template <typename T, int N>
__device__ __forceinline__ void table_all(const T* dy, Tokens tokens, const float* parts, float* dtable, int features,
                                          int padding, int rows) {
    size_t number;
    unsigned vector;
    divide(static_cast<size_t>(blockIdx.x) * BLOCK + threadIdx.x, features / N, number, vector);
    if (number >= rows) return;
    const int row = number, feature = vector * N;
    const int start = tokens.start(row), end = tokens.start(row + 1);
    Vector<float, N> sum = {};
    if (row != padding && end - start <= AT_ONCE) {
        sum = sum_of<T, N>(dy + feature, tokens, row, start, end, features);
    } else if (row != padding) {
#pragma unroll 8
        for (int part = start / AT_ONCE; part <= (end - 1) / AT_ONCE; part++) {
            // Whether the part begins with another row.
            const int second = part * AT_ONCE < start;
            sum.add(Vector<float, N>::load(parts + (static_cast<size_t>(part) * 2 + second) * features + feature));
        }
    }
    sum.store(dtable + number * features + feature);
}

// Of a block, which all its threads learn.
template <typename F> __device__ __forceinline__ float of_block(float value, float* shared, F join) {
#pragma unroll
    for (int lane = WARP / 2; lane > 0; lane /= 2) value = join(value, __shfl_xor_sync(0xffffffffu, value, lane));
    __syncthreads();
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = value;
    __syncthreads();
    value = shared[0];
#pragma unroll
    for (int i = 1; i < BLOCK / WARP; i++) value = join(value, shared[i]);
    return value;
}

template <typename T>
__device__ void cross_entropy(const T* logits, const int* labels, float* losses, T* gradient, int classes, float share,
                              bool adds, const State* state) {
    __shared__ float shared[BLOCK / WARP];
    const size_t row = static_cast<size_t>(blockIdx.x) * classes;
    const int label = labels[blockIdx.x];
    logits += row;
    float most = -INFINITY;
#pragma unroll 8
    for (int i = threadIdx.x; i < classes; i += BLOCK) most = fmaxf(most, to_float(logits[i]));
    most = of_block(most, shared, [](float a, float b) { return fmaxf(a, b); });
    float sum = 0.0f;
#pragma unroll 8
    for (int i = threadIdx.x; i < classes; i += BLOCK) sum += expf(to_float(logits[i]) - most);
    sum = of_block(sum, shared, [](float a, float b) { return a + b; });
    if (threadIdx.x == 0) {
        // As large as logits may be, little is left of a loss.
        const double loss = log(static_cast<double>(sum)) + most - to_float(logits[label]);
        losses[blockIdx.x] = static_cast<float>(loss);
    }
    if (!gradient) return;
    gradient += row;
    share *= state->scale;
    const float one = 1.0f / sum;
#pragma unroll 8
    for (int i = threadIdx.x; i < classes; i += BLOCK) {
        const float is = expf(to_float(logits[i]) - most) * one;
        const Vector<T, 1> value = {(is - (i == label ? 1.0f : 0.0f)) * share};
        value.put(gradient + i, adds);
    }
}

__device__ __forceinline__ void add_losses(const float* losses, float* loss, int batch, float share) {
    __shared__ double sums[BLOCK];
    double sum = 0.0;
    for (int i = threadIdx.x; i < batch; i += BLOCK) sum += losses[i];
    sums[threadIdx.x] = sum;
    for (int half = BLOCK / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) *loss = static_cast<float>(sums[0] * share);
}

// Of at most four values.
template <typename F> __device__ __forceinline__ void by_few(int length, F f) { by_length<float>(length, f); }

}  // namespace galley

using namespace galley;

#define GALLEY_KERNEL extern "C" __global__ void __launch_bounds__(BLOCK)

#define GALLEY_TABLES(name, T)                                                                                         \
    GALLEY_KERNEL lookup_##name(const T* table, const int* ids, T* y, int tokens, int each, int features, int by,      \
                                int length) {                                                                          \
        take_turn();                                                                                                   \
        by_length<T>(length, [=](auto of) {                                                                            \
            lookup<T, decltype(of)::VALUE>(table, ids, y, tokens, each, features, by);                                 \
        });                                                                                                            \
    }                                                                                                                  \
    GALLEY_KERNEL order_##name(const int* ids, int* order, int* sorted, int tokens) {                                  \
        take_turn();                                                                                                   \
        order_all(ids, order, sorted, tokens);                                                                         \
    }                                                                                                                  \
    GALLEY_KERNEL starts_##name(const int* sorted, int* starts, int tokens, int rows) {                                \
        take_turn();                                                                                                   \
        find_starts(sorted, starts, tokens, rows);                                                                     \
    }                                                                                                                  \
    GALLEY_KERNEL parts_##name(const T* dy, const int* sorted, const int* order, const int* starts, float* parts,      \
                               int tokens, int each, int features, int by, int padding, int length) {                  \
        take_turn();                                                                                                   \
        const Tokens all = {order, starts, tokens, each, by};                                                          \
        by_few(length, [=](auto of) {                                                                                  \
            parts_of<T, decltype(of)::VALUE>(dy, sorted, all, parts, features, padding);                               \
        });                                                                                                            \
    }                                                                                                                  \
    GALLEY_KERNEL table_##name(const T* dy, const int* order, const int* starts, const float* parts, float* dtable,    \
                               int tokens, int each, int features, int by, int padding, int rows, int length) {        \
        take_turn();                                                                                                   \
        const Tokens all = {order, starts, tokens, each, by};                                                          \
        by_few(length, [=](auto of) {                                                                                  \
            table_all<T, decltype(of)::VALUE>(dy, all, parts, dtable, features, padding, rows);                        \
        });                                                                                                            \
    }                                                                                                                  \
    GALLEY_KERNEL cross_entropy_##name(const T* logits, const int* labels, float* losses, T* gradient, int classes,    \
                                       float share, int adds, const State* state) {                                    \
        take_turn();                                                                                                   \
        cross_entropy(logits, labels, losses, gradient, classes, share, adds, state);                                  \
    }                                                                                                                  \
    GALLEY_KERNEL loss_##name(const float* losses, float* loss, int batch, float share) {                              \
        take_turn();                                                                                                   \
        add_losses(losses, loss, batch, share);                                                                        \
    }

GALLEY_TABLES(f16, __half)
GALLEY_TABLES(f32, float)
