// SPDX-License-Identifier: Apache-2.0
//
// The residual of a lossless file: one tile's exact pixels <-> stream, given the pixels that the networks decode.
// Header only, C++17, no dependencies. docs/lossless.md defines the bytes; neurocodec/lossless.py is the readable twin.
//
// Surprises, in the order in which people meet them:
//  * Everything adapts to pixels coded before, so the encoder runs the same model forwards, keeps what each value
//    got of the range, and codes backwards at the end.
//  * Least squares in integers: an LDL factorisation of a scaled Gram matrix, 20 fractional bits, every value clamped,
//    so that no picture can overflow 64 bits. Nothing depends on the order of additions.
//  * A value's probability is a difference of a mixture of logistic distributions. The decoder needs that mixture only
//    where it searches: about three times a value.
//  * Probabilities have 20 bits, not the 16 of range_coder.hpp. States and words are the same.

#ifndef NEUROCODEC_LOSSLESS_HPP
#define NEUROCODEC_LOSSLESS_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "integer_layers.hpp"
#include "lossless_table.hpp"
#include "range_coder.hpp"

namespace neurocodec {
namespace lossless {

constexpr int kBlock = 16;                   // pixels that share weights
constexpr int kPredictions = 3, kScales = 3, kParts = kPredictions * kScales;
constexpr int kLevels = 64;                  // of activity
constexpr int kPad = 4;                      // values around a plane
constexpr int kProbabilityBits = 20;
constexpr int kMaxInputs = 27, kMaxTerms = kMaxInputs + 1;
constexpr int kGram = kMaxTerms * (kMaxTerms + 1) / 2;
constexpr size_t kMaxSide = size_t{1} << 16;

static_assert((int64_t{-3} >> 1) == -2, "a shift of a negative number rounds down");

struct Place { int dy, dx; };
constexpr Place kOwn[] = {{-1, 0}, {-1, -1}, {-1, 1}, {0, -2}, {-2, 0}, {-2, -1}, {-2, 1},
                          {-1, -2}, {-1, 2}, {-2, -2}, {-2, 2}, {0, -3}, {-3, 0}};
constexpr Place kOther[] = {{0, 0}, {0, 1}, {1, 0}, {-1, 0}, {-1, 1}, {-1, -1}};
constexpr Place kWide[] = {{0, -3}, {0, -4}, {-1, -2}, {-1, 2}, {-1, 3}, {-2, -1},
                           {-2, 1}, {-2, -2}, {-2, 2}, {-3, 0}, {-3, -1}, {-3, 1}};

template <typename T>
T clamp(T value, T low, T high) { return value < low ? low : value > high ? high : value; }

inline int64_t shifted(int64_t value, int shift) {  // value * 2^shift, rounded down
  return shift >= 0 ? value * (int64_t{1} << shift) : value >> -shift;
}

inline int log2_floor(uint64_t value) {  // of a value above 0
  int bits = 0;
  for (int step = 32; step > 0; step >>= 1) {
    if (value >> step != 0) { value >>= step; bits += step; }
  }
  return bits;
}

// A plane of values with kPad more on each side.
template <typename T>
class Padded {
 public:
  Padded(size_t height, size_t width, T value)
      : stride_(width + 2 * kPad), values_((height + 2 * kPad) * stride_, value) {}
  T* at(size_t y, size_t x) { return values_.data() + (y + kPad) * stride_ + x + kPad; }
  const T* at(size_t y, size_t x) const { return const_cast<Padded*>(this)->at(y, x); }
  ptrdiff_t stride() const { return static_cast<ptrdiff_t>(stride_); }
  void extend_row(size_t y, size_t width) {
    T* const row = at(y, 0);
    std::fill(row - kPad, row, row[0]);
    std::fill(row + width, row + width + kPad, row[width - 1]);
  }
  void extend_rows(size_t height) {  // above and below; the rows are extended already
    for (size_t k = 0; k < kPad; ++k) {
      std::copy(at(0, 0) - kPad, at(0, 0) - kPad + stride(), values_.data() + k * stride_);
      std::copy(at(height - 1, 0) - kPad, at(height - 1, 0) - kPad + stride(),
                values_.data() + (height + kPad + k) * stride_);
    }
  }

