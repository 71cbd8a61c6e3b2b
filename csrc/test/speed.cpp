// SPDX-License-Identifier: Apache-2.0
//
// Multiply-adds a second of every kind of layer in the shapes of the model base, on rows of a picture of 768×512, and
// the most that the multiply-add instruction of a kernel does in registers. Seconds of CPU, on one thread; a JSON object
// for each layer.
//
//   g++ -std=c++17 -O3 -pthread -I csrc csrc/test/speed.cpp -o speed && ./speed

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <random>
#include <tuple>

#include "../integer_layers.hpp"

namespace nc = neurocodec;

namespace {

constexpr int kRounds = 7;
constexpr double kSeconds = 0.05;  // of a round

// The best of several rounds, in 10^9 multiply-adds a second. macs: those of one call.
template <typename Function>
double gmacs(double macs, const Function& function) {
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    size_t calls = 0;
    const std::clock_t start = std::clock();
    double seconds = 0;
    while (seconds < kSeconds) {
      for (int i = 0; i < 16; ++i) function();
      calls += 16;
      seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    }
    best = std::max(best, macs * static_cast<double>(calls) / seconds / 1e9);
  }
  return best;
}

#ifdef NC_X86
constexpr size_t kSteps = 1000, kSums = 12;
#define NC_UNROLLED _Pragma("GCC unroll 12")  // so that the sums stay in registers

NC_AVX2 void multiply_avx2() {
  __m256i total[kSums] = {}, product;
  const __m256i pair = _mm256_set1_epi16(3), w = _mm256_set1_epi16(5);
  for (size_t k = 0; k < kSteps; ++k) {
    NC_UNROLLED
    for (size_t i = 0; i < kSums; ++i) {
      asm volatile("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(total[i]), "=&x"(product) : "x"(pair), "x"(w));
    }
  }
}

NC_AVX512 void multiply_avx512() {
  __m512i total[kSums] = {};
  const __m512i pair = _mm512_set1_epi16(3), w = _mm512_set1_epi16(5);
  for (size_t k = 0; k < kSteps; ++k) {
    NC_UNROLLED
    for (size_t i = 0; i < kSums; ++i) asm volatile("vpdpwssd %1, %2, %0" : "+v"(total[i]) : "v"(pair), "v"(w));
  }
}
#endif

// 0 for a kernel whose instruction is not measured.
double peak(nc::Kernel kernel) {
#ifdef NC_X86
  if (kernel == nc::Kernel::kAvx2) return gmacs(kSums * 16 * kSteps, multiply_avx2);
  if (kernel == nc::Kernel::kAvx512) return gmacs(kSums * 32 * kSteps, multiply_avx512);
#endif
  static_cast<void>(kernel);
  return 0;
}

void measure(nc::Kernel kernel) {
  const double most = peak(kernel);
  const auto show = [&](const char* layer, double rate) {
    std::printf("{\"kernel\": \"%s\", \"layer\": \"%s\", \"gmac_per_s\": %.1f", nc::name_of(kernel), layer, rate);
    if (most > 0) std::printf(", \"of_peak\": %.2f", rate / most);
    std::printf("}\n");
  };
  if (most > 0) show("multiply-add in registers: the peak", most);
  std::mt19937 random(1);
  const auto integers = [&](size_t count, int largest) {
    std::vector<int16_t> values(count);
    for (int16_t& v : values) v = static_cast<int16_t>(static_cast<int>(random() % (2 * largest + 1)) - largest);
    return values;
  };
  struct Shape {
    const char* name;
    size_t positions, inputs, outputs;
    int32_t low, high;
  };
  for (const Shape& s : {Shape{"1x1, 192 to 192 at 1/8", 96, 192, 192, -32768, 32767},
                         Shape{"1x1, 192 to 384 at 1/8 (gate)", 96, 192, 384, -32768, 32767},
                         Shape{"1x1, 192 to 192 at 1/8 (head)", 96, 192, 192, 0, 255},
                         Shape{"1x1, 256 to 256 at 1/16", 48, 256, 256, -32768, 32767},
                         Shape{"1x1, 256 to 768 at 1/16 (up)", 48, 256, 768, -32768, 32767},
                         Shape{"1x1, 704 to 192 at 1/16 (context)", 48, 704, 192, 0, 32512}}) {
    const std::vector<int16_t> x = integers(s.positions * s.inputs + 1, 2000);
    const std::vector<int32_t> bias(s.outputs, 1000);
    const std::vector<int8_t> shift(s.outputs, 14);
    const nc::Pointwise layer(integers(s.inputs * s.outputs, 300).data(), bias.data(), shift.data(), s.outputs, s.inputs);
    std::vector<int16_t> out(s.positions * s.outputs);
    show(s.name, gmacs(static_cast<double>(s.positions * s.inputs * s.outputs),
                       [&] { layer.run(kernel, x.data(), s.positions, out.data(), s.low, s.high); }));
  }
  for (const auto& [name, positions, channels] :
       {std::tuple{"depthwise, 192 at 1/8", size_t{96}, size_t{192}}, std::tuple{"depthwise, 256 at 1/16", size_t{48}, size_t{256}},
        std::tuple{"depthwise, 512 at 1/16", size_t{48}, size_t{512}}}) {
    const size_t row = positions * channels;
    const std::vector<int16_t> x = integers(3 * row, 2000);
    const std::vector<int32_t> bias(channels, 1000);
    const std::vector<int8_t> shift(channels, 12);
    const nc::Depthwise layer(integers(9 * channels, 3000).data(), bias.data(), shift.data(), channels);
    std::vector<int16_t> out(row);
    show(name, gmacs(static_cast<double>(9 * row), [&] {
           layer.run_row(kernel, x.data(), x.data() + row, x.data() + 2 * row, positions, channels, out.data(), channels);
         }));
  }
}

}  // namespace

int main() {
  for (const nc::Kernel kernel : nc::kernels()) measure(kernel);
  return 0;
}
