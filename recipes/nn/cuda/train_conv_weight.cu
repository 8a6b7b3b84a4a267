// Convolutions in training on any card: the gradient of the weight, a product of outputs by values under a window that sums
// over all pixels. What is summed over is shared out, and the shares are added in order.
//
// `train_conv_weight_BYTES_MxN_T(parts, x, dy, images, in_height, in_width, in_pitch, own_inputs, out_height, out_width,
//         out_pitch, own_outputs, kernel_height, kernel_width, stride_height, stride_width, top, left, share, merged, inputs,
//         outputs, wide, narrow)`
//
//     x T [images, in_height, in_width, in_pitch], dy T [images, out_height, out_width, out_pitch], the channels of all groups,
//     own_inputs and own_outputs each, both multiples of what BYTES hold. A group of them is `merged` of the layer's, which
//     have `inputs` and `outputs` each, and zeros behind; of each `wide` of own_inputs only the first `narrow` are inputs at all.
//     parts f32 [shares, groups * merged * outputs, taps, inputs]: of each `share` pixels what belongs to the layer.
//   parts(o, r, s, i) = sum over pixels y, x of dy(y, x, o) x(y * stride - top + r, x * stride - left + s, i)
//   Grid (ceil(own_outputs / M) ceil(taps own_inputs / N), ceil(pixels / share), groups); block 256, of 64x64 128; dynamic
//   shared memory 4 * 64 (M + N) + 4 * 32 * 16 DEPTH, where DEPTH is 1 in f16 and 1/2 in f32. Arithmetic is the bound.
//
// `train_conv_sum_T(out, parts, count, shares)`: f32, out[i] = sum over shares of parts[share, i], in order. Grid
//     ceil(count / 256), block 256. Memory is the bound.
// `train_conv_sum_many_T(out, parts, count, shares)`: the same of few values, in an order that follows from how many shares there
//     are. Grid ceil(count / 32), block 512. What memory takes to answer is the bound.
#include "train_conv.cuh"

namespace galley {

struct Gradient {
    int images, in_height, in_width, in_pitch, own_inputs, out_height, out_width, out_pitch, own_outputs, kernel_height,
        kernel_width, stride_height, stride_width, top, left, share, merged, inputs, outputs, wide,
        narrow;
};

template <typename T, int M, int N, int DOWN, int ACROSS, int BYTES>
__device__ __forceinline__ void weight_gradient(float* parts, const T* x, const T* dy, const Gradient& shape) {
    using Sums = Products<T, M, N, DOWN, ACROSS, true>;
    using Left = typename Sums::Left;
    using Right = typename Sums::Right;
    constexpr int THREADS = DOWN * ACROSS * WARP, LENGTH = BYTES / sizeof(T), DEPTH = Left::DEPTH;
    // A thread copies the same channels of several pixels.
    constexpr int OUTPUT_PARTS = M / LENGTH, INPUT_PARTS = N / LENGTH;
    extern __shared__ __align__(VECTOR) unsigned char shared[];

    const int taps = shape.kernel_height * shape.kernel_width, columns = taps * shape.own_inputs;
    const int tiles_across = (columns + N - 1) / N;
    const int row = blockIdx.x / tiles_across * M, column = blockIdx.x % tiles_across * N, group = blockIdx.z;
    const int image_pixels = shape.out_height * shape.out_width;
    const int first = blockIdx.y * shape.share;
    const int last = min(first + shape.share, shape.images * image_pixels);
    const Divider by_image(image_pixels), by_width(shape.out_width);

    const int output_line = threadIdx.x / OUTPUT_PARTS, output = row + threadIdx.x % OUTPUT_PARTS * LENGTH;
    const T* outputs = dy + group * shape.own_outputs + output;
    const bool output_there = output < shape.own_outputs;

    const int input_line = threadIdx.x / INPUT_PARTS, place = column + threadIdx.x % INPUT_PARTS * LENGTH;
    const int tap = place / shape.own_inputs, channel = place % shape.own_inputs;
    const int down = tap / shape.kernel_width - shape.top, across = tap % shape.kernel_width - shape.left;
    const T* inputs = x + group * shape.own_inputs + channel;
    const bool input_there = place < columns;
    const uint32_t output_to = shared_address(shared) + threadIdx.x % OUTPUT_PARTS * BYTES;
    const uint32_t input_to = shared_address(shared) + Left::BYTES + threadIdx.x % INPUT_PARTS * BYTES;
    take_turn();

    const auto load = [&](int stage, int step) {
        const int offset = stage * (Left::BYTES + Right::BYTES), from = first + step * DEPTH;
#pragma unroll
        for (int k = output_line; k < DEPTH; k += THREADS / OUTPUT_PARTS) {
            const bool valid = output_there && from + k < last;
            const size_t pixel = from + k;
            copy_or_zero<BYTES>(output_to + offset + k * Left::PITCH, valid ? outputs + pixel * shape.out_pitch : dy, valid);
        }
#pragma unroll
        for (int k = input_line; k < DEPTH; k += THREADS / INPUT_PARTS) {
            const int image = by_image(from + k), within = from + k - image * image_pixels;
            const int line = by_width(within), along = within - line * shape.out_width;
            const int y = line * shape.stride_height + down, x_at = along * shape.stride_width + across;
            const bool valid = input_there && from + k < last && static_cast<unsigned>(y) < shape.in_height &&
                               static_cast<unsigned>(x_at) < shape.in_width;
            const size_t pixel = (image * shape.in_height + y) * shape.in_width + x_at;
            copy_or_zero<BYTES>(input_to + offset + k * Right::PITCH, valid ? inputs + pixel * shape.in_pitch : x, valid);
        }
    };
    Sums sums;
    in_steps((last - first + DEPTH - 1) / DEPTH, load, [&](int stage) {
        const unsigned char* left = shared + stage * (Left::BYTES + Right::BYTES);
        sums.add(left, left + Left::BYTES);
    });

    const Divider by_inputs(shape.inputs), by_outputs(shape.outputs), by_own(shape.own_inputs);
    const Divider by_wide(shape.wide);
    const int merged_outputs = shape.merged * shape.outputs, merged_inputs = shape.merged * shape.inputs;
    const int all_outputs = gridDim.z * merged_outputs;
    float* to = parts + static_cast<size_t>(blockIdx.y) * all_outputs * taps * shape.inputs;
    sums.each([&](int i, int j, const auto& run) {
        constexpr int RUN = sizeof(run) / sizeof(float);
        const int own_output = row + i, part = by_outputs(own_output);
        if (own_output >= merged_outputs) return;
        const size_t line = static_cast<size_t>(group * merged_outputs + own_output) * taps;
#pragma unroll
        for (int k = 0; k < RUN; k++) {
            const int at = column + j + k, tap = by_own(at), place = at - tap * shape.own_inputs;
            const int run_of = by_wide(place), within = place - run_of * shape.wide;
            const int input = run_of * shape.narrow + within;
            if (at >= columns || within >= shape.narrow || input >= merged_inputs || by_inputs(input) != part) continue;
            to[(line + tap) * shape.inputs + input - part * shape.inputs] = run[k];
        }
    });
}

__device__ __forceinline__ void sum_parts(float* out, const float* parts, int count, int shares) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    take_turn();
    if (at >= count) return;
    float sum = 0.0f;
#pragma unroll 8
    for (int share = 0; share < shares; share++) sum += parts[static_cast<size_t>(share) * count + at];
    out[at] = sum;
}

