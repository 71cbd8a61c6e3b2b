// SPDX-License-Identifier: Apache-2.0
//
// Binary decisions coded one by one, with probabilities that adapt: a decision has several contexts, whose predictions are
// mixed, and an arithmetic coder. docs/contexts.md defines the bytes; palette.hpp and hyper.hpp use it. Header only, C++17.

#ifndef NEUROCODEC_CONTEXT_CODER_HPP
#define NEUROCODEC_CONTEXT_CODER_HPP

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "integer_layers.hpp"
#include "lossless_table.hpp"
#include "range_coder.hpp"

namespace neurocodec {
namespace contexts {

constexpr size_t kContexts = 6, kInputs = 2 * kContexts + 1;

inline uint32_t mix(uint32_t a, uint32_t b) { return ((a ^ b) * 0x9E3779B1u) ^ (a >> 15); }

// 2^16 / (1 + e^(-x / 256)), for |x| at most 2815.
inline int32_t squash(int32_t x) {
  const int32_t* const entry = lossless::kLogistic + (x >> 3) + 384;
  return entry[0] + ((entry[1] - entry[0]) * (x & 7) >> 3);
}

constexpr int32_t kMostStretch = 2815;

// The inverse of `squash`, for probabilities of 12 bits.
inline std::vector<int16_t> stretches() {
  std::vector<int16_t> table(1 << 12);
  int32_t x = -kMostStretch;
  for (int32_t p = 0; p < 1 << 12; ++p) {
    while (x < kMostStretch && squash(x) < 16 * p + 8) ++x;
    table[static_cast<size_t>(p)] = static_cast<int16_t>(x);
  }
  return table;
}

// A probability of 22 bits above the number of times it was used, at most 127.
class Bit {
 public:
  uint32_t uses() const { return state_ & 1023; }
  uint32_t probability(int bits) const { return state_ >> (32 - bits); }
  void learn(bool bit) {
    const auto p = static_cast<int64_t>(state_ >> 10);
    const int64_t to = bit ? (1 << 22) - 1 : 0;
    const int64_t moved = p + ((to - p) * (655360 / (10 * static_cast<int64_t>(uses()) + 16)) >> 16);
    state_ = static_cast<uint32_t>(moved) << 10 | std::min(uses() + 1, 127u);
  }

 private:
  uint32_t state_ = 1u << 31;
};

using Hashes = std::array<uint32_t, kContexts>;
using Weights = std::array<int32_t, kInputs>;

// Codes bits. A Coder has bool code(bool, uint32_t p), which codes a bit that is 1 with probability p / 2^16, or ignores the
// argument and returns the bit that it decodes; and void enter(size_t part), which says what the next bits belong to.
template <typename Coder>
class Mixer {
 public:
  // slots: of each table of contexts, a power of two. sets: of weights.
  Mixer(Coder& coder, size_t slots, size_t sets) : coder_(coder), weights_(sets) {
    while (slots >> (32 - slot_shift_) > 1) --slot_shift_;
    for (auto& table : tables_) table.resize(slots);
    for (auto& weights : weights_) weights.fill(1 << 14);
  }

  Bit& slot(size_t table, uint32_t hash) { return tables_[table][hash >> slot_shift_]; }

  // A bit in one context.
  bool code(bool bit, Bit& context) {
    bit = coder_.code(bit, std::min(std::max(context.probability(16), 1u), 65535u));
    context.learn(bit);
    return bit;
  }

  // A bit in several contexts.
  bool code(bool bit, const Hashes& hashes, size_t set) {
    Weights& weights = weights_[set];
    Bit* contexts[kContexts];
    int32_t inputs[kInputs];
    int64_t sum = 0;
    for (size_t k = 0; k < kContexts; ++k) {
      const Bit& context = *(contexts[k] = &slot(k, hashes[k]));
      const auto p = static_cast<int32_t>(context.probability(12));
      const uint32_t uses = context.uses();
      inputs[2 * k] = uses == 0 ? 0 : stretch_[static_cast<size_t>(p)];
      inputs[2 * k + 1] = uses == 0 ? 0 : (p - 2048) * (uses > 30 ? 3 : uses > 3 ? 2 : 1) >> 2;
    }
    inputs[kInputs - 1] = 256;
    for (size_t k = 0; k < kInputs; ++k) sum += static_cast<int64_t>(weights[k]) * inputs[k];
    const int64_t most = kMostStretch;
    const int32_t p = squash(static_cast<int32_t>(std::min(std::max(sum >> 16, -most), most)));
    bit = coder_.code(bit, static_cast<uint32_t>(p));
    const int32_t error = (bit ? 1 << 16 : 0) - p;
    for (size_t k = 0; k < kInputs; ++k) {
      const int32_t moved = weights[k] + ((2 * inputs[k] * error + (1 << 15)) >> 16);
      weights[k] = std::min(std::max(moved, -(1 << 20)), 1 << 20);
    }
    for (Bit* context : contexts) context->learn(bit);
    return bit;
  }

