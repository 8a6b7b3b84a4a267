// What image networks take from all pixels: the gates of squeeze-excite, and the mean before the last layer.
//
// Images are [n, pixels, channels], f16 or f32; sums are f32. Weights are prepared by the host as each kernel says; pointers
// are aligned to 16 bytes. An image's result depends neither on the batch nor on its place in it.
//
// `squeeze_excite_f16(partials, reduce, reduce_bias, expand, expand_bias, gates, images, tiles, pixels, channels,
//                     squeezed)`
//     From the sums of a depthwise convolution to `sigmoid(expand silu(reduce means + reduce_bias) + expand_bias)`.
//     partials f32 [images, tiles, channels], of `pixels` pixels; reduce [squeezed, channels]; expand turned around,
//     [squeezed, channels]; biases f32; gates [images, channels]. channels is a multiple of 8. Grid images, block
//     512. Shared memory: 4 (channels + squeezed rounded up to 4 + along * channels) bytes, where along is 512 /
//     (channels / 8), in f32 512 / (channels / 4), but at least 1.
//     Bytes 4 squeezed channels from L2 an image. Latency is the bound.
//
// `squeeze_excite_f32`
//     The same, all in f32.
//
// `mean_f16(in, out, pixels, channels)`, `mean_f32`
//     [images, pixels, channels] -> [images, channels]; channels is even. Grid (ceil(channels / 64), images), block
//     256. Memory is the bound.
#include "tile.cuh"

namespace galley {

struct SqueezeShape {
    int images, tiles, channels, squeezed;
    float share;  // one over the number of pixels
};

constexpr int SQUEEZE_THREADS = 512;

// A vector of storage as floats.
template <typename T> struct Vector {
    static constexpr int LENGTH = VECTOR / sizeof(T);
    float values[LENGTH];

    __device__ __forceinline__ explicit Vector(const T* from) {
        const uint4 packed = __ldg(reinterpret_cast<const uint4*>(from));
        const T* parts = reinterpret_cast<const T*>(&packed);
#pragma unroll
        for (int i = 0; i < LENGTH; i++) values[i] = to_float(parts[i]);
    }
};

// `IMAGES` images in a block of threads, which read the weights once for all of them. Each sum is made in an order that
// depends on the number of channels alone.
template <typename T, int IMAGES> struct SqueezeExcite {
    static constexpr int LENGTH = Vector<T>::LENGTH;

    const SqueezeShape& shape;
    int images;      // of `IMAGES`, those that there are
    float* means;    // [IMAGES, channels]
    float* hidden;   // [IMAGES, squeezed], rounded up to vectors
    float* scratch;  // [threads that share channels, IMAGES, channels]

    __device__ __forceinline__ SqueezeExcite(const SqueezeShape& shape, int first, float* shared)
        : shape(shape), images(min(IMAGES, shape.images - first)), means(shared),
          hidden(means + IMAGES * shape.channels), scratch(hidden + (IMAGES * shape.squeezed + 3) / 4 * 4) {}

    // Of the parts that threads have made in `scratch`, [along, images, channels]; `then(image, channel, sum)`.
    template <typename Then> __device__ __forceinline__ void total(int along, Then then) const {
        for (int j = threadIdx.x; j < images * shape.channels; j += SQUEEZE_THREADS) {
            const int channel = j % shape.channels, image = j / shape.channels;
            float sum = 0;
            for (int part = 0; part < along; part++) {
                sum += scratch[(part * IMAGES + image) * shape.channels + channel];
            }
            then(image, channel, sum);
        }
    }

    // Threads that share channels sum every so many of the tiles.
    __device__ __forceinline__ void take_means(const float* partials) const {
        const int vectors = shape.channels / 4, along = max(1, SQUEEZE_THREADS / vectors);
        for (int j = threadIdx.x; j < along * vectors; j += SQUEEZE_THREADS) {
            const int channel = j % vectors * 4, part = j / vectors;
#pragma unroll
            for (int i = 0; i < IMAGES; i++) {
                if (i >= images) break;
                const float* from = partials + static_cast<size_t>(i) * shape.tiles * shape.channels + channel;
                float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 4
                for (int tile = part; tile < shape.tiles; tile += along) {
                    const float* at = from + static_cast<size_t>(tile) * shape.channels;
                    const float4 x = __ldg(reinterpret_cast<const float4*>(at));
                    sum = make_float4(sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w);
                }
                *reinterpret_cast<float4*>(scratch + (part * IMAGES + i) * shape.channels + channel) = sum;
            }
        }
        __syncthreads();
        total(along, [&](int image, int channel, float sum) {
            means[image * shape.channels + channel] = sum * shape.share;
        });
        __syncthreads();
    }

    // The first layer: a warp has a row of the weights.
    __device__ __forceinline__ void squeeze(const T* weight, const float* bias) const {
        const int lane = threadIdx.x % WARP;
#pragma unroll 2
        for (int row = threadIdx.x / WARP; row < shape.squeezed; row += SQUEEZE_THREADS / WARP) {
            float sums[IMAGES] = {};
#pragma unroll 4
            for (int channel = lane * LENGTH; channel < shape.channels; channel += WARP * LENGTH) {
                const Vector<T> w(weight + static_cast<size_t>(row) * shape.channels + channel);
#pragma unroll
                for (int i = 0; i < IMAGES; i++) {
                    const float* x = means + i * shape.channels + channel;
#pragma unroll
                    for (int k = 0; k < LENGTH; k++) sums[i] = fmaf(w.values[k], x[k], sums[i]);
                }
            }
#pragma unroll
            for (int i = 0; i < IMAGES; i++) {
                const float sum = warp_sum(sums[i]);
                if (lane == 0) hidden[i * shape.squeezed + row] = quick_activate<SILU>(sum + __ldg(bias + row));
            }
        }
        __syncthreads();
    }

    // The second layer, whose weights are turned around: threads that share channels sum every so many of the rows.
    __device__ __forceinline__ void excite(const T* weight, const float* bias, T* gates) const {
        const int vectors = shape.channels / LENGTH, along = max(1, SQUEEZE_THREADS / vectors);
        for (int j = threadIdx.x; j < along * vectors; j += SQUEEZE_THREADS) {
            const int channel = j % vectors * LENGTH, part = j / vectors;
            float sums[IMAGES][LENGTH] = {};
#pragma unroll 4
            for (int row = part; row < shape.squeezed; row += along) {
                const Vector<T> w(weight + static_cast<size_t>(row) * shape.channels + channel);
#pragma unroll
                for (int i = 0; i < IMAGES; i++) {
                    const float x = hidden[i * shape.squeezed + row];
#pragma unroll
                    for (int k = 0; k < LENGTH; k++) sums[i][k] = fmaf(w.values[k], x, sums[i][k]);
                }
            }
#pragma unroll
            for (int i = 0; i < IMAGES; i++) {
                float* to = scratch + (part * IMAGES + i) * shape.channels + channel;
#pragma unroll
                for (int k = 0; k < LENGTH; k++) to[k] = sums[i][k];
            }
        }
        __syncthreads();
        total(along, [&](int image, int channel, float sum) {
            gates[static_cast<size_t>(image) * shape.channels + channel] =
                from_float<T>(quick_sigmoid(sum + __ldg(bias + channel)));
        });
    }
};

template <typename T, int IMAGES>
__device__ __forceinline__ void squeeze_excite(const float* partials, const T* reduce, const float* reduce_bias,
                                               const T* expand, const float* expand_bias, T* gates,
                                               const SqueezeShape& shape) {
    extern __shared__ __align__(16) float floats[];
    const int first = blockIdx.x * IMAGES;
    const SqueezeExcite<T, IMAGES> layer(shape, first, floats);
    layer.take_means(partials + static_cast<size_t>(first) * shape.tiles * shape.channels);
    layer.squeeze(reduce, reduce_bias);
    layer.excite(expand, expand_bias, gates + static_cast<size_t>(first) * shape.channels);
}

// One image was as fast as more in a block of threads, or faster, in batches up to 256.
constexpr int SQUEEZE_IMAGES = 1;

#define SQUEEZE_EXCITE(NAME, T)                                                                                        \
    extern "C" __global__ void __launch_bounds__(SQUEEZE_THREADS) squeeze_excite_##NAME(                               \
        const float* partials, const T* reduce, const float* reduce_bias, const T* expand, const float* expand_bias,   \
        T* gates, int images, int tiles, int pixels, int channels, int squeezed) {                                     \
        galley::take_turn();                                                                                           \
        squeeze_excite<T, SQUEEZE_IMAGES>(partials, reduce, reduce_bias, expand, expand_bias, gates,                   \
                                          {images, tiles, channels, squeezed, 1.0f / pixels});                         \
    }

