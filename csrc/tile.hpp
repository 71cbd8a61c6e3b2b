// SPDX-License-Identifier: Apache-2.0
//
// One tile, from pixels to its stream and back, in the order of the flow diagram:
//
//     pixels ─analyse→ y ─encode→ stream ─decode→ y_hat ─synthesise→ pixels
//
// Header only, C++17; docs/arithmetic.md and docs/coder.md define every number and byte.

#ifndef NEUROCODEC_TILE_HPP
#define NEUROCODEC_TILE_HPP

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "hyper.hpp"
#include "network.hpp"
#include "range_coder.hpp"

namespace neurocodec {

// Where the latents of a tile of height × width go, all int32: z_hat (ceil(height / 4), ceil(width / 4), N), the symbols of
// the four passes (4, height, width, M / 4), and y_hat (height, width, M) in units of 1/64.
struct Latents {
  int32_t* z_hat;
  int32_t* symbols;
  int32_t* y_hat;
};

class Model {
 public:
  // arrays: those of a model file, which are copied. Throws ModelError if they do not fit the shape.
  Model(const Shape& shape, const std::map<std::string, Array>& arrays)
      : shape_(checked(shape)), tables_(tables(arrays)), entropy_(Arrays(arrays), shape), g_s_(Arrays(arrays), shape) {
#ifndef NEUROCODEC_PAGE
    const Arrays all(arrays);
    if (!all.has("g_a.stem.weight")) return;  // a model for decoding alone
    g_a_ = std::make_unique<Analysis>(all, shape);
    h_a_ = std::make_unique<HyperAnalysis>(all, shape);
#endif
  }

  const Shape& shape() const { return shape_; }
  const Synthesis& g_s() const { return g_s_; }
  bool encodes() const { return g_a_ != nullptr; }

  // rgb: (16 height, 16 width, 3), uint8_t or uint16_t; y: (height, width, M) in units of 1/64. The model must encode.
  template <typename Sample>
  void analyse(const Run& run, const Sample* rgb, size_t height, size_t width, int quality, int32_t* y) const {
    (*g_a_)(run, rgb, height, width, quality, y);
  }

  // What writes the stream of y and, unless z has a stream of its own (`apart`), z_hat; the latents are those that it decodes
  // to. y is in ±kMaxLatent; z_hat is null for what h_a makes of y. layout: cpu_layout or gpu_layout. The model must encode.
  StreamEncoder encode(const Run& run, const int32_t* y, const int32_t* z_hat, size_t height, size_t width, int quality,
                       Layout (*layout)(size_t nonzero), bool apart, const Latents& latents) const {
    const size_t quarter = entropy_.group(), size = height * width * quarter, z_size = this->z_size(height, width);
    std::vector<int32_t> symbols =
        z_hat ? std::vector<int32_t>(z_hat, z_hat + z_size) : (*h_a_)(run, y, height, width, quality);
    std::vector<int32_t> means(size);
    std::copy(symbols.begin(), symbols.end(), latents.z_hat);
    symbols.resize(z_size + kPasses * size);
    std::vector<uint8_t> rows = all_z_rows(z_size, quality);
    rows.resize(symbols.size());
    EntropyNetwork::Walk walk(entropy_, run, latents.z_hat, height, width, quality);
    for (size_t step = 0; step < kPasses; ++step) {
      int32_t* to = symbols.data() + z_size + step * size;
      walk.predict(means.data(), rows.data() + z_size + step * size);
      const int32_t* mean = means.data();
      for (size_t r = 0; r < height; ++r) {
        for (size_t c = 0; c < width; ++c) {
          const int32_t* const from =
              y + (r * width + c) * kPasses * quarter + EntropyNetwork::group_at(step, r, c) * quarter;
          for (size_t k = 0; k < quarter; ++k) {
            const int32_t nearest = (from[k] - *mean++ + 32) >> kMeanBits;
            *to++ = std::min(std::max(nearest, -kLargestSymbol), kLargestSymbol);
          }
        }
      }
      walk.put(to - size, means.data(), latents.y_hat);
    }
    std::copy(symbols.begin() + static_cast<std::ptrdiff_t>(z_size), symbols.end(), latents.symbols);
    std::vector<size_t> calls = {z_size, size, size, size, size};
    const size_t from = apart ? z_size : 0;
    if (apart) calls.erase(calls.begin());
    const auto first = symbols.begin() + static_cast<std::ptrdiff_t>(from);
    const size_t nonzero = symbols.size() - from - static_cast<size_t>(std::count(first, symbols.end(), 0));
    return StreamEncoder(*tables_, symbols.data() + from, rows.data() + from, calls, layout(nonzero), run.threads);
  }

