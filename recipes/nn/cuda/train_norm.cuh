// BatchNorm's arithmetic: what a block has of the values, how its sums become factors, and what it does with these.
//
// See `train_norm.cu` for rows, width, lanes, slices and parts.
#pragma once

#include "train_vector.cuh"

namespace galley {

constexpr int THREADS = 512;
constexpr int MOST_CHANNELS = 256;  // of a slice
// Vectors that a thread reads before it does anything with them, as many as keep memory busy.
constexpr int TURN = 8;

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

    // Calls `turn` with the first row of each of the thread's turns of `EACH` rows, and the number of it among the thread's.
    template <int EACH, typename F> __device__ __forceinline__ void forwards(F turn) const {
        if (!works) return;
        int number = 0;
        for (int at = begin + row; at < end; at += EACH * stride, number += EACH) turn(at, number);
    }
    template <int EACH, typename F> __device__ __forceinline__ void backwards(F turn) const {
        const int rows = end - begin - row;
        if (!works || rows <= 0) return;
        for (int number = (rows - 1) / (EACH * stride) * EACH; number >= 0; number -= EACH)
            turn(begin + row + number * stride, number);
    }

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

struct Forward {
    const float *scale, *shift;
    float *mean, *variance, *statistics;
    float momentum, eps, low, high;
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
__device__ __forceinline__ void settle(const Forward& with, const Part<N>& part, int c, const Moments& moments,
                                       float pixels, bool writes, Numbers<3>& numbers) {
    const int channel = part.first + c;
    const float distance = moments.sum / pixels, mean = moments.from + distance;
    float variance = (moments.within + (moments.squares - moments.sum * distance)) / pixels;
    // Rounding may leave less than nothing; not `fmaxf`, which hides what is no number.
    if (variance < 0.0f) variance = 0.0f;
    const float reciprocal = 1.0f / sqrtf(variance + with.eps);
    numbers[0][c] = mean;
    numbers[1][c] = with.scale[channel] * reciprocal;
    numbers[2][c] = with.shift[channel];
    if (!writes) return;
    with.statistics[channel] = mean;
    with.statistics[part.channels + channel] = reciprocal;
    with.mean[channel] += with.momentum * (mean - with.mean[channel]);
    const float unbiased = variance * (pixels / (pixels - 1.0f));
    with.variance[channel] += with.momentum * (unbiased - with.variance[channel]);
}

// Writes y of what `x` gives for a row and its number.
template <typename T, int N, typename X>
__device__ __forceinline__ void put(const Forward& with, const Part<N>& part, const Numbers<3>& numbers, X x,
                                    const T* residual, T* y) {
    constexpr int EACH = TURN / 2;
    float mean[N], factor[N], term[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int c = part.channel(i);
        mean[i] = numbers[0][c], factor[i] = numbers[1][c], term[i] = numbers[2][c];
    }
    part.template backwards<EACH>([&](int row, int number) {
        Vector<T, N> values[EACH], others[EACH];
#pragma unroll
        for (int u = 0; u < EACH; u++)
            if (row + u * part.stride < part.end) values[u] = x(row + u * part.stride, number + u);
        if (residual) {
#pragma unroll
            for (int u = 0; u < EACH; u++)
                if (row + u * part.stride < part.end)
                    others[u] = Vector<T, N>::load(residual + part.at(row + u * part.stride));
        }
#pragma unroll
        for (int u = 0; u < EACH; u++) {
            if (row + u * part.stride >= part.end) continue;
#pragma unroll
            for (int i = 0; i < N; i++) {
                float value = fmaf(values[u].get(i) - mean[i], factor[i], term[i]);
                if (residual) value += others[u].get(i);
                values[u].set(i, bounded(value, with.low, with.high));
            }
            values[u].store(y + part.at(row + u * part.stride));
        }
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

// What comes in for a vector, and what of its gradient the activation has let through.
template <typename T, int N> struct Gradient {
    Vector<T, N> x, passed;

    // Of `EACH` rows, as far as the part has them.
    template <int EACH>
    __device__ static __forceinline__ void load(Gradient (&to)[EACH], const Backward<T>& with, const Part<N>& part,
                                                int row) {
        Vector<T, N> y[EACH];
#pragma unroll
        for (int u = 0; u < EACH; u++) {
            if (row + u * part.stride >= part.end) continue;
            const size_t at = part.at(row + u * part.stride);
            to[u].x = Vector<T, N>::load(with.x + at);
            to[u].passed = Vector<T, N>::load(with.dy + at);
            if (with.y) y[u] = Vector<T, N>::load(with.y + at);
        }
        if (!with.y) return;
#pragma unroll
        for (int u = 0; u < EACH; u++) {
            if (row + u * part.stride >= part.end) continue;
#pragma unroll
            for (int i = 0; i < N; i++) {
                const float value = y[u].get(i);
                if (!(value > 0.0f && value < with.high)) to[u].passed.set(i, 0.0f);
            }
        }
    }
};

// The sums of what has passed, and of its products with the distances of x from the mean, to `shared` as `Part::add` leaves them.
// `hold` is given what was read for a row, and the row's number.
template <typename T, int N, typename F>
__device__ __forceinline__ void add_products(const Backward<T>& with, const Part<N>& part,
                                             float (&shared)[Part<N>::ROOM], F hold) {
    constexpr int EACH = TURN / 2;
    float mean[N], sum[N], product[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        mean[i] = with.statistics[part.first + part.channel(i)];
        sum[i] = product[i] = 0.0f;
    }
    part.template forwards<EACH>([&](int row, int number) {
        Gradient<T, N> gradients[EACH];
        Gradient<T, N>::load(gradients, with, part, row);
#pragma unroll
        for (int u = 0; u < EACH; u++) {
            if (row + u * part.stride >= part.end) continue;
#pragma unroll
            for (int i = 0; i < N; i++) {
                const float passed = gradients[u].passed.get(i);
                sum[i] += passed, product[i] = fmaf(gradients[u].x.get(i) - mean[i], passed, product[i]);
            }
            hold(gradients[u], number + u);
        }
    });
    part.add(shared, sum, product);
}

// Of channel `c` of the slice: mean, factors of the gradient and of the distance, and term; and its gradients of parameters.
template <typename T, int N>
__device__ __forceinline__ void settle(const Backward<T>& with, const Part<N>& part, int c, float sum, float product,
                                       float pixels, bool writes, Numbers<4>& numbers) {
    const int channel = part.first + c;
    const float reciprocal = with.statistics[part.channels + channel];
    const float scaled = product * reciprocal, by = with.scale[channel] * reciprocal;
    numbers[0][c] = with.statistics[channel];
    numbers[1][c] = by;
    numbers[2][c] = -by * reciprocal * scaled / pixels;
    numbers[3][c] = -by * sum / pixels;
    if (writes) with.dscale[channel] = scaled, with.dshift[channel] = sum;
}

// Writes or adds gradients of what `load` gives for `EACH` rows and their first number.
template <int EACH, typename T, int N, typename F>
__device__ __forceinline__ void put(const Backward<T>& with, const Part<N>& part, const Numbers<4>& numbers, F load) {
    float mean[N], of_gradient[N], of_distance[N], term[N];
    const float both = with.adds & 4 ? 1.0f : 0.0f;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int c = part.channel(i);
        mean[i] = numbers[0][c], of_gradient[i] = numbers[1][c] + both, of_distance[i] = numbers[2][c], term[i] = numbers[3][c];
    }
    const bool adds_x = with.adds & 1, adds_residual = with.adds & 2;
    part.template backwards<EACH>([&](int row, int number) {
        Gradient<T, N> gradients[EACH];
        Vector<T, N> to[EACH], passed[EACH];
        load(gradients, row, number);
#pragma unroll
        for (int u = 0; u < EACH; u++) {
            if (row + u * part.stride >= part.end) continue;
            const size_t at = part.at(row + u * part.stride);
            if (adds_x) to[u] = Vector<T, N>::load_own(with.dx + at);
            if (adds_residual) passed[u] = Vector<T, N>::load_own(with.residual + at);
        }
#pragma unroll
        for (int u = 0; u < EACH; u++) {
            if (row + u * part.stride >= part.end) continue;
            const size_t at = part.at(row + u * part.stride);
#pragma unroll
            for (int i = 0; i < N; i++) {
                const float dy = gradients[u].passed.get(i);
                float value = fmaf(dy, of_gradient[i], term[i]);
                value = fmaf(gradients[u].x.get(i) - mean[i], of_distance[i], value);
                to[u].set(i, adds_x ? to[u].get(i) + value : value);
                passed[u].set(i, adds_residual ? passed[u].get(i) + dy : dy);
            }
            if (with.dx) to[u].store(with.dx + at);
            if (with.residual) passed[u].store(with.residual + at);
        }
    });
}

// The moments of the block's part, of each of its channels, to `keep(c, mean, squares)`; sums are of distances from its first
// pixel. `hold` as above, given x alone.
template <typename T, int N, typename H, typename K>
__device__ __forceinline__ void add_moments(const T* x, const Part<N>& part, float (&shared)[Part<N>::ROOM], H hold,
                                            K keep) {
    // The first pixel's channels, of all copies the same.
    const T* start = x + static_cast<size_t>(part.begin) * part.width + part.first;
    const bool any = part.begin < part.end;
    float from[N], sum[N], squares[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        from[i] = any ? to_float(start[part.channel(i)]) : 0.0f;
        sum[i] = squares[i] = 0.0f;
    }
    part.template forwards<TURN>([&](int row, int number) {
        Vector<T, N> values[TURN];
#pragma unroll
        for (int u = 0; u < TURN; u++)
            if (row + u * part.stride < part.end) values[u] = Vector<T, N>::load(x + part.at(row + u * part.stride));
#pragma unroll
        for (int u = 0; u < TURN; u++) {
            if (row + u * part.stride >= part.end) continue;
#pragma unroll
            for (int i = 0; i < N; i++) {
                const float distance = values[u].get(i) - from[i];
                sum[i] += distance, squares[i] = fmaf(distance, distance, squares[i]);
            }
            hold(values[u], number + u);
        }
    });
    part.add(shared, sum, squares);
    for (int c = threadIdx.x; c < part.count && any; c += THREADS) {
        const float sum = shared[c], mean = sum / part.pixels();
        keep(c, to_float(start[c]) + mean, shared[part.columns + c] - sum * mean);
    }
}

}  // namespace galley
