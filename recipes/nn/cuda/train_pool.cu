// Pools there and back: maxima and means under a window, means over fields as even as they can be, and sums over all of an
// image's pixels, of which gates' gradients are made too.
//
// T is `f16` or `f32`; arithmetic is f32, and all sums are in a fixed order. Images are [n, height, width, channels]. Vectors are of
// `length` values, which divides the channels. Block 256. `adds`: whether what comes out is added to what is there.
//
// FIELDS, what an output is made of: `height, width, out_height, out_width, kernel_height, kernel_width, stride_height,
// stride_width, top, left`; a kernel of no height means even fields. Memory is the bound, but for many windows that overlap.
//
// `pool_T(x, y, channels, FIELDS, kind, length)`
//     kind 0: the largest value; 1: the mean, of which padding is part, but not what is beyond it; 2: without padding. A
//     thread has a vector of a pixel of y: grid (lines of y, ceil(vectors of a line / 256), images).
//
// `largest_T(x, which, channels, FIELDS, length)`
//     Of each output the first of the largest values, by its number in the window: u8, as y. Grid as for y.
//
// `pool_back_T(which, dy, dx, channels, FIELDS, kind, adds, length)`
//     Sums over the outputs that a pixel has part in, so that no two threads write the same. A maximum's gradient goes to `which`,
//     which is null for means. Grid as for `pool_T`, but by lines of dx.
//
// `total_T(x, other, partial, out, pixels, channels, wide, part, factor, adds, length)`
//     out [images, channels] = factor times the sum over an image's pixels of x, or of x * other where that is not null. A block
//     has `wide` vectors, at most 32, and `part` pixels: grid (ceil(vectors / wide), ceil(pixels / part), images). Where that is
//     several in y, sums go to partial f32 [images, parts, channels] instead, and `join_T` follows.
//
// `join_T(partial, out, images, channels, parts, factor, adds)`
//     A thread a value: grid ceil(values / 256).
#include "train_vectors.cuh"

namespace galley {

enum Kind { MAX, MEAN, MEAN_INSIDE };

struct Field {
    int from, to;
};

// The field of so many that are as even as they can be.
__device__ __forceinline__ Field even(int size, int fields, int index) {
    return {index * size / fields, ((index + 1) * size + fields - 1) / fields};
}

// A quotient of numbers that are not negative. Division takes long, and most divisors are powers of two.
__device__ __forceinline__ int quotient(int number, int divisor) {
    return (divisor & (divisor - 1)) == 0 ? number >> (31 - __clz(divisor)) : number / divisor;
}

// An image's lines or columns, and those of what is made of it.
struct Axis {
    int size, outputs, kernel, stride, padding;

    __device__ __forceinline__ bool is_even() const { return kernel == 0; }
    __device__ __forceinline__ Field pixels(int output) const {
        if (is_even()) return even(size, outputs, output);
        const int first = output * stride - padding;
        return {min(max(first, 0), size), max(min(first + kernel, size), 0)};
    }
    // How many a mean takes them for.
    __device__ __forceinline__ int counted(int output, int kind) const {
        const Field inside = pixels(output);
        const int first = output * stride - padding;
        return kind == MEAN && !is_even() ? min(kernel, size + padding - first) : inside.to - inside.from;
    }
    // Those that a pixel has part in.
    __device__ __forceinline__ Field outputs_of(int pixel) const {
        if (is_even()) return even(outputs, size, pixel);
        const int from = pixel + padding - kernel;
        return {from < 0 ? 0 : quotient(from, stride) + 1, min(quotient(pixel + padding, stride) + 1, outputs)};
    }
    // Where in an output's window a pixel is.
    __device__ __forceinline__ int place(int output, int pixel) const { return pixel - output * stride + padding; }
};

struct Fields {
    Axis down, across;