  // The lowest `count` bits of a value, each as likely 0 as 1, the highest first.
  uint32_t code_plain(uint32_t value, int count) {
    uint32_t coded = 0;
    while (count-- > 0) coded = 2 * coded + coder_.code(value >> count & 1, 1 << 15);
    return coded;
  }

  Coder& coder() { return coder_; }

 private:
  Coder& coder_;
  int slot_shift_ = 32;
  std::vector<Bit> tables_[kContexts];
  std::vector<Weights> weights_;
  const std::vector<int16_t> stretch_ = stretches();
};

// Where the interval [low, high] is divided for a probability of 16 bits.
inline uint32_t divide(uint32_t low, uint32_t high, uint32_t p) {
  const uint32_t size = high - low;
  return low + (size >> 16) * p + ((size & 0xFFFF) * p >> 16);
}

class Encoder {
 public:
  bool code(bool bit, uint32_t p) {
    const uint32_t middle = divide(low_, high_, p);
    bit ? high_ = middle : low_ = middle + 1;
    for (; (low_ ^ high_) >> 24 == 0; low_ <<= 8, high_ = high_ << 8 | 255) put();
    return bit;
  }
  void enter(size_t) {}
  bool failed() const { return false; }
  std::vector<uint8_t> finish() {
    for (int i = 0; i < 4; ++i, low_ <<= 8) put();
    return std::move(bytes_);
  }

 private:
  void put() { bytes_.push_back(static_cast<uint8_t>(low_ >> 24)); }

  uint32_t low_ = 0, high_ = 0xFFFFFFFF;
  std::vector<uint8_t> bytes_;
};

class Decoder {
 public:
  Decoder(const uint8_t* bytes, size_t size) : bytes_(bytes), size_(size) {
    for (int i = 0; i < 4; ++i) take();
  }
  bool code(bool, uint32_t p) {
    const uint32_t middle = divide(low_, high_, p);
    const bool bit = value_ <= middle;
    bit ? high_ = middle : low_ = middle + 1;
    for (; (low_ ^ high_) >> 24 == 0; low_ <<= 8, high_ = high_ << 8 | 255) take();
    return bit;
  }
  void enter(size_t) {}
  // Whether the bytes ended too early.
  bool failed() const { return at_ > size_; }
  // After the last bit: whether all bytes were read, and the last four are those of an encoder.
  Status finish() const {
    return failed() ? Status::kTruncated : at_ == size_ && value_ == low_ ? Status::kOk : Status::kBadEnd;
  }

 private:
  void take() {
    value_ = value_ << 8 | (at_ < size_ ? bytes_[at_] : 0u);
    ++at_;
  }

  const uint8_t* bytes_;
  size_t size_, at_ = 0;
  uint32_t low_ = 0, high_ = 0xFFFFFFFF, value_ = 0;
};

// Encodes, and adds up what the bits of each part cost, in 1/256 bit.
class Meter : public Encoder {
 public:
  explicit Meter(int64_t* costs) : costs_(costs) {}
  bool code(bool bit, uint32_t p) {
    const uint32_t share = bit ? p : (1 << 16) - p;
    int octave = 0;
    while (share >> (octave + 1)) ++octave;
    *cost_ += 256 * (16 - octave) - (static_cast<int64_t>((static_cast<uint64_t>(share) << 8) >> octave) - 256);
    return Encoder::code(bit, p);
  }
  void enter(size_t part) { cost_ = costs_ + part; }

 private:
  int64_t none_ = 0, *costs_, *cost_ = &none_;
};

}  // namespace contexts
}  // namespace neurocodec

#endif  // NEUROCODEC_CONTEXT_CODER_HPP
