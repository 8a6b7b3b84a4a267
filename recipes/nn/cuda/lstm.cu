// A bidirectional LSTM over sequences of unlike lengths, which lie end to end as rows: "packed", with no padding.
//
// It runs as two kernels. `lstm_project_*` makes the input's part of the gates, x * Wih^T + bih + bhh, which does not
// depend on the recurrence; `lstm_*` runs the recurrence and takes that part of row r from row r of this table, or from
// row index[r] where few inputs occur many times (characters, words). Fused, the input's products (60% of all, with 150
// inputs and 100 units) would stand in the one loop whose steps cannot be spread over the device, and would be repeated
// for the empty places of a small group.
//
// Common to all kernels: gates are torch's, in its order i, f, g, o. H is the units of a direction, P is H up to a
// multiple of 8, and directions are 0 (forward) and 1 (backward).
//
//   table of gates  [rows, 2, P, 4]: direction, unit, gate; aligned to 16 bytes. Its column (direction * P + unit) * 4
//                   + gate belongs to torch's row gate * H + unit; for units from H on, weights and bias are zeros.
//   sequences       int4 {first row, length, place, unused}, sorted by length, the longest first; a length may be 0.
//                   The final states go to the place. One below 0 is nowhere: for graphs that were captured with more
//                   sequences than a batch has, the others being of length 0.
//   index           int32 [rows] or null; entries of rows that no sequence has are not read.
//   out             [rows, out_stride] or null; unit u of a direction is column direction * H + u.
//   hidden, cell    final states, zeros for an empty sequence; either may be null. Element direction * direction_stride
//                   + place * place_stride + u: states can be written as [2, sequences, H] or into columns of another
//                   layer's input.
//
// A sequence's results do not depend, to the bit, on the others, on its group, or on the size of groups.
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
//
// lstm_T_plain(weights, gates, index, sequences, out, hidden, cell f32,
//              int count, int H, int out_stride, int direction_stride, int place_stride)
//   The same on CUDA cores for H up to 256. T is f16 or f32: weights, gates, out and hidden; the state is f32.
//   weights [2, P / 4, P, 4, 4], zeros where there is no unit or column: element [d, j, u, i, gate] is
//   Whh[gate * H + u][4 * j + i] of direction d; aligned to 16 bytes. Block: 4 * P threads. Grid: (ceil(count / 4), 2).
//   Bound by reading the weights from the caches in every step.
//
// lstm_project_f16(x, weights, bias f32, gates, int rows, int inputs, int x_stride, int columns)
//   x [rows, inputs] in rows of x_stride -> gates [rows, columns], columns = 8 * P. x_stride is even; it is read
//   fastest if it is a multiple of 8 and x is aligned to 16 bytes; what is behind the inputs is not read. weights
//   [columns, inputs up to a multiple of 16], padded with zeros, aligned to 16 bytes; bias [columns] is the sum of
//   torch's two. Block: 128 threads. Grid: (columns / 64, B) for any B: blocks stride over tiles of 64 rows, and
//   B = min(ceil(rows / 64), 3 * 132 * 64 / columns) fills the device. Dynamic shared memory: 384 * (padded inputs + 8)
//   bytes. For 150 inputs and 100 units a row is 300 bytes in, 1,664 out and 0.25 MFLOP, which memory bounds; the
//   kernel runs at 1.3 TB/s, held up by instructions and their latency.
// lstm_project_f32(...)
//   The same in f32 on CUDA cores; weights [columns, inputs] without padding, any x_stride. Block: 256 threads. Grid:
//   (columns / 64, ceil(rows / 64)). Bound by arithmetic.
//
// gather_rows(table, ids u32, out, int rows, int vectors, int out_stride)
//   Embeddings of any type: the first `vectors` pieces of 16 bytes of row r of out become row ids[r] of the table
//   [entries, vectors]. out_stride, in pieces too, leaves room for what stands beside them in another layer's input.
//   Block: 128 threads, a warp for each row. Grid: ceil(rows / 4). Bound by memory.

#include "tile.cuh"

