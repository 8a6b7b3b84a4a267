// An LSTM's recurrence on CUDA cores, in f16 or f32. What it is part of, and what its arguments are, is in `lstm.cuh`.
//
// lstm_T_plain(weights, gates, index, sequences, out, hidden, cell f32,
//              int count, int H, int out_stride, int direction_stride, int place_stride)
//   The recurrence on CUDA cores for H up to 256. T is f16 or f32: weights, gates, out and hidden; the state is f32.
//   weights [2, P / 4, P, 4, 4], zeros where there is no unit or column: element [d, j, u, i, gate] is
//   Whh[gate * H + u][4 * j + i] of direction d; aligned to 16 bytes. Block: 4 * P threads. Grid: (ceil(count / 4), 2).
//   Bound by reading the weights from the caches in every step.

#include "lstm.cuh"

namespace galley {
namespace {

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

}  // namespace
}  // namespace galley

using namespace galley;

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
