// SPDX-License-Identifier: Apache-2.0
//
// What a C++ program in WebAssembly has to bring itself here.
//
// There are no exceptions (-fignore-exceptions): `throw` calls nc_fail, an import that throws in JavaScript and never
// returns. Nothing is unwound, so such an instance must be thrown away.

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <new>
#include <typeinfo>

// Throws an Error with this sentence.
extern "C" [[noreturn]] __attribute__((import_module("env"), import_name("fail"))) void nc_fail(const char* sentence);

namespace {

// The allocator of wasi-libc knows no threads.
class Lock {
 public:
  Lock() {
    while (taken_.test_and_set(std::memory_order_acquire)) {
    }
  }
  ~Lock() { taken_.clear(std::memory_order_release); }

 private:
  static inline std::atomic_flag taken_ = ATOMIC_FLAG_INIT;
};

}  // namespace

void* operator new(size_t size) {
  const Lock lock;
  void* const memory = std::malloc(size);
  if (memory == nullptr) nc_fail("There is not enough memory.");
  return memory;
}

void operator delete(void* memory) noexcept {
  const Lock lock;
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept { operator delete(memory); }

// What the compiler makes of `throw`: every exception of the core is a std::exception.
extern "C" void* __cxa_allocate_exception(size_t size) noexcept { return operator new(size); }
extern "C" [[noreturn]] void __cxa_throw(void* thrown, std::type_info*, void (*)(void*)) {
  nc_fail(static_cast<const std::exception*>(thrown)->what());
}

// The last words of the standard library would need all of printf.
void std::__libcpp_verbose_abort(const char*, ...) noexcept { __builtin_trap(); }
extern "C" [[noreturn]] void abort_message(const char*, ...) { __builtin_trap(); }
