// SPDX-License-Identifier: Apache-2.0
//
// The loop of parallel.hpp in WebAssembly, where threads cannot be made from inside: a page starts workers that share the
// memory, and each calls Helpers::help, which never returns. Built without the atomics feature there are none, and the
// thread that calls does all the work. A task that fails ends its instance (web/runtime.cpp), so nothing is caught here.

#ifndef NEUROCODEC_PARALLEL_WASM_HPP
#define NEUROCODEC_PARALLEL_WASM_HPP

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace neurocodec {

#ifdef __wasm_atomics__
// One loop at a time, and none inside another.
class Helpers {
 public:
  // How many threads will call help, each once. A loop waits for all of them, so none may fail to.
  static void expect(uint32_t count) { count_ = count; }

  // Waits for loops and works on them, for ever.
  [[noreturn]] static void help() {
    uint32_t seen = 0;
    for (;;) {
      while (loop_ == seen) __builtin_wasm_memory_atomic_wait32(address(loop_), static_cast<int>(seen), -1);
      seen = loop_;
      if (free_seats_.fetch_sub(1) > 0) work();
      if (--busy_ == 0) __builtin_wasm_memory_atomic_notify(address(busy_), 1);
    }
  }

  // task(0) ... task(count - 1), on `threads` threads if there are so many.
  static void run(size_t count, size_t threads, void (*task)(const void*, size_t), const void* context) {
    task_ = task;
    context_ = context;
    end_ = count;
    next_ = 0;
    free_seats_ = static_cast<int32_t>(threads) - 1;
    busy_ = count_;
    ++loop_;
    __builtin_wasm_memory_atomic_notify(address(loop_), ~0u);
    work();
    for (uint32_t busy = busy_; busy != 0; busy = busy_) {
      __builtin_wasm_memory_atomic_wait32(address(busy_), static_cast<int>(busy), -1);
    }
  }

 private:
  static void work() {
    for (size_t k = next_++; k < end_; k = next_++) task_(context_, k);
  }

  static int* address(std::atomic<uint32_t>& value) { return reinterpret_cast<int*>(&value); }

  static inline std::atomic<uint32_t> loop_{0};  // the number of the last loop that began
  static inline std::atomic<uint32_t> busy_{0};  // helpers that have not left it
  static inline uint32_t count_ = 0;
  static inline std::atomic<int32_t> free_seats_{0};
  static inline std::atomic<size_t> next_{0};
  static inline size_t end_ = 0;
  static inline void (*task_)(const void*, size_t) = nullptr;
  static inline const void* context_ = nullptr;
};
#endif

// Runs task(0) ... task(count - 1) on up to `threads` threads.
template <typename Task>
void parallel(size_t count, size_t threads, const Task& task) {
#ifdef __wasm_atomics__
  threads = std::min(threads, count);
  if (threads > 1) {
    const auto call = [](const void* context, size_t k) { (*static_cast<const Task*>(context))(k); };
    return Helpers::run(count, threads, call, &task);
  }
#else
  static_cast<void>(threads);
#endif
  for (size_t k = 0; k < count; ++k) task(k);
}

}  // namespace neurocodec

#endif  // NEUROCODEC_PARALLEL_WASM_HPP
