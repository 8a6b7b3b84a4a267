// What becomes of parameters by their gradients, and what a step leaves for the next.
//
// T is `f16` or `f32`, what the network computes in. Parameters, gradients and what is kept are f32 arrays of the same length, a
// multiple of eight; `copy` is that of the parameters in f16, and null in f32. Gradients are `state->scale` times what they would be.
// A thread has four values: grid ceil(vectors / 256), block 256; in `finite_T` it has 16: grid ceil(vectors / 1024). Memory is the
// bound. Kernels of one thread are of no size.
//
// `finite_T(gradients, vectors, state)`
//     Sets `overflow` where one is no finite number. Nothing is changed by such a step.
//
// `sgd_T(parameters, gradients, momentum, copy, vectors, lr, factor, weight_decay, nesterov, state)`
//     As PyTorch's SGD. momentum is null where factor, what is left of it in the next step, is zero.
//
// `prepare_T(lr low, high, beta1 low, high, beta2 low, high, state)`
//     step_size = lr / (1 - beta1^step), correction = 1 / sqrt(1 - beta2^step), in f64, whose words these are. One thread.
//
// `adam_w_T(parameters, gradients, mean, square, copy, vectors, keep, beta1, beta2, eps, state)`
//     As PyTorch's AdamW; keep = 1 - lr * weight_decay.
//
// `sgd_pure`, `adam_w_pure`, `end_pure`
//     The same with every number rounded to f16 as soon as it is computed, as where all arrays are f16; gradients that are no finite
//     numbers are not looked for, and the scale stays.
//
// `end_T(state)`
//     Counts. In f16 it halves the scale after a step that overflowed, and doubles it after 2000 that did not. One thread.
#include "train_state.cuh"
#include "train_vectors.cuh"

namespace galley {

using Four = Vector<float, 4>;

constexpr int CHECKED = 4;  // vectors of a thread

__device__ __forceinline__ void find_overflow(const float* gradients, int vectors, State* state) {
    const int first = blockIdx.x * (BLOCK * CHECKED) + threadIdx.x;
    Four values[CHECKED];
#pragma unroll
    for (int i = 0; i < CHECKED; i++) {
        values[i] = {};
        if (first + i * BLOCK < vectors) values[i] = Four::load(gradients + (first + i * BLOCK) * static_cast<size_t>(4));
    }
    bool all = true;
#pragma unroll
    for (int i = 0; i < CHECKED; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) all = all && fabsf(values[i].values[j]) < INFINITY;
    }
    if (!all) state->overflow = 1;
}

// Calls `f` with where a thread's values begin, if there are any and they are to be changed.
template <typename F> __device__ __forceinline__ void update(int vectors, const State* state, F f) {
    const size_t number = static_cast<size_t>(blockIdx.x) * BLOCK + threadIdx.x;
    if (number < vectors && !state->overflow) f(number * 4);
}

__device__ __forceinline__ void keep_values(const Four& values, float* to, __half* copy, size_t at) {
    values.store(to + at);
    if (!copy) return;
    Vector<__half, 4> narrow;
#pragma unroll
    for (int i = 0; i < 4; i++) narrow.values[i] = values.values[i];
    narrow.store(copy + at);
}

// What of a number is kept.
template <bool PURE> __device__ __forceinline__ float kept_of(float x) {
    return PURE ? __half2float(__float2half_rn(x)) : x;
}

// The arithmetic of `ops/optimizer.rs`, operation by operation.
template <bool PURE>
__device__ __forceinline__ void sgd(float* parameters, const float* gradients, float* momentum, __half* copy,
                                    int vectors, float lr, float factor, float weight_decay, bool nesterov,
                                    const State* state) {
    update(vectors, state, [=](size_t at) {
        const float unscale = 1.0f / state->scale;
        const bool is_first = state->steps == 0;
        Four values = Four::load(parameters + at), kept = {};
        const Four all = Four::load(gradients + at);
        if (momentum && !is_first) kept = Four::load(momentum + at);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const auto keep = [](float x) { return kept_of<PURE>(x); };
            const float value = keep(values.values[i]);
            const float gradient = keep(fmaf(value, weight_decay, keep(all.values[i] * unscale)));
            float step = gradient;
            if (momentum) {
                if (!is_first) {
                    step = PURE ? keep(keep(kept.values[i] * factor) + gradient) : fmaf(kept.values[i], factor, gradient);
                }
                kept.values[i] = step;
                if (nesterov) step = keep(fmaf(step, factor, gradient));
            }
            values.values[i] = keep(fmaf(step, -lr, value));
        }
        if (momentum) kept.store(momentum + at);
        keep_values(values, parameters, copy, at);
    });
}

