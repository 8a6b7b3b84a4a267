// What goes over values one by one, there and back: activations, dropout, sums, channels from here to there, shuffles, gates, and
// from one element to another.
//
// T is `f16` or `f32`; arithmetic is f32. Values in a row are `vectors` of 16 bytes and a `rest` of fewer values than one has: grid
// ceil((vectors + 1) / 256). Others are in rows, and a thread has two of their vectors of 16 bytes, or four smaller ones: grid
// ceil(vectors / 512), or / 1024; of `length` values, which divides all numbers of channels and pitches. Pointers are aligned to 16
// bytes. Block 256. `adds`: whether what comes out is added to what is there. Memory is the bound of all of them.
//
// `activate_T(x, y, vectors, rest, activation)`
//     y may be x.
//
// `slope_T(known, dy, dx, vectors, rest, activation, adds)`
//     dx = dy * activation', dx may be dy. Known is what the activation read of SiLU and GELU, and what it gave of others. What is
//     no number passes as it passes through a ReLU.
//
// `drop_T(from, to, vectors, rest, adds, seed_low, seed_high, layer, threshold, factor, state)`
//     to = from * 0 or factor, as `philox.cuh` says; to may be from.
//
// `sum_T(a, b, y, vectors, rest)`
//     y = a + b, or a where b is null; y may be either.
//
// `copy_T(from, from_pitch, from_first, to, to_pitch, to_first, rows, channels, kind, length)`
//     So many channels of each row, from the first on. kind 0: written; 1: added to what is there; 2: written, with zeros in all
//     other channels of `to`; there the vectors are those of all of `to`.
//
// `shuffle_T(from, to, rows, groups, each, adds)`
//     to[i] = from[i % groups * each + i / groups] of each row. A thread has a value: grid ceil(values / 256).
//
// `braid_T(from, to, rows, channels, apart, adds, length)`
//     The same for two groups, or where `apart` for their undoing; vectors are those of a half.
//
// `gate_T(x, gates, y, pixels, channels, factor, adds, length)`
//     y = x * gates of the image, of `pixels` pixels; factor instead of x where that is null. Grid (ceil(.. an image's vectors ..),
//     images).
//
// `cast_T(from, to, vectors, rest)`
//     From f32 to T; vectors are of four values.
#include "philox.cuh"
#include "train_vectors.cuh"

namespace galley {

template <typename F> __device__ __forceinline__ void by_activation(int activation, F f) {
    switch (activation) {
        case RELU6: return f(Of<RELU6>());
        case SILU: return f(Of<SILU>());
        case GELU: return f(Of<GELU>());
        case TANH: return f(Of<TANH>());
        case SIGMOID: return f(Of<SIGMOID>());
        case RELU: return f(Of<RELU>());
        case GELU_TANH: return f(Of<GELU_TANH>());
        default: return f(Of<NONE>());
    }
}

template <typename T> __device__ void activate_all(const T* x, T* y, int vectors, int rest, int activation) {
    by_activation(activation, [=](auto which) {
        in_a_row<LENGTH<T>>(vectors, rest, [=](size_t at, auto length) {
            constexpr int N = decltype(length)::VALUE;
            auto values = Vector<T, N>::load(x + at);
#pragma unroll
            for (int i = 0; i < N; i++) values.values[i] = activate<decltype(which)::VALUE>(values.values[i]);
            values.store(y + at);
        });
    });
}

template <int ACTIVATION> __device__ __forceinline__ float slope(float known, float dy) {
    constexpr float LINEAR = 1.5957691216f, CUBE = LINEAR * 0.044715f;
    if constexpr (ACTIVATION == RELU) return known <= 0.0f ? 0.0f : dy;
    if constexpr (ACTIVATION == RELU6) return known <= 0.0f || known >= 6.0f ? 0.0f : dy;
    if constexpr (ACTIVATION == SIGMOID) return dy * (known * (1.0f - known));
    if constexpr (ACTIVATION == TANH) return dy * fmaf(-known, known, 1.0f);
    if constexpr (ACTIVATION == SILU) {
        const float gate = sigmoid(known);
        return dy * fmaf(known * (1.0f - gate), gate, gate);
    }
    if constexpr (ACTIVATION == GELU) {
        const float below = fmaf(erff(known * 0.70710678118654752f), 0.5f, 0.5f);
        return dy * fmaf(known, 0.3989422804f * __expf(-0.5f * known * known), below);
    }
    if constexpr (ACTIVATION == GELU_TANH) {
        const float square = known * known, gate = sigmoid(known * fmaf(square, CUBE, LINEAR));
        return dy * fmaf(known * gate * (1.0f - gate), fmaf(square, 3.0f * CUBE, LINEAR), gate);
    }
    return dy;
}

template <typename T>
__device__ void slopes(const T* known, const T* dy, T* dx, int vectors, int rest, int activation, bool adds) {
    by_activation(activation, [=](auto which) {
        in_a_row<LENGTH<T>>(vectors, rest, [=](size_t at, auto length) {
            constexpr int N = decltype(length)::VALUE;
            const auto is = Vector<T, N>::load(known + at);
            auto values = Vector<T, N>::load(dy + at);
#pragma unroll
            for (int i = 0; i < N; i++)
                values.values[i] = slope<decltype(which)::VALUE>(is.values[i], values.values[i]);
            values.put(dx + at, adds);
        });
    });
}

// A group's threads make its blocks of numbers together, one of each 64 values' 16 after the other, and each tells the others
// which values become zeros.
template <typename T>
__device__ void drop(const T* from, T* to, int vectors, int rest, bool adds, Dropout dropout, const State* state) {
    constexpr int THREADS = 64 / LENGTH<T>, BLOCKS = 16 / THREADS;
    const size_t number = static_cast<size_t>(blockIdx.x) * BLOCK + threadIdx.x;
    const int own = threadIdx.x % THREADS;
    const int word = own * LENGTH<T> / 16, first = own * LENGTH<T> % 16;
    const Philox numbers = dropout.numbers(state);
    unsigned kept = 0;
#pragma unroll
    for (int block = 0; block < BLOCKS; block++) {
        const uint4 words = numbers.block(number / THREADS * 16 + block * THREADS + own);
        const unsigned of_word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned all = __ballot_sync(0xffffffffu, of_word[i] >= dropout.threshold);
            if (word == i && first / THREADS == block) kept = all;
        }
    }
    kept >>= threadIdx.x % WARP / THREADS * THREADS + first % THREADS;
    in_a_row<LENGTH<T>>(vectors, rest, [=](size_t at, auto length) {
        constexpr int N = decltype(length)::VALUE;
        auto values = Vector<T, N>::load(from + at);
#pragma unroll
        for (int i = 0; i < N; i++)
            values.values[i] *= kept >> (N == 1 ? at % LENGTH<T> : i) & 1 ? dropout.factor : 0.0f;
        values.put(to + at, adds);
    });
}

