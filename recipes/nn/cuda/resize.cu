// Decoded pictures of any size -> the squares that a network sees: turned, resized and cut as Pillow does it, to the bit.
//
// `resize(pixels, pictures, weights, out, side)`
//     pictures [n] as below, out u8 [n, side, side, 3]. Each picture is resized along its lines first, rounded to 8 bits, and then
//     across, by weights of 22 bits of fraction (`src/libImaging/Resample.c`). A block makes a tile of 32 by 32 pixels of out;
//     between both passes the lines that it needs are in shared memory, of which there is room for `lines` of any tile, the rows of
//     weights [taps, side] first: that of the k-th pixel under the output pixel i at [k, i], zeros behind the last, which begins at
//     `starts`, [side]. Grid ceil(side / 32), ceil(side / 32), n; block 256; dynamic shared memory 96 * lines.
#include "common.cuh"

namespace galley {

// As `nn::picture` writes it.
struct Picture {
    // Of the pixel that is shown at the top left, bytes into `pixels`.
    unsigned long long first;
    // Bytes to the pixel that is shown right of one, and below.
    long long right, down;
    // Along lines, and across: where its starts begin in `weights`, in words; its weights follow them.
    unsigned columns, rows;
    int column_taps, row_taps;
    // The picture's sides as they are shown.
    int width, height;
};
static_assert(sizeof(Picture) == 48, "as the host writes it");

constexpr int TILE = 32, COLOURS = 3, FRACTION = 22;

__device__ __forceinline__ unsigned char to_byte(int sum) { return min(max(sum >> FRACTION, 0), 255); }

extern "C" __global__ void __launch_bounds__(256)
resize(const unsigned char* pixels, const Picture* pictures, const int* weights, unsigned char* out, int side) {
    extern __shared__ unsigned char lines[];  // [lines, TILE * COLOURS]
    take_turn();
    const Picture picture = pictures[blockIdx.z];
    const unsigned char* from = pixels + picture.first;
    const int left = blockIdx.x * TILE, top = blockIdx.y * TILE;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    const int* row_starts = weights + picture.rows;
    const int* row_weights = row_starts + side;
    const int bottom = min(top + TILE, side) - 1;
    const int first = row_starts[top], end = min(row_starts[bottom] + picture.row_taps, picture.height);

    // A warp makes lines, a lane has a column: neighbours read neighbouring pixels.
    const int column = left + lane;
    if (column < side) {
        const int* column_weights = weights + picture.columns + side + column;
        const int start = weights[picture.columns + column];
        const int taps = min(picture.column_taps, picture.width - start);
        for (int line = first + warp; line < end; line += warps) {
            const unsigned char* pixel = from + line * picture.down + start * picture.right;
            int red = 1 << (FRACTION - 1), green = red, blue = red;
            for (int k = 0; k < taps; k++) {
                const int weight = column_weights[k * side];
                red += pixel[0] * weight;
                green += pixel[1] * weight;
                blue += pixel[2] * weight;
                pixel += picture.right;
            }
            unsigned char* to = lines + ((line - first) * TILE + lane) * COLOURS;
            to[0] = to_byte(red);
            to[1] = to_byte(green);
            to[2] = to_byte(blue);
        }
    }
    __syncthreads();

    // The tile's bytes, line by line.
    const int width = min(TILE, side - left) * COLOURS;
    for (int row = top + warp; row <= bottom; row += warps) {
        const int start = row_starts[row];
        const int taps = min(picture.row_taps, picture.height - start);
        const unsigned char* under = lines + (start - first) * TILE * COLOURS;
        unsigned char* to = out + ((static_cast<size_t>(blockIdx.z) * side + row) * side + left) * COLOURS;
        for (int i = lane; i < width; i += WARP) {
            int sum = 1 << (FRACTION - 1);
            for (int k = 0; k < taps; k++) sum += under[k * TILE * COLOURS + i] * row_weights[k * side + row];
            to[i] = to_byte(sum);
        }
    }
}

}  // namespace galley