namespace galley {
namespace {

constexpr int GATES = 4;
constexpr int DIRECTIONS = 2;
constexpr int WARP_UNITS = 8;  // Hidden units of a warp: their four gates are the 32 rows of two products.
constexpr int TILE = 8;        // Sequences of a tile: the columns of a product.
constexpr int GATHERED_ROWS = 4;

__device__ __forceinline__ float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// e^(-scale * x), but at most 2^40: 1 / (1 + that) is 0 for every purpose, and products of three stay finite.
template <int SCALE> __device__ __forceinline__ float decay(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(fminf(x * (-1.44269504088896341f * SCALE), 40.0f)));
    return y;
}

// Advances a cell and gives its state: c' = sigmoid(f) c + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(c').
//
// With sigmoid(x) = 1 / (1 + e^-x) and tanh(x) = (1 - e^-2x) / (1 + e^-2x) brought to common denominators, two
// reciprocals do the work of five. A multiprocessor makes only 16 of them in a cycle.
__device__ __forceinline__ float advance_cell(float i, float f, float g, float o, float& c) {
    const float below_f = 1.0f + decay<1>(f), e_g = decay<2>(g);
    const float below_input = (1.0f + decay<1>(i)) * (1.0f + e_g);
    c = (c * below_input + (1.0f - e_g) * below_f) * reciprocal(below_input * below_f);
    const float e_c = decay<2>(c);
    return (1.0f - e_c) * reciprocal((1.0f + decay<1>(o)) * (1.0f + e_c));
}

// What both recurrences read and write; see the head of the file.
template <typename T> struct Recurrence {
    const int* index;
    const int4* sequences;
    T* out;
    T* hidden;
    float* cell;
    int count, units, out_stride, direction_stride, place_stride;

    // Where the table of gates has what belongs to a row.
    __device__ __forceinline__ int source(int row) const {
        if (index) row = __ldg(index + row);
        return row;
    }

    __device__ __forceinline__ void put(int row, int unit, T h) const {
        const uint32_t column = blockIdx.y * units + unit;
        out[static_cast<uint64_t>(static_cast<uint32_t>(row)) * static_cast<uint32_t>(out_stride) + column] = h;
    }

    __device__ __forceinline__ void finish(int sequence, int unit, T h, float c) const {
        const int place = __ldg(&sequences[sequence].z);
        if (place < 0) return;
        const size_t at = static_cast<size_t>(blockIdx.y) * direction_stride +
                          static_cast<size_t>(place) * place_stride + unit;
        if (hidden) hidden[at] = h;
        if (cell) cell[at] = c;
    }
};

// The rows of a sequence in the order of this block's direction. When it is over it stays at its last row, and one that
// is empty or does not exist goes where the group's first one goes: so there is always something to read, and reading
// takes no branches.
struct Walk {
    int start, last, length;

    // That of the sequence in a slot of the group.
    __device__ __forceinline__ static Walk of(const int4* group, int slot, int slots) {
        const int4 own = __ldg(group + (slot < slots ? slot : 0));
        const int4 sequence = own.y > 0 ? own : __ldg(group);
        const int last = sequence.y - 1;
        return {blockIdx.y == 0 ? sequence.x : sequence.x + last, last, slot < slots ? own.y : 0};
    }

