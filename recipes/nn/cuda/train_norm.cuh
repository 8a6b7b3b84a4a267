// BatchNorm's arithmetic: what a block has of the values, how its sums become factors, and what it does with these.
//
// See `train_norm.cu` for rows, width, lanes, slices and parts.
#pragma once

#include "train_vectors.cuh"

namespace galley {

constexpr int THREADS = 512;
constexpr int MOST_CHANNELS = 256;  // of a slice
// What a block has, and a thread of it.
template <int N> struct Part {
    // The block's threads add in so many turns, so that their sums take less room.
    static constexpr int ROUNDS = 4;
    // For sums of the slice's channels.
    static constexpr int ROOM = (THREADS + ROUNDS * 64) / ROUNDS * 2 * N;

    int channels, width;
    int lane, row, stride;  // the thread's vector, its first row of the part, and how far it is from row to row
    int begin, end;         // the part's rows
    int copies;             // how often a channel occurs in a row
    int first, count;       // the slice's channels
    int columns;            // its values of a row, and what fills its last vector
    bool works;             // whether the thread has any

    __device__ __forceinline__ Part(int rows, int channels, int width, int lanes, int per)
        : channels(channels), width(width) {
        lane = threadIdx.x % lanes, row = threadIdx.x / lanes, stride = THREADS / lanes;
        begin = min(static_cast<int>(blockIdx.x) * per, rows), end = min(begin + per, rows);
        copies = width / channels;
        columns = lanes * N;
        first = blockIdx.y * columns;
        count = min(columns, width - first) / copies;
        works = row < stride && lane * N < width - first;
    }

    // Where the thread's vector of a row is.
    __device__ __forceinline__ size_t at(int of) const { return static_cast<size_t>(of) * width + first + lane * N; }
    // Which of the slice's channels value `i` of the thread's vector is.
    __device__ __forceinline__ int channel(int i) const { return (lane * N + i) % count; }
    // Pixels of the part.
    __device__ __forceinline__ float pixels() const { return static_cast<float>(end - begin) * copies; }

    // Leaves the two sums of each of the slice's channels, over all threads, at the beginning of `shared`, [2, columns].
    __device__ __forceinline__ void add(float (&shared)[ROOM], const float (&one)[N], const float (&other)[N]) const {
        const int rows = (stride + ROUNDS - 1) / ROUNDS;
        float* to = shared + row % rows * 2 * columns + lane * N;
        for (int round = 0; round < ROUNDS; round++) {
            if (row < stride && row / rows == round) {
                add_to(to, one, round > 0);
                add_to(to + columns, other, round > 0);
            }
            __syncthreads();
        }
        add_rows(shared, rows, 2 * columns);
        for (int c = threadIdx.x; c < 2 * count; c += THREADS) {
            float* sums = shared + c / count * columns + c % count;
            for (int copy = 1; copy < copies; copy++) sums[0] += sums[copy * count];
        }
        __syncthreads();
    }

private:
    __device__ static __forceinline__ void add_to(float* to, const float (&values)[N], bool adds) {
        if constexpr (N == 1) {
            *to = adds ? *to + values[0] : values[0];
        } else {
#pragma unroll
            for (int i = 0; i < N; i += 4) {
                float4 sum = make_float4(values[i], values[i + 1], values[i + 2], values[i + 3]);
                float4* at = reinterpret_cast<float4*>(to + i);
                if (adds) {
                    const float4 before = *at;
                    sum.x += before.x, sum.y += before.y, sum.z += before.z, sum.w += before.w;
                }
                *at = sum;
            }
        }
    }
};

// A thread's way over its rows, from the first on or from the last: `EACH` at a time, of which it has all that it reads before it
// does anything with them, and of the next ones, too.
template <typename V, int EACH, bool BACK> struct Walk {
    V now[EACH];
    int turn = 0, turns;

    // Begins to read; `load` is called with what to fill, a row, and the row's number among the thread's.
    template <int N, typename L> __device__ __forceinline__ Walk(const Part<N>& part, L load) {
        const int rows = part.end - part.begin - part.row;
        turns = part.works && rows > 0 ? (rows - 1) / (EACH * part.stride) + 1 : 0;
        if (turns > 0) each(part, 0, [&](int u, int row, int number) { load(now[u], row, number); });
    }
    // Goes over all; `use` as `load`.
    template <int N, typename L, typename U> __device__ __forceinline__ void go(const Part<N>& part, L load, U use) {
        for (; turn < turns; turn++) {
            V next[EACH];
            if (turn + 1 < turns)
                each(part, turn + 1, [&](int u, int row, int number) { load(next[u], row, number); });
            each(part, turn, [&](int u, int row, int number) { use(now[u], row, number); });
#pragma unroll
            for (int u = 0; u < EACH; u++) now[u] = next[u];
        }
    }

private:
    template <int N, typename F> __device__ __forceinline__ void each(const Part<N>& part, int of, F f) const {
        const int number = (BACK ? turns - 1 - of : of) * EACH, row = part.begin + part.row + number * part.stride;
#pragma unroll
        for (int u = 0; u < EACH; u++)
            if (row + u * part.stride < part.end) f(u, row + u * part.stride, number + u);
    }
};

struct Forward {
    const float *scale, *shift;
    float *mean, *variance, *statistics;
    float momentum, eps, low, high;
};

// What is known of a channel before its sums.
struct Known {
    float scale = 0.0f, shift = 0.0f, mean = 0.0f, variance = 0.0f;

