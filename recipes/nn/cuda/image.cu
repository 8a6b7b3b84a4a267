// What image networks of inverted bottlenecks need besides matrix products: the stem, depthwise convolutions,
// squeeze-excite and the mean over all pixels. Images are [n, height, width, channels], f16 or f32; sums are f32.
//
// Weights are prepared by the host as each kernel says; pointers are aligned to 16 bytes. `activation` is an
// `Activation`: none, ReLU6 or SiLU, and ReLU of depthwise convolutions. `top` and `left` are rows and columns of zeros
// before the image; what is missing behind it, up to the output's size, is zeros too. An image's result depends neither
// on the batch nor on its place in it.
//
// `stem_f16_bytes(pixels, scale, shift, weight, bias, out, images, height, width, channels, top, left, out_height,
//                 out_width, activation)`
// `stem_f16_floats(pixels, weight, bias, out, images, ..)`, the same without `scale` and `shift`
//     A 3x3 convolution of stride 2. pixels u8 [images, height, width, 3], which mean `byte * scale[colour] +
//     shift[colour]` (f32 [3] each, computed in f32 before the zeros are put around the image), or f32 that mean what
//     they are. Both are rounded to f16. weight f16 [channels, 32], k = ky * 10 + kx * 3 + colour and zeros
//     elsewhere; bias f32 [channels]; out f16 [images, out_height, out_width, channels]. channels is a multiple of 8.
//     Grid (ceil(out_width / 48), ceil(out_height / 4), images), block 128, no dynamic shared memory. Bytes: pixels +
//     2 out; flops 54 out. Memory is the bound.
//
// `stem_f32_bytes`, `stem_f32_floats`
//     The same in f32: weight f32 [27, channels], row (ky * 3 + kx) * 3 + colour; channels a multiple of 4.
//     Grid ceil(images * out_height * out_width / 128), block 128.
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
//
// `squeeze_excite_f16(partials, reduce, reduce_bias, expand, expand_bias, gates, images, tiles, pixels, channels,
//                     squeezed)`
//     From the sums of a depthwise convolution to `sigmoid(expand silu(reduce means + reduce_bias) + expand_bias)`.
//     partials f32 [images, tiles, channels], of `pixels` pixels; reduce [squeezed, channels]; expand turned around,
//     [squeezed, channels]; biases f32; gates [images, channels]. channels is a multiple of 8. Grid images, block
//     512. Shared memory: 4 (channels + squeezed rounded up to 4 + along * channels) bytes, where along is 512 /
//     (channels / 8), in f32 512 / (channels / 4), but at least 1.
//     Bytes 4 squeezed channels from L2 an image. Latency is the bound.
//
// `squeeze_excite_f32`
//     The same, all in f32.
//
// `mean_f16(in, out, pixels, channels)`, `mean_f32`
//     [images, pixels, channels] -> [images, channels]; channels is even. Grid (ceil(channels / 64), images), block
//     256. Memory is the bound.
#include "tile.cuh"

namespace galley {

// ---------------------------------------------------------------------------------------------------------------------
// Stem
// ---------------------------------------------------------------------------------------------------------------------

constexpr int COLOURS = 3;

struct StemShape {
    int images, height, width, channels;
    int top, left;  // rows and columns of zeros before the image
    int out_height, out_width;
    int activation;
};

// Images as they are decoded, and what their bytes mean: `byte * scale + shift`, for each colour.
struct Bytes {
    const uint8_t* values;
    const float* scale;
    const float* shift;
    long long count;

    __device__ __forceinline__ float at(size_t index, int colour) const {
        return fmaf(static_cast<float>(__ldg(values + index)), __ldg(scale + colour), __ldg(shift + colour));
    }

    // Four of them, of which those that are not there are zero.
    __device__ __forceinline__ uint32_t word(long long index) const {
        if (index >= 0 && index < count / 4) return __ldg(reinterpret_cast<const uint32_t*>(values) + index);
        uint32_t word = 0;
        for (int byte = 0; index == count / 4 && byte < count % 4; byte++) {
            word |= static_cast<uint32_t>(values[index * 4 + byte]) << (8 * byte);
        }
        return word;
    }
};

// Pixels that mean what they are.
struct Floats {
    const float* values;

