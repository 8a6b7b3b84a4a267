// Matrix products whose time is that of their operands' way from memory: an image network's 1x1 convolutions, and a
// transformer's linear layers where the batch has few rows.
//
//     out[m, n] = activation(bias[n] + sum_k a[m, k] * gate[m / rows_per_image, k] * w[n, k]) + residual[m, n]
//
// Gates, if any, are those of squeeze-excite: one per image and input channel. `activation` is an `Activation`.
//
// `matmul_f16_<rows>x<columns>[_gated](a, w, bias, gates, residual, out, m, n, k, rows_per_image, activation)`
//     a f16 [m, k], w f16 [n, k], bias f32 [n], gates f16 [ceil(m / rows_per_image), k], residual f16 [m, n] or null,
//     out f16 [m, n]; all row-major and aligned to 16 bytes, which k and n being multiples of 8 keeps true of every
//     row. Sums are f32, from the bias on over k in ascending groups of 16 whatever the tile, so that a row's result
//     depends neither on the batch nor on the tile. A gated input is rounded to f16; so is what the residual is added
//     to. A gated product has no activation, and ignores `activation`; others ignore `gates` and `rows_per_image`.
//     Grid: ceil(m / rows) * ceil(n / columns); tiles of the same rows follow each other, so that `a` comes from
//     memory once and from L2 after that. Block and dynamic shared memory:
//
//     tile     threads  shared bytes
//     128x128      256         98304  plain
//     128x88       128         55296  gated
//     128x48       128         45056  plain and gated
//     128x32       128         40960  plain and gated
//     128x16       128         36864  plain and gated
//     64x128       128         73728  plain and gated
//     64x64        128         65536  plain and gated
//     64x32        128         98304  plain and gated
//     32x64        128         98304  plain
//     32x32        128         65536  plain
//     32x16         64         73728  plain and gated
//     16x32        128         61440  plain and gated
//     16x16         64         65536  plain and gated
//
//     Bytes 2 (mk + nk + mn), flops 2 mnk. Memory is the bound by these counts where k or n is at most some hundreds.
//
// `matmul_f16_wide_128x48(a, w, bias, gates, residual, out, m, n, k, rows_per_image, activation)`
//     the same without gates, k up to 464, for outputs wider than their input: a block of threads has all columns of
//     its 128 rows, or of a share of them: grid (ceil(m / 128), shares of the columns), block 128, shared bytes 14336
//     + 448 * (k rounded up to 16, + 8).
#include "tile.cuh"

