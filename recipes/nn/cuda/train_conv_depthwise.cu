// Depthwise convolutions in training: each channel by itself.
//
// x T [images, in_height, in_width, channels], y and dy T [images, out_height, out_width, channels], weight T [channels, K, K], or
// [channels, kernel_height, kernel_width]; V divides the channels. A thread has V neighbouring channels, of which `lanes`, at most
// 32, stand side by side in a block; others follow along the grid's second axis. A block has 256 / lanes strips of four pixels
// of a line at a time, or pixels, and does a share of them all, neighbours one after the other, as these see the same lines.
//
// `train_depthwise_K_S_V_T(out, in, weight, bias, images, in_height, in_width, channels, out_height, out_width, top, left, lanes,
//         share, flip, add)`
//     out(y, x) = bias + sum over r, s of weight(r, s) in(y S - top + r, x S - left + s), or weight(K - 1 - r, K - 1 - s) where
//     `flip`: so that with S = 1 it is the gradient of a layer's input as well, in being dy, and top and left K - 1 less the layer's.
//     bias T [channels], or null. Where `add`, out is added to.
//     Grid (ceil(strips / share), ceil(channels / (V lanes))), block 256, dynamic shared memory K K V 128.
// `train_depthwise_any_V_T(out, in, weight, bias, images, in_height, in_width, channels, out_height, out_width, kernel_height,
//         kernel_width, stride_height, stride_width, top, left, lanes, share, backward, add)`
//     The same of any window; where `backward`, in is dy, out is dx, and the window is the layer's. Strips are single pixels.
// `train_depthwise_back_K_V_T(out, in, weight, images, in_height, in_width, channels, out_height, out_width, lanes, share, add)`
//     The gradient of what came in of a layer with a stride of 2 and K / 2 pixels of padding: in is dy, out is dx. Grid and
//     memory as the first's.
// `train_depthwise_weight_K_S_V_T(parts, x, dy, images, in_height, in_width, channels, out_height, out_width, top, left, lanes,
//         share)`
//     parts f32 [shares, channels, K, K], which `train_conv_sum` adds. Grid as above, dynamic shared memory V 1024.
// `train_depthwise_weight_any_T(parts, x, dy, images, in_height, in_width, channels, out_height, out_width, kernel_height,
//         kernel_width, stride_height, stride_width, top, left, share)`
//     The same of any window. Grid (ceil(channels / 32), taps, ceil(pixels / share)), block 256.
// All but the last are bound by memory.
#include "train_conv.cuh"

