// SPDX-License-Identifier: Apache-2.0
//
// The residual of a lossless file: one tile's exact pixels <-> stream, given the pixels that the networks decode.
// Header only, C++17. docs/lossless.md defines the bytes; neurocodec/integer/lossless.py is the readable twin, with the
// same names.
//
// Surprises, in the order in which people meet them:
//  * Everything adapts to pixels coded before, so the encoder runs the same model forwards, keeps what each value
//    got of the range, and codes backwards at the end.
//  * What the 16 pixels of a block read from earlier rows and planes is gathered for all of them at once, in vectors.
//    A guess is linear in its inputs, so the pixels on the left join it later, one pixel after another.
//  * Least squares in integers: an LDL factorisation of a scaled Gram matrix, 20 fractional bits, every value clamped,
//    so that no picture can overflow 64 bits. Nothing depends on the order of additions.
//  * A value's probability is a difference of a mixture of logistic distributions. The decoder evaluates the mixture
//    only where it searches: two or three times a value.
//  * Probabilities have 20 bits, not the 16 of range_coder.hpp. States and words are the same.

#ifndef NEUROCODEC_LOSSLESS_HPP
#define NEUROCODEC_LOSSLESS_HPP

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "integer_layers.hpp"
#include "lossless_table.hpp"
#include "range_coder.hpp"

#if defined(__clang__)
#define NC_PIXELS _Pragma("clang loop unroll(disable)")  // vectors suffice, and keep nic.wasm small
#else
#define NC_PIXELS NC_ROLLED
#endif

namespace neurocodec {
namespace lossless {

constexpr int kBlock = 16;                   // pixels that share weights
constexpr int kPredictions = 3, kScales = 3, kParts = kPredictions * kScales;
constexpr int kLevels = 64;                  // of activity
constexpr int kTrends = 4;
constexpr int kShapes = 128;
constexpr int kPad = 4;                      // values around a plane
constexpr int32_t kWhite = 255 * 256;
constexpr int kProbabilityBits = 20;
constexpr size_t kMaxSide = size_t{1} << 16;

struct Offset { int dy, dx; };
constexpr Offset kOwn[] = {{-1, 0}, {-1, -1}, {-1, 1}, {0, -2}, {-2, 0}, {-2, -1}, {-2, 1},
                           {-1, -2}, {-1, 2}, {-2, -2}, {-2, 2}, {0, -3}, {-3, 0}};
constexpr Offset kOther[] = {{0, 0}, {0, 1}, {1, 0}, {-1, 0}, {-1, 1}, {-1, -1}};
constexpr Offset kWideAbove[] = {{-1, -2}, {-1, 2}, {-1, 3}, {-2, -1}, {-2, 1},
                                 {-2, -2}, {-2, 2}, {-3, 0}, {-3, -1}, {-3, 1}};  // and (0, -3), (0, -4)

constexpr int kOwnInputs = std::size(kOwn), kOtherInputs = std::size(kOther);
constexpr int kLeft2 = 3, kLeft3 = 11;       // the inputs (0, -2) and (0, -3)
constexpr int kMaxInputs = kOwnInputs + 2 + 2 * kOtherInputs, kMaxTerms = kMaxInputs + 1;
constexpr int kMaxGram = kMaxTerms * (kMaxTerms + 4) / 2;

static_assert(kMaxTerms % 4 == 0, "rows of whole vectors");
static_assert((int64_t{-3} >> 1) == -2, "a shift of a negative number rounds down");

template <typename T>
T clamp(T value, T low, T high) { return value < low ? low : value > high ? high : value; }

inline int64_t shifted(int64_t value, int shift) {  // value * 2^shift, rounded down
  return shift >= 0 ? value * (int64_t{1} << shift) : value >> -shift;
}

inline int log2_floor(uint64_t value) {  // of a value above 0
#if defined(__GNUC__) || defined(__clang__)
  return 63 - __builtin_clzll(value);
#else
  int bits = 0;
  while (value >>= 1) ++bits;
  return bits;
#endif
}

// A plane of values with kPad more on each side. From any row of the picture, and from the one below the last, a whole
// block may be read even where the plane ends inside it: three more rows follow.
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

// A Gram matrix is stored by columns in vectors of four rows: column j starts at row j & ~3.
inline int whole_vectors(int rows) { return (rows + 3) & ~3; }
inline size_t gram_size(int terms) {
  size_t size = 0;
  for (int j = 0; j < terms; ++j) size += whole_vectors(terms) - (j & ~3);
  return size;
}

// Column, row.
using Columns = int32_t[kMaxTerms][kMaxTerms];

// The sums of V_iq L_jq over q < j, for rows i from j & ~3.
struct PlainSums {
  NC_INLINE static void run(const Columns& values, const Columns& factors, int j, int rows, int64_t* sums) {
    std::fill(sums, sums + kMaxTerms, 0);
    for (int q = 0; q < j; ++q) {
      for (int i = j & ~3; i < rows; ++i) sums[i] += int64_t{values[q][i]} * factors[q][j];
    }
  }
};

#if defined(NC_X86)
struct Avx2Sums {
  template <int kVectors>
  NC_AVX2 static void sum_vectors(const Columns& values, const Columns& factors, int j, int first, int64_t* sums) {
    __m256i sum[kVectors];
    for (int k = 0; k < kVectors; ++k) sum[k] = _mm256_setzero_si256();
    for (int q = 0; q < j; ++q) {
      const __m256i factor = _mm256_set1_epi32(factors[q][j]);
      for (int k = 0; k < kVectors; ++k) {
        const auto* const four = reinterpret_cast<const __m128i*>(values[q] + first + 4 * k);
        const __m256i value = _mm256_cvtepi32_epi64(_mm_loadu_si128(four));
        sum[k] = _mm256_add_epi64(sum[k], _mm256_mul_epi32(value, factor));
      }
    }
    for (int k = 0; k < kVectors; ++k) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + first + 4 * k), sum[k]);
    }
  }

  NC_AVX2 static void run(const Columns& values, const Columns& factors, int j, int rows, int64_t* sums) {
    const int first = j & ~3;
    switch ((rows - first) / 4) {
      case 1: return sum_vectors<1>(values, factors, j, first, sums);
      case 2: return sum_vectors<2>(values, factors, j, first, sums);
      case 3: return sum_vectors<3>(values, factors, j, first, sums);
      case 4: return sum_vectors<4>(values, factors, j, first, sums);
      case 5: return sum_vectors<5>(values, factors, j, first, sums);
      case 6: return sum_vectors<6>(values, factors, j, first, sums);
      default: return sum_vectors<7>(values, factors, j, first, sums);
    }
  }
};
#endif