  // The latents of a stream; unless the status is kOk they are incomplete. z: the stream of z_hat, or null if it is not
  // apart.
  Status decode(const Run& run, const uint8_t* stream, size_t bytes, const uint8_t* z, size_t z_bytes, size_t height,
                size_t width, int quality, const Latents& latents) const {
    StreamDecoder decoder(stream, bytes, *tables_);
    Status status;
    if (z) {
      status = hyper::decode(z, z_bytes, (height + 3) / 4, (width + 3) / 4, shape_.hyper_channels, latents.z_hat);
    } else {
      const std::vector<uint8_t> z_rows = all_z_rows(z_size(height, width), quality);
      status = decoder.decode(z_rows.data(), latents.z_hat, z_rows.size(), run.threads);
    }
    if (status != Status::kOk) return status;
    const size_t size = height * width * entropy_.group();
    std::vector<int32_t> means(size);
    std::vector<uint8_t> rows(size);
    EntropyNetwork::Walk walk(entropy_, run, latents.z_hat, height, width, quality);
    for (size_t step = 0; step < kPasses; ++step) {
      int32_t* const symbols = latents.symbols + step * size;
      walk.predict(means.data(), rows.data());
      status = decoder.decode(rows.data(), symbols, size, run.threads);
      if (status != Status::kOk) return status;
      walk.put(symbols, means.data(), latents.y_hat);
    }
    return decoder.finish();
  }

  // y_hat: (height, width, M) in units of 1/64; rgb: (16 height, 16 width, 3), uint8_t or uint16_t.
  template <typename Sample>
  void synthesise(const Run& run, const int32_t* y_hat, size_t height, size_t width, int quality, Sample* rgb) const {
    g_s_(run, y_hat, height, width, quality, rgb);
  }

 private:
  size_t z_size(size_t height, size_t width) const {
    return (height + 3) / 4 * ((width + 3) / 4) * shape_.hyper_channels;
  }

  static constexpr int32_t kLargestSymbol = kMaxLatent / 64;
  static constexpr size_t kMaxChannels = 1024, kMaxBlocks = 16;

  static const Shape& checked(const Shape& shape) {
    for (const size_t channels :
         {shape.channels, shape.latent_channels, shape.hyper_channels, shape.hidden_channels}) {
      if (channels < 1 || channels > kMaxChannels) throw ModelError("a number of channels is out of range.");
    }
    if (shape.latent_channels % kPasses != 0 ||
        std::max({shape.encoder_blocks, shape.decoder_blocks, shape.latent_blocks}) > kMaxBlocks) {
      throw ModelError("the shape of the model is impossible.");
    }
    return shape;
  }

  static std::unique_ptr<Tables> tables(const std::map<std::string, Array>& arrays) {
    const auto entry = [&](const std::string& name) -> const Array& {
      const auto found = arrays.find("tables." + name);
      if (found == arrays.end() || found->second.shape.size() != 1) throw ModelError("the model file lacks tables." + name + ".");
      return found->second;
    };
    const Array &frequencies = entry("frequencies"), &offsets = entry("offsets"), &lengths = entry("lengths");
    const bool types = frequencies.type == Type::kUint16 && offsets.type == Type::kInt32 && lengths.type == Type::kInt32;
    std::unique_ptr<Tables> built;
    if (types && offsets.shape == lengths.shape && offsets.shape[0] == kScaleLevels) {
      built = Tables::build(static_cast<const uint16_t*>(frequencies.data), frequencies.shape[0],
                            static_cast<const int32_t*>(offsets.data), static_cast<const int32_t*>(lengths.data),
                            kScaleLevels);
    }
    if (!built) throw ModelError("the tables of the model file are malformed.");
    return built;
  }

  std::vector<uint8_t> all_z_rows(size_t count, int quality) const {
    const std::vector<uint8_t> row = entropy_.z_rows(quality);
    std::vector<uint8_t> rows(count);
    for (size_t i = 0; i < count; ++i) rows[i] = row[i % row.size()];
    return rows;
  }

  Shape shape_;
  std::unique_ptr<Tables> tables_;
  EntropyNetwork entropy_;
  Synthesis g_s_;
  std::unique_ptr<Analysis> g_a_;
  std::unique_ptr<HyperAnalysis> h_a_;
};

}  // namespace neurocodec

#endif  // NEUROCODEC_TILE_HPP