namespace galley {

constexpr int THREADS = 256, STRIP = 4;

template <typename T, int V> struct alignas(V * sizeof(T)) Run {
    T values[V];
    __device__ __forceinline__ float operator[](int i) const { return to_float(values[i]); }
    __device__ __forceinline__ void get(float (&to)[V]) const {
#pragma unroll
        for (int i = 0; i < V; i++) to[i] = (*this)[i];
    }
    __device__ __forceinline__ static Run of(const T* from, bool valid) {
        Run run;
        if (valid) {
            run = *reinterpret_cast<const Run*>(from);
        } else {
#pragma unroll
            for (int i = 0; i < V; i++) run.values[i] = from_float<T>(0.0f);
        }
        return run;
    }
};

struct Images {
    int count, in_height, in_width, channels, out_height, out_width, top, left;
};

// A block's weights in shared memory, in f32, the channels of a thread side by side.
template <int V> struct Taps {
    float* values;
    int lanes;
    __device__ __forceinline__ float* at(int tap, int lane) const { return values + (tap * lanes + lane) * V; }
    template <typename T>
    __device__ __forceinline__ void put(const T* weight, int taps, int first, int channels, bool flip) const {
        for (int i = threadIdx.x; i < lanes * V * taps; i += THREADS) {
            const int channel = i / taps, tap = i % taps;
            if (first + channel >= channels) break;
            const float value = to_float(weight[static_cast<size_t>(first) * taps + i]);
            at(flip ? taps - 1 - tap : tap, channel / V)[channel % V] = value;
        }
        __syncthreads();
    }
    __device__ __forceinline__ void get(float (&to)[V], int tap, int lane) const {
        *reinterpret_cast<Run<float, V>*>(to) = *reinterpret_cast<const Run<float, V>*>(at(tap, lane));
    }
};

template <typename T, int V>
__device__ __forceinline__ void store(T* to, const float (&sums)[V], bool add) {
    Run<T, V> run;
    if (add) run = *reinterpret_cast<const Run<T, V>*>(to);
#pragma unroll
    for (int i = 0; i < V; i++) run.values[i] = from_float<T>(sums[i] + (add ? run[i] : 0.0f));
    *reinterpret_cast<Run<T, V>*>(to) = run;
}

template <typename T, int V> __device__ __forceinline__ void start(float (&sums)[V], const T* bias, int channel) {
#pragma unroll
    for (int i = 0; i < V; i++) sums[i] = bias ? to_float(bias[channel + i]) : 0.0f;
}

// The pixels of a line under a strip's windows.
template <typename T, int V, int SPAN>
__device__ __forceinline__ void line_under(float (&line)[SPAN][V], const T* in, const Images& images, int image, int y,
                                           int x, int channel) {
    const bool inside = static_cast<unsigned>(y) < images.in_height;
    const size_t pixel = (static_cast<size_t>(image) * images.in_height + y) * images.in_width + x;
#pragma unroll
    for (int i = 0; i < SPAN; i++) {
        const bool valid = inside && static_cast<unsigned>(x + i) < images.in_width;
        Run<T, V>::of(in + (pixel + i) * images.channels + channel, valid).get(line[i]);
    }
}

template <typename T, int V, int K, int S>
__device__ __forceinline__ void depthwise(T* out, const T* in, const T* weight, const T* bias, const Images& images,
                                          int lanes, int share, bool flip, bool add) {
    constexpr int SPAN = (STRIP - 1) * S + K;
    extern __shared__ __align__(16) float shared[];
    const Taps<V> taps{shared, lanes};
    const int lane = threadIdx.x % lanes, turn = threadIdx.x / lanes, together = THREADS / lanes;
    const int first_channel = blockIdx.y * lanes * V, channel = first_channel + lane * V;
    const int strips = (images.out_width + STRIP - 1) / STRIP;
    const int first = blockIdx.x * share, last = min(first + share, images.count * images.out_height * strips);
    const Divider by_strips(strips), by_height(images.out_height);
    take_turn();
    taps.put(weight, K * K, first_channel, images.channels, flip);
    if (turn >= together || channel >= images.channels) return;
    for (int strip = first + turn; strip < last; strip += together) {
        const int line = by_strips(strip), x = (strip - line * strips) * STRIP;
        const int image = by_height(line), y = line - image * images.out_height;
        float sums[STRIP][V];
#pragma unroll
        for (int p = 0; p < STRIP; p++) start<T>(sums[p], bias, channel);
#pragma unroll
        for (int r = 0; r < K; r++) {
            float under[SPAN][V];
            line_under(under, in, images, image, y * S - images.top + r, x * S - images.left, channel);
#pragma unroll
            for (int s = 0; s < K; s++) {
                alignas(V * 4) float tap[V];
                taps.get(tap, r * K + s, lane);
#pragma unroll
                for (int p = 0; p < STRIP; p++) {
#pragma unroll
                    for (int i = 0; i < V; i++) sums[p][i] = fmaf(under[p * S + s][i], tap[i], sums[p][i]);
                }
            }
        }
        T* to = out + (static_cast<size_t>(line) * images.out_width + x) * images.channels + channel;
#pragma unroll
        for (int p = 0; p < STRIP; p++) {
            if (x + p < images.out_width) store<T, V>(to + static_cast<size_t>(p) * images.channels, sums[p], add);
        }
    }
}

// A strip begins at a place that four divides, so that it is known which taps of which windows its pixels are under.
template <typename T, int V, int K>
__device__ __forceinline__ void depthwise_back(T* out, const T* in, const T* weight, const Images& images, int lanes,
                                               int share, bool add) {
    constexpr int PADDING = K / 2, BEFORE = (K - 1 - PADDING) / 2, SPAN = (STRIP - 1 + PADDING) / 2 + BEFORE + 1;
    extern __shared__ __align__(16) float shared[];
    const Taps<V> taps{shared, lanes};
    const int lane = threadIdx.x % lanes, turn = threadIdx.x / lanes, together = THREADS / lanes;
    const int first_channel = blockIdx.y * lanes * V, channel = first_channel + lane * V;
    const int strips = (images.out_width + STRIP - 1) / STRIP;
    const int first = blockIdx.x * share, last = min(first + share, images.count * images.out_height * strips);
    const Divider by_strips(strips), by_height(images.out_height);
    take_turn();
    taps.put(weight, K * K, first_channel, images.channels, false);
    if (turn >= together || channel >= images.channels) return;
    for (int strip = first + turn; strip < last; strip += together) {
        const int line = by_strips(strip), x = (strip - line * strips) * STRIP;
        const int image = by_height(line), y = line - image * images.out_height;
        float sums[STRIP][V] = {};
        for (int r = (y + PADDING) % 2; r < K; r += 2) {
            float under[SPAN][V];
            line_under(under, in, images, image, (y + PADDING - r) / 2, x / 2 - BEFORE, channel);
#pragma unroll
            for (int s = 0; s < K; s++) {
                alignas(V * 4) float tap[V];
                taps.get(tap, r * K + s, lane);
#pragma unroll
                for (int p = 0; p < STRIP; p++) {
                    if ((p + PADDING - s) % 2 != 0) continue;
                    const float(&window)[V] = under[(p + PADDING - s + 2 * BEFORE) / 2];
#pragma unroll
                    for (int i = 0; i < V; i++) sums[p][i] = fmaf(window[i], tap[i], sums[p][i]);
                }
            }
        }
        T* to = out + (static_cast<size_t>(line) * images.out_width + x) * images.channels + channel;
#pragma unroll
        for (int p = 0; p < STRIP; p++) {
            if (x + p < images.out_width) store<T, V>(to + static_cast<size_t>(p) * images.channels, sums[p], add);
        }
    }
}

template <typename T, int V>
__device__ __forceinline__ void depthwise_any(T* out, const T* in, const T* weight, const T* bias, const Images& images,
                                              int2 kernel, int2 stride, int lanes, int share, bool backward, bool add) {
    extern __shared__ __align__(16) float shared[];
    const Taps<V> taps{shared, lanes};
    const int lane = threadIdx.x % lanes, turn = threadIdx.x / lanes, together = THREADS / lanes;
    const int first_channel = blockIdx.y * lanes * V, channel = first_channel + lane * V;
    const int first = blockIdx.x * share;
    const int last = min(first + share, images.count * images.out_height * images.out_width);
    const Divider by_width(images.out_width), by_height(images.out_height), by_down(stride.x), by_across(stride.y);
    take_turn();
    taps.put(weight, kernel.x * kernel.y, first_channel, images.channels, false);
    if (turn >= together || channel >= images.channels) return;
    for (int pixel = first + turn; pixel < last; pixel += together) {
        const int line = by_width(pixel), x = pixel - line * images.out_width;
        const int image = by_height(line), y = line - image * images.out_height;
        const T* from = in + static_cast<size_t>(image) * images.in_height * images.in_width * images.channels + channel;
        float sums[V];
        start<T>(sums, bias, channel);
        const auto add_tap = [&](int r, int s, int in_y, int in_x) {
            if (static_cast<unsigned>(in_y) >= images.in_height || static_cast<unsigned>(in_x) >= images.in_width) return;
            const auto value = Run<T, V>::of(from + static_cast<size_t>(in_y * images.in_width + in_x) * images.channels, true);
            alignas(V * 4) float tap[V];
            taps.get(tap, r * kernel.y + s, lane);
#pragma unroll
            for (int i = 0; i < V; i++) sums[i] = fmaf(value[i], tap[i], sums[i]);
        };
        if (backward) {
            // Only the windows that have the pixel under them.
            const int down = by_down(y + images.top), across = by_across(x + images.left);
            int window_y = down;
            for (int r = y + images.top - down * stride.x; r < kernel.x; r += stride.x, window_y--) {
                int window_x = across;
                for (int s = x + images.left - across * stride.y; s < kernel.y; s += stride.y, window_x--)
                    add_tap(r, s, window_y, window_x);
            }
        } else {
            for (int r = 0; r < kernel.x; r++) {
                for (int s = 0; s < kernel.y; s++)
                    add_tap(r, s, y * stride.x - images.top + r, x * stride.y - images.left + s);
            }
        }
        store<T, V>(out + static_cast<size_t>(pixel) * images.channels + channel, sums, add);
    }
}

template <typename T, int V, int K, int S>
__device__ __forceinline__ void depthwise_weight(float* parts, const T* x, const T* dy, const Images& images, int lanes,
                                                 int share) {
    constexpr int SPAN = (STRIP - 1) * S + K;
    extern __shared__ __align__(16) float shared[];
    const int lane = threadIdx.x % lanes, turn = threadIdx.x / lanes, together = THREADS / lanes;
    const int first_channel = blockIdx.y * lanes * V, channel = first_channel + lane * V;
    const int strips = (images.out_width + STRIP - 1) / STRIP;
    const int first = blockIdx.x * share, last = min(first + share, images.count * images.out_height * strips);
    const Divider by_strips(strips), by_height(images.out_height);
    float sums[K * K][V] = {};
    take_turn();
    const bool works = turn < together && channel < images.channels;
    for (int strip = works ? first + turn : last; strip < last; strip += together) {
        const int line = by_strips(strip), at = (strip - line * strips) * STRIP;
        const int image = by_height(line), y = line - image * images.out_height;
        const T* from = dy + (static_cast<size_t>(line) * images.out_width + at) * images.channels + channel;
        float changes[STRIP][V];
#pragma unroll
        for (int p = 0; p < STRIP; p++)
            Run<T, V>::of(from + static_cast<size_t>(p) * images.channels, at + p < images.out_width).get(changes[p]);
#pragma unroll
        for (int r = 0; r < K; r++) {
            float under[SPAN][V];
            line_under(under, x, images, image, y * S - images.top + r, at * S - images.left, channel);
#pragma unroll
            for (int s = 0; s < K; s++) {
#pragma unroll
                for (int p = 0; p < STRIP; p++) {
#pragma unroll
                    for (int i = 0; i < V; i++)
                        sums[r * K + s][i] = fmaf(under[p * S + s][i], changes[p][i], sums[r * K + s][i]);
                }
            }
        }
    }
#pragma unroll
    for (int tap = 0; tap < K * K; tap++) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < V; i++) shared[threadIdx.x * V + i] = sums[tap][i];
        __syncthreads();
        for (int i = threadIdx.x; i < lanes * V; i += THREADS) {
            float sum = 0.0f;
            for (int other = 0; other < together; other++) sum += shared[other * lanes * V + i];
            const size_t to = static_cast<size_t>(blockIdx.x) * images.channels + first_channel + i;
            if (first_channel + i < images.channels) parts[to * (K * K) + tap] = sum;
        }
    }
}