namespace galley {

struct Product {
    const __half* a;
    const __half* w;
    const __half* gates;
    int m, n, k;
    int rows_per_image;
};

// How a block of threads shares a tile of the output, and how much of k is under way.
template <int ROWS_, int COLUMNS_, int DEPTH_, int WARPS_DOWN_, int WARPS_ACROSS_, int STAGES_> struct Tile {
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, DEPTH = DEPTH_, STAGES = STAGES_;
    static constexpr int WARPS_DOWN = WARPS_DOWN_, WARPS_ACROSS = WARPS_ACROSS_;
    static constexpr int THREADS = WARP * WARPS_DOWN * WARPS_ACROSS;
    // Of a warp, in products of 16 by 8.
    static constexpr int DOWN = ROWS / WARPS_DOWN / 16, ACROSS = COLUMNS / WARPS_ACROSS / 8;
    using Out = Staged<DOWN, ACROSS>;
    static_assert(DOWN * 16 * WARPS_DOWN == ROWS && ACROSS * 8 * WARPS_ACROSS == COLUMNS, "whole products");

    static constexpr int STAGE = (ROWS + COLUMNS) * DEPTH;  // values of both operands
    static constexpr int PIPELINE_BYTES = STAGES * STAGE * sizeof(__half);
    static constexpr int OUT_BYTES = WARPS_DOWN * WARPS_ACROSS * Out::BYTES;
    static constexpr int SHARED_BYTES = PIPELINE_BYTES > OUT_BYTES ? PIPELINE_BYTES : OUT_BYTES;
};

// `ROWS` rows of `DEPTH` values of an operand in shared memory, their vectors permuted so that eight rows' vectors of
// the same column lie in different banks.
template <int ROWS, int DEPTH, int THREADS> struct Panel {
    static constexpr int VECTORS = DEPTH / 8;  // in a row
    static constexpr int MASK = VECTORS < 8 ? VECTORS - 1 : 7;
    static constexpr int SHIFT = VECTORS == 2 ? 2 : VECTORS == 4 ? 1 : 0;
    static constexpr int ROWS_AT_ONCE = THREADS / VECTORS;
    static constexpr int COPIES = (ROWS + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;  // of a thread
    static_assert(THREADS % VECTORS == 0, "a thread copies the same column of several rows");

    // In bytes.
    __device__ static __forceinline__ uint32_t offset(int row, int vector) {
        return (row * VECTORS + (vector ^ ((row >> SHIFT) & MASK))) * VECTOR;
    }

    // Calls `with(row, copy)` for each row of which this thread copies a vector.
    template <typename With> __device__ static __forceinline__ void each_row(With with) {
#pragma unroll
        for (int copy = 0; copy < COPIES; copy++) {
            const int row = threadIdx.x / VECTORS + copy * ROWS_AT_ONCE;
            if (ROWS % ROWS_AT_ONCE == 0 || row < ROWS) with(row, copy);
        }
    }

    // Columns from `column` on of the operand's rows from `first` on; zeros beyond its ends.
    __device__ static __forceinline__ void fetch(uint32_t to, const __half* operand, int first, int rows, int column,
                                                 int columns) {
        const int vector = threadIdx.x % VECTORS;
        column += vector * 8;
        const __half* from = operand + static_cast<size_t>(first + threadIdx.x / VECTORS) * columns + column;
        each_row([&](int row, int copy) {
            copy_or_zero(to + offset(row, vector), from + static_cast<size_t>(copy * ROWS_AT_ONCE) * columns,
                         first + row < rows && column < columns);
        });
    }
};

template <typename T> struct Operands {
    using A = Panel<T::ROWS, T::DEPTH, T::THREADS>;
    using W = Panel<T::COLUMNS, T::DEPTH, T::THREADS>;
};

// Multiplies a warp's rows, as tensor cores take them, by the gates of the images that the rows belong to.
template <int DOWN> struct Gating {
    static constexpr bool SOME = true;
    const __half* gates[DOWN][2];  // of the two rows that a thread has values of, from its columns on
    int columns;
    bool same;  // for all rows of the warp

    __device__ __forceinline__ Gating(const Product& product, int first) : columns(product.k) {
        const int lane = threadIdx.x % WARP, last = min(first + DOWN * 16, product.m) - 1;
        same = first / product.rows_per_image == last / product.rows_per_image;
#pragma unroll
        for (int i = 0; i < DOWN * 2; i++) {
            const int image = min(first + lane / 4 + i * 8, last) / product.rows_per_image;
            gates[i / 2][i % 2] = product.gates + static_cast<size_t>(image) * product.k + lane % 4 * 2;
        }
    }

    __device__ __forceinline__ uint32_t load(int row, int column) const {
        return column < columns ? __ldg(reinterpret_cast<const uint32_t*>(gates[row / 2][row % 2] + column)) : 0;
    }

    __device__ static __forceinline__ void scale(uint32_t& values, uint32_t by) {
        const __half2 scaled = __hmul2(reinterpret_cast<const __half2&>(values), reinterpret_cast<const __half2&>(by));
        values = reinterpret_cast<const uint32_t&>(scaled);
    }

    // 16 columns from `column` on.
    __device__ __forceinline__ void apply(uint32_t (&left)[DOWN][4], int column) const {
        const uint32_t low = load(0, column), high = load(0, column + 8);
#pragma unroll
        for (int row = 0; row < DOWN * 2; row++) {
            scale(left[row / 2][row % 2], row == 0 || same ? low : load(row, column));
            scale(left[row / 2][row % 2 + 2], row == 0 || same ? high : load(row, column + 8));
        }
    }
};
template <int DOWN> struct NoGating {
    static constexpr bool SOME = false;
    __device__ __forceinline__ NoGating(const Product&, int) {}
    __device__ __forceinline__ void apply(uint32_t (&)[DOWN][4], int) const {}
};

// sums[i][j] += left[i] * right^T, for the products from `j` on: two if `PAIR`.
template <int DOWN, int ACROSS, bool PAIR>
__device__ __forceinline__ void multiply_down(Sums<ACROSS> (&sums)[DOWN], int j, const uint32_t (&left)[DOWN][4],
                                              const uint32_t* right) {
#pragma unroll
    for (int i = 0; i < DOWN; i++) {
        multiply_add(sums[i][j], left[i], right[0], right[1]);
        if constexpr (PAIR) multiply_add(sums[i][j + 1], left[i], right[2], right[3]);
    }
}

// Adds the share of a stage, from column `column` on, to a warp's sums. Beyond the end of k there are zeros.
template <typename T, typename Gates>
__device__ __forceinline__ void accumulate(Sums<T::ACROSS> (&sums)[T::DOWN], uint32_t a, uint32_t w, const Gates& gates,
                                           int column) {
    using A = typename Operands<T>::A;
    using W = typename Operands<T>::W;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int left_row = warp / T::WARPS_ACROSS * T::DOWN * 16 + lane % 16;
    const int right_row = warp % T::WARPS_ACROSS * T::ACROSS * 8 + lane % 8;
#pragma unroll
    for (int k = 0; k < T::DEPTH; k += 16) {
        uint32_t left[T::DOWN][4];
#pragma unroll
        for (int i = 0; i < T::DOWN; i++) load_matrices(left[i], a + A::offset(left_row + i * 16, k / 8 + lane / 16));
        gates.apply(left, column + k);
#pragma unroll
        for (int j = 0; j < T::ACROSS - 1; j += 2) {
            uint32_t right[4];
            load_matrices(right, w + W::offset(right_row + j * 8 + lane / 16 * 8, k / 8 + lane / 8 % 2));
            multiply_down<T::DOWN, T::ACROSS, true>(sums, j, left, right);
        }
        if constexpr (T::ACROSS % 2 == 1) {
            uint32_t right[2];
            load_matrices(right, w + W::offset(right_row + (T::ACROSS - 1) * 8, k / 8 + lane / 8 % 2));
            multiply_down<T::DOWN, T::ACROSS, false>(sums, T::ACROSS - 1, left, right);
        }
    }
}

template <typename T, typename Gates>
__device__ __forceinline__ void multiply(const Product& product, const Finish& to) {
    using A = typename Operands<T>::A;
    using W = typename Operands<T>::W;
    extern __shared__ __align__(128) unsigned char shared[];
    const int across = (product.n + T::COLUMNS - 1) / T::COLUMNS;
    const int first_row = blockIdx.x / across * T::ROWS, first_column = blockIdx.x % across * T::COLUMNS;
    const int stages = (product.k + T::DEPTH - 1) / T::DEPTH;
    constexpr int A_BYTES = T::ROWS * T::DEPTH * sizeof(__half);
    const auto stage_start = [](int stage) { return stage % T::STAGES * T::STAGE * static_cast<int>(sizeof(__half)); };
    const uint32_t base = shared_address(shared);
    const auto fetch = [&](int stage) {
        if (stage < stages) {
            const uint32_t to = base + stage_start(stage);
            A::fetch(to, product.a, first_row, product.m, stage * T::DEPTH, product.k);
            W::fetch(to + A_BYTES, product.w, first_column, product.n, stage * T::DEPTH, product.k);
        }
        commit_copies();
    };
    for (int stage = 0; stage < T::STAGES - 1; stage++) fetch(stage);

    const int warp = threadIdx.x / WARP;
    const int row = first_row + warp / T::WARPS_ACROSS * T::DOWN * 16;
    const int column = first_column + warp % T::WARPS_ACROSS * T::ACROSS * 8;
    const Gates gates(product, row);
    Sums<T::ACROSS> sums[T::DOWN];
    T::Out::start(sums, to, column);
    for (int stage = 0; stage < stages; stage++) {
        await_copies<T::STAGES - 2>();
        // Everyone's copies of the stage are there, and everyone is done with the one whose place the next ones take.
        __syncthreads();
        fetch(stage + T::STAGES - 1);
        const uint32_t from = base + stage_start(stage);
        accumulate<T>(sums, from, from + A_BYTES, gates, stage * T::DEPTH);
    }
    __syncthreads();
    unsigned char* own = shared + warp * T::Out::BYTES;
    if constexpr (Gates::SOME) {
        T::Out::write(sums, own, to, row, column);
    } else {
        T::Out::finish(sums, own, to, row, column);
    }
}

// A product whose output is wide: a block of threads has all of its rows' columns, `CHUNK` at a time. The rows stay
// in shared memory, into which the next chunk's weights are copied while one is computed.
template <int ROWS_, int CHUNK_, int WARPS_> struct Wide {
    static constexpr int ROWS = ROWS_, CHUNK = CHUNK_, WARPS = WARPS_, THREADS = WARP * WARPS;
    static constexpr int DOWN = ROWS / WARPS / 16, ACROSS = CHUNK / 8;  // of a warp, in products of 16 by 8
    using Out = Staged<DOWN, ACROSS>;

    const Product& product;
    int depth;  // k, rounded up to whole products
    int pitch;  // bytes from a row in shared memory to the next: an odd number of vectors, for the banks' sake

    __device__ __forceinline__ explicit Wide(const Product& product)
        : product(product), depth((product.k + 15) / 16 * 16), pitch((depth + 8) * sizeof(__half)) {}

    // `count` rows of an operand from `first` on; zeros beyond its ends.
    __device__ __forceinline__ void fetch(uint32_t to, const __half* operand, int first, int count, int rows) const {
        const int vectors = depth / 8, down = THREADS / vectors, along = THREADS % vectors;
        int row = threadIdx.x / vectors, vector = threadIdx.x % vectors;
        while (row < count) {
            copy_or_zero(to + row * pitch + vector * VECTOR,
                         operand + static_cast<size_t>(first + row) * product.k + vector * 8,
                         first + row < rows && vector * 8 < product.k);
            row += down;
            vector += along;
            if (vector >= vectors) {
                vector -= vectors;
                row++;
            }
        }
    }

    __device__ __forceinline__ void accumulate(Sums<ACROSS> (&sums)[DOWN], uint32_t a, uint32_t w) const {
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        a += (warp * DOWN * 16 + lane % 16) * pitch + lane / 16 * VECTOR;
        w += (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * VECTOR;
#pragma unroll 2
        for (int k = 0; k < depth; k += 16) {
            uint32_t left[DOWN][4];
#pragma unroll
            for (int i = 0; i < DOWN; i++) load_matrices(left[i], a + i * 16 * pitch + k * 2);
#pragma unroll
            for (int j = 0; j < ACROSS; j += 2) {
                uint32_t right[4];
                load_matrices(right, w + j * 8 * pitch + k * 2);
                multiply_down<DOWN, ACROSS, true>(sums, j, left, right);
            }
        }
    }

    __device__ __forceinline__ void run(const Finish& to) const {
        extern __shared__ __align__(128) unsigned char shared[];
        const int warp = threadIdx.x / WARP;
        const int chunks = (product.n + CHUNK - 1) / CHUNK, share = (chunks + gridDim.y - 1) / gridDim.y;
        const int begin = blockIdx.y * share, end = min(chunks, begin + share);
        const int first_row = blockIdx.x * ROWS;
        const uint32_t a = shared_address(shared) + WARPS * Out::BYTES;
        const auto weights = [&](int chunk) { return a + (ROWS + chunk % 2 * CHUNK) * pitch; };
        fetch(a, product.a, first_row, ROWS, product.m);
        fetch(weights(begin), product.w, begin * CHUNK, CHUNK, product.n);
        commit_copies();
        for (int chunk = begin; chunk < end; chunk++) {
            Sums<ACROSS> sums[DOWN];
            Out::start(sums, to, chunk * CHUNK);
            await_copies<0>();
            __syncthreads();
            if (chunk + 1 < end) fetch(weights(chunk + 1), product.w, (chunk + 1) * CHUNK, CHUNK, product.n);
            commit_copies();
            accumulate(sums, a, weights(chunk));
            Out::finish(sums, shared + warp * Out::BYTES, to, first_row + warp * DOWN * 16, chunk * CHUNK);
        }
    }
};

#define MATMUL_WIDE(ROWS, CHUNK, WARPS, BLOCKS)                                                                        \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP, BLOCKS) matmul_f16_wide_##ROWS##x##CHUNK(                \
        const __half* a, const __half* w, const float* bias, const __half*, const __half* residual, __half* out,       \
        int m, int n, int k, int, int activation) {                                                                    \
        galley::take_turn();                                                                                           \
        const Product product{a, w, nullptr, m, n, k, 1};                                                              \
        Wide<ROWS, CHUNK, WARPS>(product).run({bias, residual, out, m, n, activation});                                \
    }

MATMUL_WIDE(128, 48, 4, 4)

#define MATMUL(NAME, GATES, BLOCKS, ...)                                                                               \
    extern "C" __global__ void __launch_bounds__(Tile<__VA_ARGS__>::THREADS, BLOCKS)                                   \
        matmul_f16_##NAME(const __half* a, const __half* w, const float* bias, const __half* gates,                    \
                          const __half* residual, __half* out, int m, int n, int k, int rows_per_image,                \
                          int activation) {                                                                            \
        galley::take_turn();                                                                                           \
        multiply<Tile<__VA_ARGS__>, GATES<Tile<__VA_ARGS__>::DOWN>>({a, w, gates, m, n, k, rows_per_image},            \
                                                                    {bias, residual, out, m, n, activation});          \
    }
#define PLAIN(ROWS, COLUMNS, BLOCKS, ...) MATMUL(ROWS##x##COLUMNS, NoGating, BLOCKS, ROWS, COLUMNS, __VA_ARGS__)
#define GATED(ROWS, COLUMNS, BLOCKS, ...) MATMUL(ROWS##x##COLUMNS##_gated, Gating, BLOCKS, ROWS, COLUMNS, __VA_ARGS__)
#define BOTH(...) PLAIN(__VA_ARGS__) GATED(__VA_ARGS__)

//    rows columns blocks depth warps stages
PLAIN(128, 128, 2, 64, 4, 2, 3)
GATED(128, 88, 3, 32, 4, 1, 4)
BOTH(128, 48, 4, 32, 4, 1, 4)
BOTH(128, 32, 5, 32, 4, 1, 4)
BOTH(128, 16, 6, 32, 4, 1, 4)
BOTH(64, 128, 3, 64, 2, 2, 3)
BOTH(64, 64, 4, 64, 2, 2, 4)
BOTH(64, 32, 2, 64, 4, 1, 8)
PLAIN(32, 64, 2, 64, 2, 2, 8)
PLAIN(32, 32, 2, 64, 2, 2, 8)
BOTH(32, 16, 2, 128, 2, 1, 6)
BOTH(16, 32, 2, 128, 1, 4, 5)
BOTH(16, 16, 2, 128, 1, 2, 8)

}  // namespace galley