    __device__ __forceinline__ int row(int step) const {
        const int rows = min(step, last);
        return blockIdx.y == 0 ? start + rows : start - rows;
    }
};

// ---- The recurrence on tensor cores. ----

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

// ---- The recurrence on CUDA cores. ----

// Sequences of a block, and threads of a unit: each has a fourth of the product for all sequences, and the cell of one.
constexpr int PLAIN_GROUP = 4;
constexpr int PLAIN_UNITS = 256;  // The most.

__device__ __forceinline__ float4 load_gates(const float* from) {
    return __ldg(reinterpret_cast<const float4*>(from));
}
__device__ __forceinline__ float4 load_gates(const __half* from) {
    const uint2 bits = __ldg(reinterpret_cast<const uint2*>(from));
    const float2 i_f = unpack_halves(bits.x), g_o = unpack_halves(bits.y);
    return make_float4(i_f.x, i_f.y, g_o.x, g_o.y);
}

__device__ __forceinline__ float4 sum_of(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
__device__ __forceinline__ float4 exchange(float4 x, int lanes) {
    return make_float4(__shfl_xor_sync(0xffffffffu, x.x, lanes), __shfl_xor_sync(0xffffffffu, x.y, lanes),
                       __shfl_xor_sync(0xffffffffu, x.z, lanes), __shfl_xor_sync(0xffffffffu, x.w, lanes));
}

// Adds up what four neighbours have for each of four sequences; thread s of them gets the sum of sequence s.
__device__ __forceinline__ float4 gather_sums(const float4 (&parts)[PLAIN_GROUP], int s) {
    const bool odd = s & 1, high = s & 2;
    const float4 low_pair = sum_of(odd ? parts[1] : parts[0], exchange(odd ? parts[0] : parts[1], 1));
    const float4 high_pair = sum_of(odd ? parts[3] : parts[2], exchange(odd ? parts[2] : parts[3], 1));
    return sum_of(high ? high_pair : low_pair, exchange(high ? low_pair : high_pair, 2));
}

template <typename T>
__device__ __forceinline__ void recur_plain(const T* weights, const T* gates, const Recurrence<T>& to) {
    __shared__ float states[2][PLAIN_UNITS][PLAIN_GROUP];

    const int units = to.units, padded = (units + WARP_UNITS - 1) / WARP_UNITS * WARP_UNITS;
    const int unit = threadIdx.x / PLAIN_GROUP, s = threadIdx.x % PLAIN_GROUP;
    const int first = blockIdx.x * PLAIN_GROUP, slots = min(PLAIN_GROUP, to.count - first);
    const int steps = __ldg(&to.sequences[first].y);
    const Walk walk = Walk::of(to.sequences + first, s, slots);
    weights += (static_cast<size_t>(blockIdx.y) * padded * padded + threadIdx.x) * GATES;
    gates += (blockIdx.y * padded + unit) * GATES;
    const size_t pitch = DIRECTIONS * padded * GATES;

    float c = 0.0f, h = 0.0f;
    states[0][unit][s] = 0.0f;
    __syncthreads();
    for (int step = 0; step < steps; ++step) {
        const float4 inputs = load_gates(gates + to.source(walk.row(step)) * pitch);
        float4 parts[PLAIN_GROUP] = {};
#pragma unroll 5
        for (int k = 0; k < padded; k += PLAIN_GROUP) {
            const float4 weight = load_gates(weights + static_cast<size_t>(k) * padded * GATES);
            const float4 state = *reinterpret_cast<const float4*>(states[step & 1][k + s]);
            const float of[PLAIN_GROUP] = {state.x, state.y, state.z, state.w};
#pragma unroll
            for (int i = 0; i < PLAIN_GROUP; ++i) {
                parts[i].x += weight.x * of[i], parts[i].y += weight.y * of[i];
                parts[i].z += weight.z * of[i], parts[i].w += weight.w * of[i];
            }
        }
        const float4 sum = sum_of(inputs, gather_sums(parts, s));
        float new_c = c;
        const float new_h = advance_cell(sum.x, sum.y, sum.z, sum.w, new_c);
        states[~step & 1][unit][s] = new_h;
        if (step < walk.length) {
            c = new_c, h = new_h;
            if (to.out && unit < units) to.put(walk.row(step), unit, from_float<T>(h));
        }
        __syncthreads();
    }
    if (s < slots && unit < units) to.finish(first + s, unit, from_float<T>(h), c);
}

// ---- The input's part of the gates. ----

namespace projection {

constexpr int ROWS = 64, COLUMNS = 64;  // of a block's tile
constexpr int WARPS = 4;                // two by two, each with 32 rows and 32 columns
constexpr int M_TILES = 2;              // products of a warp, of 16 rows
constexpr int N_TILES = 4;              // by 8 columns

// Column n of product j is column n / 2 * 8 + 2 * j + n % 2 of its warp: so a thread, which has columns 2 * t and
// 2 * t + 1 of every product, ends up with eight neighbours. Rows of the weights are brought into this order on the way
// to shared memory.
__device__ __forceinline__ int column_of(int row) {
    const int within = row % 32, product = within / 8, n = within % 8;
    return row - within + n / 2 * 8 + product * 2 + n % 2;
}

__device__ __forceinline__ void load_weights(__half* to, int pitch, const __half* from, int inputs) {
    for (int row = threadIdx.x / WARP; row < COLUMNS; row += WARPS) {
        const __half* source = from + static_cast<size_t>(column_of(row)) * inputs;
        for (int k = threadIdx.x % WARP * 8; k < inputs; k += WARP * 8) {
            copy(shared_address(to + row * pitch + k), source + k);
        }
    }
}

// sums += x * weights^T over all inputs, for this warp's part of the tile.
__device__ __forceinline__ void multiply(float (&sums)[M_TILES][N_TILES][4], const __half* x, const __half* weights,
                                         int pitch, int inputs) {
    const int lane = threadIdx.x % WARP;
    const uint32_t x_from = shared_address(x + lane % 16 * pitch + lane / 16 * 8);
    const uint32_t weights_from = shared_address(weights + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8);
#pragma unroll 2
    for (int k = 0; k < inputs; k += 16) {
        uint32_t a[M_TILES][4], b[N_TILES / 2][4];
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) load_matrices(a[m], x_from + (m * 16 * pitch + k) * 2);
#pragma unroll
        for (int n = 0; n < N_TILES / 2; ++n) load_matrices(b[n], weights_from + (n * 16 * pitch + k) * 2);
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
                multiply_add(sums[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
            }
        }
    }
}

// Stores the sums; `to` is the tile's first element for this thread, in the rows given.
__device__ __forceinline__ void store(const float (&sums)[M_TILES][N_TILES][4], __half* to, int columns, int rows) {
#pragma unroll
    for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = m * 16 + half * 8;
            if (row >= rows) continue;
            uint4 bits;
            bits.x = pack_halves(sums[m][0][2 * half], sums[m][0][2 * half + 1]);
            bits.y = pack_halves(sums[m][1][2 * half], sums[m][1][2 * half + 1]);
            bits.z = pack_halves(sums[m][2][2 * half], sums[m][2][2 * half + 1]);
            bits.w = pack_halves(sums[m][3][2 * half], sums[m][3][2 * half + 1]);
            *reinterpret_cast<uint4*>(to + static_cast<size_t>(row) * columns) = bits;
        }
    }
}

