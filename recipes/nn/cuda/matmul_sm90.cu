// The large matrix product of transformer encoders on Hopper: out[M, N] = epilogue(A[M, K] W[N, K]^T + bias[N]).
//
// Owns the products that fill the chip; `matmul.cu` has those of few rows. Needs sm_90a.
//
//   kernel                          epilogue
//   matmul_f16_sm90_bias_nT         x
//   matmul_f16_sm90_gelu_nT         x Phi(x), the exact GELU
//   matmul_f16_sm90_gelu_tanh_nT    the GELU by way of tanh
//   matmul_f16_sm90_residual_nT     x + residual[M, N]
//
// for tiles of 128 rows by T = 256, 128 or 96 columns. All of them add up an output's terms in the same order, so they
// give the same bits: which one to launch is a matter of speed alone. Sums are f32; x is rounded to f16 before a GELU
// or the residual's addition, as a separate operator would read it, and these are again f32 arithmetic.
//
// Arguments, in order (the last only for the residual kernels):
//   a, w, out    const __grid_constant__ CUtensorMap, see below
//   bias         const float*, [N], 8-byte aligned
//   m, n, k      int
//   residual     const __grid_constant__ CUtensorMap
//
// Any m >= 1; n and k multiples of 64. A, W, out and the residual are f16, row-major, 16-byte aligned, as are their
// rows; out overlaps none of the others. Tensor maps: data type FLOAT16, rank 2, element strides 1, no interleave, no
// special fill out of bounds, L2 promotion 256 bytes,
//   map             dimensions  stride         box         swizzle
//   a               {K, M}      bytes a row    {64, 128}   128 bytes
//   w               {K, N}      bytes a row    {64, T}     128 bytes
//   out, residual   {N, M}      bytes a row    {64, 16}    128 bytes    where T = 256 or 128
//                                              {32, 16}    64 bytes     where T = 96
//
// Launch: grid min(multiprocessors, ceil(M / 128) ceil(N / T)), block 384, dynamic shared memory 230656 bytes (T = 256
// and 128) or 218368 (T = 96).
// Rule for T: the least  ceil(ceil(M / 128) ceil(N / T) / multiprocessors) (T + 24),  of equals the larger T.
//
// 2 M N K flops against 2 (M K + N K + M N) bytes, and 2 M N more for a residual. At M = 32768 the tensor cores bound
// the products of a 768-wide encoder (768 by 768: 48 us at 800 TFLOP/s, 34 us at 3.0 TB/s; 3072 by 768: 193 and 85 us),
// or rather the card's power, which on normally distributed operands holds the clock to 1.2 to 1.4 GHz.
#include "common.cuh"
#include "matmul_sm90.cuh"

