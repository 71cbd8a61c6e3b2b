// SPDX-License-Identifier: Apache-2.0
//
// The core as a WebAssembly module: csrc/c_api.h, malloc and free, and what a program there has to bring itself.
//
// Surprises:
//  * There are no exceptions (-fignore-exceptions): `throw` calls fail, an import that throws in JavaScript and never
//    returns. Nothing is unwound, so core.js throws such an instance away. So nc_* functions return NC_OK or not at all.
//  * With threads (-matomics) all instances share one memory; allocation takes a lock.

#include <atomic>
#include <cstdlib>
#include <exception>
#include <new>
#include <typeinfo>

#include "../csrc/c_api.cpp"

#define NC_EXPORT(name) extern "C" __attribute__((export_name(name), used))

// Throws an Error with this sentence.
extern "C" [[noreturn]] __attribute__((import_module("env"), import_name("fail"))) void nc_fail(const char* sentence);

namespace {

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

NC_NOINLINE void* allocate(size_t size) {
  const Lock lock;
  return std::malloc(size);
}

NC_NOINLINE void release(void* memory) {
  const Lock lock;
  std::free(memory);
}

}  // namespace

void* operator new(size_t size) {
  void* const memory = allocate(size);
  if (memory == nullptr) nc_fail("There is not enough memory.");
  return memory;
}
void operator delete(void* memory) noexcept { release(memory); }
void operator delete(void* memory, size_t) noexcept { release(memory); }

// What the compiler makes of `throw`: every exception of the core is a std::exception.
extern "C" void* __cxa_allocate_exception(size_t size) noexcept { return std::malloc(size); }
extern "C" [[noreturn]] void __cxa_throw(void* thrown, std::type_info*, void (*)(void*)) {
  nc_fail(static_cast<const std::exception*>(thrown)->what());
}

// The last words of the standard library would need all of printf.
void std::__libcpp_verbose_abort(const char*, ...) noexcept { __builtin_trap(); }
extern "C" [[noreturn]] void abort_message(const char*, ...) { __builtin_trap(); }

NC_EXPORT("malloc") void* nc_web_malloc(size_t size) { return std::malloc(size); }
NC_EXPORT("free") void nc_web_free(void* memory) { std::free(memory); }
NC_EXPORT("kernel") const char* nc_web_kernel(size_t i) { return nc_kernel(i); }
NC_EXPORT("model_new") int nc_web_model_new(const nc_shape* shape, const nc_array* arrays, size_t count, nc_model** model) {
  return nc_model_new(shape, arrays, count, model, nullptr, 0);
}
NC_EXPORT("decode")
int nc_web_decode(const nc_model* model, const nc_run* run, const uint8_t* stream, size_t size, size_t h, size_t w,
                  int32_t* y_hat, uint32_t* checksum) {
  return nc_decode(model, run, stream, size, h, w, nullptr, nullptr, y_hat, checksum, nullptr, 0);
}
NC_EXPORT("synthesise")
int nc_web_synthesise(const nc_model* model, const nc_run* run, const int32_t* y_hat, size_t h, size_t w, uint8_t* rgb) {
  return nc_synthesise(model, run, y_hat, h, w, rgb, nullptr, 0);
}
#ifdef __wasm_atomics__
NC_EXPORT("expect_helpers") void nc_web_expect_helpers(uint32_t count) { nc::Helpers::expect(count); }
NC_EXPORT("help") void nc_web_help() { nc::Helpers::help(); }
#endif
