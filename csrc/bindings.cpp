// SPDX-License-Identifier: Apache-2.0
//
// neurocodec._native: NumPy arrays in, bytes or arrays out. Types, lengths, the GIL and errors; a model is that of
// c_api.h, the rest is range_coder.hpp and integer_layers.hpp.
//
// Surprises:
//  * Arrays must be contiguous, aligned and of the exact type; anything else is a TypeError or ValueError.
//  * A decoder takes a lock, because it works without the GIL.
//  * `Class.__new__(Class)` runs no constructor: pybind11 then hands out bare memory. Classes with methods are therefore
//    one pointer in memory that was cleared, so that the missing constructor is seen.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "c_api.h"
#include "lossless.hpp"
#include "integer_layers.hpp"
#include "hyper.hpp"
#include "palette.hpp"
#include "pixel_filter.hpp"
#include "range_coder.hpp"

namespace py = pybind11;
namespace nc = neurocodec;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

[[noreturn]] void raise(const char* name, const char* sentence) {
  PyErr_SetString(py::module_::import("neurocodec.errors").attr(name).ptr(), sentence);
  throw py::error_already_set();
}

void check(nc::Status status) {
  if (status == nc::Status::kOk) return;
  const bool truncated = status == nc::Status::kTruncated, bad_end = status == nc::Status::kBadEnd;
  raise(truncated ? "TruncatedError" : bad_end ? "ChecksumError" : "NicFormatError", nc::message(status));
}

void check_aligned(const py::array& values, const std::string& name) {
  if ((values.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0) {
    throw std::invalid_argument(name + " is not aligned as its type.");
  }
}

void check_indexes(const uint8_t* indexes, size_t n, size_t rows) {
  uint8_t largest = 0;
  for (size_t i = 0; i < n; ++i) largest = indexes[i] > largest ? indexes[i] : largest;
  if (n > 0 && largest >= rows) {
    throw std::invalid_argument("Index " + std::to_string(largest) + " names no table row: there are " +
                                std::to_string(rows) + ".");
  }
}

std::shared_ptr<nc::Tables> make_tables(const Array<uint16_t>& frequencies, const Array<int32_t>& offsets,
                                        const Array<int32_t>& lengths) {
  check_aligned(frequencies, "frequencies");
  check_aligned(offsets, "offsets");
  check_aligned(lengths, "lengths");
  if (offsets.size() != lengths.size()) throw std::invalid_argument("offsets and lengths differ in size.");
  std::shared_ptr<nc::Tables> tables =
      nc::Tables::build(frequencies.data(), static_cast<size_t>(frequencies.size()), offsets.data(), lengths.data(),
                        static_cast<size_t>(lengths.size()));
  if (!tables) throw std::invalid_argument("The tables are malformed.");
  return tables;
}

py::bytes encode(const std::shared_ptr<nc::Tables>& tables, const Array<int32_t>& symbols,
                 const Array<uint8_t>& indexes, const std::vector<size_t>& calls, int lanes_log2, int groups_log2,
                 size_t threads) {
  check_aligned(symbols, "symbols");
  const auto n = static_cast<size_t>(symbols.size());
  if (static_cast<size_t>(indexes.size()) != n) throw std::invalid_argument("symbols and indexes differ in size.");
  size_t total = 0;
  for (const size_t call : calls) {
    if (call > n - total) throw std::invalid_argument("calls add up to more than the symbols.");
    total += call;
  }
  if (total != n) throw std::invalid_argument("calls add up to fewer than the symbols.");
  if (lanes_log2 < 0 || lanes_log2 > nc::kMaxLanesLog2 || groups_log2 < 0 || groups_log2 > nc::kMaxGroupsLog2) {
    throw std::invalid_argument("Unknown lane or group count.");
  }
  std::unique_ptr<nc::StreamEncoder> encoder;
  {
    const py::gil_scoped_release release;
    check_indexes(indexes.data(), n, tables->size());
    encoder = std::make_unique<nc::StreamEncoder>(*tables, symbols.data(), indexes.data(), calls,
                                                  nc::Layout{lanes_log2, groups_log2}, threads);
  }
  PyObject* bytes = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(encoder->size()));
  if (bytes == nullptr) throw py::error_already_set();
  encoder->write(reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(bytes)));
  return py::reinterpret_steal<py::bytes>(bytes);
}

