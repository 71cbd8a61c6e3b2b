// SPDX-License-Identifier: Apache-2.0
//
// The palette of a tile: blocks of 16×16 pixels of few colours, coded as indexes of colours. docs/contexts.md defines the
// bytes. Each index is a few decisions, such as "as the pixel on the left?". Header only, C++17.

#ifndef NEUROCODEC_PALETTE_HPP
#define NEUROCODEC_PALETTE_HPP

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "context_coder.hpp"

namespace neurocodec {
namespace palette {

using contexts::Bit;
using contexts::mix;

constexpr size_t kBlock = 16, kMostColours = 255;

// Rows and columns from a pixel to its neighbours, the nearest first; contexts take the first 4, 6, 12 or all.
constexpr size_t kNeighbours = 23;
constexpr int kTemplate[kNeighbours][2] = {{0, -1}, {-1, 0},  {-1, -1}, {-1, 1}, {0, -2}, {-2, 0},  {-1, 2},  {-1, -2},
                                  {-2, 1}, {-2, -1}, {0, -3},  {-3, 0}, {0, -4}, {0, -5},  {-1, -3}, {-1, 3},
                                  {-2, 2}, {-2, -2}, {-3, -1}, {-3, 1}, {-4, 0}, {-2, 3},  {-3, 2}};
constexpr size_t kNear = 12;                          // the neighbours that are equal in a flat place
constexpr size_t kAbove = 4, kLeft = 5, kRight = 3;  // how far neighbours are
constexpr size_t kCandidates = 4, kMostSlots = 1 << 20;

// One tile; for Coder see contexts::Mixer. Its parts are the blocks.
template <typename Coder>
class Tile {
 public:
  // h, w: in blocks. colours: 1 to 255.
  Tile(Coder& coder, size_t h, size_t w, size_t colours)
      : mixer_(coder, slots(h * w * kBlock * kBlock), kCandidates + 8), h_(h), w_(w), none_(static_cast<uint8_t>(colours)),
        stride_(w * kBlock + kLeft + kRight), values_((h * kBlock + kAbove) * stride_, none_) {
    while (1u << depth_ < colours) ++depth_;
    for (size_t i = 0; i < kNeighbours; ++i) {
      offsets_[i] = kTemplate[i][0] * static_cast<ptrdiff_t>(stride_) + kTemplate[i][1];
    }
    for (size_t colour = 0; colour < colours; ++colour) {
      uint32_t hash = 0;
      for (size_t i = 0; i < kNeighbours; ++i) hash = mix(hash, static_cast<uint32_t>(colour) + 1);
      flat_.push_back(&mixer_.slot(5, mix(hash, 99)));
    }
  }

  // indexes: (16 h, 16 w), `colours` outside the blocks that are coded; read by an encoder, written by a decoder. Returns
  // false if a decoder meets an index that is no colour's, or if its coder fails.
  NC_COLD bool run(uint8_t* indexes) {
    std::vector<uint8_t> blocks((h_ + 1) * (w_ + 2));  // a block more above, left and right
    std::array<Bit, 16> shapes{};
    for (size_t r = 0; r < h_; ++r) {
      for (size_t c = 0; c < w_; ++c) {
        uint8_t* const at = &blocks[(r + 1) * (w_ + 2) + c + 1];
        const uint8_t* const above = at - (w_ + 2);
        Bit& shape = shapes[static_cast<size_t>(at[-1] | above[0] << 1 | above[-1] << 2 | above[1] << 3)];
        *at = mixer_.code(indexes[(r * w_ * kBlock + c) * kBlock] != none_, shape);
      }
    }
    for (size_t y = 0; y < h_ * kBlock; ++y) {
      const uint8_t* const row = &blocks[(y / kBlock + 1) * (w_ + 2) + 1];
      uint8_t* const to = &values_[(y + kAbove) * stride_ + kLeft];
      for (size_t c = 0; c < w_; ++c) {
        uint8_t* const from = indexes + (y * w_ + c) * kBlock;
        mixer_.coder().enter(y / kBlock * w_ + c);
        for (size_t i = 0; i < kBlock; ++i) {
          if (row[c] && !pixel(to + c * kBlock + i, from[i])) return false;
          from[i] = to[c * kBlock + i];
        }
      }
      if (mixer_.coder().failed()) return false;
    }
    return true;
  }

