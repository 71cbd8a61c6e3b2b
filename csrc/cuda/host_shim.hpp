// SPDX-License-Identifier: Apache-2.0
//
// As much of CUDA as range_coder.cu uses, on a CPU: for tests on machines without a GPU, under sanitizers. C++20.
//
// A launch runs its blocks one after another. The threads of a block are fibers that change places where they wait for
// each other: at __syncthreads, and at every operation of a warp. With NEUROCODEC_SHIM_THREADS they are threads and wait
// at std::barrier, for the thread sanitizer; that is a hundred times slower.
//
// It is stricter than a GPU: all 32 lanes must take part in an operation of their warp, and in the same one, or the
// program ends. Device memory is the heap's; shared memory beyond what a launch asked for is poisoned under the address
// sanitizer. Streams have no meaning: a call returns when its work is done.

#ifndef NEUROCODEC_CUDA_HOST_SHIM_HPP
#define NEUROCODEC_CUDA_HOST_SHIM_HPP

#include <barrier>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(NEUROCODEC_SHIM_THREADS)
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __shared__
#define __launch_bounds__(threads)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

namespace neurocodec::cuda {

inline constexpr size_t kSharedBytes = 99 << 10;                // what a block may ask for on common GPUs
inline uint4 shared_memory[kSharedBytes / sizeof(uint4)];  // `extern __shared__` refers to it

inline dim3 blockIdx, blockDim, gridDim;  // of the launch in progress: one at a time
#define threadIdx (::neurocodec::cuda::shim::current->index)

namespace shim {

[[noreturn]] inline void fail(const char* reason) {
  std::fprintf(stderr, "host_shim: %s\n", reason);
  std::abort();
}

class Block;

// What waits for `count` threads of a block.
class Barrier {
 public:
  explicit Barrier(unsigned count) : count_(count), barrier_(static_cast<std::ptrdiff_t>(count)) {}
  inline void wait(Block& block);

 private:
  const unsigned count_;
  std::barrier<> barrier_;
  unsigned arrived_ = 0;
  uint64_t generation_ = 0;
};

// The exchange of values between the lanes of a warp. Two sets of places: a lane that runs ahead writes the other one.
struct Warp {
  Barrier barrier{32};
  struct Place {
    uint64_t value;
    const char* operation;
  } places[2][32] = {};
};

struct Thread {
  dim3 index;
  Warp* warp = nullptr;
  Block* block = nullptr;
  unsigned turn = 0;  // operations of the warp so far
  bool done = false;
#if !defined(NEUROCODEC_SHIM_THREADS)
  ucontext_t context;
  uint8_t* stack = nullptr;
#endif
};

inline thread_local Thread* current = nullptr;

class Block {
 public:
  explicit Block(unsigned size) : barrier(size), threads_(size), warps_(size / 32) {
    if (size % 32 != 0) fail("the block is no multiple of a warp");
    for (unsigned t = 0; t < size; ++t) {
      threads_[t].index = dim3(t);
      threads_[t].warp = &warps_[t / 32];
      threads_[t].block = this;
    }
  }

  Barrier barrier;  // __syncthreads

#if defined(NEUROCODEC_SHIM_THREADS)
  void run(const std::function<void()>& kernel) {
    std::vector<std::thread> all;
    for (Thread& thread : threads_) {
      all.emplace_back([&] {
        current = &thread;
        kernel();
      });
    }
    for (std::thread& thread : all) thread.join();
  }
#else
  void run(const std::function<void()>& kernel) {
    kernel_ = &kernel;
    static std::vector<std::unique_ptr<uint8_t[]>> stacks;  // kept for the next block
    while (stacks.size() < threads_.size()) stacks.emplace_back(new uint8_t[kStack]);
    for (Thread& thread : threads_) {
      thread.stack = stacks[thread.index.x].get();
      getcontext(&thread.context);
      thread.context.uc_stack.ss_sp = thread.stack;
      thread.context.uc_stack.ss_size = kStack;
      thread.context.uc_link = nullptr;
      makecontext(&thread.context, &Block::enter, 0);
    }
    left_ = static_cast<unsigned>(threads_.size());
    go_to(threads_.front());
    current = nullptr;
  }

  // Lets the next thread run that is not done. Called by a thread of the block.
  void yield() {
    Thread& self = *current;
    unsigned t = self.index.x;
    do {
      t = t + 1 == threads_.size() ? 0 : t + 1;
    } while (threads_[t].done);
    if (++idle_ > 4 * threads_.size()) fail("threads wait for others that never come: lanes of a warp have parted");
    if (&threads_[t] != &self) go_to(threads_[t]);
  }

  void progress() { idle_ = 0; }
#endif

 private:
#if !defined(NEUROCODEC_SHIM_THREADS)
  static constexpr size_t kStack = 64 << 10;

  static void enter() {
    Thread& self = *current;
    Block& block = *self.block;
    block.arrived(nullptr);
    (*block.kernel_)();
    self.done = true;
    block.progress();
    if (--block.left_ == 0) {
      block.leave(block.main_);
    } else {
      unsigned t = self.index.x;
      while (block.threads_[t].done) t = t + 1 == block.threads_.size() ? 0 : t + 1;
      current = &block.threads_[t];
      block.leave(current->context);
    }
  }