    // `writes` says whether the block moves the running ones on.
    __device__ __forceinline__ Known(const Forward& with, int channel, bool there, bool writes) {
        if (there) scale = with.scale[channel], shift = with.shift[channel];
        if (there && writes) mean = with.mean[channel], variance = with.variance[channel];
    }
};

// Of a channel, over parts: the mean and the squared distances from it, of means counted from one of them.
struct Moments {
    float from;
    float sum = 0.0f, squares = 0.0f, within = 0.0f;

    __device__ __forceinline__ void add(float pixels, float mean, float inside) {
        const float distance = mean - from;
        sum = fmaf(pixels, distance, sum);
        squares = fmaf(pixels * distance, distance, squares);
        within += inside;
    }
};

template <int COUNT> using Numbers = float[COUNT][MOST_CHANNELS];

// Of channel `c` of the slice: mean, factor and term; and what is kept, where the block is to write it.
template <int N>
__device__ __forceinline__ void settle(const Forward& with, const Known& known, const Part<N>& part, int c,
                                       const Moments& moments, float pixels, bool writes, Numbers<3>& numbers) {
    const int channel = part.first + c;
    const float distance = moments.sum / pixels, mean = moments.from + distance;
    float variance = (moments.within + (moments.squares - moments.sum * distance)) / pixels;
    // Rounding may leave less than nothing; not `fmaxf`, which hides what is no number.
    if (variance < 0.0f) variance = 0.0f;
    const float reciprocal = 1.0f / sqrtf(variance + with.eps);
    numbers[0][c] = mean;
    numbers[1][c] = known.scale * reciprocal;
    numbers[2][c] = known.shift;
    if (!writes) return;
    with.statistics[channel] = mean;
    with.statistics[part.channels + channel] = reciprocal;
    with.mean[channel] = known.mean + with.momentum * (mean - known.mean);
    const float unbiased = variance * (pixels / (pixels - 1.0f));
    with.variance[channel] = known.variance + with.momentum * (unbiased - known.variance);
}

// A vector of x, and what is added to what becomes of it.
template <typename T, int N> struct Value {
    Stored<T, N> x, residual;
};

// Writes y, on a walk that has begun.
template <typename W, typename T, int N, typename L>
__device__ __forceinline__ void put(W& walk, L load, const Forward& with, const Part<N>& part,
                                    const Numbers<3>& numbers, bool adds, T* y) {
    float mean[N], factor[N], term[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int c = part.channel(i);
        mean[i] = numbers[0][c], factor[i] = numbers[1][c], term[i] = numbers[2][c];
    }
    walk.go(part, load, [&](Value<T, N>& value, int row, int) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            float result = fmaf(value.x.get(i) - mean[i], factor[i], term[i]);
            if (adds) result += value.residual.get(i);
            value.x.set(i, bounded(result, with.low, with.high));
        }
        value.x.store(y + part.at(row));
    });
}

template <typename T> struct Backward {
    const T *x, *y, *dy;
    const float *statistics, *scale;
    T *dx, *residual;
    float *dscale, *dshift;
    int adds;
    float high;
};

// What comes in for a vector.
template <typename T, int N> struct Gradient {
    Stored<T, N> x, y, dy;

    __device__ __forceinline__ void load(const Backward<T>& with, size_t at) {
        x = Stored<T, N>::load(with.x + at);
        dy = Stored<T, N>::load(with.dy + at);
        if (with.y) y = Stored<T, N>::load(with.y + at);
    }
    // What of the gradient the activation has let through.
    __device__ __forceinline__ float passed(int i, bool cuts, float high) const {
        const float gradient = dy.get(i);
        if (!cuts) return gradient;
        const float value = y.get(i);
        return value > 0.0f && value < high ? gradient : 0.0f;
    }
};

