// The stem of image networks: a 3x3 convolution of stride 2, from pixels as they are decoded or from what they mean.
//
// Weights are prepared by the host as each kernel says; pointers are aligned to 16 bytes. `activation` is an `Activation`:
// none, ReLU6 or SiLU. `top` and `left` are rows and columns of zeros before the image; what is missing behind it, up to the
// output's size, is zeros too. Sums are f32. An image's result depends neither on the batch nor on its place in it.
//
// `stem_f16_bytes(pixels, scale, shift, weight, bias, out, images, height, width, channels, top, left, out_height,
//                 out_width, activation)`
// `stem_f16_floats(pixels, weight, bias, out, images, ..)`, the same without `scale` and `shift`
//     A 3x3 convolution of stride 2. pixels u8 [images, height, width, 3], which mean `byte * scale[colour] +
//     shift[colour]` (f32 [3] each, computed in f32 before the zeros are put around the image), or f32 that mean what
//     they are. Both are rounded to f16. weight f16 [channels, 32], k = ky * 10 + kx * 3 + colour and zeros
//     elsewhere; bias f32 [channels]; out f16 [images, out_height, out_width, channels]. channels is a multiple of 8.
//     Grid (ceil(out_width / 48), ceil(out_height / 4), images), block 128, no dynamic shared memory. Bytes: pixels +
//     2 out; flops 54 out. Memory is the bound.
//
// `stem_f32_bytes`, `stem_f32_floats`
//     The same in f32: weight f32 [27, channels], row (ky * 3 + kx) * 3 + colour; channels a multiple of 4.
//     Grid ceil(images * out_height * out_width / 128), block 128.
#include "tile.cuh"

namespace galley {

constexpr int COLOURS = 3;

struct StemShape {
    int images, height, width, channels;
    int top, left;  // rows and columns of zeros before the image
    int out_height, out_width;
    int activation;
};

// Images as they are decoded, and what their bytes mean: `byte * scale + shift`, for each colour.
struct Bytes {
    const uint8_t* values;
    const float* scale;
    const float* shift;
    long long count;

    __device__ __forceinline__ float at(size_t index, int colour) const {
        return fmaf(static_cast<float>(__ldg(values + index)), __ldg(scale + colour), __ldg(shift + colour));
    }

    // Four of them, of which those that are not there are zero.
    __device__ __forceinline__ uint32_t word(long long index) const {
        if (index >= 0 && index < count / 4) return __ldg(reinterpret_cast<const uint32_t*>(values) + index);
        uint32_t word = 0;
        for (int byte = 0; index == count / 4 && byte < count % 4; byte++) {
            word |= static_cast<uint32_t>(values[index * 4 + byte]) << (8 * byte);
        }
        return word;
    }
};

// Pixels that mean what they are.
struct Floats {
    const float* values;

    __device__ __forceinline__ float at(size_t index, int) const { return __ldg(values + index); }
};

// The pixels under some windows of the output, in f16, with zeros around the image.
struct Patch {
    static constexpr int ROWS = 4, COLUMNS = 48;  // of the output; a warp computes a row
    static constexpr int THREADS = ROWS * WARP;
    // Of the input. Four pixels are three words; the last value under a window is read with the one after it.
    static constexpr int LINES = 2 * ROWS + 1, GROUP = 4, GROUPS = 2 * COLUMNS / GROUP + 1;
    static constexpr int VALUES = GROUPS * GROUP * COLOURS;

    __half values[LINES][VALUES];

