// BatchNorm in training: by the batch's own statistics, with a sum and an activation after it, and its way back.
//
// Values are [pixels, channels], T `f16` or `f32`, pixels those of all images together; sums and what is made of them are f32.
// The bound is memory: there, x is read, and then read once more while y is written; back, the same with two or three arrays.
// What is read a second time is read from behind, where the cache has what was read last.
//
// A block has a part of the pixels and a slice of the channels. Where channels do not fill vectors of 16 bytes, some pixels
// side by side are a row that does (58 channels of f16: 4 pixels), each of whose channels occurs several times; where that
// does not work out either, a vector is one value. `wide` kernels read 16 bytes at a time, `narrow` ones a value. Common to
// all kernels:
//   rows      of pixels side by side, or pixels
//   channels  of a pixel
//   width     values of a row, a multiple of channels; of wide kernels also of a vector
//   lanes     vectors of a slice; a slice of less than the whole width has no channel twice, and none has more than 256
//   per       rows of a part; the last may have fewer, and none is empty
// Grid (parts, slices), block 512. Sums over parts are in their order, whatever runs first.
//
// `batch_norm_moments_V_T(x, partials, rows, channels, width, lanes, per)`
//     Of each part its mean and its squared distances from that, f32 [parts, 2, channels]; sums are of distances from the part's
//     first pixel, for rounding would leave nothing of a spread that is small beside its mean.
// `batch_norm_forward_V_T(x, residual or null, partials, scale, shift, mean, variance, statistics, y, rows, channels, width,
//                         lanes, per, parts, momentum, eps, low, high)`
//     y = min(max((x - mean) / deviation * scale + shift + residual, low), high); means and reciprocal deviations go to the
//     statistics, f32 [2, channels], and running mean and variance, f32 [channels], are moved on, the variance by
//     count / (count - 1).
// `batch_norm_products_V_T(x, y or null, dy, statistics, partials, rows, channels, width, lanes, per, high)`
//     The sums of dy, where 0 < y < high if there is y, and of its products with the distances of x from the mean.
// `batch_norm_backward_V_T(x, y or null, dy, statistics, scale, partials, dx or null, residual or null, dscale, dshift, rows,
//                          channels, width, lanes, per, parts, adds, high)`
//     The gradients of all. Bit 0 of `adds`: to dx is added; bit 1: to that of the residual; bit 2: the residual is x, and dx the
//     gradient of both. `parts` are those of the partials.
#include "train_norm.cuh"

namespace galley {

template <typename T, int N>
__device__ __forceinline__ void moments(const T* x, float* partials, const Part<N>& part) {
    __shared__ __align__(16) float shared[Part<N>::ROOM];
    float* to = partials + static_cast<size_t>(blockIdx.x) * 2 * part.channels + part.first;
    const auto hold = [](const Stored<T, N>&, int) {};
    add_moments(x, part, shared, hold, [&](int c, float mean, float squares) {
        to[c] = mean;
        to[part.channels + c] = squares;
    });
}

// Sums over parts: `add` adds a part's two numbers to what the thread has. The sums of the slice's channel `c` are then shared[c],
// shared[count + c], ..
template <int SUMS, int N, typename F>
__device__ __forceinline__ void add_parts(float (&shared)[THREADS * SUMS], const float* partials, const Part<N>& part,
                                          int parts, F add) {
    const int groups = min(THREADS / part.count, parts);
    const int group = threadIdx.x / part.count, c = threadIdx.x % part.count;
    if (group < groups) {
        const float* of = partials + part.first + c;
        const size_t pitch = 2 * static_cast<size_t>(part.channels);
        float sums[SUMS] = {};
#pragma unroll 8
        for (int i = group; i < parts; i += groups) add(sums, i, of[i * pitch], of[i * pitch + part.channels]);
#pragma unroll
        for (int i = 0; i < SUMS; i++) shared[(group * SUMS + i) * part.count + c] = sums[i];
    }
    add_rows(shared, groups, SUMS * part.count);
}

template <typename T, int N>
__device__ __forceinline__ void forward(const T* x, const T* residual, const float* partials, const Forward& with, T* y,
                                        const Part<N>& part, int rows, int per, int parts) {
    __shared__ float shared[THREADS * 3];
    __shared__ Numbers<3> numbers;
    const int last = parts - 1, c = threadIdx.x;
    const bool settles = c < part.count;
    const float* start = partials + part.first;
    const float from = start[c % part.count], own = start[settles ? c : 0];
    const Known known(with, part.first + c, settles, blockIdx.x == 0);
    const auto load = [&](Value<T, N>& to, int row, int) {
        to.x = Stored<T, N>::load(x + part.at(row));
        if (residual) to.residual = Stored<T, N>::load(residual + part.at(row));
    };
    Walk<Value<T, N>, 4, true> walk(part, load);
    const float whole = static_cast<float>(per) * part.copies;
    const float rest = static_cast<float>(rows - last * per) * part.copies;
    add_parts<3>(shared, partials, part, parts, [&](float(&sums)[3], int i, float mean, float squares) {
        Moments moments = {from, sums[0], sums[1], sums[2]};
        moments.add(i < last ? whole : rest, mean, squares);
        sums[0] = moments.sum, sums[1] = moments.squares, sums[2] = moments.within;
    });
    if (settles) {
        const Moments moments = {own, shared[c], shared[part.count + c], shared[2 * part.count + c]};
        settle(with, known, part, c, moments, static_cast<float>(rows) * part.copies, blockIdx.x == 0, numbers);
    }
    __syncthreads();
    put(walk, load, with, part, numbers, residual, y);
}

template <typename T, int N>
__device__ __forceinline__ void products(const Backward<T>& with, float* partials, const Part<N>& part) {
    __shared__ __align__(16) float shared[Part<N>::ROOM];
    add_products(with, part, shared, [](const Stored<T, N>&, const Stored<T, N>&, int) {});
    const int c = threadIdx.x;
    if (c >= part.count) return;
    float* to = partials + static_cast<size_t>(blockIdx.x) * 2 * part.channels + part.first;
    to[c] = shared[c];
    to[part.channels + c] = shared[part.columns + c];
}

template <typename T, int N>
__device__ __forceinline__ void backward(const Backward<T>& with, const float* partials, const Part<N>& part, int rows,
                                         int parts) {
    __shared__ float shared[THREADS * 2];
    __shared__ Numbers<4> numbers;
    const int c = threadIdx.x;
    const bool settles = c < part.count;
    const KnownBack known(with, part.channels, part.first + c, settles);
    const auto load = [&](Gradient<T, N>& to, int row, int) { to.load(with, part.at(row)); };
    Walk<Gradient<T, N>, 2, true> walk(part, load);
    add_parts<2>(shared, partials, part, parts, [](float(&sums)[2], int, float sum, float product) {
        sums[0] += sum, sums[1] += product;
    });
    const float pixels = static_cast<float>(rows) * part.copies;
    if (settles)
        settle(with, known, part, c, shared[c], shared[part.count + c], pixels, blockIdx.x == 0, numbers);
    if (!with.dx && !with.residual) return;
    __syncthreads();
    put(walk, load, with, part, numbers, with.y);
}

}  // namespace galley

