// Hopper's asynchronous machinery under the names the kernels use: barriers in shared memory, tensor copies (TMA),
// warpgroup matrix products (wgmma) and the 8x8 matrix moves between registers and shared memory.
//
// Addresses of shared memory are 32-bit, as `shared_address` gives them. Everything here needs sm_90a.
#pragma once

#include <cuda.h>
#include <cuda_fp16.h>
#include <stdint.h>

namespace galley::hopper {

constexpr int WARPGROUP = 128;  // threads that issue a wgmma together

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- barriers ----

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void barrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
}

// Arrives once and announces `bytes` of tensor copies that must land before the phase completes.
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// A block's own shared memory is part of its cluster's.
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Waits until the phase of the given parity has completed.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
    uint32_t complete = 0;
    while (!complete) {
        asm volatile(
            "{\n.reg .pred p;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
            "selp.u32 %0, 1, 0, p;\n}"
            : "=r"(complete)
            : "r"(barrier), "r"(parity)
            : "memory");
    }
}

// Stages in shared memory, filled and emptied in turns: the copy engine says when one is full, its readers when it is empty.
struct Ring {
    uint32_t full, empty;  // barriers, one of each per stage
    int stages;
    int stage = 0;
    uint32_t parity = 0;

    // The barriers that say that stages are empty lie so many bytes behind the others.
    __device__ __forceinline__ Ring(uint32_t barriers, uint32_t apart, int stages)
        : full(barriers), empty(barriers + apart), stages(stages) {}

    __device__ __forceinline__ void advance() {
        if (++stage == stages) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// ---- tensor copies ----

__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Copies the box at (column, row) of a matrix into shared memory; the bytes count towards `barrier`.
__device__ __forceinline__ void copy_box_in(uint32_t shared, const CUtensorMap& map, int column, int row,
                                            uint32_t barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%2, %3}], [%4];" ::"r"(shared), "l"(&map), "r"(column), "r"(row), "r"(barrier)
                 : "memory");
}

// Brings a box into the L2 cache.
__device__ __forceinline__ void prefetch_box(const CUtensorMap& map, int column, int row) {
    asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];" ::"l"(&map), "r"(column), "r"(row)
                 : "memory");
}

// Copies a box out, clipped to the matrix, as one group of its own.
__device__ __forceinline__ void copy_box_out(const CUtensorMap& map, int column, int row, uint32_t shared) {
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];\n"
        "cp.async.bulk.commit_group;" ::"l"(&map),
        "r"(column), "r"(row), "r"(shared)
        : "memory");
}

// Waits until all but the last PENDING boxes that this thread copied out have been read from shared memory.
template <int PENDING> __device__ __forceinline__ void wait_boxes_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}

// Orders this thread's ordinary writes to shared memory before later accesses by the copy engine.
__device__ __forceinline__ void async_proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- matrix products ----

constexpr int STEP = 64;  // of K, or channels: 128 bytes of f16, one row of the swizzle
constexpr int ROW_BYTES = STEP * 2;
constexpr int ALIGNMENT = 1024;  // of every matrix in shared memory: the swizzle's period

// Operand in shared memory, 64 f16 of K by some rows: rows of 128 bytes, swizzled by the copy engine's 128-byte
// pattern, whose period of 8 rows (1024 bytes) the matrix must start on. The next 16 of K are 32 bytes on: add 2.
__device__ __forceinline__ uint64_t matrix_descriptor(uint32_t address) {
    constexpr uint64_t SWIZZLE_128B = 1ull << 62, ROW_GROUP_STRIDE = (1024ull >> 4) << 32, UNUSED_STRIDE = 1ull << 16;
    return SWIZZLE_128B | ROW_GROUP_STRIDE | UNUSED_STRIDE | ((address & 0x3ffff) >> 4);
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int PENDING> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Keeps the compiler from reading accumulators ahead of the wait that completes them.
template <int N> __device__ __forceinline__ void settle(float (&accumulators)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(accumulators[i])::"memory");
}

#define GALLEY_ROW8(d, i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
        "+f"(d[i + 7])
#define GALLEY_ROW32(d, i) GALLEY_ROW8(d, i), GALLEY_ROW8(d, i + 8), GALLEY_ROW8(d, i + 16), GALLEY_ROW8(d, i + 24)
#define GALLEY_REGISTERS_0_47 \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29," \
    "%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define GALLEY_REGISTERS_0_63 \
    GALLEY_REGISTERS_0_47 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define GALLEY_REGISTERS_64_127 \
    ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90," \
    "%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113," \
    "%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define GALLEY_WGMMA(shape, registers, a, b, accumulate) \
    "{\n.reg .pred p;\nsetp.ne.b32 p, %" accumulate ", 0;\n" \
    "wgmma.mma_async.sync.aligned." shape ".f32.f16.f16 {" registers "}, %" a ", %" b ", p, 1, 1, 0, 0;\n}"

