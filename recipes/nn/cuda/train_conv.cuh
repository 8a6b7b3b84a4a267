// What the kernels of convolutions in training share: copies of several widths, division, and products of tiles that lie in
// shared memory in one of two ways.
#pragma once

#include "tile.cuh"

namespace galley {

// Bytes of what is summed over in one step: 32 values of f16, 16 of f32.
constexpr int STEP_BYTES = 64;
// Steps whose operands are there or on their way.
constexpr int STAGES = 4;

// Division by a number that all threads share, of numbers below 2^31.
//
// Granlund and Montgomery, "Division by invariant integers using multiplication", with one bit less to divide.
struct Divider {
    uint32_t factor;
    int divisor, shift;
    __device__ __forceinline__ explicit Divider(int by) : divisor(by) {
        shift = 32 - __clz(by - 1);
        factor = static_cast<uint32_t>(((1ull << (31 + shift)) + by - 1) / by);
    }
    __device__ __forceinline__ int operator()(int number) const {
        return divisor == 1 ? number : static_cast<int>(__umulhi(number, factor) >> (shift - 1));
    }
};

// Begins to copy so many bytes to shared memory, or as many zeros.
template <int BYTES> __device__ __forceinline__ void copy_or_zero(uint32_t to, const void* from, bool valid) {
    if constexpr (BYTES == VECTOR) {
        copy_or_zero(to, from, valid);
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(BYTES),
                     "r"(valid ? BYTES : 0)
                     : "memory");
    }
}

__device__ __forceinline__ void load_turned(uint32_t (&to)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from));
}

// `LINES` rows, or columns, of an operand for one step, as they lie in shared memory: each with the values that are summed
// over side by side; or `TURNED`, where it is the lines' values of one place that lie side by side. An odd number of vectors
// from one to the next spreads them over the banks.
template <typename T, int LINES, bool TURNED> struct Operand {
    static constexpr int DEPTH = STEP_BYTES / sizeof(T);
    static constexpr int PITCH = (TURNED ? LINES * sizeof(T) : STEP_BYTES) + VECTOR;
    static constexpr int BYTES = PITCH * (TURNED ? DEPTH : LINES);
};

// Sums of products of M rows and N columns, spread over DOWN by ACROSS warps.
template <typename T, int M, int N, int DOWN, int ACROSS, bool TURNED> struct Products;

// By tensor cores.
template <int M, int N, int DOWN, int ACROSS, bool TURNED> struct Products<__half, M, N, DOWN, ACROSS, TURNED> {
    using Left = Operand<__half, M, TURNED>;
    using Right = Operand<__half, N, TURNED>;
    static constexpr int ROWS = M / DOWN, COLUMNS = N / ACROSS, I = ROWS / 16, J = COLUMNS / 8;
    float sums[I][J][4] = {};
    int lane, row, column;

    __device__ __forceinline__ Products() {
        const int warp = threadIdx.x / WARP;
        lane = threadIdx.x % WARP, row = warp / ACROSS * ROWS, column = warp % ACROSS * COLUMNS;
    }

    __device__ __forceinline__ void add(const unsigned char* left, const unsigned char* right) {
        const uint32_t a = shared_address(left), b = shared_address(right);
#pragma unroll
        for (int k = 0; k < Left::DEPTH; k += 16) {
            uint32_t rows[I][4], columns[J / 2][4];
#pragma unroll
            for (int i = 0; i < I; i++) {
                if constexpr (TURNED) {
                    const int at = k + lane % 8 + lane / 16 * 8;
                    load_turned(rows[i], a + at * Left::PITCH + (row + i * 16 + lane / 8 % 2 * 8) * 2);
                } else {
                    load_matrices(rows[i], a + (row + i * 16 + lane % 16) * Left::PITCH + (k + lane / 16 * 8) * 2);
                }
            }
#pragma unroll
            for (int j = 0; j < J / 2; j++) {
                const int first = column + j * 16;
                if constexpr (TURNED) {
                    load_turned(columns[j], b + (k + lane % 16) * Right::PITCH + (first + lane / 16 * 8) * 2);
                } else {
                    const int own = first + lane % 8 + lane / 16 * 8;
                    load_matrices(columns[j], b + own * Right::PITCH + (k + lane / 8 % 2 * 8) * 2);
                }
            }
#pragma unroll
            for (int i = 0; i < I; i++) {
#pragma unroll
                for (int j = 0; j < J; j++)
                    multiply_add(sums[i][j], rows[i], columns[j / 2][j % 2 * 2], columns[j / 2][j % 2 * 2 + 1]);
            }
        }
    }

    // Gives a function each run of neighbours of a row: row, first column, sums.
    template <typename F> __device__ __forceinline__ void each(F use) const {
#pragma unroll
        for (int i = 0; i < I; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
#pragma unroll
                for (int j = 0; j < J; j++) {
                    const float run[2] = {sums[i][j][2 * half], sums[i][j][2 * half + 1]};
                    use(row + i * 16 + half * 8 + lane / 4, column + j * 8 + lane % 4 * 2, run);
                }
            }
        }
    }
};

