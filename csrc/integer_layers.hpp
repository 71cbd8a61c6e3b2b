// SPDX-License-Identifier: Apache-2.0
//
// The layers of the integer networks: 1×1 and depthwise 3×3 convolutions on 16-bit integers, and what is done to their
// results one by one. Header only, C++17. docs/arithmetic.md defines the numbers and neurocodec/integer/reference.py is
// the readable twin; both win over this file.
//
//     out = clamp((sum of weight · input + bias + 2^shift / 2) >> shift, low, high)      a shift for each output
//
// Surprises:
//  * Sums are 32-bit. `network.hpp` proves from the weights that no partial sum leaves 32 bits, so every kernel, in any
//    order of summation, gives the same result.
//  * Weights are packed by sixteen outputs; for x86 and WebAssembly by pairs of inputs too, which vpmaddwd, vpdpwssd and
//    i32x4.dot_i16x8_s multiply at once.
//  * A product with a fraction is floor((a · b + 2^14) / 2^15): one instruction (vpmulhrsw, sqrdmulh) for eight or more.
//  * Kernels are chosen at run time; "generic" is plain C++ and runs everywhere.

#ifndef NEUROCODEC_INTEGER_LAYERS_HPP
#define NEUROCODEC_INTEGER_LAYERS_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define NC_X86 1
#include <immintrin.h>
#define NC_AVX2 __attribute__((target("avx2")))
#ifndef NC_AVX512  // csrc/test/kernels.cpp emulates these instructions
#define NC_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,avx2")))
#endif
#endif

#if defined(__aarch64__)
#define NC_NEON 1
#include <arm_neon.h>
#endif

#if defined(__wasm_simd128__)
#define NC_WASM 1
#include <wasm_simd128.h>
#endif

#if defined(__GNUC__) || defined(__clang__)
#define NC_INLINE inline __attribute__((always_inline))
#else
#define NC_INLINE inline
#endif

// A page has room for one kernel, and needs no encoder.
#ifdef NEUROCODEC_PAGE
#define NC_PLAIN(kernel) (static_cast<void>(kernel), false)
#else
#define NC_PLAIN(kernel) ((kernel) == Kernel::kGeneric)
#endif

#ifdef NC_WASM
#define NC_COLD __attribute__((cold, minsize))  // small rather than fast, so that a page fetches less code
#else
#define NC_COLD
#endif

#if defined(__GNUC__) && !defined(__clang__)
#define NC_ROLLED _Pragma("GCC unroll 1")  // GCC would unroll these loops whole before it could make vectors of them
#else
#define NC_ROLLED
#endif

namespace neurocodec {

enum class Kernel { kGeneric, kAvx2, kAvx512, kNeon, kWasm };

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
#ifdef NC_NEON
  list.push_back(Kernel::kNeon);
#endif
#ifdef NC_WASM
  list.push_back(Kernel::kWasm);
#endif
  list.push_back(Kernel::kGeneric);
  return list;
}

inline const char* name_of(Kernel kernel) {
  switch (kernel) {
    case Kernel::kAvx512: return "avx512";
    case Kernel::kAvx2: return "avx2";
    case Kernel::kNeon: return "neon";
    case Kernel::kWasm: return "wasm";
    default: return "generic";
  }
}

constexpr size_t kPanel = 16;  // outputs packed together
constexpr size_t kTile = 12;   // positions computed together
constexpr size_t kPanels = 2;  // panels computed together

using Sums = int32_t[kPanels * kPanel];  // of one position

constexpr size_t kReciprocalRoots = size_t{1} << 14;

