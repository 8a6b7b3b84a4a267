// Depthwise convolutions of image networks, with the sums for squeeze-excite.
//
// Images are [n, height, width, channels], f16 or f32; sums are f32. Weights are prepared by the host as each kernel says;
// pointers are aligned to 16 bytes. `activation` is an `Activation`: none, ReLU, ReLU6 or SiLU. `top` and `left` are rows and
// columns of zeros before the image; what is missing behind it, up to the output's size, is zeros too. An image's result
// depends neither on the batch nor on its place in it.
//
// `depthwise_f16_k<kernel>s<stride>_<columns>(in, weight, bias, out, partials, images, height, width, channels, top,
//                                             left, out_height, out_width, rows, strips, blocks, activation)`
//     Each channel with a filter of its own; kernel 3 or 5, stride 1 or 2. in [images, height, width, channels],
//     weight f32 [kernel * kernel, channels], bias f32 [channels], out [images, out_height, out_width, channels],
//     channels a multiple of 8. partials f32 [images, tiles, channels], or null: sums of the activated output, before
//     it is rounded, over tiles of `rows` rows and strips * columns columns; tiles = ceil(out_height / rows) *
//     ceil(out_width / (strips * columns)). Rows, strips and columns decide the order of these sums, so they must
//     follow from the layer alone; `blocks` (of 16 channels side by side) and the grid's z may follow from the batch.
//     Grid (ceil(channels / (16 blocks)), tiles, z), z up to images: a block of threads has every z-th image.
//     Block: strips * blocks * 8 rounded up to 32, at most 256. Shared memory, with strip = columns * stride and
//     pixels = strips * strip - stride + kernel: 8 * blocks * 16 * (pixels + (strip even ? pixels / strip : 0))
//     values of storage, and strips * blocks * 64 bytes. Bytes 2 (in + out); flops 2 kernel^2 out. 3x3 is bound by
//     memory, 5x5 about as much by arithmetic: 25 FMAs and 18 other instructions an output are 0.34 of 128 lanes'
//     cycles, its four bytes 0.30 cycles of a multiprocessor's share. Products and sums are f32: with halves, the 25
//     roundings of a sum would be five times that of the result.
//
// `depthwise_f32_k<kernel>s<stride>_4`
//     The same in f32. Twice the bytes.
#include "tile.cuh"

