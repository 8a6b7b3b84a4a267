// What stands around the products of convolutions in training: weights as these read them, channels that fill their copies, and
// the gradient of a bias.
//
// A product's group is `merged` of the layer's groups, with zeros for what those do not see of each other: groups are
// narrower than tiles. w T [all outputs, kernel_height, kernel_width, inputs] is the layer's weight, of groups of `inputs` and
// `outputs`.
//
// `train_conv_lay_T(out, w, count, taps, width, inputs, outputs, merged)`
//     out T [rows, taps, width], count values of all: a row for each output with the inputs of its product's group, and zeros
//     behind. Grid ceil(count / 256), block 256.
// `train_conv_turn_T(out, w, rows, width, inputs, outputs, merged, kernel_height, kernel_width, stride_height, stride_width, top,
//         left)`
//     out T [rows, taps, width]: a row for each input with the outputs of its product's group, and zeros behind. Taps lie phase
//     by phase, as `train_conv.cu` says. Grid (ceil(rows / 64) ceil(width / 64), taps), block 256.
// `train_conv_lay_lines_T(out, w, count, lines, line, wide, kernel_height, kernel_width, inputs)`
//     out T [outputs, lines, line], count values of all: the inputs of a tap, with zeros up to `wide`, and the next tap's, with
//     zeros up to `line`; lines of zeros behind the kernel's. Grid ceil(count / 256), block 256.
// `train_conv_fill_T(out, x, count, height, width, own, wide_height, wide_width, wide, top, left)`
//     x T [images, height, width, own], out T [images, wide_height, wide_width, wide], count values of all: zeros behind each
//     pixel's own, and around each image, of which `top` lines and `left` pixels come before it. wide is a multiple of 4. Grid
//     ceil(count / 1024), block 256.
// `train_conv_widen_T(out, x, count)`: x T, out f32. Grid ceil(count / 256), block 256.
// `train_conv_bias_V_T(y, bias, count, columns)`
//     y T [rows, columns] += bias T [columns], columns a multiple of V, count vectors of V. Grid ceil(count / 256), block 256.
// `train_conv_columns_V_T(parts, x, rows, columns, share)`
//     x T [rows, columns], columns a multiple of V; parts f32 [shares, columns]: sums over each `share` rows, which
//     `train_conv_sum` adds. Grid (ceil(columns / 32 V), shares), block 256.
// All are bound by memory.
#include "common.cuh"

namespace galley {

template <typename T, int V> struct alignas(V * sizeof(T)) Run {
    T values[V];
};

template <typename T, int V> __device__ __forceinline__ void add_bias(T* y, const T* bias, int count, int columns) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    take_turn();
    if (at >= count) return;
    auto* to = reinterpret_cast<Run<T, V>*>(y) + at;
    Run<T, V> values = *to;
    const Run<T, V> term = reinterpret_cast<const Run<T, V>*>(bias)[at % (columns / V)];
#pragma unroll
    for (int i = 0; i < V; i++) values.values[i] = from_float<T>(to_float(values.values[i]) + to_float(term.values[i]));
    *to = values;
}

template <typename T>
__device__ __forceinline__ void lay(T* out, const T* w, int count, int taps, int width, int inputs, int outputs,
                                    int merged) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    take_turn();
    if (at >= count) return;
    const int channel = at % width, tap = at / width % taps, row = at / width / taps;
    const bool valid = channel < inputs * merged && channel / inputs == row / outputs % merged;
    const size_t from = (static_cast<size_t>(row) * taps + tap) * inputs + channel % inputs;
    out[at] = valid ? w[from] : from_float<T>(0.0f);
}

// The tap at a place among those of all phases, of one axis, and of how many in its phase.
struct Tap {
    int number, together;
    // `place` counts taps of the axis, each `width` of the places; leaves what is left of it within the phase.
    __device__ static Tap at(int& place, int width, int kernel, int stride, int before) {
        for (int phase = 0;; phase++) {
            const int first = (phase + before) % stride, taps = first < kernel ? (kernel - 1 - first) / stride + 1 : 0;
            if (place < taps * width) return {first, taps};
            place -= taps * width;
        }
    }
};