namespace layers {

NC_INLINE int32_t pair_at(const int16_t* x, size_t k) {
  int32_t pair;
  std::memcpy(&pair, x + 2 * k, sizeof(pair));
  return pair;
}

// Sums of `count` positions × `panels` panels into sums[position][panel * 16 + output]. x[p]: the inputs of position p.
// Here the weights of an input stand side by side, which compilers turn into the vectors of any machine.
inline void sums_generic(const int16_t* const* x, size_t count, const int16_t* weights, size_t inputs, size_t panels,
                         Sums* sums) {
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
// From here on the weights of a pair of inputs are interleaved.
NC_AVX2 inline void sums_avx2(const int16_t* const* x, size_t count, const int16_t* weights, size_t pairs,
                              size_t panels, Sums* sums) {
  constexpr size_t kHalf = kTile / 2;  // as many positions as there are registers for
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
                                         Sums* sums) {
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
                                  size_t panels, Sums* sums) {
  if (panels == kPanels) return sums_avx512_panels<kPanels>(x, count, weights, pairs, sums);
  sums_avx512_panels<1>(x, count, weights, pairs, sums);
}
#endif

#ifdef NC_NEON
constexpr size_t kGroup = 4;  // positions that share each load of weights; sums of a position: four vectors

// Adds the products of input number kLane of each x to the sums.
template <int kLane>
NC_INLINE void add_products_neon(const int16x4_t* x, const int16_t* weights, int32x4_t (*total)[4]) {
  const int16x8_t low = vld1q_s16(weights), high = vld1q_s16(weights + 8);
  for (size_t p = 0; p < kGroup; ++p) {
    total[p][0] = vmlal_lane_s16(total[p][0], vget_low_s16(low), x[p], kLane);
    total[p][1] = vmlal_high_lane_s16(total[p][1], low, x[p], kLane);
    total[p][2] = vmlal_lane_s16(total[p][2], vget_low_s16(high), x[p], kLane);
    total[p][3] = vmlal_high_lane_s16(total[p][3], high, x[p], kLane);
  }
}

inline void sums_neon(const int16_t* const* x, size_t count, const int16_t* weights, size_t inputs, size_t panels,
                      Sums* sums) {
  for (size_t n = 0; n < panels; ++n) {
    for (size_t first = 0; first < count; first += kGroup) {
      int32x4_t total[kGroup][4];
      for (auto& position : total) {
        for (auto& vector : position) vector = vdupq_n_s32(0);
      }
      const int16_t* w = weights + n * inputs * kPanel;
      int16x4_t values[kGroup];
      size_t k = 0;
      for (; k + 4 <= inputs; k += 4, w += 4 * kPanel) {
        for (size_t p = 0; p < kGroup; ++p) values[p] = vld1_s16(x[first + p] + k);
        add_products_neon<0>(values, w, total);
        add_products_neon<1>(values, w + kPanel, total);
        add_products_neon<2>(values, w + 2 * kPanel, total);
        add_products_neon<3>(values, w + 3 * kPanel, total);
      }
      for (; k < inputs; ++k, w += kPanel) {
        for (size_t p = 0; p < kGroup; ++p) values[p] = vdup_n_s16(x[first + p][k]);
        add_products_neon<0>(values, w, total);
      }
      for (size_t p = 0; p < kGroup; ++p) {
        for (size_t v = 0; v < 4; ++v) vst1q_s32(sums[first + p] + n * kPanel + 4 * v, total[p][v]);
      }
    }
  }
}
#endif

#ifdef NC_NEON
// Returns the number of channels that it computed.
inline size_t depthwise_neon(const int16_t* const* taps, const int16_t* weights, const int32_t* bias,
                             const int32_t* shift, size_t channels, int16_t* out) {
  size_t c = 0;
  for (; c + 8 <= channels; c += 8) {
    int32x4_t low = vld1q_s32(bias + c), high = vld1q_s32(bias + c + 4);
    for (size_t t = 0; t < 9; ++t) {
      const int16x8_t x = vld1q_s16(taps[t] + c), w = vld1q_s16(weights + t * channels + c);
      low = vmlal_s16(low, vget_low_s16(x), vget_low_s16(w));
      high = vmlal_s16(high, vget_high_s16(x), vget_high_s16(w));
    }
    low = vshlq_s32(low, vnegq_s32(vld1q_s32(shift + c)));  // to the left by a negative number: to the right
    high = vshlq_s32(high, vnegq_s32(vld1q_s32(shift + c + 4)));
    vst1q_s16(out + c, vcombine_s16(vqmovn_s32(low), vqmovn_s32(high)));
  }
  return c;
}
#endif

#ifdef NC_WASM
// WebAssembly shifts all lanes by one count. So a shift for each lane is a product of 64 bits with 2^(30 - shift), of which
// the bits from 30 on are kept: `scale` holds these powers.
NC_INLINE v128_t shift_right_wasm(v128_t x, const int32_t* scale) {
  const v128_t by = wasm_v128_load(scale);
  const v128_t low = wasm_u64x2_shr(wasm_i64x2_extmul_low_i32x4(x, by), 30);
  const v128_t high = wasm_u64x2_shr(wasm_i64x2_extmul_high_i32x4(x, by), 30);
  return wasm_i32x4_shuffle(low, high, 0, 2, 4, 6);
}

inline void sums_wasm(const int16_t* const* x, size_t count, const int16_t* weights, size_t pairs, size_t panels,
                      Sums* sums) {
  constexpr size_t kGroup = 4;  // positions that share each load of weights
  for (size_t half = 0; half < 2 * panels; ++half) {  // eight outputs
    const int16_t* const from = weights + half / 2 * pairs * 2 * kPanel + half % 2 * kPanel;
    for (size_t first = 0; first < count; first += kGroup) {
      v128_t low[kGroup], high[kGroup];
      for (size_t p = 0; p < kGroup; ++p) low[p] = high[p] = wasm_i32x4_const_splat(0);
      const int16_t* w = from;
      for (size_t k = 0; k < pairs; ++k, w += 2 * kPanel) {
        const v128_t w0 = wasm_v128_load(w), w1 = wasm_v128_load(w + 8);
        for (size_t p = 0; p < kGroup; ++p) {
          const v128_t pair = wasm_v128_load32_splat(x[first + p] + 2 * k);
          low[p] = wasm_i32x4_add(low[p], wasm_i32x4_dot_i16x8(pair, w0));
          high[p] = wasm_i32x4_add(high[p], wasm_i32x4_dot_i16x8(pair, w1));
        }
      }
      for (size_t p = 0; p < kGroup; ++p) {
        int32_t* const to = sums[first + p] + half * 8;
        wasm_v128_store(to, low[p]);
        wasm_v128_store(to + 4, high[p]);
      }
    }
  }
}

// Returns the number of channels that it computed.
inline size_t depthwise_wasm(const int16_t* const* taps, const int16_t* weights, const int32_t* bias,
                             const int32_t* scale, size_t channels, int16_t* out) {
  size_t c = 0;
  for (; c + 8 <= channels; c += 8) {
    v128_t low = wasm_v128_load(bias + c), high = wasm_v128_load(bias + c + 4);
    for (size_t t = 0; t < 9; ++t) {
      const v128_t x = wasm_v128_load(taps[t] + c), w = wasm_v128_load(weights + t * channels + c);
      low = wasm_i32x4_add(low, wasm_i32x4_extmul_low_i16x8(x, w));
      high = wasm_i32x4_add(high, wasm_i32x4_extmul_high_i16x8(x, w));
    }
    low = shift_right_wasm(low, scale + c);
    high = shift_right_wasm(high, scale + c + 4);
    wasm_v128_store(out + c, wasm_i16x8_narrow_i32x4(low, high));
  }
  return c;
}
#endif

// Channels first, first + 1, ... of one position of a depthwise layer. taps: the inputs of nine neighbours.
inline void depthwise_generic(const int16_t* const* taps, const int16_t* weights, const int32_t* bias,
                              const int32_t* shift, size_t first, size_t channels, int16_t* out) {
  constexpr size_t kBlock = 16;
  int32_t total[kBlock];
  for (size_t c = first; c < channels; c += kBlock) {
    const size_t count = std::min(kBlock, channels - c);
    std::copy_n(bias + c, count, total);
    for (size_t t = 0; t < 9; ++t) {
      for (size_t i = 0; i < count; ++i) total[i] += static_cast<int32_t>(taps[t][c + i]) * weights[t * channels + c + i];
    }
    for (size_t i = 0; i < count; ++i) {
      out[c + i] = static_cast<int16_t>(std::min(std::max(total[i] >> shift[c + i], -32768), 32767));
    }
  }
}

#ifdef NC_X86
constexpr size_t kDepthwiseBlock = 16;                     // channels
constexpr size_t kDepthwisePacked = 10 * kDepthwiseBlock;  // weights of a block: five pairs of taps, the last with a zero

// vpunpck interleaves the two taps of a pair, vpmaddwd sums them, and vpackssdw both saturates and undoes the order.
NC_AVX2 inline void depthwise_avx2(const int16_t* const* taps, const int16_t* packed, const int32_t* bias,
                                   const int32_t* shift, size_t blocks, int16_t* out) {
  for (size_t block = 0; block < blocks; ++block) {
    const size_t c = block * kDepthwiseBlock;
    const auto* const add = reinterpret_cast<const __m256i*>(bias + c);
    const auto* const by = reinterpret_cast<const __m256i*>(shift + c);
    const __m256i add0 = _mm256_loadu_si256(add), add1 = _mm256_loadu_si256(add + 1);
    const __m256i by0 = _mm256_loadu_si256(by), by1 = _mm256_loadu_si256(by + 1);
    __m256i even = _mm256_permute2x128_si256(add0, add1, 0x20), odd = _mm256_permute2x128_si256(add0, add1, 0x31);
    for (size_t t = 0; t < 10; t += 2) {
      const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(taps[t] + c));
      const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(taps[std::min<size_t>(t + 1, 8)] + c));
      const auto* const w = reinterpret_cast<const __m256i*>(packed + block * kDepthwisePacked + t * kDepthwiseBlock);
      even = _mm256_add_epi32(even, _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), _mm256_loadu_si256(w)));
      odd = _mm256_add_epi32(odd, _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), _mm256_loadu_si256(w + 1)));
    }
    even = _mm256_srav_epi32(even, _mm256_permute2x128_si256(by0, by1, 0x20));
    odd = _mm256_srav_epi32(odd, _mm256_permute2x128_si256(by0, by1, 0x31));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + c), _mm256_packs_epi32(even, odd));
  }
}