// d[64, N] = a[64, 16] b[N, 16]^T (+ d): asynchronous, both operands given by `matrix_descriptor`. Warp w of the four
// and its lane l hold, for each 8 columns g: d[4g], d[4g + 1] at row 16 w + l / 4, columns 8 g + 2 (l % 4) and the
// next; d[4g + 2], d[4g + 3] the same 8 rows below.
__device__ __forceinline__ void wgmma(float (&d)[48], uint64_t a, uint64_t b, int accumulate) {
    asm volatile(GALLEY_WGMMA("m64n96k16", GALLEY_REGISTERS_0_47, "48", "49", "50")
                 : GALLEY_ROW32(d, 0), GALLEY_ROW8(d, 32), GALLEY_ROW8(d, 40)
                 : "l"(a), "l"(b), "r"(accumulate));
}

__device__ __forceinline__ void wgmma(float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
    asm volatile(GALLEY_WGMMA("m64n128k16", GALLEY_REGISTERS_0_63, "64", "65", "66")
                 : GALLEY_ROW32(d, 0), GALLEY_ROW32(d, 32)
                 : "l"(a), "l"(b), "r"(accumulate));
}

__device__ __forceinline__ void wgmma(float (&d)[128], uint64_t a, uint64_t b, int accumulate) {
    asm volatile(GALLEY_WGMMA("m64n256k16", GALLEY_REGISTERS_0_63 GALLEY_REGISTERS_64_127, "128", "129", "130")
                 : GALLEY_ROW32(d, 0), GALLEY_ROW32(d, 32), GALLEY_ROW32(d, 64), GALLEY_ROW32(d, 96)
                 : "l"(a), "l"(b), "r"(accumulate));
}

#undef GALLEY_ROW8
#undef GALLEY_ROW32
#undef GALLEY_REGISTERS_0_47
#undef GALLEY_REGISTERS_0_63
#undef GALLEY_REGISTERS_64_127
#undef GALLEY_WGMMA

// ---- registers and shared memory ----

// Registers move between warpgroups as their roles need them; the counts are per thread.
template <int REGISTERS> __device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS> __device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// Four 8x8 matrices of f16, one register each, in the layout of the accumulators. Lane 8 i + r addresses row r of
// matrix i.
__device__ __forceinline__ void store_matrices(uint32_t address, const uint32_t* registers) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(registers[0]),
                 "r"(registers[1]), "r"(registers[2]), "r"(registers[3])
                 : "memory");
}

__device__ __forceinline__ void load_matrices(uint32_t address, uint32_t* registers) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
}

// ---- arithmetic ----

__device__ __forceinline__ uint32_t pack(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ float2 unpack(uint32_t pair) { return __half22float2(*reinterpret_cast<__half2*>(&pair)); }

// 2^x within 2 ulp; 0 far below.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// x Phi(x) = max(x, 0) - |x| Phi(-|x|), where Phi, the normal distribution's cumulative function, is
// (1 + erf(x / sqrt 2)) / 2 and log2 Phi(-a) is close to a polynomial. This one is our own weighted minimax fit on
// [0, 4.5]; for all x the error of erf stays below 3.1e-6 and that of GELU below 2.9e-6, and for x in [-3, 0] GELU's
// relative error below 3.4e-4. Its leading coefficient is negative, so the second term vanishes for large |x|.
__device__ __forceinline__ float fast_gelu(float x) {
    const float a = fabsf(x);
    float log2_tail = -4.430424887687e-4f;
    log2_tail = fmaf(log2_tail, a, 6.969085428864e-3f);
    log2_tail = fmaf(log2_tail, a, -5.179088190198e-2f);
    log2_tail = fmaf(log2_tail, a, -4.597798585892e-1f);
    log2_tail = fmaf(log2_tail, a, -1.150974154472f);
    log2_tail = fmaf(log2_tail, a, -1.000004291534f);
    return fmaf(-a, exp2_fast(log2_tail), fmaxf(x, 0.0f));
}

// The GELU by way of tanh is x times the sigmoid of 2 sqrt(2 / pi) (x + 0.044715 x^3); the power of two takes 1 / ln 2 in.
__device__ __forceinline__ float fast_gelu_tanh(float x) {
    const float power = exp2_fast(x * fmaf(x * x, -2.302208198f * 0.044715f, -2.302208198f));
    return __fdividef(x, 1.0f + power);
}

}  // namespace galley::hopper