// The weights with the least squared error over what a Gram matrix has seen; the target is its last row.
template <typename Sums>
class LeastSquares {
 public:
  explicit LeastSquares(int inputs) : n_(inputs) {}

  // gram: of n + 1 terms. weights: n, with 12 fractional bits.
  void solve(const int64_t* gram, int16_t* weights) {
    set_scale(gram);
    const int n = n_, rows = whole_vectors(n + 1);
    alignas(32) int64_t sums[kMaxTerms];
    const int64_t* column = gram;  // column[i]: row i of column j
    for (int j = 0; j < n; ++j) {
      Sums::run(values_, factors_, j, rows, sums);
      const int64_t diagonal = scaled(column[j] + kRidge, 2 * scale_[j]);
      const int64_t rest =
          clamp<int64_t>(diagonal + (diagonal >> 13) - (sums[j] >> kFactorBits), diagonal >> 14, kMost);
      const int up = 30 - log2_floor(static_cast<uint64_t>(rest));
      const int64_t reciprocal = (int64_t{1} << 61) / (rest << up);
      for (int i = j + 1; i <= n; ++i) {
        const int64_t value = clamp<int64_t>(
            scaled(column[i], scale_[i] + scale_[j]) - (sums[i] >> kFactorBits), -kMost, kMost);
        values_[j][i] = static_cast<int32_t>(value);
        factors_[j][i] =
            static_cast<int32_t>(clamp<int64_t>((value * reciprocal) >> (41 - up), -kMostFactor, kMostFactor));
      }
      column += rows - ((j + 1) & ~3);
    }
    substitute_back(weights);
  }

 private:
  static constexpr int kFactorBits = 20;
  static constexpr int64_t kRidge = 256, kMost = (int64_t{1} << 31) - 1, kMostFactor = int64_t{1} << 26;

  // value * 2^shift, rounded down. Gram matrices stay below 2^35, so scales are -3 to 10 and shifts -6 to 20; and as
  // an entry is at most the root of its diagonals' product, the result stays below 2^31.
  static int64_t scaled(int64_t value, int shift) {
    return static_cast<int64_t>(static_cast<uint64_t>(value) << (shift + 8)) >> 8;
  }

