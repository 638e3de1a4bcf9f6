// What follows a modulated convolution, in one pass: demodulation, noise, bias, leaky ReLU, gain, the next layer's
// style, and toRGB with the enlarged image so far. See styled_epilogue.py for the definition.
#include "cuda/common.cuh"

struct EpilogueForward {
  const void* u;               // [N, P, C]
  const float* demodulation;   // [N, C] or null: 1
  const float* noise;          // [P] or null: 0
  const float* bias;           // [C] or null: 0
  const float* next_styles;    // [N, C] or null: 1
  void* z;                     // [N, P, C] or null: not wanted
  unsigned char* signs;        // [N, P, ceil(C / 8)] or null: a bit a channel, set where the activation's slope is 1
  const float* rgb_weight;     // [3, C]
  const float* rgb_styles;     // [N, C]
  const float* rgb_bias;       // [3]
  const float* skip;           // [N, 3, H / 2, W / 2] or null: 0
  float* image;                // [N, 3, P]
  int pixels, width, channels, strip;  // strip: pixels of a block
  int activate;                // 0: no activation and no gain, for toRGB and the style alone
};

// Pixel (y, x) of the image so far, enlarged: zeros between its pixels, then the filter [1, 3, 3, 1] / 4 both ways.
__device__ __forceinline__ float enlarged(const float* plane, int height, int width, int y, int x) {
  const int rows[2] = {y >> 1, (y >> 1) + (y & 1 ? 1 : -1)};
  const int columns[2] = {x >> 1, (x >> 1) + (x & 1 ? 1 : -1)};
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 2; ++j)
      if (rows[i] >= 0 && rows[i] < height && columns[j] >= 0 && columns[j] < width)
        sum += (i ? 0.25f : 0.75f) * (j ? 0.25f : 0.75f) * plane[(size_t)rows[i] * width + columns[j]];
  return sum;
}

