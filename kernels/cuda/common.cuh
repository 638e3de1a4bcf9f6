// What every kernel here shares. Activations are channels-last, [N, P, C] with C contiguous, and a thread handles
// eight neighbouring channels of a pixel: 16 bytes of fp16 or bf16, 32 of fp32. Arithmetic is float32 throughout;
// a value is rounded once, when it is stored.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

constexpr int THREADS = 256;
constexpr int GROUP = 8;  // channels of a thread
constexpr float LEAKY_SLOPE = 0.2f;
constexpr float ACTIVATION_GAIN = 1.4142135623730951f;
constexpr unsigned FULL_WARP = 0xffffffffu;

// A kernel takes one struct, so that the caller packs its arguments in one place. `blocks` of it fit a multiprocessor,
// which sets how many registers a thread may take. The tests' host build defines its own.
#ifndef KERNEL
#define KERNEL(name, blocks, Arguments, body) \
  extern "C" __global__ void __launch_bounds__(THREADS, blocks) name(const Arguments arguments) { body(arguments); }
#endif

// KERNELs of every type, and of every type in both layouts; what they are named and made of is OF(suffix, type[, whole]).
#define OF_EVERY_TYPE(OF) OF(f32, float) OF(f16, __half) OF(bf16, __nv_bfloat16)
#define OF_EVERY_LAYOUT(OF)                        \
  OF(f32, float, true) OF(f32_any, float, false)   \
  OF(f16, __half, true) OF(f16_any, __half, false) \
  OF(bf16, __nv_bfloat16, true) OF(bf16_any, __nv_bfloat16, false)

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T narrow(float x);
template <>
__device__ __forceinline__ float narrow<float>(float x) { return x; }
template <>
__device__ __forceinline__ __half narrow<__half>(float x) { return __float2half(x); }
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float x) { return __float2bfloat16(x); }

// Eight neighbouring values; aligned, so that loads and stores are of 16 bytes.
template <typename T>
struct alignas(16) Eight {
  T at[GROUP];
};

template <typename T>
__device__ __forceinline__ Eight<T> zeros() {
  Eight<T> x;
#pragma unroll
  for (int i = 0; i < GROUP; ++i) x.at[i] = narrow<T>(0.f);
  return x;
}

// WHOLE: every row of channels starts at a multiple of 16 bytes and holds a multiple of eight values. Otherwise the
// `count` values that exist are read one by one and the others are zero. Kernels for that end in `_any`.
template <bool WHOLE, typename T>
__device__ __forceinline__ Eight<T> load(const T* p, int count) {
  if constexpr (WHOLE) {
    return *reinterpret_cast<const Eight<T>*>(p);
  } else {
    Eight<T> x = zeros<T>();
#pragma unroll
    for (int i = 0; i < GROUP; ++i)
      if (i < count) x.at[i] = p[i];
    return x;
  }
}

template <bool WHOLE, typename T>
__device__ __forceinline__ void store(T* p, const Eight<T>& x, int count) {
  if constexpr (WHOLE) {
    *reinterpret_cast<Eight<T>*>(p) = x;
  } else {
#pragma unroll
    for (int i = 0; i < GROUP; ++i)
      if (i < count) p[i] = x.at[i];
  }
}

// Eight per-channel constants times `factor`; where there is no array, `factor` itself.
template <bool WHOLE>
__device__ __forceinline__ void constants(float (&out)[GROUP], const float* p, int count, float factor) {
  if (p == nullptr) {
#pragma unroll
    for (int i = 0; i < GROUP; ++i) out[i] = factor;
    return;
  }
  const Eight<float> x = load<WHOLE>(p, count);
#pragma unroll
  for (int i = 0; i < GROUP; ++i) out[i] = x.at[i] * factor;
}

__device__ __forceinline__ const float* offset(const float* p, size_t by) { return p == nullptr ? p : p + by; }

// The one array of shared memory; its size is given at launch.
extern __shared__ float shared_memory[];
