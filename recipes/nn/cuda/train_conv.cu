// Convolutions in training on any card: what a layer gives, and the gradient of what it is given. Both gather: a row of a
// product is a pixel, and what is summed over are the channels under the taps of its window, tap by tap.
//
// `train_conv_BYTES_MxN_T(out, in, weight, bias, images, in_height, in_width, in_pitch, own_inputs, out_height, out_width,
//         out_pitch, own_outputs, groups, kernel_height, kernel_width, stride_height, stride_width, top, left, backward, add)`
//
//     in T [images, in_height, in_width, in_pitch], out T [images, out_height, out_width, out_pitch]: the channels of all
//     groups, own_inputs and own_outputs each. weight T [out_pitch, taps, own_inputs]; bias T [out_pitch], or null. Where
//     `add`, out is added to.
//   forward: out(y, x) = bias + sum over r, s of weight(r, s) in(y * stride - top + r, x * stride - left + s)
//   backward: in is the gradient of a layer's outputs, out that of its inputs; kernel, stride, top and left are the layer's.
//     Pixels of one remainder of their place by the stride make a phase: they are seen by the same taps, and by no others, so
//     that no zeros are multiplied. A weight's taps lie phase by phase, each phase's from the last to the first, as
//     `train_conv_turn` of `train_conv_layout.cu` leaves them.
//   BYTES are those of a copy: own_inputs is a multiple of as many.
//   Sums are f32, in an order that follows from the layer alone. f16 goes by tensor cores, f32 by ordinary arithmetic.
//   Grid (ceil(rows / M) ceil(own_outputs / N), 1, phases * groups), where rows are the pixels of the largest phase, the first;
//   block 256, of 64x64 128; dynamic shared memory 4 (M + N) 80. Arithmetic is the bound.
#include "train_conv.cuh"

namespace galley {

struct Shape {
    int images, in_height, in_width, in_pitch, own_inputs, out_height, out_width, out_pitch, own_outputs, groups,
        kernel_height, kernel_width, stride_height, stride_width, top, left, backward, add;
};

// One axis of a phase: pixel number i of it is `first + i * every`, its window begins at `i * stride - before`, and has so
// many taps, which are so many behind others in the weight.
struct Axis {
    int first, every, pixels, stride, before, taps, behind;