__device__ __forceinline__ double power(double base, unsigned exponent) {
    double result = 1.0;
    for (;; base = __dmul_rn(base, base)) {
        if (exponent & 1) result = __dmul_rn(result, base);
        exponent >>= 1;
        if (exponent == 0) return result;
    }
}

template <bool PURE>
__device__ __forceinline__ void adam_w(float* parameters, const float* gradients, float* mean, float* square,
                                       __half* copy, int vectors, float keep, float beta1, float beta2, float eps,
                                       const State* state) {
    update(vectors, state, [=](size_t at) {
        const float unscale = 1.0f / state->scale, step_size = state->step_size, correction = state->correction;
        Four values = Four::load(parameters + at), means = Four::load(mean + at), squares = Four::load(square + at);
        const Four all = Four::load(gradients + at);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const auto kept = [](float x) { return kept_of<PURE>(x); };
            const float gradient = kept(all.values[i] * unscale);
            const float m = kept(fmaf(gradient, 1.0f - beta1, means.values[i] * beta1));
            const float v = kept(fmaf(gradient * gradient, 1.0f - beta2, kept(squares.values[i] * beta2)));
            means.values[i] = m, squares.values[i] = v;
            const float below =
                PURE ? kept(kept(kept(sqrtf(v)) * correction) + eps) : fmaf(sqrtf(v), correction, eps);
            values.values[i] = kept(fmaf(m / below, -step_size, kept(kept(values.values[i]) * keep)));
        }
        means.store(mean + at);
        squares.store(square + at);
        keep_values(values, parameters, copy, at);
    });
}

__device__ __forceinline__ void prepare(double lr, double beta1, double beta2, State* state) {
    const unsigned step = state->steps + 1;
    const double first = __dsub_rn(1.0, power(beta1, step)), second = __dsub_rn(1.0, power(beta2, step));
    state->step_size = static_cast<float>(lr / first);
    state->correction = static_cast<float>(1.0 / sqrt(second));
}

constexpr unsigned GOOD = 2000;
constexpr float MOST_SCALE = 65536.0f * 256.0f;

__device__ __forceinline__ void end(State* state, bool scales) {
    state->passes++;
    if (state->overflow) {
        state->scale = fmaxf(state->scale / 2.0f, 1.0f);
        state->good = 0;
        state->overflows++;
        state->overflow = 0;
        return;
    }
    state->steps++;
    if (!scales || ++state->good < GOOD) return;
    state->scale = fminf(state->scale * 2.0f, MOST_SCALE);
    state->good = 0;
}

}  // namespace galley

using namespace galley;

#define GALLEY_KERNEL extern "C" __global__ void __launch_bounds__(BLOCK)

#define GALLEY_UPDATE(name, scales, pure)                                                                              \
    GALLEY_KERNEL sgd_##name(float* parameters, const float* gradients, float* momentum, __half* copy, int vectors,    \
                             float lr, float factor, float weight_decay, int nesterov, const State* state) {           \
        take_turn();                                                                                                   \
        sgd<pure>(parameters, gradients, momentum, copy, vectors, lr, factor, weight_decay, nesterov, state);          \
    }                                                                                                                  \
    GALLEY_KERNEL adam_w_##name(float* parameters, const float* gradients, float* mean, float* square, __half* copy,   \
                                int vectors, float keep, float beta1, float beta2, float eps, const State* state) {    \
        take_turn();                                                                                                   \
        adam_w<pure>(parameters, gradients, mean, square, copy, vectors, keep, beta1, beta2, eps, state);              \
    }                                                                                                                  \
    GALLEY_KERNEL end_##name(State* state) {                                                                           \
        take_turn();                                                                                                   \
        end(state, scales);                                                                                            \
    }

GALLEY_UPDATE(f16, true, false)
GALLEY_UPDATE(f32, false, false)
GALLEY_UPDATE(pure, false, true)

#define GALLEY_BEFORE(name)                                                                                            \
    GALLEY_KERNEL finite_##name(const float* gradients, int vectors, State* state) {                                   \
        take_turn();                                                                                                   \
        find_overflow(gradients, vectors, state);                                                                      \
    }                                                                                                                  \
    GALLEY_KERNEL prepare_##name(int lr_low, int lr_high, int beta1_low, int beta1_high, int beta2_low,                \
                                 int beta2_high, State* state) {                                                       \
        take_turn();                                                                                                   \
        prepare(__hiloint2double(lr_high, lr_low), __hiloint2double(beta1_high, beta1_low),                            \
                __hiloint2double(beta2_high, beta2_low), state);                                                       \
    }

GALLEY_BEFORE(f16)
GALLEY_BEFORE(f32)
