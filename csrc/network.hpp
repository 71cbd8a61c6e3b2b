// SPDX-License-Identifier: Apache-2.0
//
// The networks of a model in integers: g_a, h_a, the entropy path (h_s and the context passes), g_s. Header only, C++17.
// docs/arithmetic.md defines them; neurocodec/integer/transforms.py and entropy.py are the readable twins.
//
// Surprises:
//  * Arrays are (row, column, channel). PixelShuffle costs nothing: the rows of a weight are reordered when a model is
//    loaded, so that what belongs together in the picture stands together in memory.
//  * A block is computed row by row, all its layers before the next row, from three rows of its first layer: what it
//    needs stays in cache. Threads take bands of rows; each computes the row above and below its band once more.
//  * Nothing is trusted: shapes and types are checked, and that no sum can leave 32 bits is proved, in `Arrays`.

#ifndef NEUROCODEC_NETWORK_HPP
#define NEUROCODEC_NETWORK_HPP

#include <array>
#include <cstdlib>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "integer_layers.hpp"
#include "parallel.hpp"

namespace neurocodec {

constexpr int kActivationBits = 8;    // fractional bits in h_a and the entropy path
constexpr int kTransformBits = 9;     // in g_a and g_s
constexpr int kMeanBits = 6;          // latents and means are multiples of 1/64
constexpr int kIndexShift = 5;
constexpr int kQualitySteps = 64;     // quality indexes count 1/64 of a row
constexpr int kQualityRows = 16;
constexpr int kMaxQuality = (kQualityRows - 1) * kQualitySteps;
constexpr int kScaleLevels = 64;      // table rows
constexpr size_t kPasses = 4;
constexpr size_t kLogTable = size_t{1} << 14;
constexpr size_t kExp2Table = size_t{1} << 12;
constexpr int kMantissaBits = 14;
constexpr int32_t kMaxLatent = (1 << 22) - 1;
constexpr int32_t kHiddenMax = 127 << kActivationBits;
constexpr int32_t kOutputLimit = 1 << 23;
constexpr int32_t kMaxPicture = 1 << 20;  // of pixels before the last rounding
constexpr size_t kPatch = 8;          // PixelUnshuffle of the picture
constexpr size_t kPixelChannels = 3 * kPatch * kPatch;

enum class Type { kInt8, kInt16, kInt32, kUint16 };

inline size_t size_of(Type type) { return type == Type::kInt8 ? 1 : type == Type::kInt32 ? 4 : 2; }

// An array of a model file. The memory belongs to the caller.
struct Array {
  const void* data = nullptr;
  Type type = Type::kInt16;
  std::vector<size_t> shape;
};

struct Shape {
  size_t channels, latent_channels, hyper_channels, hidden_channels, encoder_blocks, decoder_blocks, latent_blocks;
};

// A model that does not fit: one sentence for the user.
struct ModelError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// The order in which a reordered weight takes the outputs, or inputs, of the one in the file.
using Order = std::vector<size_t>;

// Channel n² c + n i + j of a PixelShuffle(n) goes to place (i n + j) · channels + c.
inline Order patch_order(size_t channels, size_t n) {
  Order order(channels * n * n);
  for (size_t c = 0; c < channels; ++c) {
    for (size_t k = 0; k < n * n; ++k) order[k * channels + c] = c * n * n + k;
  }
  return order;
}

// A model's arrays by name, checked as they are taken.
class Arrays {
 public:
  explicit Arrays(const std::map<std::string, Array>& arrays) : arrays_(arrays) {}

  bool has(const std::string& name) const { return arrays_.count(name) != 0; }

  template <typename T>
  const T* take(const std::string& name, const std::vector<size_t>& shape) const {
    const auto entry = arrays_.find(name);
    if (entry == arrays_.end() || entry->second.type != type_of<T>() || entry->second.shape != shape) {
      throw ModelError("the model file lacks " + name + ", or holds it with another type or shape.");
    }
    return static_cast<const T*>(entry->second.data);
  }

  // extra: names of arrays, (n, outputs), of which a value may be added to a sum.
  NC_COLD Pointwise pointwise(const std::string& name, size_t outputs, size_t inputs, int32_t largest_input = 32768,
                      const std::vector<std::pair<std::string, size_t>>& extra = {}, const Order& output_order = {},
                      const Order& input_order = {}) const {
    const auto* weight = take<int16_t>(name + ".weight", {outputs, inputs});
    const auto* bias = take<int32_t>(name + ".bias", {outputs});
    const auto* shift = take<int8_t>(name + ".shift", {outputs});
    prove(name, weight, bias, shift, outputs, inputs, largest_input, extra);
    if (output_order.empty() && input_order.empty()) return Pointwise(weight, bias, shift, outputs, inputs);
    std::vector<int16_t> weights(outputs * inputs);
    std::vector<int32_t> biases(outputs);
    std::vector<int8_t> shifts(outputs);
    for (size_t o = 0; o < outputs; ++o) {
      const size_t from = output_order.empty() ? o : output_order[o];
      biases[o] = bias[from];
      shifts[o] = shift[from];
      for (size_t k = 0; k < inputs; ++k) {
        weights[o * inputs + k] = weight[from * inputs + (input_order.empty() ? k : input_order[k])];
      }
    }
    return Pointwise(weights.data(), biases.data(), shifts.data(), outputs, inputs);
  }

  NC_COLD Depthwise depthwise(const std::string& name, size_t channels) const {
    const auto* weight = take<int16_t>(name + ".weight", {channels, 3, 3});
    const auto* bias = take<int32_t>(name + ".bias", {channels});
    const auto* shift = take<int8_t>(name + ".shift", {channels});
    prove(name, weight, bias, shift, channels, 9, 32768, {});
    return Depthwise(weight, bias, shift, channels);
  }

 private:
  template <typename T>
  static constexpr Type type_of() {
    return sizeof(T) == 1 ? Type::kInt8 : sizeof(T) == 4 ? Type::kInt32 : std::is_signed_v<T> ? Type::kInt16 : Type::kUint16;
  }