// Memory for an object of which no constructor may ever run.
struct Cleared {
  static void* operator new(size_t size) {
    void* const memory = ::operator new(size);
    std::memset(memory, 0, size);
    return memory;
  }
  static void* operator new(size_t, void* place) { return place; }
  static void operator delete(void* memory) { ::operator delete(memory); }
};

template <typename T>
T& made(const std::unique_ptr<T>& object) {
  if (!object) throw py::type_error("__init__ was not called.");
  return *object;
}

class Decoder : public Cleared {
 public:
  Decoder(py::bytes data, std::shared_ptr<nc::Tables> tables, size_t threads)
      : state_(std::make_unique<State>(std::move(data), std::move(tables), threads)) {
    check(state_->decoder.status());
  }

  Array<int32_t> decode(const Array<uint8_t>& indexes) {
    State& state = made(state_);
    const auto n = static_cast<size_t>(indexes.size());
    Array<int32_t> symbols(indexes.size());
    const uint8_t* const in = indexes.data();
    int32_t* const out = symbols.mutable_data();
    nc::Status status;
    {
      const py::gil_scoped_release release;
      check_indexes(in, n, state.tables->size());
      const std::lock_guard<std::mutex> lock(state.mutex);
      status = state.decoder.decode(in, out, n, state.threads);
    }
    check(status);
    return symbols;
  }

  void finish() {
    State& state = made(state_);
    nc::Status status;
    {
      const py::gil_scoped_release release;
      const std::lock_guard<std::mutex> lock(state.mutex);
      status = state.decoder.finish();
    }
    check(status);
  }

 private:
  struct State {
    State(py::bytes bytes, std::shared_ptr<nc::Tables> rows, size_t most)
        : data(std::move(bytes)),
          tables(std::move(rows)),
          threads(most),
          decoder(reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(data.ptr())),
                  static_cast<size_t>(PyBytes_GET_SIZE(data.ptr())), *tables) {}

    const py::bytes data;
    const std::shared_ptr<nc::Tables> tables;
    const size_t threads;
    std::mutex mutex;
    nc::StreamDecoder decoder;
  };

  std::unique_ptr<State> state_;
};

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (size_t i = 0; nc_kernel(i) != nullptr; ++i) names.emplace_back(nc_kernel(i));
  return names;
}

nc::Kernel kernel_named(const std::string& name) {
  for (const nc::Kernel kernel : nc::kernels()) {
    if (name == nc::name_of(kernel)) return kernel;
  }
  throw std::invalid_argument("This machine runs no kernel named " + name + ".");
}

// One layer, for tests: (height, width, inputs) -> (height, width, outputs).
template <typename Out>
Array<Out> pointwise(const Array<int16_t>& x, const Array<int16_t>& weight, const Array<int32_t>& bias,
                     const Array<int8_t>& shift, int32_t low, int32_t high, const std::string& kernel) {
  const nc::Kernel chosen = kernel_named(kernel);
  if (x.ndim() != 3 || weight.ndim() != 2 || x.shape(2) != weight.shape(1) || bias.ndim() != 1 || shift.ndim() != 1 ||
      bias.shape(0) != weight.shape(0) || shift.shape(0) != weight.shape(0)) {
    throw std::invalid_argument("The shapes of the layer do not fit each other.");
  }
  for (const py::array& values : {py::array(x), py::array(weight), py::array(bias)}) check_aligned(values, "An array");
  const auto inputs = static_cast<size_t>(x.shape(2)), outputs = static_cast<size_t>(weight.shape(0));
  const auto positions = static_cast<size_t>(x.shape(0) * x.shape(1));
  const nc::Pointwise layer(weight.data(), bias.data(), shift.data(), outputs, inputs);
  std::vector<int16_t> padded(x.data(), x.data() + x.size());
  padded.push_back(0);
  Array<Out> out({x.shape(0), x.shape(1), weight.shape(0)});
  Out* const to = out.mutable_data();
  layer.run<Out>(
      chosen, positions, [&](size_t p) { return padded.data() + p * inputs; },
      [&](size_t) { return layer.bias().data(); }, low, high, [&](size_t p) { return to + p * outputs; });
  return out;
}

