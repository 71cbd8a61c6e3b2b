// SPDX-License-Identifier: Apache-2.0
//
// Fuzzes the C interface with a small random model: damaged streams and damaged model files must end in a code, never in
// a bad read, a bad write or an overflow. `make fuzz` runs it.
//
// Without libFuzzer the program makes its own inputs: random bytes, and real streams with bytes flipped, cut or added, a
// quarter of them with a damaged model; then it runs the files that it is given. Input of the entry point: height, width,
// quality (2 bytes), kernel and threads, the number of damages to the model, four bytes for each of them (array, place,
// value), then the stream.

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "../test/random_model.hpp"
#include "inputs.hpp"

namespace nc = neurocodec;

namespace {

constexpr nc_shape kShape = nc::RandomModel::kShape;
constexpr size_t kHeader = 6, kDamage = 4;

struct Tile {
  size_t h, w;
  nc_run run;

  explicit Tile(const uint8_t* header)
      : h(1 + header[0] % 5), w(1 + header[1] % 5), run{(header[2] | header[3] << 8) % 961, nullptr, 1 + header[4] % 2u} {
    size_t kernels = 0;
    while (nc_kernel(kernels) != nullptr) ++kernels;
    run.kernel = nc_kernel(header[4] / 2 % kernels);
  }

