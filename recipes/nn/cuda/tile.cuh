// Tiles: copies from global to shared memory that run beside the arithmetic, and products of 16x8x16 on tensor cores.
//
// All of it is there from compute capability 8.0 on.
#pragma once

#include "common.cuh"

namespace galley {

// Bytes of the widest access of a thread.
constexpr int VECTOR = 16;

__device__ __forceinline__ float quick_power_of_two(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}
__device__ __forceinline__ float quick_reciprocal(float x) {
    float quotient;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(quotient) : "f"(x));
    return quotient;
}

// Activations for results that are kept in f16, in few instructions and without a branch; what they are off by is lost
// in the rounding. The sigmoid and SiLU are as near as f32's last digits, so that they may stand in f32 too.
__device__ __forceinline__ float quick_sigmoid(float x) {
    return quick_reciprocal(1.0f + quick_power_of_two(x * -1.44269504088896341f));
}
// Abramowitz and Stegun, "Handbook of Mathematical Functions", 7.1.26: the error function within 1.5e-7.
__device__ __forceinline__ float quick_gelu(float x) {
    const float t = quick_reciprocal(fmaf(fabsf(x), 0.3275911f * 0.70710678118654752f, 1.0f));
    float tail = fmaf(t, 0.5f * 1.061405429f, 0.5f * -1.453152027f);
    tail = fmaf(t, tail, 0.5f * 1.421413741f);
    tail = fmaf(t, tail, 0.5f * -0.284496736f);
    tail = fmaf(t, tail, 0.5f * 0.254829592f);
    tail *= t * quick_power_of_two(x * x * -0.5f * 1.44269504088896341f);
    return x * (x < 0.0f ? tail : 1.0f - tail);
}

template <int ACTIVATION> __device__ __forceinline__ float quick_activate(float x) {
    if constexpr (ACTIVATION == SILU) return x * quick_sigmoid(x);
    if constexpr (ACTIVATION == GELU) return quick_gelu(x);
    if constexpr (ACTIVATION == GELU_TANH) {
        return x * quick_sigmoid(x * fmaf(x * x, 1.5957691216f * 0.044715f, 1.5957691216f));
    }
    if constexpr (ACTIVATION == TANH) return fmaf(2.0f, quick_sigmoid(2.0f * x), -1.0f);
    if constexpr (ACTIVATION == SIGMOID) return quick_sigmoid(x);
    return activate<ACTIVATION>(x);
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes to shared memory, or as many zeros.
__device__ __forceinline__ void copy_or_zero(uint32_t to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void copy(uint32_t to, const void* from) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

// Closes the group of this thread's copies since the last call.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `PENDING` of this thread's groups are under way.
template <int PENDING> __device__ __forceinline__ void await_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from));
}

__device__ __forceinline__ void load_matrices(uint32_t (&to)[2], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1])
                 : "r"(from));
}

// sums[16, 8] += a[16, 16] * b[8, 16]^T, each spread over the warp as PTX lays it out.
__device__ __forceinline__ void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t pack_halves(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return reinterpret_cast<const uint32_t&>(pair);
}

// Two matrices of 8 by 8, the second below the first: `row` is where the row begins that this thread names; `own`
// and, so many bytes below, `own + below` are where its values go.
__device__ __forceinline__ void store_matrices(uint32_t row, uint32_t upper, uint32_t lower, uint32_t own,
                                               uint32_t below) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(row), "r"(upper), "r"(lower)
                 : "memory");
#else
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(own), "r"(upper) : "memory");
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(own + below), "r"(lower) : "memory");
#endif
}

__device__ __forceinline__ float2 unpack_halves(uint32_t pair) {
    return __half22float2(reinterpret_cast<const __half2&>(pair));
}

// Two neighbours, which a thread reads and writes at once.
__device__ __forceinline__ float2 load_pair(const __half* from) {
    return __half22float2(*reinterpret_cast<const __half2*>(from));
}
__device__ __forceinline__ float2 load_pair(const float* from) { return *reinterpret_cast<const float2*>(from); }
template <typename T> __device__ __forceinline__ float2 load_shared_pair(uint32_t from);
template <> __device__ __forceinline__ float2 load_shared_pair<__half>(uint32_t from) {
    uint32_t pair;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(pair) : "r"(from));
    return unpack_halves(pair);
}
template <> __device__ __forceinline__ float2 load_shared_pair<float>(uint32_t from) {
    float2 pair;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(pair.x), "=f"(pair.y) : "r"(from));
    return pair;
}
__device__ __forceinline__ void store_pair(__half* to, float2 pair) {
    *reinterpret_cast<__half2*>(to) = __floats2half2_rn(pair.x, pair.y);
}
__device__ __forceinline__ void store_pair(float* to, float2 pair) { *reinterpret_cast<float2*>(to) = pair; }

// Where a product goes, and what follows it. `width` is that of a row in memory, and of the bias.
struct Finish {
    const float* bias;
    const __half* residual;  // or null
    __half* out;
    int rows, width;
    int activation;
};