// The weights of `blocks` blocks in the order in which depthwise_avx2 meets them.
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

// From here on loops that compilers make vectors of: once for any machine, once for AVX2.
template <typename Out>
NC_INLINE void finish_body(const int32_t* sums, const int32_t* bias, const int32_t* shift, size_t count, int32_t low,
                           int32_t high, Out* out) {
  for (size_t i = 0; i < count; ++i) {
    out[i] = static_cast<Out>(std::min(std::max((sums[i] + bias[i]) >> shift[i], low), high));
  }
}

NC_INLINE int16_t saturate(int32_t value) { return static_cast<int16_t>(std::min(std::max(value, -32768), 32767)); }

NC_INLINE int32_t q15(int32_t a, int32_t b) { return (a * b + (1 << 14)) >> 15; }

NC_INLINE void leaky_relu_body(int16_t* x, size_t count) {
  for (size_t i = 0; i < count; ++i) x[i] = static_cast<int16_t>(std::max<int32_t>(x[i], q15(x[i], 328)));
}

NC_INLINE void add_body(const int16_t* x, const int16_t* y, size_t count, int16_t* out) {
  for (size_t i = 0; i < count; ++i) out[i] = saturate(x[i] + y[i]);
}

NC_INLINE void gate_body(const int16_t* value, const int16_t* gate, size_t count, int16_t* out) {
  for (size_t i = 0; i < count; ++i) {
    const int32_t inside = std::min(std::max<int32_t>(gate[i], -1536), 1536) * 16;
    const int32_t open = std::min(q15(inside, 21845) + (1 << 14), 32767);
    out[i] = static_cast<int16_t>(q15(value[i], open));
  }
}

