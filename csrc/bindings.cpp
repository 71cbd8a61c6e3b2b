// SPDX-License-Identifier: Apache-2.0
//
// neurocodec._native: NumPy arrays in, bytes or arrays out. Types, lengths, the GIL and errors; the rest is
// tile.hpp and what it includes.
//
// Surprises: arrays must be contiguous and of the exact type (neurocodec.entropy.coder ensures it); a decoder holds a
// lock, because it works without the GIL.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "tile.hpp"

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
  switch (status) {
    case nc::Status::kOk: return;
    case nc::Status::kTruncated:
      raise("TruncatedError", "The coded stream ends before its symbols do.");
    case nc::Status::kBadLayout:
      raise("NicFormatError", "The layout byte of the coded stream has reserved bits or unknown lane or group counts.");
    case nc::Status::kBadGroup:
      raise("NicFormatError", "A group of the coded stream has an impossible length or state.");
    case nc::Status::kBadEscape:
      raise("NicFormatError", "An escape of the coded stream is missing or malformed.");
    case nc::Status::kBadEnd:
      raise("ChecksumError",
            "The coded stream does not end where its symbols do: damaged, or decoded with other tables.");
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
    encoder = std::make_unique<nc::StreamEncoder>(*tables, symbols.data(), indexes.data(), calls, lanes_log2,
                                                  groups_log2, threads);
  }
  PyObject* bytes = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(encoder->size()));
  if (bytes == nullptr) throw py::error_already_set();
  encoder->write(reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(bytes)));
  return py::reinterpret_steal<py::bytes>(bytes);
}

class Decoder {
 public:
  Decoder(py::bytes data, std::shared_ptr<nc::Tables> tables, size_t threads)
      : data_(std::move(data)),
        tables_(std::move(tables)),
        threads_(threads),
        decoder_(reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(data_.ptr())),
                 static_cast<size_t>(PyBytes_GET_SIZE(data_.ptr())), *tables_) {
    check(decoder_.status());
  }

  Array<int32_t> decode(const Array<uint8_t>& indexes) {
    const auto n = static_cast<size_t>(indexes.size());
    Array<int32_t> symbols(indexes.size());
    const uint8_t* const in = indexes.data();
    int32_t* const out = symbols.mutable_data();
    nc::Status status;
    {
      const py::gil_scoped_release release;
      check_indexes(in, n, tables_->size());
      const std::lock_guard<std::mutex> lock(mutex_);
      status = decoder_.decode(in, out, n, threads_);
    }
    check(status);
    return symbols;
  }

  void finish() {
    nc::Status status;
    {
      const py::gil_scoped_release release;
      const std::lock_guard<std::mutex> lock(mutex_);
      status = decoder_.finish();
    }
    check(status);
  }

 private:
  const py::bytes data_;
  const std::shared_ptr<nc::Tables> tables_;
  const size_t threads_;
  std::mutex mutex_;
  nc::StreamDecoder decoder_;
};

const char* name_of(nc::Kernel kernel) {
  switch (kernel) {
    case nc::Kernel::kAvx512: return "avx512";
    case nc::Kernel::kAvx2: return "avx2";
    case nc::Kernel::kNeon: return "neon";
    default: return "generic";
  }
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const nc::Kernel kernel : nc::kernels()) names.emplace_back(name_of(kernel));
  return names;
}

