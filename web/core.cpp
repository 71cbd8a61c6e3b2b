// SPDX-License-Identifier: Apache-2.0
//
// The core as a WebAssembly module, for core.js: a model, its generative decoder, and decoding. As runtime.cpp ends an
// instance at its first error, the functions of csrc/c_api.h return NC_OK or not at all, and need no place for a message.

#define NEUROCODEC_PAGE

// For size: what is hot in the standard library is inlined into other functions.
#pragma clang attribute push(__attribute__((minsize)), apply_to = function)
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>
#pragma clang attribute pop

#include "../csrc/c_api.cpp"

#define NC_EXPORT(name) extern "C" __attribute__((export_name(name), used))

NC_EXPORT("malloc") void* nc_web_malloc(size_t size) { return std::malloc(size); }
NC_EXPORT("free") void nc_web_free(void* memory) { std::free(memory); }

NC_EXPORT("model_new")
void nc_web_model_new(const nc_shape* shape, const nc_array* arrays, size_t count, nc_model** model) {
  nc_model_new(shape, arrays, count, model, nullptr, 0);
}

NC_EXPORT("decode")
void nc_web_decode(const nc_model* model, const nc_run* run, const uint8_t* stream, size_t size, const uint8_t* z_stream,
                   size_t z_size, size_t h, size_t w, int32_t* y_hat, uint32_t* checksum) {
  nc_decode(model, run, stream, size, z_stream, z_size, h, w, nullptr, nullptr, y_hat, checksum, nullptr, 0);
}

NC_EXPORT("decode_palette")
void nc_web_decode_palette(const uint8_t* stream, size_t size, size_t h, size_t w, size_t colours, uint8_t* indexes) {
  nc_palette_decode(stream, size, h, w, colours, indexes, nullptr, 0);
}

NC_EXPORT("synthesise")
void nc_web_synthesise(const nc_model* model, const nc_run* run, const int32_t* y_hat, size_t h, size_t w,
                       uint8_t* rgb) {
  nc_synthesise(model, run, y_hat, h, w, rgb, nullptr, 0);
}

NC_EXPORT("synthesise16")
void nc_web_synthesise16(const nc_model* model, const nc_run* run, const int32_t* y_hat, size_t h, size_t w,
                         uint16_t* rgb) {
  nc_synthesise16(model, run, y_hat, h, w, rgb, nullptr, 0);
}

NC_EXPORT("filter")
void nc_web_filter(const uint16_t* rgb, size_t h, size_t w, int shift, const int8_t* weights, size_t threads,
                   uint8_t* filtered) {
  nc_filter(rgb, h, w, shift, weights, threads, filtered, nullptr, 0);
}

NC_EXPORT("generator_new")
void nc_web_generator_new(const nc_model* model, const nc_generator_shape* shape, const nc_array* arrays, size_t count,
                          nc_generator** generator) {
  nc_generator_new(model, shape, arrays, count, generator, nullptr, 0);
}

NC_EXPORT("realise")
void nc_web_realise(const nc_model* model, const nc_generator* generator, const nc_run* run, int realism,
                    const int32_t* y_hat, size_t h, size_t w, uint8_t* rgb) {
  nc_realise(model, generator, run, realism, y_hat, h, w, rgb, nullptr, 0);
}

// pixels: x_hat, replaced by the exact ones.
NC_EXPORT("decode_residual")
void nc_web_decode_residual(const uint8_t* stream, size_t size, uint8_t* pixels, size_t h, size_t w, size_t channels) {
  nc_residual_decode(stream, size, pixels, h, w, channels, pixels, nullptr, 0);
}

NC_EXPORT("expect_helpers") void nc_web_expect_helpers(uint32_t count) { nc::Helpers::expect(count); }
NC_EXPORT("help") void nc_web_help() { nc::Helpers::help(); }