    __device__ __forceinline__ float at(size_t index, int) const { return __ldg(values + index); }
};

// The pixels under some windows of the output, in f16, with zeros around the image.
struct Patch {
    static constexpr int ROWS = 4, COLUMNS = 48;  // of the output; a warp computes a row
    static constexpr int THREADS = ROWS * WARP;
    // Of the input. Four pixels are three words; the last value under a window is read with the one after it.
    static constexpr int LINES = 2 * ROWS + 1, GROUP = 4, GROUPS = 2 * COLUMNS / GROUP + 1;
    static constexpr int VALUES = GROUPS * GROUP * COLOURS;

    __half values[LINES][VALUES];

    __device__ __forceinline__ void fill(const Bytes& bytes, const StemShape& shape, int image, int row, int column) {
        const float scale[] = {__ldg(bytes.scale), __ldg(bytes.scale + 1), __ldg(bytes.scale + 2)};
        const float shift[] = {__ldg(bytes.shift), __ldg(bytes.shift + 1), __ldg(bytes.shift + 2)};
        for (int i = threadIdx.x; i < LINES * GROUPS; i += THREADS) {
            const int line = i / GROUPS, group = i % GROUPS, y = row + line, x = column + group * GROUP;
            const bool inside = y >= 0 && y < shape.height;
            uint32_t words[COLOURS] = {};
            if (inside) {
                const long long line_start = (static_cast<long long>(image) * shape.height + y) * shape.width;
                const long long first = (line_start + x) * COLOURS;
                uint32_t word = bytes.word(first >> 2);
#pragma unroll
                for (int w = 0; w < COLOURS; w++) {
                    const uint32_t next = bytes.word((first >> 2) + w + 1);
                    words[w] = __funnelshift_r(word, next, (first & 3) * 8);
                    word = next;
                }
            }
            float value[GROUP * COLOURS];
#pragma unroll
            for (int v = 0; v < GROUP * COLOURS; v++) {
                const int pixel = x + v / COLOURS, colour = v % COLOURS;
                const float byte = static_cast<float>(words[v / 4] >> (v % 4 * 8) & 255);
                const bool there = inside && pixel >= 0 && pixel < shape.width;
                value[v] = there ? fmaf(byte, scale[colour], shift[colour]) : 0.0f;
            }
            uint2* to = reinterpret_cast<uint2*>(&values[line][group * GROUP * COLOURS]);
#pragma unroll
            for (int v = 0; v < COLOURS; v++) {
                to[v] = make_uint2(pack_halves(value[4 * v], value[4 * v + 1]),
                                   pack_halves(value[4 * v + 2], value[4 * v + 3]));
            }
        }
    }

    __device__ __forceinline__ void fill(const Floats& floats, const StemShape& shape, int image, int row, int column) {
        for (int i = threadIdx.x; i < LINES * VALUES; i += THREADS) {
            const int line = i / VALUES, to = i % VALUES, y = row + line, x = column * COLOURS + to;
            const bool there = y >= 0 && y < shape.height && x >= 0 && x < shape.width * COLOURS;
            const size_t at = (static_cast<size_t>(image) * shape.height + y) * shape.width * COLOURS + x;
            values[line][to] = __float2half_rn(there ? __ldg(floats.values + at) : 0.0f);
        }
    }