    // Of what a layer gives.
    __device__ static Axis forward(int pixels, int kernel, int stride, int before) {
        return {0, 1, pixels, stride, before, kernel, 0};
    }
    // Of what it is given: input pixel p is under tap r of window (p + before - r) / stride, where that is whole.
    __device__ static Axis backward(int phase, int pixels, int kernel, int stride, int before) {
        const auto taps = [=](int of) {
            const int first = (of + before) % stride;
            return first < kernel ? (kernel - 1 - first) / stride + 1 : 0;
        };
        int behind = 0;
        for (int other = 0; other < phase; other++) behind += taps(other);
        const int count = taps(phase), last_window = (phase + before - (phase + before) % stride) / stride;
        const int own = phase < pixels ? (pixels - 1 - phase) / stride + 1 : 0;
        return {phase, stride, own, 1, count - 1 - last_window, count, behind};
    }
};

// Where a row's window begins, and which pixel it is; one that there is not has a window outside of the image.
struct Place {
    int image, y, x, pixel;
};

// What a thread writes at once.
template <typename T> struct alignas(VECTOR) Run {
    T values[VECTOR / sizeof(T)];
};

template <typename T, int M, int N, int DOWN, int ACROSS, int BYTES>
__device__ __forceinline__ void conv(T* out, const T* in, const T* weight, const T* bias, const Shape& shape) {
    using Sums = Products<T, M, N, DOWN, ACROSS, false>;
    using Left = typename Sums::Left;
    using Right = typename Sums::Right;
    constexpr int THREADS = DOWN * ACROSS * WARP, LENGTH = BYTES / sizeof(T);
    // A thread copies the same part of a step for several rows.
    constexpr int PARTS = STEP_BYTES / BYTES, TOGETHER = THREADS / PARTS;
    extern __shared__ __align__(VECTOR) unsigned char shared[];
    __shared__ Place places[M];

    const int group = blockIdx.z % shape.groups, phase = blockIdx.z / shape.groups;
    Axis down, across;
    if (shape.backward) {
        down = Axis::backward(phase / shape.stride_width, shape.out_height, shape.kernel_height, shape.stride_height,
                              shape.top);
        across = Axis::backward(phase % shape.stride_width, shape.out_width, shape.kernel_width, shape.stride_width,
                                shape.left);
    } else {
        down = Axis::forward(shape.out_height, shape.kernel_height, shape.stride_height, shape.top);
        across = Axis::forward(shape.out_width, shape.kernel_width, shape.stride_width, shape.left);
    }
    const int tiles_across = (shape.own_outputs + N - 1) / N;
    const int row = blockIdx.x / tiles_across * M, column = blockIdx.x % tiles_across * N;
    const int pixels = down.pixels * across.pixels, rows = shape.images * pixels;
    const int own = shape.own_inputs, depth = down.taps * across.taps * own;
    const int width = shape.kernel_height * shape.kernel_width * own;
    const int start = (down.behind * shape.kernel_width + down.taps * across.behind) * own;
    const Divider by_own(own), by_taps(max(across.taps, 1));
    take_turn();
    if (row >= rows || (depth == 0 && shape.add)) return;

    for (int i = threadIdx.x; i < M; i += THREADS) {
        Place place{0, -(1 << 28), 0, -1};
        if (row + i < rows) {
            const int image = (row + i) / pixels, within = (row + i) % pixels;
            const int y = within / across.pixels, x = within % across.pixels;
            place.image = image * shape.in_height;
            place.y = y * down.stride - down.before;
            place.x = x * across.stride - across.before;
            place.pixel = (image * shape.out_height + down.first + y * down.every) * shape.out_width + across.first +
                          x * across.every;
        }
        places[i] = place;
    }
    __syncthreads();

    const int part = threadIdx.x % PARTS, line = threadIdx.x / PARTS;
    const T* windows[M / TOGETHER];
    int ys[M / TOGETHER], xs[M / TOGETHER];
#pragma unroll
    for (int i = 0; i < M / TOGETHER; i++) {
        const Place place = places[line + i * TOGETHER];
        const ptrdiff_t pixel = static_cast<ptrdiff_t>(place.image + place.y) * shape.in_width + place.x;
        windows[i] = in + pixel * shape.in_pitch + group * own;
        ys[i] = place.y, xs[i] = place.x;
    }
    const T* weights = weight + static_cast<size_t>(group * shape.own_outputs + column + line) * width + start;
    const size_t hop = static_cast<size_t>(TOGETHER) * width;
    const uint32_t to = shared_address(shared) + part * BYTES;
    const auto load = [&](int stage, int step) {
        const int at = step * Left::DEPTH + part * LENGTH;
        const bool within = at < depth;
        const int tap = by_own(at), channel = at - tap * own, r = by_taps(tap), s = tap - r * across.taps;
        const int under = (r * shape.in_width + s) * shape.in_pitch + channel;
        const uint32_t left = to + stage * (Left::BYTES + Right::BYTES) + line * Left::PITCH, right = left + Left::BYTES;
#pragma unroll
        for (int i = 0; i < M / TOGETHER; i++) {
            const bool valid = within && static_cast<unsigned>(ys[i] + r) < shape.in_height &&
                               static_cast<unsigned>(xs[i] + s) < shape.in_width;
            copy_or_zero<BYTES>(left + i * TOGETHER * Left::PITCH, valid ? windows[i] + under : in, valid);
        }
#pragma unroll
        for (int i = 0; i < N / TOGETHER; i++) {
            const bool valid = within && column + line + i * TOGETHER < shape.own_outputs;
            copy_or_zero<BYTES>(right + i * TOGETHER * Right::PITCH, valid ? weights + i * hop + at : weight, valid);
        }
    };
    Sums sums;
    in_steps((depth + Left::DEPTH - 1) / Left::DEPTH, load, [&](int stage) {
        const unsigned char* left = shared + stage * (Left::BYTES + Right::BYTES);
        sums.add(left, left + Left::BYTES);
    });

    // Through shared memory sums become runs of whole rows.
    constexpr int PITCH = N + 4, RUN = VECTOR / sizeof(T), RUNS = N / RUN;
    static_assert(M * PITCH * sizeof(float) <= STAGES * (Left::BYTES + Right::BYTES));
    float* staged = reinterpret_cast<float*>(shared);
    __syncthreads();
    sums.each([&](int i, int j, const auto& run) {
#pragma unroll
        for (int k = 0; k < sizeof(run) / sizeof(float); k++) staged[i * PITCH + j + k] = run[k];
    });
    __syncthreads();
    const bool whole = shape.own_outputs % RUN == 0;
    for (int at = threadIdx.x; at < M * RUNS; at += THREADS) {
        const int i = at / RUNS, j = at % RUNS * RUN, pixel = places[i].pixel, count = shape.own_outputs - column - j;
        if (pixel < 0 || count <= 0) continue;
        const int output = group * shape.own_outputs + column + j;
        T* to = out + static_cast<size_t>(pixel) * shape.out_pitch + output;
        Run<T> values;
        if (whole && shape.add) values = *reinterpret_cast<const Run<T>*>(to);
#pragma unroll
        for (int k = 0; k < RUN; k++) {
            if (k >= count) break;
            float value = staged[i * PITCH + j + k];
            if (bias) value += to_float(bias[output + k]);
            if (shape.add) value += to_float(whole ? values.values[k] : to[k]);
            values.values[k] = from_float<T>(value);
            if (!whole) to[k] = values.values[k];
        }
        if (whole) *reinterpret_cast<Run<T>*>(to) = values;
    }
}

}  // namespace galley

using namespace galley;

#define GALLEY_CONV(name, T, M, N, DOWN, ACROSS, BYTES)                                                                \
    extern "C" __global__ void __launch_bounds__(DOWN* ACROSS * 32, 512 / (DOWN * ACROSS * 32))                        \
        train_conv_##BYTES##_##M##x##N##_##name(                                                                       \
            T* out, const T* in, const T* weight, const T* bias, int images, int in_height, int in_width,              \
            int in_pitch, int own_inputs, int out_height, int out_width, int out_pitch, int own_outputs, int groups,   \
            int kernel_height, int kernel_width, int stride_height, int stride_width, int top, int left,               \
            int backward, int add) {                                                                                   \
        const galley::Shape shape{images,     in_height,     in_width,     in_pitch,      own_inputs,   out_height,    \
                                  out_width,  out_pitch,     own_outputs,  groups,        kernel_height, kernel_width, \
                                  stride_height, stride_width, top,        left,          backward,     add};          \
        conv<T, M, N, DOWN, ACROSS, BYTES>(out, in, weight, bias, shape);                                              \
    }

#define GALLEY_CONVS(name, T)                 \
    GALLEY_CONV(name, T, 128, 128, 2, 4, 16)  \
    GALLEY_CONV(name, T, 128, 64, 4, 2, 16)   \
    GALLEY_CONV(name, T, 64, 64, 2, 2, 16)    \
    GALLEY_CONV(name, T, 128, 64, 4, 2, 8)    \
    GALLEY_CONV(name, T, 128, 64, 4, 2, 4)

GALLEY_CONVS(f16, __half)
GALLEY_CONVS(f32, float)