  void prove(const std::string& name, const int16_t* weight, const int32_t* bias, const int8_t* shift, size_t outputs,
             size_t inputs, int32_t largest_input, const std::vector<std::pair<std::string, size_t>>& extra) const {
    bool safe = true;
    for (size_t o = 0; o < outputs; ++o) {
      const int16_t* const row = weight + o * inputs;
      int32_t sum = 0;  // of at most 4 · 1024 magnitudes below 2^16
      int16_t least = 0;
      for (size_t k = 0; k < inputs; ++k) {
        sum += std::abs(int32_t{row[k]});
        least = std::min(least, row[k]);
      }
      safe = safe && least != -32768;
      int64_t added = std::abs(int64_t{bias[o]});
      for (const auto& [rows, count] : extra) {
        const auto* values = static_cast<const int32_t*>(arrays_.at(rows).data);
        int64_t largest = 0;
        for (size_t r = 0; r < count; ++r) largest = std::max(largest, std::abs(int64_t{values[r * outputs + o]}));
        added += largest;
      }
      safe = safe && shift[o] >= 0 && shift[o] <= 30;
      safe = safe && int64_t{sum} * largest_input + added + (int64_t{1} << (shift[o] & 31)) < (int64_t{1} << 31);
    }
    if (!safe) throw ModelError("the sums of layer " + name + " could leave the range in which they are exact.");
  }

  const std::map<std::string, Array>& arrays_;
};

// Rows of a parameter for each quality, interpolated: floor((low · (64 - t) + high · t + 32) / 64).
struct Rows {
  std::vector<int32_t> values;
  size_t size = 0;
  int count = kQualityRows;

  Rows() = default;
  Rows(const int32_t* from, size_t columns, size_t rows = kQualityRows)
      : values(from, from + rows * columns), size(columns), count(static_cast<int>(rows)) {}

  int32_t at(int quality, size_t column) const {
    const int low = std::min(quality / kQualitySteps, count - 2), t = quality - low * kQualitySteps;
    const int64_t a = values[static_cast<size_t>(low) * size + column];
    const int64_t b = values[static_cast<size_t>(low + 1) * size + column];
    return static_cast<int32_t>((a * (kQualitySteps - t) + b * t + kQualitySteps / 2) >> 6);
  }
};

// A factor for each channel that depends on the quality: binary logarithms with 16 fractional bits.
class Gain {
 public:
  Gain() = default;
  // more: fractional bits of the result less those of the input.
  NC_COLD Gain(const Arrays& arrays, const std::string& name, size_t channels, int more)
      : rows_(arrays.take<int32_t>(name, {kQualityRows, channels}), channels),
        exp2_(arrays.take<int16_t>("exp2_table", {kExp2Table}), arrays.take<int16_t>("exp2_table", {kExp2Table}) + kExp2Table),
        more_(more) {
    for (const int32_t value : rows_.values) {
      const int shift = shift_of(value);
      if (shift < 0 || shift > 30) throw ModelError("a gain of " + name + " is out of range.");
    }
    for (const int16_t mantissa : exp2_) {
      if (mantissa < 1 << kMantissaBits) throw ModelError("the model file holds a malformed exp2_table.");
    }
  }

  struct Factors {
    std::vector<int32_t> mantissa, shift, half;
  };

  Factors at(int quality) const {
    Factors factors;
    for (size_t c = 0; c < rows_.size; ++c) {
      const int32_t logarithm = rows_.at(quality, c);
      const int shift = shift_of(logarithm);
      factors.mantissa.push_back(exp2_[static_cast<size_t>(logarithm & 0xffff) >> 4]);
      factors.shift.push_back(shift);
      factors.half.push_back(shift > 0 ? 1 << (shift - 1) : 0);
    }
    return factors;
  }

 private:
  int shift_of(int32_t logarithm) const { return kMantissaBits - (logarithm >> 16) - more_; }

  Rows rows_;
  std::vector<int16_t> exp2_;
  int more_ = 0;
};

// Activations, (height, width, channels), not cleared. One value more is allocated: a layer reads its inputs in pairs.
struct Map {
  size_t height, width, channels;
  std::unique_ptr<int16_t[]> values;

  Map(size_t rows, size_t columns, size_t depth)
      : height(rows), width(columns), channels(depth), values(new int16_t[rows * columns * depth + 1]) {
    values[size()] = 0;
  }

  size_t size() const { return height * row_size(); }
  size_t row_size() const { return width * channels; }
  int16_t* row(size_t r) { return values.get() + r * row_size(); }
  const int16_t* row(size_t r) const { return values.get() + r * row_size(); }
};

// How a network is run.
struct Run {
  Kernel kernel;
  size_t threads;

  size_t bands_of(size_t rows) const { return std::max<size_t>(1, std::min(threads, rows)); }

  // task(first, last) for bands of rows.
  template <typename Task>
  void bands(size_t rows, const Task& task) const {
    const size_t parts = bands_of(rows);
    parallel(parts, parts, [&](size_t part) { task(rows * part / parts, rows * (part + 1) / parts); });
  }
};

// task(first, last, before, after) for bands of rows of a map that tasks change. before, after: copies of the rows beside
// a band, which other threads overwrite; null at the edge of the picture.
template <typename Task>
void in_place(const Run& run, const Map& x, const Task& task) {
  const size_t bands = run.bands_of(x.height);
  const auto first_row = [&](size_t band) { return x.height * band / bands; };
  std::vector<std::vector<int16_t>> edges(2 * bands);
  const auto keep = [&](std::vector<int16_t>& copy, size_t r) { copy.assign(x.row(r), x.row(r) + x.row_size() + 1); };
  const auto kept = [&](size_t edge) { return edges[edge].empty() ? nullptr : edges[edge].data(); };
  for (size_t band = 1; band < bands; ++band) {
    keep(edges[2 * band], first_row(band) - 1);
    keep(edges[2 * band - 1], first_row(band));
  }
  parallel(bands, bands, [&](size_t band) {
    task(first_row(band), first_row(band + 1), kept(2 * band), kept(2 * band + 1));
  });
}

// What a depthwise layer inside a block reads: three rows, made one by one.
class RowRing {
 public:
  struct Neighbours {
    const int16_t *above, *here, *below;  // null outside the picture
  };