template <typename T>
__device__ __forceinline__ void turn(T* out, const T* w, int rows, int width, int inputs, int outputs, int merged,
                                     int kernel_height, int kernel_width, int stride_height, int stride_width, int top,
                                     int left) {
    constexpr int SIDE = 64, LINES = 256 / SIDE;
    __shared__ T tile[SIDE][SIDE + 4 / sizeof(T)];
    const int taps = kernel_height * kernel_width, tiles = (width + SIDE - 1) / SIDE;
    const int row = blockIdx.x / tiles * SIDE, column = blockIdx.x % tiles * SIDE;
    // Phases down are the outer ones; of one, the phases across; of one, taps from the last to the first.
    int place = blockIdx.y;
    const Tap down = Tap::at(place, kernel_width, kernel_height, stride_height, top);
    const Tap across = Tap::at(place, down.together, kernel_width, stride_width, left);
    const int r = down.number + (down.together - 1 - place / across.together) * stride_height;
    const int s = across.number + (across.together - 1 - place % across.together) * stride_width;
    const int tap = r * kernel_width + s;
    const int lane = threadIdx.x % SIDE, line = threadIdx.x / SIDE;
    // The layer's group of an input, and where its outputs begin among those of the product's.
    const int input = row + lane, group = input / inputs, first = group % merged * outputs;
    const T* from = w + (static_cast<size_t>(group) * outputs * taps + tap) * inputs + input - group * inputs;
    take_turn();
#pragma unroll
    for (int k = 0; k < SIDE / LINES; k++) {
        const int i = line + k * LINES, output = column + i - first;
        const bool valid = input < rows && output >= 0 && output < outputs;
        tile[lane][i] = valid ? from[static_cast<size_t>(output) * taps * inputs] : from_float<T>(0.0f);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < SIDE / LINES; k++) {
        const int i = line + k * LINES;
        if (row + i < rows && column + lane < width)
            out[(static_cast<size_t>(row + i) * taps + blockIdx.y) * width + column + lane] = tile[i][lane];
    }
}

template <typename T>
__device__ __forceinline__ void lay_lines(T* out, const T* w, int count, int lines, int line, int wide,
                                          int kernel_height, int kernel_width, int inputs) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    take_turn();
    if (at >= count) return;
    const int r = at / line % lines, s = at % line / wide, channel = at % line % wide;
    const bool valid = r < kernel_height && s < kernel_width && channel < inputs;
    const size_t tap = (static_cast<size_t>(at / line / lines) * kernel_height + r) * kernel_width + s;
    out[at] = valid ? w[tap * inputs + channel] : from_float<T>(0.0f);
}

template <typename T>
__device__ __forceinline__ void fill(T* out, const T* x, int count, int height, int width, int own, int wide_height,
                                     int wide_width, int wide, int top, int left) {
    const int run = blockIdx.x * blockDim.x + threadIdx.x;
    take_turn();
    if (run >= count / 4) return;
    const int runs = wide / 4, pixel = run / runs, first = (run - pixel * runs) * 4;
    const int line = pixel / wide_width, along = pixel - line * wide_width - left;
    const int image = line / wide_height, down = line - image * wide_height - top;
    const bool inside = along >= 0 && along < width && down >= 0 && down < height;
    const T* from = x + ((static_cast<ptrdiff_t>(image) * height + down) * width + along) * own;
    Run<T, 4> values;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const bool valid = inside && first + i < own;
        values.values[i] = valid ? from[first + i] : from_float<T>(0.0f);
    }
    reinterpret_cast<Run<T, 4>*>(out)[run] = values;
}