  size_t latents() const { return h * w * kShape.latent_channels; }
};

nc::RandomModel& random_model() {
  static nc::RandomModel model;
  return model;
}

nc_model* load() {
  const auto& arrays = random_model().arrays();
  nc_model* model = nullptr;
  char message[100];
  const int code = nc_model_new(&kShape, arrays.data(), arrays.size(), &model, message, sizeof(message));
  if ((code == NC_OK) != (model != nullptr) || (code != NC_OK && code != NC_BAD_MODEL)) std::abort();
  return model;
}

nc_model* intact() {
  static nc_model* const model = load();
  return model;
}

std::vector<uint8_t> encode(const nc_model* model, const Tile& tile, const std::vector<int32_t>& y,
                            std::vector<int32_t>& y_hat, uint32_t& checksum) {
  uint8_t* stream = nullptr;
  size_t size = 0;
  y_hat.resize(tile.latents());
  if (nc_encode(model, &tile.run, y.data(), nullptr, tile.h, tile.w, NC_CPU_LAYOUT, &stream, &size, nullptr, nullptr, nullptr, nullptr,
                y_hat.data(), &checksum, nullptr, 0) != NC_OK) {
    std::abort();
  }
  std::vector<uint8_t> result(stream, stream + size);
  nc_free(stream);
  return result;
}

// Pixels to stream and back with a model that loads: whatever it holds, it decodes what it encoded.
void round_trip(const nc_model* model, const Tile& tile) {
  std::vector<uint8_t> rgb(tile.h * tile.w * 768);
  for (size_t i = 0; i < rgb.size(); ++i) rgb[i] = static_cast<uint8_t>(i * 37 + i / 91 * i);
  std::vector<int32_t> y(tile.latents()), y_hat, decoded(tile.latents());
  if (nc_analyse(model, &tile.run, rgb.data(), tile.h, tile.w, y.data(), nullptr, 0) != NC_OK) std::abort();
  uint32_t checksum = 0, other = 0;
  const std::vector<uint8_t> stream = encode(model, tile, y, y_hat, checksum);
  if (nc_decode(model, &tile.run, stream.data(), stream.size(), nullptr, 0, tile.h, tile.w, nullptr, nullptr, decoded.data(), &other,
                nullptr, 0) != NC_OK ||
      decoded != y_hat || checksum != other) {
    std::fprintf(stderr, "a round trip failed\n");
    std::abort();
  }
  std::vector<uint16_t> fine(rgb.size());
  if (nc_synthesise16(model, &tile.run, y_hat.data(), tile.h, tile.w, fine.data(), nullptr, 0) != NC_OK) std::abort();
  int8_t weights[54];
  for (size_t i = 0; i < 54; ++i) weights[i] = static_cast<int8_t>(rgb[i]);
  if (nc_filter(fine.data(), 16 * tile.h, 16 * tile.w, 6 + tile.run.quality_index % 5, weights, tile.run.threads,
                rgb.data(), nullptr, 0) != NC_OK) {
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < kHeader) return 0;
  const Tile tile(data);
  const size_t damages = std::min<size_t>(data[5] % 8, (size - kHeader) / kDamage);
  const size_t begin = kHeader + damages * kDamage;
  const std::vector<uint8_t> stream(data + begin, data + size);  // its own block of memory: reads past the end are seen
  intact();

  nc_model* damaged = nullptr;
  if (damages > 0) {
    auto& model = random_model();
    std::vector<std::pair<uint8_t*, uint8_t>> undo;
    for (size_t i = 0; i < damages; ++i) {
      const uint8_t* const damage = data + kHeader + i * kDamage;
      std::vector<uint8_t>& bytes = model.bytes(damage[0] % model.arrays().size());
      uint8_t& byte = bytes[(damage[1] | size_t{damage[2]} << 8) * bytes.size() >> 16];
      undo.emplace_back(&byte, byte);
      byte = damage[3];
    }
    damaged = load();
    std::for_each(undo.rbegin(), undo.rend(), [](const auto& entry) { *entry.first = entry.second; });
    if (damaged == nullptr) return 0;
    round_trip(damaged, tile);
  }

  std::vector<int32_t> y_hat(tile.latents());
  std::vector<uint8_t> rgb(tile.h * tile.w * 768);
  const nc_model* const model = damaged != nullptr ? damaged : intact();
  const int code = nc_decode(model, &tile.run, stream.data(), stream.size(), nullptr, 0, tile.h, tile.w, nullptr, nullptr, y_hat.data(),
                             nullptr, nullptr, 0);
  if (code != NC_OK && code != NC_TRUNCATED && code != NC_BAD_STREAM && code != NC_BAD_END) std::abort();
  if (nc_synthesise(model, &tile.run, y_hat.data(), tile.h, tile.w, rgb.data(), nullptr, 0) != NC_OK) std::abort();
  nc_model_free(damaged);
  return 0;
}

#ifndef NEUROCODEC_LIBFUZZER
int main(int argc, char** argv) {
  const long runs = argc > 1 ? std::atol(argv[1]) : 1000;
  std::mt19937 random(1);
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  size_t intact_streams = 0;
  for (long run = 0; run < runs; ++run) {
    std::vector<uint8_t> input;
    for (size_t i = 0; i < kHeader; ++i) input.push_back(static_cast<uint8_t>(random()));
    input[5] = static_cast<uint8_t>(run % 4 == 3 ? 1 + below(3) : 0);
    for (size_t i = 0; i < input[5] * kDamage; ++i) input.push_back(static_cast<uint8_t>(random()));
    if (run % 8 == 0) {
      for (size_t i = below(300); i > 0; --i) input.push_back(static_cast<uint8_t>(random()));
    } else {
      const Tile tile(input.data());
      std::vector<int32_t> y(tile.latents()), y_hat;
      const size_t width = 1 + below(22);
      for (int32_t& v : y) v = static_cast<int32_t>(random() % (2u << width)) - (1 << width);
      for (int32_t& v : y) v = std::min(std::max(v, -(1 << 22) + 1), (1 << 22) - 1);
      uint32_t checksum = 0, other = 0;
      std::vector<uint8_t> stream = encode(intact(), tile, y, y_hat, checksum);
      std::vector<int32_t> decoded(tile.latents());
      if (nc_decode(intact(), &tile.run, stream.data(), stream.size(), nullptr, 0, tile.h, tile.w, nullptr, nullptr, decoded.data(),
                    &other, nullptr, 0) != NC_OK ||
          decoded != y_hat || other != checksum) {
        std::fprintf(stderr, "round trip failed in run %ld\n", run);
        return 1;
      }
      ++intact_streams;
      for (size_t k = below(4); k > 0 && !stream.empty(); --k) stream[below(stream.size())] ^= 1u << below(8);
      if (below(3) == 0) stream.resize(below(stream.size() + 1));
      if (below(8) == 0) stream.insert(stream.end(), below(9), static_cast<uint8_t>(random()));
      input.insert(input.end(), stream.begin(), stream.end());
    }
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  const int files = nc::run_files(argc, argv);
  nc_model_free(intact());
  std::printf("%ld inputs, %zu intact round trips, %d files, no fault\n", runs, intact_streams, files);
  return 0;
}
#endif