// By ordinary arithmetic: a thread has I rows and J columns.
template <int M, int N, int DOWN, int ACROSS, bool TURNED> struct Products<float, M, N, DOWN, ACROSS, TURNED> {
    using Left = Operand<float, M, TURNED>;
    using Right = Operand<float, N, TURNED>;
    static constexpr int WIDE = 16, HIGH = DOWN * ACROSS * WARP / WIDE, I = M / HIGH, J = N / WIDE;
    static_assert(I % 4 == 0 && J % 4 == 0);
    float sums[I][J] = {};
    int down, across;

    __device__ __forceinline__ Products() : down(threadIdx.x / WIDE), across(threadIdx.x % WIDE) {}

    __device__ __forceinline__ void add(const unsigned char* left, const unsigned char* right) {
        if constexpr (TURNED) {
#pragma unroll
            for (int k = 0; k < Left::DEPTH; k++) {
                float rows[I], columns[J];
#pragma unroll
                for (int i = 0; i < I; i += 4) put(rows + i, left + k * Left::PITCH + (i * HIGH + down * 4) * 4);
#pragma unroll
                for (int j = 0; j < J; j += 4) put(columns + j, right + k * Right::PITCH + (j * WIDE + across * 4) * 4);
#pragma unroll
                for (int i = 0; i < I; i++) {
#pragma unroll
                    for (int j = 0; j < J; j++) sums[i][j] = fmaf(rows[i], columns[j], sums[i][j]);
                }
            }
        } else {
#pragma unroll
            for (int k = 0; k < STEP_BYTES; k += VECTOR) {
                // Four rows at a time: for more there are not the registers.
#pragma unroll
                for (int first = 0; first < I; first += 4) {
                    float rows[4][4];
#pragma unroll
                    for (int i = 0; i < 4; i++) put(rows[i], left + (down + (first + i) * HIGH) * Left::PITCH + k);
#pragma unroll
                    for (int j = 0; j < J; j++) {
                        float columns[4];
                        put(columns, right + (across + j * WIDE) * Right::PITCH + k);
#pragma unroll
                        for (int part = 0; part < 4; part++) {
#pragma unroll
                            for (int i = 0; i < 4; i++)
                                sums[first + i][j] = fmaf(rows[i][part], columns[part], sums[first + i][j]);
                        }
                    }
                }
            }
        }
    }

    template <typename F> __device__ __forceinline__ void each(F use) const {
#pragma unroll
        for (int i = 0; i < I; i++) {
            if constexpr (TURNED) {
#pragma unroll
                for (int j = 0; j < J; j += 4) {
                    const float run[4] = {sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]};
                    use(i / 4 * 4 * HIGH + down * 4 + i % 4, j * WIDE + across * 4, run);
                }
            } else {
#pragma unroll
                for (int j = 0; j < J; j++) {
                    const float run[1] = {sums[i][j]};
                    use(down + i * HIGH, across + j * WIDE, run);
                }
            }
        }
    }

private:
    __device__ static __forceinline__ void put(float* to, const unsigned char* from) {
        const float4 four = *reinterpret_cast<const float4*>(from);
        to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
    }
};

// Goes through so many steps: `load(stage, step)` begins to copy a step's operands, `add(stage)` uses them.
template <typename Load, typename Add> __device__ __forceinline__ void in_steps(int steps, Load load, Add add) {
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) {
        if (step < steps) load(step, step);
        commit_copies();
    }
    int stage = 0, free = STAGES - 1;
    for (int step = 0; step < steps; step++) {
        await_copies<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < steps) load(free, step + STAGES - 1);
        commit_copies();
        add(stage);
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        free = free + 1 == STAGES ? 0 : free + 1;
    }
}

}  // namespace galley