  void set_scale(const int64_t* gram) {
    const int rows = whole_vectors(n_ + 1);
    for (int i = 0; i <= n_; ++i) {
      scale_[i] = (29 - log2_floor(static_cast<uint64_t>(gram[i % 4] + kRidge))) >> 1;
      gram += rows - (i & ~3);
    }
  }

  void substitute_back(int16_t* weights) const {
    int64_t solved[kMaxInputs];
    for (int i = n_ - 1; i >= 0; --i) {
      int64_t sum = 0;
      for (int j = i + 1; j < n_; ++j) sum += factors_[i][j] * solved[j];
      solved[i] = clamp<int64_t>(factors_[i][n_] - (sum >> kFactorBits), -kMostFactor, kMostFactor);
      weights[i] = static_cast<int16_t>(clamp<int64_t>(shifted(solved[i], scale_[i] - scale_[n_] - 8), -32768, 32767));
    }
  }

  int n_;
  int scale_[kMaxTerms];
  alignas(32) Columns values_ = {}, factors_ = {};
};

// The sums of products of a block's inputs and targets.
class BlockGram {
 public:
  // terms: (terms, pixels). weights: of the pixels; 0 where there is none.
  void multiply(const int16_t (*terms)[kBlock], const int16_t* weights, int count) {
    for (int k = 0; k < count; ++k) {
      alignas(32) int16_t weighted[kBlock];
      NC_PIXELS
      for (int i = 0; i < kBlock; ++i) weighted[i] = static_cast<int16_t>(terms[k][i] * weights[i]);
      for (int p = 0; p < kBlock / 2; ++p) {
        std::memcpy(terms_[p][k], terms[k] + 2 * p, 4);
        std::memcpy(weighted_[p][k], weighted + 2 * p, 4);
      }
    }
    int32_t* to = sums_;
    for (int r = 0; r < count; ++r) {
#if defined(NC_X86)
      for (int c = r & ~3; c < count; c += 4) {
        __m128i sum = _mm_setzero_si128();
        for (int p = 0; p < kBlock / 2; ++p) {
          int32_t pair;
          std::memcpy(&pair, weighted_[p][r], sizeof(pair));
          const __m128i four = _mm_load_si128(reinterpret_cast<const __m128i*>(terms_[p][c]));
          sum = _mm_add_epi32(sum, _mm_madd_epi16(_mm_set1_epi32(pair), four));
        }
        _mm_store_si128(reinterpret_cast<__m128i*>(to), sum);
        to += 4;
      }
#else
      for (int c = r & ~3; c < whole_vectors(count); ++c) {
        int32_t sum = 0;
        for (int p = 0; p < kBlock / 2; ++p) {
          sum += weighted_[p][r][0] * terms_[p][c][0] + weighted_[p][r][1] * terms_[p][c][1];
        }
        *to++ = sum;
      }
#endif
    }
  }

  const int32_t* sums() const { return sums_; }

 private:
  // pixel / 2, term, pixel % 2: instructions multiply and add pairs
  alignas(32) int16_t terms_[kBlock / 2][kMaxTerms][2] = {}, weighted_[kBlock / 2][kMaxTerms][2] = {};
  alignas(32) int32_t sums_[kMaxGram];
};

// Gram matrices of blocks, which forget a part of what they have seen with each row. T holds 2^27 * 2^forget.
template <typename T>
class Memory {
 public:
  Memory(size_t blocks, int terms, int forget)
      : forget_(forget), size_(gram_size(terms)), values_((blocks + 2) * size_) {}

  // The sum of a block's matrix and its neighbours'.
  NC_INLINE void recall(size_t block, int64_t* gram) const {
    const T* const own = at(block);
    const T* const left = own - size_;
    const T* const right = own + size_;
    for (size_t i = 0; i < size_; ++i) gram[i] = int64_t{left[i]} + own[i] + right[i];
  }

  NC_INLINE void forget(size_t block) {
    T* const own = at(block);
    for (size_t i = 0; i < size_; ++i) own[i] -= own[i] >> forget_;
  }

  NC_INLINE void add(size_t block, const BlockGram& gram) {
    T* const own = at(block);
    const int32_t* const sums = gram.sums();
    for (size_t i = 0; i < size_; ++i) own[i] += sums[i];
  }