  // Goes on in another thread, and returns when someone comes back to this one, or, called by run, when all are done.
  void go_to(Thread& next) {
    Thread* const self = current;
    current = &next;
    ucontext_t& here = self == nullptr ? main_ : self->context;
    void* fake = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fake, next.stack, kStack);
#endif
    swapcontext(&here, &next.context);
    arrived(fake);
  }

  // Goes on elsewhere for good.
  void leave(ucontext_t& next) {
#if defined(__SANITIZE_ADDRESS__)
    const bool main = &next == &main_;
    __sanitizer_start_switch_fiber(nullptr, main ? main_stack_ : current->stack, main ? main_size_ : kStack);
#endif
    setcontext(&next);
  }

  void arrived([[maybe_unused]] void* fake) {
#if defined(__SANITIZE_ADDRESS__)
    const void* from = nullptr;
    size_t size = 0;
    __sanitizer_finish_switch_fiber(fake, &from, &size);
    if (main_stack_ == nullptr) main_stack_ = from, main_size_ = size;  // the first switch comes from `run`
#endif
  }

  ucontext_t main_;
  const void* main_stack_ = nullptr;
  size_t main_size_ = 0;
  const std::function<void()>* kernel_ = nullptr;
  unsigned left_ = 0;
  size_t idle_ = 0;
#endif
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
};

inline void Barrier::wait([[maybe_unused]] Block& block) {
#if defined(NEUROCODEC_SHIM_THREADS)
  barrier_.arrive_and_wait();
#else
  const uint64_t generation = generation_;
  if (++arrived_ == count_) {
    arrived_ = 0;
    ++generation_;
    block.progress();
    return;
  }
  while (generation_ == generation) block.yield();
#endif
}

// Every lane gives a value and sees those of all 32.
inline const Warp::Place* exchange(uint64_t value, const char* operation) {
  Thread& thread = *current;
  Warp::Place* const places = thread.warp->places[thread.turn++ % 2];
  places[thread.index.x % 32] = {value, operation};
  thread.warp->barrier.wait(*thread.block);
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (std::strcmp(places[lane].operation, operation) != 0) fail("lanes of a warp meet at different operations");
  }
  return places;
}

}  // namespace shim

inline void check_mask(uint32_t mask) {
  if (mask != 0xffffffff) shim::fail("a mask leaves lanes out");
}

inline void __syncthreads() { shim::current->block->barrier.wait(*shim::current->block); }

inline void __syncwarp() { shim::exchange(0, "syncwarp"); }

inline uint32_t __ballot_sync(uint32_t mask, bool predicate) {
  check_mask(mask);
  const shim::Warp::Place* const places = shim::exchange(predicate, "ballot");
  uint32_t result = 0;
  for (unsigned lane = 0; lane < 32; ++lane) result |= static_cast<uint32_t>(places[lane].value) << lane;
  return result;
}

inline uint32_t __shfl_sync(uint32_t mask, uint32_t value, uint32_t from) {
  check_mask(mask);
  return static_cast<uint32_t>(shim::exchange(value, "shuffle")[from % 32].value);
}

inline int __popc(uint32_t bits) { return std::popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return std::countl_zero(static_cast<uint32_t>(bits)); }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) { return multiply_high(a, b); }
inline uint32_t atomicXor(uint32_t* to, uint32_t bits) { return __atomic_fetch_xor(to, bits, __ATOMIC_RELAXED); }

// ------------------------------------------------------------------------------------------------------- the runtime

enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation, cudaErrorInvalidValue };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxThreadsPerBlock
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : error == cudaSuccess ? "no error" : "invalid argument";
}

inline cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t) {
  *memory = std::malloc(bytes);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

inline cudaError_t cudaFreeAsync(void* memory, cudaStream_t) {
  std::free(memory);
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int) {
  *value = name == cudaDevAttrMultiProcessorCount  ? 2
           : name == cudaDevAttrMaxThreadsPerBlock ? 64
                                                   : static_cast<int>(kSharedBytes);
  return cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int bytes) {
  return bytes <= static_cast<int>(kSharedBytes) ? cudaSuccess : cudaErrorInvalidValue;
}

template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int, size_t) {
  *blocks = 1;
  return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments... arguments) {
  if (config->dynamicSmemBytes > kSharedBytes) return cudaErrorInvalidValue;
  blockDim = config->blockDim;
  gridDim = config->gridDim;
  for (unsigned y = 0; y < config->gridDim.y; ++y) {
    for (unsigned x = 0; x < config->gridDim.x; ++x) {
      blockIdx = dim3(x, y);
#if defined(__SANITIZE_ADDRESS__)
      ASAN_UNPOISON_MEMORY_REGION(shared_memory, kSharedBytes);
      ASAN_POISON_MEMORY_REGION(reinterpret_cast<char*>(shared_memory) + config->dynamicSmemBytes,
                                kSharedBytes - config->dynamicSmemBytes);
#endif
      shim::Block(config->blockDim.x).run([&] { kernel(arguments...); });
    }
  }
  return cudaSuccess;
}

}  // namespace neurocodec::cuda

#endif  // NEUROCODEC_CUDA_HOST_SHIM_HPP