#define GALLEY_KERNEL extern "C" __global__ void __launch_bounds__(galley::THREADS)
#define GALLEY_BATCH_NORM(name, T, N)                                                                                  \
    GALLEY_KERNEL batch_norm_moments_##name(const T* x, float* partials, int rows, int channels, int width, int lanes, \
                                            int per) {                                                                 \
        const galley::Part<N> part(rows, channels, width, lanes, per);                                                 \
        galley::take_turn();                                                                                           \
        galley::moments<T, N>(x, partials, part);                                                                      \
    }                                                                                                                  \
    GALLEY_KERNEL batch_norm_forward_##name(                                                                           \
        const T* x, const T* residual, const float* partials, const float* scale, const float* shift, float* mean,     \
        float* variance, float* statistics, T* y, int rows, int channels, int width, int lanes, int per, int parts,    \
        float momentum, float eps, float low, float high) {                                                            \
        const galley::Part<N> part(rows, channels, width, lanes, per);                                                 \
        const galley::Forward with = {scale, shift, mean, variance, statistics, momentum, eps, low, high};             \
        galley::take_turn();                                                                                           \
        galley::forward<T, N>(x, residual, partials, with, y, part, rows, per, parts);                                 \
    }                                                                                                                  \
    GALLEY_KERNEL batch_norm_products_##name(const T* x, const T* y, const T* dy, const float* statistics,             \
                                             float* partials, int rows, int channels, int width, int lanes, int per,   \
                                             float high) {                                                             \
        const galley::Part<N> part(rows, channels, width, lanes, per);                                                 \
        const galley::Backward<T> with = {x, y, dy, statistics, nullptr, nullptr, nullptr, nullptr, nullptr, 0, high}; \
        galley::take_turn();                                                                                           \
        galley::products<T, N>(with, partials, part);                                                                  \
    }                                                                                                                  \
    GALLEY_KERNEL batch_norm_backward_##name(                                                                          \
        const T* x, const T* y, const T* dy, const float* statistics, const float* scale, const float* partials,       \
        T* dx, T* residual, float* dscale, float* dshift, int rows, int channels, int width, int lanes, int per,       \
        int parts, int adds, float high) {                                                                             \
        const galley::Part<N> part(rows, channels, width, lanes, per);                                                 \
        const galley::Backward<T> with = {x, y, dy, statistics, scale, dx, residual, dscale, dshift, adds, high};      \
        galley::take_turn();                                                                                           \
        galley::backward<T, N>(with, partials, part, rows, parts);                                                     \
    }

GALLEY_BATCH_NORM(wide_f16, __half, 8)
GALLEY_BATCH_NORM(narrow_f16, __half, 1)
GALLEY_BATCH_NORM(wide_f32, float, 4)
GALLEY_BATCH_NORM(narrow_f32, float, 1)