template <typename T> __device__ __forceinline__ void widen(float* out, const T* x, int count) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    take_turn();
    if (at < count) out[at] = to_float(x[at]);
}

template <typename T, int V>
__device__ __forceinline__ void columns(float* parts, const T* x, int rows, int columns, int share) {
    constexpr int LINES = 256 / WARP;
    __shared__ float sums[LINES][WARP * V];
    const int lane = threadIdx.x % WARP, line = threadIdx.x / WARP;
    const int column = (blockIdx.x * WARP + lane) * V;
    const int first = blockIdx.y * share, last = min(first + share, rows);
    take_turn();
    float own[V] = {};
    if (column < columns) {
#pragma unroll 4
        for (int row = first + line; row < last; row += LINES) {
            const auto run = *reinterpret_cast<const Run<T, V>*>(x + static_cast<size_t>(row) * columns + column);
#pragma unroll
            for (int i = 0; i < V; i++) own[i] += to_float(run.values[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < V; i++) sums[line][lane + i * WARP] = own[i];
    __syncthreads();
    for (int i = threadIdx.x; i < WARP * V; i += 256) {
        const int to = (blockIdx.x * WARP + i % WARP) * V + i / WARP;
        float sum = 0.0f;
#pragma unroll
        for (int k = 0; k < LINES; k++) sum += sums[k][i];
        if (to < columns) parts[static_cast<size_t>(blockIdx.y) * columns + to] = sum;
    }
}

}  // namespace galley

using namespace galley;

#define GALLEY_COLUMNS(name, T, V)                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                              \
        train_conv_columns_##V##_##name(float* parts, const T* x, int rows, int count, int share) {                \
        columns<T, V>(parts, x, rows, count, share);                                                               \
    }

#define GALLEY_BIAS(name, T, V)                                                                                    \
    extern "C" __global__ void __launch_bounds__(256)                                                              \
        train_conv_bias_##V##_##name(T* y, const T* bias, int count, int columns) {                                \
        add_bias<T, V>(y, bias, count, columns);                                                                   \
    }

#define GALLEY_LAYOUT(name, T)                                                                                     \
    extern "C" __global__ void train_conv_lay_##name(T* out, const T* w, int count, int taps, int width,           \
                                                     int inputs, int outputs, int merged) {                        \
        lay(out, w, count, taps, width, inputs, outputs, merged);                                                  \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) train_conv_turn_##name(                                      \
        T* out, const T* w, int rows, int width, int inputs, int outputs, int merged, int kernel_height,           \
        int kernel_width, int stride_height, int stride_width, int top, int left) {                                \
        turn(out, w, rows, width, inputs, outputs, merged, kernel_height, kernel_width, stride_height,             \
             stride_width, top, left);                                                                             \
    }                                                                                                              \
    extern "C" __global__ void train_conv_lay_lines_##name(T* out, const T* w, int count, int lines, int line,     \
                                                           int wide, int kernel_height, int kernel_width,          \
                                                           int inputs) {                                           \
        lay_lines(out, w, count, lines, line, wide, kernel_height, kernel_width, inputs);                          \
    }                                                                                                              \
    extern "C" __global__ void train_conv_fill_##name(T* out, const T* x, int count, int height, int width,        \
                                                      int own, int wide_height, int wide_width, int wide, int top, \
                                                      int left) {                                                  \
        fill(out, x, count, height, width, own, wide_height, wide_width, wide, top, left);                         \
    }                                                                                                              \
    extern "C" __global__ void train_conv_widen_##name(float* out, const T* x, int count) { widen(out, x, count); } \
    GALLEY_BIAS(name, T, 4)                                                                                        \
    GALLEY_BIAS(name, T, 1)                                                                                        \
    GALLEY_COLUMNS(name, T, 4)                                                                                     \
    GALLEY_COLUMNS(name, T, 1)

GALLEY_LAYOUT(f16, __half)
GALLEY_LAYOUT(f32, float)
