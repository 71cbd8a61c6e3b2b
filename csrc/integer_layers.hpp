// SPDX-License-Identifier: Apache-2.0
//
// The layers of the exact entropy path: 1×1 and depthwise 3×3 convolutions on 16-bit integers. Header only, C++17.
// docs/arithmetic.md defines the numbers and neurocodec.entropy.integer.NumpyArithmetic is the readable twin; both win
// over this file.
//
//     out = clamp((sum of weight · input + bias + 2^shift / 2) >> shift, low, high)
//
// Surprises:
//  * Sums are 32-bit. The caller has proved from the weights that no partial sum overflows, so every kernel gives the
//    same result in any order of summation.
//  * Weights are packed by sixteen outputs; for x86 also by pairs of inputs, for vpmaddwd and vpdpwssd.
//  * Kernels are chosen at run time; "generic" is plain C++ and runs everywhere.

#ifndef NEUROCODEC_INTEGER_LAYERS_HPP
#define NEUROCODEC_INTEGER_LAYERS_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "parallel.hpp"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define NC_X86 1
#include <immintrin.h>
#define NC_AVX2 __attribute__((target("avx2")))
#define NC_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,avx2")))
#endif

#if defined(__GNUC__) || defined(__clang__)
#define NC_INLINE inline __attribute__((always_inline))
#else
#define NC_INLINE inline
#endif

#if defined(__GNUC__) && !defined(__clang__)
#define NC_ROLLED _Pragma("GCC unroll 1")  // GCC would unroll these loops completely instead of vectorising them
#else
#define NC_ROLLED
#endif

namespace neurocodec {

enum class Kernel { kGeneric, kAvx2, kAvx512 };

// The kernels that this machine runs, best first.
inline std::vector<Kernel> kernels() {
  std::vector<Kernel> list;
#ifdef NC_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni")) {
    list.push_back(Kernel::kAvx512);
  }
  if (__builtin_cpu_supports("avx2")) list.push_back(Kernel::kAvx2);
#endif
  list.push_back(Kernel::kGeneric);
  return list;
}

// From a sum to an output: rounding shift, clamp.
struct Requantise {
  int32_t rounding, shift, low, high;

  Requantise(int bits, int32_t lowest, int32_t highest)
      : rounding(bits > 0 ? int32_t{1} << (bits - 1) : 0), shift(bits), low(lowest), high(highest) {}

  NC_INLINE int32_t operator()(int32_t sum) const {
    return std::min(std::max((sum + rounding) >> shift, low), high);
  }
};

constexpr size_t kPanel = 16;  // outputs packed together
constexpr size_t kTile = 12;   // positions computed together
constexpr size_t kPanels = 2;  // panels computed together

