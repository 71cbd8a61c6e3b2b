// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace neurocodec {

// Runs the fuzz target once on each of the files argv[2], argv[3], ..., as libFuzzer does; returns their number.
inline int run_files(int argc, char** argv) {
  for (int i = 2; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    if (!file) {
      std::fprintf(stderr, "%s cannot be read\n", argv[i]);
      std::exit(1);
    }
    const std::vector<uint8_t> data{std::istreambuf_iterator<char>(file), {}};
    LLVMFuzzerTestOneInput(data.data(), data.size());
  }
  return argc > 2 ? argc - 2 : 0;
}

}  // namespace neurocodec