NC_INLINE void gain_body(const int16_t* x, const int32_t* mantissa, const int32_t* shift, const int32_t* half,
                         size_t count, int16_t* out) {
  for (size_t i = 0; i < count; ++i) out[i] = saturate((x[i] * mantissa[i] + half[i]) >> shift[i]);
}

// d / sqrt(sum of d² + epsilon) with 15 fractional bits, d: x less its mean. out may be x.
NC_INLINE void normalise_body(const int16_t* x, size_t count, int64_t epsilon, const int16_t* roots, int16_t* out) {
  const auto channels = static_cast<int64_t>(count);
  const int64_t factor = ((int64_t{1} << 24) + channels / 2) / channels;
  int32_t sum = 0;
  for (size_t i = 0; i < count; ++i) sum += x[i];
  const auto mean = static_cast<int32_t>((sum * factor + (1 << 23)) >> 24);
  auto total = static_cast<uint64_t>(epsilon);
  for (size_t i = 0; i < count; ++i) {
    const auto d = static_cast<uint32_t>(x[i] - mean);  // within ±65535: its square modulo 2^32 is its square
    total += d * d;
  }
  int exponent = 0;
  while (total >> (2 * exponent) >= kReciprocalRoots) ++exponent;
  const int32_t root = roots[total >> (2 * exponent)], shift = exponent + 5, half = 1 << (shift - 1);
  for (size_t i = 0; i < count; ++i) out[i] = saturate(((x[i] - mean) * root + half) >> shift);
}

NC_INLINE void silu_gate_body(const int16_t* value, const int16_t* gate, const int16_t* sigmoid, size_t count,
                              int16_t* out) {
  for (size_t i = 0; i < count; ++i) {
    const int32_t index = (std::min(std::max<int32_t>(gate[i], -8192), 8191) + 8192) >> 2;
    out[i] = saturate((value[i] * q15(gate[i], sigmoid[index]) + (1 << 12)) >> 13);
  }
}

NC_INLINE void add_gained_body(int16_t* x, const int16_t* change, const int32_t* gain, size_t count) {
  for (size_t i = 0; i < count; ++i) x[i] = saturate(x[i] + ((change[i] * gain[i] + (1 << 11)) >> 12));
}

inline void leaky_relu_generic(int16_t* x, size_t count) { leaky_relu_body(x, count); }
inline void add_generic(const int16_t* x, const int16_t* y, size_t count, int16_t* out) { add_body(x, y, count, out); }
inline void gate_generic(const int16_t* value, const int16_t* gate, size_t count, int16_t* out) {
  gate_body(value, gate, count, out);
}
inline void gain_generic(const int16_t* x, const int32_t* mantissa, const int32_t* shift, const int32_t* half,
                         size_t count, int16_t* out) {
  gain_body(x, mantissa, shift, half, count, out);
}
inline void normalise_generic(const int16_t* x, size_t count, int64_t epsilon, const int16_t* roots, int16_t* out) {
  normalise_body(x, count, epsilon, roots, out);
}
inline void silu_gate_generic(const int16_t* value, const int16_t* gate, const int16_t* sigmoid, size_t count,
                      int16_t* out) {
  silu_gate_body(value, gate, sigmoid, count, out);
}
inline void add_gained_generic(int16_t* x, const int16_t* change, const int32_t* gain, size_t count) {
  add_gained_body(x, change, gain, count);
}
template <typename Out>
inline void finish_generic(const int32_t* sums, const int32_t* bias, const int32_t* shift, size_t count, int32_t low,
                           int32_t high, Out* out) {
  finish_body(sums, bias, shift, count, low, high, out);
}

#ifdef NC_X86
NC_AVX2 inline __m256i load(const int16_t* x) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)); }
NC_AVX2 inline void store(int16_t* x, __m256i v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(x), v); }

NC_AVX2 inline void leaky_relu_avx2(int16_t* x, size_t count) {
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m256i v = load(x + i);
    store(x + i, _mm256_max_epi16(v, _mm256_mulhrs_epi16(v, _mm256_set1_epi16(328))));
  }
  leaky_relu_body(x + i, count - i);
}

NC_AVX2 inline void add_avx2(const int16_t* x, const int16_t* y, size_t count, int16_t* out) {
  size_t i = 0;
  for (; i + 16 <= count; i += 16) store(out + i, _mm256_adds_epi16(load(x + i), load(y + i)));
  add_body(x + i, y + i, count - i, out + i);
}

