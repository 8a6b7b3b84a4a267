// What networks of images need beside their convolutions: input, pools, means, sums, gates, gathering.
//
// Images are [n, height, width, pitch], f16 or f32, of which the first `channels` of each pixel count; arithmetic is f32.
// Channels and pitches are multiples of 8 and pointers aligned to 16 bytes. Channels beyond a network's own, up to the next
// multiple, are of any value that is a number. An image's result does not depend on its batch. T is `f16` or `f32`.
//
// `input_T_bytes(pixels, scale, shift, out, count, height, width, top, left, out_height, out_width, channels)`,
// `input_T_floats(pixels, out, count, ..)`
//     Pixels [count, height, width, 3] -> [count, out_height, out_width, channels], `top` lines of zeros above and `left` pixels
//     before them, zeros behind them, and behind the colours; channels at least 3, of any number. u8, which mean `byte *
//     scale[colour] + shift[colour]` (f32 [3] each), or f32 that mean what they are. A thread a pixel of the output: grid
//     ceil(pixels / 256), block 256.
//
// `pool_T(in, out, count, height, width, channels, in_pitch, out_height, out_width, out_pitch, kernel_height, kernel_width,
//         stride_height, stride_width, top, left, kind)`
//     kind 0: the largest value; 1: the mean, of which padding is part, but not what is beyond it; 2: without padding.
//
// `mean_T(in, out, count, height, width, channels, in_pitch, out_height, out_width, out_pitch)`
//     Means over out_height by out_width fields of pixels, as even as they can be. Eight warps share a field's pixels: grid
//     ceil(threads / 32).
//
// `change_T(in, other, scale, shift, out, count, pixels, channels, in_pitch, other_pitch, out_pitch, kind, activation)`
//     kind 0: in * scale + shift (f32 [channels]); 1: in + other; 2: in * other[image]; each with an activation after it.
//
// `gather_T(source 0, .. source 15, pitch 0, .. pitch 15, from, out, pixels, channels, out_pitch)`
//     from int [channels, 2]: for each channel its source, and the channel there; a source of -1 gives zeros. pixels of all
//     images together.
//
// The last four: a thread has a vector of a pixel, grid ceil(threads / 256) but for `mean`, block 256. Memory is the bound of
// all of them. There are fewer than 2^31 pixels.
#include "common.cuh"