    // Pairs of neighbours under a window, as a product's k: five of a line, of which the last value counts for
    // nothing.
    static constexpr int PAIRS = 5, KERNEL = 3;
    __device__ __forceinline__ uint32_t pair(int row, int column, int pair) const {
        pair = min(pair, PAIRS * KERNEL - 1);
        const __half* at = &values[2 * row + pair / PAIRS][column * 2 * COLOURS + pair % PAIRS * 2];
        return *reinterpret_cast<const uint32_t*>(at);
    }
};

// A 3x3 convolution of stride 2 as a product: k is the 27 values under a window, a line's nine followed by a zero.
template <typename Pixels>
__device__ __forceinline__ void stem(const Pixels& pixels, const __half* weight, const float* bias, __half* out,
                                     const StemShape& shape) {
    constexpr int WIDE = 32, K = 32;
    using Out = Staged<1, WIDE / 8>;
    __shared__ __align__(16) Patch patch;
    __shared__ __align__(16) unsigned char staged[Patch::ROWS][Out::BYTES];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int first_column = blockIdx.x * Patch::COLUMNS, first_row = blockIdx.y * Patch::ROWS, image = blockIdx.z;
    patch.fill(pixels, shape, image, first_row * 2 - shape.top, first_column * 2 - shape.left);
    __syncthreads();
    if (first_row + warp >= shape.out_height) return;

    const int line = (image * shape.out_height + first_row + warp) * shape.out_width;
    const Finish finish{bias, nullptr, out, line + shape.out_width, shape.channels, shape.activation};
    for (int channel = 0; channel < shape.channels; channel += WIDE) {
        uint32_t weights[WIDE / 8][K / 8];
        for (int j = 0; j < WIDE / 8; j++) {
            const int row = min(channel + j * 8 + lane / 4, shape.channels - 1);
            const uint32_t* from = reinterpret_cast<const uint32_t*>(weight + static_cast<size_t>(row) * K);
            for (int k = 0; k < K / 8; k++) weights[j][k] = __ldg(from + k * 4 + lane % 4);
        }
#pragma unroll 1
        for (int column = 0; column < Patch::COLUMNS && first_column + column < shape.out_width; column += 16) {
            Sums<WIDE / 8> sums[1];
            Out::start(sums, finish, channel);
            for (int k = 0; k < K / 16; k++) {
                uint32_t window[4];
                for (int i = 0; i < 4; i++) {
                    window[i] = patch.pair(warp, column + lane / 4 + i % 2 * 8, k * 8 + i / 2 * 4 + lane % 4);
                }
                for (int j = 0; j < WIDE / 8; j++) {
                    multiply_add(sums[0][j], window, weights[j][2 * k], weights[j][2 * k + 1]);
                }
            }
            Out::finish(sums, staged[warp], finish, line + first_column + column, channel);
        }
    }
}

__device__ __forceinline__ long long byte_count(int images, int height, int width) {
    return static_cast<long long>(images) * height * width * COLOURS;
}

extern "C" __global__ void __launch_bounds__(Patch::THREADS)
    stem_f16_bytes(const uint8_t* pixels, const float* scale, const float* shift, const __half* weight,
                   const float* bias, __half* out, int images, int height, int width, int channels, int top, int left,
                   int out_height, int out_width, int activation) {
    galley::take_turn();
    stem(Bytes{pixels, scale, shift, byte_count(images, height, width)}, weight, bias, out,
         {images, height, width, channels, top, left, out_height, out_width, activation});
}

extern "C" __global__ void __launch_bounds__(Patch::THREADS)
    stem_f16_floats(const float* pixels, const __half* weight, const float* bias, __half* out, int images, int height,
                    int width, int channels, int top, int left, int out_height, int out_width, int activation) {
    galley::take_turn();
    stem(Floats{pixels}, weight, bias, out,
         {images, height, width, channels, top, left, out_height, out_width, activation});
}

__device__ __forceinline__ float activate_as(int activation, float x) {
    return activation == SILU ? quick_activate<SILU>(x) : activation == RELU6 ? relu6(x) : x;
}

// The plain stem: a thread computes a pixel's channels, four at a time.
template <typename Pixels>
__device__ __forceinline__ void plain_stem(const Pixels& pixels, const float* weight, const float* bias, float* out,
                                           const StemShape& shape) {
    constexpr int KERNEL = 3, TAPS = KERNEL * KERNEL * COLOURS;
    const int line = shape.out_height * shape.out_width;
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= shape.images * line) return;
    const int image = index / line, row = index % line / shape.out_width, column = index % line % shape.out_width;
    float window[TAPS];
#pragma unroll
    for (int tap = 0; tap < TAPS; tap++) {
        const int y = row * 2 - shape.top + tap / (KERNEL * COLOURS);
        const int x = column * 2 - shape.left + tap / COLOURS % KERNEL;
        const bool there = y >= 0 && y < shape.height && x >= 0 && x < shape.width;
        const size_t at = ((static_cast<size_t>(image) * shape.height + y) * shape.width + x) * COLOURS + tap % COLOURS;
        window[tap] = there ? pixels.at(at, tap % COLOURS) : 0.0f;
    }
    for (int channel = 0; channel < shape.channels; channel += 4) {
        float4 sum = __ldg(reinterpret_cast<const float4*>(bias + channel));
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++) {
            const float4 w = __ldg(reinterpret_cast<const float4*>(weight + tap * shape.channels + channel));
            sum.x = fmaf(window[tap], w.x, sum.x);
            sum.y = fmaf(window[tap], w.y, sum.y);
            sum.z = fmaf(window[tap], w.z, sum.z);
            sum.w = fmaf(window[tap], w.w, sum.w);
        }
        *reinterpret_cast<float4*>(out + static_cast<size_t>(index) * shape.channels + channel) =
            make_float4(activate_as(shape.activation, sum.x), activate_as(shape.activation, sum.y),
                        activate_as(shape.activation, sum.z), activate_as(shape.activation, sum.w));
    }
}