__device__ __forceinline__ void project(const __half* x, const __half* weights, const float* bias, __half* gates,
                                        int rows, int inputs, int x_stride, int columns) {
    extern __shared__ __align__(16) __half shared[];
    const int padded = (inputs + 15) / 16 * 16, pitch = padded + 8;
    __half* const weight_tile = shared;
    const auto x_tile = [&](int number) { return shared + (COLUMNS + number % 2 * ROWS) * pitch; };
    const auto fetch = [&](int number, int first) {
        if (first < rows) {
            const __half* from = x + static_cast<size_t>(first) * x_stride;
            copy_rows<ROWS, WARPS>(x_tile(number), pitch, from, x_stride, rows - first, inputs, padded);
        }
        commit_copies();
    };

    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int warp_row = warp % 2 * 32, warp_column = warp / 2 * 32;
    const int column = blockIdx.x * COLUMNS + warp_column + lane % 4 * 8;
    int first = blockIdx.y * ROWS;
    load_weights(weight_tile, pitch, weights + static_cast<size_t>(blockIdx.x) * COLUMNS * padded, padded);
    fetch(0, first);
    float bias_of[2 * N_TILES];
#pragma unroll
    for (int i = 0; i < 2 * N_TILES; ++i) bias_of[i] = __ldg(bias + column + i);

    for (int number = 0; first < rows; ++number, first += gridDim.y * ROWS) {
        fetch(number + 1, first + gridDim.y * ROWS);
        await_copies<1>();
        __syncthreads();
        float sums[M_TILES][N_TILES][4];
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[m][n][i] = bias_of[2 * n + i % 2];
            }
        }
        multiply(sums, x_tile(number) + warp_row * pitch, weight_tile + warp_column * pitch, pitch, padded);
        const int row = first + warp_row + lane / 4;
        store(sums, gates + static_cast<size_t>(row) * columns + column, columns, rows - row);
        __syncthreads();  // The next copies go where this tile has been read.
    }
}

// ---- The same on CUDA cores. ----

constexpr int DEPTH = 16;  // inputs at a time
constexpr int SIDE = 16;   // threads along either side of the tile, each with every 16th row and column
constexpr int EACH = ROWS / SIDE;