namespace galley {

// Channels of a block of threads. Sixteen divide every width of the EfficientNets, and are a whole sector of memory.
constexpr int CHANNELS = 16;
constexpr int PAIRS = CHANNELS / 2;  // a thread computes two channels of a strip of columns
constexpr int DEPTHWISE_THREADS = 256;  // at most

struct DepthwiseShape {
    int images, height, width, channels;
    int top, left;  // rows and columns of zeros before the image
    int out_height, out_width;
    int rows;    // of the output, of a block of threads
    int strips;  // across its tile
    int blocks;  // of channels
    int activation;
};

// The part of the output that a block of threads computes, in one image after the other.
struct DepthwiseTile {
    int channel, row, column;  // the first
    int rows;
};

// Lines of the input on their way through shared memory: a ring of them, the next ones being copied while one is in
// use.
template <typename T, int KERNEL, int STRIDE, int COLUMNS> struct Lines {
    static constexpr int STAGES = 8;
    static constexpr int STRIP = COLUMNS * STRIDE;         // pixels of the input from one strip to the next
    static constexpr int REACH = STRIP - STRIDE + KERNEL;  // pixels that a strip needs
    // Strips an odd number of pixels apart put a warp's accesses in different banks.
    static constexpr int GAP = STRIP % 2 == 0 ? 1 : 0;
    static constexpr int LENGTH = VECTOR / sizeof(T), VECTORS = CHANNELS / LENGTH;  // of a vector, and of a pixel
    static constexpr int COPIES = (REACH * VECTORS + PAIRS - 1) / PAIRS;            // of a thread in a line, at most

    const T* from[COPIES];  // the vectors that this thread copies of the next line,
    uint32_t to[COPIES];    // and where they go in the ring's first; none where this is `NOWHERE`
    static constexpr uint32_t NOWHERE = 0xffffffffu;
    long long line_step, image_step;  // values from a line to the next, and on from the last line to the next image
    int first, height, count;         // the first line, which may be a line of zeros, as may be the last of so many
    int block_bytes, line_bytes;      // in the ring, of a block of channels and of all of a line
    int line, images;                 // the next line, counted from the first, and how many images are left
    uint32_t ahead, behind;           // where in the ring the next line goes, and where the oldest is

    // Where pixel `x` of a line lies in the ring, in bytes.
    __device__ static __forceinline__ constexpr int place(int x) {
        return (x + x / STRIP * GAP) * CHANNELS * static_cast<int>(sizeof(T));
    }

    __device__ __forceinline__ Lines(const T* in, unsigned char* shared, const DepthwiseShape& shape,
                                     const DepthwiseTile& tile)
        : height(shape.height), line(0), ahead(0), behind(0) {
        const int pixels = shape.strips * STRIP - STRIDE + KERNEL;
        block_bytes = place(pixels);
        line_bytes = shape.blocks * block_bytes;
        first = tile.row * STRIDE - shape.top;
        count = (tile.rows - 1) * STRIDE + KERNEL;
        images = (shape.images - blockIdx.z + gridDim.z - 1) / gridDim.z;
        line_step = static_cast<long long>(shape.width) * shape.channels;
        image_step = static_cast<long long>(gridDim.z) * height * line_step - count * line_step;
        const long long start = (static_cast<long long>(blockIdx.z) * height + first) * line_step;
#pragma unroll
        for (int copy = 0; copy < COPIES; copy++) {
            const int index = threadIdx.x + copy * blockDim.x, vector = index % VECTORS;
            const int block = index / VECTORS % shape.blocks, pixel = index / VECTORS / shape.blocks;
            const int x = tile.column * STRIDE - shape.left + pixel;
            const int channel = tile.channel + block * CHANNELS + vector * LENGTH;
            const int at = block * block_bytes + place(pixel) + vector * VECTOR;
            const bool there = pixel < pixels && x >= 0 && x < shape.width && channel < shape.channels;
            from[copy] = in + start + static_cast<long long>(x) * shape.channels + channel;
            to[copy] = there ? shared_address(shared) + at : NOWHERE;
            // Zeros that no copy will touch.
            for (int stage = 0; stage < STAGES && pixel < pixels && !there; stage++) {
                *reinterpret_cast<uint4*>(shared + stage * line_bytes + at) = make_uint4(0, 0, 0, 0);
            }
        }
    }

    // Not a line of zeros.
    __device__ __forceinline__ bool inside(int line) const {
        return static_cast<unsigned>(first + line) < static_cast<unsigned>(height);
    }

    __device__ __forceinline__ void advance(uint32_t& place) const {
        place = place == (STAGES - 1) * line_bytes ? 0 : place + line_bytes;
    }

    // Starts to copy the next line, if any.
    __device__ __forceinline__ void fetch() {
        const bool some = images > 0 && inside(line);
        line++;
        const bool last = line == count;
        const long long step = last ? line_step + image_step : line_step;
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            if (some && to[i] != NOWHERE) copy(to[i] + ahead, from[i]);
            from[i] += step;
        }
        commit_copies();
        advance(ahead);
        if (last) {
            line = 0;
            images--;
        }
    }

    // Waits for the oldest line, which all threads may then read, and gives its place to the next. Returns where it
    // is.
    __device__ __forceinline__ uint32_t take() {
        await_copies<STAGES - 2>();
        __syncthreads();
        fetch();
        const uint32_t taken = behind;
        advance(behind);
        return taken;
    }
};