namespace galley {

template <typename T> constexpr int LENGTH = 16 / sizeof(T);

// A vector in f32.
template <typename T> struct Vector {
    float values[LENGTH<T>];

    __device__ static __forceinline__ Vector load(const T* from) {
        const uint4 packed = __ldg(reinterpret_cast<const uint4*>(from));
        Vector vector;
#pragma unroll
        for (int i = 0; i < LENGTH<T>; i++) vector.values[i] = to_float(reinterpret_cast<const T*>(&packed)[i]);
        return vector;
    }
    __device__ __forceinline__ void store(T* to) const {
        uint4 packed;
#pragma unroll
        for (int i = 0; i < LENGTH<T>; i++) reinterpret_cast<T*>(&packed)[i] = from_float<T>(values[i]);
        *reinterpret_cast<uint4*>(to) = packed;
    }
};

// The thread's number, if it is below `threads`.
__device__ __forceinline__ bool thread(size_t threads, size_t& number) {
    number = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    return number < threads;
}

// Of a number of vectors its pixel, of which there are fewer than 2^31, and which of the pixel's it is. Long division takes long.
__device__ __forceinline__ void divide(size_t number, int vectors, size_t& pixel, int& vector) {
    if (number >> 32 == 0) {
        pixel = static_cast<unsigned>(number) / vectors;
        vector = static_cast<unsigned>(number) % vectors;
    } else {
        pixel = number / vectors;
        vector = number % vectors;
    }
}

template <typename T, typename P>
__device__ __forceinline__ void input(const P* pixels, const float* scale, const float* shift, T* out, int count,
                                      int height, int width, int top, int left, int out_height, int out_width,
                                      int channels) {
    size_t number;
    if (!thread(static_cast<size_t>(count) * out_height * out_width, number)) return;
    const unsigned to = number, line = to / out_width, image = line / out_height;
    const int x = static_cast<int>(to - line * out_width) - left, y = static_cast<int>(line - image * out_height) - top;
    const bool inside = x >= 0 && x < width && y >= 0 && y < height;
    const size_t pixel = (static_cast<size_t>(image) * height + y) * width + x;
    for (int channel = 0; channel < channels; channel++) {
        float value = 0.0f;
        if (inside && channel < 3) {
            value = static_cast<float>(pixels[pixel * 3 + channel]);
            if (scale) value = fmaf(value, scale[channel], shift[channel]);
        }
        out[number * channels + channel] = from_float<T>(value);
    }
}

enum Pool { MAX, MEAN, MEAN_INSIDE };

template <typename T>
__device__ void pool(const T* in, T* out, int count, int height, int width, int channels, int in_pitch, int out_height,
                     int out_width, int out_pitch, int kernel_height, int kernel_width, int stride_height,
                     int stride_width, int top, int left, int kind) {
    const int vectors = channels / LENGTH<T>;
    size_t number;
    if (!thread(static_cast<size_t>(count) * out_height * out_width * vectors, number)) return;
    size_t pixel;
    int vector;
    divide(number, vectors, pixel, vector);
    const int channel = vector * LENGTH<T>;
    const unsigned line = static_cast<unsigned>(pixel) / out_width;
    const size_t image = line / out_height;
    const int x = pixel - line * out_width, y = line % out_height;
    const int first_y = y * stride_height - top, first_x = x * stride_width - left;
    const int end_y = min(first_y + kernel_height, height + top), end_x = min(first_x + kernel_width, width + left);
    const int from_y = max(first_y, 0), to_y = min(end_y, height), from_x = max(first_x, 0), to_x = min(end_x, width);
    Vector<T> result;
#pragma unroll
    for (int i = 0; i < LENGTH<T>; i++) result.values[i] = kind == MAX ? -INFINITY : 0.0f;
    for (int row = from_y; row < to_y; row++) {
        for (int column = from_x; column < to_x; column++) {
            const Vector<T> value =
                Vector<T>::load(in + ((image * height + row) * width + column) * in_pitch + channel);
#pragma unroll
            for (int i = 0; i < LENGTH<T>; i++)
                // A NaN is the largest of all, as elsewhere.
                result.values[i] = kind != MAX ? result.values[i] + value.values[i]
                                   : value.values[i] > result.values[i] || isnan(value.values[i]) ? value.values[i]
                                                                                              : result.values[i];
        }
    }
    const int counted = kind == MEAN ? (end_y - first_y) * (end_x - first_x) : (to_y - from_y) * (to_x - from_x);
#pragma unroll
    for (int i = 0; i < LENGTH<T>; i++)
        if (kind != MAX) result.values[i] /= counted;
    result.store(out + pixel * out_pitch + channel);
}

constexpr int MEAN_PARTS = 8;

template <typename T>
__device__ void mean(const T* in, T* out, int count, int height, int width, int channels, int in_pitch, int out_height,
                     int out_width, int out_pitch) {
    __shared__ Vector<T> parts[MEAN_PARTS][WARP];
    const int vectors = channels / LENGTH<T>, lane = threadIdx.x % WARP, part = threadIdx.x / WARP;
    const size_t number = static_cast<size_t>(blockIdx.x) * WARP + lane;
    const bool there = number < static_cast<size_t>(count) * out_height * out_width * vectors;
    size_t pixel;
    int vector;
    divide(number, vectors, pixel, vector);
    const int channel = vector * LENGTH<T>;
    const unsigned line = static_cast<unsigned>(pixel) / out_width;
    const size_t image = line / out_height;
    const int x = pixel - line * out_width, y = line % out_height;
    const int from_y = y * height / out_height, to_y = ((y + 1) * height + out_height - 1) / out_height;
    const int from_x = x * width / out_width, to_x = ((x + 1) * width + out_width - 1) / out_width;
    const int across = to_x - from_x, pixels = (to_y - from_y) * across;
    Vector<T> sum = {};
    for (int i = part; there && i < pixels; i += MEAN_PARTS) {
        const size_t at = (image * height + from_y + i / across) * width + from_x + i % across;
        const Vector<T> value = Vector<T>::load(in + at * in_pitch + channel);
#pragma unroll
        for (int j = 0; j < LENGTH<T>; j++) sum.values[j] += value.values[j];
    }
    parts[part][lane] = sum;
    __syncthreads();
    if (part > 0 || !there) return;
    for (int other = 1; other < MEAN_PARTS; other++) {
#pragma unroll
        for (int j = 0; j < LENGTH<T>; j++) sum.values[j] += parts[other][lane].values[j];
    }
#pragma unroll
    for (int j = 0; j < LENGTH<T>; j++) sum.values[j] /= pixels;
    sum.store(out + pixel * out_pitch + channel);
}

enum Change { SCALE, ADD, GATE };

template <typename T>
__device__ void change(const T* in, const T* other, const float* scale, const float* shift, T* out, int count, int pixels,
                       int channels, int in_pitch, int other_pitch, int out_pitch, int kind, int activation) {
    const int vectors = channels / LENGTH<T>;
    size_t number;
    if (!thread(static_cast<size_t>(count) * pixels * vectors, number)) return;
    size_t pixel;
    int vector;
    divide(number, vectors, pixel, vector);
    const int channel = vector * LENGTH<T>;
    Vector<T> x = Vector<T>::load(in + pixel * in_pitch + channel);
    if (kind == SCALE) {
#pragma unroll
        for (int i = 0; i < LENGTH<T>; i++) x.values[i] = fmaf(x.values[i], scale[channel + i], shift[channel + i]);
    } else {
        const size_t there = kind == ADD ? pixel : static_cast<unsigned>(pixel) / pixels;
        const Vector<T> y = Vector<T>::load(other + there * other_pitch + channel);
#pragma unroll
        for (int i = 0; i < LENGTH<T>; i++) x.values[i] = kind == ADD ? x.values[i] + y.values[i] : x.values[i] * y.values[i];
    }
#pragma unroll
    for (int i = 0; i < LENGTH<T>; i++) x.values[i] = activated(x.values[i], activation);
    x.store(out + pixel * out_pitch + channel);
}

template <typename T>
__device__ void gather(const T* const (&sources)[16], const int (&pitches)[16], const int2* from, T* out, int pixels,
                       int channels, int out_pitch) {
    // Arguments cannot be chosen among by a number that is not known before; what is in shared memory can.
    __shared__ const T* bases[16];
    __shared__ int steps[16];
    if (threadIdx.x == 0) {
#pragma unroll
        for (int i = 0; i < 16; i++) bases[i] = sources[i], steps[i] = pitches[i];
    }
    __syncthreads();
    const int vectors = channels / LENGTH<T>;
    size_t number;
    if (!thread(static_cast<size_t>(pixels) * vectors, number)) return;
    size_t pixel;
    int vector;
    divide(number, vectors, pixel, vector);
    const int channel = vector * LENGTH<T>;
    uint4 packed;
#pragma unroll
    for (int i = 0; i < LENGTH<T>; i++) {
        const int2 place = __ldg(from + channel + i);  // source and channel there
        T value = from_float<T>(0.0f);
        if (place.x >= 0) value = __ldg(bases[place.x] + pixel * steps[place.x] + place.y);
        reinterpret_cast<T*>(&packed)[i] = value;
    }
    *reinterpret_cast<uint4*>(out + pixel * out_pitch + channel) = packed;
}

}  // namespace galley