 private:
  T* at(size_t block) { return values_.data() + (block + 1) * size_; }
  const T* at(size_t block) const { return values_.data() + (block + 1) * size_; }

  int forget_;
  size_t size_;
  std::vector<T> values_;  // with a matrix of zeros at each end
};

// 65536 / (count + 2)
struct Rates {
  uint16_t values[256] = {};
  constexpr Rates() {
    for (int count = 0; count < 256; ++count) values[count] = static_cast<uint16_t>(65536 / (count + 2));
  }
};
constexpr Rates kRates;

// A running mean: of the first values, then of recent ones.
struct Average {
  int32_t value = 0;
  int32_t count = 0;

  void add(int32_t next, int limit) {
    value += static_cast<int32_t>((int64_t{next - value} * kRates.values[count]) >> 16);
    if (count < limit) ++count;
  }
};

// Weights of the parts of a mixture, learnt from how well each predicted; the last has the rest to 2^16.
struct Parts {
  int32_t weights[kParts - 1];
  int32_t count = 0;

  Parts() { std::fill(std::begin(weights), std::end(weights), 65536 / kParts); }

  // shares: of 2^16. Weights stay between 64 and 2^16, so products have 31 bits.
  NC_INLINE void add(const int32_t* shares) {
    const int32_t rate = kRates.values[count + 2];
    if (count < 12) ++count;
    for (int q = 0; q < kParts - 1; ++q) {
      weights[q] += ((shares[q] - (shares[q] >> 6) + 64 - weights[q]) * rate) >> 16;
    }
  }
};

// Where kLogistic passes odd multiples of 2^9, as indexes.
struct Quantiles {
  int16_t values[64] = {};
  constexpr Quantiles() {
    int index = 0;
    for (int k = 0; k < 64; ++k) {
      while (kLogistic[index] < 1024 * k + 512) ++index;
      values[k] = static_cast<int16_t>(index);
    }
  }
};
constexpr Quantiles kQuantiles;

// What a value gets of the range of 2^20.
struct Piece { uint32_t start, frequency; };

// The cumulative probabilities of a mixture's parts, with 16 bits.
using Shares = std::array<uint32_t, kParts>;

// A mixture of logistic distributions of a value.
struct Mixture {
  int32_t centres[kPredictions];  // 8 fractional bits
  int32_t slopes[kScales];
  int32_t reach;                  // at this distance from a centre, all of its parts have ended
  uint32_t weights[kParts];       // sum 2^16

  // size: of the errors, 12 fractional bits. slope * size is at most 2^25.5, so products of distances up to `reach`
  // stay below 2^28.
  NC_INLINE void set_size(int32_t size) {
    size = std::max(size, 64);
    const auto slope = static_cast<int32_t>((182044u << 8) / static_cast<uint32_t>(size));
    slopes[0] = 2 * slope;
    slopes[1] = slope;
    slopes[2] = slope >> 1;
    reach = 2 * size;
  }

  // The shares below `value`.
  NC_INLINE void below(int value, Shares& shares) const {
    if (value <= 0 || value >= 256) {
      shares.fill(value <= 0 ? 0u : 1u << 16);
      return;
    }
    for (int p = 0; p < kPredictions; ++p) {
      const int32_t distance = clamp(value * 256 - 128 - centres[p], -reach, reach);
      for (int s = 0; s < kScales; ++s) {
        const int32_t z = clamp((distance * slopes[s]) >> 8, -kLogisticEnd, kLogisticEnd) + kLogisticEnd;
        const int32_t low = kLogistic[z >> 8], high = kLogistic[(z >> 8) + 1];
        shares[kScales * p + s] = static_cast<uint32_t>(low + (((high - low) * (z & 255)) >> 8));
      }
    }
  }

  // Where a value begins in the range of 2^20.
  NC_INLINE uint32_t start(int value, const Shares& below) const {
    uint64_t sum = 0;
    for (int q = 0; q < kParts; ++q) sum += uint64_t{weights[q]} * below[q];
    return static_cast<uint32_t>(static_cast<uint64_t>(value) + (sum >> 12) - (sum >> 24));
  }

