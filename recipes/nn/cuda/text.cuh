// What the kernels of a transformer (BERT, DistilBERT, GPT-2) have in common. Its matrix products are not among them.
//
// A batch's tokens lie end to end, [tokens, features], row-major; sequence s is the rows offsets[s]..offsets[s + 1]
// (int32, offsets[0] = 0). There is no padding. Storage is f16 or f32, as a kernel's name says; "T" in a file's head is
// either. Biases and LayerNorm's parameters are f32 always. All sums run in an order that depends on a sequence's own
// length alone, so that a sequence's result does not depend, to the bit, on its batch-mates.
//
// For captured graphs, which are launched with the sizes of their largest batch: offsets past a batch's own may repeat
// the last one (empty sequences), tiles past a batch's own are zeros, and rows past the last offset are computed from
// whatever is there and read by nobody (their ids must lie in the vocabulary, as any).
//
// All pointers are aligned to 16 bytes, and `hidden` is a multiple of 8 and at most 1792, unless said otherwise. Blocks
// are of 128 threads unless said otherwise; shared memory is static, below 48 KiB. "Moves" is the least traffic, which
// at an H100's 3.0 TB/s bounds all of these but attention over long sequences.
#pragma once

#include "common.cuh"

namespace galley {

constexpr int THREADS = 128;
constexpr int WARPS = THREADS / WARP;

__device__ __forceinline__ int lane_index() { return threadIdx.x % WARP; }

__device__ __forceinline__ int row_of_warp() { return blockIdx.x * WARPS + threadIdx.x / WARP; }

// Of fragments, m16n8k16: lane 4 g + t holds of A and D the rows g and g + 8, of B the column g.
constexpr int LANES_OF_ROW = 4;

__device__ __forceinline__ float4 quad(const float *at) { return *reinterpret_cast<const float4 *>(at); }

__device__ __forceinline__ float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }

// 8 elements, as they are loaded and stored.
template <typename T> struct Vector;

template <> struct Vector<__half> {
    uint4 bits;

    __device__ __forceinline__ static Vector load(const __half *from) {
        return {*reinterpret_cast<const uint4 *>(from)};
    }
    __device__ __forceinline__ void store(__half *to) const { *reinterpret_cast<uint4 *>(to) = bits; }
    __device__ __forceinline__ void add_to(float (&x)[8]) const {
        const __half2 *pairs = reinterpret_cast<const __half2 *>(&bits);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 pair = __half22float2(pairs[i]);
            x[2 * i] += pair.x;
            x[2 * i + 1] += pair.y;
        }
    }
    __device__ __forceinline__ static Vector of(const float (&x)[8]) {
        Vector vector;
        __half2 *pairs = reinterpret_cast<__half2 *>(&vector.bits);
#pragma unroll
        for (int i = 0; i < 4; i++) pairs[i] = __floats2half2_rn(x[2 * i], x[2 * i + 1]);
        return vector;
    }
};

template <> struct Vector<float> {
    float4 low, high;

    __device__ __forceinline__ static Vector load(const float *from) {
        return {quad(from), quad(from + 4)};
    }
    __device__ __forceinline__ void store(float *to) const {
        float4 *at = reinterpret_cast<float4 *>(to);
        at[0] = low;
        at[1] = high;
    }
    __device__ __forceinline__ void add_to(float (&x)[8]) const {
        x[0] += low.x, x[1] += low.y, x[2] += low.z, x[3] += low.w;
        x[4] += high.x, x[5] += high.y, x[6] += high.z, x[7] += high.w;
    }
    __device__ __forceinline__ static Vector of(const float (&x)[8]) {
        return {{x[0], x[1], x[2], x[3]}, {x[4], x[5], x[6], x[7]}};
    }
};

}  // namespace galley
