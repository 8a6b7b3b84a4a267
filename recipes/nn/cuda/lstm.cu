// An LSTM's recurrence on tensor cores. What it is part of, and what its arguments are, is in `lstm.cuh`.
//
// lstm_f16_kK_gG(weights, gates f16, index, sequences, out f16, hidden f16, cell f32,
//                int count, int group, int H, int out_stride, int direction_stride, int place_stride)
//   The recurrence on tensor cores, for H up to 128: K in {2, 4, 7, 8}, the least with 16 * K >= H, and G in {8, 16}.
//   The state is fed back as f16; sums, gates and cells are f32. Block: 4 * P threads. Grid: (ceil(count / group), 2),
//   where group, the sequences of a block, is from 1 to G. Shared memory is static, at most 9 KB.
//   With 100 units a step takes 0.5 us for up to 4 sequences, 0.7 us for 8 and 1.5 us for 16: the least group of
//   {4, 8, 16} that gives each block a multiprocessor is fastest.
//   weights: uint4 [2, P / 8, 2, K, 32], the fragments of mma.m16n8k16. Half 2 * r + e of lane l in direction d, block
//   b, part m and k-tile k is Whh[gate * H + 8 * b + l / 4][16 * k + 8 * (r / 2) + l % 4 * 2 + e] of that direction,
//   where gate = 2 * m + r % 2; it is 0 where the unit or the column is H or more.
//   A warp keeps the weights of 8 units in registers for all steps, in an order that gives one thread all gates of a
//   unit, so that the only thing warps exchange is the state. Bound by latency: a step's product, then its cell; with
//   16 sequences also that of the table's rows, which are asked for one step ahead. Moves 16 * P bytes of gates and 4 *
//   H of output for each row, with 16 * H * H flops.

#include "lstm.cuh"

namespace galley {
namespace {

constexpr int TILE = 8;  // Sequences of a tile: the columns of a product.

// Tells a block's warps that all of them have written a tile's states. With one tile, they meet. With two, a warp
// leaves word at the tile's barrier and goes on with the other one: hardly anybody waits, and the matrix units can work
// on one tile while the special functions work on the other.
template <int TILES> struct Turns;

template <> struct Turns<1> {
    __device__ __forceinline__ static void begin() { __syncthreads(); }
    __device__ __forceinline__ static void await(int, int) {}
    __device__ __forceinline__ static void leave(int) { __syncthreads(); }
};

__shared__ uint64_t turn_barriers[2];

template <> struct Turns<2> {
    __device__ __forceinline__ static void begin() {
        if (threadIdx.x == 0) {
            for (int tile = 0; tile < 2; ++tile) {
                asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(turn_barriers + tile)),
                             "r"(blockDim.x / WARP)
                             : "memory");
            }
        }
        __syncthreads();
    }
    __device__ __forceinline__ static void await(int tile, int step) {
        if (step == 0) return;
        const uint32_t barrier = shared_address(turn_barriers + tile);
        uint32_t done;
        do {
            asm volatile("{\n.reg .pred p;\n"
#if __CUDA_ARCH__ >= 900
                         "mbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n"
#else
                         "mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
#endif
                         "selp.u32 %0, 1, 0, p;\n}"
                         : "=r"(done)
                         : "r"(barrier), "r"((step - 1) & 1)
                         : "memory");
        } while (!done);
    }
    __device__ __forceinline__ static void leave(int tile) {
        __syncwarp();
        if (threadIdx.x % WARP == 0) {
            asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(
                             shared_address(turn_barriers + tile))
                         : "memory");
        }
    }
};

// A warp's part of the recurrent weights, in registers.
template <int K_TILES> struct Fragments {
    uint32_t values[2][K_TILES][4];

    __device__ __forceinline__ void load(const uint4* from, int lane) {
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
            for (int k = 0; k < K_TILES; ++k) {
                const uint4 value = __ldg(from + (m * K_TILES + k) * WARP + lane);
                values[m][k][0] = value.x, values[m][k][1] = value.y;
                values[m][k][2] = value.z, values[m][k][3] = value.w;
            }
        }
    }

    // Adds the product with a tile's states, whose row and columns for this lane begin at the shared address.
    __device__ __forceinline__ void multiply(float (&sums)[2][4], uint32_t states) const {
#pragma unroll
        for (int k = 0; k + 1 < K_TILES; k += 2) {
            uint32_t state[4];
            load_matrices(state, states + k * 32);
#pragma unroll
            for (int m = 0; m < 2; ++m) {
                multiply_add(sums[m], values[m][k], state[0], state[1]);
                multiply_add(sums[m], values[m][k + 1], state[2], state[3]);
            }
        }
        if constexpr (K_TILES % 2 == 1) {
            uint32_t state[2];
            load_matrices(state, states + (K_TILES - 1) * 32);
#pragma unroll
            for (int m = 0; m < 2; ++m) multiply_add(sums[m], values[m][K_TILES - 1], state[0], state[1]);
        }
    }
};

// What a thread knows of one unit of one sequence.
struct Cell {
    Walk walk;
    int alive;     // steps; none where the unit or the sequence doesn't exist
    int next;      // where the gates of the next step are
    uint2 inputs;  // the input's part of this step's gates
    float c;
    __half h;
};

