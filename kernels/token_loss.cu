// The attribute loss: mean absolute difference over a token's values, summed over the tokens, and its gradient.
// See token_loss.py for the definition.
#include "cuda/common.cuh"

constexpr int BATCH = 4;  // groups of eight that a thread reads before it uses the first

struct TokenForward {
  const void* tokens;      // [N, V], V values an image
  const float* reference;  // [N, V]
  float* partial;          // [N, blocks]: the caller adds them up
  int values;
};

template <typename T, bool WHOLE>
__device__ __forceinline__ void token_forward(const TokenForward& a) {
  const size_t n = blockIdx.y;
  const T* tokens = static_cast<const T*>(a.tokens) + n * a.values;
  const float* reference = a.reference + n * a.values;
  float sum = 0.f;
  const int first = (blockIdx.x * BATCH * THREADS + threadIdx.x) * GROUP;
  Eight<T> x[BATCH];
  Eight<float> y[BATCH];
#pragma unroll
  for (int k = 0; k < BATCH; ++k) {
    const int at = first + k * THREADS * GROUP;
    x[k] = at < a.values ? load<WHOLE>(tokens + at, a.values - at) : zeros<T>();
    y[k] = at < a.values ? load<WHOLE>(reference + at, a.values - at) : zeros<float>();
  }
#pragma unroll
  for (int k = 0; k < BATCH; ++k)
#pragma unroll
    for (int i = 0; i < GROUP; ++i) sum += fabsf(widen(x[k].at[i]) - y[k].at[i]);

  for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(FULL_WARP, sum, by);
  if (threadIdx.x % 32 == 0) shared_memory[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    float total = 0.f;
    for (int warp = 0; warp < THREADS / 32; ++warp) total += shared_memory[warp];
    a.partial[n * gridDim.x + blockIdx.x] = total;
  }
}

struct TokenBackward {
  const void* tokens;
  const float* reference;
  const float* loss_grad;  // [N]
  void* tokens_grad;       // [N, V]
  float factor;            // 1 / values of a token
  int values;
};

template <typename T, bool WHOLE>
__device__ __forceinline__ void token_backward(const TokenBackward& a) {
  const size_t n = blockIdx.y;
  const T* tokens = static_cast<const T*>(a.tokens) + n * a.values;
  const float* reference = a.reference + n * a.values;
  const float slope = a.factor * a.loss_grad[n];
  const int first = (blockIdx.x * BATCH * THREADS + threadIdx.x) * GROUP;
#pragma unroll
  for (int k = 0; k < BATCH; ++k) {
    const int at = first + k * THREADS * GROUP;
    if (at >= a.values) return;
    const int count = a.values - at;
    const Eight<T> x = load<WHOLE>(tokens + at, count);
    const Eight<float> y = load<WHOLE>(reference + at, count);
    Eight<T> out;
#pragma unroll
    for (int i = 0; i < GROUP; ++i) {
      const float difference = widen(x.at[i]) - y.at[i];
      out.at[i] = narrow<T>(difference > 0.f ? slope : difference < 0.f ? -slope : 0.f * difference);
    }
    store<WHOLE>(static_cast<T*>(a.tokens_grad) + n * a.values + at, out, count);
  }
}

#define KERNELS(suffix, T, WHOLE)                                            \
  KERNEL(token_forward_##suffix, 2, TokenForward, (token_forward<T, WHOLE>)) \
  KERNEL(token_backward_##suffix, 2, TokenBackward, (token_backward<T, WHOLE>))

OF_EVERY_LAYOUT(KERNELS)