namespace {

using namespace galley::hopper;
using galley::take_turn;

enum Epilogue { BIAS, BIAS_GELU, BIAS_GELU_TANH, BIAS_RESIDUAL };

constexpr int CONSUMERS = 2;  // warpgroups that multiply; one more copies
constexpr int THREADS = (CONSUMERS + 1) * WARPGROUP;
constexpr int WARPS = CONSUMERS * WARPGROUP / 32;  // that multiply
constexpr int TILE_M = WARPS * 16;                 // 16 rows a warp, 64 a warpgroup
constexpr int PANEL_BUFFERS = 2;  // per warp
constexpr int SHARED_LIMIT = 227 * 1024;

// Shared memory: a ring of stages, each a step of K of the tile's rows of A and of W; for each warp the buffers of its
// panels, the output boxes on their way; barriers.
template <int TILE_N> struct Layout {
    static constexpr int PANEL = TILE_N % 64 ? 32 : 64;  // columns of an output box
    static constexpr int PANEL_PITCH = PANEL * 2;
    static constexpr int PANEL_BYTES = 16 * PANEL_PITCH;
    static constexpr int A_BYTES = TILE_M * ROW_BYTES;
    static constexpr int STAGE_BYTES = A_BYTES + TILE_N * ROW_BYTES;
    static constexpr int PANELS_BYTES = WARPS * PANEL_BUFFERS * PANEL_BYTES;
    static constexpr int BARRIERS_BYTES = 256;
    static constexpr int STAGES = (SHARED_LIMIT - ALIGNMENT - PANELS_BYTES - BARRIERS_BYTES) / STAGE_BYTES;
    static constexpr int PANELS_AT = STAGES * STAGE_BYTES;
    static constexpr int BARRIERS_AT = PANELS_AT + PANELS_BYTES;
    static_assert(8 * (2 * STAGES + WARPS * PANEL_BUFFERS) <= BARRIERS_BYTES);
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// The order in which blocks take tiles. Within a group of rows of tiles it runs down the rows first, so that the blocks
// at work at one time touch a near-square patch of the output, whose parts of A and W the L2 cache holds.
struct Tiles {
    static constexpr int GROUP = 16;
    int rows, columns;

    __device__ int count() const { return rows * columns; }

    __device__ void locate(int index, int& row, int& column) const {
        const int group = index / (GROUP * columns);
        const int height = min(GROUP, rows - group * GROUP);
        const int within = index - group * GROUP * columns;
        row = group * GROUP + within % height;
        column = within / height;
    }
};

// A warpgroup that multiplies: 64 rows of each tile. The epilogue of a tile, kept packed in registers, goes on between
// the products of the next: each warp moves its 16 rows by slices of 16 columns to a panel in shared memory, and each
// full panel to the output by the copy engine. Warps wait for one another only where wgmma makes them.
template <int TILE_N, Epilogue EPILOGUE> struct Consumer {
    using L = Layout<TILE_N>;
    static constexpr int SLICE = 16;  // columns
    static constexpr int SLICES = TILE_N / SLICE;
    static constexpr int PANEL_SLICES = L::PANEL / SLICE;
    static constexpr int STEP_SLICES = TILE_N > 128 ? 2 : 1;  // slices moved during one step of K
    static constexpr int OVERLAPPED_STEPS = SLICES / STEP_SLICES;

    const CUtensorMap& residual;
    const CUtensorMap& out;
    const float* bias;
    int n;
    Ring ring;
    uint32_t stages;  // in shared memory
    uint32_t panels;  // this warp's, in shared memory
    uint32_t landed;  // barriers of the residual's boxes, one per panel buffer
    int index;        // among the warpgroups that multiply

    uint32_t stored = 0;      // panels
    int row = 0, column = 0;  // of the tile: `row` is this warp's first
    bool pending = false;     // whether `finished` holds a tile
    float accumulators[TILE_N / 2];
    uint32_t finished[TILE_N / 4];
    float2 column_bias[TILE_N / 8];

    __device__ __forceinline__ void run(const Tiles& tiles, int steps) {
#pragma unroll
        for (int i = 0; i < TILE_N / 4; ++i) finished[i] = 0;
        for (int tile = blockIdx.x; tile < tiles.count(); tile += gridDim.x) {
            int step = 0;
            if (steps >= OVERLAPPED_STEPS) {
#pragma unroll
                for (; step < OVERLAPPED_STEPS; ++step) overlapped_step(step);
            } else if (pending) {
                flush();
            }
            locate(tiles, tile);
            request_residual(0, 0);
            load_bias();
            for (; step < steps; ++step) {
                multiply(step == 0, [](int) {});
                free_previous(step);
            }
            wgmma_wait<0>();
            free_stage(1);
            settle(accumulators);
            finish();
            pending = true;
        }
        flush();
        if (leads()) wait_boxes_read<0>();
    }

    __device__ __forceinline__ bool leads() const { return threadIdx.x % 32 == 0; }

    // ---- products ----

    // Starts the products of one step of K; calls `meanwhile` after each with its number.
    template <typename Meanwhile> __device__ __forceinline__ void multiply(bool first, Meanwhile meanwhile) {
        const uint32_t stage = stages + ring.stage * L::STAGE_BYTES;
        const uint64_t a = matrix_descriptor(stage + index * 64 * ROW_BYTES);
        const uint64_t w = matrix_descriptor(stage + L::A_BYTES);
        barrier_wait(ring.full + 8 * ring.stage, ring.parity);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < STEP / 16; ++k) {
            wgmma(accumulators, a + 2 * k, w + 2 * k, !(first && k == 0));
            if (k == STEP / 16 - 1) wgmma_commit();
            meanwhile(k);
        }
        ring.advance();
    }

    // The warp issues in order and few products queue, so the slices go between them rather than after.
    __device__ __forceinline__ void overlapped_step(int step) {
        const int slice = step * STEP_SLICES;
        prepare(slice);
        multiply(step == 0, [&](int k) {
            if (k % 2 && k / 2 >= 2 - STEP_SLICES) move(slice + k / 2 - (2 - STEP_SLICES));
        });
        const int moved = slice + STEP_SLICES;
        if (moved % PANEL_SLICES == 0) store_panel(moved / PANEL_SLICES - 1);
        free_previous(step);
    }

    // Waits for the products of the step before this one and gives its stage back.
    __device__ __forceinline__ void free_previous(int step) {
        if (step > 0) {
            wgmma_wait<1>();
            free_stage(2);
        }
    }

    // Of so many steps ago.
    __device__ __forceinline__ void free_stage(int steps) {
        int stage = ring.stage - steps;
        if (stage < 0) stage += L::STAGES;
        if (leads()) barrier_arrive(ring.empty + 8 * stage);
    }

    // ---- epilogue ----

    __device__ __forceinline__ void locate(const Tiles& tiles, int tile) {
        int tile_row, tile_column;
        tiles.locate(tile, tile_row, tile_column);
        row = tile_row * TILE_M + threadIdx.x / 32 * 16;
        column = tile_column * TILE_N;
    }

    // Ahead of the end of the tile's sums. N is a multiple of 64 and a tile begins at one of 32, so 32 columns are all there
    // or all missing.
    __device__ __forceinline__ void load_bias() {
#pragma unroll
        for (int group = 0; group < TILE_N / 8; ++group) {
            const int first = column + group / 4 * 32;
            const float* here = bias + (first < n ? first : 0) + group % 4 * 8 + threadIdx.x % 4 * 2;
            column_bias[group] = __ldg(reinterpret_cast<const float2*>(here));
        }
    }

    __device__ __forceinline__ void finish() {
#pragma unroll
        for (int group = 0; group < TILE_N / 8; ++group) {
            const float2 b = column_bias[group];
            const float* sums = accumulators + 4 * group;
            finished[2 * group] = pack(sums[0] + b.x, sums[1] + b.y);
            finished[2 * group + 1] = pack(sums[2] + b.x, sums[3] + b.y);
        }
    }

    __device__ __forceinline__ uint32_t buffer(uint32_t count) const {
        return panels + count % PANEL_BUFFERS * L::PANEL_BYTES;
    }
    __device__ __forceinline__ uint32_t buffer_landed(uint32_t count) const {
        return landed + count % PANEL_BUFFERS * 8;
    }

    // Starts the copy of the tile's box of the residual into the buffer through which that panel will leave, `ahead`
    // panels after the current one.
    __device__ __forceinline__ void request_residual(int panel, int ahead) {
        if constexpr (EPILOGUE == BIAS_RESIDUAL) {
            if (leads()) {
                wait_boxes_read<0>();
                const uint32_t barrier = buffer_landed(stored + ahead);
                barrier_expect(barrier, L::PANEL_BYTES);
                copy_box_in(buffer(stored + ahead), residual, column + panel * L::PANEL, row, barrier);
            }
        }
    }

    // What a slice needs before it moves: a panel's first, the panel's buffer free, or filled with the residual, which
    // is requested when the panel before is half done.
    __device__ __forceinline__ void prepare(int slice) {
        const int panel = slice / PANEL_SLICES;
        const bool opens = slice % PANEL_SLICES == 0, halves = slice % PANEL_SLICES == PANEL_SLICES / 2;
        if constexpr (EPILOGUE == BIAS_RESIDUAL) {
            if (opens && pending) barrier_wait(buffer_landed(stored), stored / PANEL_BUFFERS & 1);
            if (halves && (panel + 1) * PANEL_SLICES < SLICES && pending) request_residual(panel + 1, 1);
        } else if (opens) {
            if (leads()) wait_boxes_read<PANEL_BUFFERS - 1>();
            __syncwarp();
        }
    }

    __device__ __forceinline__ void move(int slice) {
        const int lane = threadIdx.x % 32, panel_row = lane % 16;
        const uint32_t swizzle = (lane / 16) ^ (panel_row * L::PANEL_PITCH / 128 % (L::PANEL_PITCH / 16));
        uint32_t* values = finished + 4 * slice;
        const uint32_t address =
            buffer(stored) + panel_row * L::PANEL_PITCH + ((swizzle ^ (2 * (slice % PANEL_SLICES))) << 4);
        if constexpr (EPILOGUE == BIAS_RESIDUAL) {
            uint32_t added[4];
            load_matrices(address, added);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float2 x = unpack(values[i]), y = unpack(added[i]);
                values[i] = pack(x.x + y.x, x.y + y.y);
            }
        }
        if constexpr (EPILOGUE == BIAS_GELU || EPILOGUE == BIAS_GELU_TANH) {
            const auto gelu = [](float x) { return EPILOGUE == BIAS_GELU ? fast_gelu(x) : fast_gelu_tanh(x); };
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float2 x = unpack(values[i]);
                values[i] = pack(gelu(x.x), gelu(x.y));
            }
        }
        store_matrices(address, values);
    }

    __device__ __forceinline__ void store_panel(int panel) {
        async_proxy_fence();
        __syncwarp();
        if (pending) {
            if (leads()) copy_box_out(out, column + panel * L::PANEL, row, buffer(stored));
            ++stored;
        }
    }

    __device__ __forceinline__ void flush() {
#pragma unroll
        for (int slice = 0; slice < SLICES; ++slice) {
            prepare(slice);
            move(slice);
            if (slice % PANEL_SLICES == PANEL_SLICES - 1) store_panel(slice / PANEL_SLICES);
        }
    }
};