Array<int16_t> depthwise(const Array<int16_t>& x, const Array<int16_t>& weight, const Array<int32_t>& bias,
                         const Array<int8_t>& shift, const std::string& kernel) {
  const nc::Kernel chosen = kernel_named(kernel);
  if (x.ndim() != 3 || weight.ndim() != 3 || weight.shape(0) != x.shape(2) || weight.shape(1) != 3 ||
      weight.shape(2) != 3 || bias.ndim() != 1 || shift.ndim() != 1 || bias.shape(0) != x.shape(2) ||
      shift.shape(0) != x.shape(2)) {
    throw std::invalid_argument("The shapes of the layer do not fit each other.");
  }
  for (const py::array& values : {py::array(x), py::array(weight), py::array(bias)}) check_aligned(values, "An array");
  const auto height = static_cast<size_t>(x.shape(0)), width = static_cast<size_t>(x.shape(1));
  const auto channels = static_cast<size_t>(x.shape(2)), row = width * channels;
  const nc::Depthwise layer(weight.data(), bias.data(), shift.data(), channels);
  Array<int16_t> out({x.shape(0), x.shape(1), x.shape(2)});
  for (size_t r = 0; r < height; ++r) {
    const int16_t* const here = x.data() + r * row;
    layer.run_row(chosen, r > 0 ? here - row : nullptr, here, r + 1 < height ? here + row : nullptr, width, channels,
                  out.mutable_data() + r * row, channels);
  }
  return out;
}

struct Generator {
  struct Free {
    void operator()(nc_generator* generator) const { nc_generator_free(generator); }
  };
  std::unique_ptr<nc_generator, Free> made;
};

class Model : public Cleared {
 public:
  Model(const std::map<std::string, size_t>& shape, const std::map<std::string, py::array>& arrays) {
    const nc_shape numbers = shape_of(shape);
    const std::vector<nc_array> all = all_of(arrays);
    nc_model* made = nullptr;
    call([&](char* message, size_t size) {
      return nc_model_new(&numbers, all.data(), all.size(), &made, message, size);
    });
    model_.reset(made);
  }

  template <typename Sample>
  Array<int32_t> analyse(const Array<Sample>& rgb, int quality, const std::string& kernel, size_t threads) const {
    const nc_shape& shape = this->shape();
    check_aligned(rgb, "The array of pixels");
    if (rgb.ndim() != 3 || rgb.shape(2) != 3 || rgb.shape(0) % 16 != 0 || rgb.shape(1) % 16 != 0) {
      throw std::invalid_argument("The pixels are not of shape (16 h, 16 w, 3).");
    }
    const auto height = static_cast<size_t>(rgb.shape(0)) / 16, width = static_cast<size_t>(rgb.shape(1)) / 16;
    Array<int32_t> y({height, width, shape.latent_channels});
    run(quality, kernel, threads, [&, from = rgb.data(), to = y.mutable_data()](const nc_run& how, char* m, size_t n) {
      if constexpr (sizeof(Sample) == 2) return nc_analyse16(model_.get(), &how, from, height, width, to, m, n);
      else return nc_analyse(model_.get(), &how, from, height, width, to, m, n);
    });
    return y;
  }

  py::tuple encode(const Array<int32_t>& y, const std::optional<Array<int32_t>>& z_hat, int quality,
                   const std::string& kernel, size_t threads, bool gpu, bool apart) const {
    check_latents(y);
    const int layout = gpu ? NC_GPU_LAYOUT : NC_CPU_LAYOUT;
    Latents latents(shape(), static_cast<size_t>(y.shape(0)), static_cast<size_t>(y.shape(1)));
    if (z_hat && !std::equal(z_hat->shape(), z_hat->shape() + z_hat->ndim(), latents.z_hat.shape(),
                             latents.z_hat.shape() + 3)) {
      throw std::invalid_argument("z_hat is not of shape (ceil(h / 4), ceil(w / 4), N).");
    }
    uint8_t *stream = nullptr, *z_stream = nullptr;
    size_t size = 0, z_size = 0;
    const auto z = z_hat ? z_hat->data() : nullptr;
    run(quality, kernel, threads, [&, from = y.data()](const nc_run& how, char* m, size_t n) {
      return nc_encode(model_.get(), &how, from, z, latents.height, latents.width, layout, &stream, &size,
                       apart ? &z_stream : nullptr, apart ? &z_size : nullptr, latents.z, latents.s, latents.y,
                       &latents.checksum, m, n);
    });
    const std::unique_ptr<uint8_t, decltype(&nc_free)> owner(stream, &nc_free), other(z_stream, &nc_free);
    return py::make_tuple(py::bytes(reinterpret_cast<const char*>(stream), size)) + latents.tuple();
  }

