// SPDX-License-Identifier: Apache-2.0
//
// One loop over tasks on several threads. Threads live only as long as the loop: no pool has to survive a fork.

#ifndef NEUROCODEC_PARALLEL_HPP
#define NEUROCODEC_PARALLEL_HPP

#ifdef __wasm__
#include "parallel_wasm.hpp"
#else

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace neurocodec {

// Runs task(0) ... task(count - 1) on up to `threads` threads. Rethrows the last exception of a task.
template <typename Task>
void parallel(size_t count, size_t threads, const Task& task) {
  threads = std::min(threads, count);
  if (threads <= 1) {
    for (size_t k = 0; k < count; ++k) task(k);
    return;
  }
  std::atomic<size_t> next{0};
  std::exception_ptr error;
  std::mutex error_mutex;
  const auto work = [&] {
    for (size_t k = next++; k < count; k = next++) {
      try {
        task(k);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(error_mutex);
        error = std::current_exception();
      }
    }
  };
  std::vector<std::thread> pool;
  pool.reserve(threads - 1);
  for (size_t t = 1; t < threads; ++t) {
    try {
      pool.emplace_back(work);
    } catch (const std::system_error&) {
      break;  // the system allows no more threads: those that run do all the work
    }
  }
  work();
  for (auto& thread : pool) thread.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace neurocodec

#endif  // __wasm__
#endif  // NEUROCODEC_PARALLEL_HPP