    __device__ __forceinline__ void fill(const Bytes& bytes, const StemShape& shape, int image, int row, int column) {
        const float scale[] = {__ldg(bytes.scale), __ldg(bytes.scale + 1), __ldg(bytes.scale + 2)};
        const float shift[] = {__ldg(bytes.shift), __ldg(bytes.shift + 1), __ldg(bytes.shift + 2)};
        for (int i = threadIdx.x; i < LINES * GROUPS; i += THREADS) {
            const int line = i / GROUPS, group = i % GROUPS, y = row + line, x = column + group * GROUP;
            const bool inside = y >= 0 && y < shape.height;
            uint32_t words[COLOURS] = {};
            if (inside) {
                const long long line_start = (static_cast<long long>(image) * shape.height + y) * shape.width;
                const long long first = (line_start + x) * COLOURS;
                uint32_t word = bytes.word(first >> 2);
#pragma unroll
                for (int w = 0; w < COLOURS; w++) {
                    const uint32_t next = bytes.word((first >> 2) + w + 1);
                    words[w] = __funnelshift_r(word, next, (first & 3) * 8);
                    word = next;
                }
            }
            float value[GROUP * COLOURS];
#pragma unroll
            for (int v = 0; v < GROUP * COLOURS; v++) {
                const int pixel = x + v / COLOURS, colour = v % COLOURS;
                const float byte = static_cast<float>(words[v / 4] >> (v % 4 * 8) & 255);
                const bool there = inside && pixel >= 0 && pixel < shape.width;
                value[v] = there ? fmaf(byte, scale[colour], shift[colour]) : 0.0f;
            }
            uint2* to = reinterpret_cast<uint2*>(&values[line][group * GROUP * COLOURS]);
#pragma unroll
            for (int v = 0; v < COLOURS; v++) {
                to[v] = make_uint2(pack_halves(value[4 * v], value[4 * v + 1]),
                                   pack_halves(value[4 * v + 2], value[4 * v + 3]));
            }
        }
    }

    __device__ __forceinline__ void fill(const Floats& floats, const StemShape& shape, int image, int row, int column) {
        for (int i = threadIdx.x; i < LINES * VALUES; i += THREADS) {
            const int line = i / VALUES, to = i % VALUES, y = row + line, x = column * COLOURS + to;
            const bool there = y >= 0 && y < shape.height && x >= 0 && x < shape.width * COLOURS;
            const size_t at = (static_cast<size_t>(image) * shape.height + y) * shape.width * COLOURS + x;
            values[line][to] = __float2half_rn(there ? __ldg(floats.values + at) : 0.0f);
        }
    }

