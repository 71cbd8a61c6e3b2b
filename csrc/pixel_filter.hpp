// SPDX-License-Identifier: Apache-2.0
//
// The filter that a file may carry for its decoded pixels; docs/arithmetic.md defines it. Six pairs of neighbours, opposite
// each other, of each colour correct each colour:
//
//     y_o = x_o + Σ weights[o][c][k] · (x_c(p + d_k) + x_c(p - d_k) - 2 x_c(p)) / 2^shift
//
// Header only, C++17.

#ifndef NEUROCODEC_PIXEL_FILTER_HPP
#define NEUROCODEC_PIXEL_FILTER_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "parallel.hpp"

namespace neurocodec {

constexpr size_t kFilterPairs = 6, kFilterReach = 2;
constexpr size_t kFilterInputs = 3 * kFilterPairs, kFilterWeights = 3 * kFilterInputs;
constexpr int kFilterOffsets[kFilterPairs][2] = {{0, 1}, {0, 2}, {1, -1}, {1, 0}, {1, 1}, {2, 0}};  // rows, columns
constexpr int kLeastFilterShift = 6, kMostFilterShift = 10;

// The colours of five rows of pixels, each two pixels wider on both sides: the middle row and those within reach. Pixels
// outside the picture are the nearest ones inside.
class FilterRows {
 public:
  FilterRows(const uint16_t* rgb, size_t height, size_t width)
      : rgb_(rgb), height_(height), width_(width), stride_(width + 2 * kFilterReach), planes_(kRows * 3 * stride_) {}

  // Makes y the middle row; y must be the row after the last call's, or the first.
  void move_to(size_t y) {
    if (loaded_ == 0) {
      for (size_t i = 0; i <= 2 * kFilterReach; ++i) load(y + i);
    } else {
      load(y + 2 * kFilterReach);
    }
    middle_ = y + kFilterReach;
  }

  // A colour of the row `dy` from the middle one; column 0 is the first of the picture.
  const int32_t* row(int dy, size_t colour) const {
    return planes_.data() + (static_cast<size_t>(static_cast<int>(middle_) + dy) % kRows * 3 + colour) * stride_ +
           kFilterReach;
  }

  // inputs[k] of each pixel of a row: x(p + d_k) + x(p - d_k) - 2 x(p) for each colour, (kFilterInputs, width).
  void inputs(int32_t* to) const {
    for (size_t c = 0; c < 3; ++c) {
      for (const auto& [dy, dx] : kFilterOffsets) {
        const int32_t *const here = row(0, c), *const ahead = row(dy, c) + dx, *const behind = row(-dy, c) - dx;
        for (size_t x = 0; x < width_; ++x) to[x] = ahead[x] + behind[x] - 2 * here[x];
        to += width_;
      }
    }
  }

 private:
  static constexpr size_t kRows = 2 * kFilterReach + 1;

  // Row `number` - kFilterReach of the picture.
  void load(size_t number) {
    const size_t y = std::min(std::max(number, kFilterReach) - kFilterReach, height_ - 1);
    for (size_t c = 0; c < 3; ++c) {
      int32_t* const to = planes_.data() + (number % kRows * 3 + c) * stride_ + kFilterReach;
      for (size_t x = 0; x < width_; ++x) to[x] = rgb_[(y * width_ + x) * 3 + c];
      for (size_t i = 1; i <= kFilterReach; ++i) {
        *(to - i) = to[0];
        to[width_ - 1 + i] = to[width_ - 1];
      }
    }
    ++loaded_;
  }