  // The value whose piece holds the slot; that piece, and the shares below the value and below the next.
  // The search starts near it, gallops to two values that enclose the slot, and halves what is between them.
  NC_INLINE int find(uint32_t slot, Piece& piece, Shares& lower, Shares& upper) const {
    int low = 0, high = 256, at = estimate(slot), step = 1;
    uint32_t from = 0, to = 1u << kProbabilityBits;
    below(low, lower);
    below(high, upper);
    bool up = false, down = false;
    while (high - low > 1) {
      at = clamp(at, low + 1, high - 1);
      Shares middle;
      below(at, middle);
      const uint32_t begin = start(at, middle);
      if (begin <= slot) {
        low = at; from = begin; lower = middle; up = true;
        at = down ? (low + high) >> 1 : at + step;
      } else {
        high = at; to = begin; upper = middle; down = true;
        at = up ? (low + high) >> 1 : at - step;
      }
      step *= 2;
    }
    piece = {from, to - from};
    return low;
  }

 private:
  // About the value at a slot: that of one logistic distribution with the mean centre and the middle slope.
  NC_INLINE int estimate(uint32_t slot) const {
    const int64_t z = kQuantiles.values[slot >> (kProbabilityBits - 6)] - 384;  // 1/32
    const auto distance = static_cast<int32_t>((z * reach * 23) >> 15);         // z * 2^16 / slope, nearly
    return ((centres[0] + centres[1] + centres[2]) / 3 + distance + 128) >> 8;
  }
};

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

// What the pixels of a block read from rows and planes before.
struct Block {
  alignas(32) int16_t terms[kMaxTerms][kBlock];  // inputs, then the target
  alignas(32) int32_t sums[2][kBlock];           // near, far: of weight * value
  alignas(32) int32_t close[kBlock], wide[kBlock], others[kBlock];
  alignas(32) uint8_t second[kBlock];
  alignas(32) int16_t weights[kBlock];           // in least squares

  NC_INLINE static void subtract(const uint8_t* a, const uint8_t* b, int16_t* to) {
    NC_PIXELS
    for (int i = 0; i < kBlock; ++i) to[i] = static_cast<int16_t>(a[i] - b[i]);
  }

  template <typename T>
  NC_INLINE void add_products(const T* values, int16_t near, int16_t far) {
    NC_PIXELS
    for (int i = 0; i < kBlock; ++i) {
      const int16_t value = values[i];
      sums[0][i] += near * value;
      sums[1][i] += far * value;
    }
  }
};

struct Context { int level, trend, shape, second; };

using Values = Padded<uint8_t>;
using Errors = Padded<uint16_t>;

// The model of one plane.
template <typename Sums>
class Plane {
 public:
  // values: of planes 0 to `plane`; that of `plane` holds x_hat and is replaced by the exact values.
  // x_hat: of this plane, extended. errors: of planes 0 to `plane`, in 1/16.
  Plane(std::vector<Values>& values, const Values& x_hat, std::vector<Errors>& errors, size_t plane, size_t height,
        size_t width)
      : values_(values), x_hat_(x_hat), errors_(errors), plane_(plane), height_(height), width_(width),
        inputs_(kOwnInputs + 2 + static_cast<int>(plane) * kOtherInputs), stride_(x_hat.stride()),
        blocks_((width + kBlock - 1) / kBlock), near_(blocks_, inputs_ + 1, 3), far_((blocks_ + 1) / 2, inputs_ + 1, 5),
        least_squares_(inputs_), far_weights_((blocks_ + 1) / 2 * kMaxInputs), by_level_(kLevels), by_shape_(kShapes) {
    for (int i = 0; i < kLevels * kTrends; ++i) means_[i].value = kFirstMean[i / kTrends];
  }

  // code: (mixture, row, column, lower, upper) -> the pixel's value, or -1 for damage; sets the shares below the value
  // and below the next.
  template <typename Code>
  NC_INLINE bool run(const Code& code) {
    for (size_t y = 0; y < height_; ++y) {
      for (size_t block = 0; block < blocks_; ++block) {
        const size_t begin = block * kBlock, count = std::min<size_t>(kBlock, width_ - begin);
        set_weights(y, block);
        gather(y, begin);
        for (size_t i = 0; i < count; ++i) {
          if (!run_pixel(y, begin + i, i, code)) return false;
        }
        std::fill(block_.weights + count, block_.weights + kBlock, int16_t{0});
        learn_block(y, block);
      }
      values_[plane_].extend_row(y, width_);
    }
    values_[plane_].extend_rows(height_);
    return true;
  }