  explicit RowRing(size_t row_size) {
    for (auto& row : rows_) row.resize(row_size + 1);
  }

  int16_t* operator[](size_t r) { return rows_[r % 3].data(); }

  // use(r, rows) for rows first to last - 1 of x. make(row of x, r): what the layer reads of it, in row r of the ring;
  // it is called before `use` may change that row.
  template <typename Make, typename Use>
  void walk(const Map& x, size_t first, size_t last, const int16_t* before, const int16_t* after, const Make& make,
            const Use& use) {
    const int16_t* above = before == nullptr ? nullptr : make(before, first + 2);
    const int16_t* here = make(x.row(first), first);
    for (size_t r = first; r < last; ++r) {
      const int16_t* const next = r + 1 < last ? x.row(r + 1) : after;
      const int16_t* const below = next == nullptr ? nullptr : make(next, r + 1);
      use(r, Neighbours{above, here, below});
      above = here;
      here = below;
    }
  }

 private:
  std::array<std::vector<int16_t>, 3> rows_;
};

// The residual block of the transforms.
class Block {
 public:
  NC_COLD Block(const Arrays& arrays, const std::string& name, size_t channels)
      : in_(arrays.pointwise(name + ".conv_in", channels, channels)),
        dw_(arrays.depthwise(name + ".conv_dw", channels)),
        out_(arrays.pointwise(name + ".conv_out", channels, channels)),
        gate_in_(arrays.pointwise(name + ".gate_in", 2 * channels, channels)),
        gate_out_(arrays.pointwise(name + ".gate_out", channels, channels)) {}

  void operator()(const Run& run, Map& x) const {
    in_place(run, x, [&](size_t first, size_t last, const int16_t* before, const int16_t* after) {
      const size_t size = x.row_size(), channels = x.channels;
      std::vector<int16_t> u(size + 1), v(2 * size + 1);
      RowRing ring(size);
      const auto inner = [&](const int16_t* from, size_t r) -> const int16_t* {
        in_.run(run.kernel, from, x.width, ring[r]);
        leaky_relu(run.kernel, ring[r], size);
        return ring[r];
      };
      ring.walk(x, first, last, before, after, inner, [&](size_t r, const RowRing::Neighbours& rows) {
        int16_t* const row = x.row(r);
        dw_.run_row(run.kernel, rows.above, rows.here, rows.below, x.width, channels, u.data(), channels);
        out_.run(run.kernel, u.data(), x.width, v.data());
        add(run.kernel, row, v.data(), size, row);
        gate_in_.run(run.kernel, row, x.width, v.data());
        for (size_t c = 0; c < x.width; ++c) {
          const int16_t* const value = v.data() + 2 * c * channels;
          gate(run.kernel, value, value + channels, channels, u.data() + c * channels);
        }
        gate_out_.run(run.kernel, u.data(), x.width, v.data());
        add(run.kernel, row, v.data(), size, row);
      });
    });
  }

 private:
  Pointwise in_;
  Depthwise dw_;
  Pointwise out_, gate_in_, gate_out_;
};

inline int64_t clamp64(int64_t value, int64_t low, int64_t high) { return std::min(std::max(value, low), high); }

inline void apply(const Run& run, const Gain& gains, int quality, Map& x) {
  const Gain::Factors by = gains.at(quality);
  run.bands(x.height, [&](size_t first, size_t last) {
    for (size_t p = first * x.width; p < last * x.width; ++p) {
      int16_t* const at = x.values.get() + p * x.channels;
      gain(run.kernel, at, by.mantissa.data(), by.shift.data(), by.half.data(), x.channels, at);
    }
  });
}

inline Map apply(const Run& run, const Depthwise& layer, const Map& x) {
  Map y(x.height, x.width, x.channels);
  run.bands(x.height, [&](size_t first, size_t last) {
    for (size_t r = first; r < last; ++r) {
      layer.run_row(run.kernel, r > 0 ? x.row(r - 1) : nullptr, x.row(r), r + 1 < x.height ? x.row(r + 1) : nullptr,
                    x.width, x.channels, y.row(r), x.channels);
    }
  });
  return y;
}

inline Map apply(const Run& run, const Pointwise& layer, const Map& x, int32_t low, int32_t high) {
  Map y(x.height, x.width, layer.outputs());
  run.bands(x.height, [&](size_t first, size_t last) {
    for (size_t r = first; r < last; ++r) layer.run(run.kernel, x.row(r), x.width, y.row(r), low, high);
  });
  return y;
}

// A 1×1 layer, its outputs in patch order, and PixelShuffle(n).
inline Map apply_and_shuffle(const Run& run, const Pointwise& layer, const Map& x, int32_t low, int32_t high,
                             size_t n = 2) {
  const size_t channels = layer.outputs() / (n * n);
  Map y(n * x.height, n * x.width, channels);
  run.bands(x.height, [&](size_t first, size_t last) {
    std::vector<int16_t> row(x.width * layer.outputs());
    for (size_t r = first; r < last; ++r) {
      layer.run(run.kernel, x.row(r), x.width, row.data(), low, high);
      for (size_t c = 0; c < x.width; ++c) {
        for (size_t i = 0; i < n; ++i) {
          std::copy_n(row.data() + (n * c + i) * n * channels, n * channels, y.row(n * r + i) + n * c * channels);
        }
      }
    }
  });
  return y;
}

// PixelUnshuffle(2) and a 1×1 layer, its inputs in patch order.
inline Map unshuffle_and_apply(const Run& run, const Pointwise& layer, const Map& x) {
  Map y(x.height / 2, x.width / 2, layer.outputs());
  run.bands(y.height, [&](size_t first, size_t last) {
    std::vector<int16_t> row(y.width * layer.inputs() + 1);
    for (size_t r = first; r < last; ++r) {
      for (size_t c = 0; c < y.width; ++c) {
        for (size_t i = 0; i < 2; ++i) {
          std::copy_n(x.row(2 * r + i) + 2 * c * x.channels, 2 * x.channels,
                      row.data() + (4 * c + 2 * i) * x.channels);
        }
      }
      layer.run(run.kernel, row.data(), y.width, y.row(r));
    }
  });
  return y;
}

// g_a: pixels (16 height, 16 width, 3) -> y (height, width, M) in units of 1/64.
class Analysis {
 public:
  NC_COLD Analysis(const Arrays& arrays, const Shape& shape)
      : latent_channels_(shape.latent_channels),
        stem_(arrays.pointwise("g_a.stem", shape.channels, kPixelChannels, 128, {}, {}, patch_order(3, kPatch))),
        gain_(arrays, "g_a.log_gain", shape.channels, 0),
        down_(arrays.pointwise("g_a.down", shape.latent_channels, 4 * shape.channels, 32768, {}, {},
                               patch_order(shape.channels, 2))),
        y_gain_(arrays, "g_a.log_y_gain", shape.latent_channels, kMeanBits - kTransformBits) {
    for (size_t i = 0; i < shape.encoder_blocks; ++i) {
      blocks_.emplace_back(arrays, "g_a.blocks." + std::to_string(i), shape.channels);
    }
    for (size_t i = 0; i < shape.latent_blocks; ++i) {
      latent_blocks_.emplace_back(arrays, "g_a.latent_blocks." + std::to_string(i), shape.latent_channels);
    }
  }

