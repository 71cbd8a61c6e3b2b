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

#include "network.hpp"
#include "range_coder.hpp"

namespace neurocodec {

// What the stream of a tile holds: z_hat, the symbols of the four passes one after another, and y_hat in units of 1/64.
struct Latents {
  std::vector<int32_t> z_hat, symbols, y_hat;
};

class Model {
 public:
  // arrays: those of a model file, which are copied. Throws ModelError if they do not fit the shape.
  Model(const Shape& shape, const std::map<std::string, Array>& arrays)
      : shape_(checked(shape)), tables_(tables(arrays)), entropy_(Arrays(arrays), shape), g_s_(Arrays(arrays), shape) {
    const Arrays all(arrays);
    if (!all.has("g_a.stem.weight")) return;  // a model for decoding alone
    g_a_ = std::make_unique<Analysis>(all, shape);
    h_a_ = std::make_unique<HyperAnalysis>(all, shape);
  }

  const Shape& shape() const { return shape_; }
  bool encodes() const { return g_a_ != nullptr; }

  // rgb: (16 height, 16 width, 3); y: (height, width, M) in units of 1/64. The model must encode.
  void analyse(const Run& run, const uint8_t* rgb, size_t height, size_t width, int quality, int32_t* y) const {
    (*g_a_)(run, rgb, height, width, quality, y);
  }

  // The stream of y, and the latents that it decodes to. The model must encode.
  std::vector<uint8_t> encode(const Run& run, const int32_t* y, size_t height, size_t width, int quality,
                              Latents& latents) const {
    const size_t positions = height * width, quarter = entropy_.group(), size = positions * quarter;
    latents.z_hat = (*h_a_)(run, y, height, width, quality);
    latents.y_hat.assign(4 * size, 0);
    latents.symbols.resize(4 * size);
    std::vector<int32_t> symbols = latents.z_hat, means(size);
    std::vector<uint8_t> rows = all_z_rows(latents.z_hat.size(), quality), pass_rows(size);
    EntropyNetwork::Walk walk(entropy_, run, latents.z_hat.data(), height, width, quality);
    for (size_t step = 0; step < kPasses; ++step) {
      walk.predict(means.data(), pass_rows.data());
      int32_t* const coded = latents.symbols.data() + step * size;
      for (size_t r = 0; r < height; ++r) {
        for (size_t c = 0; c < width; ++c) {
          const size_t place = r * width + c;
          const int32_t* const from =
              y + place * 4 * quarter + EntropyNetwork::group_at(step, r, c) * quarter;
          for (size_t k = 0; k < quarter; ++k) {
            const int32_t nearest = (from[k] - means[place * quarter + k] + 32) >> kMeanBits;
            coded[place * quarter + k] = std::min(std::max(nearest, -kLargestSymbol), kLargestSymbol);
          }
        }
      }
      symbols.insert(symbols.end(), coded, coded + size);
      rows.insert(rows.end(), pass_rows.begin(), pass_rows.end());
      walk.put(coded, means.data(), latents.y_hat.data());
    }
    const std::vector<size_t> calls = {latents.z_hat.size(), size, size, size, size};
    const auto [lanes_log2, groups_log2] = choose_layout(symbols);
    const StreamEncoder encoder(*tables_, symbols.data(), rows.data(), calls, lanes_log2, groups_log2, run.threads);
    std::vector<uint8_t> stream(encoder.size());
    encoder.write(stream.data());
    return stream;
  }

  // The latents of a stream. They are those of the encoder only if their checksum says so.
  Status decode(const Run& run, const uint8_t* stream, size_t bytes, size_t height, size_t width, int quality,
                Latents& latents) const {
    const size_t size = height * width * entropy_.group();
    StreamDecoder decoder(stream, bytes, *tables_);
    if (decoder.status() != Status::kOk) return decoder.status();
    latents.z_hat.assign((height + 3) / 4 * ((width + 3) / 4) * shape_.hyper_channels, 0);
    const std::vector<uint8_t> z_rows = all_z_rows(latents.z_hat.size(), quality);
    Status status = decoder.decode(z_rows.data(), latents.z_hat.data(), z_rows.size(), run.threads);
    if (status != Status::kOk) return status;
    latents.y_hat.assign(4 * size, 0);
    latents.symbols.assign(4 * size, 0);
    std::vector<int32_t> means(size);
    std::vector<uint8_t> rows(size);
    EntropyNetwork::Walk walk(entropy_, run, latents.z_hat.data(), height, width, quality);
    for (size_t step = 0; step < kPasses; ++step) {
      int32_t* const symbols = latents.symbols.data() + step * size;
      walk.predict(means.data(), rows.data());
      status = decoder.decode(rows.data(), symbols, size, run.threads);
      if (status != Status::kOk) return status;
      walk.put(symbols, means.data(), latents.y_hat.data());
    }
    return decoder.finish();
  }

  // y_hat: (height, width, M) in units of 1/64; rgb: (16 height, 16 width, 3).
  void synthesise(const Run& run, const int32_t* y_hat, size_t height, size_t width, int quality, uint8_t* rgb) const {
    g_s_(run, y_hat, height, width, quality, rgb);
  }

 private:
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

  // Lanes and groups by the number of symbols that are not zero, as docs/coder.md says.
  static std::pair<int, int> choose_layout(const std::vector<int32_t>& symbols) {
    const size_t nonzero = symbols.size() - static_cast<size_t>(std::count(symbols.begin(), symbols.end(), 0));
    if (nonzero < size_t{1} << 16) return {0, 0};
    int groups_log2 = 0;
    while (groups_log2 < kMaxGroupsLog2 && nonzero >> (18 + groups_log2) != 0) ++groups_log2;
    return {2, groups_log2};
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