 private:
  NC_INLINE void set_weights(size_t y, size_t block) {
    int64_t gram[kMaxGram];
    const size_t pair = block / 2;
    near_.recall(block, gram);
    least_squares_.solve(gram, near_weights_);
    near_.forget(block);
    if (block % 2 == 0) {
      if (y < 2 || (y + pair) % 4 == 0) {
        far_.recall(pair, gram);
        least_squares_.solve(gram, far_weights(block));
      }
      far_.forget(pair);
    }
    const int16_t* const weights[2] = {near_weights_, far_weights(block)};
    for (int t = 0; t < 2; ++t) {
      west_weights_[t] = 0;
      for (int k = 0; k <= kOwnInputs; ++k) west_weights_[t] += weights[t][k];
      left_weights_[t][0] = weights[t][kLeft2];
      left_weights_[t][1] = weights[t][kLeft3];
    }
  }

  int16_t* far_weights(size_t block) { return &far_weights_[block / 2 * kMaxInputs]; }

  NC_INLINE void gather(size_t y, size_t x) {
    const uint8_t* const own = values_[plane_].at(y, x);
    const uint8_t* const first = x_hat_.at(y, x);
    const int16_t *const near = near_weights_, *const far = far_weights(x / kBlock);
    std::memset(block_.sums, 0, sizeof(block_.sums));
    for (int k = 0; k < kOwnInputs; ++k) {
      if (kOwn[k].dy < 0) block_.add_products(own + kOwn[k].dy * stride_ + kOwn[k].dx, near[k], far[k]);
    }
    int k = kOwnInputs;
    block_.add_products(first - 1, near[k], far[k]);
    ++k;
    block_.subtract(first, first - 1, block_.terms[k]);
    for (size_t other = 0; other < plane_; ++other) {
      const uint8_t* const there = values_[other].at(y, x);
      for (const Offset& o : kOther) block_.subtract(there + o.dy * stride_ + o.dx, there - 1, block_.terms[++k]);
    }
    for (k = kOwnInputs + 1; k < inputs_; ++k) block_.add_products(block_.terms[k], near[k], far[k]);
    gather_errors(y, x);
    gather_second(y, x);
  }

  NC_INLINE void gather_errors(size_t y, size_t x) {
    const uint16_t* const e = errors_[plane_].at(y, x);
    const uint16_t *const above = e - stride_, *const above2 = e - 2 * stride_;
    NC_PIXELS
    for (int i = 0; i < kBlock; ++i) {
      block_.close[i] = 4 * above[i] + 2 * (above[i - 1] + above[i + 1]) + above2[i];
      int32_t wide = 0;
      for (const Offset& o : kWideAbove) wide += e[o.dy * stride_ + o.dx + i];
      block_.wide[i] = wide;
      block_.others[i] = 0;
    }
    for (size_t other = 0; other < plane_; ++other) {
      const uint16_t* const there = errors_[other].at(y, x);
      NC_PIXELS
      for (int i = 0; i < kBlock; ++i) block_.others[i] += 5 * there[i] + 2 * (there[i + 1] + there[i + stride_]);
    }
    if (plane_ == 2) {
      for (int32_t& sum : block_.others) sum >>= 1;
    }
  }

  NC_INLINE void gather_second(size_t y, size_t x) {
    const uint8_t* const first = x_hat_.at(y, x);
    NC_PIXELS
    for (int i = 0; i < kBlock; ++i) {
      block_.second[i] = static_cast<uint8_t>((first[i + stride_] > first[i]) << 1 | (first[i + 1] > first[i]) << 2);
    }
    if (plane_ == 0) return;
    const uint8_t* const there = values_[plane_ - 1].at(y, x);
    NC_PIXELS
    for (int i = 0; i < kBlock; ++i) {
      block_.second[i] = static_cast<uint8_t>(
          block_.second[i] | (there[i] > there[i - 1]) << 3 | (there[i] > there[i - stride_]) << 4 |
          (there[i] > there[i + 1]) << 5 | (there[i] > there[i + stride_]) << 6);
    }
  }

  NC_INLINE int32_t guess(int t, int i, const uint8_t* here) const {
    const int32_t west = here[-1];
    const int32_t sum = block_.sums[t][i] + left_weights_[t][0] * here[-2] + left_weights_[t][1] * here[-3] -
                        west_weights_[t] * west;
    return clamp(west * 256 + (sum >> 4), 0, kWhite);
  }

