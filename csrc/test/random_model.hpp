// SPDX-License-Identifier: Apache-2.0
//
// A small model of random integers, the same on every machine, for tests that have no model file.

#ifndef NEUROCODEC_RANDOM_MODEL_HPP
#define NEUROCODEC_RANDOM_MODEL_HPP

#include <cmath>
#include <cstring>
#include <list>
#include <random>
#include <string>
#include <vector>

#include "c_api.h"

namespace neurocodec {

class RandomModel {
 public:
  // Channel counts that no panel of outputs divides, and an odd one.
  static constexpr nc_shape kShape = {20, 24, 7, 18, 1, 2, 1};

  explicit RandomModel(uint32_t seed = 1) : random_(seed) {
    const size_t c = kShape.channels, m = kShape.latent_channels, n = kShape.hyper_channels, h = kShape.hidden_channels;
    layer("g_a.stem", c, 192, 9);
    block("g_a.blocks.0", c);
    gain("g_a.log_gain", c, 0);
    layer("g_a.down", m, 4 * c);
    block("g_a.latent_blocks.0", m);
    gain("g_a.log_y_gain", m, 0);
    layer("h_a.conv_in", h, 2 * m);
    rows("h_a.bias", 16, h, 1 << 18);
    depthwise("h_a.dw1", h);
    layer("h_a.down1", h, 4 * h);
    depthwise("h_a.dw2", h);
    layer("h_a.down2", n, 4 * h);
    gain("g_s.log_y_gain", m, 0);
    block("g_s.latent_blocks.0", m);
    layer("g_s.up", 4 * c, m);
    gain("g_s.log_gain", c, 0);
    for (size_t i = 0; i < kShape.decoder_blocks; ++i) block("g_s.blocks." + std::to_string(i), c);
    layer("g_s.head", 192, c, 16);
    add<int16_t>("exp2_table", {4096}, [](size_t k) { return exp2_entry(k); });

    const std::string e = "entropy.";
    layer(e + "h_s.conv_in", h, n);
    rows(e + "h_s.bias", 16, h, 1 << 18);
    for (const char* i : {"1", "2", "3"}) depthwise(e + "h_s.dw" + i, h);
    for (const char* i : {"1", "2"}) layer(e + "h_s.up" + i, 4 * h, h);
    layer(e + "h_s.conv_out", h, h);
    layer(e + "prediction.conv", h, h);
    layer(e + "prediction.head", 2 * m, h);
    rows(e + "prediction.bias", 16, 2 * m, 1 << 22);
    rows(e + "z_index", 16, n, 2000);
    for (const char* i : {"0.", "1.", "2."}) {
      const std::string name = e + "contexts." + i;
      depthwise(name + "dw_in", 2 * m);
      layer(name + "conv_in", h, 2 * m + h);
      rows(name + "bias", 16, h, 1 << 18);
      add<int32_t>(name + "phase_bias", {2, 2, h}, [&](size_t) { return between(-(1 << 18), 1 << 18); });
      depthwise(name + "dw", h);
      layer(name + "conv", h, h);
      layer(name + "head", 2 * m, h);
    }
    add<int16_t>(e + "log_table", {1 << 14}, [](size_t y) { return static_cast<int16_t>(y / 16); });
    std::vector<uint16_t> frequencies;  // 64 rows of 2 to 129 symbols, all equally likely, and an escape
    for (size_t r = 0; r < 64; ++r) {
      const auto symbols = static_cast<uint16_t>(2 * r + 3);
      const auto each = static_cast<uint16_t>(65000 / symbols);
      for (uint16_t i = 0; i < symbols; ++i) frequencies.push_back(each);
      frequencies.push_back(static_cast<uint16_t>(65536 - each * symbols));
    }
    add<uint16_t>("tables.frequencies", {frequencies.size()}, [&](size_t i) { return frequencies[i]; });
    add<int32_t>("tables.offsets", {64}, [](size_t r) { return -static_cast<int32_t>(r) - 1; });
    add<int32_t>("tables.lengths", {64}, [](size_t r) { return static_cast<int32_t>(2 * r + 4); });
  }

  const std::vector<nc_array>& arrays() const { return arrays_; }
  // The bytes of an array, to be damaged.
  std::vector<uint8_t>& bytes(size_t i) { return *bytes_[i]; }

  // From low to high.
  int32_t between(int32_t low, int32_t high) {
    return low + static_cast<int32_t>(random_() % (static_cast<uint32_t>(high - low) + 1));
  }

 private:
  static int16_t exp2_entry(size_t k) {
    return static_cast<int16_t>(std::min(16384 + static_cast<int>(k) * 4, 32767));  // roughly: powers are none here
  }

  template <typename T, typename Value>
  void add(const std::string& name, const std::vector<size_t>& shape, const Value& value) {
    size_t count = 1;
    for (const size_t n : shape) count *= n;
    auto& bytes = memory_.emplace_back(count * sizeof(T));
    for (size_t i = 0; i < count; ++i) {
      const T v = static_cast<T>(value(i));
      std::memcpy(bytes.data() + i * sizeof(T), &v, sizeof(T));
    }
    bytes_.push_back(&bytes);
    nc_array array = {names_.emplace_back(name).c_str(), type_of(T{}), bytes.data(), shape.size(), {}};
    std::copy(shape.begin(), shape.end(), array.shape);
    arrays_.push_back(array);
  }

  static int type_of(int8_t) { return NC_INT8; }
  static int type_of(int16_t) { return NC_INT16; }
  static int type_of(int32_t) { return NC_INT32; }
  static int type_of(uint16_t) { return NC_UINT16; }

  // Weights as large as the proof admits in some layers, and sums that use the 16 bits of the results.
  void weights(const std::string& name, const std::vector<size_t>& shape, size_t inputs, int shift) {
    const auto largest = static_cast<int32_t>(std::min<size_t>(32767, 60000 / inputs));
    add<int16_t>(name + ".weight", shape, [&](size_t) { return between(-largest, largest); });
    add<int32_t>(name + ".bias", {shape[0]}, [&](size_t) { return between(-(1 << 22), 1 << 22); });
    add<int8_t>(name + ".shift", {shape[0]}, [&](size_t) { return between(shift - 1, shift + 1); });
  }
  void layer(const std::string& name, size_t outputs, size_t inputs, int shift = 14) {
    weights(name, {outputs, inputs}, inputs, shift);
  }
  void depthwise(const std::string& name, size_t channels) { weights(name, {channels, 3, 3}, 9, 14); }
  void rows(const std::string& name, size_t count, size_t size, int32_t largest) {
    add<int32_t>(name, {count, size}, [&](size_t) { return between(-largest, largest); });
  }
  void gain(const std::string& name, size_t channels, int32_t middle) {
    add<int32_t>(name, {16, channels}, [&](size_t) { return between(middle - (1 << 17), middle + (1 << 17)); });
  }
  void block(const std::string& name, size_t channels) {
    layer(name + ".conv_in", channels, channels);
    depthwise(name + ".conv_dw", channels);
    layer(name + ".conv_out", channels, channels, 15);
    layer(name + ".gate_in", 2 * channels, channels, 15);
    layer(name + ".gate_out", channels, channels, 15);
  }

  std::mt19937 random_;
  std::list<std::string> names_;
  std::list<std::vector<uint8_t>> memory_;
  std::vector<std::vector<uint8_t>*> bytes_;
  std::vector<nc_array> arrays_;
};

}  // namespace neurocodec

#endif  // NEUROCODEC_RANDOM_MODEL_HPP