// Inputs [k, k + DEPTH) of `ROWS` rows, transposed; zeros where there are none.
__device__ __forceinline__ void load_transposed(float (&to)[DEPTH][ROWS + 1], const float* from, int stride, int rows,
                                                int k, int inputs) {
    for (int i = threadIdx.x; i < ROWS * DEPTH; i += SIDE * SIDE) {
        const int row = i / DEPTH, input = i % DEPTH;
        const bool valid = row < rows && k + input < inputs;
        to[input][row] = valid ? __ldg(from + static_cast<size_t>(row) * stride + k + input) : 0.0f;
    }
}

__device__ __forceinline__ void project(const float* x, const float* weights, const float* bias, float* gates,
                                        int rows, int inputs, int x_stride, int columns) {
    __shared__ float x_tile[DEPTH][ROWS + 1], weight_tile[DEPTH][COLUMNS + 1];
    const int first_row = blockIdx.y * ROWS, first_column = blockIdx.x * COLUMNS;
    x += static_cast<size_t>(first_row) * x_stride, weights += static_cast<size_t>(first_column) * inputs;
    const int right = threadIdx.x % SIDE, down = threadIdx.x / SIDE;
    float sums[EACH][EACH];
#pragma unroll
    for (int m = 0; m < EACH; ++m) {
#pragma unroll
        for (int n = 0; n < EACH; ++n) sums[m][n] = __ldg(bias + first_column + right + n * SIDE);
    }
    for (int k = 0; k < inputs; k += DEPTH) {
        load_transposed(x_tile, x, x_stride, rows - first_row, k, inputs);
        load_transposed(weight_tile, weights, inputs, COLUMNS, k, inputs);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < DEPTH; ++i) {
#pragma unroll
            for (int m = 0; m < EACH; ++m) {
#pragma unroll
                for (int n = 0; n < EACH; ++n) {
                    sums[m][n] += x_tile[i][down + m * SIDE] * weight_tile[i][right + n * SIDE];
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < EACH; ++m) {
        const int row = first_row + down + m * SIDE;
        if (row >= rows) continue;
#pragma unroll
        for (int n = 0; n < EACH; ++n) {
            gates[static_cast<size_t>(row) * columns + first_column + right + n * SIDE] = sums[m][n];
        }
    }
}

}  // namespace projection
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

#define LSTM_PLAIN(NAME, T)                                                                                            \
    extern "C" __global__ void __launch_bounds__(PLAIN_UNITS* PLAIN_GROUP) lstm_##NAME##_plain(                        \
        const T* weights, const T* gates, const int* index, const int4* sequences, T* out, T* hidden, float* cell,     \
        int count, int units, int out_stride, int direction_stride, int place_stride) {                                \
        galley::take_turn();                                                                                           \
        const Recurrence<T> to{index, sequences, out, hidden, cell,                                                    \
                               count, units, out_stride, direction_stride, place_stride};                              \
        recur_plain<T>(weights, gates, to);                                                                            \
    }

LSTM_PLAIN(f16, __half)
LSTM_PLAIN(f32, float)

extern "C" __global__ void __launch_bounds__(projection::WARPS* WARP)
    lstm_project_f16(const __half* x, const __half* weights, const float* bias, __half* gates, int rows, int inputs,
                     int x_stride, int columns) {
    galley::take_turn();
    projection::project(x, weights, bias, gates, rows, inputs, x_stride, columns);
}

extern "C" __global__ void __launch_bounds__(projection::SIDE* projection::SIDE)
    lstm_project_f32(const float* x, const float* weights, const float* bias, float* gates, int rows, int inputs,
                     int x_stride, int columns) {
    galley::take_turn();
    projection::project(x, weights, bias, gates, rows, inputs, x_stride, columns);
}

extern "C" __global__ void __launch_bounds__(GATHERED_ROWS* WARP)
    gather_rows(const uint4* table, const uint32_t* ids, uint4* out, int rows, int vectors, int out_stride) {
    galley::take_turn();
    const int row = blockIdx.x * GATHERED_ROWS + threadIdx.x / WARP;
    if (row >= rows) return;
    const uint4* from = table + static_cast<size_t>(__ldg(ids + row)) * vectors;
    uint4* to = out + static_cast<size_t>(row) * out_stride;
    for (int i = threadIdx.x % WARP; i < vectors; i += WARP) to[i] = __ldg(from + i);
}