// Block (lanes, rows): a pixel's channels are spread over `lanes` neighbours of a warp, a power of two. A thread goes
// through its pixels a few at a time, so that their loads are under way together.
template <typename T, bool WHOLE, bool RGB>
__device__ __forceinline__ void epilogue_forward(const EpilogueForward& a) {
  constexpr int BATCH = RGB ? 2 : 4;
  const int lanes = blockDim.x, rows = blockDim.y, lane = threadIdx.x;
  const int groups = (a.channels + GROUP - 1) / GROUP;
  const size_t n = blockIdx.y;
  const float gain = a.activate ? ACTIVATION_GAIN : 1.f, slope = a.activate ? LEAKY_SLOPE : 1.f;
  const T* u = static_cast<const T*>(a.u) + n * a.pixels * a.channels;
  T* z = a.z == nullptr ? nullptr : static_cast<T*>(a.z) + n * a.pixels * a.channels;
  unsigned char* signs = a.signs == nullptr ? nullptr : a.signs + n * a.pixels * groups;
  const int end = min(a.pixels, static_cast<int>(blockIdx.x + 1) * a.strip);

  float scale[GROUP], bias[GROUP], next[GROUP], weight[3][GROUP];
  bool loaded = false;
  // All threads of a warp stay in the loop together: they share sums.
  for (int base = blockIdx.x * a.strip; base < end; base += rows * BATCH) {
    const int first = base + threadIdx.y;
    float rgb[BATCH][3];
#pragma unroll
    for (int k = 0; k < BATCH; ++k) rgb[k][0] = rgb[k][1] = rgb[k][2] = 0.f;

    for (int group = lane; group < groups; group += lanes) {
      const int c = group * GROUP, count = a.channels - c;
      Eight<T> raw[BATCH];
      float noise[BATCH];
#pragma unroll
      for (int k = 0; k < BATCH; ++k) {
        const int p = first + k * rows;
        raw[k] = p < end ? load<WHOLE>(u + (p * a.channels + c), count) : zeros<T>();
        noise[k] = a.noise != nullptr && p < end ? gain * a.noise[p] : 0.f;
      }
      // A thread with one group of channels keeps its constants.
      if (!loaded || groups > lanes) {
        loaded = true;
        // Leaky ReLU is homogeneous, so the gain goes into the constants.
        constants<WHOLE>(scale, offset(a.demodulation, n * a.channels + c), count, gain);
        constants<WHOLE>(bias, offset(a.bias, c), count, a.bias == nullptr ? 0.f : gain);
        constants<WHOLE>(next, offset(a.next_styles, n * a.channels + c), count, 1.f);
        if (RGB) {
          float style[GROUP];
          constants<WHOLE>(style, a.rgb_styles + n * a.channels + c, count, 1.f);
#pragma unroll
          for (int j = 0; j < 3; ++j) {
            constants<WHOLE>(weight[j], a.rgb_weight + (size_t)j * a.channels + c, count, 1.f);
#pragma unroll
            for (int i = 0; i < GROUP; ++i) weight[j][i] *= style[i];
          }
        }
      }
#pragma unroll
      for (int k = 0; k < BATCH; ++k) {
        const int p = first + k * rows;
        unsigned bits = 0;
        Eight<T> out;
#pragma unroll
        for (int i = 0; i < GROUP; ++i) {
          const float v = widen(raw[k].at[i]) * scale[i] + (noise[k] + bias[i]);
          bits |= v > 0.f ? 1u << i : 0u;
          const float y = v > 0.f ? v : slope * v;
          if (RGB) {
#pragma unroll
            for (int j = 0; j < 3; ++j) rgb[k][j] += weight[j][i] * y;
          }
          out.at[i] = narrow<T>(y * next[i]);
        }
        if (p < end) {
          if (signs != nullptr) signs[p * groups + group] = static_cast<unsigned char>(bits);
          if (z != nullptr) store<WHOLE>(z + (p * a.channels + c), out, count);
        }
      }
    }

    if (RGB) {
      constexpr int VALUES = BATCH * 3;
#pragma unroll
      for (int i = 0; i < VALUES; ++i)
        for (int by = lanes / 2; by > 0; by /= 2)
          rgb[i / 3][i % 3] += __shfl_xor_sync(FULL_WARP, rgb[i / 3][i % 3], by);
      // Every lane of a pixel has its sums now; they are shared out, so that few rounds go by with idle lanes.
      for (int value = lane; value < VALUES; value += lanes) {
        float sum = rgb[0][0];
#pragma unroll
        for (int i = 1; i < VALUES; ++i) sum = value == i ? rgb[i / 3][i % 3] : sum;
        const int p = first + value / 3 * rows, j = value % 3;
        if (p >= end) continue;
        const size_t plane = n * 3 + j;
        if (a.skip != nullptr) {
          const int y = static_cast<unsigned>(p) / a.width, height = a.pixels / a.width;
          sum += enlarged(a.skip + plane * (a.pixels / 4), height / 2, a.width / 2, y, p - y * a.width);
        }
        a.image[plane * a.pixels + p] = sum + a.rgb_bias[j];
      }
    }
  }
}

struct EpilogueBackward {
  const void* u;               // [N, P, C], where sums are wanted
  const unsigned char* signs;  // as the forward wrote them; null: those of u, or no activation
  const float* demodulation;   // these as in the forward
  const float* noise;
  const float* bias;
  const float* next_styles;
  const void* z_grad;          // [N, P, C] or null: 0
  const float* rgb_weight;
  const float* rgb_styles;
  const float* image_grad;     // [N, 3, P]
  void* u_grad;                // [N, P, C] or null: not wanted
  float* demodulation_sums;    // [N, strips, C] or null: not wanted; the caller adds up the strips
  float* next_sums;
  float* rgb_sums;
  int pixels, channels, strip;  // strip: pixels of a block
  int activate;
};

