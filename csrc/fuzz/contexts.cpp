// SPDX-License-Identifier: Apache-2.0
//
// Fuzzes palettes and streams of z: they must come back, and damaged streams must end in a status or in other values, never
// in a bad read, a bad write or an overflow. `make fuzz` runs it.
//
// Without libFuzzer the program makes its own inputs: drawings and values of z with their streams, and the same with bits
// flipped, bytes cut or added; then it runs the files that it is given. Input of the entry point: height, width, colours
// (0 for z), then the stream.

#include <algorithm>
#include <cstdio>
#include <random>

#include "hyper.hpp"
#include "inputs.hpp"
#include "palette.hpp"

namespace nc = neurocodec;

namespace {

constexpr size_t kHeader = 3, kChannels = 7;

struct Shape {
  size_t h, w, colours;

  explicit Shape(const uint8_t* header) : h(1 + header[0] % 3), w(1 + header[1] % 4), colours(header[2]) {}
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < kHeader) return 0;
  const Shape shape(data);
  const std::vector<uint8_t> stream(data + kHeader, data + size);  // of its own, so that a read past it is seen
  if (shape.colours == 0) {
    std::vector<int32_t> z(shape.h * shape.w * kChannels);
    nc::hyper::decode(stream.data(), stream.size(), shape.h, shape.w, kChannels, z.data());
  } else {
    std::vector<uint8_t> indexes(shape.h * shape.w * 256);
    nc::palette::decode(stream.data(), stream.size(), shape.h, shape.w, shape.colours, indexes.data());
  }
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
    if (run % 3 == 0) input[2] = 0;
    const Shape shape(input.data());
    std::vector<uint8_t> stream;
    bool same;
    if (shape.colours == 0) {
      std::vector<int32_t> z(shape.h * shape.w * kChannels), decoded(z.size());
      const auto reach = static_cast<int32_t>(1 + below(275));
      for (int32_t& value : z) value = below(3) ? 0 : static_cast<int32_t>(below(2 * static_cast<size_t>(reach) + 1)) - reach;
      stream = nc::hyper::encode(z.data(), shape.h, shape.w, kChannels);
      same = nc::hyper::decode(stream.data(), stream.size(), shape.h, shape.w, kChannels, decoded.data()) == nc::Status::kOk &&
             decoded == z;
    } else {
      const size_t width = 16 * shape.w, height = 16 * shape.h;
      std::vector<uint8_t> indexes(height * width), decoded(indexes.size());
      for (size_t shapes = below(40); shapes > 0; --shapes) {
        const size_t top = below(height), left = below(width), value = below(shape.colours);
        for (size_t y = top; y < std::min(top + below(20), height); ++y) {
          for (size_t x = left; x < std::min(left + 9, width); ++x) indexes[y * width + x] = static_cast<uint8_t>(value);
        }
      }
      for (size_t block = 0; block < shape.h * shape.w; ++block) {
        if (below(4)) continue;
        for (size_t i = 0; i < 256; ++i) {
          indexes[(block / shape.w * 16 + i / 16) * width + block % shape.w * 16 + i % 16] =
              static_cast<uint8_t>(shape.colours);
        }
      }
      std::vector<int64_t> costs(shape.h * shape.w);
      stream = nc::palette::encode(indexes.data(), shape.h, shape.w, shape.colours, costs.data());
      same = nc::palette::decode(stream.data(), stream.size(), shape.h, shape.w, shape.colours, decoded.data()) ==
                 nc::Status::kOk &&
             decoded == indexes;
    }
    if (!same) {
      std::fprintf(stderr, "round trip failed in run %ld\n", run);
      return 1;
    }
    for (size_t k = below(4); k > 0 && !stream.empty(); --k) stream[below(stream.size())] ^= 1u << below(8);
    if (below(3) == 0) stream.resize(below(stream.size() + 1));
    if (below(8) == 0) stream.insert(stream.end(), below(9), static_cast<uint8_t>(random()));
    input.insert(input.end(), stream.begin(), stream.end());
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%ld round trips and damaged streams, %d files, no fault\n", runs, nc::run_files(argc, argv));
  return 0;
}
#endif