NC_AVX2 inline void gate_avx2(const int16_t* value, const int16_t* gate, size_t count, int16_t* out) {
  const __m256i most = _mm256_set1_epi16(1536), least = _mm256_set1_epi16(-1536);
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m256i inside = _mm256_slli_epi16(_mm256_max_epi16(_mm256_min_epi16(load(gate + i), most), least), 4);
    const __m256i open = _mm256_adds_epi16(_mm256_mulhrs_epi16(inside, _mm256_set1_epi16(21845)), _mm256_set1_epi16(1 << 14));
    store(out + i, _mm256_mulhrs_epi16(load(value + i), open));
  }
  gate_body(value + i, gate + i, count - i, out + i);
}

NC_AVX2 inline void gain_avx2(const int16_t* x, const int32_t* mantissa, const int32_t* shift, const int32_t* half,
                              size_t count, int16_t* out) {
  gain_body(x, mantissa, shift, half, count, out);
}

NC_AVX2 inline void normalise_avx2(const int16_t* x, size_t count, int64_t epsilon, const int16_t* roots, int16_t* out) {
  normalise_body(x, count, epsilon, roots, out);
}
NC_AVX2 inline void silu_gate_avx2(const int16_t* value, const int16_t* gate, const int16_t* sigmoid, size_t count,
                      int16_t* out) {
  silu_gate_body(value, gate, sigmoid, count, out);
}
NC_AVX2 inline void add_gained_avx2(int16_t* x, const int16_t* change, const int32_t* gain, size_t count) {
  add_gained_body(x, change, gain, count);
}

// Results that fill 16 bits: the saturation of vpackssdw is the clamp.
NC_AVX2 inline void finish16_avx2(const int32_t* sums, const int32_t* bias, const int32_t* shift, size_t count,
                                  int16_t* out) {
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    __m256i half[2];
    for (size_t h = 0; h < 2; ++h) {
      const size_t at = i + 8 * h;
      const __m256i sum = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + at));
      const __m256i add = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bias + at));
      const __m256i by = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(shift + at));
      half[h] = _mm256_srav_epi32(_mm256_add_epi32(sum, add), by);
    }
    store(out + i, _mm256_permute4x64_epi64(_mm256_packs_epi32(half[0], half[1]), 0xd8));
  }
  finish_body(sums + i, bias + i, shift + i, count - i, -32768, 32767, out + i);
}

template <typename Out>
NC_AVX2 inline void finish_avx2(const int32_t* sums, const int32_t* bias, const int32_t* shift, size_t count,
                                int32_t low, int32_t high, Out* out) {
  finish_body(sums, bias, shift, count, low, high, out);
}
#endif

#ifdef NC_NEON
inline void leaky_relu_neon(int16_t* x, size_t count) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const int16x8_t v = vld1q_s16(x + i);
    vst1q_s16(x + i, vmaxq_s16(v, vqrdmulhq_n_s16(v, 328)));
  }
  leaky_relu_body(x + i, count - i);
}

inline void add_neon(const int16_t* x, const int16_t* y, size_t count, int16_t* out) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) vst1q_s16(out + i, vqaddq_s16(vld1q_s16(x + i), vld1q_s16(y + i)));
  add_body(x + i, y + i, count - i, out + i);
}

inline void gate_neon(const int16_t* value, const int16_t* gate, size_t count, int16_t* out) {
  const int16x8_t most = vdupq_n_s16(1536), least = vdupq_n_s16(-1536);
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const int16x8_t inside = vshlq_n_s16(vmaxq_s16(vminq_s16(vld1q_s16(gate + i), most), least), 4);
    const int16x8_t open = vqaddq_s16(vqrdmulhq_n_s16(inside, 21845), vdupq_n_s16(1 << 14));
    vst1q_s16(out + i, vqrdmulhq_s16(vld1q_s16(value + i), open));
  }
  gate_body(value + i, gate + i, count - i, out + i);
}

inline void finish16_neon(const int32_t* sums, const int32_t* bias, const int32_t* shift, size_t count, int16_t* out) {
  size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const int32x4_t sum = vaddq_s32(vld1q_s32(sums + i), vld1q_s32(bias + i));
    vst1_s16(out + i, vqmovn_s32(vshlq_s32(sum, vnegq_s32(vld1q_s32(shift + i)))));
  }
  finish_body(sums + i, bias + i, shift + i, count - i, -32768, 32767, out + i);
}

#endif

#ifdef NC_WASM
inline void leaky_relu_wasm(int16_t* x, size_t count) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const v128_t v = wasm_v128_load(x + i);
    wasm_v128_store(x + i, wasm_i16x8_max(v, wasm_i16x8_q15mulr_sat(v, wasm_i16x8_const_splat(328))));
  }
  leaky_relu_body(x + i, count - i);
}

inline void add_wasm(const int16_t* x, const int16_t* y, size_t count, int16_t* out) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    wasm_v128_store(out + i, wasm_i16x8_add_sat(wasm_v128_load(x + i), wasm_v128_load(y + i)));
  }
  add_body(x + i, y + i, count - i, out + i);
}