nc::Kernel kernel_named(const std::string& name) {
  for (const nc::Kernel kernel : nc::kernels()) {
    if (name == name_of(kernel)) return kernel;
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

nc::Array array_of(const py::array& values, const std::string& name) {
  nc::Array array;
  const auto kind = values.dtype().kind();
  const auto size = values.dtype().itemsize();
  if (kind == 'i' && size == 1) {
    array.type = nc::Type::kInt8;
  } else if (kind == 'i' && size == 2) {
    array.type = nc::Type::kInt16;
  } else if (kind == 'i' && size == 4) {
    array.type = nc::Type::kInt32;
  } else if (kind == 'u' && size == 2) {
    array.type = nc::Type::kUint16;
  } else {
    throw nc::ModelError("the model file holds " + name + " with a type that no network uses.");
  }
  if ((values.flags() & py::array::c_style) == 0) throw nc::ModelError(name + " is not contiguous.");
  array.data = values.data();
  for (py::ssize_t i = 0; i < values.ndim(); ++i) array.shape.push_back(static_cast<size_t>(values.shape(i)));
  return array;
}

class Model {
 public:
  Model(const std::map<std::string, size_t>& shape, const std::map<std::string, py::array>& arrays)
      : model_(shape_of(shape), all(arrays)) {}

  Array<int32_t> analyse(const Array<uint8_t>& rgb, int quality, const std::string& kernel, size_t threads) const {
    encoder();
    if (rgb.ndim() != 3 || rgb.shape(2) != 3 || rgb.shape(0) % 16 != 0 || rgb.shape(1) % 16 != 0 || rgb.size() == 0) {
      throw std::invalid_argument("The pixels are not of shape (16 h, 16 w, 3).");
    }
    const nc::Run run = checked(quality, kernel, threads);
    const auto height = static_cast<size_t>(rgb.shape(0)) / 16, width = static_cast<size_t>(rgb.shape(1)) / 16;
    Array<int32_t> y({height, width, model_.shape().latent_channels});
    const uint8_t* const from = rgb.data();
    int32_t* const to = y.mutable_data();
    const py::gil_scoped_release release;
    model_.analyse(run, from, height, width, quality, to);
    return y;
  }

  py::tuple encode(const Array<int32_t>& y, int quality, const std::string& kernel, size_t threads) const {
    encoder();
    check_latents(y);
    const nc::Run run = checked(quality, kernel, threads);
    const auto height = static_cast<size_t>(y.shape(0)), width = static_cast<size_t>(y.shape(1));
    const int32_t* const from = y.data();
    nc::Latents latents;
    std::vector<uint8_t> stream;
    {
      const py::gil_scoped_release release;
      stream = model_.encode(run, from, height, width, quality, latents);
    }
    return py::make_tuple(py::bytes(reinterpret_cast<const char*>(stream.data()), stream.size())) +
           arrays_of(latents, height, width);
  }

  py::tuple decode(const py::bytes& stream, size_t height, size_t width, int quality, const std::string& kernel,
                   size_t threads) const {
    if (height == 0 || width == 0 || height > 4096 || width > 4096) {
      throw std::invalid_argument("A tile has 1 to 4096 latents in each direction.");
    }
    const nc::Run run = checked(quality, kernel, threads);
    const auto* const bytes = reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(stream.ptr()));
    const auto size = static_cast<size_t>(PyBytes_GET_SIZE(stream.ptr()));
    nc::Latents latents;
    nc::Status status;
    {
      const py::gil_scoped_release release;
      status = model_.decode(run, bytes, size, height, width, quality, latents);
    }
    check(status);
    return arrays_of(latents, height, width);
  }

  Array<uint8_t> synthesise(const Array<int32_t>& y_hat, int quality, const std::string& kernel, size_t threads) const {
    check_latents(y_hat);
    const nc::Run run = checked(quality, kernel, threads);
    const auto height = static_cast<size_t>(y_hat.shape(0)), width = static_cast<size_t>(y_hat.shape(1));
    Array<uint8_t> rgb({16 * height, 16 * width, size_t{3}});
    const int32_t* const from = y_hat.data();
    uint8_t* const to = rgb.mutable_data();
    const py::gil_scoped_release release;
    model_.synthesise(run, from, height, width, quality, to);
    return rgb;
  }

 private:
  static nc::Shape shape_of(const std::map<std::string, size_t>& shape) {
    const auto at = [&](const char* name) {
      const auto entry = shape.find(name);
      if (entry == shape.end()) throw std::invalid_argument(std::string("The shape lacks ") + name + ".");
      return entry->second;
    };
    return {at("channels"),       at("latent_channels"), at("hyper_channels"), at("hidden_channels"),
            at("encoder_blocks"), at("decoder_blocks"),  at("latent_blocks")};
  }

  static std::map<std::string, nc::Array> all(const std::map<std::string, py::array>& arrays) {
    std::map<std::string, nc::Array> result;
    for (const auto& [name, values] : arrays) result.emplace(name, array_of(values, name));
    return result;
  }

  static nc::Run checked(int quality, const std::string& kernel, size_t threads) {
    if (quality < 0 || quality > nc::kMaxQuality) throw std::invalid_argument("The quality index is not in 0..960.");
    return {kernel_named(kernel), std::max<size_t>(1, threads)};
  }

  void encoder() const {
    if (!model_.encodes()) throw std::invalid_argument("This model is for decoding alone.");
  }

  void check_latents(const Array<int32_t>& y) const {
    if (y.ndim() != 3 || static_cast<size_t>(y.shape(2)) != model_.shape().latent_channels || y.size() == 0) {
      throw std::invalid_argument("The latents are not of shape (h, w, M).");
    }
  }

  // z_hat, the symbols of the four passes, y_hat.
  py::tuple arrays_of(const nc::Latents& latents, size_t height, size_t width) const {
    const auto copy = [](const int32_t* from, std::vector<size_t> shape) {
      Array<int32_t> array(shape);
      std::copy_n(from, array.size(), array.mutable_data());
      return array;
    };
    const size_t quarter = model_.shape().latent_channels / nc::kPasses;
    py::list symbols;
    for (size_t step = 0; step < nc::kPasses; ++step) {
      symbols.append(copy(latents.symbols.data() + step * height * width * quarter, {height, width, quarter}));
    }
    return py::make_tuple(
        copy(latents.z_hat.data(), {(height + 3) / 4, (width + 3) / 4, model_.shape().hyper_channels}), symbols,
        copy(latents.y_hat.data(), {height, width, 4 * quarter}));
  }

  nc::Model model_;
};

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "The core in C++; use it through neurocodec.entropy.coder and neurocodec.integer.native.";
  py::class_<nc::Tables, std::shared_ptr<nc::Tables>>(m, "Tables")
      .def(py::init(&make_tables), py::arg("frequencies").noconvert(), py::arg("offsets").noconvert(),
           py::arg("lengths").noconvert());
  m.def("encode", &encode, py::arg("tables"), py::arg("symbols").noconvert(), py::arg("indexes").noconvert(),
        py::arg("calls"), py::arg("lanes_log2"), py::arg("groups_log2"), py::arg("threads"));
  py::class_<Decoder>(m, "Decoder")
      .def(py::init<py::bytes, std::shared_ptr<nc::Tables>, size_t>(), py::arg("data"), py::arg("tables"),
           py::arg("threads"))
      .def("decode", &Decoder::decode, py::arg("indexes").noconvert())
      .def("finish", &Decoder::finish);

  m.def("kernels", &kernel_names, "Names of the kernels that this machine runs, best first.");
  m.def("pointwise", &pointwise<int16_t>, py::arg("x").noconvert(), py::arg("weight").noconvert(),
        py::arg("bias").noconvert(), py::arg("shift").noconvert(), py::arg("low"), py::arg("high"), py::arg("kernel"));
  m.def("pointwise_wide", &pointwise<int32_t>, py::arg("x").noconvert(), py::arg("weight").noconvert(),
        py::arg("bias").noconvert(), py::arg("shift").noconvert(), py::arg("low"), py::arg("high"), py::arg("kernel"));
  m.def("depthwise", &depthwise, py::arg("x").noconvert(), py::arg("weight").noconvert(), py::arg("bias").noconvert(),
        py::arg("shift").noconvert(), py::arg("kernel"));
  py::class_<Model>(m, "Model")
      .def(py::init<const std::map<std::string, size_t>&, const std::map<std::string, py::array>&>(), py::arg("shape"),
           py::arg("arrays"))
      .def("analyse", &Model::analyse, py::arg("rgb").noconvert(), py::arg("quality_index"), py::arg("kernel"),
           py::arg("threads"))
      .def("encode", &Model::encode, py::arg("y").noconvert(), py::arg("quality_index"), py::arg("kernel"),
           py::arg("threads"))
      .def("decode", &Model::decode, py::arg("stream"), py::arg("height"), py::arg("width"), py::arg("quality_index"),
           py::arg("kernel"), py::arg("threads"))
      .def("synthesise", &Model::synthesise, py::arg("y_hat").noconvert(), py::arg("quality_index"), py::arg("kernel"),
           py::arg("threads"));
}