// Adds up over the block's rows and writes one row of [strips, C].
__device__ __forceinline__ void reduce_rows(const float (&sums)[GROUP], float* out, int channels) {
  const int lanes = blockDim.x, rows = blockDim.y;
  const int thread = threadIdx.y * lanes + threadIdx.x;
  __syncthreads();  // the array may still be read for the sums before these
#pragma unroll
  for (int i = 0; i < GROUP; ++i) shared_memory[thread * GROUP + i] = sums[i];
  __syncthreads();
  const int c = blockIdx.y * lanes * GROUP + thread;
  if (thread < lanes * GROUP && c < channels) {
    float sum = 0.f;
    for (int row = 0; row < rows; ++row) sum += shared_memory[row * lanes * GROUP + thread];
    out[c] = sum;
  }
}

// Block (lanes, rows) as in the forward, but a block has its own `lanes` groups of channels (blockIdx.y), so that their
// constants and sums stay in registers while the thread goes through its pixels.
template <typename T, bool WHOLE, bool RGB, bool SUMS>
__device__ __forceinline__ void epilogue_backward(const EpilogueBackward& a) {
  constexpr int BATCH = !SUMS ? 4 : RGB ? 1 : 2;  // fewer at a time where many sums take the registers
  const int lanes = blockDim.x, rows = blockDim.y;
  const size_t n = blockIdx.z;
  const int groups = (a.channels + GROUP - 1) / GROUP;
  const int group = blockIdx.y * lanes + threadIdx.x;
  const int c = group * GROUP, count = a.channels - c;
  const int end = min(a.pixels, static_cast<int>(blockIdx.x + 1) * a.strip);
  const float gain = a.activate ? ACTIVATION_GAIN : 1.f, slope = a.activate ? LEAKY_SLOPE : 1.f;
  const size_t image = n * a.pixels * a.channels;
  const T* u = static_cast<const T*>(a.u) + image;
  const unsigned char* signs = a.signs == nullptr ? nullptr : a.signs + n * a.pixels * groups;
  const T* z_grad = a.z_grad == nullptr ? nullptr : static_cast<const T*>(a.z_grad) + image;
  T* u_grad = a.u_grad == nullptr ? nullptr : static_cast<T*>(a.u_grad) + image;

  float of_demodulation[GROUP], of_next[GROUP], of_rgb[GROUP];
#pragma unroll
  for (int i = 0; i < GROUP; ++i) of_demodulation[i] = of_next[i] = of_rgb[i] = 0.f;

  if (group < groups) {
    float scale[GROUP], bias[GROUP], next[GROUP], style[GROUP], weight[3][GROUP];
    constants<WHOLE>(scale, offset(a.demodulation, n * a.channels + c), count, gain);
    constants<WHOLE>(next, offset(a.next_styles, n * a.channels + c), count, 1.f);
    if (SUMS) constants<WHOLE>(bias, offset(a.bias, c), count, a.bias == nullptr ? 0.f : gain);
    if (RGB) {
      constants<WHOLE>(style, a.rgb_styles + n * a.channels + c, count, 1.f);
#pragma unroll
      for (int j = 0; j < 3; ++j)
        constants<WHOLE>(weight[j], a.rgb_weight + (size_t)j * a.channels + c, count, 1.f);
    }
    for (int start = blockIdx.x * a.strip + threadIdx.y; start < end; start += rows * BATCH) {
      Eight<T> raw[BATCH], gradient[BATCH];
      unsigned bits[BATCH];
      float noise[BATCH], of_image[BATCH][3];
#pragma unroll
      for (int k = 0; k < BATCH; ++k) {
        const int p = start + k * rows;
        const bool inside = p < end;
        const int at = p * a.channels + c;
        gradient[k] = inside && z_grad != nullptr ? load<WHOLE>(z_grad + at, count) : zeros<T>();
        if (SUMS) {
          raw[k] = inside ? load<WHOLE>(u + at, count) : zeros<T>();
          noise[k] = inside && a.noise != nullptr ? gain * a.noise[p] : 0.f;
        }
        bits[k] = inside && signs != nullptr ? signs[p * groups + group] : 0u;
        if (RGB) {
#pragma unroll
          for (int j = 0; j < 3; ++j) of_image[k][j] = inside ? a.image_grad[(n * 3 + j) * a.pixels + p] : 0.f;
        }
      }
#pragma unroll
      for (int k = 0; k < BATCH; ++k) {
        const int p = start + k * rows;
        Eight<T> out;
#pragma unroll
        for (int i = 0; i < GROUP; ++i) {
          const float of_z = widen(gradient[k].at[i]);
          float of_y = of_z * next[i], colour = 0.f;
          if (RGB) {
            colour = weight[0][i] * of_image[k][0] + weight[1][i] * of_image[k][1] + weight[2][i] * of_image[k][2];
            of_y += style[i] * colour;
          }
          bool positive = bits[k] >> i & 1u;
          if (SUMS) {
            const float value = widen(raw[k].at[i]), v = value * scale[i] + (noise[k] + bias[i]);
            positive = signs == nullptr ? v > 0.f : positive;
            const float y = positive ? v : slope * v;
            of_next[i] += of_z * y;
            if (RGB) of_rgb[i] += colour * y;
            of_demodulation[i] += (positive ? of_y : slope * of_y) * gain * value;
          }
          out.at[i] = narrow<T>((positive ? of_y : slope * of_y) * scale[i]);
        }
        if (p < end && u_grad != nullptr) store<WHOLE>(u_grad + (p * a.channels + c), out, count);
      }
    }
  }

  if (SUMS) {
    const size_t row = (n * gridDim.x + blockIdx.x) * a.channels;
    if (a.demodulation_sums != nullptr) reduce_rows(of_demodulation, a.demodulation_sums + row, a.channels);
    if (a.next_sums != nullptr) reduce_rows(of_next, a.next_sums + row, a.channels);
    if (RGB && a.rgb_sums != nullptr) reduce_rows(of_rgb, a.rgb_sums + row, a.channels);
  }
}