  NC_INLINE Context context(int i, int32_t guess, const uint8_t* here, const uint8_t* first, const uint16_t* e) const {
    Context context;
    const int32_t close = block_.close[i] + 4 * e[-1] + e[-2], wide = block_.wide[i] + e[-3] + e[-4];
    const int32_t activity = close + (wide >> 2) + block_.others[i] + 4;
    const int octave = log2_floor(static_cast<uint64_t>(activity));  // 2 to 17
    context.level = std::min(kLevels - 1, 4 * (octave - 2) + (activity >> (octave - 2)) % 4);
    const int32_t a = 7 * wide + 160, b = 6 * close + 160;
    context.trend = (5 * a > 3 * b) + (a > b) + (5 * a > 8 * b);

    const auto above = [guess](int value) { return value * 256 > guess ? 1 : 0; };
    const int north = here[-stride_], north2 = here[-2 * stride_];
    context.shape = above(here[-1]) | above(north) << 1 | above(here[-stride_ - 1]) << 2 |
                    above(here[-stride_ + 1]) << 3 | above(north2) << 4 | above(here[-2]) << 5 |
                    above(2 * north - north2) << 6;
    context.second = above(first[0]) | block_.second[i];
    return context;
  }

  template <typename Code>
  NC_INLINE bool run_pixel(size_t y, size_t x, size_t i, const Code& code) {
    uint8_t* const here = values_[plane_].at(y, x);
    uint16_t* const e = errors_[plane_].at(y, x);
    const int32_t near = guess(0, i, here), far = guess(1, i, here);
    const Context at = context(i, near, here, x_hat_.at(y, x), e);
    const int coarse = std::min(3, at.level >> 4) * kShapes;
    Average& size = means_[kTrends * at.level + at.trend];
    Average& bias = biases_[0][at.shape + coarse];
    Average& second_bias = biases_[1][at.second + coarse];
    Parts& by_level = by_level_[at.level];
    Parts& by_shape = by_shape_[at.shape];

    Mixture mixture;
    mixture.centres[0] = far;
    mixture.centres[1] = clamp(near + (bias.value >> 4), 0, kWhite);
    mixture.centres[2] = clamp(near + (second_bias.value >> 4), 0, kWhite);
    mixture.set_size(size.value);
    uint32_t rest = 1u << 16;
    for (int q = 0; q < kParts - 1; ++q) {
      rest -= mixture.weights[q] = static_cast<uint32_t>(by_level.weights[q] + by_shape.weights[q]) >> 1;
    }
    mixture.weights[kParts - 1] = rest;

    Shares lower, upper;
    const int value = code(mixture, y, x, lower, upper);
    if (value < 0) return false;

    *here = static_cast<uint8_t>(value);
    learn_parts(mixture, lower, upper, by_level, by_shape);
    const int32_t error = value * 256 - near;
    size.add(std::abs(error) * 16, 255);
    bias.add(error * 16, 100);
    second_bias.add(error * 16, 100);
    e[0] = static_cast<uint16_t>(std::abs(error) >> 4);
    block_.weights[i] = kWeight[at.level];
    return true;
  }

  NC_INLINE static void learn_parts(const Mixture& mixture, const Shares& lower, const Shares& upper, Parts& by_level,
                                    Parts& by_shape) {
    uint64_t masses[kParts], mass = 0;
    for (int q = 0; q < kParts; ++q) mass += masses[q] = uint64_t{mixture.weights[q]} * (upper[q] - lower[q]);
    if (mass < 1u << 12) return;
    const uint64_t reciprocal = (uint64_t{1} << 44) / mass;
    int32_t shares[kParts - 1];
    for (int q = 0; q < kParts - 1; ++q) shares[q] = static_cast<int32_t>((masses[q] * reciprocal) >> 28);
    by_level.add(shares);
    by_shape.add(shares);
  }

  NC_INLINE void learn_block(size_t y, size_t block) {
    const uint8_t* const own = values_[plane_].at(y, block * kBlock);
    const uint8_t* const west = own - 1;
    for (int k = 0; k < kOwnInputs; ++k) {
      block_.subtract(own + kOwn[k].dy * stride_ + kOwn[k].dx, west, block_.terms[k]);
    }
    block_.subtract(x_hat_.at(y, block * kBlock) - 1, west, block_.terms[kOwnInputs]);
    block_.subtract(own, west, block_.terms[inputs_]);
    gram_.multiply(block_.terms, block_.weights, inputs_ + 1);
    near_.add(block, gram_);
    far_.add(block / 2, gram_);
  }

