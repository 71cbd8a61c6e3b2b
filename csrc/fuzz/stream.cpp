// SPDX-License-Identifier: Apache-2.0
//
// Fuzzes the range decoder: damaged streams must end in a status, never in a bad read or write. `make fuzz` runs it.
//
// With libFuzzer (-DNEUROCODEC_LIBFUZZER -fsanitize=fuzzer) inputs are found by coverage; without, the program makes its
// own: random bytes, and real streams with bytes flipped, cut or added; then it runs the files that it is given. Input of
// the entry point: one byte for the number of symbols, one for the size of the calls, then the stream.

#include <cstdio>
#include <cstdlib>
#include <random>

#include "inputs.hpp"
#include "range_coder.hpp"

namespace nc = neurocodec;

namespace {

constexpr size_t kRows = 4;

const nc::Tables& tables() {
  // A sharp row, a flat one, one at each end of the 32-bit integers.
  static const auto tables = [] {
    std::vector<uint16_t> frequencies = {7, 65521, 7, 1};
    for (int i = 0; i < 300; ++i) frequencies.push_back(218);
    frequencies.insert(frequencies.end(), {136, 40000, 25535, 1, 1, 65535});
    const int32_t offsets[] = {-1, -150, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()};
    const int32_t lengths[] = {4, 301, 3, 2};
    return nc::Tables::build(frequencies.data(), frequencies.size(), offsets, lengths, kRows);
  }();
  if (!tables) std::abort();
  return *tables;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const size_t count = size_t{data[0]} * 16, call = size_t{data[1]} + 1;
  std::vector<uint8_t> indexes(count);
  for (size_t i = 0; i < count; ++i) indexes[i] = static_cast<uint8_t>((i * 7 + i / 5) % kRows);
  std::vector<int32_t> symbols(count);
  const std::vector<uint8_t> stream(data + 2, data + size);  // its own block of memory: reads past the end are seen
  nc::StreamDecoder decoder(stream.data(), stream.size(), tables());
  for (size_t i = 0; i < count; i += call) {
    decoder.decode(indexes.data() + i, symbols.data() + i, std::min(call, count - i), 1 + data[1] % 2);
  }
  decoder.finish();
  return 0;
}

#ifndef NEUROCODEC_LIBFUZZER
int main(int argc, char** argv) {
  const long runs = argc > 1 ? std::atol(argv[1]) : 10000;
  std::mt19937 random(1);
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  size_t intact = 0;
  for (long run = 0; run < runs; ++run) {
    std::vector<uint8_t> input = {static_cast<uint8_t>(random()), static_cast<uint8_t>(random())};
    if (run % 4 == 0) {
      input.resize(2 + below(200));
      for (size_t i = 2; i < input.size(); ++i) input[i] = static_cast<uint8_t>(random());
      if (run % 8 == 0 && input.size() > 2) input[2] &= 0x4a;  // few lanes and groups reach further
    } else {
      const size_t count = size_t{input[0]} * 16, call = size_t{input[1]} + 1;
      std::vector<int32_t> symbols(count);
      std::vector<uint8_t> indexes(count);
      std::vector<size_t> calls;
      for (size_t i = 0; i < count; ++i) {
        indexes[i] = static_cast<uint8_t>((i * 7 + i / 5) % kRows);
        const auto& row = tables().rows()[indexes[i]];
        const auto inside = static_cast<int32_t>(row.offset + static_cast<int64_t>(below(row.escape)));
        symbols[i] = below(30) == 0 ? static_cast<int32_t>(random()) >> below(32) : inside;
      }
      for (size_t i = 0; i < count; i += call) calls.push_back(std::min(call, count - i));
      const int lanes = static_cast<int>(below(6)), groups = static_cast<int>(below(8));
      const nc::StreamEncoder encoder(tables(), symbols.data(), indexes.data(), calls, {lanes, groups}, 2);
      std::vector<uint8_t> stream(encoder.size());
      encoder.write(stream.data());

      std::vector<int32_t> decoded(count);
      nc::StreamDecoder decoder(stream.data(), stream.size(), tables());
      size_t begin = 0;
      for (const size_t n : calls) {
        decoder.decode(indexes.data() + begin, decoded.data() + begin, n, 2);
        begin += n;
      }
      if (decoder.finish() != nc::Status::kOk || decoded != symbols) {
        std::fprintf(stderr, "round trip failed in run %ld\n", run);
        return 1;
      }
      ++intact;
      for (size_t k = below(4); k > 0 && !stream.empty(); --k) stream[below(stream.size())] ^= 1u << below(8);
      if (below(3) == 0) stream.resize(below(stream.size() + 1));
      if (below(8) == 0) stream.insert(stream.end(), below(9), static_cast<uint8_t>(random()));
      input.insert(input.end(), stream.begin(), stream.end());
    }
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%ld inputs, %zu intact round trips, %d files, no fault\n", runs, intact, nc::run_files(argc, argv));
  return 0;
}
#endif