template <typename T>
__device__ __forceinline__ void depthwise_weight_any(float* parts, const T* x, const T* dy, const Images& images,
                                                     int2 kernel, int2 stride, int share) {
    __shared__ float sums[THREADS];
    const int channel = blockIdx.x * WARP + threadIdx.x % WARP, turn = threadIdx.x / WARP;
    const int taps = kernel.x * kernel.y, tap = blockIdx.y, r = tap / kernel.y, s = tap % kernel.y;
    const int first = blockIdx.z * share;
    const int last = min(first + share, images.count * images.out_height * images.out_width);
    take_turn();
    float sum = 0.0f;
    for (int pixel = channel < images.channels ? first + turn : last; pixel < last; pixel += THREADS / WARP) {
        const int line = pixel / images.out_width, image = line / images.out_height;
        const int y = line % images.out_height * stride.x - images.top + r;
        const int across = pixel % images.out_width * stride.y - images.left + s;
        if (static_cast<unsigned>(y) >= images.in_height || static_cast<unsigned>(across) >= images.in_width) continue;
        const size_t under = (static_cast<size_t>(image) * images.in_height + y) * images.in_width + across;
        sum = fmaf(to_float(x[under * images.channels + channel]),
                   to_float(dy[static_cast<size_t>(pixel) * images.channels + channel]), sum);
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (turn > 0 || channel >= images.channels) return;
    float total = 0.0f;
#pragma unroll
    for (int other = 0; other < THREADS / WARP; other++) total += sums[other * WARP + threadIdx.x];
    parts[(static_cast<size_t>(blockIdx.z) * images.channels + channel) * taps + tap] = total;
}

}  // namespace galley