// The sums of what has passed, and of its products with the distances of x from the mean, to `shared` as `Part::add` leaves them.
// `hold` is given x and what has passed of a row, and the row's number.
template <typename T, int N, typename F>
__device__ __forceinline__ void add_products(const Backward<T>& with, const Part<N>& part,
                                             float (&shared)[Part<N>::ROOM], F hold) {
    const auto load = [&](Gradient<T, N>& to, int row, int) { to.load(with, part.at(row)); };
    Walk<Gradient<T, N>, 2, false> walk(part, load);
    float mean[N], sum[N], product[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        mean[i] = with.statistics[part.first + part.channel(i)];
        sum[i] = product[i] = 0.0f;
    }
    walk.go(part, load, [&](Gradient<T, N>& gradient, int, int number) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float passed = gradient.passed(i, with.y, with.high);
            sum[i] += passed, product[i] = fmaf(gradient.x.get(i) - mean[i], passed, product[i]);
            gradient.dy.set(i, passed);
        }
        hold(gradient.x, gradient.dy, number);
    });
    part.add(shared, sum, product);
}

// What is known of a channel before its sums.
struct KnownBack {
    float mean = 0.0f, reciprocal = 0.0f, scale = 0.0f;

    template <typename T>
    __device__ __forceinline__ KnownBack(const Backward<T>& with, int channels, int channel, bool there) {
        if (there)
            mean = with.statistics[channel], reciprocal = with.statistics[channels + channel], scale = with.scale[channel];
    }
};

// Of channel `c` of the slice: mean, factors of the gradient and of the distance, and term; and its gradients of parameters.
template <typename T, int N>
__device__ __forceinline__ void settle(const Backward<T>& with, const KnownBack& known, const Part<N>& part, int c,
                                       float sum, float product, float pixels, bool writes, Numbers<4>& numbers) {
    const float scaled = product * known.reciprocal, by = known.scale * known.reciprocal;
    numbers[0][c] = known.mean;
    numbers[1][c] = by;
    numbers[2][c] = -by * known.reciprocal * scaled / pixels;
    numbers[3][c] = -by * sum / pixels;
    if (writes) with.dscale[part.first + c] = scaled, with.dshift[part.first + c] = sum;
}

// Writes or adds gradients, on a walk that has begun; `cuts` says whether what it reads is to be cut as the activation has.
template <typename W, typename T, int N, typename L>
__device__ __forceinline__ void put(W& walk, L load, const Backward<T>& with, const Part<N>& part,
                                    const Numbers<4>& numbers, bool cuts) {
    float mean[N], of_gradient[N], of_distance[N], term[N];
    const float both = with.adds & 4 ? 1.0f : 0.0f;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int c = part.channel(i);
        mean[i] = numbers[0][c], of_gradient[i] = numbers[1][c] + both, of_distance[i] = numbers[2][c];
        term[i] = numbers[3][c];
    }
    const bool adds_x = with.adds & 1, adds_residual = with.adds & 2;
    walk.go(part, load, [&](Gradient<T, N>& gradient, int row, int) {
        const size_t at = part.at(row);
        Stored<T, N> to, passed;
        if (adds_x) to = Stored<T, N>::load_own(with.dx + at);
        if (adds_residual) passed = Stored<T, N>::load_own(with.residual + at);
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float dy = gradient.passed(i, cuts, with.high);
            float value = fmaf(dy, of_gradient[i], term[i]);
            value = fmaf(gradient.x.get(i) - mean[i], of_distance[i], value);
            to.set(i, adds_x ? to.get(i) + value : value);
            passed.set(i, adds_residual ? passed.get(i) + dy : dy);
        }
        if (with.dx) to.store(with.dx + at);
        if (with.residual) passed.store(with.residual + at);
    });
}

// The moments of the block's part, of each of its channels, to `keep(c, mean, squares)`; sums are of distances from its first
// pixel. `hold` as above, given x alone.
template <typename T, int N, typename H, typename K>
__device__ __forceinline__ void add_moments(const T* x, const Part<N>& part, float (&shared)[Part<N>::ROOM], H hold,
                                            K keep) {
    const auto load = [&](Stored<T, N>& to, int row, int) { to = Stored<T, N>::load(x + part.at(row)); };
    Walk<Stored<T, N>, 4, false> walk(part, load);
    // The first pixel's channels, of all copies the same.
    const T* start = x + static_cast<size_t>(part.begin) * part.width + part.first;
    const bool any = part.begin < part.end;
    float from[N], sum[N], squares[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        from[i] = any ? to_float(start[part.channel(i)]) : 0.0f;
        sum[i] = squares[i] = 0.0f;
    }
    walk.go(part, load, [&](const Stored<T, N>& value, int, int number) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float distance = value.get(i) - from[i];
            sum[i] += distance, squares[i] = fmaf(distance, distance, squares[i]);
        }
        hold(value, number);
    });
    part.add(shared, sum, squares);
    const int c = threadIdx.x;
    if (c >= part.count || !any) return;
    const float total = shared[c], mean = total / part.pixels();
    keep(c, to_float(start[c]) + mean, shared[part.columns + c] - total * mean);
}

}  // namespace galley