  // z_stream: empty if z is in the other one.
  py::tuple decode(const py::bytes& stream, size_t height, size_t width, int quality, const std::string& kernel,
                   size_t threads, const py::bytes& z_stream) const {
    // A tile so large has no memory; nc_decode refuses it, and says why.
    const bool fits = height <= kMaxTile && width <= kMaxTile;
    Latents latents(shape(), fits ? height : 0, fits ? width : 0);
    const auto* const bytes = reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(stream.ptr()));
    const auto size = static_cast<size_t>(PyBytes_GET_SIZE(stream.ptr()));
    const auto z_size = static_cast<size_t>(PyBytes_GET_SIZE(z_stream.ptr()));
    const auto* const z = z_size > 0 ? reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(z_stream.ptr())) : nullptr;
    run(quality, kernel, threads, [&](const nc_run& how, char* m, size_t n) {
      return nc_decode(model_.get(), &how, bytes, size, z, z_size, height, width, latents.z, latents.s, latents.y,
                       &latents.checksum, m, n);
    });
    return latents.tuple();
  }

  template <typename Sample>
  Array<Sample> synthesise(const Array<int32_t>& y_hat, int quality, const std::string& kernel, size_t threads) const {
    check_latents(y_hat);
    const auto height = static_cast<size_t>(y_hat.shape(0)), width = static_cast<size_t>(y_hat.shape(1));
    Array<Sample> rgb({16 * height, 16 * width, size_t{3}});
    run(quality, kernel, threads,
        [&, from = y_hat.data(), to = rgb.mutable_data()](const nc_run& how, char* m, size_t n) {
          if constexpr (sizeof(Sample) == 2) return nc_synthesise16(model_.get(), &how, from, height, width, to, m, n);
          else return nc_synthesise(model_.get(), &how, from, height, width, to, m, n);
        });
    return rgb;
  }

  std::unique_ptr<Generator> generator(const std::map<std::string, size_t>& shape,
                                       const std::map<std::string, py::array>& arrays) const {
    const nc_generator_shape numbers = {at(shape, "channels"), at(shape, "blocks"), at(shape, "fine_blocks"),
                                        at(shape, "fine_width")};
    const std::vector<nc_array> all = all_of(arrays);
    nc_generator* made = nullptr;
    call([&, model = &made_model()](char* message, size_t size) {
      return nc_generator_new(model, &numbers, all.data(), all.size(), &made, message, size);
    });
    auto generator = std::make_unique<Generator>();
    generator->made.reset(made);
    return generator;
  }

  template <typename Sample>
  Array<Sample> realise(const Generator& generator, const Array<int32_t>& y_hat, int quality, int realism,
                        const std::string& kernel, size_t threads) const {
    check_latents(y_hat);
    const auto height = static_cast<size_t>(y_hat.shape(0)), width = static_cast<size_t>(y_hat.shape(1));
    Array<Sample> rgb({16 * height, 16 * width, size_t{3}});
    run(quality, kernel, threads,
        [&, from = y_hat.data(), to = rgb.mutable_data(), by = generator.made.get()](const nc_run& how, char* m,
                                                                                     size_t n) {
          if constexpr (sizeof(Sample) == 2) {
            return nc_realise16(model_.get(), by, &how, realism, from, height, width, to, m, n);
          } else {
            return nc_realise(model_.get(), by, &how, realism, from, height, width, to, m, n);
          }
        });
    return rgb;
  }

 private:
  static constexpr size_t kMaxTile = 4096, kMaxDimensions = 4;

  struct Latents {
    Latents(const nc_shape& shape, size_t h, size_t w)
        : height(h),
          width(w),
          z_hat({(h + 3) / 4, (w + 3) / 4, shape.hyper_channels}),
          symbols({size_t{4}, h, w, shape.latent_channels / 4}),
          y_hat({h, w, shape.latent_channels}),
          z(z_hat.mutable_data()),
          s(symbols.mutable_data()),
          y(y_hat.mutable_data()) {}

    py::tuple tuple() const { return py::make_tuple(z_hat, symbols, y_hat, checksum); }

    size_t height, width;
    Array<int32_t> z_hat, symbols, y_hat;
    int32_t *z, *s, *y;
    uint32_t checksum = 0;
  };

  static size_t at(const std::map<std::string, size_t>& shape, const char* name) {
    const auto entry = shape.find(name);
    if (entry == shape.end()) throw std::invalid_argument(std::string("The shape lacks ") + name + ".");
    return entry->second;
  }

  static nc_shape shape_of(const std::map<std::string, size_t>& shape) {
    return {at(shape, "channels"),        at(shape, "latent_channels"), at(shape, "hyper_channels"),
            at(shape, "hidden_channels"), at(shape, "encoder_blocks"),  at(shape, "decoder_blocks"),
            at(shape, "latent_blocks")};
  }

  static std::vector<nc_array> all_of(const std::map<std::string, py::array>& arrays) {
    std::vector<nc_array> all;
    for (const auto& [name, values] : arrays) all.push_back(array_of(values, name));
    return all;
  }

  static nc_array array_of(const py::array& values, const std::string& name) {
    const char kind = values.dtype().kind(), order = values.dtype().byteorder();
    const auto size = values.dtype().itemsize();
    nc_array array = {};
    array.name = name.c_str();
    array.type = kind == 'i' && size == 1   ? NC_INT8
                 : kind == 'i' && size == 2 ? NC_INT16
                 : kind == 'i' && size == 4 ? NC_INT32
                 : kind == 'u' && size == 2 ? NC_UINT16
                                            : -1;
    if (order != '=' && order != '|') array.type = -1;
    if ((values.flags() & py::array::c_style) == 0) throw std::invalid_argument(name + " is not contiguous.");
    if (values.ndim() > static_cast<py::ssize_t>(kMaxDimensions)) array.type = -1;
    array.data = values.data();
    array.dimensions = std::min(static_cast<size_t>(values.ndim()), kMaxDimensions);
    for (size_t i = 0; i < array.dimensions; ++i) array.shape[i] = static_cast<size_t>(values.shape(static_cast<py::ssize_t>(i)));
    return array;
  }

  // Calls a function of c_api.h without the GIL and turns its code into an exception.
  template <typename Function>
  static void call(const Function& function) {
    char message[256] = "";
    int code;
    {
      const py::gil_scoped_release release;
      code = function(message, sizeof(message));
    }
    switch (code) {
      case NC_OK: return;
      case NC_TRUNCATED: raise("TruncatedError", message);
      case NC_BAD_STREAM: raise("NicFormatError", message);
      case NC_BAD_END: raise("ChecksumError", message);
      case NC_NO_MEMORY: throw std::bad_alloc();
      case NC_INTERNAL: throw std::runtime_error(message);
      default: throw std::invalid_argument(message);
    }
  }

  template <typename Function>
  static void run(int quality, const std::string& kernel, size_t threads, const Function& function) {
    const nc_run how = {quality, kernel.empty() ? nullptr : kernel.c_str(), threads};
    call([&](char* message, size_t size) { return function(how, message, size); });
  }

  const nc_shape& shape() const { return *nc_model_shape(&made_model()); }

  const nc_model& made_model() const {
    if (!model_) throw py::type_error("__init__ was not called.");
    return *model_;
  }

  void check_latents(const Array<int32_t>& y) const {
    if (y.ndim() != 3 || static_cast<size_t>(y.shape(2)) != shape().latent_channels) {
      throw std::invalid_argument("The latents are not of shape (h, w, M).");
    }
  }

  struct Free {
    void operator()(nc_model* model) const { nc_model_free(model); }
  };
  std::unique_ptr<nc_model, Free> model_;
};