 private:
  size_t stride_;
  std::vector<T> values_;
};

// The weights with the least squared error over what a Gram matrix has seen; the target is its last row.
class LeastSquares {
 public:
  explicit LeastSquares(int inputs) : n_(inputs) {}

  // gram: lower triangle, row by row, of n + 1 rows. weights: n, with 12 fractional bits.
  // Column by column, so that the products of a column's rows fill a vector.
  NC_INLINE void solve(const int64_t* gram, int16_t* weights) {
    const int n = n_;
    int scale[kMaxTerms];
    for (int i = 0; i <= n; ++i) {
      scale[i] = (29 - log2_floor(static_cast<uint64_t>(gram[row(i) + i] + kRidge))) >> 1;
    }
    const int ends = (n + 4) & ~3;  // whole vectors
    for (int j = 0; j < n; ++j) {
      int64_t sums[kMaxTerms] = {};
      for (int q = 0; q < j; ++q) {
        const int32_t* const v = values_[q];
        const int32_t factor = factors_[q][j];
        for (int i = j & ~3; i < ends; ++i) sums[i] += int64_t{v[i]} * factor;
      }
      const int64_t diagonal = shifted(gram[row(j) + j] + kRidge, 2 * scale[j]);
      const int64_t rest = clamp<int64_t>(diagonal + (diagonal >> 13) - (sums[j] >> 20), diagonal >> 14, kMost);
      const int up = 30 - log2_floor(static_cast<uint64_t>(rest));
      const int64_t reciprocal = (int64_t{1} << 61) / (rest << up);
      for (int i = j + 1; i <= n; ++i) {
        const int64_t value =
            clamp<int64_t>(shifted(gram[row(i) + j], scale[i] + scale[j]) - (sums[i] >> 20), -kMost, kMost);
        values_[j][i] = static_cast<int32_t>(value);
        factors_[j][i] = static_cast<int32_t>(clamp<int64_t>((value * reciprocal) >> (41 - up), -kMostFactor, kMostFactor));
      }
      values_[j][j] = 0;  // the sums of rows up to j are not read again
    }
    int64_t solved[kMaxInputs];
    for (int i = n - 1; i >= 0; --i) {
      int64_t sum = 0;
      for (int j = i + 1; j < n; ++j) sum += int64_t{factors_[i][j]} * solved[j];
      solved[i] = clamp<int64_t>(factors_[i][n] - (sum >> 20), -kMostFactor, kMostFactor);
      weights[i] = static_cast<int16_t>(clamp<int64_t>(shifted(solved[i], scale[i] - scale[n] - 8), -32768, 32767));
    }
  }

  static size_t row(int i) { return static_cast<size_t>(i) * (i + 1) / 2; }

 private:
  static constexpr int64_t kRidge = 256, kMost = (int64_t{1} << 31) - 1, kMostFactor = int64_t{1} << 26;
  int n_;
  int32_t values_[kMaxTerms][kMaxTerms] = {};   // column, row
  int32_t factors_[kMaxTerms][kMaxTerms] = {};  // the same, with 20 fractional bits
};

// The inputs and targets of a block, and the sums of their products.
struct BlockGram {
  // pixel / 2, term, pixel % 2: instructions multiply and add pairs
  alignas(16) int16_t terms[kBlock / 2][kMaxTerms][2], weighted[kBlock / 2][kMaxTerms][2];
  alignas(16) int32_t sums[kMaxTerms][kMaxTerms];