  // Sample: uint8_t or uint16_t.
  template <typename Sample>
  void operator()(const Run& run, const Sample* rgb, size_t height, size_t width, int quality, int32_t* y) const {
    Map x(2 * height, 2 * width, stem_.outputs());
    run.bands(x.height, [&](size_t first, size_t last) {
      for (size_t r = first; r < last; ++r) stem(run.kernel, rgb + kPatch * r * 16 * width * 3, x.width, x.row(r));
    });
    for (const Block& block : blocks_) block(run, x);
    apply(run, gain_, quality, x);
    x = unshuffle_and_apply(run, down_, x);
    for (const Block& block : latent_blocks_) block(run, x);
    const Gain::Factors by = y_gain_.at(quality);
    for (size_t p = 0; p < height * width; ++p) {
      for (size_t c = 0; c < latent_channels_; ++c, ++y) {
        // Rounded down, so that the symbol chosen from it is the nearest before this rounding.
        const int64_t value = int64_t{x.values[p * latent_channels_ + c]} * by.mantissa[c];
        *y = static_cast<int32_t>(std::min<int64_t>(std::max<int64_t>(value >> by.shift[c], -kMaxLatent), kMaxLatent));
      }
    }
  }

 private:
  // A row of patches: eight rows of pixels, patches * 8 wide.
  void stem(Kernel kernel, const uint8_t* rgb, size_t patches, int16_t* out) const {
    std::vector<int16_t> row(patches * kPixelChannels + 1);
    for_patches(rgb, patches, [&](size_t at, uint8_t sample) { row[at] = static_cast<int16_t>(sample - 128); });
    stem_.run(kernel, row.data(), patches, out);
  }

  // Of 16-bit pixels as well: they have 8 fractional bits, v = 256 a + b, and a and b are inputs as 8-bit pixels are.
  void stem(Kernel kernel, const uint16_t* rgb, size_t patches, int16_t* out) const {
    std::vector<int16_t> row[2];
    std::vector<int32_t> sums[2];
    for (auto& part : row) part.resize(patches * kPixelChannels + 1);
    for_patches(rgb, patches, [&](size_t at, uint16_t sample) {
      const int32_t v = static_cast<int32_t>((256u * sample + 128) / 257) - 32768, a = (v + 128) >> 8;
      row[0][at] = static_cast<int16_t>(a);
      row[1][at] = static_cast<int16_t>(v - 256 * a);
    });
    for (size_t i = 0; i < 2; ++i) {
      sums[i].resize(patches * stem_.outputs());
      stem_.sums(kernel, row[i].data(), patches, sums[i].data());
    }
    for (size_t p = 0; p < sums[0].size(); ++p) {
      const size_t o = p % stem_.outputs();
      const int32_t shift = stem_.shift()[o] + 8;
      const int64_t sum = 256 * (int64_t{sums[0][p]} + stem_.plain_bias(o)) + sums[1][p];
      out[p] = static_cast<int16_t>(clamp64((sum + (int64_t{1} << (shift - 1))) >> shift, -32768, 32767));
    }
  }

  // use(place in a row of patches, sample) for eight rows of pixels.
  template <typename Sample, typename Use>
  static void for_patches(const Sample* rgb, size_t patches, const Use& use) {
    for (size_t i = 0; i < kPatch; ++i) {
      for (size_t c = 0; c < patches; ++c) {
        const size_t to = c * kPixelChannels + i * 3 * kPatch;
        for (size_t k = 0; k < 3 * kPatch; ++k) use(to + k, *rgb++);
      }
    }
  }

