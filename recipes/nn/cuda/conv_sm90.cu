// Convolutions on Hopper, in f16: pixels by filters, a product whose left side the copy engine gathers from the image.
//
//   out[p, f] = activation(sum over r, s, c of before(x)[patch of p][r, s, c] w[f][r, s, c] + bias[f] + residual[p, f])
//
// Sums are f32, and what follows them is f32 until it is rounded once. Needs sm_90a.
//
//   kernel                     a block's tile           sums
//   conv_f16_sm90_MxN          M pixels by N filters    in order
//   conv_f16_sm90_MxN_sS       the same                 split over a cluster of S blocks, whose shares are added in order
//   conv_f16_sm90_scaled_..    the same, of max(x * scale + shift, 0), for kernels of one pixel without padding
//   conv_f16_sm90_linesK       128 pixels by 64 filters, for images of few channels: K values of a line at a time
//
// Arguments, in order:
//   x          const __grid_constant__ CUtensorMap, im2col of rank 4, {channels, width, height, images}: boxes of M windows by
//              64 channels, 128-byte swizzle, zeros out of bounds
//   w          .. of [filters, places * chunks * 64]: boxes of N rows by 64 columns, 128-byte swizzle. A row has the places of
//              the kernel in order, and for each the channels, with zeros up to a multiple of 64
//   out        .. of [pixels, filters]: boxes of 16 by 64, 128-byte swizzle
//   residual   .. of [pixels, filters]: boxes of M by 64, 128-byte swizzle; any map where there is none
//   bias       const float*, [filters], or null
//   out_values, residual_values    the same images by their addresses; residual_values is null where there is none
//   scale, shift                   const __half2*, [chunks * 32], zeros behind the channels; null where nothing is scaled
//   pixels, filters, out_height, out_width, stride, top, left, kernel_width, chunks, steps, activation, out_pitch,
//   residual_pitch, stages, grouped    int
//
// Of `lines`, a tile is 16 pixels across and 8 down in one image, and a step has 64 / K lines of the kernel, each with all its
// places and channels and what follows them, K in all; grouped and chunks say nothing. The image has its padding in memory.
//   x          tiled, rank 5, {K, out_width, out_height, kernel_height, images} with strides of pixels and lines: boxes of {K,
//              16, 8, 64 / K, 1}, swizzle of 2 K bytes
//   w          tiled, rank 3, {K, filters, lines}, of [filters, lines, K], zeros behind a line's values, and lines of zeros up to
//              whole steps: boxes of {K, 64, 64 / K}, the same swizzle
//   out        tiled, rank 4, {filters, out_width, out_height, images}: boxes of {64, 16, 1, 1}, 128-byte swizzle
// Its grid is a block for each tile of each image.
//
// Filters and pitches are multiples of 8, pitches in values. steps = places * chunks. Where `grouped`, chunks is 1, N is 64,
// and a tile's filters read the 64 channels of their own numbers: narrower groups have zeros in w. The first window begins
// at (-top, -left).
//
// Launch: grid tiles * S in a row, where tiles = ceil(pixels / M) ceil(filters / N); block 2 M + 32; dynamic shared memory
// stages * (M + N) * 128 + 1280 bytes. stages: at least N / 64, and at least M N / (32 (M + N)) where sums are split.
//
// 2 pixels filters places channels flops. Tiles of few channels are bound by what comes from L2 (each place is read anew),
// the others by the tensor cores: 600 TFLOP/s were seen.
#include "common.cuh"
#include "conv_sm90.cuh"

