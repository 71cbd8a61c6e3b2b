// SPDX-License-Identifier: Apache-2.0
//
// Fuzzes the lossless layer: exact pixels must come back, and damaged residuals must end in a status or in other pixels,
// never in a bad read, a bad write or an overflow. `make fuzz` runs it.
//
// Without libFuzzer the program makes its own inputs: pictures of many kinds with their residuals, and the same with bits
// flipped, bytes cut or added; then it runs the files that it is given. Input of the entry point: height, width, channels
// and kind of the lossy picture, its seed, then the residual.

#include <algorithm>
#include <cstdio>
#include <random>

#include "inputs.hpp"
#include "lossless.hpp"

namespace nc = neurocodec;

namespace {

constexpr size_t kHeader = 5;
constexpr int kKinds = 5;

struct Picture {
  size_t height, width, channels;
  std::vector<uint8_t> pixels;

  explicit Picture(const uint8_t* header)
      : height(1 + header[0] % 40), width(1 + header[1] % 40), channels(header[2] % 2 ? 3 : 1),
        pixels(height * width * channels) {
    std::mt19937 random(header[4]);
    const auto flat = static_cast<uint8_t>(random());
    for (size_t i = 0; i < pixels.size(); ++i) {
      const size_t x = i / channels % width, y = i / channels / width;
      switch (header[3] % kKinds) {
        case 0: pixels[i] = flat; break;
        case 1: pixels[i] = static_cast<uint8_t>(random()); break;
        case 2: pixels[i] = static_cast<uint8_t>(3 * x + 2 * y + i % channels * 40); break;
        case 3: pixels[i] = (x / 4 + y / 4) % 2 ? 255 : 0; break;
        default: pixels[i] = random() % 16 ? flat : static_cast<uint8_t>(255 * (random() % 2));
      }
    }
  }

  nc::LosslessTile tile() const { return {pixels.data(), height, width, channels}; }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < kHeader) return 0;
  const Picture picture(data);
  std::vector<uint8_t> exact(picture.pixels.size());
  const std::vector<uint8_t> residual(data + kHeader, data + size);  // of its own, so that a read past it is seen
  picture.tile().decode(residual.data(), residual.size(), exact.data());
  return 0;
}

#ifndef NEUROCODEC_LIBFUZZER
int main(int argc, char** argv) {
  const long runs = argc > 1 ? std::atol(argv[1]) : 1000;
  std::mt19937 random(1);
  const auto below = [&](size_t n) { return n ? random() % n : 0; };
  for (long run = 0; run < runs; ++run) {
    std::vector<uint8_t> input(kHeader);
    for (uint8_t& byte : input) byte = static_cast<uint8_t>(random());
    const Picture lossy(input.data());
    std::vector<uint8_t> header = input;
    header[3] = static_cast<uint8_t>(random());
    std::vector<uint8_t> exact = Picture(header.data()).pixels;
    if (run % 2) {  // near the lossy picture, as real ones are
      for (size_t i = 0; i < exact.size(); ++i) {
        const int value = lossy.pixels[i] + static_cast<int>(below(9)) - 4;
        exact[i] = static_cast<uint8_t>(std::min(std::max(value, 0), 255));
      }
    }

    std::vector<uint8_t> residual = lossy.tile().encode(exact.data()), decoded(exact.size());
    if (lossy.tile().decode(residual.data(), residual.size(), decoded.data()) != nc::Status::kOk || decoded != exact) {
      std::fprintf(stderr, "round trip failed in run %ld\n", run);
      return 1;
    }
    for (size_t k = below(4); k > 0 && !residual.empty(); --k) residual[below(residual.size())] ^= 1u << below(8);
    if (below(3) == 0) residual.resize(below(residual.size() + 1));
    if (below(8) == 0) residual.insert(residual.end(), below(9), static_cast<uint8_t>(random()));
    input.insert(input.end(), residual.begin(), residual.end());
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%ld round trips and damaged residuals, %d files, no fault\n", runs, nc::run_files(argc, argv));
  return 0;
}
#endif