  NC_INLINE void multiply(int count) {
    for (int r = 0; r < count; ++r) {
#if defined(NC_X86)
      for (int c = 0; c <= r; c += 4) {
        __m128i sum = _mm_setzero_si128();
        for (int p = 0; p < kBlock / 2; ++p) {
          int32_t pair;
          std::memcpy(&pair, weighted[p][r], sizeof(pair));
          const __m128i four = _mm_load_si128(reinterpret_cast<const __m128i*>(terms[p][c]));
          sum = _mm_add_epi32(sum, _mm_madd_epi16(_mm_set1_epi32(pair), four));
        }
        _mm_store_si128(reinterpret_cast<__m128i*>(&sums[r][c]), sum);
      }
#else
      for (int c = 0; c <= r; ++c) {
        int32_t sum = 0;
        for (int p = 0; p < kBlock / 2; ++p) sum += weighted[p][r][0] * terms[p][c][0] + weighted[p][r][1] * terms[p][c][1];
        sums[r][c] = sum;
      }
#endif
    }
  }
};

// Gram matrices for blocks of pixels: that of a block forgets with each row.
class Memory {
 public:
  Memory(size_t blocks, int terms, int forget)
      : terms_(terms), forget_(forget), size_(LeastSquares::row(terms)), blocks_(blocks), values_(blocks * size_), none_(size_) {}

  // The sum of a block's matrix and its neighbours'.
  NC_INLINE void recall(size_t block, int64_t* gram) const {
    const int64_t* const own = values_.data() + block * size_;
    const int64_t* const left = block == 0 ? none_.data() : own - size_;
    const int64_t* const right = block + 1 == blocks_ ? none_.data() : own + size_;
    for (size_t i = 0; i < size_; ++i) gram[i] = left[i] + own[i] + right[i];
  }

  NC_INLINE void forget(size_t block) {
    int64_t* const own = values_.data() + block * size_;
    for (size_t i = 0; i < size_; ++i) own[i] -= own[i] >> forget_;
  }

  NC_INLINE void add(size_t block, const BlockGram& gram) {
    int64_t* own = values_.data() + block * size_;
    for (int r = 0; r < terms_; ++r) {
      for (int c = 0; c <= r; ++c) *own++ += gram.sums[r][c];
    }
  }

 private:
  int terms_, forget_;
  size_t size_, blocks_;
  std::vector<int64_t> values_, none_;
};

// A running mean: of the first `limit` values, then of recent ones.
struct Average {
  int32_t value = 0;
  int32_t count = 0;

  void add(int32_t next, int limit) {
    value += static_cast<int32_t>((int64_t{next - value} * (65536 / (count + 2))) >> 16);
    if (count < limit) ++count;
  }
};

// A mixture of logistic distributions of a value.
struct Mixture {
  int32_t centre[kPredictions];   // 8 fractional bits
  int64_t slope[kScales];
  uint32_t weight[kParts];        // sum 2^16

  // The cumulative probabilities of all parts below `value`, with 16 bits.
  NC_INLINE void parts(int value, uint32_t* below) const {
    if (value <= 0 || value >= 256) {
      std::fill(below, below + kParts, value <= 0 ? 0u : 1u << 16);
      return;
    }
    for (int p = 0; p < kPredictions; ++p) {
      const int64_t distance = value * 256 - 128 - centre[p];
      for (int s = 0; s < kScales; ++s) {
        const auto z = static_cast<int32_t>(clamp<int64_t>((distance * slope[s]) >> 8, -kLogisticEnd, kLogisticEnd)) + kLogisticEnd;
        const int32_t low = kLogistic[z >> 8], high = kLogistic[(z >> 8) + 1];
        below[kScales * p + s] = static_cast<uint32_t>(low + (((high - low) * (z & 255)) >> 8));
      }
    }
  }

  uint64_t total(const uint32_t* below) const {
    uint64_t sum = 0;
    for (int q = 0; q < kParts; ++q) sum += uint64_t{weight[q]} * below[q];
    return sum;
  }

