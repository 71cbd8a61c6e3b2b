// SPDX-License-Identifier: Apache-2.0
//
// CRC-32 as in zlib and PNG, eight bytes at a time.

#ifndef NEUROCODEC_CRC32_HPP
#define NEUROCODEC_CRC32_HPP

#include <array>
#include <cstddef>
#include <cstdint>

#include "integer_layers.hpp"

namespace neurocodec {

class Crc32 {
 public:
  // The values as little-endian bytes, on any machine.
  void update(const int32_t* values, size_t count) {
    size_t i = 0;
    for (; i + 2 <= count; i += 2) {
      const uint32_t a = state_ ^ static_cast<uint32_t>(values[i]), b = static_cast<uint32_t>(values[i + 1]);
      state_ = tables_[7][a & 255] ^ tables_[6][a >> 8 & 255] ^ tables_[5][a >> 16 & 255] ^ tables_[4][a >> 24] ^
               tables_[3][b & 255] ^ tables_[2][b >> 8 & 255] ^ tables_[1][b >> 16 & 255] ^ tables_[0][b >> 24];
    }
    for (; i < count; ++i) {
      uint32_t a = state_ ^ static_cast<uint32_t>(values[i]);
      for (int byte = 0; byte < 4; ++byte) a = tables_[0][a & 255] ^ a >> 8;
      state_ = a;
    }
  }

  uint32_t value() const { return ~state_; }

 private:
  using Tables = std::array<std::array<uint32_t, 256>, 8>;  // [n][b]: the byte b followed by n zeros

  NC_COLD static Tables tables() {
    Tables t{};
    for (uint32_t b = 0; b < 256; ++b) {
      uint32_t crc = b;
      for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0u);
      t[0][b] = crc;
    }
    for (size_t n = 1; n < 8; ++n) {
      for (size_t b = 0; b < 256; ++b) t[n][b] = t[n - 1][b] >> 8 ^ t[0][t[n - 1][b] & 255];
    }
    return t;
  }

  const Tables tables_ = tables();  // not a constant: a page would fetch all 8 KB of it
  uint32_t state_ = ~uint32_t{0};
};

}  // namespace neurocodec

#endif  // NEUROCODEC_CRC32_HPP