template <int COUNT> using Sums = float[COUNT][4];

template <int ACTIVATION, int DOWN, int ACROSS>
__device__ __forceinline__ void activate_sums(Sums<ACROSS> (&sums)[DOWN]) {
#pragma unroll
    for (int i = 0; i < DOWN; i++) {
#pragma unroll
        for (int j = 0; j < ACROSS; j++) {
#pragma unroll
            for (int k = 0; k < 4; k++) sums[i][j][k] = quick_activate<ACTIVATION>(sums[i][j][k]);
        }
    }
}

// The sums of a warp, `DOWN` by `ACROSS` products, on their way to memory. Tensor cores leave each thread two columns
// of a row, 4 bytes in f16; through shared memory they become runs of whole rows.
template <int DOWN, int ACROSS> struct Staged {
    static constexpr int ROWS = DOWN * 16, WIDTH = ACROSS * 8, LENGTH = VECTOR / sizeof(__half);
    // An odd number of vectors, so that those of eight rows lie in different banks.
    static constexpr int PITCH = ACROSS % 2 == 0 ? WIDTH + LENGTH : WIDTH;
    static constexpr int BYTES = ROWS * PITCH * sizeof(__half);
    static constexpr int VECTORS = ROWS * ACROSS, TURNS = (VECTORS + WARP - 1) / WARP;

    // Sums start from the bias of their columns, from `column` on.
    __device__ static __forceinline__ void start(Sums<ACROSS> (&sums)[DOWN], const Finish& to, int column) {
        column += threadIdx.x % 4 * 2;
#pragma unroll
        for (int j = 0; j < ACROSS; j++) {
            const float2 bias = column + j * 8 < to.width ? load_pair(to.bias + column + j * 8) : make_float2(0, 0);
#pragma unroll
            for (int i = 0; i < DOWN; i++) {
                sums[i][j][0] = sums[i][j][2] = bias.x;
                sums[i][j][1] = sums[i][j][3] = bias.y;
            }
        }
    }

    // To the rows from `row` and columns from `column` of the output, through `shared`, which is the warp's own.
    __device__ static __forceinline__ void finish(Sums<ACROSS> (&sums)[DOWN], unsigned char* shared, const Finish& to,
                                                  int row, int column) {
        switch (to.activation) {
            case SILU: activate_sums<SILU>(sums); break;
            case RELU6: activate_sums<RELU6>(sums); break;
            case GELU: activate_sums<GELU>(sums); break;
            case GELU_TANH: activate_sums<GELU_TANH>(sums); break;
            case TANH: activate_sums<TANH>(sums); break;
            case SIGMOID: activate_sums<SIGMOID>(sums); break;
            case RELU: activate_sums<RELU>(sums); break;
        }
        write(sums, shared, to, row, column);
    }

    __device__ static __forceinline__ void write(const Sums<ACROSS> (&sums)[DOWN], unsigned char* shared,
                                                 const Finish& to, int row, int column) {
        const int lane = threadIdx.x % WARP;
        put(sums, shared_address(shared), lane);
        __syncwarp();
        const __half* values = reinterpret_cast<const __half*>(shared);
        const int rows = to.rows - row, columns = to.width - column;
        const size_t start = static_cast<size_t>(row) * to.width + column;
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++) {
            const int vector = lane + turn * WARP, down = vector / ACROSS, along = vector % ACROSS * LENGTH;
            if (VECTORS % WARP != 0 && vector >= VECTORS) continue;
            const bool there = down < rows && along < columns;
            uint4 packed = *reinterpret_cast<const uint4*>(values + down * PITCH + along);
            const size_t at = start + static_cast<size_t>(down) * to.width + along;
            if (to.residual && there) packed = add(packed, __ldg(reinterpret_cast<const uint4*>(to.residual + at)));
            if (there) *reinterpret_cast<uint4*>(to.out + at) = packed;
        }
        __syncwarp();
    }

private:
    __device__ static __forceinline__ void put(const Sums<ACROSS> (&sums)[DOWN], uint32_t to, int lane) {
        constexpr int ROW = PITCH * sizeof(__half);
#pragma unroll
        for (int i = 0; i < DOWN; i++) {
#pragma unroll
            for (int j = 0; j < ACROSS; j++) {
                const uint32_t at = to + i * 16 * ROW + j * VECTOR;
                store_matrices(at + lane % 16 * ROW, pack_halves(sums[i][j][0], sums[i][j][1]),
                               pack_halves(sums[i][j][2], sums[i][j][3]), at + lane / 4 * ROW + lane % 4 * 4, 8 * ROW);
            }
        }
    }

    __device__ static __forceinline__ uint4 add(uint4 x, uint4 y) {
        uint32_t* xs = reinterpret_cast<uint32_t*>(&x);
        const uint32_t* ys = reinterpret_cast<const uint32_t*>(&y);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 a = unpack_halves(xs[i]), b = unpack_halves(ys[i]);
            xs[i] = pack_halves(a.x + b.x, a.y + b.y);
        }
        return x;
    }
};

}  // namespace galley
