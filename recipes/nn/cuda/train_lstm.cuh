// A unit's step of an LSTM in training, there and back.
#pragma once

#include "common.cuh"

namespace galley {

constexpr int GATES = 4;

// From what gates are made of to what they are, and from the cell before to this one; gives the state.
__device__ __forceinline__ float advance(float (&gates)[GATES], float& cell) {
#pragma unroll
    for (int i = 0; i < GATES; i++) gates[i] = i == 2 ? tanhf(gates[i]) : sigmoid(gates[i]);
    cell = fmaf(gates[1], cell, gates[0] * gates[2]);
    return gates[3] * tanhf(cell);
}

// From gates to their gradients, and from the cell's gradient to that of the cell before.
__device__ __forceinline__ void go_back(float (&gates)[GATES], float cell, float before, float dstate, float& dcell) {
    const float i = gates[0], f = gates[1], g = gates[2], o = gates[3], of_cell = tanhf(cell);
    const float gradient = fmaf(dstate * o, fmaf(-of_cell, of_cell, 1.0f), dcell);
    dcell = gradient * f;
    // A sigmoid's slope is `s - s^2`, that of tanh `1 - t^2`.
    gates[0] = gradient * g * fmaf(-i, i, i);
    gates[1] = gradient * before * fmaf(-f, f, f);
    gates[2] = gradient * i * fmaf(-g, g, 1.0f);
    gates[3] = dstate * of_cell * fmaf(-o, o, o);
}

}  // namespace galley