using namespace galley;

#define GALLEY_KERNEL extern "C" __global__ void __launch_bounds__(256)
#define GALLEY_PIXELS(name, T)                                                                                         \
    GALLEY_KERNEL input_##name##_bytes(const uint8_t* pixels, const float* scale, const float* shift, T* out,         \
                                       int count, int height, int width, int top, int left, int out_height,           \
                                       int out_width, int channels) {                                                 \
        galley::take_turn();                                                                                          \
        input<T>(pixels, scale, shift, out, count, height, width, top, left, out_height, out_width, channels);        \
    }                                                                                                                  \
    GALLEY_KERNEL input_##name##_floats(const float* pixels, T* out, int count, int height, int width, int top,       \
                                        int left, int out_height, int out_width, int channels) {                      \
        galley::take_turn();                                                                                          \
        const float* none = nullptr;                                                                                   \
        input<T>(pixels, none, none, out, count, height, width, top, left, out_height, out_width, channels);          \
    }                                                                                                                  \
    GALLEY_KERNEL pool_##name(const T* in, T* out, int count, int height, int width, int channels, int in_pitch,      \
                              int out_height, int out_width, int out_pitch, int kernel_height, int kernel_width,      \
                              int stride_height, int stride_width, int top, int left, int kind) {                     \
        galley::take_turn();                                                                                          \
        pool<T>(in, out, count, height, width, channels, in_pitch, out_height, out_width, out_pitch, kernel_height,   \
                kernel_width, stride_height, stride_width, top, left, kind);                                          \
    }                                                                                                                  \
    GALLEY_KERNEL mean_##name(const T* in, T* out, int count, int height, int width, int channels, int in_pitch,      \
                              int out_height, int out_width, int out_pitch) {                                         \
        galley::take_turn();                                                                                          \
        mean<T>(in, out, count, height, width, channels, in_pitch, out_height, out_width, out_pitch);                 \
    }                                                                                                                  \
    GALLEY_KERNEL change_##name(const T* in, const T* other, const float* scale, const float* shift, T* out,          \
                                int count, int pixels, int channels, int in_pitch, int other_pitch, int out_pitch,    \
                                int kind, int activation) {                                                           \
        galley::take_turn();                                                                                          \
        change<T>(in, other, scale, shift, out, count, pixels, channels, in_pitch, other_pitch, out_pitch, kind,      \
                  activation);                                                                                         \
    }                                                                                                                  \
    GALLEY_KERNEL gather_##name(const T* s0, const T* s1, const T* s2, const T* s3, const T* s4, const T* s5,          \
                                const T* s6, const T* s7, const T* s8, const T* s9, const T* s10, const T* s11,        \
                                const T* s12, const T* s13, const T* s14, const T* s15, int p0, int p1, int p2,        \
                                int p3, int p4, int p5, int p6, int p7, int p8, int p9, int p10, int p11, int p12,     \
                                int p13, int p14, int p15, const int2* from, T* out, int pixels, int channels,          \
                                int out_pitch) {                                                                       \
        galley::take_turn();                                                                                           \
        const T* const sources[16] = {s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15};           \
        const int pitches[16] = {p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, p12, p13, p14, p15};                \
        gather<T>(sources, pitches, from, out, pixels, channels, out_pitch);                                           \
    }

GALLEY_PIXELS(f16, __half)
GALLEY_PIXELS(f32, float)
