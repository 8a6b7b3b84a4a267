// What a training step remembers on the device. `ops/optimizer/cuda.rs` knows the order, and makes the first of them.
#pragma once

namespace galley {

struct State {
    float scale;           // what gradients are multiplied by, so that f16 holds them: a power of two
    unsigned good;         // steps since the scale was last changed
    unsigned passes;       // passes there and back; counts the steps of random numbers
    unsigned steps;        // those that changed the parameters
    unsigned overflow;     // whether a gradient of this pass is no finite number
    unsigned overflows;    // passes with such
    float step_size;       // AdamW's for this step
    float correction;      // likewise
};

}  // namespace galley