inline void gate_wasm(const int16_t* value, const int16_t* gate, size_t count, int16_t* out) {
  const v128_t most = wasm_i16x8_const_splat(1536), least = wasm_i16x8_const_splat(-1536);
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const v128_t inside = wasm_i16x8_shl(wasm_i16x8_max(wasm_i16x8_min(wasm_v128_load(gate + i), most), least), 4);
    const v128_t open = wasm_i16x8_add_sat(wasm_i16x8_q15mulr_sat(inside, wasm_i16x8_const_splat(21845)),
                                           wasm_i16x8_const_splat(1 << 14));
    wasm_v128_store(out + i, wasm_i16x8_q15mulr_sat(wasm_v128_load(value + i), open));
  }
  gate_body(value + i, gate + i, count - i, out + i);
}

// Returns the number of results that it computed.
template <typename Out>
inline size_t finish_wasm(const int32_t* sums, const int32_t* bias, const int32_t* scale, size_t count,
                                 int32_t low, int32_t high, Out* out) {
  const v128_t least = wasm_i32x4_splat(low), most = wasm_i32x4_splat(high);
  const auto four = [&](size_t i) {
    const v128_t sum = wasm_i32x4_add(wasm_v128_load(sums + i), wasm_v128_load(bias + i));
    return wasm_i32x4_min(wasm_i32x4_max(shift_right_wasm(sum, scale + i), least), most);
  };
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    if constexpr (std::is_same_v<Out, int16_t>) {
      wasm_v128_store(out + i, wasm_i16x8_narrow_i32x4(four(i), four(i + 4)));
    } else {
      wasm_v128_store(out + i, four(i));
      wasm_v128_store(out + i + 4, four(i + 4));
    }
  }
  return i;
}
#endif

}  // namespace layers

