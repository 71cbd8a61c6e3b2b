// SPDX-License-Identifier: Apache-2.0
//
// z_hat in a stream of its own, whose probabilities adapt to the picture: large smooth pictures repeat themselves in z.
// docs/contexts.md defines the bytes. Header only, C++17.

#ifndef NEUROCODEC_HYPER_HPP
#define NEUROCODEC_HYPER_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "context_coder.hpp"

namespace neurocodec {
namespace hyper {

constexpr size_t kSlots = 1 << 16;
constexpr int32_t kUnary = 20, kPlainBits = 8, kMost = kUnary + (1 << kPlainBits) - 1;
constexpr size_t kSigns = 1, kMagnitudes = 2, kMostMagnitudes = 7, kSets = kMagnitudes + 2 * kMostMagnitudes;
constexpr size_t kReach = 6;  // channels before this one that tell how active a position is

// Whether z can be coded.
inline bool fits(const std::vector<int32_t>& z) {
  return std::all_of(z.begin(), z.end(), [](int32_t value) { return value >= -kMost && value <= kMost; });
}

// Codes z, (h, w, channels), read by an encoder and written by a decoder; magnitudes are at most kMost. For Coder see
// contexts::Mixer. Returns false if a decoder fails.
template <typename Coder>
NC_COLD bool run(Coder& coder, int32_t* z, size_t h, size_t w, size_t channels) {
  using contexts::mix;
  contexts::Mixer<Coder> mixer(coder, kSlots, kSets);
  const std::vector<int32_t> outside(channels);
  for (size_t y = 0; y < h; ++y) {
    for (size_t x = 0; x < w; ++x) {
      int32_t* const here = z + (y * w + x) * channels;
      const auto at = [&](bool inside, size_t back) { return inside ? here - back * channels : outside.data(); };
      const int32_t* const neighbours[] = {at(x > 0, 1), at(y > 0, w), at(y > 0 && x + 1 < w, w - 1),
                                           at(y > 0 && x > 0, w + 1)};
      for (size_t c = 0; c < channels; ++c) {
        uint32_t near[4], active = 0;
        for (size_t i = 0; i < 4; ++i) near[i] = static_cast<uint32_t>(std::min(std::max(neighbours[i][c], -2), 2) + 2);
        for (size_t d = 1; d <= std::min(c, kReach); ++d) active += static_cast<uint32_t>(std::abs(here[c - d]));
        active = std::min(active, 12u);
        const uint32_t channel = mix(0, static_cast<uint32_t>(c) + 1), two = near[0] + 5 * near[1];
        const uint32_t four = two + 25 * near[2] + 125 * near[3];
        const uint32_t before = c > 0 ? static_cast<uint32_t>(std::min(std::max(here[c - 1], -2), 2) + 2) : 2;
        const contexts::Hashes shared = {channel, mix(channel, 100 + two), mix(channel, 1000 + four), mix(channel, 50 + active),
                                         mix(2000 + four, active), mix(mix(channel, 200 + two), before)};
        const auto code = [&](bool bit, size_t kind) {
          contexts::Hashes hashes;
          for (size_t i = 0; i < contexts::kContexts; ++i) hashes[i] = mix(shared[i], 7 + static_cast<uint32_t>(kind));
          return mixer.code(bit, hashes, kind);
        };
        const int32_t value = here[c];
        if (code(value == 0, 0)) {
          here[c] = 0;
          continue;
        }
        const bool positive = code(value > 0, kSigns);
        int32_t magnitude = 1;
        while (magnitude < kUnary && !code(std::abs(value) == magnitude,
                                           kMagnitudes + 2 * std::min<size_t>(static_cast<size_t>(magnitude) - 1,
                                                                              kMostMagnitudes - 1) + positive)) {
          ++magnitude;
        }
        if (magnitude == kUnary) {
          magnitude += static_cast<int32_t>(mixer.code_plain(static_cast<uint32_t>(std::abs(value) - kUnary), kPlainBits));
        }
        here[c] = positive ? magnitude : -magnitude;
      }
      if (coder.failed()) return false;
    }
  }
  return true;
}

NC_COLD inline std::vector<uint8_t> encode(int32_t* z, size_t h, size_t w, size_t channels) {
  contexts::Encoder coder;
  run(coder, z, h, w, channels);
  return coder.finish();
}

NC_COLD inline Status decode(const uint8_t* stream, size_t size, size_t h, size_t w, size_t channels, int32_t* z) {
  contexts::Decoder coder(stream, size);
  std::fill_n(z, h * w * channels, 0);
  run(coder, z, h, w, channels);
  return coder.finish();
}

}  // namespace hyper
}  // namespace neurocodec

#endif  // NEUROCODEC_HYPER_HPP
