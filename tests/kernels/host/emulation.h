// Runs CUDA sources on the host, for the tests: a block's threads are fibres of one host thread, which give way at
// barriers and shuffles. Blocks run one after the other. Wrong use of barriers and of shared memory is an error.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#define __global__
#define __device__
#define __shared__
#define __forceinline__ inline

struct dim3 {
  unsigned x, y, z;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;
using std::max;
using std::min;

constexpr size_t SHARED_FLOATS = 48 * 1024 / sizeof(float);  // what every GPU gives without asking
constexpr size_t CANARY_FLOATS = 64;
alignas(16) float shared_memory[SHARED_FLOATS + CANARY_FLOATS];

namespace emulation {

enum State { READY, AT_WARP, AT_BLOCK, DONE };

struct Fibre {
  ucontext_t context;
  State state;
  dim3 index;
};

constexpr size_t STACK = 64 * 1024;
constexpr unsigned WARP = 32;
constexpr float CANARY = 12345.678f;
static std::vector<Fibre> fibres;
static std::vector<char> stacks;
static ucontext_t scheduler;
static unsigned current;
static float exchanged[1024];
static std::function<void()> body;

inline void give_way(State state) {
  const unsigned me = current;
  fibres[me].state = state;
  swapcontext(&fibres[me].context, &scheduler);
}

inline void start() {
  body();
  fibres[current].state = DONE;
}

// Lets waiting threads go on when all that live are there; false when nobody can.
inline bool release(unsigned from, unsigned to, State at) {
  bool any = false;
  for (unsigned i = from; i < to; ++i) {
    if (fibres[i].state != at && fibres[i].state != DONE) return false;
    any = any || fibres[i].state == at;
  }
  for (unsigned i = from; i < to && any; ++i)
    if (fibres[i].state == at) fibres[i].state = READY;
  return any;
}

inline const char* run_block(unsigned threads) {
  for (unsigned i = 0; i < threads; ++i) {
    Fibre& fibre = fibres[i];
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = stacks.data() + i * STACK;
    fibre.context.uc_stack.ss_size = STACK;
    fibre.context.uc_link = &scheduler;
    fibre.state = READY;
    fibre.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    makecontext(&fibre.context, start, 0);
  }
  while (true) {
    unsigned done = 0;
    for (unsigned i = 0; i < threads; ++i) {
      if (fibres[i].state == READY) {
        current = i;
        threadIdx = fibres[i].index;
        swapcontext(&scheduler, &fibres[i].context);
      }
      done += fibres[i].state == DONE;
    }
    if (done == threads) return nullptr;
    bool moved = release(0, threads, AT_BLOCK);
    for (unsigned warp = 0; warp < threads; warp += WARP)
      moved = release(warp, std::min(warp + WARP, threads), AT_WARP) || moved;
    if (!moved) return "threads wait at different barriers";
  }
}

// Runs all blocks; what went wrong, or null. Shared memory starts as NaN, and what lies behind it is watched.
inline const char* launch(const unsigned* shape, unsigned shared_bytes, std::function<void()> kernel) {
  gridDim = {shape[0], shape[1], shape[2]};
  blockDim = {shape[3], shape[4], shape[5]};
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  if (threads == 0 || threads > 1024) return "a block has 1 to 1024 threads";
  if (gridDim.x == 0 || gridDim.y == 0 || gridDim.z == 0) return "the grid is empty";
  if (gridDim.y > 65535 || gridDim.z > 65535) return "the grid is too large";
  if (shared_bytes > SHARED_FLOATS * sizeof(float)) return "more shared memory than every GPU has";
  body = std::move(kernel);
  fibres.resize(threads);
  stacks.resize(threads * STACK);
  const size_t shared = shared_bytes / sizeof(float);
  for (unsigned z = 0; z < gridDim.z; ++z)
    for (unsigned y = 0; y < gridDim.y; ++y)
      for (unsigned x = 0; x < gridDim.x; ++x) {
        blockIdx = {x, y, z};
        std::fill_n(shared_memory, shared, std::numeric_limits<float>::quiet_NaN());
        std::fill_n(shared_memory + shared, CANARY_FLOATS, CANARY);
        if (const char* wrong = run_block(threads)) return wrong;
        for (size_t i = 0; i < CANARY_FLOATS; ++i)
          if (shared_memory[shared + i] != CANARY) return "written behind the shared memory asked for";
      }
  return nullptr;
}

}  // namespace emulation

inline void __syncthreads() { emulation::give_way(emulation::AT_BLOCK); }

inline float shuffle(float value, unsigned from) {
  const unsigned me = emulation::current;
  emulation::exchanged[me] = value;
  emulation::give_way(emulation::AT_WARP);
  const float got = emulation::exchanged[me / emulation::WARP * emulation::WARP + from];
  emulation::give_way(emulation::AT_WARP);
  return got;
}
inline float __shfl_xor_sync(unsigned, float value, int by) {
  return shuffle(value, (emulation::current % emulation::WARP) ^ static_cast<unsigned>(by));
}

#define KERNEL(name, blocks, Arguments, body)                                                                 \
  extern "C" const char* name(const unsigned* shape, unsigned shared_bytes, const void* arguments) {     \
    return emulation::launch(shape, shared_bytes, [=] { body(*static_cast<const Arguments*>(arguments)); }); \
  }                                                                                                     \
  extern "C" size_t size_of_##name() { return sizeof(Arguments); }