  size_t latent_channels_;
  Pointwise stem_;
  Gain gain_;
  Pointwise down_;
  Gain y_gain_;
  std::list<Block> blocks_, latent_blocks_;
};

// g_s: y_hat (height, width, M) in units of 1/64 -> pixels (16 height, 16 width, 3).
class Synthesis {
 public:
  NC_COLD Synthesis(const Arrays& arrays, const Shape& shape)
      : latent_channels_(shape.latent_channels),
        y_gain_(arrays, "g_s.log_y_gain", shape.latent_channels, kTransformBits - kMeanBits),
        up_(arrays.pointwise("g_s.up", 4 * shape.channels, shape.latent_channels, 32768, {},
                             patch_order(shape.channels, 2))),
        gain_(arrays, "g_s.log_gain", shape.channels, 0),
        head_(arrays.pointwise("g_s.head", kPixelChannels, shape.channels, 32768, {}, patch_order(3, kPatch))) {
    for (size_t i = 0; i < shape.latent_blocks; ++i) {
      latent_blocks_.emplace_back(arrays, "g_s.latent_blocks." + std::to_string(i), shape.latent_channels);
    }
    for (size_t i = 0; i < shape.decoder_blocks; ++i) {
      blocks_.emplace_back(arrays, "g_s.blocks." + std::to_string(i), shape.channels);
    }
  }

  // Sample: uint8_t or uint16_t.
  template <typename Sample>
  void operator()(const Run& run, const int32_t* y_hat, size_t height, size_t width, int quality, Sample* rgb) const {
    const Map x = features(run, y_hat, height, width, quality);
    run.bands(x.height, [&](size_t first, size_t last) {
      for (size_t r = first; r < last; ++r) head(run.kernel, x.row(r), x.width, rgb + kPatch * r * 16 * width * 3);
    });
  }

  // What the head reads: (2 height, 2 width, C).
  Map features(const Run& run, const int32_t* y_hat, size_t height, size_t width, int quality) const {
    Map x(height, width, latent_channels_);
    const Gain::Factors by = y_gain_.at(quality);
    for (size_t p = 0; p < height * width; ++p) {
      for (size_t c = 0; c < latent_channels_; ++c) {
        const int64_t value = int64_t{*y_hat++} * by.mantissa[c] + by.half[c];
        x.values[p * latent_channels_ + c] =
            static_cast<int16_t>(std::min<int64_t>(std::max<int64_t>(value >> by.shift[c], -32768), 32767));
      }
    }
    for (const Block& block : latent_blocks_) block(run, x);
    x = apply_and_shuffle(run, up_, x, -32768, 32767);
    apply(run, gain_, quality, x);
    for (const Block& block : blocks_) block(run, x);
    return x;
  }

  // Of a row of patches, eight rows of pixels before the last rounding: in 1/256 of a level, not cut to the range.
  void levels(Kernel kernel, const int16_t* x, size_t patches, int32_t* rgb) const {
    finer(kernel, x, patches, 256, -kMaxPicture, kMaxPicture, rgb);
  }

 private:
  // Of a row of patches, eight rows of pixels.
  void head(Kernel kernel, const int16_t* x, size_t patches, uint8_t* rgb) const {
    std::vector<int16_t> row(patches * kPixelChannels);
    head_.run(kernel, x, patches, row.data(), 0, 255);
    for_pixels(rgb, patches, [&](size_t at, size_t) { return static_cast<uint8_t>(row[at]); });
  }

  // In 65535 steps instead of 255.
  void head(Kernel kernel, const int16_t* x, size_t patches, uint16_t* rgb) const {
    std::vector<int32_t> row(patches * kPixelChannels);
    finer(kernel, x, patches, 257, 0, 65535, row.data());
    for (const int32_t sample : row) *rgb++ = static_cast<uint16_t>(sample);
  }

  // In `steps` a level: the sums times `steps`, rounded once.
  void finer(Kernel kernel, const int16_t* x, size_t patches, int64_t steps, int64_t low, int64_t high,
             int32_t* rgb) const {
    std::vector<int32_t> sums(patches * kPixelChannels);
    head_.sums(kernel, x, patches, sums.data());
    for_pixels(rgb, patches, [&](size_t at, size_t o) {
      const int32_t shift = head_.shift()[o];
      const int64_t half = shift > 0 ? int64_t{1} << (shift - 1) : 0;
      return static_cast<int32_t>(
          clamp64((steps * (int64_t{sums[at]} + head_.plain_bias(o)) + half) >> shift, low, high));
    });
  }

  // Samples from make(place in a row of patches, output of the layer).
  template <typename Sample, typename Make>
  static void for_pixels(Sample* rgb, size_t patches, const Make& make) {
    for (size_t i = 0; i < kPatch; ++i) {
      for (size_t c = 0; c < patches; ++c) {
        const size_t from = c * kPixelChannels;
        for (size_t o = i * 3 * kPatch; o < (i + 1) * 3 * kPatch; ++o) *rgb++ = make(from + o, o);
      }
    }
  }

  size_t latent_channels_;
  Gain y_gain_;
  Pointwise up_;
  Gain gain_;
  Pointwise head_;
  std::list<Block> latent_blocks_, blocks_;
};

// What networks of the entropy model read of a latent: y / 8 and log2(1 + |y|), with 8 fractional bits.
class ContextInput {
 public:
  explicit ContextInput(const Arrays& arrays)
      : log_(arrays.take<int16_t>("entropy.log_table", {kLogTable}),
             arrays.take<int16_t>("entropy.log_table", {kLogTable}) + kLogTable) {}

  int16_t linear(int32_t y) const { return static_cast<int16_t>(std::min(std::max((y + 1) >> 1, -32768), 32767)); }
  int16_t logarithm(int32_t y) const { return log_[std::min<size_t>(static_cast<size_t>(std::abs(y)), kLogTable - 1)]; }

 private:
  std::vector<int16_t> log_;
};

// h_a: y (height, width, M) in units of 1/64 -> z_hat (ceil(height / 4), ceil(width / 4), N).
class HyperAnalysis {
 public:
  NC_COLD HyperAnalysis(const Arrays& arrays, const Shape& shape)
      : latent_channels_(shape.latent_channels),
        input_(arrays),
        rows_(arrays.take<int32_t>("h_a.bias", {kQualityRows, shape.hidden_channels}), shape.hidden_channels),
        in_(arrays.pointwise("h_a.conv_in", shape.hidden_channels, 2 * shape.latent_channels, 32768,
                             {{"h_a.bias", kQualityRows}})),
        dw1_(arrays.depthwise("h_a.dw1", shape.hidden_channels)),
        dw2_(arrays.depthwise("h_a.dw2", shape.hidden_channels)),
        down1_(arrays.pointwise("h_a.down1", shape.hidden_channels, 4 * shape.hidden_channels, 32768, {}, {},
                                patch_order(shape.hidden_channels, 2))),
        down2_(arrays.pointwise("h_a.down2", shape.hyper_channels, 4 * shape.hidden_channels, 32768, {}, {},
                                patch_order(shape.hidden_channels, 2))) {}