// Exact pixels beside those that the networks decoded: (height, width, 1 or 3).
nc::LosslessTile lossless_tile(const Array<uint8_t>& x_hat) {
  if (x_hat.ndim() != 3 || (x_hat.shape(2) != 1 && x_hat.shape(2) != 3) || x_hat.shape(0) < 1 || x_hat.shape(1) < 1) {
    throw std::invalid_argument("The pixels are not of shape (height, width, 1 or 3).");
  }
  return {x_hat.data(), static_cast<size_t>(x_hat.shape(0)), static_cast<size_t>(x_hat.shape(1)),
          static_cast<size_t>(x_hat.shape(2))};
}

py::bytes lossless_encode(const Array<uint8_t>& exact, const Array<uint8_t>& x_hat) {
  const nc::LosslessTile tile = lossless_tile(x_hat);
  if (exact.ndim() != 3 || !std::equal(exact.shape(), exact.shape() + 3, x_hat.shape())) {
    throw std::invalid_argument("The two pictures differ in shape.");
  }
  const uint8_t* const from = exact.data();
  std::vector<uint8_t> stream;
  {
    const py::gil_scoped_release release;
    stream = tile.encode(from);
  }
  return {reinterpret_cast<const char*>(stream.data()), stream.size()};
}

Array<uint8_t> lossless_decode(const py::bytes& stream, const Array<uint8_t>& x_hat) {
  const nc::LosslessTile tile = lossless_tile(x_hat);
  Array<uint8_t> exact({x_hat.shape(0), x_hat.shape(1), x_hat.shape(2)});
  const auto* const bytes = reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(stream.ptr()));
  const auto size = static_cast<size_t>(PyBytes_GET_SIZE(stream.ptr()));
  uint8_t* const to = exact.mutable_data();
  nc::Status status;
  {
    const py::gil_scoped_release release;
    status = tile.decode(bytes, size, to);
  }
  check(status);
  return exact;
}