  // Where a value begins in the range of 2^20.
  static uint32_t start(int value, uint64_t total) {
    return static_cast<uint32_t>(static_cast<uint64_t>(value) + (total >> 12) - (total >> 24));
  }
};

struct Piece { uint32_t start, frequency; };

// One state of the range coder, decoding.
class Reader {
 public:
  Reader(const uint8_t* data, size_t size) : at_(data), end_(data + size) {
    if (size < kStateBytes || (size - kStateBytes) % 2 != 0) { status_ = Status::kTruncated; return; }
    for (int i = 0; i < kStateBytes; ++i) state_ |= uint64_t{*at_++} << (8 * i);
    if (state_ < kLow) status_ = Status::kBadGroup;
  }
  Status status() const { return status_; }
  uint32_t slot() const { return static_cast<uint32_t>(state_ & ((1u << kProbabilityBits) - 1)); }
  bool take(Piece piece) {
    state_ = piece.frequency * (state_ >> kProbabilityBits) + slot() - piece.start;
    while (state_ < kLow) {
      if (at_ == end_) { status_ = Status::kTruncated; return false; }
      state_ = state_ << 16 | load_word(at_);
      at_ += 2;
    }
    return true;
  }
  Status finish() const { return state_ == kLow && at_ == end_ ? Status::kOk : Status::kBadEnd; }

 private:
  const uint8_t *at_, *end_;
  uint64_t state_ = 0;
  Status status_ = Status::kOk;
};

inline std::vector<uint8_t> write(const std::vector<Piece>& pieces) {
  std::vector<uint16_t> words;
  uint64_t state = kLow;
  for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) {
    while (state >= uint64_t{piece->frequency} << (40 - kProbabilityBits)) {
      words.push_back(static_cast<uint16_t>(state));
      state >>= 16;
    }
    state = (state / piece->frequency << kProbabilityBits) + piece->start + state % piece->frequency;
  }
  std::vector<uint8_t> stream(kStateBytes + 2 * words.size());
  for (int i = 0; i < kStateBytes; ++i) stream[i] = static_cast<uint8_t>(state >> (8 * i));
  uint8_t* to = stream.data() + kStateBytes;
  for (auto word = words.rbegin(); word != words.rend(); ++word, to += 2) store_word(to, *word);
  return stream;
}

// The model of one plane. Code: (mixture, row, column, lower, upper) -> the pixel's value, or -1 for damage; fills in
// the parts of the mixture below the value and below the next.
class Plane {
 public:
  using Values = Padded<uint8_t>;
  using Errors = Padded<uint16_t>;

  // values: of planes 0 to `plane`; that of `plane` holds x_hat and is replaced by the exact values, which code() knows
  // or learns. x_hat: of this plane, extended. errors: of planes 0 to `plane`, 1/16.
  template <typename Code>
  static bool run(std::vector<Values>& values, const Values& x_hat, std::vector<Errors>& errors, size_t plane,
                  size_t height, size_t width, const Code& code) {
#if defined(NC_X86)
    static const bool avx2 = __builtin_cpu_supports("avx2");
    if (avx2) return run_avx2(values, x_hat, errors, plane, height, width, code);
#endif
    return run_anywhere(values, x_hat, errors, plane, height, width, code);
  }

 private:
#if defined(NC_X86)
  template <typename Code>
  NC_AVX2 static bool run_avx2(std::vector<Values>& values, const Values& x_hat, std::vector<Errors>& errors,
                               size_t plane, size_t height, size_t width, const Code& code) {
    return run_anywhere(values, x_hat, errors, plane, height, width, code);
  }
#endif

