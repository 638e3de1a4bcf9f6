// The 4x4 filter that follows a transposed convolution, with what follows the filter in the same pass, and its
// gradient with the activation's on the way in. Separable: a thread filters along a row, keeps the last three results
// and combines them down its column, so that each row is read once. See up_epilogue.py for the definition.
#include "cuda/common.cuh"

constexpr int TAPS = 4;

__device__ __forceinline__ float tap(int i) { return i == 0 || i == TAPS - 1 ? 0.25f : 0.75f; }  // gain 2 an axis

// Where a thread is: one column, one group of channels, a strip of rows. Block (lanes, columns).
struct Place {
  int x, first_row, end_row, group, channel, count;
  bool inside;
};

__device__ __forceinline__ Place place(int height, int width, int channels, int strip) {
  const int tiles = (width + blockDim.y - 1) / blockDim.y;
  Place at;
  at.x = blockIdx.x % tiles * blockDim.y + threadIdx.y;
  at.group = blockIdx.x / tiles * blockDim.x + threadIdx.x;
  at.channel = at.group * GROUP;
  at.count = channels - at.channel;
  at.first_row = blockIdx.y * strip;
  at.end_row = min(height, at.first_row + strip);
  at.inside = at.x < width && at.count > 0;
  return at;
}

// One row's four pixels around an output column, `PAD` before it; zeros outside. The signs, where there are any,
// are those of the same pixels and make it the activation's gradient.
template <typename T, bool WHOLE, int PAD>
struct Row {
  // In words of 32 bits: kept over a round of the loop as values of 16, each would take a register.
  struct alignas(16) Packed {
    unsigned words[GROUP * sizeof(T) / sizeof(unsigned)];
  };
  Packed at[TAPS];
  unsigned bits[TAPS];

  __device__ __forceinline__ void read(const T* input, const unsigned char* signs, int height, int width, int channels,
                                       int groups, const Place& to, int y) {
    const int row = y - PAD, first = row * width + to.x - PAD;
#pragma unroll
    for (int i = 0; i < TAPS; ++i) {
      const int column = to.x - PAD + i;
      const bool exists = row >= 0 && row < height && column >= 0 && column < width;
      const T* from = input + ((first + i) * channels + to.channel);
      if constexpr (WHOLE) {
        at[i] = exists ? *reinterpret_cast<const Packed*>(from) : Packed{};
      } else {
        const Eight<T> x = exists ? load<WHOLE>(from, to.count) : zeros<T>();
        memcpy(&at[i], &x, sizeof x);
      }
      bits[i] = exists && signs != nullptr ? signs[(first + i) * groups + to.group] : 0xffu;
    }
  }

  __device__ __forceinline__ void filter(float (&out)[GROUP]) const {
#pragma unroll
    for (int c = 0; c < GROUP; ++c) out[c] = 0.f;
#pragma unroll
    for (int i = 0; i < TAPS; ++i) {
      Eight<T> x;
      memcpy(&x, &at[i], sizeof x);
#pragma unroll
      for (int c = 0; c < GROUP; ++c)
        out[c] += (bits[i] >> c & 1u ? tap(i) : tap(i) * LEAKY_SLOPE) * widen(x.at[c]);
    }
  }
};

// Filters [input_height, input_width] with PAD zeros before; calls `write(y, filtered)` for every output row.
template <typename T, bool WHOLE, int PAD, typename Write>
__device__ __forceinline__ void filter_column(const T* input, const unsigned char* signs, int height, int width,
                                              int channels, int groups, const Place& at, Write write) {
  // Wide values leave no registers for a row on its way while another is finished.
  constexpr bool AHEAD = WHOLE && sizeof(T) < sizeof(float);
  float above[3][GROUP] = {};
  Row<T, WHOLE, PAD> row;
  // The first three rounds only fill `above`: read at once beforehand, those rows would take all registers.
  if (AHEAD) row.read(input, signs, height, width, channels, groups, at, at.first_row);
  for (int y = at.first_row - 3; y < at.end_row; ++y) {
    float last[GROUP], sum[GROUP];
    if (!AHEAD) row.read(input, signs, height, width, channels, groups, at, y + 3);
    row.filter(last);
    if (AHEAD && y + 1 < at.end_row) row.read(input, signs, height, width, channels, groups, at, y + 4);
#pragma unroll
    for (int c = 0; c < GROUP; ++c) {
      sum[c] = tap(0) * (above[0][c] + last[c]) + tap(1) * (above[1][c] + above[2][c]);
      above[0][c] = above[1][c];
      above[1][c] = above[2][c];
      above[2][c] = last[c];
    }
    if (y >= at.first_row) write(y, sum);
  }
}