  const uint16_t* rgb_;
  const size_t height_, width_, stride_;
  std::vector<int32_t> planes_;
  size_t middle_ = 0, loaded_ = 0;
};

// rgb: (height, width, 3), 65535 is white; to: the same shape, uint16_t or uint8_t. weights: (3, 3, kFilterPairs), by the
// colour that is corrected, the colour that is read, and the pair.
template <typename Sample>
void filter_pixels(const uint16_t* rgb, size_t height, size_t width, int shift, const int8_t* weights, size_t threads,
                   Sample* to) {
  constexpr size_t kBand = 64;
  parallel((height + kBand - 1) / kBand, threads, [&](size_t band) {
    FilterRows rows(rgb, height, width);
    std::vector<int32_t> sums(width);
    const auto add = [&](int32_t weight, const int32_t* ahead, const int32_t* behind) {
      for (size_t x = 0; x < width; ++x) sums[x] += weight * (ahead[x] + behind[x]);
    };
    for (size_t y = band * kBand; y < std::min((band + 1) * kBand, height); ++y) {
      rows.move_to(y);
      for (size_t colour = 0; colour < 3; ++colour) {
        const int8_t* weight = weights + colour * kFilterInputs;
        std::fill(sums.begin(), sums.end(), 1 << (shift - 1));
        for (size_t c = 0; c < 3; ++c) {
          int32_t centre = 0;
          for (const auto& [dy, dx] : kFilterOffsets) {
            centre -= *weight;
            add(*weight++, rows.row(dy, c) + dx, rows.row(-dy, c) - dx);
          }
          add(centre, rows.row(0, c), rows.row(0, c));
        }
        const int32_t* const here = rows.row(0, colour);
        for (size_t x = 0; x < width; ++x) {
          const int32_t value = std::min(std::max(here[x] + (sums[x] >> shift), 0), 65535);
          to[(y * width + x) * 3 + colour] =
              static_cast<Sample>(std::is_same<Sample, uint8_t>::value ? (value + 128) / 257 : value);
        }
      }
    }
  });
}

// Adds what least squares needs to find the weights for x_hat, (height, width, 3): products of the inputs with each other,
// (kFilterInputs, kFilterInputs), lower triangle, and of the errors x - x_hat with the inputs, (3, kFilterInputs), both
// summed over all pixels. Samples are cut to 12 bits, so that the sums are exact.
inline void measure_filter(const uint16_t* x_hat, const uint16_t* x, size_t height, size_t width, int64_t* products,
                           int64_t* errors) {
  constexpr int kDropped = 4;
  constexpr size_t kPiece = 16;  // pixels: as many products of 15 bits as 32 bits hold
  FilterRows rows(x_hat, height, width);
  std::vector<int32_t> wide(kFilterInputs * width);
  constexpr size_t kColumns = kFilterInputs + 3;
  std::vector<int16_t> columns(kColumns * width);
  for (size_t y = 0; y < height; ++y) {
    rows.move_to(y);
    rows.inputs(wide.data());
    for (size_t i = 0; i < kFilterInputs * width; ++i) columns[i] = static_cast<int16_t>(wide[i] >> kDropped);
    for (size_t c = 0; c < 3; ++c) {
      const int32_t* const here = rows.row(0, c);
      int16_t* const to = columns.data() + (kFilterInputs + c) * width;
      for (size_t i = 0; i < width; ++i) {
        to[i] = static_cast<int16_t>((x[(y * width + i) * 3 + c] - here[i]) >> kDropped);
      }
    }
    for (size_t a = 0; a < kColumns; ++a) {
      const int16_t* const left = columns.data() + a * width;
      for (size_t b = 0; b <= std::min(a, kFilterInputs - 1); ++b) {
        const int16_t* const right = columns.data() + b * width;
        int64_t total = 0;
        for (size_t from = 0; from < width; from += kPiece) {
          const size_t end = std::min(from + kPiece, width);
          int32_t sum = 0;
          for (size_t i = from; i < end; ++i) sum += left[i] * right[i];
          total += sum;
        }
        (a < kFilterInputs ? products[a * kFilterInputs + b] : errors[(a - kFilterInputs) * kFilterInputs + b]) += total;
      }
    }
  }
}

}  // namespace neurocodec

#endif  // NEUROCODEC_PIXEL_FILTER_HPP