// The thread that copies: steps of A and W into the ring, and the residual's boxes into the L2 cache.
template <int TILE_N, Epilogue EPILOGUE>
__device__ __forceinline__ void produce(const CUtensorMap& a, const CUtensorMap& w, const CUtensorMap& residual,
                                        Ring ring, uint32_t stages, const Tiles& tiles, int steps) {
    using L = Layout<TILE_N>;
    constexpr int PANELS = TILE_N / L::PANEL;
    for (int tile = blockIdx.x; tile < tiles.count(); tile += gridDim.x) {
        int row, column;
        tiles.locate(tile, row, column);
        if constexpr (EPILOGUE == BIAS_RESIDUAL) {
            for (int i = 0; i < WARPS * PANELS; ++i) {
                prefetch_box(residual, column * TILE_N + i % PANELS * L::PANEL, row * TILE_M + i / PANELS * 16);
            }
        }
        for (int step = 0; step < steps; ++step) {
            const uint32_t stage = stages + ring.stage * L::STAGE_BYTES, full = ring.full + 8 * ring.stage;
            barrier_wait(ring.empty + 8 * ring.stage, ring.parity ^ 1);
            barrier_expect(full, L::STAGE_BYTES);
            copy_box_in(stage, a, step * STEP, row * TILE_M, full);
            copy_box_in(stage + L::A_BYTES, w, step * STEP, column * TILE_N, full);
            ring.advance();
        }
    }
}

