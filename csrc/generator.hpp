// SPDX-License-Identifier: Apache-2.0
//
// The generative decoder in integers, on top of the features of g_s. Header only, C++17. docs/arithmetic.md defines it;
// neurocodec/integer/generator.py is the readable twin.

#ifndef NEUROCODEC_GENERATOR_HPP
#define NEUROCODEC_GENERATOR_HPP

#include <map>
#include <string>
#include <vector>

#include "network.hpp"

namespace neurocodec {

constexpr int kRealismSteps = 2048;
constexpr size_t kRealismRows = kRealismSteps / 2 / kQualitySteps + 1;
constexpr size_t kSigmoidTable = size_t{1} << 12;
constexpr int kDetailShift = 15;      // fractional bits of the detail times its gain, in 1/256 of a level
constexpr int kMaxGainBits = 24;      // of the detail
constexpr int32_t kEpsilon = 66;      // 0.001 in squares of activations with 8 bits, a channel

struct GeneratorShape {
  size_t channels, blocks, fine_blocks, fine_width;

  size_t fine_channels() const { return channels / 16 * fine_width; }
};

// A norm over the channels of a position.
struct Norm {
  size_t channels;
  int64_t epsilon;

  void operator()(Kernel kernel, const int16_t* x, size_t positions, int16_t* out) const {
    for (size_t p = 0; p < positions; ++p) normalise(kernel, x + p * channels, channels, epsilon, out + p * channels);
  }
};

// x + gain · f(x), with f: norm, 1×1, depthwise 3×3, gate by SiLU, 1×1.
class ModulatedBlock {
 public:
  ModulatedBlock(const Arrays& arrays, const std::string& name, size_t channels, const std::vector<int16_t>& sigmoid)
      : norm_{channels, static_cast<int64_t>(kEpsilon) * static_cast<int64_t>(channels)},
        in_(arrays.pointwise(name + ".conv_in", 2 * channels, channels)),
        dw_(arrays.depthwise(name + ".conv_dw", 2 * channels)),
        out_(arrays.pointwise(name + ".conv_out", channels, channels)),
        gain_(arrays.take<int32_t>(name + ".gain", {kRealismRows, channels}), channels, kRealismRows),
        sigmoid_(&sigmoid) {
    for (const int32_t value : gain_.values) {
      if (value < -32767 || value > 32767) throw ModelError("a gain of " + name + " is out of range.");
    }
  }

  void operator()(const Run& run, int row, Map& x) const {
    std::vector<int32_t> gain(x.channels);
    for (size_t c = 0; c < gain.size(); ++c) gain[c] = gain_.at(row, c);
    in_place(run, x, [&](size_t first, size_t last, const int16_t* before, const int16_t* after) {
      const size_t size = x.row_size(), channels = x.channels;
      std::vector<int16_t> normal(size + 1), u(size + 1), v(2 * size + 1);
      RowRing ring(2 * size);
      const auto inner = [&](const int16_t* from, size_t r) -> const int16_t* {
        norm_(run.kernel, from, x.width, normal.data());
        in_.run(run.kernel, normal.data(), x.width, ring[r]);
        return ring[r];
      };
      ring.walk(x, first, last, before, after, inner, [&](size_t r, const RowRing::Neighbours& rows) {
        dw_.run_row(run.kernel, rows.above, rows.here, rows.below, x.width, 2 * channels, v.data(), 2 * channels);
        for (size_t c = 0; c < x.width; ++c) {
          const int16_t* const value = v.data() + 2 * c * channels;
          silu_gate(run.kernel, value, value + channels, sigmoid_->data(), channels, u.data() + c * channels);
        }
        out_.run(run.kernel, u.data(), x.width, v.data());
        for (size_t c = 0; c < x.width; ++c) {
          add_gained(run.kernel, x.row(r) + c * channels, v.data() + c * channels, gain.data(), channels);
        }
      });
    });
  }

 private:
  Norm norm_;
  Pointwise in_;
  Depthwise dw_;
  Pointwise out_;
  Rows gain_;
  const std::vector<int16_t>* sigmoid_;  // the generator's
};

class Generator {
 public:
  // base_channels: of the features of g_s. Throws ModelError if the arrays do not fit the shape.
  Generator(const GeneratorShape& shape, size_t base_channels, const Arrays& arrays)
      : sigmoid_(sigmoid_table(arrays)),
        shift_(feature_shift(arrays, base_channels)),
        norm_{base_channels, *arrays.take<int32_t>("norm_in.epsilon", {1})},
        quality_(arrays.take<int32_t>("quality", {kQualityRows, shape.channels}), shape.channels),
        in_(arrays.pointwise("conv_in", shape.channels, base_channels, 32768, {{"quality", kQualityRows}})),
        to_fine_(arrays.pointwise("to_fine", 16 * shape.fine_channels(), shape.channels, 32768, {},
                                  patch_order(shape.fine_channels(), 4))),
        head_(arrays.pointwise("head", 12, shape.fine_channels(), 32768, {}, patch_order(3, 2))),
        gain_(arrays.take<int32_t>("gain", {kRealismRows, 3}), 3, kRealismRows) {
    if (norm_.epsilon < 1) throw ModelError("the generative decoder holds a norm that is out of range.");
    for (const int32_t value : gain_.values) {
      if (value <= -(1 << kMaxGainBits) || value >= 1 << kMaxGainBits) {
        throw ModelError("a gain of the detail is out of range.");
      }
    }
    for (size_t i = 0; i < shape.blocks; ++i) {
      blocks_.emplace_back(arrays, "blocks." + std::to_string(i), shape.channels, sigmoid_);
    }
    for (size_t i = 0; i < shape.fine_blocks; ++i) {
      fine_blocks_.emplace_back(arrays, "fine_blocks." + std::to_string(i), shape.fine_channels(), sigmoid_);
    }
  }
  Generator(const Generator&) = delete;  // blocks point to the table
  Generator& operator=(const Generator&) = delete;