#if defined(NC_X86)
#define NC_CHOOSE(kernel, name, ...) \
  ((kernel) == Kernel::kGeneric ? layers::name##_generic(__VA_ARGS__) : layers::name##_avx2(__VA_ARGS__))
#elif defined(NC_NEON)
#define NC_CHOOSE(kernel, name, ...) \
  ((kernel) == Kernel::kGeneric ? layers::name##_generic(__VA_ARGS__) : layers::name##_neon(__VA_ARGS__))
#elif defined(NC_WASM)
#define NC_CHOOSE(kernel, name, ...) \
  (NC_PLAIN(kernel) ? layers::name##_generic(__VA_ARGS__) : layers::name##_wasm(__VA_ARGS__))
#else
#define NC_CHOOSE(kernel, name, ...) (static_cast<void>(kernel), layers::name##_generic(__VA_ARGS__))
#endif

// Loops that compilers turn into vectors well enough: once for any machine, once for AVX2.
#if defined(NC_X86)
#define NC_COMPILED(kernel, name, ...) NC_CHOOSE(kernel, name, __VA_ARGS__)
#else
#define NC_COMPILED(kernel, name, ...) (static_cast<void>(kernel), layers::name##_generic(__VA_ARGS__))
#endif

inline void leaky_relu(Kernel kernel, int16_t* x, size_t count) { NC_CHOOSE(kernel, leaky_relu, x, count); }

// out = clamp16(x + y); out may be x or y.
inline void add(Kernel kernel, const int16_t* x, const int16_t* y, size_t count, int16_t* out) {
  NC_CHOOSE(kernel, add, x, y, count, out);
}

// out = value · hard-sigmoid(gate), on activations with 9 fractional bits.
inline void gate(Kernel kernel, const int16_t* value, const int16_t* gates, size_t count, int16_t* out) {
  NC_CHOOSE(kernel, gate, value, gates, count, out);
}

// out = clamp16((x · mantissa + half) >> shift); out may be x.
inline void gain(Kernel kernel, const int16_t* x, const int32_t* mantissa, const int32_t* shift, const int32_t* half,
                 size_t count, int16_t* out) {
  NC_COMPILED(kernel, gain, x, mantissa, shift, half, count, out);
}

// floor(2^20 / sqrt(i)), at most 32767; of 0, which no sum is, 0.
inline std::vector<int16_t> reciprocal_roots() {
  std::vector<int16_t> roots(kReciprocalRoots);
  int64_t root = 32767;  // the largest whose square times i is at most 2^40
  for (size_t i = 1; i < roots.size(); ++i) {
    while (root * root * static_cast<int64_t>(i) > int64_t{1} << 40) --root;
    roots[i] = static_cast<int16_t>(root);
  }
  return roots;
}

// The norm of a position: out = d / sqrt(sum of d² + epsilon) with 15 fractional bits, d being x less its mean. The
// reciprocal root is that of the leading bits of the sum. count: 1 to 1024; epsilon: 1 to 2^31; roots: reciprocal_roots();
// out may be x.
inline void normalise(Kernel kernel, const int16_t* x, size_t count, int64_t epsilon, const int16_t* roots, int16_t* out) {
  NC_COMPILED(kernel, normalise, x, count, epsilon, roots, out);
}

// out = value · gate · sigmoid(gate), of 10 fractional bits each, with 7. sigmoid: 4096 entries with 15 bits, in [-8, 8).
inline void silu_gate(Kernel kernel, const int16_t* value, const int16_t* gate, const int16_t* sigmoid, size_t count,
                      int16_t* out) {
  NC_COMPILED(kernel, silu_gate, value, gate, sigmoid, count, out);
}

// x = clamp16(x + change · gain), gains with 12 fractional bits, within ±32767.
inline void add_gained(Kernel kernel, int16_t* x, const int16_t* change, const int32_t* gain, size_t count) {
  NC_COMPILED(kernel, add_gained, x, change, gain, count);
}

// What becomes of the sums of a layer: a bias for each output, which holds the rounding, a shift, and two limits.
struct Rounded {
  std::vector<int32_t> bias, shift;

  // The bias of an output alone.
  int32_t plain_bias(size_t o) const { return bias[o] - (shift[o] > 0 ? int32_t{1} << (shift[o] - 1) : 0); }

#ifdef NC_WASM
  std::vector<int32_t> scale;  // 2^(30 - shift)
#endif

  Rounded() = default;
  Rounded(const int32_t* biases, const int8_t* shifts, size_t outputs)
      : bias(biases, biases + outputs), shift(shifts, shifts + outputs) {
    for (size_t o = 0; o < outputs; ++o) bias[o] += shift[o] > 0 ? int32_t{1} << (shift[o] - 1) : 0;
#ifdef NC_WASM
    for (const int32_t by : shift) scale.push_back(int32_t{1} << (30 - by));
#endif
  }
};

// A 1×1 convolution. weight: (outputs, inputs), none of them -32768.
class Pointwise {
 public:
  Pointwise() = default;
  Pointwise(const int16_t* weight, const int32_t* bias, const int8_t* shift, size_t outputs, size_t inputs)
      : outputs_(outputs), inputs_(inputs), pairs_((inputs + 1) / 2), rounded_(bias, shift, outputs) {
    const size_t panels = (outputs + kPanel - 1) / kPanel;
    plain_.resize(panels * kPanel * pairs_ * 2);
    interleaved_.resize(plain_.size());
    for (size_t n = 0; n < panels; ++n) {
      const size_t count = std::min(kPanel, outputs - n * kPanel);
      const int16_t* const from = weight + n * kPanel * inputs;
      for (size_t k = 0; k < inputs; ++k) {
        int16_t* const plain = plain_.data() + (n * 2 * pairs_ + k) * kPanel;
        int16_t* const interleaved = interleaved_.data() + (n * pairs_ + k / 2) * 2 * kPanel + k % 2;
        for (size_t o = 0; o < count; ++o) plain[o] = interleaved[2 * o] = from[o * inputs + k];
      }
    }
  }

  size_t outputs() const { return outputs_; }
  size_t inputs() const { return inputs_; }
  const std::vector<int32_t>& bias() const { return rounded_.bias; }
  const std::vector<int32_t>& shift() const { return rounded_.shift; }
  int32_t plain_bias(size_t o) const { return rounded_.plain_bias(o); }

  // Outputs of `positions` positions. at(p): the inputs of position p, of which one more than there are must be
  // readable if their number is odd; bias_of(p): its biases, rounding included; to(p): where its outputs go.
  template <typename Out, typename At, typename BiasOf, typename To>
  void run(Kernel kernel, size_t positions, const At& at, const BiasOf& bias_of, int32_t low, int32_t high,
           const To& to) const {
    each(kernel, positions, at, [&](size_t p, size_t first, size_t count, const int32_t* sums) {
      finish(kernel, sums, bias_of(p) + first, first, count, low, high, to(p) + first);
    });
  }

  // The same for positions that follow each other, with 16-bit results and the layer's own biases.
  void run(Kernel kernel, const int16_t* x, size_t positions, int16_t* out, int32_t low = -32768,
           int32_t high = 32767) const {
    run(kernel, x, positions, rounded_.bias.data(), out, low, high);
  }

  // With other biases, one for each output.
  void run(Kernel kernel, const int16_t* x, size_t positions, const int32_t* bias, int16_t* out, int32_t low = -32768,
           int32_t high = 32767) const {
    run<int16_t>(
        kernel, positions, [&](size_t p) { return x + p * inputs_; }, [&](size_t) { return bias; }, low, high,
        [&](size_t p) { return out + p * outputs_; });
  }

  // Of positions that follow each other, the sums of weight · input alone, for results that do not fit 16 bits.
  void sums(Kernel kernel, const int16_t* x, size_t positions, int32_t* out) const {
    each(
        kernel, positions, [&](size_t p) { return x + p * inputs_; },
        [&](size_t p, size_t first, size_t count, const int32_t* sums) {
          std::copy_n(sums, count, out + p * outputs_ + first);
        });
  }

 private:
  // use(p, first, count, sums): the sums of position p for outputs first, first + 1, ...
  template <typename At, typename Use>
  void each(Kernel kernel, size_t positions, const At& at, const Use& use) const {
    Sums sums[kTile];
    const size_t panels = (outputs_ + kPanel - 1) / kPanel;
    for (size_t n = 0; n < panels; n += kPanels) {
      const size_t some = std::min(kPanels, panels - n);
      const size_t count_out = std::min(some * kPanel, outputs_ - n * kPanel);
      for (size_t p = 0; p < positions; p += kTile) {
        const size_t count = std::min(kTile, positions - p);
        const int16_t* x[kTile];
        for (size_t i = 0; i < kTile; ++i) x[i] = at(p + std::min(i, count - 1));
        multiply(kernel, x, count, n, some, sums);
        for (size_t i = 0; i < count; ++i) use(p + i, n * kPanel, count_out, sums[i]);
      }
    }
  }

  void multiply(Kernel kernel, const int16_t* const* x, size_t count, size_t panel, size_t panels, Sums* sums) const {
    const size_t offset = panel * pairs_ * 2 * kPanel;
    const int16_t* const plain = plain_.data() + offset;
#if defined(NC_X86) || defined(NC_WASM)
    const int16_t* const weights = interleaved_.data() + offset;
#endif
#ifdef NC_X86
    if (kernel == Kernel::kAvx512) return layers::sums_avx512(x, count, weights, pairs_, panels, sums);
    if (kernel == Kernel::kAvx2) return layers::sums_avx2(x, count, weights, pairs_, panels, sums);
#endif
#ifdef NC_NEON
    if (kernel == Kernel::kNeon) return layers::sums_neon(x, count, plain, 2 * pairs_, panels, sums);
#endif
#ifdef NC_WASM
    if (!NC_PLAIN(kernel)) return layers::sums_wasm(x, count, weights, pairs_, panels, sums);
#endif
    static_cast<void>(kernel);
    layers::sums_generic(x, count, plain, 2 * pairs_, panels, sums);
  }

  // Outputs first, first + 1, ... of one position.
  template <typename Out>
  void finish(Kernel kernel, const int32_t* sums, const int32_t* bias, size_t first, size_t count, int32_t low,
              int32_t high, Out* out) const {
    const int32_t* const shift = rounded_.shift.data() + first;
#if defined(NC_WASM)
    size_t done = 0;
    if (kernel == Kernel::kWasm) {
      done = layers::finish_wasm(sums, bias, rounded_.scale.data() + first, count, low, high, out);
    }
    layers::finish_generic(sums + done, bias + done, shift + done, count - done, low, high, out + done);
#else
    if constexpr (std::is_same_v<Out, int16_t>) {
      if (kernel != Kernel::kGeneric && low == -32768 && high == 32767) {
#if defined(NC_X86)
        return layers::finish16_avx2(sums, bias, shift, count, out);
#elif defined(NC_NEON)
        return layers::finish16_neon(sums, bias, shift, count, out);
#endif
      }
    }
    NC_COMPILED(kernel, finish, sums, bias, shift, count, low, high, out);
#endif
  }

  size_t outputs_ = 0, inputs_ = 0, pairs_ = 0;
  Rounded rounded_;
  std::vector<int16_t> plain_, interleaved_;
};

// A depthwise 3×3 convolution with zeros outside. weight: (channels, 3, 3).
class Depthwise {
 public:
  Depthwise() = default;
  Depthwise(const int16_t* weight, const int32_t* bias, const int8_t* shift, size_t channels)
      : channels_(channels), rounded_(bias, shift, channels), weights_(9 * channels), zeros_(channels) {
    for (size_t c = 0; c < channels; ++c) {
      for (size_t t = 0; t < 9; ++t) weights_[t * channels + c] = weight[c * 9 + t];
    }
#ifdef NC_X86
    packed_ = layers::pack_depthwise(weights_.data(), channels, channels / layers::kDepthwiseBlock);
#endif
  }

  size_t channels() const { return channels_; }

  // One row of `width` positions. above, here, below: its rows of inputs, positions `stride` apart; null outside.
  void run_row(Kernel kernel, const int16_t* above, const int16_t* here, const int16_t* below, size_t width,
               size_t stride, int16_t* out, size_t out_stride) const {
    const int16_t* const rows[3] = {above, here, below};
    for (size_t c = 0; c < width; ++c) {
      const int16_t* taps[9];
      for (size_t t = 0; t < 9; ++t) {
        const size_t column = c + t % 3 - 1;  // below zero it wraps to a huge number
        taps[t] = rows[t / 3] != nullptr && column < width ? rows[t / 3] + column * stride : zeros_.data();
      }
      int16_t* const to = out + c * out_stride;
      size_t done = 0;
#if defined(NC_X86)
      if (kernel != Kernel::kGeneric) {
        const size_t blocks = channels_ / layers::kDepthwiseBlock;
        layers::depthwise_avx2(taps, packed_.data(), rounded_.bias.data(), rounded_.shift.data(), blocks, to);
        done = blocks * layers::kDepthwiseBlock;
      }
#elif defined(NC_NEON)
      if (kernel != Kernel::kGeneric) {
        done = layers::depthwise_neon(taps, weights_.data(), rounded_.bias.data(), rounded_.shift.data(), channels_, to);
      }
#elif defined(NC_WASM)
      if (kernel != Kernel::kGeneric) {
        done = layers::depthwise_wasm(taps, weights_.data(), rounded_.bias.data(), rounded_.scale.data(), channels_, to);
      }
#endif
      static_cast<void>(kernel);
      layers::depthwise_generic(taps, weights_.data(), rounded_.bias.data(), rounded_.shift.data(), done, channels_, to);
    }
  }

 private:
  size_t channels_ = 0;
  Rounded rounded_;
  std::vector<int16_t> weights_, packed_, zeros_;
};

}  // namespace neurocodec

#endif  // NEUROCODEC_INTEGER_LAYERS_HPP