namespace {

using namespace galley::hopper;
using namespace galley;

// What a launch is for, beside maps and pointers.
struct Shape {
    int pixels, filters, height, width, stride, top, left, kernel_width, chunks, steps, activation, out_pitch,
        residual_pitch, stages, grouped;
};

template <int GROUPS, int TILE_N> struct Layout {
    static constexpr int TILE_M = 64 * GROUPS, WARPS = 4 * GROUPS;
    static constexpr int A_BYTES = TILE_M * ROW_BYTES;
    static constexpr int STAGE_BYTES = A_BYTES + TILE_N * ROW_BYTES;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <int GROUPS, int TILE_N, int SPLIT, bool SCALED, int LINE = 0>
__device__ __forceinline__ void conv(const CUtensorMap& x, const CUtensorMap& w, const CUtensorMap& out,
                                     const CUtensorMap& residual, const float* bias, __half* out_values,
                                     const __half* residual_values, const __half2* scale, const __half2* shift,
                                     const Shape& shape) {
    using L = Layout<GROUPS, TILE_N>;
    extern __shared__ uint8_t shared[];
    const uint32_t stages = (shared_address(shared) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    Ring ring(stages + shape.stages * L::STAGE_BYTES, BARRIERS_BYTES / 2, shape.stages);
    const int group = threadIdx.x / WARPGROUP;
    const bool copies = threadIdx.x == GROUPS * WARPGROUP;
    if (copies) {
        prefetch_map(x);
        prefetch_map(w);
    }
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < shape.stages; ++stage) {
            barrier_init(ring.full + 8 * stage, 1);
            barrier_init(ring.empty + 8 * stage, L::WARPS);
        }
        barrier_init_fence();
    }
    __syncthreads();
    take_turn();

    const int rank = SPLIT > 1 ? cluster_rank() : 0, tile = blockIdx.x / SPLIT;
    const int across = (shape.filters + TILE_N - 1) / TILE_N;
    const int row = tile / across * L::TILE_M, column = tile % across * TILE_N;
    const int first = SPLIT > 1 ? shape.steps * rank / SPLIT : 0;
    const int last = SPLIT > 1 ? shape.steps * (rank + 1) / SPLIT : shape.steps;
    const bool adds = residual_values != nullptr;
    // Of `lines`: where a tile is in its image.
    const int tiles_across = (shape.width + 15) / 16, tiles_down = (shape.height + 7) / 8, spot = tile / across;
    const int spot_x = spot % tiles_across * 16, spot_y = spot / tiles_across % tiles_down * 8;
    const int spot_image = spot / tiles_across / tiles_down;
    constexpr int PANELS = TILE_N / 64;

    if (group == GROUPS) {
        if (copies) {
            const int image_pixels = shape.height * shape.width;
            const int image = row / image_pixels, within = row % image_pixels;
            const int y = within / shape.width * shape.stride - shape.top;
            const int left = within % shape.width * shape.stride - shape.left;
            int place = first / shape.chunks, chunk = first % shape.chunks;
            int r = place / shape.kernel_width, s = place % shape.kernel_width;
            for (int step = first; step < last; ++step) {
                const uint32_t stage = stages + ring.stage * L::STAGE_BYTES, full = ring.full + 8 * ring.stage;
                barrier_wait(ring.empty + 8 * ring.stage, ring.parity ^ 1);
                barrier_expect(full, L::STAGE_BYTES);
                if constexpr (LINE > 0) {
                    const int line = step * (STEP / LINE);
                    copy_lines_in(stage, x, spot_x, spot_y, line, spot_image, full);
                    copy_taps_in(stage + L::A_BYTES, w, column, line, full);
                    ring.advance();
                    continue;
                }
                copy_patches_in(stage, x, shape.grouped ? column : chunk * STEP, left, y, image, s, r, full);
                copy_box_in(stage + L::A_BYTES, w, step * STEP, column, full);
                ring.advance();
                if (++chunk == shape.chunks) {
                    chunk = 0;
                    if (++s == shape.kernel_width) {
                        s = 0;
                        ++r;
                    }
                }
            }
            if (SPLIT == 1 && adds) {
                for (int panel = 0; panel < PANELS && column + panel * 64 < shape.filters; ++panel) {
                    const uint32_t stage = stages + ring.stage * L::STAGE_BYTES, full = ring.full + 8 * ring.stage;
                    barrier_wait(ring.empty + 8 * ring.stage, ring.parity ^ 1);
                    barrier_expect(full, L::A_BYTES);
                    copy_box_in(stage, residual, column + panel * 64, row, full);
                    ring.advance();
                }
            }
        }
        __syncwarp();
        if (SPLIT > 1) {
            cluster_sync();
            cluster_sync();
        }
    } else {
        float sums[TILE_N / 2];
#pragma unroll
        for (int i = 0; i < TILE_N / 2; ++i) sums[i] = 0;
        const int lane = threadIdx.x % 32;
        int previous = -1;
        if constexpr (SCALED) {
            uint32_t parts[2][4][4];
            const auto turn = [&](uint32_t (&values)[4][4], int step) {
                const uint32_t stage = stages + ring.stage * L::STAGE_BYTES;
                const uint64_t b = matrix_descriptor(stage + L::A_BYTES);
                barrier_wait(ring.full + 8 * ring.stage, ring.parity);
                const int panel_row = lane % 16;
                const uint32_t own = stage + (threadIdx.x / 32 * 16 + panel_row) * ROW_BYTES;
                const uint32_t swizzle = (lane / 16) ^ (panel_row % 8);
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    load_matrices(own + ((swizzle ^ (2 * k)) << 4), values[k]);
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const int at = step * (STEP / 2) + k * 8 + half * 4 + lane % 4;
                        const __half2 factor = scale[at], term = shift[at];
#pragma unroll
                        for (int i = 0; i < 2; ++i) {
                            __half2& value = reinterpret_cast<__half2&>(values[k][2 * half + i]);
                            value = __hfma2_relu(value, factor, term);
                        }
                    }
                }
                wgmma_fence();
#pragma unroll
                for (int k = 0; k < 4; ++k) product(sums, values[k], b + 2 * k);
                wgmma_commit();
                if (previous >= 0) {
                    wgmma_wait<1>();
                    if (lane == 0) barrier_arrive(ring.empty + 8 * previous);
                }
                previous = ring.stage;
                ring.advance();
            };
            int step = first;
            for (; step + 1 < last; step += 2) {
                turn(parts[0], step);
                turn(parts[1], step + 1);
            }
            if (step < last) turn(parts[0], step);
        } else {
            for (int step = first; step < last; ++step) {
                const uint32_t stage = stages + ring.stage * L::STAGE_BYTES;
                const uint64_t a = matrix_descriptor(stage + group * 64 * ROW_BYTES);
                const uint64_t b = matrix_descriptor(stage + L::A_BYTES);
                barrier_wait(ring.full + 8 * ring.stage, ring.parity);
                wgmma_fence();
#pragma unroll
                for (int k = 0; k < STEP / 16; ++k) {
                    if constexpr (LINE > 0) {
                        const int line = k * 16 / LINE, within = k * 16 % LINE / 16 * 2;
                        const uint32_t pixels = stage + (line * L::TILE_M + group * 64) * LINE * 2;
                        const uint32_t taps = stage + L::A_BYTES + line * TILE_N * LINE * 2;
                        product(sums, line_descriptor<LINE>(pixels) + within, line_descriptor<LINE>(taps) + within);
                    } else {
                        product(sums, a + 2 * k, b + 2 * k);
                    }
                }
                wgmma_commit();
                if (previous >= 0) {
                    wgmma_wait<1>();
                    if (lane == 0) barrier_arrive(ring.empty + 8 * previous);
                }
                previous = ring.stage;
                ring.advance();
            }
        }
        wgmma_wait<0>();
        if (previous >= 0 && lane == 0) barrier_arrive(ring.empty + 8 * previous);
        settle(sums);
        const int activation = shape.activation;
        const auto finish = [&](auto activate) {
            if constexpr (SPLIT == 1) {
                const int warp_row = threadIdx.x / 32 * 16, panel_row = lane % 16;
                const uint32_t swizzle = (lane / 16) ^ (panel_row % 8);
#pragma unroll
                for (int panel = 0; panel < PANELS; ++panel) {
                    if (column + panel * 64 >= shape.filters) break;
                    const uint32_t stage = stages + ring.stage * L::STAGE_BYTES;
                    if (adds) barrier_wait(ring.full + 8 * ring.stage, ring.parity);
                    const uint32_t own = stage + warp_row * ROW_BYTES;
#pragma unroll
                    for (int slice = 0; slice < 4; ++slice) {
                        const uint32_t address = own + panel_row * ROW_BYTES + ((swizzle ^ (2 * slice)) << 4);
                        uint32_t values[4], added[4] = {0, 0, 0, 0};
                        if (adds) load_matrices(address, added);
#pragma unroll
                        for (int half = 0; half < 2; ++half) {
                            const int at = column + panel * 64 + slice * 16 + half * 8 + lane % 4 * 2;
                            float2 c = make_float2(0, 0);
                            if (bias && at < shape.filters) c = __ldg(reinterpret_cast<const float2*>(bias + at));
                            const float* s = sums + (panel * 8 + slice * 2 + half) * 4;
#pragma unroll
                            for (int i = 0; i < 2; ++i) {
                                const float2 more = unpack(added[2 * half + i]);
                                values[2 * half + i] = pack(activate(s[2 * i] + c.x + more.x),
                                                            activate(s[2 * i + 1] + c.y + more.y));
                            }
                        }
                        store_matrices(address, values);
                    }
                    async_proxy_fence();
                    __syncwarp();
                    if (lane == 0) {
                        if constexpr (LINE > 0)
                            copy_pixels_out(out, column + panel * 64, spot_x, spot_y + warp_row / 16, spot_image, own);
                        else
                            copy_box_out(out, column + panel * 64, row + warp_row, own);
                    }
                    ring.advance();
                }
                if (lane == 0) wait_boxes_read<0>();
            } else {
                // All products of this block have ended before its stages are used anew.
                asm volatile("bar.sync 1, %0;" ::"n"(GROUPS * WARPGROUP) : "memory");
                constexpr int QUADS = TILE_N / 8, EACH = QUADS / SPLIT, CONSUMERS = GROUPS * WARPGROUP;
                static_assert(QUADS % SPLIT == 0);
#pragma unroll
                for (int i = 0; i < QUADS; ++i) {
                    const uint32_t at = stages + (i * CONSUMERS + threadIdx.x) * 16;
                    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(at), "f"(sums[4 * i]), "f"(sums[4 * i + 1]),
                                 "f"(sums[4 * i + 2]), "f"(sums[4 * i + 3])
                                 : "memory");
                }
                cluster_sync();
#pragma unroll
                for (int i = 0; i < EACH; ++i) {
                    const int quad = rank * EACH + i;
                    const uint32_t at = stages + (quad * CONSUMERS + threadIdx.x) * 16;
                    float4 total = make_float4(0, 0, 0, 0);
#pragma unroll
                    for (int other = 0; other < SPLIT; ++other) {
                        const float4 part = load_of(at, other);
                        total.x += part.x, total.y += part.y, total.z += part.z, total.w += part.w;
                    }
                    const int f = column + quad * 8 + lane % 4 * 2;
                    if (f >= shape.filters) continue;
                    const float2 c = bias ? __ldg(reinterpret_cast<const float2*>(bias + f)) : make_float2(0, 0);
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const int pixel = row + threadIdx.x / 32 * 16 + lane / 4 + half * 8;
                        if (pixel >= shape.pixels) continue;
                        float2 value = half ? make_float2(total.z + c.x, total.w + c.y) : make_float2(total.x + c.x, total.y + c.y);
                        if (adds) {
                            const float2 more = unpack(*reinterpret_cast<const uint32_t*>(
                                residual_values + static_cast<size_t>(pixel) * shape.residual_pitch + f));
                            value.x += more.x, value.y += more.y;
                        }
                        *reinterpret_cast<uint32_t*>(out_values + static_cast<size_t>(pixel) * shape.out_pitch + f) =
                            pack(activate(value.x), activate(value.y));
                    }
                }
                cluster_sync();
            }
        };
        // All of the code for the others, once for each value, would not fit where instructions are kept.
        if (activation == NONE || activation == RELU || activation == RELU6) {
            const float low = activation == NONE ? -INFINITY : 0, high = activation == RELU6 ? 6 : INFINITY;
            finish([=](float x) { return bounded(x, low, high); });
        } else {
            finish([=](float x) { return activated(x, activation); });
        }
    }
}
#define GALLEY_CLUSTER(split) __cluster_dims__(split, 1, 1)
#define GALLEY_BODY(...) conv<__VA_ARGS__>
#else
#define GALLEY_CLUSTER(split)
#define GALLEY_BODY(...) [](auto&&...) { __trap(); }
#endif

}  // namespace