using namespace galley;

#define GALLEY_DEPTHWISE(name, T, V, K, S)                                                                             \
    extern "C" __global__ void __launch_bounds__(256) train_depthwise_##K##_##S##_##V##_##name(                        \
        T* out, const T* in, const T* weight, const T* bias, int images, int in_height, int in_width, int channels,    \
        int out_height, int out_width, int top, int left, int lanes, int share, int flip, int add) {                   \
        depthwise<T, V, K, S>(out, in, weight, bias,                                                                   \
                              {images, in_height, in_width, channels, out_height, out_width, top, left}, lanes, share, \
                              flip, add);                                                                              \
    }

#define GALLEY_DEPTHWISE_BACK(name, T, V, K)                                                                           \
    extern "C" __global__ void __launch_bounds__(256) train_depthwise_back_##K##_##V##_##name(                         \
        T* out, const T* in, const T* weight, int images, int in_height, int in_width, int channels, int out_height,   \
        int out_width, int lanes, int share, int add) {                                                                \
        depthwise_back<T, V, K>(out, in, weight, {images, in_height, in_width, channels, out_height, out_width, 0, 0}, \
                                lanes, share, add);                                                                    \
    }

#define GALLEY_DEPTHWISE_WEIGHT(name, T, V, K, S)                                                                      \
    extern "C" __global__ void __launch_bounds__(256) train_depthwise_weight_##K##_##S##_##V##_##name(                 \
        float* parts, const T* x, const T* dy, int images, int in_height, int in_width, int channels, int out_height,  \
        int out_width, int top, int left, int lanes, int share) {                                                      \
        depthwise_weight<T, V, K, S>(parts, x, dy,                                                                     \
                                     {images, in_height, in_width, channels, out_height, out_width, top, left}, lanes, \
                                     share);                                                                           \
    }

