// What the kernels of training steps share: vectors of a thread, which thread has which, and sums over the threads of a block.
//
// T is what values are kept in, f16 or f32. Where a number is only known when a kernel runs but is to be one of few that the
// compiler knows, a function is called with an `Of` of it.
#pragma once

#include "common.cuh"

namespace galley {

constexpr int BLOCK = 256;

template <int N> struct Of {
    static constexpr int VALUE = N;
};

template <int BYTES> struct Packed;
template <> struct Packed<16> { using Type = uint4; };
template <> struct Packed<8> { using Type = uint2; };
template <> struct Packed<4> { using Type = unsigned; };
template <> struct Packed<2> { using Type = unsigned short; };
template <> struct Packed<1> { using Type = unsigned char; };

// Values that are read and written at once, in f32. Their place is a multiple of their size.
template <typename T, int N> struct Vector {
    using Words = typename Packed<N * sizeof(T)>::Type;
    float values[N];

    __device__ static __forceinline__ Vector load(const T* from) {
        const Words words = *reinterpret_cast<const Words*>(from);
        Vector vector;
#pragma unroll
        for (int i = 0; i < N; i++) vector.values[i] = to_float(reinterpret_cast<const T*>(&words)[i]);
        return vector;
    }
    __device__ __forceinline__ void store(T* to) const {
        Words words;
        if constexpr (sizeof(T) == 2 && N > 1) {
#pragma unroll
            for (int i = 0; i < N; i += 2)
                reinterpret_cast<__half2*>(&words)[i / 2] = __floats2half2_rn(values[i], values[i + 1]);
        } else {
#pragma unroll
            for (int i = 0; i < N; i++) reinterpret_cast<T*>(&words)[i] = from_float<T>(values[i]);
        }
        *reinterpret_cast<Words*>(to) = words;
    }
    __device__ __forceinline__ void add(const Vector& other) {
#pragma unroll
        for (int i = 0; i < N; i++) values[i] += other.values[i];
    }
    // Writes it, or adds it to what is there.
    __device__ __forceinline__ void put(T* to, bool adds) const {
        Vector vector = *this;
        if (adds) vector.add(load(to));
        vector.store(to);
    }
};

// Values that are read and written at once, as they lie in memory: what waits in registers takes no more of these.
template <typename T, int N> struct Stored {
    using Memory = typename Packed<sizeof(T) * N>::Type;
    Memory memory;

    // What no thread of the kernel writes.
    __device__ static __forceinline__ Stored load(const T* from) {
        return {__ldg(reinterpret_cast<const Memory*>(from))};
    }
    // What this thread writes afterwards.
    __device__ static __forceinline__ Stored load_own(const T* from) {
        return {*reinterpret_cast<const Memory*>(from)};
    }
    __device__ __forceinline__ void store(T* to) const { *reinterpret_cast<Memory*>(to) = memory; }
    __device__ __forceinline__ float get(int i) const { return to_float(reinterpret_cast<const T*>(&memory)[i]); }
    __device__ __forceinline__ void set(int i, float value) {
        reinterpret_cast<T*>(&memory)[i] = from_float<T>(value);
    }
};

// Of 16 bytes.
template <typename T> constexpr int LENGTH = 16 / sizeof(T);

// Calls `f` with the values of a vector: a power of two, at most 16 bytes of them.
template <typename T, typename F> __device__ __forceinline__ void by_length(int length, F f) {
    if constexpr (sizeof(T) == 2) {
        if (length == 8) return f(Of<8>());
    }
    if (length == 4) return f(Of<4>());
    if (length == 2) return f(Of<2>());
    f(Of<1>());
}

// Values in a row, a vector of N a thread and one thread for the `rest`: calls `f` with where values begin, and how many.
template <int N, typename F> __device__ __forceinline__ void in_a_row(int vectors, int rest, F f) {
    const size_t number = static_cast<size_t>(blockIdx.x) * BLOCK + threadIdx.x;
    const size_t at = number * N;
    if (number < vectors) return f(at, Of<N>());
    if (number > vectors) return;
    for (int i = 0; i < rest; i++) f(at + i, Of<1>());
}

// A number of vectors by so many of each row: which row, and which of it. Long division takes long.
__device__ __forceinline__ void divide(size_t number, unsigned columns, size_t& row, unsigned& column) {
    if (number >> 32 == 0) {
        row = static_cast<unsigned>(number) / columns;
        column = static_cast<unsigned>(number) % columns;
    } else {
        row = number / columns;
        column = number % columns;
    }
}

// Of values in rows, those that a thread has.
template <typename T, int N> struct Rows {
    // Vectors of a thread, a block's width apart: 32 bytes, so that there is enough under way, but no more than there are
    // registers for.
    static constexpr int EACH = N * sizeof(T) > 8 ? 2 : 4;

    // Calls `read` with a number below EACH, a row and a column for all of a thread's vectors, and then `write`.
    template <typename R, typename W>
    __device__ static __forceinline__ void run(size_t rows, unsigned columns, R read, W write) {
        const size_t all = rows * columns;
        const size_t number = static_cast<size_t>(blockIdx.x) * (BLOCK * EACH) + threadIdx.x;
        size_t row[EACH];
        unsigned column[EACH];
        divide(number, columns, row[0], column[0]);
        const unsigned down = BLOCK / columns, across = BLOCK - down * columns;
#pragma unroll
        for (int i = 1; i < EACH; i++) {
            row[i] = row[i - 1] + down, column[i] = column[i - 1] + across;
            if (column[i] >= columns) row[i]++, column[i] -= columns;
        }
#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (number + i * BLOCK < all) read(i, row[i], column[i] * N);
#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (number + i * BLOCK < all) write(i, row[i], column[i] * N);
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