  std::vector<Values>& values_;
  const Values& x_hat_;
  std::vector<Errors>& errors_;
  size_t plane_, height_, width_;
  int inputs_;
  ptrdiff_t stride_;
  size_t blocks_;

  Memory<int32_t> near_;
  Memory<int64_t> far_;
  LeastSquares<Sums> least_squares_;
  BlockGram gram_;
  Block block_;
  int16_t near_weights_[kMaxInputs];
  std::vector<int16_t> far_weights_;  // pair, input
  int32_t west_weights_[2], left_weights_[2][2];  // near, far

  Average means_[kLevels * kTrends];  // of the absolute error, 12 fractional bits
  Average biases_[2][4 * kShapes];    // 12 fractional bits
  std::vector<Parts> by_level_, by_shape_;
};

#if defined(NC_X86)
template <typename Code>
NC_AVX2 bool run_plane_avx2(std::vector<Values>& values, const Values& x_hat, std::vector<Errors>& errors, size_t plane,
                            size_t height, size_t width, const Code& code) {
  return Plane<Avx2Sums>(values, x_hat, errors, plane, height, width).run(code);
}
#endif

template <typename Code>
bool run_plane(std::vector<Values>& values, const Values& x_hat, std::vector<Errors>& errors, size_t plane,
               size_t height, size_t width, const Code& code) {
#if defined(NC_X86)
  static const bool avx2 = __builtin_cpu_supports("avx2");
  if (avx2) return run_plane_avx2(values, x_hat, errors, plane, height, width, code);
#endif
  return Plane<PlainSums>(values, x_hat, errors, plane, height, width).run(code);
}

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
    const auto code = [&](size_t channel, const Mixture& mixture, size_t y, size_t x, Shares& lower, Shares& upper) {
      const int value = exact[(y * width_ + x) * channels_ + channel];
      mixture.below(value, lower);
      mixture.below(value + 1, upper);
      const uint32_t start = mixture.start(value, lower);
      pieces.push_back({start, mixture.start(value + 1, upper) - start});
      return value;
    };
    run(code);
    return lossless::write(pieces);
  }

  Status decode(const uint8_t* data, size_t size, uint8_t* exact) const {
    lossless::Reader reader(data, size);
    if (reader.status() != Status::kOk) return reader.status();
    const auto code = [&](size_t channel, const Mixture& mixture, size_t y, size_t x, Shares& lower, Shares& upper) {
      lossless::Piece piece;
      const int value = mixture.find(reader.slot(), piece, lower, upper);
      if (!reader.take(piece)) return -1;
      exact[(y * width_ + x) * channels_ + channel] = static_cast<uint8_t>(value);
      return value;
    };
    return run(code) ? reader.finish() : reader.status();
  }

 private:
  using Mixture = lossless::Mixture;
  using Shares = lossless::Shares;

  template <typename Code>
  bool run(const Code& code) const {
    std::vector<lossless::Values> values;
    std::vector<lossless::Errors> errors;
    for (size_t plane = 0; plane < channels_; ++plane) {
      const size_t channel = channels_ == 1 ? 0 : plane == 0 ? 1 : plane == 1 ? 0 : 2;
      const lossless::Values x_hat = padded(channel);
      values.push_back(x_hat);
      errors.emplace_back(height_, width_, uint16_t{32});
      const auto code_plane = [&](const Mixture& mixture, size_t y, size_t x, Shares& lower, Shares& upper) {
        return code(channel, mixture, y, x, lower, upper);
      };
      if (!lossless::run_plane(values, x_hat, errors, plane, height_, width_, code_plane)) return false;
    }
    return true;
  }

  lossless::Values padded(size_t channel) const {
    lossless::Values plane(height_, width_, 0);
    for (size_t y = 0; y < height_; ++y) {
      for (size_t x = 0; x < width_; ++x) *plane.at(y, x) = x_hat_[(y * width_ + x) * channels_ + channel];
      plane.extend_row(y, width_);
    }
    plane.extend_rows(height_);
    return plane;
  }

  const uint8_t* x_hat_;
  size_t height_, width_, channels_;
};

}  // namespace neurocodec

#endif  // NEUROCODEC_LOSSLESS_HPP
