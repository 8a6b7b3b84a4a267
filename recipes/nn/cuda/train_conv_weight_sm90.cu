// The gradient of a convolution's weight on Hopper, in f16: outputs by what is under a window, a product that sums over all
// pixels. The copy engine gathers the windows, and the tensor cores take both operands as they lie, with the pixels, which are
// summed over, from row to row. What is summed over is shared out; `train_conv_sum` of `train_conv_weight.cu` adds the shares.
// Needs sm_90a.
//
// `train_conv_weight_sm90_MxN_f16`: a block has M outputs, and N / 64 panels of 64 channels under a tap.
//
// Arguments, in order:
//   x       const __grid_constant__ CUtensorMap, im2col of rank 4, {channels, width, height, images}: boxes of 64 windows by 64
//           channels, 128-byte swizzle, zeros out of bounds
//   dy      .. of [pixels, all outputs]: boxes of 64 by 64, 128-byte swizzle
//   parts   float*, [shares, all outputs, taps, inputs]
//   out_height, out_width, stride, top, left, kernel_width, taps, chunks, steps, share, own_outputs, merged, inputs, outputs,
//   stages  int
//
// There are `steps` of 64 pixels, of which a block has `share`. A tap has `chunks` panels. The product's groups have own_outputs;
// each is `merged` of the layer's, which have `inputs` and `outputs` each: where there are several, own_outputs and merged
// `inputs` are 64, and chunks is 1. Channels are multiples of 8.
//
// Launch: grid (ceil(own_outputs / M) ceil(taps chunks 64 / N), ceil(steps / share), groups); block 288; dynamic shared memory
// stages * (M + N) * 128 + 1280 bytes.
#include "common.cuh"
#include "conv_sm90.cuh"

namespace {

using namespace galley::hopper;
using namespace galley;

constexpr int PANEL = 64, PANEL_BYTES = PANEL * PANEL * 2, ALIGNMENT = 1024;

struct Gradient {
    int out_height, out_width, stride, top, left, kernel_width, taps, chunks, steps, share, own_outputs, merged, inputs,
        outputs, stages;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// As `matrix_descriptor`, of panels of 64 rows that are summed over: 8 rows are 1024 bytes, and the next 64 columns a panel on.
// The next 16 rows are 2048 bytes on: add 128.
__device__ __forceinline__ uint64_t turned_descriptor(uint32_t address) {
    constexpr uint64_t SWIZZLE_128B = 1ull << 62, ROWS = (1024ull >> 4) << 32, COLUMNS = (PANEL_BYTES >> 4) << 16;
    return SWIZZLE_128B | ROWS | COLUMNS | ((address & 0x3ffff) >> 4);
}

#define GALLEY_ROW8(d, i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
        "+f"(d[i + 7])
// d[64, 128] += a[16, 64]^T b[16, 128], both given by `turned_descriptor`.
__device__ __forceinline__ void product_turned(float (&d)[64], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,"
        "%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,"
        "%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
        "}, %64, %65, 1, 1, 1, 1, 1;"
        : GALLEY_ROW8(d, 0), GALLEY_ROW8(d, 8), GALLEY_ROW8(d, 16), GALLEY_ROW8(d, 24), GALLEY_ROW8(d, 32),
          GALLEY_ROW8(d, 40), GALLEY_ROW8(d, 48), GALLEY_ROW8(d, 56)
        : "l"(a), "l"(b));
}
#undef GALLEY_ROW8

// DOWN by ACROSS warpgroups, each with 64 outputs and PANELS panels.
template <int DOWN, int ACROSS, int PANELS>
__device__ __forceinline__ void gradient(const CUtensorMap& x, const CUtensorMap& dy, float* parts,
                                         const Gradient& shape) {
    constexpr int CONSUMERS = DOWN * ACROSS, COLUMNS = ACROSS * PANELS, STAGE_BYTES = (DOWN + COLUMNS) * PANEL_BYTES;
    extern __shared__ uint8_t shared[];
    const uint32_t stages = (shared_address(shared) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    Ring ring(stages + shape.stages * STAGE_BYTES, BARRIERS_BYTES / 2, shape.stages);
    const int warpgroup = threadIdx.x / WARPGROUP;
    const bool copies = threadIdx.x == CONSUMERS * WARPGROUP;
    if (copies) {
        prefetch_map(x);
        prefetch_map(dy);
    }
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < shape.stages; ++stage) {
            barrier_init(ring.full + 8 * stage, 1);
            barrier_init(ring.empty + 8 * stage, CONSUMERS * WARPGROUP / WARP);
        }
        barrier_init_fence();
    }
    __syncthreads();
    take_turn();

    const int panels = shape.taps * shape.chunks, across = (panels + COLUMNS - 1) / COLUMNS;
    const int row = blockIdx.x / across * DOWN * PANEL, column = blockIdx.x % across * COLUMNS;
    const int first = blockIdx.y * shape.share, last = min(first + shape.share, shape.steps);