#define GALLEY_DEPTHWISE_ANY(name, T, V)                                                                              \
    extern "C" __global__ void __launch_bounds__(256) train_depthwise_any_##V##_##name(                               \
        T* out, const T* in, const T* weight, const T* bias, int images, int in_height, int in_width, int channels,   \
        int out_height, int out_width, int kernel_height, int kernel_width, int stride_height, int stride_width,      \
        int top, int left, int lanes, int share, int backward, int add) {                                             \
        depthwise_any<T, V>(out, in, weight, bias,                                                                    \
                            {images, in_height, in_width, channels, out_height, out_width, top, left},                \
                            {kernel_height, kernel_width}, {stride_height, stride_width}, lanes, share, backward,     \
                            add);                                                                                     \
    }

#define GALLEY_DEPTHWISE_OF(name, T, V)  \
    GALLEY_DEPTHWISE(name, T, V, 3, 1)   \
    GALLEY_DEPTHWISE(name, T, V, 3, 2)   \
    GALLEY_DEPTHWISE(name, T, V, 5, 1)   \
    GALLEY_DEPTHWISE(name, T, V, 5, 2)   \
    GALLEY_DEPTHWISE_BACK(name, T, V, 3) \
    GALLEY_DEPTHWISE_BACK(name, T, V, 5) \
    GALLEY_DEPTHWISE_ANY(name, T, V)

#define GALLEY_DEPTHWISES(name, T)                                                                                     \
    GALLEY_DEPTHWISE_OF(name, T, 4)                                                                                    \
    GALLEY_DEPTHWISE_OF(name, T, 2)                                                                                    \
    GALLEY_DEPTHWISE_OF(name, T, 1)                                                                                    \
    GALLEY_DEPTHWISE_WEIGHT(name, T, 4, 3, 1)                                                                          \
    GALLEY_DEPTHWISE_WEIGHT(name, T, 4, 3, 2)                                                                          \
    GALLEY_DEPTHWISE_WEIGHT(name, T, 2, 3, 1)                                                                          \
    GALLEY_DEPTHWISE_WEIGHT(name, T, 2, 3, 2)                                                                          \
    GALLEY_DEPTHWISE_WEIGHT(name, T, 2, 5, 1)                                                                          \
    GALLEY_DEPTHWISE_WEIGHT(name, T, 2, 5, 2)                                                                          \
    extern "C" __global__ void __launch_bounds__(256) train_depthwise_weight_any_##name(                               \
        float* parts, const T* x, const T* dy, int images, int in_height, int in_width, int channels, int out_height,  \
        int out_width, int kernel_height, int kernel_width, int stride_height, int stride_width, int top, int left,    \
        int share) {                                                                                                   \
        depthwise_weight_any<T>(parts, x, dy,                                                                          \
                                {images, in_height, in_width, channels, out_height, out_width, top, left},             \
                                {kernel_height, kernel_width}, {stride_height, stride_width}, share);                  \
    }

GALLEY_DEPTHWISES(f16, __half)
GALLEY_DEPTHWISES(f32, float)
