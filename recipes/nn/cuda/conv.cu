// Convolutions on any card, in f16 or f32: pixels by filters, a product whose left side is read from the image as it is
// needed. `conv_sm90.cu` has those that Hopper's asynchronous units compute.
//
// `conv_T(in, scale, shift, weight, bias, residual, out, count, height, width, channels, in_pitch, out_height, out_width,
//         filters, out_pitch, residual_pitch, kernel_height, kernel_width, stride_height, stride_width, top, left, groups,
//         before, activation, after)`
//
//   out = after(activation(weight * before(in * scale + shift) + bias) + residual)
//
//     in [count, height, width, in_pitch], of which `channels` count; weight [filters, kernel_height, kernel_width,
//     channels / groups]; bias f32 [filters]; out [count, out_height, out_width, out_pitch]; residual the same with its own
//     pitch, or null. scale and shift are f32 [channels], or null; then there is no `before`. Places outside the image are
//     zeros of the convolution, not of what is before it. Filters of a group stand together, as do its channels.
//     Sums are f32, in an order that follows from the layer alone. Filters are followed by zeros up to a multiple of 8. Grid
//     (ceil(pixels / 64), ceil((filters a group + 7) / 64), groups), block 256. Arithmetic is the bound: 2 channels / groups kernel flops an output.
#include "common.cuh"

namespace galley {

constexpr int TILE = 64, STEP = 16, EACH = 4;

template <typename T>
__device__ void conv(const T* in, const float* scale, const float* shift, const T* weight, const float* bias,
                     const T* residual, T* out, int count, int height, int width, int channels, int in_pitch,
                     int out_height, int out_width, int filters, int out_pitch, int residual_pitch, int kernel_height,
                     int kernel_width, int stride_height, int stride_width, int top, int left, int groups, int before,
                     int activation, int after) {
    __shared__ float patches[STEP][TILE], taps[STEP][TILE + 4];
    const int own_channels = channels / groups, own_filters = filters / groups, group = blockIdx.z;
    const int depth = kernel_height * kernel_width * own_channels;
    const int pixels = count * out_height * out_width;
    const int first_pixel = blockIdx.x * TILE, first_filter = blockIdx.y * TILE;
    // Loads: a thread has one pixel, or filter, and every fourth place of a step.
    const int lane = threadIdx.x % TILE, turn = threadIdx.x / TILE;
    const int pixel = first_pixel + lane;
    const int x = pixel % out_width * stride_width - left, y = pixel / out_width % out_height * stride_height - top;
    const T* image = in + static_cast<size_t>(pixel / out_width / out_height) * height * width * in_pitch;
    const int filter = first_filter + lane;
    const T* own_weight = weight + static_cast<size_t>(group * own_filters + filter) * depth;
    // Sums: 4 pixels by 4 filters.
    const int down = threadIdx.x / 16 * EACH, across = threadIdx.x % 16 * EACH;
    float sums[EACH][EACH] = {};
    for (int step = 0; step < depth; step += STEP) {
#pragma unroll
        for (int i = 0; i < STEP / 4; i++) {
            const int k = turn + 4 * i, place = step + k;
            float patch = 0.0f, tap = 0.0f;
            if (place < depth) {
                const int channel = group * own_channels + place % own_channels;
                const int column = x + place / own_channels % kernel_width;
                const int row = y + place / own_channels / kernel_width;
                if (pixel < pixels && row >= 0 && row < height && column >= 0 && column < width) {
                    patch = to_float(image[(static_cast<size_t>(row) * width + column) * in_pitch + channel]);
                    if (scale) patch = activated(fmaf(patch, scale[channel], shift[channel]), before);
                }
                if (filter < own_filters) tap = to_float(own_weight[place]);
            }
            patches[k][lane] = patch;
            taps[k][lane] = tap;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < STEP; k++) {
            const float4 a = *reinterpret_cast<const float4*>(&patches[k][down]);
            const float4 b = *reinterpret_cast<const float4*>(&taps[k][across]);
            const float as[EACH] = {a.x, a.y, a.z, a.w}, bs[EACH] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < EACH; i++) {
#pragma unroll
                for (int j = 0; j < EACH; j++) sums[i][j] = fmaf(as[i], bs[j], sums[i][j]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const size_t to = first_pixel + down + i;
        if (to >= pixels) break;
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const int own = first_filter + across + j, number = group * own_filters + own;
            if (own >= own_filters) {
                // The last group's zeros, up to a multiple of 8.
                const int wide = (filters + 7) / 8 * 8;
                if (group == groups - 1 && number < wide) out[to * out_pitch + number] = from_float<T>(0.0f);
                continue;
            }
            float value = activated(sums[i][j] + bias[number], activation);
            if (residual) value += to_float(residual[to * residual_pitch + number]);
            out[to * out_pitch + number] = from_float<T>(activated(value, after));
        }
    }
}

}  // namespace galley

using namespace galley;

#define GALLEY_CONV(name, T)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256) conv_##name(                                                     \
        const T* in, const float* scale, const float* shift, const T* weight, const float* bias, const T* residual,    \
        T* out, int count, int height, int width, int channels, int in_pitch, int out_height, int out_width,           \
        int filters, int out_pitch, int residual_pitch, int kernel_height, int kernel_width, int stride_height,        \
        int stride_width, int top, int left, int groups, int before, int activation, int after) {                      \
        galley::take_turn();                                                                                           \
        conv<T>(in, scale, shift, weight, bias, residual, out, count, height, width, channels, in_pitch, out_height,   \
                out_width, filters, out_pitch, residual_pitch, kernel_height, kernel_width, stride_height,             \
                stride_width, top, left, groups, before, activation, after);                                           \
    }

GALLEY_CONV(f16, __half)
GALLEY_CONV(f32, float)