constexpr int PLAIN_STEM_THREADS = 128;

extern "C" __global__ void __launch_bounds__(PLAIN_STEM_THREADS)
    stem_f32_bytes(const uint8_t* pixels, const float* scale, const float* shift, const float* weight,
                   const float* bias, float* out, int images, int height, int width, int channels, int top, int left,
                   int out_height, int out_width, int activation) {
    galley::take_turn();
    plain_stem(Bytes{pixels, scale, shift, byte_count(images, height, width)}, weight, bias, out,
               {images, height, width, channels, top, left, out_height, out_width, activation});
}

extern "C" __global__ void __launch_bounds__(PLAIN_STEM_THREADS)
    stem_f32_floats(const float* pixels, const float* weight, const float* bias, float* out, int images, int height,
                    int width, int channels, int top, int left, int out_height, int out_width, int activation) {
    galley::take_turn();
    plain_stem(Floats{pixels}, weight, bias, out,
               {images, height, width, channels, top, left, out_height, out_width, activation});
}

// ---------------------------------------------------------------------------------------------------------------------
// Depthwise convolution
// ---------------------------------------------------------------------------------------------------------------------

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

// ---------------------------------------------------------------------------------------------------------------------
// Squeeze-excite
// ---------------------------------------------------------------------------------------------------------------------

struct SqueezeShape {
    int images, tiles, channels, squeezed;
    float share;  // one over the number of pixels
};

constexpr int SQUEEZE_THREADS = 512;

// A vector of storage as floats.
template <typename T> struct Vector {
    static constexpr int LENGTH = VECTOR / sizeof(T);
    float values[LENGTH];

    __device__ __forceinline__ explicit Vector(const T* from) {
        const uint4 packed = __ldg(reinterpret_cast<const uint4*>(from));
        const T* parts = reinterpret_cast<const T*>(&packed);
#pragma unroll
        for (int i = 0; i < LENGTH; i++) values[i] = to_float(parts[i]);
    }
};