 private:
  // The largest power of two that is no more than the number of pixels, up to kMostSlots.
  static size_t slots(size_t pixels) {
    size_t count = 1;
    while (2 * count <= std::min(pixels, kMostSlots)) count *= 2;
    return count;
  }

  // Codes the pixel at `at`: `value`, or what a decoder finds.
  bool pixel(uint8_t* at, uint8_t value) {
    uint8_t v[kNeighbours];
    size_t alike = 0;  // how many are equal to the first
    for (size_t i = 0; i < kNeighbours; ++i) {
      v[i] = at[offsets_[i]];
      alike += v[i] == v[0] && alike == i;
    }
    const uint8_t west = v[0], north = v[1];
    const bool flat = alike >= kNear && west != none_, all = alike == kNeighbours;
    if (flat && all && mixer_.code(value == west, *flat_[west])) {  // most pixels of a page
      *at = west;
      return true;
    }
    uint32_t hash = 0, hash4 = 0, hash6 = 0, hash12 = 0;
    for (size_t i = 0; i < kNeighbours; ++i) {
      hash = mix(hash, v[i] + 1u);
      if (i == 3) hash4 = hash;
      if (i == 5) hash6 = hash;
      if (i == 11) hash12 = hash;
    }
    size_t count = 0;
    uint8_t candidates[kCandidates];
    if (flat && !all && mixer_.code(value == west, mixer_.slot(5, mix(hash, 99)))) {
      *at = west;
      return true;
    }
    if (!flat) {
      for (size_t i : {0, 1, 3, 2, 4, 5}) {
        if (v[i] != none_ && count < kCandidates && std::find(candidates, candidates + count, v[i]) == candidates + count) {
          candidates[count++] = v[i];
        }
      }
    }
    const bool equal[] = {west == north, west == v[2],  north == v[2], north == v[3], v[4] == west,
                          v[5] == north, v[3] == v[6], v[8] == v[3],  v[7] == v[2]};
    uint32_t pattern = 0;
    for (size_t i = 0; i < 9; ++i) pattern |= static_cast<uint32_t>(equal[i]) << i;
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t one = mix(8u * candidates[i] + i, 1000);
      const contexts::Hashes hashes = {mix(mix(pattern, i), 3), mix(hash4, one), mix(hash6, one), mix(hash12, one),
                                   mix(mix(mix(one, west), north), 5), mix(hash, one)};
      if (mixer_.code(value == candidates[i], hashes, i)) {
        *at = candidates[i];
        return true;
      }
    }
    uint32_t node = 1;
    for (size_t bit = depth_; bit-- > 0;) {
      const uint32_t one = mix(node, 2000);
      const contexts::Hashes hashes = {one, mix(mix(one, west), 1), mix(mix(one, north), 2), mix(mix(mix(one, west), north), 3),
                                   mix(hash4, one), mix(hash6, one)};
      node = 2 * node + mixer_.code(value >> bit & 1, hashes, kCandidates + bit);
    }
    const uint32_t index = node - (1u << depth_);
    *at = static_cast<uint8_t>(index);
    return index < none_;
  }

  contexts::Mixer<Coder> mixer_;
  size_t h_, w_, depth_ = 0;
  uint8_t none_;
  size_t stride_;
  std::vector<uint8_t> values_;
  ptrdiff_t offsets_[kNeighbours];
  std::vector<Bit*> flat_;  // the context of a pixel all of whose neighbours have a colour
};

// The stream of a tile; indexes: (16 h, 16 w), `colours` outside the blocks that are coded. costs: (h, w), added to.
NC_COLD inline std::vector<uint8_t> encode(uint8_t* indexes, size_t h, size_t w, size_t colours, int64_t* costs) {
  contexts::Meter coder(costs);
  Tile<contexts::Meter>(coder, h, w, colours).run(indexes);
  return coder.finish();
}

NC_COLD inline Status decode(const uint8_t* stream, size_t size, size_t h, size_t w, size_t colours, uint8_t* indexes) {
  contexts::Decoder coder(stream, size);
  std::fill_n(indexes, h * w * kBlock * kBlock, uint8_t{0});
  const bool valid = Tile<contexts::Decoder>(coder, h, w, colours).run(indexes);
  return valid || coder.failed() ? coder.finish() : Status::kBadIndex;
}

}  // namespace palette
}  // namespace neurocodec

#endif  // NEUROCODEC_PALETTE_HPP