void check_pixels(const Array<uint16_t>& rgb) {
  check_aligned(rgb, "The array of pixels");
  if (rgb.ndim() != 3 || rgb.shape(2) != 3 || rgb.shape(0) < 1 || rgb.shape(1) < 1) {
    throw std::invalid_argument("The pixels are not of shape (height, width, 3).");
  }
}

template <typename Sample>
Array<Sample> filter_pixels(const Array<uint16_t>& rgb, int shift, const Array<int8_t>& weights, size_t threads) {
  check_pixels(rgb);
  if (weights.size() != nc::kFilterWeights) throw std::invalid_argument("The filter does not have 54 weights.");
  if (shift < nc::kLeastFilterShift || shift > nc::kMostFilterShift) {
    throw std::invalid_argument("The shift of the filter is out of range.");
  }
  Array<Sample> filtered({rgb.shape(0), rgb.shape(1), py::ssize_t{3}});
  const auto *const from = rgb.data();
  const auto *const by = weights.data();
  auto* const to = filtered.mutable_data();
  const auto height = static_cast<size_t>(rgb.shape(0)), width = static_cast<size_t>(rgb.shape(1));
  {
    const py::gil_scoped_release release;
    nc::filter_pixels(from, height, width, shift, by, threads, to);
  }
  return filtered;
}

py::tuple measure_filter(const Array<uint16_t>& x_hat, const Array<uint16_t>& x) {
  check_pixels(x_hat);
  check_pixels(x);
  if (!std::equal(x.shape(), x.shape() + 3, x_hat.shape())) {
    throw std::invalid_argument("The two pictures differ in shape.");
  }
  Array<int64_t> products({nc::kFilterInputs, nc::kFilterInputs}), errors({size_t{3}, nc::kFilterInputs});
  auto *const p = products.mutable_data(), *const e = errors.mutable_data();
  std::fill(p, p + products.size(), 0);
  std::fill(e, e + errors.size(), 0);
  const auto *const decoded = x_hat.data(), *const original = x.data();
  const auto height = static_cast<size_t>(x.shape(0)), width = static_cast<size_t>(x.shape(1));
  {
    const py::gil_scoped_release release;
    nc::measure_filter(decoded, original, height, width, p, e);
  }
  return py::make_tuple(products, errors);
}

