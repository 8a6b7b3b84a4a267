// A bidirectional LSTM over sequences of unlike lengths, which lie end to end as rows: "packed", with no padding.
//
// It runs as two kernels. `lstm_project_*` (`lstm_inputs.cu`) makes the input's part of the gates, x * Wih^T + bih + bhh, which
// does not depend on the recurrence; `lstm_*` (`lstm.cu`, `lstm_plain.cu`) runs the recurrence and takes that part of row r
// from row r of that table, or from row index[r] where few inputs occur many times (characters, words). Fused, the input's
// products (60% of all, with 150 inputs and 100 units) would stand in the one loop whose steps cannot be spread over the
// device, and would be repeated for the empty places of a small group.
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
#pragma once

#include "tile.cuh"

namespace galley {

constexpr int GATES = 4;
constexpr int DIRECTIONS = 2;
constexpr int WARP_UNITS = 8;  // Hidden units of a warp: their four gates are the 32 rows of two products.

// e^(-scale * x), but at most 2^40: 1 / (1 + that) is 0 for every purpose, and products of three stay finite.
template <int SCALE> __device__ __forceinline__ float decay(float x) {
    return quick_power_of_two(fminf(x * (-1.44269504088896341f * SCALE), 40.0f));
}

// Advances a cell and gives its state: c' = sigmoid(f) c + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(c').
//
// With sigmoid(x) = 1 / (1 + e^-x) and tanh(x) = (1 - e^-2x) / (1 + e^-2x) brought to common denominators, two
// reciprocals do the work of five. A multiprocessor makes only 16 of them in a cycle.
__device__ __forceinline__ float advance_cell(float i, float f, float g, float o, float& c) {
    const float below_f = 1.0f + decay<1>(f), e_g = decay<2>(g);
    const float below_input = (1.0f + decay<1>(i)) * (1.0f + e_g);
    c = (c * below_input + (1.0f - e_g) * below_f) * quick_reciprocal(below_input * below_f);
    const float e_c = decay<2>(c);
    return (1.0f - e_c) * quick_reciprocal((1.0f + decay<1>(o)) * (1.0f + e_c));
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

}  // namespace galley