  std::vector<int32_t> operator()(const Run& run, const int32_t* y, size_t height, size_t width, int quality) const {
    const size_t rows = (height + 3) / 4 * 4, columns = (width + 3) / 4 * 4, channels = latent_channels_;
    std::vector<int32_t> bias = in_.bias();
    for (size_t o = 0; o < bias.size(); ++o) bias[o] += rows_.at(quality, o);
    Map x(rows, columns, in_.outputs());
    run.bands(rows, [&](size_t first, size_t last) {
      std::vector<int16_t> row(columns * 2 * channels + 1);
      for (size_t r = first; r < last; ++r) {
        for (size_t c = 0; c < columns; ++c) {
          const int32_t* const from = y + (std::min(r, height - 1) * width + std::min(c, width - 1)) * channels;
          for (size_t m = 0; m < channels; ++m) {
            row[c * 2 * channels + m] = input_.linear(from[m]);
            row[(c * 2 + 1) * channels + m] = input_.logarithm(from[m]);
          }
        }
        in_.run<int16_t>(
            run.kernel, columns, [&](size_t p) { return row.data() + p * 2 * channels; },
            [&](size_t) { return bias.data(); }, -32768, 32767, [&](size_t p) { return x.row(r) + p * x.channels; });
        leaky_relu(run.kernel, x.row(r), x.row_size());
      }
    });
    x = unshuffle_and_apply(run, down1_, apply(run, dw1_, x));
    leaky_relu(run.kernel, x.values.get(), x.size());
    x = apply(run, dw2_, x);
    std::vector<int32_t> z(x.height / 2 * (x.width / 2) * down2_.outputs());
    std::vector<int16_t> patch(down2_.inputs() + 1);
    for (size_t p = 0; p < z.size() / down2_.outputs(); ++p) {
      const size_t r = p / (x.width / 2), c = p % (x.width / 2);
      for (size_t i = 0; i < 2; ++i) {
        std::copy_n(x.row(2 * r + i) + 2 * c * x.channels, 2 * x.channels, patch.data() + 2 * i * x.channels);
      }
      down2_.run<int32_t>(
          run.kernel, 1, [&](size_t) { return patch.data(); }, [&](size_t) { return down2_.bias().data(); },
          -kOutputLimit, kOutputLimit - 1, [&](size_t) { return z.data() + p * down2_.outputs(); });
    }
    for (int32_t& value : z) value = std::min(std::max((value + 128) >> kActivationBits, -127), 127);
    return z;
  }

 private:
  size_t latent_channels_;
  ContextInput input_;
  Rows rows_;
  Pointwise in_;
  Depthwise dw1_, dw2_;
  Pointwise down1_, down2_;
};

// h_s and the context passes.
class EntropyNetwork {
 public:
  NC_COLD EntropyNetwork(const Arrays& arrays, const Shape& shape)
      : shape_(shape),
        input_(arrays),
        z_index_(rows(arrays, "z_index", shape.hyper_channels)),
        h_s_bias_(rows(arrays, "h_s.bias", shape.hidden_channels)),
        prediction_bias_(rows(arrays, "prediction.bias", 2 * shape.latent_channels)),
        conv_in_(arrays.pointwise("entropy.h_s.conv_in", shape.hidden_channels, shape.hyper_channels, 32768,
                                  {{"entropy.h_s.bias", kQualityRows}})),
        dw1_(arrays.depthwise("entropy.h_s.dw1", shape.hidden_channels)),
        dw2_(arrays.depthwise("entropy.h_s.dw2", shape.hidden_channels)),
        dw3_(arrays.depthwise("entropy.h_s.dw3", shape.hidden_channels)),
        up1_(up(arrays, "h_s.up1")),
        up2_(up(arrays, "h_s.up2")),
        conv_out_(arrays.pointwise("entropy.h_s.conv_out", shape.hidden_channels, shape.hidden_channels)),
        conv_(arrays.pointwise("entropy.prediction.conv", shape.hidden_channels, shape.hidden_channels)),
        heads_(heads(arrays, "prediction.head", {{"entropy.prediction.bias", kQualityRows}})) {
    for (size_t i = 0; i + 1 < kPasses; ++i) contexts_.emplace_back(arrays, i, *this);
  }

  size_t group() const { return shape_.latent_channels / kPasses; }

  // Table rows of z, one for each channel.
  std::vector<uint8_t> z_rows(int quality) const {
    std::vector<uint8_t> result;
    for (size_t n = 0; n < shape_.hyper_channels; ++n) {
      const int32_t index = z_index_.at(quality, n);  // any 32-bit number: a model file holds it
      result.push_back(table_row(std::min(std::max(index, -kOutputLimit), kOutputLimit)));
    }
    return result;
  }

  // The walk over one tile, for the encoder and the decoder: `predict` and `put` in turn, four times.
  class Walk {
   public:
    // z_hat: (ceil(height / 4), ceil(width / 4), N).
    Walk(const EntropyNetwork& network, const Run& run, const int32_t* z_hat, size_t height, size_t width, int quality)
        : network_(network),
          run_(run),
          height_(height),
          width_(width),
          quality_(quality),
          base_(0, 0, 0),
          context_(height, width, 2 * network.shape_.latent_channels),
          joined_(height, width, 2 * network.shape_.latent_channels + network.shape_.hidden_channels) {
      std::fill_n(context_.row(0), context_.size(), int16_t{0});
      const Map features = network.features(run, z_hat, height, width, quality);
      base_ = Map(height, width, network.shape_.hidden_channels);
      run.bands(height, [&](size_t first, size_t last) {
        for (size_t r = first; r < last; ++r) {
          network.conv_.run(run.kernel, features.row(r), width, base_.row(r), 0, kHiddenMax);
          for (size_t c = 0; c < width; ++c) {
            std::copy_n(features.row(r) + c * features.channels, features.channels,
                        joined_.row(r) + c * joined_.channels + context_.channels);
          }
        }
      });
    }

