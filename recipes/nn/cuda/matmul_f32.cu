// The matrix product in f32, on CUDA cores.
//
//     out[m, n] = activation(bias[n] + sum_k a[m, k] * gate[m / rows_per_image, k] * w[n, k]) + residual[m, n]
//
// `matmul_f32(a, w, bias, gates, residual, out, m, n, k, rows_per_image, activation)`
//     shapes as in `matmul.cu`, `gates` and `residual` or null; k and n multiples of 4, pointers aligned to 16 bytes.
//     Grid (ceil(n / 64), ceil(m / 64) up to 65535; it strides over more rows), block 256, no dynamic shared memory.
//     Arithmetic is the bound: 67 TFLOP/s.
#include "common.cuh"

namespace galley {

// A tile of 64 by 64, four by four of them a thread's.
struct PlainProduct {
    static constexpr int SIDE = 64, DEPTH = 16, THREADS = 256, OWN = 4;
    static constexpr int PITCH = SIDE + OWN;  // so that the vectors of a row do not collide when they are turned around

    const float* a;
    const float* w;
    const float* bias;
    const float* gates;
    const float* residual;
    float* out;
    int m, n, k, rows_per_image;

    // Four values of a row, `k` of them in memory.
    __device__ __forceinline__ float4 load(const float* operand, int row, int rows, int column) const {
        if (row >= rows || column >= k) return make_float4(0, 0, 0, 0);
        return __ldg(reinterpret_cast<const float4*>(operand + static_cast<size_t>(row) * k + column));
    }

    __device__ __forceinline__ float4 load_gated(int row, int column) const {
        float4 x = load(a, row, m, column);
        if (gates && row < m) {
            const float4 gate = load(gates, row / rows_per_image, m, column);
            x = make_float4(x.x * gate.x, x.y * gate.y, x.z * gate.z, x.w * gate.w);
        }
        return x;
    }

    __device__ static __forceinline__ void store_turned(float (&to)[DEPTH][PITCH], int row, int column, float4 x) {
        to[column][row] = x.x;
        to[column + 1][row] = x.y;
        to[column + 2][row] = x.z;
        to[column + 3][row] = x.w;
    }

    __device__ __forceinline__ void sum(float (&sums)[OWN][OWN], int first_row, int first_column) const {
        __shared__ __align__(16) float left[DEPTH][PITCH], right[DEPTH][PITCH];
        const int row = threadIdx.x / (DEPTH / 4), column = threadIdx.x % (DEPTH / 4) * 4;
        const int down = threadIdx.x / (SIDE / OWN) * OWN, across = threadIdx.x % (SIDE / OWN) * OWN;
        float4 x = load_gated(first_row + row, column), y = load(w, first_column + row, n, column);
        for (int start = 0; start < k; start += DEPTH) {
            __syncthreads();
            store_turned(left, row, column, x);
            store_turned(right, row, column, y);
            __syncthreads();
            x = load_gated(first_row + row, start + DEPTH + column);
            y = load(w, first_column + row, n, start + DEPTH + column);
#pragma unroll
            for (int d = 0; d < DEPTH; d++) {
                const float4 l = *reinterpret_cast<const float4*>(&left[d][down]);
                const float4 r = *reinterpret_cast<const float4*>(&right[d][across]);
                const float ls[OWN] = {l.x, l.y, l.z, l.w}, rs[OWN] = {r.x, r.y, r.z, r.w};
#pragma unroll
                for (int i = 0; i < OWN; i++) {
#pragma unroll
                    for (int j = 0; j < OWN; j++) sums[i][j] = fmaf(ls[i], rs[j], sums[i][j]);
                }
            }
        }
    }

    template <int ACTIVATION>
    __device__ __forceinline__ void finish(const float (&sums)[OWN][OWN], int first_row, int column) const {
        const float4 more = __ldg(reinterpret_cast<const float4*>(bias + column));
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            if (first_row + i >= m) break;
            float4 x = make_float4(activate<ACTIVATION>(sums[i][0] + more.x),
                                   activate<ACTIVATION>(sums[i][1] + more.y),
                                   activate<ACTIVATION>(sums[i][2] + more.z),
                                   activate<ACTIVATION>(sums[i][3] + more.w));
            const size_t at = static_cast<size_t>(first_row + i) * n + column;
            if (residual) {
                const float4 add = __ldg(reinterpret_cast<const float4*>(residual + at));
                x = make_float4(x.x + add.x, x.y + add.y, x.z + add.z, x.w + add.w);
            }
            *reinterpret_cast<float4*>(out + at) = x;
        }
    }

    __device__ __forceinline__ void tile(int first_row, int first_column, int activation) const {
        float sums[OWN][OWN] = {};
        sum(sums, first_row, first_column);
        first_row += threadIdx.x / (SIDE / OWN) * OWN;
        first_column += threadIdx.x % (SIDE / OWN) * OWN;
        if (first_column >= n) return;
        switch (activation) {
            case SILU: return finish<SILU>(sums, first_row, first_column);
            case RELU6: return finish<RELU6>(sums, first_row, first_column);
            case GELU: return finish<GELU>(sums, first_row, first_column);
            case GELU_TANH: return finish<GELU_TANH>(sums, first_row, first_column);
            case TANH: return finish<TANH>(sums, first_row, first_column);
            case SIGMOID: return finish<SIGMOID>(sums, first_row, first_column);
            case RELU: return finish<RELU>(sums, first_row, first_column);
            default: return finish<NONE>(sums, first_row, first_column);
        }
    }
};

extern "C" __global__ void __launch_bounds__(PlainProduct::THREADS)
    matmul_f32(const float* a, const float* w, const float* bias, const float* gates, const float* residual, float* out,
               int m, int n, int k, int rows_per_image, int activation) {
    galley::take_turn();
    const PlainProduct product{a, w, bias, gates, residual, out, m, n, k, rows_per_image};
    for (int row = blockIdx.y * PlainProduct::SIDE; row < m; row += gridDim.y * PlainProduct::SIDE) {
        product.tile(row, blockIdx.x * PlainProduct::SIDE, activation);
    }
}

}  // namespace galley
