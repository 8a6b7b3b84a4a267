// Vectors of a thread, and sums over the threads of a block, as the kernels of training use them.
#pragma once

#include "common.cuh"

namespace galley {

template <int BYTES> struct Raw;
template <> struct Raw<2> { using Type = unsigned short; };
template <> struct Raw<4> { using Type = unsigned; };
template <> struct Raw<8> { using Type = uint2; };
template <> struct Raw<16> { using Type = uint4; };

// Values that a thread reads or writes at once, `WIDE` or one. They begin where the vectors of an array do.
template <typename T> constexpr int WIDE = 16 / sizeof(T);

template <typename T, int N> struct Vector {
    using Memory = typename Raw<sizeof(T) * N>::Type;
    Memory memory;

    // What no thread of the kernel writes.
    __device__ static __forceinline__ Vector load(const T* from) {
        return {__ldg(reinterpret_cast<const Memory*>(from))};
    }
    // What this thread writes afterwards.
    __device__ static __forceinline__ Vector load_own(const T* from) {
        return {*reinterpret_cast<const Memory*>(from)};
    }
    __device__ __forceinline__ void store(T* to) const { *reinterpret_cast<Memory*>(to) = memory; }
    __device__ __forceinline__ float get(int i) const { return to_float(reinterpret_cast<const T*>(&memory)[i]); }
    __device__ __forceinline__ void set(int i, float value) {
        reinterpret_cast<T*>(&memory)[i] = from_float<T>(value);
    }
};

// Adds up the rows of [rows, columns] in shared memory, by all threads of the block and always in the same order: the first
// row becomes the sum. All of it has to be written, and the barrier before is here.
__device__ __forceinline__ void add_rows(float* values, int rows, int columns) {
    __syncthreads();
    while (rows > 1) {
        const int left = (rows + 3) / 4, count = left * columns;
        for (int i = threadIdx.x; i < count; i += blockDim.x) {
            float sum = values[i];
#pragma unroll
            for (int more = 1; more < 4; more++)
                if (i + more * count < rows * columns) sum += values[i + more * count];
            values[i] = sum;
        }
        rows = left;
        __syncthreads();
    }
}

}  // namespace galley
