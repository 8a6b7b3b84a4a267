// Zeros at random, to the bit those of `ops/dropout.rs`: which of them a value meets follows from where it is.
//
// The generator is Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). Values are numbered; value
// `v` is of group `v / 64`, and its number is word `v % 64 / 16` of block `16 * group + v % 16`.
#pragma once

#include <stdint.h>

#include "train_state.cuh"

namespace galley {

// The numbers of a layer in a step.
struct Philox {
    unsigned seed_low, seed_high, step, layer;

    __device__ __forceinline__ uint4 block(uint64_t counter) const {
        unsigned a = static_cast<unsigned>(counter), b = static_cast<unsigned>(counter >> 32), c = step, d = layer;
        unsigned low = seed_low, high = seed_high;
#pragma unroll
        for (int round = 0; round < 10; round++) {
            const uint64_t first = static_cast<uint64_t>(0xd2511f53u) * a, second = static_cast<uint64_t>(0xcd9e8d57u) * c;
            a = static_cast<unsigned>(second >> 32) ^ b ^ low, b = static_cast<unsigned>(second);
            c = static_cast<unsigned>(first >> 32) ^ d ^ high, d = static_cast<unsigned>(first);
            low += 0x9e3779b9u, high += 0xbb67ae85u;
        }
        return make_uint4(a, b, c, d);
    }
};

// What values are multiplied by. Kernels take all of it but the step as arguments, in this order.
struct Dropout {
    unsigned seed_low, seed_high, layer;
    unsigned threshold;  // numbers below it become zeros
    float factor;        // what the others are multiplied by; zero where all become zeros

    // The step is the state's; so not before it is the kernel's turn.
    __device__ __forceinline__ Philox numbers(const State* state) const {
        return {seed_low, seed_high, state->passes, layer};
    }
    __device__ __forceinline__ float of(unsigned number) const { return number < threshold ? 0.0f : factor; }
    // Of one value, where not all four numbers of a block are of use.
    __device__ __forceinline__ float at(const Philox& numbers, uint64_t value) const {
        const uint4 words = numbers.block(value / 64 * 16 + value % 16);
        const unsigned word = static_cast<unsigned>(value) % 64 / 16;
        return of(word == 0 ? words.x : word == 1 ? words.y : word == 2 ? words.z : words.w);
    }
};

}  // namespace galley