// `IMAGES` images in a block of threads, which read the weights once for all of them. Each sum is made in an order that
// depends on the number of channels alone.
template <typename T, int IMAGES> struct SqueezeExcite {
    static constexpr int LENGTH = Vector<T>::LENGTH;

    const SqueezeShape& shape;
    int images;      // of `IMAGES`, those that there are
    float* means;    // [IMAGES, channels]
    float* hidden;   // [IMAGES, squeezed], rounded up to vectors
    float* scratch;  // [threads that share channels, IMAGES, channels]

    __device__ __forceinline__ SqueezeExcite(const SqueezeShape& shape, int first, float* shared)
        : shape(shape), images(min(IMAGES, shape.images - first)), means(shared),
          hidden(means + IMAGES * shape.channels), scratch(hidden + (IMAGES * shape.squeezed + 3) / 4 * 4) {}

    // Of the parts that threads have made in `scratch`, [along, images, channels]; `then(image, channel, sum)`.
    template <typename Then> __device__ __forceinline__ void total(int along, Then then) const {
        for (int j = threadIdx.x; j < images * shape.channels; j += SQUEEZE_THREADS) {
            const int channel = j % shape.channels, image = j / shape.channels;
            float sum = 0;
            for (int part = 0; part < along; part++) {
                sum += scratch[(part * IMAGES + image) * shape.channels + channel];
            }
            then(image, channel, sum);
        }
    }

    // Threads that share channels sum every so many of the tiles.
    __device__ __forceinline__ void take_means(const float* partials) const {
        const int vectors = shape.channels / 4, along = max(1, SQUEEZE_THREADS / vectors);
        for (int j = threadIdx.x; j < along * vectors; j += SQUEEZE_THREADS) {
            const int channel = j % vectors * 4, part = j / vectors;
#pragma unroll
            for (int i = 0; i < IMAGES; i++) {
                if (i >= images) break;
                const float* from = partials + static_cast<size_t>(i) * shape.tiles * shape.channels + channel;
                float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 4
                for (int tile = part; tile < shape.tiles; tile += along) {
                    const float* at = from + static_cast<size_t>(tile) * shape.channels;
                    const float4 x = __ldg(reinterpret_cast<const float4*>(at));
                    sum = make_float4(sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w);
                }
                *reinterpret_cast<float4*>(scratch + (part * IMAGES + i) * shape.channels + channel) = sum;
            }
        }
        __syncthreads();
        total(along, [&](int image, int channel, float sum) {
            means[image * shape.channels + channel] = sum * shape.share;
        });
        __syncthreads();
    }

    // The first layer: a warp has a row of the weights.
    __device__ __forceinline__ void squeeze(const T* weight, const float* bias) const {
        const int lane = threadIdx.x % WARP;
#pragma unroll 2
        for (int row = threadIdx.x / WARP; row < shape.squeezed; row += SQUEEZE_THREADS / WARP) {
            float sums[IMAGES] = {};
#pragma unroll 4
            for (int channel = lane * LENGTH; channel < shape.channels; channel += WARP * LENGTH) {
                const Vector<T> w(weight + static_cast<size_t>(row) * shape.channels + channel);
#pragma unroll
                for (int i = 0; i < IMAGES; i++) {
                    const float* x = means + i * shape.channels + channel;
#pragma unroll
                    for (int k = 0; k < LENGTH; k++) sums[i] = fmaf(w.values[k], x[k], sums[i]);
                }
            }
#pragma unroll
            for (int i = 0; i < IMAGES; i++) {
                const float sum = warp_sum(sums[i]);
                if (lane == 0) hidden[i * shape.squeezed + row] = quick_activate<SILU>(sum + __ldg(bias + row));
            }
        }
        __syncthreads();
    }

    // The second layer, whose weights are turned around: threads that share channels sum every so many of the rows.
    __device__ __forceinline__ void excite(const T* weight, const float* bias, T* gates) const {
        const int vectors = shape.channels / LENGTH, along = max(1, SQUEEZE_THREADS / vectors);
        for (int j = threadIdx.x; j < along * vectors; j += SQUEEZE_THREADS) {
            const int channel = j % vectors * LENGTH, part = j / vectors;
            float sums[IMAGES][LENGTH] = {};
#pragma unroll 4
            for (int row = part; row < shape.squeezed; row += along) {
                const Vector<T> w(weight + static_cast<size_t>(row) * shape.channels + channel);
#pragma unroll
                for (int i = 0; i < IMAGES; i++) {
                    const float x = hidden[i * shape.squeezed + row];
#pragma unroll
                    for (int k = 0; k < LENGTH; k++) sums[i][k] = fmaf(w.values[k], x, sums[i][k]);
                }
            }
#pragma unroll
            for (int i = 0; i < IMAGES; i++) {
                float* to = scratch + (part * IMAGES + i) * shape.channels + channel;
#pragma unroll
                for (int k = 0; k < LENGTH; k++) to[k] = sums[i][k];
            }
        }
        __syncthreads();
        total(along, [&](int image, int channel, float sum) {
            gates[static_cast<size_t>(image) * shape.channels + channel] =
                from_float<T>(quick_sigmoid(sum + __ldg(bias + channel)));
        });
    }
};