void check_palette(size_t height, size_t width, size_t colours) {
  if (height < 1 || width < 1 || colours < 1 || colours > nc::palette::kMostColours) {
    throw std::invalid_argument("A palette has 1 to 255 colours, and its tile whole blocks.");
  }
}

py::tuple palette_encode(const Array<uint8_t>& indexes, size_t colours) {
  constexpr size_t block = nc::palette::kBlock;
  if (indexes.ndim() != 2) throw std::invalid_argument("The indexes are not of shape (16 h, 16 w).");
  const auto height = static_cast<size_t>(indexes.shape(0)), width = static_cast<size_t>(indexes.shape(1));
  if (height % block != 0 || width % block != 0) throw std::invalid_argument("The indexes are not of shape (16 h, 16 w).");
  check_palette(height, width, colours);
  std::vector<uint8_t> values(indexes.data(), indexes.data() + indexes.size());
  if (std::any_of(values.begin(), values.end(), [&](uint8_t value) { return value > colours; })) {
    throw std::invalid_argument("An index names no colour.");
  }
  Array<int64_t> costs({height / block, width / block});
  int64_t* const to = costs.mutable_data();
  std::fill(to, to + costs.size(), 0);
  std::vector<uint8_t> stream;
  {
    const py::gil_scoped_release release;
    stream = nc::palette::encode(values.data(), height / block, width / block, colours, to);
  }
  return py::make_tuple(py::bytes(reinterpret_cast<const char*>(stream.data()), stream.size()), costs);
}

Array<uint8_t> palette_decode(const py::bytes& stream, size_t height, size_t width, size_t colours) {
  check_palette(height, width, colours);
  Array<uint8_t> indexes({height * nc::palette::kBlock, width * nc::palette::kBlock});
  const auto* const bytes = reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(stream.ptr()));
  const auto size = static_cast<size_t>(PyBytes_GET_SIZE(stream.ptr()));
  uint8_t* const to = indexes.mutable_data();
  nc::Status status;
  {
    const py::gil_scoped_release release;
    status = nc::palette::decode(bytes, size, height, width, colours, to);
  }
  check(status);
  return indexes;
}

py::bytes hyper_encode(const Array<int32_t>& z) {
  if (z.ndim() != 3 || z.size() == 0) throw std::invalid_argument("z is not of shape (h, w, N).");
  std::vector<int32_t> values(z.data(), z.data() + z.size());
  if (!nc::hyper::fits(values)) throw std::invalid_argument("A value of z is too large.");
  const auto height = static_cast<size_t>(z.shape(0)), width = static_cast<size_t>(z.shape(1));
  const auto channels = static_cast<size_t>(z.shape(2));
  std::vector<uint8_t> stream;
  {
    const py::gil_scoped_release release;
    stream = nc::hyper::encode(values.data(), height, width, channels);
  }
  return {reinterpret_cast<const char*>(stream.data()), stream.size()};
}