__device__ __forceinline__ void sum_many_parts(float* out, const float* parts, int count, int shares) {
    constexpr int LINES = 16;
    __shared__ float sums[LINES][WARP];
    const int lane = threadIdx.x % WARP, line = threadIdx.x / WARP, at = blockIdx.x * WARP + lane;
    take_turn();
    float sum = 0.0f;
    if (at < count) {
#pragma unroll 8
        for (int share = line; share < shares; share += LINES) sum += parts[static_cast<size_t>(share) * count + at];
    }
    sums[line][lane] = sum;
    __syncthreads();
    if (line > 0 || at >= count) return;
#pragma unroll
    for (int other = 1; other < LINES; other++) sum += sums[other][lane];
    out[at] = sum;
}

}  // namespace galley

using namespace galley;

#define GALLEY_CONV_WEIGHT(name, T, M, N, DOWN, ACROSS, BYTES)                                                         \
    extern "C" __global__ void __launch_bounds__(DOWN* ACROSS * 32, 512 / (DOWN * ACROSS * 32))                        \
        train_conv_weight_##BYTES##_##M##x##N##_##name(                                                                \
            float* parts, const T* x, const T* dy, int images, int in_height, int in_width, int in_pitch,              \
            int own_inputs, int out_height, int out_width, int out_pitch, int own_outputs, int kernel_height,          \
            int kernel_width, int stride_height, int stride_width, int top, int left, int share, int merged,           \
            int inputs, int outputs, int wide, int narrow) {                                                           \
        const Gradient shape{images,       in_height,     in_width,     in_pitch, own_inputs, out_height, out_width,   \
                             out_pitch,    own_outputs,   kernel_height, kernel_width, stride_height, stride_width,    \
                             top,          left,          share,        merged,   inputs,     outputs,    wide,        \
                             narrow};                                                                                  \
        weight_gradient<T, M, N, DOWN, ACROSS, BYTES>(parts, x, dy, shape);                                            \
    }

#define GALLEY_CONV_WEIGHTS(name, T)                                                                           \
    GALLEY_CONV_WEIGHT(name, T, 128, 128, 2, 4, 16)                                                            \
    GALLEY_CONV_WEIGHT(name, T, 64, 128, 2, 4, 16)                                                             \
    GALLEY_CONV_WEIGHT(name, T, 64, 64, 2, 2, 16)                                                              \
    GALLEY_CONV_WEIGHT(name, T, 64, 64, 2, 2, 8)                                                               \
    GALLEY_CONV_WEIGHT(name, T, 64, 64, 2, 2, 4)                                                               \
    extern "C" __global__ void train_conv_sum_##name(float* out, const float* parts, int count, int shares) {  \
        sum_parts(out, parts, count, shares);                                                                  \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(512)                                                          \
        train_conv_sum_many_##name(float* out, const float* parts, int count, int shares) {                    \
        sum_many_parts(out, parts, count, shares);                                                             \
    }

GALLEY_CONV_WEIGHTS(f16, __half)
GALLEY_CONV_WEIGHTS(f32, float)
