// BatchNorm in training in one launch, for what fits into the shared memory of a cluster's blocks: what is read stays there until
// the sums of all of it are known.
//
// Everything is as in `train_norm.cu`, which is for the rest, but that a cluster has a slice of the channels, and each of its
// blocks a part of the pixels, which may be empty but for the first. Needs clusters, and so sm_90. Q blocks are a cluster: 1, 2, 4
// or 8. Vectors are of 16 bytes. Grid (Q, slices), block 512; dynamic shared memory for the vectors of ceil(per / (512 / lanes))
// times as many rows as 512 / lanes is, of x, and on the way back for twice as many.
//
// `batch_norm_whole_forward_Q_T(x, residual or null, scale, shift, mean, variance, statistics, y, rows, channels, width, lanes,
//                               per, momentum, eps, low, high)`
// `batch_norm_whole_backward_Q_T(x, y or null, dy, statistics, scale, dx or null, residual or null, dscale, dshift, rows,
//                                channels, width, lanes, per, adds, high)`
#include "train_cluster.cuh"
#include "train_norm.cuh"

namespace galley {

// What a thread has read, `COUNT` vectors of each of its rows.
template <typename T, int N, int COUNT> struct Held {
    uint4* own;
    int pitch;

    __device__ __forceinline__ Held(uint4* shared, const Part<N>& part)
        : own(shared + threadIdx.x), pitch(part.stride * part.columns / N) {}
    __device__ __forceinline__ void put(int number, int which, const Stored<T, N>& vector) const {
        own[(number * COUNT + which) * pitch] = vector.memory;
    }
    __device__ __forceinline__ Stored<T, N> get(int number, int which) const {
        return {own[(number * COUNT + which) * pitch]};
    }
};

extern __shared__ uint4 memory[];

constexpr int MOST_BLOCKS = 8;

template <typename T, int N>
__device__ __forceinline__ void whole_forward(const T* x, const T* residual, const Forward& with, T* y,
                                              const Part<N>& part, int rows, int per) {
    __shared__ __align__(16) float shared[Part<N>::ROOM];
    __shared__ float own[2][MOST_CHANNELS];
    __shared__ Numbers<3> numbers;
    const int c = threadIdx.x;
    const bool settles = c < part.count;
    const Known known(with, part.first + c, settles, blockIdx.x == 0);
    const Held<T, N, 1> held(memory, part);
    const auto hold = [&](const Stored<T, N>& vector, int number) { held.put(number, 0, vector); };
    add_moments(x, part, shared, hold, [&](int c, float mean, float squares) {
        own[0][c] = mean;
        own[1][c] = squares;
    });
    const auto load = [&](Value<T, N>& to, int row, int number) {
        to.x = held.get(number, 0);
        if (residual) to.residual = Stored<T, N>::load(residual + part.at(row));
    };
    Walk<Value<T, N>, 2, true> walk(part, load);
    arrive();
    await();
    if (settles) {
        float means[MOST_BLOCKS], squares[MOST_BLOCKS];
#pragma unroll
        for (int block = 0; block < MOST_BLOCKS; block++) {
            const int there = min(block, static_cast<int>(gridDim.x) - 1);
            means[block] = of_block(own[0] + c, there), squares[block] = of_block(own[1] + c, there);
        }
        Moments moments = {means[0]};
#pragma unroll
        for (int block = 0; block < MOST_BLOCKS; block++) {
            const int here = min(per, rows - block * per);
            if (block < static_cast<int>(gridDim.x) && here > 0)
                moments.add(static_cast<float>(here) * part.copies, means[block], squares[block]);
        }
        settle(with, known, part, c, moments, static_cast<float>(rows) * part.copies, blockIdx.x == 0, numbers);
    }
    arrive();
    __syncthreads();
    put(walk, load, with, part, numbers, residual, y);
    // Nobody leaves as long as others read what it has.
    await();
}

template <typename T, int N>
__device__ __forceinline__ void whole_backward(const Backward<T>& with, const Part<N>& part, int rows) {
    __shared__ __align__(16) float shared[Part<N>::ROOM];
    __shared__ Numbers<4> numbers;
    const int c = threadIdx.x;
    const bool settles = c < part.count;
    const KnownBack known(with, part.channels, part.first + c, settles);
    const Held<T, N, 2> held(memory, part);
    add_products(with, part, shared, [&](const Stored<T, N>& x, const Stored<T, N>& passed, int number) {
        held.put(number, 0, x);
        held.put(number, 1, passed);
    });
    arrive();
    await();
    if (settles) {
        float sums[MOST_BLOCKS], products[MOST_BLOCKS], sum = 0.0f, product = 0.0f;
#pragma unroll
        for (int block = 0; block < MOST_BLOCKS; block++) {
            const int there = min(block, static_cast<int>(gridDim.x) - 1);
            sums[block] = of_block(shared + c, there), products[block] = of_block(shared + part.columns + c, there);
        }
#pragma unroll
        for (int block = 0; block < MOST_BLOCKS; block++)
            if (block < static_cast<int>(gridDim.x)) sum += sums[block], product += products[block];
        settle(with, known, part, c, sum, product, static_cast<float>(rows) * part.copies, blockIdx.x == 0, numbers);
    }
    arrive();
    __syncthreads();
    const auto load = [&](Gradient<T, N>& to, int, int number) {
        to.x = held.get(number, 0);
        to.dy = held.get(number, 1);
    };
    Walk<Gradient<T, N>, 2, true> walk(part, load);
    put(walk, load, with, part, numbers, false);
    await();
}

}  // namespace galley

#define GALLEY_KERNEL(Q) extern "C" __global__ void __cluster_dims__(Q, 1, 1) __launch_bounds__(galley::THREADS)
#define GALLEY_WHOLE(Q, name, T, N)                                                                                    \
    GALLEY_KERNEL(Q)                                                                                                   \
    batch_norm_whole_forward_##Q##_##name(const T* x, const T* residual, const float* scale, const float* shift,       \
                                          float* mean, float* variance, float* statistics, T* y, int rows,             \
                                          int channels, int width, int lanes, int per, float momentum, float eps,      \
                                          float low, float high) {                                                     \
        const galley::Part<N> part(rows, channels, width, lanes, per);                                                 \
        const galley::Forward with = {scale, shift, mean, variance, statistics, momentum, eps, low, high};             \
        galley::take_turn();                                                                                           \
        galley::whole_forward<T, N>(x, residual, with, y, part, rows, per);                                            \
    }                                                                                                                  \
    GALLEY_KERNEL(Q)                                                                                                   \
    batch_norm_whole_backward_##Q##_##name(const T* x, const T* y, const T* dy, const float* statistics,               \
                                           const float* scale, T* dx, T* residual, float* dscale, float* dshift,       \
                                           int rows, int channels, int width, int lanes, int per, int adds,            \
                                           float high) {                                                               \
        const galley::Part<N> part(rows, channels, width, lanes, per);                                                 \
        const galley::Backward<T> with = {x, y, dy, statistics, scale, dx, residual, dscale, dshift, adds, high};      \
        galley::take_turn();                                                                                           \
        galley::whole_backward<T, N>(with, part, rows);                                                                \
    }
#define GALLEY_WHOLES(Q) GALLEY_WHOLE(Q, f16, __half, 8) GALLEY_WHOLE(Q, f32, float, 4)

GALLEY_WHOLES(1)
GALLEY_WHOLES(2)
GALLEY_WHOLES(4)
GALLEY_WHOLES(8)
