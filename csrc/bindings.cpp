// SPDX-License-Identifier: Apache-2.0
//
// neurocodec._native: NumPy arrays in, bytes or arrays out. Types, lengths, the GIL and errors; the rest is
// range_coder.hpp and integer_layers.hpp.
//
// Surprises: arrays must be contiguous and of the exact type (neurocodec.entropy.coder ensures it); a decoder holds a
// lock, because it works without the GIL.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "integer_layers.hpp"
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

nc::Requantise requantise(int shift, int32_t low, int32_t high) {
  if (shift < 0 || shift > 30) throw std::invalid_argument("The shift is not in 0..30.");
  return nc::Requantise(shift, low, high);
}

void check_positions(const Array<int16_t>& x, size_t channels) {
  if (x.ndim() != 3 || static_cast<size_t>(x.shape(2)) != channels) {
    throw std::invalid_argument("The input is not of shape (height, width, " + std::to_string(channels) + ").");
  }
}

nc::PointwiseLayer make_pointwise(const Array<int16_t>& weight) {
  if (weight.ndim() != 2) throw std::invalid_argument("The weight is not of shape (out, in).");
  return nc::PointwiseLayer(weight.data(), static_cast<size_t>(weight.shape(0)), static_cast<size_t>(weight.shape(1)));
}

template <typename Out>
Array<Out> run_pointwise(const nc::PointwiseLayer& layer, const Array<int16_t>& x, const Array<int32_t>& bias, int shift,
                         int32_t low, int32_t high, const std::string& kernel, size_t threads) {
  check_positions(x, layer.inputs());
  const bool lattice = bias.ndim() == 3;
  const bool fits = lattice ? bias.shape(0) == 2 && bias.shape(1) == 2 : bias.ndim() == 1;
  if (!fits || static_cast<size_t>(bias.shape(bias.ndim() - 1)) != layer.outputs()) {
    throw std::invalid_argument("The bias is neither of shape (out) nor (2, 2, out).");
  }
  const nc::Requantise rule = requantise(shift, low, high);
  const nc::Kernel chosen = kernel_named(kernel);
  const auto height = static_cast<size_t>(x.shape(0)), width = static_cast<size_t>(x.shape(1));
  Array<Out> out({height, width, layer.outputs()});
  const int16_t* const from = x.data();
  const int32_t* const add = bias.data();
  Out* const to = out.mutable_data();
  const py::gil_scoped_release release;
  layer.run(from, height, width, add, lattice, rule, to, chosen, threads);
  return out;
}

nc::DepthwiseLayer make_depthwise(const Array<int16_t>& weight, const Array<int32_t>& bias) {
  if (weight.ndim() != 3 || weight.shape(1) != 3 || weight.shape(2) != 3) {
    throw std::invalid_argument("The weight is not of shape (channels, 3, 3).");
  }
  if (bias.ndim() != 1 || bias.shape(0) != weight.shape(0)) {
    throw std::invalid_argument("The bias is not of shape (channels).");
  }
  return nc::DepthwiseLayer(weight.data(), bias.data(), static_cast<size_t>(weight.shape(0)));
}

Array<int16_t> run_depthwise(const nc::DepthwiseLayer& layer, const Array<int16_t>& x, int shift,
                             const std::string& kernel, size_t threads) {
  check_positions(x, layer.channels());
  const nc::Requantise rule = requantise(shift, INT16_MIN, INT16_MAX);
  const nc::Kernel chosen = kernel_named(kernel);
  const auto height = static_cast<size_t>(x.shape(0)), width = static_cast<size_t>(x.shape(1));
  Array<int16_t> out({height, width, layer.channels()});
  const int16_t* const from = x.data();
  int16_t* const to = out.mutable_data();
  const py::gil_scoped_release release;
  layer.run(from, height, width, rule, to, chosen, threads);
  return out;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Range coder and integer layers in C++; use them through neurocodec.entropy.coder and .integer.";
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
  py::class_<nc::PointwiseLayer>(m, "Pointwise")
      .def(py::init(&make_pointwise), py::arg("weight").noconvert())
      .def("run", &run_pointwise<int16_t>, py::arg("x").noconvert(), py::arg("bias").noconvert(), py::arg("shift"),
           py::arg("low"), py::arg("high"), py::arg("kernel"), py::arg("threads"))
      .def("run_wide", &run_pointwise<int32_t>, py::arg("x").noconvert(), py::arg("bias").noconvert(),
           py::arg("shift"), py::arg("low"), py::arg("high"), py::arg("kernel"), py::arg("threads"));
  py::class_<nc::DepthwiseLayer>(m, "Depthwise")
      .def(py::init(&make_depthwise), py::arg("weight").noconvert(), py::arg("bias").noconvert())
      .def("run", &run_depthwise, py::arg("x").noconvert(), py::arg("shift"), py::arg("kernel"), py::arg("threads"));
}