  size_t base_channels() const { return norm_.channels; }

  // y_hat: (height, width, M) in units of 1/64; realism: 1 to kRealismSteps; rgb: (16 height, 16 width, 3), uint8_t or
  // uint16_t. trunk: g_s of the model whose latents they are.
  template <typename Sample>
  void operator()(const Run& run, const Synthesis& trunk, const int32_t* y_hat, size_t height, size_t width,
                  int quality, int realism, Sample* rgb) const {
    const Map features = trunk.features(run, y_hat, height, width, quality);
    const Map fine = detail(run, features, quality, realism);
    const int amount = std::min(realism, kRealismSteps / 2);
    int64_t gain[3];
    for (size_t c = 0; c < 3; ++c) {
      gain[c] = (int64_t{gain_.at(row_of(realism), c)} * amount + kRealismSteps / 4) >> 10;
    }
    const size_t samples = 16 * width * 3;
    run.bands(features.height, [&](size_t first, size_t last) {
      std::vector<int32_t> levels(kPatch * samples);
      for (size_t r = first; r < last; ++r) {
        trunk.levels(run.kernel, features.row(r), features.width, levels.data());
        for (size_t i = 0; i < kPatch; ++i) {  // two rows of pixels are one of `fine`, six samples a position
          const int16_t* const from = fine.row(kPatch / 2 * r + i / 2) + i % 2 * 6;
          const int32_t* const level = levels.data() + i * samples;
          Sample* const to = rgb + (kPatch * r + i) * samples;
          for (size_t k = 0; k < samples; ++k) {
            const int64_t more = from[k / 6 * 12 + k % 6] * gain[k % 3];
            to[k] = rounded<Sample>(level[k] + ((more + (1 << (kDetailShift - 1))) >> kDetailShift));
          }
        }
      }
    });
  }

 private:
  static int row_of(int realism) { return std::max(realism - kRealismSteps / 2, 0); }

  // Pixels in 1/256 of a level -> samples.
  template <typename Sample>
  static Sample rounded(int64_t pixel) {
    if (sizeof(Sample) == 1) return static_cast<Sample>(clamp64((pixel + 128) >> 8, 0, 255));
    return static_cast<Sample>(clamp64((257 * pixel + 128) >> 8, 0, 65535));
  }

  // The detail before its gain: (4 h, 4 w, 12) of features (h, w, C), channels as (row, column, colour).
  Map detail(const Run& run, const Map& features, int quality, int realism) const {
    Map x(features.height, features.width, in_.outputs());
    std::vector<int32_t> bias = in_.bias();
    for (size_t o = 0; o < bias.size(); ++o) bias[o] += quality_.at(quality, o);
    run.bands(x.height, [&](size_t first, size_t last) {
      std::vector<int16_t> row(features.row_size() + 1);
      for (size_t r = first; r < last; ++r) {
        for (size_t k = 0; k < features.row_size(); ++k) {
          const int shift = shift_[k % features.channels];
          row[k] = static_cast<int16_t>((features.row(r)[k] + (1 << shift >> 1)) >> shift);
        }
        norm_(run.kernel, row.data(), x.width, row.data());
        in_.run<int16_t>(
            run.kernel, x.width, [&](size_t p) { return row.data() + p * features.channels; },
            [&](size_t) { return bias.data(); }, -32768, 32767, [&](size_t p) { return x.row(r) + p * x.channels; });
      }
    });
    for (const ModulatedBlock& block : blocks_) block(run, row_of(realism), x);
    x = apply_and_shuffle(run, to_fine_, x, -32768, 32767, 4);
    for (const ModulatedBlock& block : fine_blocks_) block(run, row_of(realism), x);
    return apply(run, head_, x, -32768, 32767);
  }

  static std::vector<int16_t> sigmoid_table(const Arrays& arrays) {
    const auto* const from = arrays.take<int16_t>("sigmoid_table", {kSigmoidTable});
    for (size_t i = 0; i < kSigmoidTable; ++i) {
      if (from[i] < 0) throw ModelError("the generative decoder holds a malformed sigmoid_table.");
    }
    return {from, from + kSigmoidTable};
  }

  static std::vector<int8_t> feature_shift(const Arrays& arrays, size_t channels) {
    const auto* const from = arrays.take<int8_t>("norm_in.shift", {channels});
    for (size_t c = 0; c < channels; ++c) {
      if (from[c] < 0 || from[c] > 15) throw ModelError("the generative decoder holds a norm that is out of range.");
    }
    return {from, from + channels};
  }

  std::vector<int16_t> sigmoid_;
  std::vector<int8_t> shift_;
  Norm norm_;
  Rows quality_;
  Pointwise in_, to_fine_, head_;
  Rows gain_;
  std::vector<ModulatedBlock> blocks_, fine_blocks_;
};

}  // namespace neurocodec

#endif  // NEUROCODEC_GENERATOR_HPP