template <int TILE_N, Epilogue EPILOGUE>
__device__ __forceinline__ void matmul(const CUtensorMap& a, const CUtensorMap& w, const CUtensorMap& out,
                                       const float* bias, int m, int n, int k, const CUtensorMap& residual) {
    using L = Layout<TILE_N>;
    extern __shared__ uint8_t shared[];
    const uint32_t stages = (shared_address(shared) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const Ring ring(stages + L::BARRIERS_AT, 8 * L::STAGES, L::STAGES);
    const uint32_t landed = stages + L::BARRIERS_AT + 16 * L::STAGES;
    const int warpgroup = threadIdx.x / WARPGROUP;
    const bool copies = threadIdx.x == CONSUMERS * WARPGROUP;
    if (copies) {
        prefetch_map(a);
        prefetch_map(w);
        prefetch_map(out);
        if (EPILOGUE == BIAS_RESIDUAL) prefetch_map(residual);
    }
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < L::STAGES; ++stage) {
            barrier_init(ring.full + 8 * stage, 1);
            barrier_init(ring.empty + 8 * stage, WARPS);
        }
        for (int i = 0; i < WARPS * PANEL_BUFFERS; ++i) barrier_init(landed + 8 * i, 1);
        barrier_init_fence();
    }
    __syncthreads();
    take_turn();

    const Tiles tiles{(m + TILE_M - 1) / TILE_M, (n + TILE_N - 1) / TILE_N};
    const int steps = k / STEP;
    if (warpgroup == CONSUMERS) {
        give_registers<24>();
        if (copies) produce<TILE_N, EPILOGUE>(a, w, residual, ring, stages, tiles, steps);
        __syncwarp();
    } else {
        take_registers<240>();
        const uint32_t first_buffer = threadIdx.x / 32 * PANEL_BUFFERS;
        Consumer<TILE_N, EPILOGUE> consumer{residual, out, bias, n, ring, stages,
                                            stages + L::PANELS_AT + first_buffer * L::PANEL_BYTES,
                                            landed + first_buffer * 8, warpgroup};
        consumer.run(tiles, steps);
    }
}

