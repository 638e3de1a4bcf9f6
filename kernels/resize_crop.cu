// Antialiased resize, crop and averaging in one pass: along each axis every output is a short weighted sum of
// neighbouring inputs, given by a table. See resize_crop.py for the tables and the definition.
#include "cuda/common.cuh"

constexpr int TILE_WIDTH = 32, TILE_HEIGHT = 8;  // outputs of a block, one a thread

// Of output i: the first input and its weights, taps[k * outputs + i] for input start[i] + k.
struct Axis {
  const int* start;
  const float* taps;
  int count;    // weights of an output; all its inputs exist
  int outputs;
};

struct ResizeForward {
  const float* image;  // [N, 3, height, width]
  Axis rows, columns;
  const float* scale;  // [3]: output = scale * resized + shift
  const float* shift;  // [3]
  void* output;        // [N, 3, rows.outputs, columns.outputs] under these strides
  int stride_n, stride_c, stride_y, stride_x;
  int height, width;
  int span;            // inputs in a row that a tile needs, at most
};

// A block filters down the columns first, into shared memory [TILE_HEIGHT][span], where neighbouring threads read
// neighbouring inputs; then along the rows.
template <typename T>
__device__ __forceinline__ void resize_forward(const ResizeForward& a) {
  const int tiles = (a.columns.outputs + TILE_WIDTH - 1) / TILE_WIDTH;
  const int x_tile = blockIdx.x % tiles * TILE_WIDTH, y_tile = blockIdx.x / tiles * TILE_HEIGHT;
  const int channel = blockIdx.y;
  const size_t n = blockIdx.z;
  const float* plane = a.image + (n * 3 + channel) * a.height * a.width;
  const int thread = threadIdx.y * TILE_WIDTH + threadIdx.x;
  const int first = a.columns.start[x_tile];

  for (int at = thread; at < TILE_HEIGHT * a.span; at += THREADS) {
    const int y = y_tile + at / a.span, column = first + at % a.span;
    float sum = 0.f;
    if (y < a.rows.outputs && column < a.width) {
      const float* from = plane + (size_t)a.rows.start[y] * a.width + column;
      for (int k = 0; k < a.rows.count; ++k) sum += a.rows.taps[k * a.rows.outputs + y] * from[(size_t)k * a.width];
    }
    shared_memory[at] = sum;
  }
  __syncthreads();

  const int x = x_tile + threadIdx.x, y = y_tile + threadIdx.y;
  if (x >= a.columns.outputs || y >= a.rows.outputs) return;
  const float* from = shared_memory + threadIdx.y * a.span + (a.columns.start[x] - first);
  float sum = 0.f;
  for (int k = 0; k < a.columns.count; ++k) sum += a.columns.taps[k * a.columns.outputs + x] * from[k];
  T* output = static_cast<T*>(a.output) + n * a.stride_n + (size_t)channel * a.stride_c;
  output[(size_t)y * a.stride_y + (size_t)x * a.stride_x] = narrow<T>(a.scale[channel] * sum + a.shift[channel]);
}

// One resized picture as its gradient sees it: the axes are turned round, from inputs to outputs.
struct View {
  const void* gradient;  // [N, 3, ...] under these strides, or null: this view has none
  Axis rows, columns;
  const float* scale;
  int stride_n, stride_c, stride_y, stride_x;
};

struct ResizeBackward {
  View views[2];
  float* image_grad;  // [N, 3, height, width]
  int height, width;
};

// Both views' gradients to one pixel of the image, which is written once.
template <typename T>
__device__ __forceinline__ void resize_backward(const ResizeBackward& a) {
  const int tiles = (a.width + TILE_WIDTH - 1) / TILE_WIDTH;
  const int x = blockIdx.x % tiles * TILE_WIDTH + threadIdx.x, y = blockIdx.x / tiles * TILE_HEIGHT + threadIdx.y;
  const size_t n = blockIdx.y;
  if (x >= a.width || y >= a.height) return;
  float sum[3] = {0.f, 0.f, 0.f};
#pragma unroll
  for (int v = 0; v < 2; ++v) {
    const View& view = a.views[v];
    if (view.gradient == nullptr) continue;
    float of_view[3] = {0.f, 0.f, 0.f};
    const T* gradient = static_cast<const T*>(view.gradient) + n * view.stride_n +
                        (size_t)view.rows.start[y] * view.stride_y + (size_t)view.columns.start[x] * view.stride_x;
    for (int i = 0; i < view.rows.count; ++i) {
      const float row = view.rows.taps[i * a.height + y];
      for (int j = 0; j < view.columns.count; ++j) {
        const float weight = row * view.columns.taps[j * a.width + x];
        const T* at = gradient + (size_t)i * view.stride_y + (size_t)j * view.stride_x;
#pragma unroll
        for (int c = 0; c < 3; ++c) of_view[c] += weight * widen(at[(size_t)c * view.stride_c]);
      }
    }
#pragma unroll
    for (int c = 0; c < 3; ++c) sum[c] += view.scale[c] * of_view[c];
  }
#pragma unroll
  for (int c = 0; c < 3; ++c) a.image_grad[((n * 3 + c) * a.height + y) * a.width + x] = sum[c];
}

#define KERNELS(suffix, T)                                               \
  KERNEL(resize_forward_##suffix, 2, ResizeForward, (resize_forward<T>)) \
  KERNEL(resize_backward_##suffix, 2, ResizeBackward, (resize_backward<T>))

OF_EVERY_TYPE(KERNELS)