namespace layers {

NC_INLINE int32_t pair_at(const int16_t* x, size_t k) {
  int32_t pair;
  std::memcpy(&pair, x + 2 * k, sizeof(pair));
  return pair;
}

// Sums of `count` positions × `panels` panels into sums[position][panel * 16 + output]. x[p]: the inputs of position p.
// Here the weights of one input are contiguous, so compilers can vectorise the loop for any machine.
inline void sums_generic(const int16_t* const* x, size_t count, const int16_t* weights, size_t inputs, size_t panels,
                         int32_t (*sums)[kPanels * kPanel]) {
  for (size_t n = 0; n < panels; ++n) {
    for (size_t p = 0; p < count; ++p) {
      int32_t total[kPanel] = {};
      for (size_t k = 0; k < inputs; ++k) {
        const int16_t* const w = weights + (n * inputs + k) * kPanel;
        const int16_t value = x[p][k];
        NC_ROLLED
        for (size_t i = 0; i < kPanel; ++i) total[i] += static_cast<int32_t>(value) * w[i];
      }
      std::memcpy(sums[p] + n * kPanel, total, sizeof(total));
    }
  }
}

#ifdef NC_X86
// The x86 kernels read interleaved weights: those of a pair of inputs alternate.
NC_AVX2 inline void sums_avx2(const int16_t* const* x, size_t count, const int16_t* weights, size_t pairs,
                              size_t panels, int32_t (*sums)[kPanels * kPanel]) {
  constexpr size_t kHalf = kTile / 2;  // as many positions as fit the registers
  for (size_t n = 0; n < panels; ++n) {
    for (size_t first = 0; first < count; first += kHalf) {
      __m256i low[kHalf], high[kHalf];
      for (size_t p = 0; p < kHalf; ++p) low[p] = high[p] = _mm256_setzero_si256();
      for (size_t k = 0; k < pairs; ++k) {
        const auto* const w = reinterpret_cast<const __m256i*>(weights + (n * pairs + k) * 2 * kPanel);
        const __m256i w0 = _mm256_loadu_si256(w), w1 = _mm256_loadu_si256(w + 1);
        for (size_t p = 0; p < kHalf; ++p) {
          const __m256i pair = _mm256_set1_epi32(pair_at(x[first + p], k));
          low[p] = _mm256_add_epi32(low[p], _mm256_madd_epi16(pair, w0));
          high[p] = _mm256_add_epi32(high[p], _mm256_madd_epi16(pair, w1));
        }
      }
      for (size_t p = 0; p < kHalf; ++p) {
        auto* const out = reinterpret_cast<__m256i*>(sums[first + p] + n * kPanel);
        _mm256_storeu_si256(out, low[p]);
        _mm256_storeu_si256(out + 1, high[p]);
      }
    }
  }
}

template <size_t kCount>
NC_AVX512 inline void sums_avx512_panels(const int16_t* const* x, size_t count, const int16_t* weights, size_t pairs,
                                         int32_t (*sums)[kPanels * kPanel]) {
  __m512i total[kTile][kCount];
  for (size_t p = 0; p < kTile; ++p) {
    for (size_t n = 0; n < kCount; ++n) total[p][n] = _mm512_setzero_si512();
  }
  for (size_t k = 0; k < pairs; ++k) {
    __m512i w[kCount];
    for (size_t n = 0; n < kCount; ++n) w[n] = _mm512_loadu_si512(weights + (n * pairs + k) * 2 * kPanel);
    for (size_t p = 0; p < kTile; ++p) {
      const __m512i pair = _mm512_set1_epi32(pair_at(x[p], k));
      for (size_t n = 0; n < kCount; ++n) total[p][n] = _mm512_dpwssd_epi32(total[p][n], pair, w[n]);
    }
  }
  for (size_t p = 0; p < count; ++p) {
    for (size_t n = 0; n < kCount; ++n) _mm512_storeu_si512(sums[p] + n * kPanel, total[p][n]);
  }
}

NC_AVX512 inline void sums_avx512(const int16_t* const* x, size_t count, const int16_t* weights, size_t pairs,
                                  size_t panels, int32_t (*sums)[kPanels * kPanel]) {
  if (panels == kPanels) return sums_avx512_panels<kPanels>(x, count, weights, pairs, sums);
  sums_avx512_panels<1>(x, count, weights, pairs, sums);
}
#endif

// One position of a depthwise layer, channels from `first` on. taps: the inputs at the nine neighbours.
inline void depthwise_generic(const int16_t* const* taps, const int16_t* weights, const int32_t* bias, size_t first,
                              size_t channels, const Requantise& requantise, int16_t* out) {
  constexpr size_t kBlock = 16;
  int32_t total[kBlock];
  for (size_t c = first; c < channels; c += kBlock) {
    const size_t count = std::min(kBlock, channels - c);
    std::copy_n(bias + c, count, total);
    for (size_t t = 0; t < 9; ++t) {
      for (size_t i = 0; i < count; ++i) total[i] += static_cast<int32_t>(taps[t][c + i]) * weights[t * channels + c + i];
    }
    for (size_t i = 0; i < count; ++i) out[c + i] = static_cast<int16_t>(requantise(total[i]));
  }
}

#ifdef NC_X86
constexpr size_t kDepthwiseBlock = 16;                     // channels
constexpr size_t kDepthwisePacked = 10 * kDepthwiseBlock;  // weights of a block: five pairs of taps, the tenth zero

// vpunpck interleaves the two taps of a pair, vpmaddwd sums them, vpackssdw saturates and restores the order.
NC_AVX2 inline void depthwise_avx2(const int16_t* const* taps, const int16_t* packed, const int32_t* bias, size_t blocks,
                                   const Requantise& requantise, int16_t* out) {
  const __m256i rounding = _mm256_set1_epi32(requantise.rounding);
  const __m128i shift = _mm_cvtsi32_si128(requantise.shift);
  for (size_t block = 0; block < blocks; ++block) {
    const size_t c = block * kDepthwiseBlock;
    __m256i even = rounding, odd = rounding;
    for (size_t t = 0; t < 10; t += 2) {
      const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(taps[t] + c));
      const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(taps[std::min<size_t>(t + 1, 8)] + c));
      const auto* const w = reinterpret_cast<const __m256i*>(packed + block * kDepthwisePacked + t * kDepthwiseBlock);
      even = _mm256_add_epi32(even, _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), _mm256_loadu_si256(w)));
      odd = _mm256_add_epi32(odd, _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), _mm256_loadu_si256(w + 1)));
    }
    const auto* const add = reinterpret_cast<const __m256i*>(bias + c);
    const __m256i first = _mm256_loadu_si256(add), second = _mm256_loadu_si256(add + 1);
    even = _mm256_add_epi32(even, _mm256_permute2x128_si256(first, second, 0x20));
    odd = _mm256_add_epi32(odd, _mm256_permute2x128_si256(first, second, 0x31));
    const __m256i result = _mm256_packs_epi32(_mm256_sra_epi32(even, shift), _mm256_sra_epi32(odd, shift));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + c), result);
  }
}