// Sums of the rows of the output that windows over the last lines reach, a thread's columns of them; weights too are
// held in registers. Row `r` is in `sums[r % HELD]`, which is known when the loop over lines is unrolled.
template <typename T, int KERNEL, int STRIDE, int COLUMNS> struct Rows {
    using Ring = Lines<T, KERNEL, STRIDE, COLUMNS>;
    static constexpr int HELD = (KERNEL - 1) / STRIDE + 1;
    static constexpr int PERIOD = HELD * STRIDE;  // lines after which a row's sums are again where they were

    float2 weight[KERNEL][KERNEL];
    float2 bias;
    float2 sums[HELD][COLUMNS] = {};

    __device__ __forceinline__ void load(const float* weights, const float* biases, int channel, int channels) {
#pragma unroll
        for (int tap = 0; tap < KERNEL * KERNEL; tap++) {
            weight[tap / KERNEL][tap % KERNEL] = load_pair(weights + static_cast<size_t>(tap) * channels + channel);
        }
        bias = load_pair(biases + channel);
    }

    // What a row gains from a line which lies under row `tap` of its windows; the first row of them begins it.
    __device__ __forceinline__ void gain(float2 (&row)[COLUMNS], const float2 (&x)[Ring::REACH], int tap) const {
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) {
            float2 sum = tap == 0 ? bias : row[i];
#pragma unroll
            for (int k = 0; k < KERNEL; k++) {
                sum.x = fmaf(x[i * STRIDE + k].x, weight[tap][k].x, sum.x);
                sum.y = fmaf(x[i * STRIDE + k].y, weight[tap][k].y, sum.y);
            }
            row[i] = sum;
        }
    }

    // Line `line`, if it is not zeros, lies at `from` in shared memory. Its place in the period decides which rows it
    // is under: the oldest of them is `line - KERNEL + 1` over the stride, rounded up.
    __device__ __forceinline__ void add(int line, uint32_t from, bool inside) {
        const int tap = KERNEL - 1 - (KERNEL - 1 - line % STRIDE) % STRIDE;
        const int oldest = (line + PERIOD - tap) / STRIDE;
        if (inside) {
            float2 x[Ring::REACH];
#pragma unroll
            for (int i = 0; i < Ring::REACH; i++) x[i] = load_shared_pair<T>(from + Ring::place(i));
#pragma unroll
            for (int i = 0; tap - i * STRIDE >= 0; i++) gain(sums[(oldest + i) % HELD], x, tap - i * STRIDE);
        } else if (line % STRIDE == 0) {
#pragma unroll
            for (float2& sum : sums[line / STRIDE % HELD]) sum = bias;
        }
    }
};

template <int COLUMNS> __device__ __forceinline__ void activate_all(float2 (&x)[COLUMNS], int activation) {
    if (activation == SILU) {
#pragma unroll
        for (float2& pair : x) pair = make_float2(quick_activate<SILU>(pair.x), quick_activate<SILU>(pair.y));
    } else if (activation == RELU6) {
#pragma unroll
        for (float2& pair : x) pair = make_float2(relu6(pair.x), relu6(pair.y));
    } else if (activation == RELU) {
#pragma unroll
        for (float2& pair : x) pair = make_float2(fmaxf(pair.x, 0.0f), fmaxf(pair.y, 0.0f));
    }
}