Array<int32_t> hyper_decode(const py::bytes& stream, size_t height, size_t width, size_t channels) {
  if (height < 1 || width < 1 || channels < 1) throw std::invalid_argument("z is not of shape (h, w, N).");
  Array<int32_t> z({height, width, channels});
  const auto* const bytes = reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(stream.ptr()));
  const auto size = static_cast<size_t>(PyBytes_GET_SIZE(stream.ptr()));
  int32_t* const to = z.mutable_data();
  nc::Status status;
  {
    const py::gil_scoped_release release;
    status = nc::hyper::decode(bytes, size, height, width, channels, to);
  }
  check(status);
  return z;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "The core in C++; use it through neurocodec.entropy.coder and neurocodec.integer.native.";
  py::class_<nc::Tables, std::shared_ptr<nc::Tables>>(m, "Tables")
      .def(py::init(&make_tables), py::arg("frequencies").noconvert(), py::arg("offsets").noconvert(),
           py::arg("lengths").noconvert());
  m.def("encode", &encode, py::arg("tables").none(false), py::arg("symbols").noconvert(), py::arg("indexes").noconvert(),
        py::arg("calls"), py::arg("lanes_log2"), py::arg("groups_log2"), py::arg("threads"));
  py::class_<Decoder>(m, "Decoder")
      .def(py::init<py::bytes, std::shared_ptr<nc::Tables>, size_t>(), py::arg("data"), py::arg("tables").none(false),
           py::arg("threads"))
      .def("decode", &Decoder::decode, py::arg("indexes").noconvert())
      .def("finish", &Decoder::finish);

  m.def("lossless_encode", &lossless_encode, py::arg("exact").noconvert(), py::arg("x_hat").noconvert());
  m.def("lossless_decode", &lossless_decode, py::arg("stream"), py::arg("x_hat").noconvert());
  m.def("filter_pixels", &filter_pixels<uint8_t>, py::arg("rgb").noconvert(), py::arg("shift"),
        py::arg("weights").noconvert(), py::arg("threads"));
  m.def("filter_pixels16", &filter_pixels<uint16_t>, py::arg("rgb").noconvert(), py::arg("shift"),
        py::arg("weights").noconvert(), py::arg("threads"));
  m.def("measure_filter", &measure_filter, py::arg("x_hat").noconvert(), py::arg("x").noconvert());
  m.def("hyper_encode", &hyper_encode, py::arg("z").noconvert());
  m.def("hyper_decode", &hyper_decode, py::arg("stream"), py::arg("height"), py::arg("width"), py::arg("channels"));
  m.def("palette_encode", &palette_encode, py::arg("indexes").noconvert(), py::arg("colours"));
  m.def("palette_decode", &palette_decode, py::arg("stream"), py::arg("height"), py::arg("width"), py::arg("colours"));
  m.def("kernels", &kernel_names, "Names of the kernels that this machine runs, best first.");
  m.def("pointwise", &pointwise<int16_t>, py::arg("x").noconvert(), py::arg("weight").noconvert(),
        py::arg("bias").noconvert(), py::arg("shift").noconvert(), py::arg("low"), py::arg("high"), py::arg("kernel"));
  m.def("pointwise_wide", &pointwise<int32_t>, py::arg("x").noconvert(), py::arg("weight").noconvert(),
        py::arg("bias").noconvert(), py::arg("shift").noconvert(), py::arg("low"), py::arg("high"), py::arg("kernel"));
  m.def("depthwise", &depthwise, py::arg("x").noconvert(), py::arg("weight").noconvert(), py::arg("bias").noconvert(),
        py::arg("shift").noconvert(), py::arg("kernel"));
  py::class_<Generator>(m, "Generator");
  py::class_<Model>(m, "Model")
      .def(py::init<const std::map<std::string, size_t>&, const std::map<std::string, py::array>&>(), py::arg("shape"),
           py::arg("arrays"))
      .def("analyse", &Model::analyse<uint8_t>, py::arg("rgb").noconvert(), py::arg("quality_index"), py::arg("kernel"),
           py::arg("threads"))
      .def("analyse", &Model::analyse<uint16_t>, py::arg("rgb").noconvert(), py::arg("quality_index"),
           py::arg("kernel"), py::arg("threads"))
      .def("encode", &Model::encode, py::arg("y").noconvert(), py::arg("z_hat").noconvert(), py::arg("quality_index"),
           py::arg("kernel"), py::arg("threads"), py::arg("gpu_layout") = false, py::arg("apart") = false)
      .def("decode", &Model::decode, py::arg("stream"), py::arg("height"), py::arg("width"), py::arg("quality_index"),
           py::arg("kernel"), py::arg("threads"), py::arg("z_stream") = py::bytes())
      .def("synthesise", &Model::synthesise<uint8_t>, py::arg("y_hat").noconvert(), py::arg("quality_index"),
           py::arg("kernel"), py::arg("threads"))
      .def("synthesise16", &Model::synthesise<uint16_t>, py::arg("y_hat").noconvert(), py::arg("quality_index"),
           py::arg("kernel"), py::arg("threads"))
      .def("generator", &Model::generator, py::arg("shape"), py::arg("arrays"))
      .def("realise", &Model::realise<uint8_t>, py::arg("generator"), py::arg("y_hat").noconvert(),
           py::arg("quality_index"), py::arg("realism"), py::arg("kernel"), py::arg("threads"))
      .def("realise16", &Model::realise<uint16_t>, py::arg("generator"), py::arg("y_hat").noconvert(),
           py::arg("quality_index"), py::arg("realism"), py::arg("kernel"), py::arg("threads"));
}