    if (warpgroup == CONSUMERS) {
        if (!copies) return;
        // Which tap and channels each panel has; of those behind the last, channels that there are not.
        int r[COLUMNS], s[COLUMNS], channel[COLUMNS];
#pragma unroll
        for (int i = 0; i < COLUMNS; ++i) {
            const int panel = column + i, tap = panel / shape.chunks;
            const bool there = panel < panels;
            r[i] = there ? tap / shape.kernel_width : 0;
            s[i] = there ? tap % shape.kernel_width : 0;
            channel[i] = there ? (blockIdx.z + panel % shape.chunks) * PANEL : 1 << 24;
        }
        const int output = blockIdx.z * shape.own_outputs + row, image_pixels = shape.out_height * shape.out_width;
        for (int step = first; step < last; ++step) {
            const uint32_t stage = stages + ring.stage * STAGE_BYTES, full = ring.full + 8 * ring.stage;
            const int pixel = step * PANEL, image = pixel / image_pixels, within = pixel % image_pixels;
            const int y = within / shape.out_width * shape.stride - shape.top;
            const int left = within % shape.out_width * shape.stride - shape.left;
            barrier_wait(ring.empty + 8 * ring.stage, ring.parity ^ 1);
            barrier_expect(full, STAGE_BYTES);
#pragma unroll
            for (int i = 0; i < DOWN; ++i) copy_box_in(stage + i * PANEL_BYTES, dy, output + i * PANEL, pixel, full);
#pragma unroll
            for (int i = 0; i < COLUMNS; ++i)
                copy_patches_in(stage + (DOWN + i) * PANEL_BYTES, x, channel[i], left, y, image, s[i], r[i], full);
            ring.advance();
        }
        return;
    }
    float sums[PANELS / 2][64];
#pragma unroll
    for (int pair = 0; pair < PANELS / 2; ++pair) {
#pragma unroll
        for (int i = 0; i < 64; ++i) sums[pair][i] = 0;
    }
    const int lane = threadIdx.x % WARP, down = warpgroup % DOWN, along = warpgroup / DOWN * PANELS;
    int previous = -1;
    for (int step = first; step < last; ++step) {
        const uint32_t stage = stages + ring.stage * STAGE_BYTES;
        const uint64_t a = turned_descriptor(stage + down * PANEL_BYTES);
        const uint64_t b = turned_descriptor(stage + (DOWN + along) * PANEL_BYTES);
        barrier_wait(ring.full + 8 * ring.stage, ring.parity);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
            for (int pair = 0; pair < PANELS / 2; ++pair)
                product_turned(sums[pair], a + k * 128, b + pair * (2 * PANEL_BYTES >> 4) + k * 128);
        }
        wgmma_commit();
        if (previous >= 0) {
            wgmma_wait<1>();
            if (lane == 0) barrier_arrive(ring.empty + 8 * previous);
        }
        previous = ring.stage;
        ring.advance();
    }
    wgmma_wait<0>();
#pragma unroll
    for (int pair = 0; pair < PANELS / 2; ++pair) settle(sums[pair]);

    const int all_outputs = gridDim.z * shape.own_outputs;
    float* to = parts + static_cast<size_t>(blockIdx.y) * all_outputs * shape.taps * shape.inputs;
#pragma unroll
    for (int panel = 0; panel < PANELS; ++panel) {
        const int number = column + along + panel, tap = number / shape.chunks;
        if (number >= panels) break;
        const int first_channel = number % shape.chunks * PANEL;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int output = row + down * PANEL + threadIdx.x % WARPGROUP / WARP * 16 + half * 8 + lane / 4;
            if (output >= shape.own_outputs) continue;
            // The layer's group within the product's, which sees as many channels from there on.
            const int seen = shape.merged == 1 ? 0 : output / shape.outputs * shape.inputs;
            const size_t line = static_cast<size_t>(blockIdx.z * shape.own_outputs + output) * shape.taps + tap;
#pragma unroll
            for (int i = 0; i < 16; ++i) {
                const int input = first_channel + i / 2 * 8 + lane % 4 * 2 + i % 2 - seen;
                if (input < 0 || input >= shape.inputs) continue;
                to[line * shape.inputs + input] = sums[panel / 2][panel % 2 * 32 + i / 2 * 4 + half * 2 + i % 2];
            }
        }
    }
}
#define GALLEY_BODY(...) gradient<__VA_ARGS__>
#else
#define GALLEY_BODY(...) [](auto&&...) { __trap(); }
#endif

}  // namespace

#define GALLEY_GRADIENT(name, blocks, ...)                                                                            \
    extern "C" __global__ void __launch_bounds__(288, blocks) train_conv_weight_sm90_##name##_f16(                    \
        const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap dy, float* parts, int out_height,  \
        int out_width, int stride, int top, int left, int kernel_width, int taps, int chunks, int steps, int share,   \
        int own_outputs, int merged, int inputs, int outputs, int stages) {                                           \
        const Gradient shape{out_height, out_width, stride,      top,    left,   kernel_width, taps,  chunks,         \
                             steps,      share,     own_outputs, merged, inputs, outputs,      stages};               \
        GALLEY_BODY(__VA_ARGS__)(x, dy, parts, shape);                                                                \
    }

GALLEY_GRADIENT(128x128, 2, 2, 1, 2)
GALLEY_GRADIENT(128x256, 1, 2, 1, 4)
GALLEY_GRADIENT(64x256, 1, 1, 2, 2)