// The weights of the first `blocks` blocks in the order in which depthwise_avx2 reads them.
inline std::vector<int16_t> pack_depthwise(const int16_t* weights, size_t channels, size_t blocks) {
  std::vector<int16_t> packed(blocks * kDepthwisePacked);
  for (size_t c = 0; c < blocks * kDepthwiseBlock; ++c) {
    const size_t i = c % kDepthwiseBlock, lane = i / 8, half = i % 8 / 4, at = lane * 8 + i % 4 * 2;
    for (size_t t = 0; t < 9; ++t) {
      const size_t pair = c / kDepthwiseBlock * kDepthwisePacked + t / 2 * 2 * kDepthwiseBlock;
      packed[pair + half * kDepthwiseBlock + at + t % 2] = weights[t * channels + c];
    }
  }
  return packed;
}
#endif

template <typename Out>
NC_INLINE void store_body(const int32_t* sums, const int32_t* bias, size_t count, const Requantise& requantise,
                          Out* out) {
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<Out>(requantise(sums[i] + bias[i]));
}

template <typename Out>
inline void store_generic(const int32_t* sums, const int32_t* bias, size_t count, const Requantise& requantise,
                          Out* out) {
  store_body(sums, bias, count, requantise, out);
}

#ifdef NC_X86
template <typename Out>
NC_AVX2 inline void store_avx2(const int32_t* sums, const int32_t* bias, size_t count, const Requantise& requantise,
                               Out* out) {
  store_body(sums, bias, count, requantise, out);
}
#endif

}  // namespace layers

// A 1×1 convolution. weight: (outputs, inputs), none of them -32768.
class PointwiseLayer {
 public:
  PointwiseLayer(const int16_t* weight, size_t outputs, size_t inputs)
      : outputs_(outputs), inputs_(inputs), pairs_((inputs + 1) / 2) {
    const size_t panels = (outputs + kPanel - 1) / kPanel;
    plain_.resize(panels * kPanel * pairs_ * 2);
    interleaved_.resize(plain_.size());
    for (size_t o = 0; o < outputs; ++o) {
      for (size_t k = 0; k < inputs; ++k) {
        const size_t panel = o / kPanel * pairs_ * 2 * kPanel;
        plain_[panel + k * kPanel + o % kPanel] = weight[o * inputs + k];
        interleaved_[panel + k / 2 * 2 * kPanel + o % kPanel * 2 + k % 2] = weight[o * inputs + k];
      }
    }
  }

  size_t outputs() const { return outputs_; }
  size_t inputs() const { return inputs_; }

  // x: (height, width, inputs); out: (height, width, outputs). bias: (outputs), or (2, 2, outputs) if `lattice`, where
  // it is chosen by (row mod 2, column mod 2).
  template <typename Out>
  void run(const int16_t* x, size_t height, size_t width, const int32_t* bias, bool lattice,
           const Requantise& requantise, Out* out, Kernel kernel, size_t threads) const {
    const size_t positions = height * width;
    if (positions == 0) return;
    const size_t tiles = (positions + kTile - 1) / kTile;
    const size_t work = positions * outputs_ * inputs_;
    const size_t parts = std::max<size_t>(1, std::min({threads, tiles, work / kWorkPerThread}));
    std::vector<int16_t> even;  // an odd number of inputs is padded with a zero
    const size_t stride = 2 * pairs_;
    if (stride != inputs_) {
      even.resize(positions * stride);
      for (size_t p = 0; p < positions; ++p) std::copy_n(x + p * inputs_, inputs_, even.data() + p * stride);
      x = even.data();
    }
    parallel(parts, parts, [&](size_t part) {
      const size_t first = tiles * part / parts * kTile;
      const size_t last = std::min(positions, tiles * (part + 1) / parts * kTile);
      const size_t panels = (outputs_ + kPanel - 1) / kPanel;
      int32_t sums[kTile][kPanels * kPanel];
      for (size_t n = 0; n < panels; n += kPanels) {
        const size_t some = std::min(kPanels, panels - n);
        const size_t width_out = std::min(some * kPanel, outputs_ - n * kPanel);
        for (size_t p = first; p < last; p += kTile) {
          const size_t count = std::min(kTile, last - p);
          const int16_t* inputs[kTile];
          for (size_t i = 0; i < kTile; ++i) inputs[i] = x + (p + std::min(i, count - 1)) * stride;
          multiply(inputs, count, n, some, sums, kernel);
          for (size_t i = 0; i < count; ++i) {
            const size_t phase = lattice ? (p + i) / width % 2 * 2 + (p + i) % width % 2 : 0;
            store(sums[i], bias + phase * outputs_ + n * kPanel, width_out, requantise,
                  out + (p + i) * outputs_ + n * kPanel, kernel);
          }
        }
      }
    });
  }