// The gradient of the enlarged skip: [N, 3, H, W] -> [N, 3, H / 2, W / 2].
struct SkipBackward {
  const float* image_grad;
  float* skip_grad;
  int height, width;  // of the smaller image
};

__device__ __forceinline__ void skip_backward_body(const SkipBackward& a) {
  const size_t plane = blockIdx.y;
  const int p = blockIdx.x * THREADS + threadIdx.x;
  if (p >= a.height * a.width) return;
  const int y = p / a.width, x = p % a.width;
  const float* from = a.image_grad + plane * 4 * a.height * a.width;
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = 2 * y - 1 + i, column = 2 * x - 1 + j;
      if (row >= 0 && row < 2 * a.height && column >= 0 && column < 2 * a.width)
        sum += (i % 3 ? 0.75f : 0.25f) * (j % 3 ? 0.75f : 0.25f) * from[(size_t)row * 2 * a.width + column];
    }
  a.skip_grad[plane * a.height * a.width + p] = sum;
}

KERNEL(skip_backward, 2, SkipBackward, skip_backward_body)

#define KERNELS(suffix, T, WHOLE)                                                                          \
  KERNEL(epilogue_forward_##suffix, 2, EpilogueForward, (epilogue_forward<T, WHOLE, false>))               \
  KERNEL(epilogue_forward_rgb_##suffix, 2, EpilogueForward, (epilogue_forward<T, WHOLE, true>))            \
  KERNEL(epilogue_backward_##suffix, 2, EpilogueBackward, (epilogue_backward<T, WHOLE, false, false>))     \
  KERNEL(epilogue_backward_rgb_##suffix, 2, EpilogueBackward, (epilogue_backward<T, WHOLE, true, false>))  \
  KERNEL(epilogue_backward_sums_##suffix, 2, EpilogueBackward, (epilogue_backward<T, WHOLE, false, true>)) \
  KERNEL(epilogue_backward_rgb_sums_##suffix, 1, EpilogueBackward, (epilogue_backward<T, WHOLE, true, true>))

OF_EVERY_LAYOUT(KERNELS)