// Thread 4 * u + t of a warp has unit u and columns 2 * t and 2 * t + 1 of a tile, which are sequences t and t + 4 of
// it: with up to four sequences nobody has a second one, and its arithmetic is left out.
template <int K_TILES, int TILES>
__device__ __forceinline__ void recur(const uint4* weights, const uint2* gates, const Recurrence<__half>& to,
                                      int group) {
    constexpr int PITCH = K_TILES * 16 + 8;  // 4 banks from row to row: eight rows are read at once
    __shared__ __align__(16) __half states[2][TILES][TILE][PITCH];
    constexpr int BUFFER = sizeof(states) / 2, TILE_BYTES = BUFFER / TILES, ROW_BYTES = PITCH * 2;

    const int lane = threadIdx.x % WARP, block = threadIdx.x / WARP, blocks = blockDim.x / WARP;
    const int unit = block * WARP_UNITS + lane / 4;
    const int first = blockIdx.x * group, slots = min(group, to.count - first);
    const auto length_of = [&](int slot) { return slot < slots ? __ldg(&to.sequences[first + slot].y) : 0; };
    const auto slot_of = [&](int tile, int s) { return tile * TILE + s * 4 + lane % 4; };
    int steps[TILES], second_steps[TILES];  // of a tile, and of its sequences that are somebody's second
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
        steps[tile] = length_of(tile * TILE), second_steps[tile] = length_of(tile * TILE + 4);
    }

    Fragments<K_TILES> fragments;
    fragments.load(weights + (blockIdx.y * blocks + block) * (2 * K_TILES * WARP), lane);
    const uint32_t pitch = DIRECTIONS * WARP_UNITS * blocks;  // of the table
    gates += blockIdx.y * (WARP_UNITS * blocks) + unit;
    const auto inputs_at = [&](uint32_t source) { return __ldg(gates + static_cast<uint64_t>(source) * pitch); };
    Cell cells[TILES][2];
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
        for (int s = 0; s < 2; ++s) {
            const Walk walk = Walk::of(to.sequences + first, slot_of(tile, s), slots);
            Cell& cell = cells[tile][s];
            const int alive = unit < to.units ? walk.length : 0;
            cell = {walk, alive, 0, make_uint2(0, 0), 0.0f, __float2half_rn(0.0f)};
            if (steps[0] == 0) continue;
            cell.inputs = inputs_at(to.source(walk.row(0)));
            cell.next = to.source(walk.row(1));
        }
    }
    for (int i = threadIdx.x; i < sizeof(states) / 4; i += blockDim.x) reinterpret_cast<uint32_t*>(states)[i] = 0;
    const uint32_t read_from = shared_address(&states[0][0][lane % 8][lane / 8 * 8]);
    const uint32_t write_to = shared_address(&states[0][0][lane % 4 * 2][unit]);
    Turns<TILES>::begin();

    for (int step = 0; step < steps[0]; ++step) {
        const uint32_t now = step % 2 * BUFFER, then = BUFFER - now;
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            if (tile > 0 && step >= steps[tile]) continue;
            float sums[2][4];
#pragma unroll
            for (int s = 0; s < 2; ++s) {
                const uint2 inputs = cells[tile][s].inputs;
                const float2 i_f = unpack_halves(inputs.x), g_o = unpack_halves(inputs.y);
                sums[0][s] = i_f.x, sums[0][2 + s] = i_f.y, sums[1][s] = g_o.x, sums[1][2 + s] = g_o.y;
            }
            Turns<TILES>::await(tile, step);
            fragments.multiply(sums, read_from + now + tile * TILE_BYTES);
#pragma unroll
            for (int s = 0; s < 2; ++s) {
                if (s == 1 && step >= second_steps[tile]) continue;
                Cell& cell = cells[tile][s];
                // Read one step ahead, and the index two: neither may wait for the other or be waited for.
                cell.inputs = inputs_at(cell.next);
                cell.next = to.source(cell.walk.row(step + 2));
                float c = cell.c;
                const float h32 = advance_cell(sums[0][s], sums[0][2 + s], sums[1][s], sums[1][2 + s], c);
                const __half h = __float2half_rn(h32);
                asm volatile("st.shared.b16 [%0], %1;" ::"r"(write_to + then + tile * TILE_BYTES + s * ROW_BYTES),
                             "h"(__half_as_ushort(h))
                             : "memory");
                if (step < cell.alive) {
                    cell.c = c, cell.h = h;
                    if (to.out) to.put(cell.walk.row(step), unit, h);
                }
            }
            Turns<TILES>::leave(tile);
        }
    }
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
        for (int s = 0; s < 2; ++s) {
            const Cell& cell = cells[tile][s];
            const int slot = slot_of(tile, s);
            if (slot < slots && unit < to.units) to.finish(first + slot, unit, cell.h, cell.c);
        }
    }
}

}  // namespace
}  // namespace galley

using namespace galley;

#define LSTM_F16(K_TILES, GROUP, THREADS)                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) lstm_f16_k##K_TILES##_g##GROUP(                           \
        const uint4* weights, const uint2* gates, const int* index, const int4* sequences, __half* out,                \
        __half* hidden, float* cell, int count, int group, int units, int out_stride, int direction_stride,            \
        int place_stride) {                                                                                            \
        galley::take_turn();                                                                                           \
        const Recurrence<__half> to{index, sequences, out, hidden, cell,                                               \
                                    count, units, out_stride, direction_stride, place_stride};                         \
        recur<K_TILES, GROUP / TILE>(weights, gates, to, group);                                                       \
    }

LSTM_F16(2, 8, 128)
LSTM_F16(2, 16, 128)
LSTM_F16(4, 8, 256)
LSTM_F16(4, 16, 256)
LSTM_F16(7, 8, 448)
LSTM_F16(7, 16, 448)
LSTM_F16(8, 8, 512)
LSTM_F16(8, 16, 512)
