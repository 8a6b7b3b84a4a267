// What the kernels share: conversions, activations, warp reductions and the few instructions that C++ has no words for.
//
// Storage is f16 or f32; arithmetic between loads and stores is f32.
#pragma once

#include <cuda_fp16.h>
#include <stdint.h>

namespace galley {

constexpr int WARP = 32;

// The first thing that a kernel does once it has set itself up: waits until what the kernels before it wrote is there, and lets
// the next one set itself up, for which its launch says that it may (programmatic stream serialization, of Hopper on).
__device__ __forceinline__ void take_turn() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\ngriddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// In the order of `Activation` on the host.
enum Activation : int { NONE, RELU6, SILU, GELU, TANH, SIGMOID, RELU, GELU_TANH };

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }

template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __half from_float<__half>(float x) { return __float2half_rn(x); }

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }
// Hendrycks and Gimpel, "Gaussian Error Linear Units": x times the normal distribution's cumulative function.
__device__ __forceinline__ float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
// The same by way of tanh: x times the sigmoid of 2 sqrt(2 / pi) (x + 0.044715 x^3).
__device__ __forceinline__ float gelu_tanh(float x) {
    return x * sigmoid(x * fmaf(x * x, 1.5957691216f * 0.044715f, 1.5957691216f));
}
// A NaN stays one, as elsewhere.
__device__ __forceinline__ float bounded(float x, float low, float high) {
    asm("max.NaN.f32 %0, %0, %1;\nmin.NaN.f32 %0, %0, %2;" : "+f"(x) : "f"(low), "f"(high));
    return x;
}
__device__ __forceinline__ float relu(float x) { return bounded(x, 0.0f, INFINITY); }
__device__ __forceinline__ float relu6(float x) { return bounded(x, 0.0f, 6.0f); }

template <int ACTIVATION> __device__ __forceinline__ float activate(float x) {
    if constexpr (ACTIVATION == RELU6) return relu6(x);
    if constexpr (ACTIVATION == SILU) return silu(x);
    if constexpr (ACTIVATION == GELU) return gelu(x);
    if constexpr (ACTIVATION == GELU_TANH) return gelu_tanh(x);
    if constexpr (ACTIVATION == TANH) return tanhf(x);
    if constexpr (ACTIVATION == SIGMOID) return sigmoid(x);
    if constexpr (ACTIVATION == RELU) return relu(x);
    return x;
}

// The same, where it is not known before.
__device__ __forceinline__ float activated(float x, int activation) {
    switch (activation) {
        case RELU: return activate<RELU>(x);
        case RELU6: return activate<RELU6>(x);
        case SILU: return activate<SILU>(x);
        case GELU: return activate<GELU>(x);
        case GELU_TANH: return activate<GELU_TANH>(x);
        case TANH: return activate<TANH>(x);
        case SIGMOID: return activate<SIGMOID>(x);
    }
    return x;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lane = WARP / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int lane = WARP / 2; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

// Begins to copy rows of f16 to shared memory, `ROWS` of them `pitch` apart, by the `WARPS` warps of a block
// (`cp.async`: commit and wait as usual). There are `rows` rows of `columns` values; what is behind them, up to `ROWS`
// and `padded`, becomes zeros. `padded` and `pitch` are multiples of 8, and `stride`, that of the source, is even.
template <int ROWS, int WARPS>
__device__ __forceinline__ void copy_rows(__half* to, int pitch, const __half* from, int stride, int rows, int columns,
                                          int padded) {
    const bool wide = stride % 8 == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0;
    const int step = wide ? 8 : 2;  // values of an access
    const int first = threadIdx.x / WARP;
    for (int k = threadIdx.x % WARP * step; k < padded; k += WARP * step) {
        const int bytes = 2 * max(min(columns - k, step), 0);
        const __half* source = from + (bytes > 0 ? k : 0) + static_cast<size_t>(first) * stride;
        uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(to + first * pitch + k));
#pragma unroll 4
        for (int row = first; row < ROWS; row += WARPS) {
            const int valid = row < rows ? bytes : 0;
            if (wide) {
                asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(source), "r"(valid)
                             : "memory");
            } else {
                asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(source), "r"(valid)
                             : "memory");
            }
            source += WARPS * stride, shared += WARPS * pitch * sizeof(__half);
        }
    }
}

}  // namespace galley