#define GALLEY_CONV(name, groups, tile_n, split, ...)                                                                 \
    extern "C" __global__ void __launch_bounds__(groups * 128 + 32, 2) GALLEY_CLUSTER(split) conv_f16_sm90_##name(    \
        const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w,                                 \
        const __grid_constant__ CUtensorMap out, const __grid_constant__ CUtensorMap residual, const float* bias,     \
        __half* out_values, const __half* residual_values, const __half2* scale, const __half2* shift, int pixels,    \
        int filters, int out_height, int out_width, int stride, int top, int left, int kernel_width, int chunks,      \
        int steps, int activation, int out_pitch, int residual_pitch, int stages, int grouped) {                      \
        const Shape shape{pixels, filters, out_height, out_width,  stride,    top,            left,   kernel_width,   \
                          chunks, steps,   activation, out_pitch,  residual_pitch, stages, grouped};                  \
        GALLEY_BODY(groups, tile_n, split, __VA_ARGS__)(x, w, out, residual, bias, out_values, residual_values, scale,     \
                                                   shift, shape);                                                     \
    }

GALLEY_CONV(128x128, 2, 128, 1, false)
GALLEY_CONV(128x64, 2, 64, 1, false)
GALLEY_CONV(64x128, 1, 128, 1, false)
GALLEY_CONV(64x64, 1, 64, 1, false)
GALLEY_CONV(128x128_s2, 2, 128, 2, false)
GALLEY_CONV(128x128_s4, 2, 128, 4, false)
GALLEY_CONV(64x128_s2, 1, 128, 2, false)
GALLEY_CONV(64x128_s4, 1, 128, 4, false)
GALLEY_CONV(64x64_s2, 1, 64, 2, false)
GALLEY_CONV(64x64_s4, 1, 64, 4, false)
GALLEY_CONV(64x64_s8, 1, 64, 8, false)
GALLEY_CONV(scaled_64x128, 1, 128, 1, true)
GALLEY_CONV(scaled_64x64, 1, 64, 1, true)
GALLEY_CONV(scaled_64x64_s2, 1, 64, 2, true)
GALLEY_CONV(scaled_64x64_s4, 1, 64, 4, true)
GALLEY_CONV(scaled_64x64_s8, 1, 64, 8, true)
GALLEY_CONV(lines16, 2, 64, 1, false, 16)
GALLEY_CONV(lines32, 2, 64, 1, false, 32)
GALLEY_CONV(lines64, 2, 64, 1, false, 64)