  template <typename Code>
  NC_INLINE static bool run_anywhere(std::vector<Values>& values, const Values& x_hat, std::vector<Errors>& errors, size_t plane,
                  size_t height, size_t width, const Code& code) {
    Values& own = values[plane];
    const int inputs = static_cast<int>(std::size(kOwn) + 2 + plane * std::size(kOther)), terms = inputs + 1;
    const size_t blocks = (width + kBlock - 1) / kBlock, pairs = (blocks + 1) / 2;
    Memory near(blocks, terms, 3), far(pairs, terms, 5);
    LeastSquares least_squares(inputs);
    int64_t gram[kGram];
    BlockGram products = {};
    int16_t near_weights[kMaxInputs];
    std::vector<int16_t> far_weights(pairs * inputs);
    std::vector<Average> mean(kLevels * 4);       // of the absolute error, 12 fractional bits
    for (int i = 0; i < kLevels * 4; ++i) mean[i].value = kFirstMean[i / 4];
    std::vector<Average> bias[2] = {std::vector<Average>(512), std::vector<Average>(512)};  // 12 fractional bits
    std::vector<int> level_count(kLevels), shape_count(128);
    std::vector<uint32_t> by_level(kLevels * kParts), by_shape(128 * kParts);
    for (auto* set : {&by_level, &by_shape}) {
      for (size_t i = 0; i < set->size(); ++i) (*set)[i] = (1u << 16) / kParts + (i % kParts == kParts - 1 ? (1u << 16) % kParts : 0);
    }

    const ptrdiff_t stride = own.stride();
    for (size_t y = 0; y < height; ++y) {
      for (size_t block = 0; block < blocks; ++block) {
        const size_t pair = block / 2;
        int16_t* const weights[2] = {near_weights, &far_weights[pair * inputs]};
        near.recall(block, gram);
        least_squares.solve(gram, weights[0]);
        near.forget(block);
        if (block % 2 == 0) {
          if (y < 2 || (y + pair) % 4 == 0) {
            far.recall(pair, gram);
            least_squares.solve(gram, weights[1]);
          }
          far.forget(pair);
        }
        const size_t begin = block * kBlock, count = std::min<size_t>(kBlock, width - begin);
        if (count < kBlock) {
          products = {};
        }
        for (size_t i = 0; i < count; ++i) {
          const size_t x = begin + i;
          uint8_t* const here = own.at(y, x);
          const uint8_t* const first = x_hat.at(y, x);
          const int west = here[-1];
          // The inputs: differences from the pixel on the left.
          int16_t f[kMaxTerms];
          int k = 0;
          for (const Place& p : kOwn) f[k++] = static_cast<int16_t>(here[p.dy * stride + p.dx] - west);
          f[k++] = static_cast<int16_t>(first[-1] - west);
          f[k++] = static_cast<int16_t>(first[0] - first[-1]);
          for (size_t other = 0; other < plane; ++other) {
            const uint8_t* const there = values[other].at(y, x);
            for (const Place& p : kOther) f[k++] = static_cast<int16_t>(there[p.dy * stride + p.dx] - there[-1]);
          }
          int32_t sums[2] = {0, 0};
          for (int j = 0; j < inputs; ++j) {
            sums[0] += weights[0][j] * f[j];
            sums[1] += weights[1][j] * f[j];
          }
          int32_t guess[2];
          for (int j = 0; j < 2; ++j) guess[j] = clamp(west * 256 + (sums[j] >> 4), 0, 255 * 256);

          // Activity: the errors around.
          uint16_t* const e = errors[plane].at(y, x);
          const int32_t close = 4 * (e[-1] + e[-stride]) + 2 * (e[-stride - 1] + e[-stride + 1]) + e[-2] + e[-2 * stride];
          int32_t wide = 0;
          for (const Place& p : kWide) wide += e[p.dy * stride + p.dx];
          int32_t activity = close + (wide >> 2);
          if (plane > 0) {
            int32_t sum = 0;
            for (size_t other = 0; other < plane; ++other) {
              const uint16_t* const there = errors[other].at(y, x);
              sum += 5 * there[0] + 2 * (there[1] + there[stride]);
            }
            activity += plane == 1 ? sum : sum >> 1;
          }
          const int octave = log2_floor(static_cast<uint64_t>(activity) + 4);  // 2 to 17
          const int level = std::min(kLevels - 1, 4 * (octave - 2) + ((activity + 4) >> (octave - 2)) % 4);
          const int32_t a = 7 * wide + 160, b = 6 * close + 160;
          const int trend = (5 * a > 3 * b) + (a > b) + (5 * a > 8 * b);

          // Shape: on which side of the guess the neighbours are.
          const int32_t g = guess[0];
          const int north = here[-stride], north2 = here[-2 * stride];
          const auto above = [g](int value) { return value * 256 > g ? 1 : 0; };
          const int shape = above(west) | above(north) << 1 | above(here[-stride - 1]) << 2 | above(here[-stride + 1]) << 3 |
                            above(north2) << 4 | above(here[-2]) << 5 | above(2 * north - north2) << 6;
          int second = above(first[0]) | (first[stride] > first[0]) << 1 | (first[1] > first[0]) << 2;
          if (plane > 0) {
            const uint8_t* const there = values[plane - 1].at(y, x);
            second |= (there[0] > there[-1]) << 3 | (there[0] > there[-stride]) << 4 | (there[0] > there[1]) << 5 |
                      (there[0] > there[stride]) << 6;
          }
          const int coarse = std::min(3, level >> 4) << 7;
          Average* const biases[2] = {&bias[0][shape | coarse], &bias[1][second | coarse]};

          Mixture mix;
          mix.centre[0] = guess[1];
          mix.centre[1] = clamp(guess[0] + (biases[0]->value >> 4), 0, 255 * 256);
          mix.centre[2] = clamp(guess[0] + (biases[1]->value >> 4), 0, 255 * 256);
          Average& size = mean[4 * level + trend];
          const int64_t slope = (int64_t{182044} << 8) / std::max(size.value, 64);
          mix.slope[0] = 2 * slope;
          mix.slope[1] = slope;
          mix.slope[2] = slope >> 1;
          uint32_t* const sets[2] = {&by_level[level * kParts], &by_shape[shape * kParts]};
          uint32_t rest = 1u << 16;
          for (int q = 0; q < kParts - 1; ++q) rest -= mix.weight[q] = (sets[0][q] + sets[1][q]) >> 1;
          mix.weight[kParts - 1] = rest;

          uint32_t lower[kParts], upper[kParts];
          const int value = code(mix, y, x, lower, upper);
          if (value < 0) return false;
          *here = static_cast<uint8_t>(value);

          // Learn from the value.
          uint64_t mass = 0, masses[kParts];
          for (int q = 0; q < kParts; ++q) mass += masses[q] = uint64_t{mix.weight[q]} * (upper[q] - lower[q]);
          if (mass >= 1u << 12) {
            const uint64_t reciprocal = (uint64_t{1} << 44) / mass;
            int* const counts[2] = {&level_count[level], &shape_count[shape]};
            for (int t = 0; t < 2; ++t) {
              uint32_t* const set = sets[t];
              const int rate = 65536 / (*counts[t] + 4);
              if (*counts[t] < 12) ++*counts[t];
              uint32_t left = 1u << 16;
              for (int q = 0; q < kParts - 1; ++q) {
                const auto share = static_cast<int32_t>((masses[q] * reciprocal) >> 28);
                const int32_t goal = share - (share >> 6) + 64;
                set[q] = static_cast<uint32_t>(static_cast<int32_t>(set[q]) + (int64_t{goal - static_cast<int32_t>(set[q])} * rate >> 16));
                left -= set[q];
              }
              set[kParts - 1] = left;
            }
          }
          const int32_t error = value * 256 - guess[0];
          size.add(std::abs(error) * 16, 255);
          for (Average* const average : biases) average->add(error * 16, 100);
          e[0] = static_cast<uint16_t>(std::abs(error) >> 4);

          const int16_t weight = kWeight[level];
          f[inputs] = static_cast<int16_t>(value - west);
          for (int j = 0; j < terms; ++j) {
            products.terms[i / 2][j][i % 2] = f[j];
            products.weighted[i / 2][j][i % 2] = static_cast<int16_t>(f[j] * weight);
          }
        }
        products.multiply(terms);
        near.add(block, products);
        far.add(pair, products);
      }
      own.extend_row(y, width);
    }
    own.extend_rows(height);
    return true;
  }
};

}  // namespace lossless