template <typename T, int IMAGES>
__device__ __forceinline__ void squeeze_excite(const float* partials, const T* reduce, const float* reduce_bias,
                                               const T* expand, const float* expand_bias, T* gates,
                                               const SqueezeShape& shape) {
    extern __shared__ __align__(16) float floats[];
    const int first = blockIdx.x * IMAGES;
    const SqueezeExcite<T, IMAGES> layer(shape, first, floats);
    layer.take_means(partials + static_cast<size_t>(first) * shape.tiles * shape.channels);
    layer.squeeze(reduce, reduce_bias);
    layer.excite(expand, expand_bias, gates + static_cast<size_t>(first) * shape.channels);
}

// One image was as fast as more in a block of threads, or faster, in batches up to 256.
constexpr int SQUEEZE_IMAGES = 1;

#define SQUEEZE_EXCITE(NAME, T)                                                                                        \
    extern "C" __global__ void __launch_bounds__(SQUEEZE_THREADS) squeeze_excite_##NAME(                               \
        const float* partials, const T* reduce, const float* reduce_bias, const T* expand, const float* expand_bias,   \
        T* gates, int images, int tiles, int pixels, int channels, int squeezed) {                                     \
        galley::take_turn();                                                                                           \
        squeeze_excite<T, SQUEEZE_IMAGES>(partials, reduce, reduce_bias, expand, expand_bias, gates,                   \
                                          {images, tiles, channels, squeezed, 1.0f / pixels});                         \
    }

SQUEEZE_EXCITE(f16, __half)
SQUEEZE_EXCITE(f32, float)

// ---------------------------------------------------------------------------------------------------------------------
// Mean over all pixels
// ---------------------------------------------------------------------------------------------------------------------

constexpr int MEAN_WARPS = 8;

template <typename T> __device__ __forceinline__ void mean(const T* in, T* out, int pixels, int channels) {
    __shared__ float2 sums[MEAN_WARPS][WARP];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int channel = (blockIdx.x * WARP + lane) * 2;
    float2 sum = make_float2(0, 0);
    if (channel < channels) {
        const T* from = in + static_cast<size_t>(blockIdx.y) * pixels * channels + channel;
#pragma unroll 8
        for (int pixel = warp; pixel < pixels; pixel += MEAN_WARPS) {
            const float2 x = load_pair(from + static_cast<size_t>(pixel) * channels);
            sum = make_float2(sum.x + x.x, sum.y + x.y);
        }
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || channel >= channels) return;
#pragma unroll
    for (int other = 1; other < MEAN_WARPS; other++) {
        sum = make_float2(sum.x + sums[other][lane].x, sum.y + sums[other][lane].y);
    }
    const float share = 1.0f / pixels;
    store_pair(out + static_cast<size_t>(blockIdx.y) * channels + channel, make_float2(sum.x * share, sum.y * share));
}

extern "C" __global__ void __launch_bounds__(MEAN_WARPS* WARP)
    mean_f16(const __half* in, __half* out, int pixels, int channels) {
    galley::take_turn();
    mean(in, out, pixels, channels);
}
extern "C" __global__ void __launch_bounds__(MEAN_WARPS* WARP)
    mean_f32(const float* in, float* out, int pixels, int channels) {
    galley::take_turn();
    mean(in, out, pixels, channels);
}

}  // namespace galley