    // Pairs of neighbours under a window, as a product's k: five of a line, of which the last value counts for
    // nothing.
    static constexpr int PAIRS = 5, KERNEL = 3;
    __device__ __forceinline__ uint32_t pair(int row, int column, int pair) const {
        pair = min(pair, PAIRS * KERNEL - 1);
        const __half* at = &values[2 * row + pair / PAIRS][column * 2 * COLOURS + pair % PAIRS * 2];
        return *reinterpret_cast<const uint32_t*>(at);
    }
};

// A 3x3 convolution of stride 2 as a product: k is the 27 values under a window, a line's nine followed by a zero.
template <typename Pixels>
__device__ __forceinline__ void stem(const Pixels& pixels, const __half* weight, const float* bias, __half* out,
                                     const StemShape& shape) {
    constexpr int WIDE = 32, K = 32;
    using Out = Staged<1, WIDE / 8>;
    __shared__ __align__(16) Patch patch;
    __shared__ __align__(16) unsigned char staged[Patch::ROWS][Out::BYTES];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int first_column = blockIdx.x * Patch::COLUMNS, first_row = blockIdx.y * Patch::ROWS, image = blockIdx.z;
    patch.fill(pixels, shape, image, first_row * 2 - shape.top, first_column * 2 - shape.left);
    __syncthreads();
    if (first_row + warp >= shape.out_height) return;

    const int line = (image * shape.out_height + first_row + warp) * shape.out_width;
    const Finish finish{bias, nullptr, out, line + shape.out_width, shape.channels, shape.activation};
    for (int channel = 0; channel < shape.channels; channel += WIDE) {
        uint32_t weights[WIDE / 8][K / 8];
        for (int j = 0; j < WIDE / 8; j++) {
            const int row = min(channel + j * 8 + lane / 4, shape.channels - 1);
            const uint32_t* from = reinterpret_cast<const uint32_t*>(weight + static_cast<size_t>(row) * K);
            for (int k = 0; k < K / 8; k++) weights[j][k] = __ldg(from + k * 4 + lane % 4);
        }
#pragma unroll 1
        for (int column = 0; column < Patch::COLUMNS && first_column + column < shape.out_width; column += 16) {
            Sums<WIDE / 8> sums[1];
            Out::start(sums, finish, channel);
            for (int k = 0; k < K / 16; k++) {
                uint32_t window[4];
                for (int i = 0; i < 4; i++) {
                    window[i] = patch.pair(warp, column + lane / 4 + i % 2 * 8, k * 8 + i / 2 * 4 + lane % 4);
                }
                for (int j = 0; j < WIDE / 8; j++) {
                    multiply_add(sums[0][j], window, weights[j][2 * k], weights[j][2 * k + 1]);
                }
            }
            Out::finish(sums, staged[warp], finish, line + first_column + column, channel);
        }
    }
}

__device__ __forceinline__ long long byte_count(int images, int height, int width) {
    return static_cast<long long>(images) * height * width * COLOURS;
}

extern "C" __global__ void __launch_bounds__(Patch::THREADS)
    stem_f16_bytes(const uint8_t* pixels, const float* scale, const float* shift, const __half* weight,
                   const float* bias, __half* out, int images, int height, int width, int channels, int top, int left,
                   int out_height, int out_width, int activation) {
    galley::take_turn();
    stem(Bytes{pixels, scale, shift, byte_count(images, height, width)}, weight, bias, out,
         {images, height, width, channels, top, left, out_height, out_width, activation});
}

extern "C" __global__ void __launch_bounds__(Patch::THREADS)
    stem_f16_floats(const float* pixels, const __half* weight, const float* bias, __half* out, int images, int height,
                    int width, int channels, int top, int left, int out_height, int out_width, int activation) {
    galley::take_turn();
    stem(Floats{pixels}, weight, bias, out,
         {images, height, width, channels, top, left, out_height, out_width, activation});
}

__device__ __forceinline__ float activate_as(int activation, float x) {
    return activation == SILU ? quick_activate<SILU>(x) : activation == RELU6 ? relu6(x) : x;
}

// The plain stem: a thread computes a pixel's channels, four at a time.
template <typename Pixels>
__device__ __forceinline__ void plain_stem(const Pixels& pixels, const float* weight, const float* bias, float* out,
                                           const StemShape& shape) {
    constexpr int KERNEL = 3, TAPS = KERNEL * KERNEL * COLOURS;
    const int line = shape.out_height * shape.out_width;
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= shape.images * line) return;
    const int image = index / line, row = index % line / shape.out_width, column = index % line % shape.out_width;
    float window[TAPS];
#pragma unroll
    for (int tap = 0; tap < TAPS; tap++) {
        const int y = row * 2 - shape.top + tap / (KERNEL * COLOURS);
        const int x = column * 2 - shape.left + tap / COLOURS % KERNEL;
        const bool there = y >= 0 && y < shape.height && x >= 0 && x < shape.width;
        const size_t at = ((static_cast<size_t>(image) * shape.height + y) * shape.width + x) * COLOURS + tap % COLOURS;
        window[tap] = there ? pixels.at(at, tap % COLOURS) : 0.0f;
    }
    for (int channel = 0; channel < shape.channels; channel += 4) {
        float4 sum = __ldg(reinterpret_cast<const float4*>(bias + channel));
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++) {
            const float4 w = __ldg(reinterpret_cast<const float4*>(weight + tap * shape.channels + channel));
            sum.x = fmaf(window[tap], w.x, sum.x);
            sum.y = fmaf(window[tap], w.y, sum.y);
            sum.z = fmaf(window[tap], w.z, sum.z);
            sum.w = fmaf(window[tap], w.w, sum.w);
        }
        *reinterpret_cast<float4*>(out + static_cast<size_t>(index) * shape.channels + channel) =
            make_float4(activate_as(shape.activation, sum.x), activate_as(shape.activation, sum.y),
                        activate_as(shape.activation, sum.z), activate_as(shape.activation, sum.w));
    }
}

constexpr int PLAIN_STEM_THREADS = 128;

extern "C" __global__ void __launch_bounds__(PLAIN_STEM_THREADS)
    stem_f32_bytes(const uint8_t* pixels, const float* scale, const float* shift, const float* weight,
                   const float* bias, float* out, int images, int height, int width, int channels, int top, int left,
                   int out_height, int out_width, int activation) {
    galley::take_turn();
    plain_stem(Bytes{pixels, scale, shift, byte_count(images, height, width)}, weight, bias, out,
               {images, height, width, channels, top, left, out_height, out_width, activation});
}

extern "C" __global__ void __launch_bounds__(PLAIN_STEM_THREADS)
    stem_f32_floats(const float* pixels, const float* weight, const float* bias, float* out, int images, int height,
                    int width, int channels, int top, int left, int out_height, int out_width, int activation) {
    galley::take_turn();
    plain_stem(Floats{pixels}, weight, bias, out,
               {images, height, width, channels, top, left, out_height, out_width, activation});
}

}  // namespace galley