// A cluster of one block: the copies' and barriers' addresses are a cluster's.
#define GALLEY_CLUSTER __cluster_dims__(1, 1, 1)
#define GALLEY_BODY(...) matmul<__VA_ARGS__>
#else
#define GALLEY_CLUSTER
#define GALLEY_BODY(...) [](auto&&...) { __trap(); }
#endif

}  // namespace

#define GALLEY_KERNEL extern "C" __global__ void __launch_bounds__(THREADS, 1) GALLEY_CLUSTER
#define GALLEY_ARGUMENTS                                                          \
    const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap w, \
        const __grid_constant__ CUtensorMap out, const float *bias, int m, int n, int k
#define GALLEY_MATMUL(tile_n)                                                     \
    GALLEY_KERNEL matmul_f16_sm90_bias_n##tile_n(GALLEY_ARGUMENTS) {              \
        GALLEY_BODY(tile_n, BIAS)(a, w, out, bias, m, n, k, out);                 \
    }                                                                             \
    GALLEY_KERNEL matmul_f16_sm90_gelu_n##tile_n(GALLEY_ARGUMENTS) {              \
        GALLEY_BODY(tile_n, BIAS_GELU)(a, w, out, bias, m, n, k, out);            \
    }                                                                             \
    GALLEY_KERNEL matmul_f16_sm90_gelu_tanh_n##tile_n(GALLEY_ARGUMENTS) {         \
        GALLEY_BODY(tile_n, BIAS_GELU_TANH)(a, w, out, bias, m, n, k, out);       \
    }                                                                             \
    GALLEY_KERNEL matmul_f16_sm90_residual_n##tile_n(                             \
        GALLEY_ARGUMENTS, const __grid_constant__ CUtensorMap residual) {         \
        GALLEY_BODY(tile_n, BIAS_RESIDUAL)(a, w, out, bias, m, n, k, residual);   \
    }

GALLEY_MATMUL(256)
GALLEY_MATMUL(128)
GALLEY_MATMUL(96)