SQUEEZE_EXCITE(f16, __half)
SQUEEZE_EXCITE(f32, float)

// ---- The mean over all pixels. ----

constexpr int MEAN_WARPS = 8;

template <typename T> __device__ __forceinline__ void mean(const T* in, T* out, int pixels, int channels) {
    __shared__ float2 sums[MEAN_WARPS][WARP];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int channel = (blockIdx.x * WARP + lane) * 2;
    float2 sum = make_float2(0, 0);
    if (channel < channels) {
        const T* from = in + static_cast<size_t>(blockIdx.y) * pixels * channels + channel;
#pragma unroll 8
        for (int pixel = warp; pixel < pixels; pixel += MEAN_WARPS) {
            const float2 x = load_pair(from + static_cast<size_t>(pixel) * channels);
            sum = make_float2(sum.x + x.x, sum.y + x.y);
        }
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || channel >= channels) return;
#pragma unroll
    for (int other = 1; other < MEAN_WARPS; other++) {
        sum = make_float2(sum.x + sums[other][lane].x, sum.y + sums[other][lane].y);
    }
    const float share = 1.0f / pixels;
    store_pair(out + static_cast<size_t>(blockIdx.y) * channels + channel, make_float2(sum.x * share, sum.y * share));
}

extern "C" __global__ void __launch_bounds__(MEAN_WARPS* WARP)
    mean_f16(const __half* in, __half* out, int pixels, int channels) {
    galley::take_turn();
    mean(in, out, pixels, channels);
}
extern "C" __global__ void __launch_bounds__(MEAN_WARPS* WARP)
    mean_f32(const float* in, float* out, int pixels, int channels) {
    galley::take_turn();
    mean(in, out, pixels, channels);
}

}  // namespace galley