// What both directions share: planes of x_hat, in the order green, red, blue.
class LosslessTile {
 public:
  // pixels: (height, width, channels), channels 1 or 3.
  LosslessTile(const uint8_t* x_hat, size_t height, size_t width, size_t channels)
      : x_hat_(x_hat), height_(height), width_(width), channels_(channels) {}

  std::vector<uint8_t> encode(const uint8_t* exact) const {
    std::vector<lossless::Piece> pieces;
    pieces.reserve(height_ * width_ * channels_);
    run([&](size_t channel, const lossless::Mixture& mix, size_t y, size_t x, uint32_t* lower, uint32_t* upper) {
      const int value = exact[(y * width_ + x) * channels_ + channel];
      mix.parts(value, lower);
      mix.parts(value + 1, upper);
      const uint32_t start = mix.start(value, mix.total(lower));
      pieces.push_back({start, mix.start(value + 1, mix.total(upper)) - start});
      return value;
    });
    return lossless::write(pieces);
  }

  Status decode(const uint8_t* data, size_t size, uint8_t* exact) const {
    lossless::Reader reader(data, size);
    if (reader.status() != Status::kOk) return reader.status();
    const bool done = run([&](size_t channel, const lossless::Mixture& mix, size_t y, size_t x, uint32_t* lower, uint32_t* upper) {
      const uint32_t slot = reader.slot();
      // Gallop from the guess to two neighbours that enclose the slot, then halve.
      int low = 0, high = 256, at = (mix.centre[1] + 128) >> 8, step = 1;
      uint32_t from = 0, to = 1u << lossless::kProbabilityBits, parts[lossless::kParts];
      mix.parts(0, lower);
      mix.parts(256, upper);
      bool up = false, down = false;
      while (high - low > 1) {
        at = lossless::clamp(at, low + 1, high - 1);
        mix.parts(at, parts);
        const uint32_t start = mix.start(at, mix.total(parts));
        if (start <= slot) {
          low = at; from = start; up = true;
          std::copy(parts, parts + lossless::kParts, lower);
          at = down ? (low + high) >> 1 : at + step;
        } else {
          high = at; to = start; down = true;
          std::copy(parts, parts + lossless::kParts, upper);
          at = up ? (low + high) >> 1 : at - step;
        }
        step *= 2;
      }
      if (!reader.take({from, to - from})) return -1;
      exact[(y * width_ + x) * channels_ + channel] = static_cast<uint8_t>(low);
      return low;
    });
    return done ? reader.finish() : reader.status();
  }

 private:
  template <typename Code>
  bool run(const Code& code) const {
    std::vector<lossless::Plane::Values> values;
    std::vector<lossless::Plane::Errors> errors;
    for (size_t plane = 0; plane < channels_; ++plane) {
      const size_t channel = channels_ == 1 ? 0 : plane == 0 ? 1 : plane == 1 ? 0 : 2;
      lossless::Plane::Values first(height_, width_, 0);
      for (size_t y = 0; y < height_; ++y) {
        for (size_t x = 0; x < width_; ++x) *first.at(y, x) = x_hat_[(y * width_ + x) * channels_ + channel];
        first.extend_row(y, width_);
      }
      first.extend_rows(height_);
      values.push_back(first);
      errors.emplace_back(height_, width_, uint16_t{32});
      const auto code_here = [&](const lossless::Mixture& mix, size_t y, size_t x, uint32_t* lower, uint32_t* upper) {
        return code(channel, mix, y, x, lower, upper);
      };
      if (!lossless::Plane::run(values, first, errors, plane, height_, width_, code_here)) return false;
    }
    return true;
  }

  const uint8_t* x_hat_;
  size_t height_, width_, channels_;
};

}  // namespace neurocodec

#endif  // NEUROCODEC_LOSSLESS_HPP