struct UpForward {
  const void* u;              // [N, H + 1, W + 1, C]
  const float* demodulation;  // [N, C]
  const float* noise;         // [H, W] or null: 0
  const float* bias;          // [C] or null: 0
  const float* next_styles;   // [N, C] or null: 1
  void* z;                    // [N, H, W, C]
  unsigned char* signs;       // [N, H, W, ceil(C / 8)] or null
  void* filtered;             // [N, H, W, C] or null: what the sums of the gradient need
  int height, width, channels, strip;
};

template <typename T, bool WHOLE>
__device__ __forceinline__ void up_forward(const UpForward& a) {
  const Place at = place(a.height, a.width, a.channels, a.strip);
  if (!at.inside) return;
  const size_t n = blockIdx.z;
  const int groups = (a.channels + GROUP - 1) / GROUP;
  const T* u = static_cast<const T*>(a.u) + n * (a.height + 1) * (a.width + 1) * a.channels;
  float scale[GROUP], bias[GROUP], next[GROUP];
  constants<WHOLE>(scale, offset(a.demodulation, n * a.channels + at.channel), at.count, ACTIVATION_GAIN);
  constants<WHOLE>(bias, offset(a.bias, at.channel), at.count, a.bias == nullptr ? 0.f : ACTIVATION_GAIN);
  constants<WHOLE>(next, offset(a.next_styles, n * a.channels + at.channel), at.count, 1.f);

  filter_column<T, WHOLE, 1>(u, nullptr, a.height + 1, a.width + 1, a.channels, groups, at,
                      [&](int y, const float(&sum)[GROUP]) {
                        const int p = y * a.width + at.x;
                        const size_t pixel = n * a.height * a.width + p;
                        const float noise = a.noise == nullptr ? 0.f : ACTIVATION_GAIN * a.noise[p];
                        Eight<T> raw, out;
                        unsigned bits = 0;
#pragma unroll
                        for (int c = 0; c < GROUP; ++c) {
                          raw.at[c] = narrow<T>(sum[c]);
                          const float v = sum[c] * scale[c] + (noise + bias[c]);
                          bits |= v > 0.f ? 1u << c : 0u;
                          out.at[c] = narrow<T>((v > 0.f ? v : LEAKY_SLOPE * v) * next[c]);
                        }
                        const size_t value = pixel * a.channels + at.channel;
                        store<WHOLE>(static_cast<T*>(a.z) + value, out, at.count);
                        if (a.filtered != nullptr) store<WHOLE>(static_cast<T*>(a.filtered) + value, raw, at.count);
                        if (a.signs != nullptr) a.signs[pixel * groups + at.group] = static_cast<unsigned char>(bits);
                      });
}

struct UpBackward {
  const void* gradient;        // [N, H - 1, W - 1, C]
  const unsigned char* signs;  // of the same pixels, or null: the gradient is that of the filtered values already
  const float* demodulation;   // [N, C] or null: 1; these two and the gain are applied only with signs
  const float* next_styles;
  void* u_grad;                // [N, H, W, C]
  int height, width, channels, strip;
};

template <typename T, bool WHOLE>
__device__ __forceinline__ void up_backward(const UpBackward& a) {
  const Place at = place(a.height, a.width, a.channels, a.strip);
  if (!at.inside) return;
  const size_t n = blockIdx.z, pixels = (size_t)(a.height - 1) * (a.width - 1);
  const int groups = (a.channels + GROUP - 1) / GROUP;
  const T* gradient = static_cast<const T*>(a.gradient) + n * pixels * a.channels;
  const unsigned char* signs = a.signs == nullptr ? nullptr : a.signs + n * pixels * groups;
  float scale[GROUP], next[GROUP];
  constants<WHOLE>(scale, offset(a.demodulation, n * a.channels + at.channel), at.count, 1.f);
  constants<WHOLE>(next, offset(a.next_styles, n * a.channels + at.channel), at.count, 1.f);
#pragma unroll
  for (int c = 0; c < GROUP; ++c) scale[c] = a.signs == nullptr ? 1.f : ACTIVATION_GAIN * scale[c] * next[c];

  filter_column<T, WHOLE, 2>(gradient, signs, a.height - 1, a.width - 1, a.channels, groups, at,
                      [&](int y, const float(&sum)[GROUP]) {
                        Eight<T> out;
#pragma unroll
                        for (int c = 0; c < GROUP; ++c) out.at[c] = narrow<T>(sum[c] * scale[c]);
                        const size_t pixel = (n * a.height + y) * a.width + at.x;
                        T* u_grad = static_cast<T*>(a.u_grad) + pixel * a.channels + at.channel;
                        store<WHOLE>(u_grad, out, at.count);
                      });
}

#define KERNELS(suffix, T, WHOLE)                                   \
  KERNEL(up_forward_##suffix, 2, UpForward, (up_forward<T, WHOLE>)) \
  KERNEL(up_backward_##suffix, 2, UpBackward, (up_backward<T, WHOLE>))

OF_EVERY_LAYOUT(KERNELS)