template <typename T, int KERNEL, int STRIDE, int COLUMNS>
__device__ __forceinline__ void depthwise(const T* in, const float* weights, const float* biases, T* out,
                                          float* partials, const DepthwiseShape& shape) {
    using Ring = Lines<T, KERNEL, STRIDE, COLUMNS>;
    extern __shared__ __align__(16) unsigned char shared[];
    const int width = shape.strips * COLUMNS, across = (shape.out_width + width - 1) / width;
    const int tile_index = static_cast<int>(blockIdx.y);
    DepthwiseTile tile{static_cast<int>(blockIdx.x) * shape.blocks * CHANNELS, tile_index / across * shape.rows,
                       tile_index % across * width, 0};
    tile.rows = min(shape.rows, shape.out_height - tile.row);
    Ring ring(in, shared, shape, tile);
    for (int stage = 0; stage < Ring::STAGES - 1; stage++) ring.fetch();

    const int block = threadIdx.x / (shape.strips * PAIRS), strip = threadIdx.x / PAIRS % shape.strips;
    const int pair = threadIdx.x % PAIRS * 2, channel = tile.channel + block * CHANNELS + pair;
    const int column = tile.column + strip * COLUMNS, columns = shape.out_width - column;
    const bool active = block < shape.blocks && channel < shape.channels && columns > 0;
    const uint32_t own =
        shared_address(shared) + block * ring.block_bytes + strip * Ring::place(Ring::STRIP) + pair * sizeof(T);
    Rows<T, KERNEL, STRIDE, COLUMNS> rows;
    if (active) rows.load(weights, biases, channel, shape.channels);
    // Of the strips, [blocks, strips, CHANNELS].
    float* strip_sums = reinterpret_cast<float*>(shared + Ring::STAGES * ring.line_bytes);

    for (int image = blockIdx.z; image < shape.images; image += gridDim.z) {
        float2 sum = make_float2(0, 0);
        const size_t row = static_cast<size_t>(image) * shape.out_height + tile.row;
        T* to = out + (row * shape.out_width + column) * shape.channels + channel;
        for (int start = 0; start < ring.count; start += rows.PERIOD) {
#pragma unroll
            for (int line = 0; line < rows.PERIOD; line++) {
                if (start + line >= ring.count) break;
                const uint32_t from = own + ring.take();
                if (!active) continue;
                rows.add(line, from, ring.inside(start + line));
                if ((line - KERNEL + 1) % STRIDE != 0 || start + line < KERNEL - 1) continue;
                float2 done[COLUMNS];
#pragma unroll
                for (int i = 0; i < COLUMNS; i++) {
                    done[i] = rows.sums[(line - KERNEL + 1 + rows.PERIOD) / STRIDE % rows.HELD][i];
                }
                activate_all(done, shape.activation);
#pragma unroll
                for (int i = 0; i < COLUMNS; i++) {
                    if (i >= columns) continue;
                    sum.x += done[i].x;
                    sum.y += done[i].y;
                    store_pair(to + i * shape.channels, done[i]);
                }
                to += static_cast<size_t>(shape.out_width) * shape.channels;
            }
        }
        if (!partials) continue;
        if (block < shape.blocks) store_pair(strip_sums + threadIdx.x * 2, active ? sum : make_float2(0, 0));
        __syncthreads();
        for (int i = threadIdx.x; i < shape.blocks * CHANNELS && tile.channel + i < shape.channels; i += blockDim.x) {
            const float* of_strips = strip_sums + i / CHANNELS * shape.strips * CHANNELS + i % CHANNELS;
            float total = 0;
            for (int other = 0; other < shape.strips; other++) total += of_strips[other * CHANNELS];
            const size_t at = static_cast<size_t>(image) * gridDim.y + blockIdx.y;
            partials[at * shape.channels + tile.channel + i] = total;
        }
    }
}

#define DEPTHWISE(NAME, T, KERNEL, STRIDE, COLUMNS)                                                                    \
    extern "C" __global__ void __launch_bounds__(DEPTHWISE_THREADS, KERNEL == 3 ? 3 : 2)                               \
        depthwise_##NAME##_k##KERNEL##s##STRIDE##_##COLUMNS(                                                           \
            const T* in, const float* weight, const float* bias, T* out, float* partials, int images, int height,      \
            int width, int channels, int top, int left, int out_height, int out_width, int rows, int strips,           \
            int blocks, int activation) {                                                                              \
        galley::take_turn();                                                                                           \
        depthwise<T, KERNEL, STRIDE, COLUMNS>(in, weight, bias, out, partials,                                         \
                                              {images, height, width, channels, top, left, out_height, out_width,      \
                                               rows, strips, blocks, activation});                                     \
    }
#define DEPTHWISES(NAME, T, COLUMNS)                                                                                   \
    DEPTHWISE(NAME, T, 3, 1, COLUMNS)                                                                                  \
    DEPTHWISE(NAME, T, 3, 2, COLUMNS)                                                                                  \
    DEPTHWISE(NAME, T, 5, 1, COLUMNS)                                                                                  \
    DEPTHWISE(NAME, T, 5, 2, COLUMNS)

DEPTHWISES(f16, __half, 3)
DEPTHWISES(f16, __half, 4)
DEPTHWISES(f32, float, 4)

}  // namespace galley