    // Means in units of 1/64 and table rows of the latents of this pass, (height, width, M / 4).
    void predict(int32_t* means, uint8_t* rows) const {
      const size_t quarter = network_.group();
      Map hidden(0, 0, 0);
      if (step_ > 0) hidden = network_.contexts_[step_ - 1].run(network_, run_, context_, joined_, quality_);
      std::vector<int32_t> bias[kPasses];
      for (size_t g = 0; g < kPasses; ++g) bias[g] = network_.head_bias(g, quality_);
      run_.bands(height_, [&](size_t first, size_t last) {
        std::vector<int32_t> values(2 * quarter * (width_ / 2 + 1)), more(values.size());
        for (size_t r = first; r < last; ++r) {
          for (size_t g = 0; g < kPasses; ++g) {
            const auto [row, column] = phase(step_, g);
            if (r % 2 != row || column >= width_) continue;
            const size_t count = (width_ - column + 1) / 2;
            const auto to = [&](std::vector<int32_t>& out) {
              return [&out, quarter](size_t p) { return out.data() + p * 2 * quarter; };
            };
            const auto at = [&, start = column](const Map& map) {
              return [&map, r, start](size_t p) { return map.row(r) + (start + 2 * p) * map.channels; };
            };
            network_.heads_[g].run<int32_t>(
                run_.kernel, count, at(base_), [&](size_t) { return bias[g].data(); }, -kOutputLimit, kOutputLimit - 1,
                to(values));
            if (step_ > 0) {
              const Pointwise& head = network_.contexts_[step_ - 1].heads[g];
              head.run<int32_t>(
                  run_.kernel, count, at(hidden), [&](size_t) { return head.bias().data(); }, -kOutputLimit,
                  kOutputLimit - 1, to(more));
              for (size_t i = 0; i < count * 2 * quarter; ++i) values[i] += more[i];
            }
            for (size_t p = 0; p < count; ++p) {
              const int32_t* const value = values.data() + p * 2 * quarter;
              const size_t place = (r * width_ + column + 2 * p) * quarter;
              for (size_t k = 0; k < quarter; ++k) {
                means[place + k] = (value[k] + 2) >> (kActivationBits - kMeanBits);
                rows[place + k] = table_row(value[quarter + k]);
              }
            }
          }
        }
      });
    }

    // Takes the symbols of this pass, (height, width, M / 4), and puts the latents they mean into y_hat (height, width, M).
    void put(const int32_t* symbols, const int32_t* means, int32_t* y_hat) {
      const size_t quarter = network_.group(), channels = network_.shape_.latent_channels;
      for (size_t r = 0; r < height_; ++r) {
        for (size_t c = 0; c < width_; ++c) {
          const size_t g = group_at(step_, r, c), place = r * width_ + c;
          int32_t* const y = y_hat + place * channels + g * quarter;
          for (size_t k = 0; k < quarter; ++k) {
            const int32_t symbol = std::min(std::max(symbols[place * quarter + k], -(1 << 20)), 1 << 20);
            y[k] = std::min(std::max(symbol * 64 + means[place * quarter + k], -kMaxLatent), kMaxLatent);
          }
          if (step_ + 1 == kPasses) continue;  // nothing is predicted from the last
          int16_t* const context = context_.row(0) + place * context_.channels + g * quarter;
          for (size_t k = 0; k < quarter; ++k) context[k] = network_.input_.linear(y[k]);
          for (size_t k = 0; k < quarter; ++k) context[channels + k] = network_.input_.logarithm(y[k]);
        }
      }
      ++step_;
    }

    size_t step() const { return step_; }

   private:
    const EntropyNetwork& network_;
    const Run& run_;
    size_t height_, width_;
    int quality_;
    Map base_, context_;
    mutable Map joined_;  // what a context pass reads: its first layer's results, written by each pass, and the features
    size_t step_ = 0;
  };

  // Of each 2×2 positions, the one (row, column) at which pass `step` codes a group of channels.
  static std::pair<size_t, size_t> phase(size_t step, size_t group) {
    constexpr std::pair<size_t, size_t> kPhases[kPasses] = {{0, 0}, {1, 1}, {0, 1}, {1, 0}};
    return kPhases[(step + group) % kPasses];
  }

  // The group that pass `step` codes at a position.
  static size_t group_at(size_t step, size_t row, size_t column) {
    for (size_t g = 0; g < kPasses; ++g) {
      if (phase(step, g) == std::make_pair(row % 2, column % 2)) return g;
    }
    return 0;
  }

 private:
  using Extra = std::vector<std::pair<std::string, size_t>>;

  struct Context {
    NC_COLD Context(const Arrays& arrays, size_t i, const EntropyNetwork& network) {
      const std::string name = "contexts." + std::to_string(i) + ".";
      const size_t hidden = network.shape_.hidden_channels, latent = network.shape_.latent_channels;
      bias = rows(arrays, name + "bias", hidden);
      const auto* phases = arrays.take<int32_t>("entropy." + name + "phase_bias", {2, 2, hidden});
      phase_bias.assign(phases, phases + 4 * hidden);
      dw_in = arrays.depthwise("entropy." + name + "dw_in", 2 * latent);
      conv_in = arrays.pointwise("entropy." + name + "conv_in", hidden, 2 * latent + hidden, 32768,
                                 {{"entropy." + name + "bias", kQualityRows}, {"entropy." + name + "phase_bias", 4}});
      dw = arrays.depthwise("entropy." + name + "dw", hidden);
      conv = arrays.pointwise("entropy." + name + "conv", hidden, hidden);
      heads = network.heads(arrays, name + "head", {});
    }

