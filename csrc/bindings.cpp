// SPDX-License-Identifier: Apache-2.0
//
// neurocodec._native: NumPy arrays in, bytes out. Types, lengths, the GIL and errors; the rest is range_coder.hpp.
//
// Surprises: arrays must be contiguous and of the exact type (neurocodec.entropy.coder sees to that); a decoder takes a
// lock, because it works without the GIL.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

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

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "The range coder in C++; use it through neurocodec.entropy.coder.";
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
}