    __device__ __forceinline__ float share(int row, int column, int kind) const {
        return __fdividef(1.0f, max(down.counted(row, kind) * across.counted(column, kind), 1));
    }
};

// A thread's vector of a line: its pixel and its first channel. Blocks are numbered by lines, vectors and images.
template <int N> struct InLine {
    int column, channel;
    bool there;

    __device__ __forceinline__ InLine(int width, int channels) {
        const int vectors = channels / N, number = blockIdx.y * BLOCK + threadIdx.x;
        column = quotient(number, vectors), channel = (number - column * vectors) * N;
        there = column < width;
    }
};

// The block's image, from its first pixel's channel on. In an image places are numbered by ints.
template <typename P> __device__ __forceinline__ P* image_of(P* images, int pixels, int channels, int channel) {
    return images + static_cast<size_t>(blockIdx.z) * pixels * channels + channel;
}

template <typename T, int N> __device__ __forceinline__ void pool(const T* x, T* y, int channels, Fields fields, int kind) {
    const InLine<N> in(fields.across.outputs, channels);
    if (!in.there) return;
    const int output = blockIdx.x;
    const Field down = fields.down.pixels(output), across = fields.across.pixels(in.column);
    Vector<T, N> result;
#pragma unroll
    for (int i = 0; i < N; i++) result.values[i] = kind == MAX ? -INFINITY : 0.0f;
    const T* image = image_of(x, fields.down.size * fields.across.size, channels, in.channel);
    for (int row = down.from; row < down.to; row++) {
        const T* from = image + (row * fields.across.size + across.from) * channels;
        for (int column = across.from; column < across.to; column++, from += channels) {
            const auto value = Vector<T, N>::load(from);
            if (kind != MAX) {
                result.add(value);
                continue;
            }
            // A NaN is the largest of all, as elsewhere.
#pragma unroll
            for (int i = 0; i < N; i++)
                asm("max.NaN.f32 %0, %0, %1;" : "+f"(result.values[i]) : "f"(value.values[i]));
        }
    }
    if (kind != MAX) {
        const float share = fields.share(output, in.column, kind);
#pragma unroll
        for (int i = 0; i < N; i++) result.values[i] *= share;
    }
    T* to = image_of(y, fields.down.outputs * fields.across.outputs, channels, in.channel);
    result.store(to + (output * fields.across.outputs + in.column) * channels);
}

// Numbers below 256 side by side.
template <int N> struct Bytes {
    static constexpr int WORDS = N < 4 ? 1 : N / 4;
    unsigned words[WORDS] = {};

    __device__ static __forceinline__ Bytes load(const uint8_t* from) {
        const auto all = *reinterpret_cast<const typename Packed<N>::Type*>(from);
        Bytes bytes;
        if constexpr (N < 4) {
            bytes.words[0] = all;
        } else {
#pragma unroll
            for (int i = 0; i < WORDS; i++) bytes.words[i] = reinterpret_cast<const unsigned*>(&all)[i];
        }
        return bytes;
    }
    __device__ __forceinline__ void store(uint8_t* to) const {
        typename Packed<N>::Type all;
        if constexpr (N < 4) {
            all = words[0];
        } else {
#pragma unroll
            for (int i = 0; i < WORDS; i++) reinterpret_cast<unsigned*>(&all)[i] = words[i];
        }
        *reinterpret_cast<typename Packed<N>::Type*>(to) = all;
    }
    __device__ __forceinline__ void set(int i, unsigned number) { words[i / 4] |= number << i % 4 * 8; }
    __device__ __forceinline__ unsigned at(int i) const { return words[i / 4] >> i % 4 * 8 & 0xff; }
};

template <typename T, int N>
__device__ __forceinline__ void largest(const T* x, uint8_t* which, int channels, Fields fields) {
    const InLine<N> in(fields.across.outputs, channels);
    if (!in.there) return;
    const int output = blockIdx.x;
    const Field down = fields.down.pixels(output), across = fields.across.pixels(in.column);
    const auto number = [&](int row, int column) {
        return fields.down.place(output, row) * fields.across.kernel + fields.across.place(in.column, column);
    };
    float most[N];
    unsigned place[N];
#pragma unroll
    for (int i = 0; i < N; i++) most[i] = -INFINITY, place[i] = number(down.from, across.from);
    const T* image = image_of(x, fields.down.size * fields.across.size, channels, in.channel);
    for (int row = down.from; row < down.to; row++) {
        const T* from = image + (row * fields.across.size + across.from) * channels;
        for (int column = across.from; column < across.to; column++, from += channels) {
            const auto value = Vector<T, N>::load(from);
#pragma unroll
            for (int i = 0; i < N; i++)
                if (!(value.values[i] <= most[i])) most[i] = value.values[i], place[i] = number(row, column);
        }
    }
    Bytes<N> numbers;
#pragma unroll
    for (int i = 0; i < N; i++) numbers.set(i, place[i]);
    uint8_t* to = image_of(which, fields.down.outputs * fields.across.outputs, channels, in.channel);
    numbers.store(to + (output * fields.across.outputs + in.column) * channels);
}

template <typename T, int N, bool IS_MAX>
__device__ __forceinline__ void pool_back(const uint8_t* which, const T* dy, T* dx, int channels, Fields fields,
                                          int kind, bool adds) {
    const InLine<N> in(fields.across.size, channels);
    if (!in.there) return;
    const int line = blockIdx.x;
    const Field down = fields.down.outputs_of(line), across = fields.across.outputs_of(in.column);
    Vector<T, N> result = {};
    const int outputs = fields.down.outputs * fields.across.outputs;
    const T* gradients = image_of(dy, outputs, channels, in.channel);
    const uint8_t* places = image_of(which, outputs, channels, in.channel);
    for (int row = down.from; row < down.to; row++) {
        int at = (row * fields.across.outputs + across.from) * channels;
        const int first = fields.down.place(row, line) * fields.across.kernel;
        for (int column = across.from; column < across.to; column++, at += channels) {
            const auto value = Vector<T, N>::load(gradients + at);
            if constexpr (IS_MAX) {
                const auto numbers = Bytes<N>::load(places + at);
                const unsigned own = first + fields.across.place(column, in.column);
#pragma unroll
                for (int i = 0; i < N; i++)
                    if (numbers.at(i) == own) result.values[i] += value.values[i];
            } else {
                const float share = fields.share(row, column, kind);
#pragma unroll
                for (int i = 0; i < N; i++) result.values[i] = fmaf(value.values[i], share, result.values[i]);
            }
        }
    }
    T* to = image_of(dx, fields.down.size * fields.across.size, channels, in.channel);
    result.put(to + (line * fields.across.size + in.column) * channels, adds);
}

template <typename T> __device__ __forceinline__ void finish(float sum, T* out, float factor, bool adds) {
    sum *= factor;
    if (adds) sum += to_float(*out);
    *out = from_float<T>(sum);
}

template <typename T, int N>
__device__ __forceinline__ void total(const T* x, const T* other, float* partial, T* out, int pixels, int channels,
                                      int wide, int part, float factor, bool adds) {
    __shared__ __align__(16) float sums[BLOCK * N];
    // Threads beyond a multiple of the vectors have nothing to do.
    const int rows = BLOCK / wide, row = threadIdx.x / wide, first = blockIdx.x * wide * N;
    const int channel = first + threadIdx.x % wide * N;
    const int begin = blockIdx.y * part, end = min(begin + part, pixels);
    float sum[N] = {};
    if (row < rows && channel < channels) {
        const size_t image = static_cast<size_t>(blockIdx.z) * pixels * channels + channel;
#pragma unroll 4
        for (int pixel = begin + row; pixel < end; pixel += rows) {
            const size_t at = image + static_cast<size_t>(pixel) * channels;
            const auto value = Vector<T, N>::load(x + at);
            Vector<T, N> factors;
#pragma unroll
            for (int i = 0; i < N; i++) factors.values[i] = 1.0f;
            if (other) factors = Vector<T, N>::load(other + at);
#pragma unroll
            for (int i = 0; i < N; i++) sum[i] = fmaf(value.values[i], factors.values[i], sum[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < N; i++) sums[threadIdx.x * N + i] = sum[i];
    __syncthreads();
    const int own = first + threadIdx.x;
    if (threadIdx.x >= wide * N || own >= channels) return;
    float all = 0.0f;
    for (int i = 0; i < rows; i++) all += sums[i * wide * N + threadIdx.x];
    if (gridDim.y == 1) {
        finish(all, out + static_cast<size_t>(blockIdx.z) * channels + own, factor, adds);
    } else {
        partial[(static_cast<size_t>(blockIdx.z) * gridDim.y + blockIdx.y) * channels + own] = all;
    }
}

template <typename T>
__device__ __forceinline__ void join(const float* partial, T* out, int images, int channels, int parts, float factor,
                                     bool adds) {
    const size_t number = static_cast<size_t>(blockIdx.x) * BLOCK + threadIdx.x;
    size_t image;
    unsigned channel;
    divide(number, channels, image, channel);
    if (image >= images) return;
    float sum = 0.0f;
#pragma unroll 8
    for (int i = 0; i < parts; i++) sum += partial[(image * parts + i) * channels + channel];
    finish(sum, out + number, factor, adds);
}

}  // namespace galley

using namespace galley;

#define GALLEY_KERNEL extern "C" __global__ void __launch_bounds__(BLOCK)

#define GALLEY_FIELDS                                                                                                  \
    int height, int width, int out_height, int out_width, int kernel_height, int kernel_width, int stride_height,      \
        int stride_width, int top, int left
#define GALLEY_GIVEN                                                                                                   \
    {                                                                                                                  \
        {height, out_height, kernel_height, stride_height, top}, { width, out_width, kernel_width, stride_width, left }  \
    }
#define GALLEY_POOL(name, T)                                                                                           \
    GALLEY_KERNEL pool_##name(const T* x, T* y, int channels, GALLEY_FIELDS, int kind, int length) {                   \
        take_turn();                                                                                                   \
        const Fields fields = GALLEY_GIVEN;                                                                            \
        by_length<T>(length, [=](auto of) { pool<T, decltype(of)::VALUE>(x, y, channels, fields, kind); });            \
    }                                                                                                                  \
    GALLEY_KERNEL largest_##name(const T* x, uint8_t* which, int channels, GALLEY_FIELDS, int length) {                \
        take_turn();                                                                                                   \
        const Fields fields = GALLEY_GIVEN;                                                                            \
        by_length<T>(length, [=](auto of) { largest<T, decltype(of)::VALUE>(x, which, channels, fields); });           \
    }                                                                                                                  \
    GALLEY_KERNEL pool_back_##name(const uint8_t* which, const T* dy, T* dx, int channels, GALLEY_FIELDS, int kind,    \
                                   int adds, int length) {                                                             \
        take_turn();                                                                                                   \
        const Fields fields = GALLEY_GIVEN;                                                                            \
        by_length<T>(length, [=](auto of) {                                                                            \
            constexpr int N = decltype(of)::VALUE;                                                                     \
            if (kind == MAX) {                                                                                         \
                pool_back<T, N, true>(which, dy, dx, channels, fields, kind, adds);                                    \
            } else {                                                                                                   \
                pool_back<T, N, false>(which, dy, dx, channels, fields, kind, adds);                                   \
            }                                                                                                          \
        });                                                                                                            \
    }                                                                                                                  \
    GALLEY_KERNEL total_##name(const T* x, const T* other, float* partial, T* out, int pixels, int channels, int wide, \
                               int part, float factor, int adds, int length) {                                         \
        take_turn();                                                                                                   \
        by_length<T>(length, [=](auto of) {                                                                            \
            total<T, decltype(of)::VALUE>(x, other, partial, out, pixels, channels, wide, part, factor, adds);         \
        });                                                                                                            \
    }                                                                                                                  \
    GALLEY_KERNEL join_##name(const float* partial, T* out, int images, int channels, int parts, float factor,         \
                              int adds) {                                                                              \
        take_turn();                                                                                                   \
        join(partial, out, images, channels, parts, factor, adds);                                                     \
    }

GALLEY_POOL(f16, __half)
GALLEY_POOL(f32, float)