template <typename T> __device__ void sum(const T* a, const T* b, T* y, int vectors, int rest) {
    in_a_row<LENGTH<T>>(vectors, rest, [=](size_t at, auto length) {
        auto values = Vector<T, decltype(length)::VALUE>::load(a + at);
        if (b) values.add(decltype(values)::load(b + at));
        values.store(y + at);
    });
}

enum Copy { WRITE, ADD, ALONE };

template <typename T, int N>
__device__ __forceinline__ void copy(const T* from, int from_pitch, int from_first, T* to, int to_pitch, int to_first,
                                     int rows, int channels, int kind) {
    Vector<T, N> values[Rows<T, N>::EACH];
    // Where a row of `to` begins, by channels of `from`.
    const int start = kind == ALONE ? to_first : 0;
    const T* source = from + from_first - start;
    T* target = to + to_first - start;
    Rows<T, N>::run(
        rows, (kind == ALONE ? to_pitch : channels) / N,
        [&](int i, size_t row, int channel) {
            values[i] = {};
            if (channel >= start && channel < start + channels)
                values[i] = Vector<T, N>::load(source + row * from_pitch + channel);
            if (kind == ADD) values[i].add(Vector<T, N>::load(target + row * to_pitch + channel));
        },
        [&](int i, size_t row, int channel) { values[i].store(target + row * to_pitch + channel); });
}

template <typename T>
__device__ void shuffle(const T* from, T* to, int rows, int groups, int each, bool adds) {
    const size_t number = static_cast<size_t>(blockIdx.x) * BLOCK + threadIdx.x;
    const int channels = groups * each;
    size_t row;
    unsigned i;
    divide(number, channels, row, i);
    if (row < rows) Vector<T, 1>::load(from + row * channels + i % groups * each + i / groups).put(to + number, adds);
}

// The values of two vectors in turns.
template <typename T, int N> __device__ __forceinline__ void braid(Vector<T, N>& a, Vector<T, N>& b) {
    float values[2 * N];
#pragma unroll
    for (int i = 0; i < N; i++) values[2 * i] = a.values[i], values[2 * i + 1] = b.values[i];
#pragma unroll
    for (int i = 0; i < N; i++) a.values[i] = values[i], b.values[i] = values[N + i];
}

template <typename T, int N> __device__ __forceinline__ void unbraid(Vector<T, N>& a, Vector<T, N>& b) {
    float values[2 * N];
#pragma unroll
    for (int i = 0; i < N; i++) values[i] = a.values[i], values[N + i] = b.values[i];
#pragma unroll
    for (int i = 0; i < N; i++) a.values[i] = values[2 * i], b.values[i] = values[2 * i + 1];
}

template <typename T, int N>
__device__ __forceinline__ void braids(const T* from, T* to, int rows, int channels, bool apart, bool adds) {
    Vector<T, N> values[Rows<T, N>::EACH][2];
    const int half = channels / 2;
    Rows<T, N>::run(
        rows, half / N,
        [&](int i, size_t row, int channel) {
            const T* at = from + row * channels + (apart ? 2 * channel : channel);
            values[i][0] = Vector<T, N>::load(at);
            values[i][1] = Vector<T, N>::load(at + (apart ? N : half));
            if (apart) {
                unbraid(values[i][0], values[i][1]);
            } else {
                braid(values[i][0], values[i][1]);
            }
        },
        [&](int i, size_t row, int channel) {
            T* at = to + row * channels + (apart ? channel : 2 * channel);
            values[i][0].put(at, adds);
            values[i][1].put(at + (apart ? half : N), adds);
        });
}