 private:
  void multiply(const int16_t* const* x, size_t count, size_t panel, size_t panels, int32_t (*sums)[kPanels * kPanel],
                Kernel kernel) const {
    const size_t offset = panel * pairs_ * 2 * kPanel;
#ifdef NC_X86
    const int16_t* const weights = interleaved_.data() + offset;
    if (kernel == Kernel::kAvx512) return layers::sums_avx512(x, count, weights, pairs_, panels, sums);
    if (kernel == Kernel::kAvx2) return layers::sums_avx2(x, count, weights, pairs_, panels, sums);
#endif
    layers::sums_generic(x, count, plain_.data() + offset, 2 * pairs_, panels, sums);
  }

  template <typename Out>
  static void store(const int32_t* sums, const int32_t* bias, size_t count, const Requantise& requantise, Out* out,
                    Kernel kernel) {
#ifdef NC_X86
    if (kernel != Kernel::kGeneric) return layers::store_avx2(sums, bias, count, requantise, out);
#endif
    layers::store_generic(sums, bias, count, requantise, out);
  }

  static constexpr size_t kWorkPerThread = size_t{1} << 21;
  size_t outputs_, inputs_, pairs_;
  std::vector<int16_t> plain_, interleaved_;
};

// A depthwise 3×3 convolution with zeros outside. weight: (channels, 3, 3).
class DepthwiseLayer {
 public:
  DepthwiseLayer(const int16_t* weight, const int32_t* bias, size_t channels)
      : channels_(channels), weights_(9 * channels), bias_(bias, bias + channels) {
    for (size_t c = 0; c < channels; ++c) {
      for (size_t t = 0; t < 9; ++t) weights_[t * channels + c] = weight[c * 9 + t];
    }
#ifdef NC_X86
    packed_ = layers::pack_depthwise(weights_.data(), channels, channels / layers::kDepthwiseBlock);
#endif
  }

  size_t channels() const { return channels_; }

  void run(const int16_t* x, size_t height, size_t width, const Requantise& requantise, int16_t* out, Kernel kernel,
           size_t threads) const {
    const std::vector<int16_t> zeros(channels_);
    const size_t parts =
        std::max<size_t>(1, std::min({threads, height, height * width * channels_ / kWorkPerThread}));
    parallel(parts, parts, [&](size_t part) {
      for (size_t r = height * part / parts; r < height * (part + 1) / parts; ++r) {
        for (size_t c = 0; c < width; ++c) {
          const int16_t* taps[9];
          for (size_t t = 0; t < 9; ++t) {
            const size_t row = r + t / 3 - 1, column = c + t % 3 - 1;  // below zero they wrap to huge numbers
            taps[t] = row < height && column < width ? x + (row * width + column) * channels_ : zeros.data();
          }
          int16_t* const to = out + (r * width + c) * channels_;
          size_t done = 0;
#ifdef NC_X86
          if (kernel != Kernel::kGeneric) {
            const size_t blocks = channels_ / layers::kDepthwiseBlock;
            layers::depthwise_avx2(taps, packed_.data(), bias_.data(), blocks, requantise, to);
            done = blocks * layers::kDepthwiseBlock;
          }
#endif
          layers::depthwise_generic(taps, weights_.data(), bias_.data(), done, channels_, requantise, to);
        }
      }
    });
  }

 private:
  static constexpr size_t kWorkPerThread = size_t{1} << 17;
  size_t channels_;
  std::vector<int16_t> weights_;  // (9, channels)
  std::vector<int16_t> packed_;
  std::vector<int32_t> bias_;
};

}  // namespace neurocodec

#endif  // NEUROCODEC_INTEGER_LAYERS_HPP
