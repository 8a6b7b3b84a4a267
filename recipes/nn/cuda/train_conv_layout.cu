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
//     by phase, as `train_conv.cu` says. Grid (ceil(rows / 32) ceil(width / 32), taps), block 256.
// `train_conv_lay_lines_T(out, w, count, line, wide, kernel_width, inputs)`
//     out T [outputs, kernel_height, line], count values of all: the inputs of a tap, with zeros up to `wide`, and the next tap's,
//     with zeros up to `line`. Grid ceil(count / 256), block 256.
// `train_conv_fill_T(out, x, count, width, own, wide_width, wide, left)`
//     x T [lines, width, own], out T [lines, wide_width, wide], count values of all: zeros behind each pixel's own, for `left`
//     pixels before each line, and behind it. Grid ceil(count / 256), block 256.
// `train_conv_widen_T(out, x, count)`: x T, out f32. Grid ceil(count / 256), block 256.
// `train_conv_columns_V_T(parts, x, rows, columns, share)`
//     x T [rows, columns], columns a multiple of V; parts f32 [shares, columns]: sums over each `share` rows, which
//     `train_conv_sum` adds. Grid (ceil(columns / 32 V), shares), block 256.
// All are bound by memory.
#include "common.cuh"

namespace galley {

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
    constexpr int SIDE = 32;
    __shared__ T tile[SIDE][SIDE + 2];
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
    take_turn();
    for (int i = line; i < SIDE; i += blockDim.x / SIDE) {
        const int input = row + lane, channel = column + i;
        const int group = input / (inputs * merged), own = input / inputs % merged;
        const bool valid = input < rows && channel < outputs * merged && channel / outputs == own;
        const size_t output = static_cast<size_t>(group) * outputs * merged + channel;
        tile[lane][i] = valid ? w[(output * taps + tap) * inputs + input % inputs] : from_float<T>(0.0f);
    }
    __syncthreads();
    for (int i = line; i < SIDE; i += blockDim.x / SIDE) {
        if (row + i < rows && column + lane < width)
            out[(static_cast<size_t>(row + i) * taps + blockIdx.y) * width + column + lane] = tile[i][lane];
    }
}

template <typename T>
__device__ __forceinline__ void lay_lines(T* out, const T* w, int count, int line, int wide, int kernel_width,
                                          int inputs) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    take_turn();
    if (at >= count) return;
    const int row = at / line, tap = at % line / wide, channel = at % line % wide;
    const bool valid = tap < kernel_width && channel < inputs;
    out[at] = valid ? w[(static_cast<size_t>(row) * kernel_width + tap) * inputs + channel] : from_float<T>(0.0f);
}

template <typename T>
__device__ __forceinline__ void fill(T* out, const T* x, int count, int width, int own, int wide_width, int wide,
                                     int left) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    take_turn();
    if (at >= count) return;
    const int channel = at % wide, pixel = at / wide, line = pixel / wide_width, along = pixel % wide_width - left;
    const bool valid = channel < own && along >= 0 && along < width;
    out[at] = valid ? x[(static_cast<size_t>(line) * width + along) * own + channel] : from_float<T>(0.0f);
}

template <typename T> __device__ __forceinline__ void widen(float* out, const T* x, int count) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    take_turn();
    if (at < count) out[at] = to_float(x[at]);
}

template <typename T, int V> struct alignas(V * sizeof(T)) Run {
    T values[V];
};

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
    extern "C" __global__ void train_conv_lay_lines_##name(T* out, const T* w, int count, int line, int wide,      \
                                                           int kernel_width, int inputs) {                         \
        lay_lines(out, w, count, line, wide, kernel_width, inputs);                                                \
    }                                                                                                              \
    extern "C" __global__ void train_conv_fill_##name(T* out, const T* x, int count, int width, int own,           \
                                                      int wide_width, int wide, int left) {                        \
        fill(out, x, count, width, own, wide_width, wide, left);                                                   \
    }                                                                                                              \
    extern "C" __global__ void train_conv_widen_##name(float* out, const T* x, int count) { widen(out, x, count); } \
    GALLEY_COLUMNS(name, T, 4)                                                                                     \
    GALLEY_COLUMNS(name, T, 1)

GALLEY_LAYOUT(f16, __half)
GALLEY_LAYOUT(f32, float)
