// SPDX-License-Identifier: Apache-2.0
//
// The range coder on a GPU: many streams at once, a warp a group. Raw pointers and a stream; docs/coder.md defines the
// bytes, and ../range_coder.hpp is the same coder for a CPU. range_coder.cu needs nvcc, or a C++20 compiler and
// host_shim.hpp, which runs the same kernels on a CPU for tests.
//
// All functions throw Error if a CUDA call fails. Device arrays belong to the device that is current, and work is put
// in the order of `stream`; a function waits for it only where this says so.

#ifndef NEUROCODEC_CUDA_RANGE_CODER_HPP
#define NEUROCODEC_CUDA_RANGE_CODER_HPP

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "../range_coder.hpp"

using cudaStream_t = struct CUstream_st*;

namespace neurocodec::cuda {

// A CUDA call that failed: its text, and the runtime's reason.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Makes a device current in this thread.
void use_device(int device);

// Whether the kernels run on the CPU, through host_shim.hpp.
bool runs_on_host();

// Memory on a device, freed in the order of the stream.
class Buffer {
 public:
  Buffer(size_t bytes, cudaStream_t stream);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  cudaStream_t stream_;
};

// A row of the tables for the decoder. Both arrays hold 16-bit positions; see `find` in range_coder.cu.
struct alignas(16) DecodeRow {
  uint32_t starts;  // index of the first cumulative frequency
  uint32_t first;   // index of the first bucket
  int32_t offset;   // the smallest symbol
  uint16_t escape;  // position of the escape
  uint16_t shift;   // slot >> shift is the bucket
};

struct EncodeRow {
  uint32_t entries;  // index of the first Tables::Encode
  int32_t offset;
  uint32_t escape;
};

// Tables on the device that was current when they were made. Waits for the copy.
class DeviceTables {
 public:
  DeviceTables(const Tables& tables, cudaStream_t stream);

  uint32_t rows() const { return rows_; }
  // [DecodeRow per row][starts][buckets], padded to 16 bytes: what a block copies to shared memory if it fits.
  const uint8_t* decode() const { return decode_->as<uint8_t>(); }
  uint32_t decode_bytes() const { return decode_bytes_; }
  const EncodeRow* encode_rows() const { return encode_rows_->as<EncodeRow>(); }
  const Tables::Encode* encode() const { return encode_->as<Tables::Encode>(); }

 private:
  uint32_t rows_, decode_bytes_;
  std::unique_ptr<Buffer> decode_, encode_rows_, encode_;
};

struct Bytes {
  const uint8_t* data;
  size_t size;
};

struct DecodeGroup;

// Decodes many streams together, in calls: the same number of symbols of each stream in a call.
class BatchDecoder {
 public:
  // Reads the headers of the streams on the host and copies the rest to the device; the bytes may then go. The tables
  // must outlive the decoder. A stream whose header is malformed has an error, and the others are not affected.
  BatchDecoder(const std::vector<Bytes>& streams, const DeviceTables& tables, cudaStream_t stream);
  ~BatchDecoder();

  // The next n symbols of each stream. indexes, symbols: device arrays (streams, n). Symbols of a stream with an error
  // are 0 where it was met and afterwards.
  void decode(const uint8_t* indexes, int32_t* symbols, size_t n, cudaStream_t stream);

  // Waits, and returns for each stream what a StreamDecoder would: the first error of the first call that met one, or
  // whether the stream ends here.
  std::vector<Status> finish(cudaStream_t stream) const;

 private:
  const DeviceTables& tables_;
  std::vector<Status> opened_;  // of each stream
  size_t groups_ = 0;
  uint32_t calls_ = 0;
  std::unique_ptr<Buffer> data_, device_groups_;
};

// Encodes many streams of the same calls. symbols, indexes: device arrays (streams, sum of the calls). layouts: one for
// each stream. Waits. Memory on the device: 7 bytes a symbol. Returns kBadIndex, or kOk and the streams.
Status encode(const DeviceTables& tables, const int32_t* symbols, const uint8_t* indexes,
              const std::vector<size_t>& calls, const std::vector<Layout>& layouts,
              std::vector<std::vector<uint8_t>>& streams, cudaStream_t stream);

// Advances the CRC-32 registers of `count` pictures over n values each, as little-endian bytes. values: (count, n), device;
// before, after: (count), device, not the same. A register starts with all bits set, and its complement is the CRC-32.
void crc32(const int32_t* values, size_t count, size_t n, const uint32_t* before, uint32_t* after, cudaStream_t stream);

}  // namespace neurocodec::cuda

#endif  // NEUROCODEC_CUDA_RANGE_CODER_HPP