    Map run(const EntropyNetwork&, const Run& run, const Map& context, Map& joined, int quality) const {
      const size_t hidden = conv.outputs();
      std::vector<int32_t> biases(4 * hidden);
      for (size_t i = 0; i < biases.size(); ++i) {
        biases[i] = conv_in.bias()[i % hidden] + bias.at(quality, i % hidden) + phase_bias[i];
      }
      Map x(context.height, context.width, hidden);
      run.bands(x.height, [&](size_t first, size_t last) {
        for (size_t r = first; r < last; ++r) {
          dw_in.run_row(run.kernel, r > 0 ? context.row(r - 1) : nullptr, context.row(r),
                        r + 1 < x.height ? context.row(r + 1) : nullptr, x.width, context.channels, joined.row(r),
                        joined.channels);
          conv_in.run<int16_t>(
              run.kernel, x.width, [&](size_t p) { return joined.row(r) + p * joined.channels; },
              [&](size_t p) { return biases.data() + (r % 2 * 2 + p % 2) * hidden; }, 0, kHiddenMax,
              [&](size_t p) { return x.row(r) + p * hidden; });
        }
      });
      return apply(run, conv, apply(run, dw, x), 0, kHiddenMax);
    }

    Rows bias;
    std::vector<int32_t> phase_bias;
    Depthwise dw_in;
    Pointwise conv_in;
    Depthwise dw;
    Pointwise conv;
    std::vector<Pointwise> heads;
  };

  static Rows rows(const Arrays& arrays, const std::string& name, size_t size) {
    return Rows(arrays.take<int32_t>("entropy." + name, {kQualityRows, size}), size);
  }

  static uint8_t table_row(int32_t index) {
    const int32_t row = (index + (1 << (kIndexShift - 1))) >> kIndexShift;
    return static_cast<uint8_t>(std::min(std::max(row, 0), kScaleLevels - 1));
  }

  NC_COLD Pointwise up(const Arrays& arrays, const std::string& name) const {
    const size_t hidden = shape_.hidden_channels;
    return arrays.pointwise("entropy." + name, 4 * hidden, hidden, 32768, {}, patch_order(hidden, 2));
  }

  // A head in four parts: means and indexes of each group of channels.
  NC_COLD std::vector<Pointwise> heads(const Arrays& arrays, const std::string& name, const Extra& extra) const {
    const size_t latent = shape_.latent_channels, inputs = shape_.hidden_channels, quarter = latent / kPasses;
    const std::string full = "entropy." + name;
    arrays.pointwise(full, 2 * latent, inputs, 32768, extra);  // proves the whole
    const auto* weight = arrays.take<int16_t>(full + ".weight", {2 * latent, inputs});
    const auto* bias = arrays.take<int32_t>(full + ".bias", {2 * latent});
    const auto* shift = arrays.take<int8_t>(full + ".shift", {2 * latent});
    std::vector<Pointwise> result;
    for (size_t g = 0; g < kPasses; ++g) {
      std::vector<int16_t> weights;
      std::vector<int32_t> biases;
      std::vector<int8_t> shifts;
      for (size_t k = 0; k < 2 * quarter; ++k) {
        const size_t from = head_output(g, k);
        weights.insert(weights.end(), weight + from * inputs, weight + (from + 1) * inputs);
        biases.push_back(bias[from]);
        shifts.push_back(shift[from]);
      }
      result.emplace_back(weights.data(), biases.data(), shifts.data(), 2 * quarter, inputs);
    }
    return result;
  }

  size_t head_output(size_t group, size_t k) const {
    const size_t quarter = shape_.latent_channels / kPasses;
    return k < quarter ? group * quarter + k : shape_.latent_channels + group * quarter + k - quarter;
  }

  std::vector<int32_t> head_bias(size_t group, int quality) const {
    std::vector<int32_t> bias = heads_[group].bias();
    for (size_t k = 0; k < bias.size(); ++k) bias[k] += prediction_bias_.at(quality, head_output(group, k));
    return bias;
  }

  // h_s, cut to the positions of y.
  Map features(const Run& run, const int32_t* z_hat, size_t height, size_t width, int quality) const {
    const size_t rows = (height + 3) / 4, columns = (width + 3) / 4;
    Map z(rows, columns, shape_.hyper_channels);
    for (size_t i = 0; i < rows * columns * shape_.hyper_channels; ++i) {
      z.values[i] = static_cast<int16_t>(std::min(std::max(z_hat[i], -128), 127) * 256 + (z_hat[i] > 127 ? 255 : 0));
    }
    std::vector<int32_t> bias = conv_in_.bias();
    for (size_t o = 0; o < bias.size(); ++o) bias[o] += h_s_bias_.at(quality, o);
    Map x(rows, columns, shape_.hidden_channels);
    conv_in_.run(run.kernel, z.values.get(), rows * columns, bias.data(), x.values.get(), 0, kHiddenMax);
    x = apply_and_shuffle(run, up1_, apply(run, dw1_, x), 0, kHiddenMax);
    x = apply_and_shuffle(run, up2_, apply(run, dw2_, x), 0, kHiddenMax);
    x = apply(run, conv_out_, apply(run, dw3_, x), 0, kHiddenMax);
    Map cut(height, width, x.channels);
    for (size_t r = 0; r < height; ++r) std::copy_n(x.row(r), cut.row_size(), cut.row(r));
    return cut;
  }

  Shape shape_;
  ContextInput input_;
  Rows z_index_, h_s_bias_, prediction_bias_;
  Pointwise conv_in_;
  Depthwise dw1_, dw2_, dw3_;
  Pointwise up1_, up2_, conv_out_, conv_;
  std::vector<Pointwise> heads_;
  std::deque<Context> contexts_;
};

}  // namespace neurocodec

#endif  // NEUROCODEC_NETWORK_HPP