template <typename T, int N>
__device__ __forceinline__ void gate(const T* x, const T* gates, T* y, int pixels, int channels, float factor,
                                     bool adds) {
    const size_t image = static_cast<size_t>(blockIdx.y) * pixels * channels;
    Vector<T, N> values[Rows<T, N>::EACH];
    Rows<T, N>::run(
        pixels, channels / N,
        [&](int i, size_t pixel, int channel) {
            values[i] = Vector<T, N>::load(gates + static_cast<size_t>(blockIdx.y) * channels + channel);
            Vector<T, N> factors;
            if (x) factors = Vector<T, N>::load(x + image + pixel * channels + channel);
#pragma unroll
            for (int j = 0; j < N; j++) values[i].values[j] *= x ? factors.values[j] : factor;
            if (adds) values[i].add(Vector<T, N>::load(y + image + pixel * channels + channel));
        },
        [&](int i, size_t pixel, int channel) { values[i].store(y + image + pixel * channels + channel); });
}

template <typename F, typename G> __device__ void convert(const F* from, G* to, int vectors, int rest) {
    in_a_row<4>(vectors, rest, [=](size_t at, auto length) {
        constexpr int N = decltype(length)::VALUE;
        const auto values = Vector<F, N>::load(from + at);
        Vector<G, N> same;
#pragma unroll
        for (int i = 0; i < N; i++) same.values[i] = values.values[i];
        same.store(to + at);
    });
}

}  // namespace galley

using namespace galley;

#define GALLEY_KERNEL extern "C" __global__ void __launch_bounds__(BLOCK)

#define GALLEY_VALUES(name, T)                                                                                         \
    GALLEY_KERNEL activate_##name(const T* x, T* y, int vectors, int rest, int activation) {                           \
        take_turn();                                                                                                   \
        activate_all<T>(x, y, vectors, rest, activation);                                                              \
    }                                                                                                                  \
    GALLEY_KERNEL slope_##name(const T* known, const T* dy, T* dx, int vectors, int rest, int activation, int adds) {  \
        take_turn();                                                                                                   \
        slopes<T>(known, dy, dx, vectors, rest, activation, adds);                                                     \
    }                                                                                                                  \
    GALLEY_KERNEL drop_##name(const T* from, T* to, int vectors, int rest, int adds, unsigned seed_low,                \
                              unsigned seed_high, unsigned layer, unsigned threshold, float factor,                    \
                              const State* state) {                                                                    \
        take_turn();                                                                                                   \
        drop<T>(from, to, vectors, rest, adds, {seed_low, seed_high, layer, threshold, factor}, state);                \
    }                                                                                                                  \
    GALLEY_KERNEL sum_##name(const T* a, const T* b, T* y, int vectors, int rest) {                                    \
        take_turn();                                                                                                   \
        sum<T>(a, b, y, vectors, rest);                                                                                \
    }                                                                                                                  \
    GALLEY_KERNEL copy_##name(const T* from, int from_pitch, int from_first, T* to, int to_pitch, int to_first,        \
                              int rows, int channels, int kind, int length) {                                          \
        take_turn();                                                                                                   \
        by_length<T>(length, [=](auto of) {                                                                            \
            copy<T, decltype(of)::VALUE>(from, from_pitch, from_first, to, to_pitch, to_first, rows, channels, kind);  \
        });                                                                                                            \
    }                                                                                                                  \
    GALLEY_KERNEL shuffle_##name(const T* from, T* to, int rows, int groups, int each, int adds) {                     \
        take_turn();                                                                                                   \
        shuffle<T>(from, to, rows, groups, each, adds);                                                                \
    }                                                                                                                  \
    GALLEY_KERNEL braid_##name(const T* from, T* to, int rows, int channels, int apart, int adds, int length) {        \
        take_turn();                                                                                                   \
        by_length<T>(length, [=](auto of) {                                                                            \
            braids<T, decltype(of)::VALUE>(from, to, rows, channels, apart, adds);                                     \
        });                                                                                                            \
    }                                                                                                                  \
    GALLEY_KERNEL gate_##name(const T* x, const T* gates, T* y, int pixels, int channels, float factor, int adds,      \
                              int length) {                                                                            \
        take_turn();                                                                                                   \
        by_length<T>(length, [=](auto of) {                                                                            \
            gate<T, decltype(of)::VALUE>(x, gates, y, pixels, channels, factor, adds);                                 \
        });                                                                                                            \
    }                                                                                                                  \
    GALLEY_KERNEL cast_##name(const float* from, T* to, int vectors, int rest) {                                       \
        take_turn();                                                                                                   \
        convert(from, to, vectors, rest);                                                                              \
    }

GALLEY_VALUES(f16, __half)
GALLEY_VALUES(f32, float)
