// SPDX-License-Identifier: Apache-2.0

#include "c_api.h"

#include <cstdio>
#include <cstdlib>
#include <new>

#include "range_coder.hpp"

namespace nc = neurocodec;

struct ncc_tables {
  int device;
  size_t rows;
  nc::cuda::DeviceTables tables;
};

struct ncc_decoder {
  int device;
  nc::cuda::BatchDecoder decoder;
};

namespace {

struct BadArgument {
  const char* sentence;
};

int fail(int code, const char* sentence, char* message, size_t size) {
  if (message != nullptr && size > 0) std::snprintf(message, size, "%s", sentence);
  return code;
}

template <typename Function>
int guarded(char* message, size_t size, const Function& function) {
  try {
    return function();
  } catch (const BadArgument& error) {
    return fail(NCC_BAD_ARGUMENT, error.sentence, message, size);
  } catch (const std::bad_alloc&) {
    return fail(NCC_NO_MEMORY, "There is not enough memory.", message, size);
  } catch (const std::exception& error) {
    return fail(NCC_CUDA_ERROR, error.what(), message, size);
  } catch (...) {
    return fail(NCC_CUDA_ERROR, "An unknown error.", message, size);
  }
}

template <typename T>
void need(const T* pointer, const char* sentence) {
  if (pointer == nullptr) throw BadArgument{sentence};
}

int result_of(nc::Status status) {
  switch (status) {
    case nc::Status::kOk: return NCC_STREAM_OK;
    case nc::Status::kTruncated: return NCC_STREAM_TRUNCATED;
    case nc::Status::kBadEnd: return NCC_STREAM_BAD_END;
    case nc::Status::kBadIndex: return NCC_STREAM_BAD_INDEX;
    default: return NCC_STREAM_BAD;
  }
}

cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }

}  // namespace

int ncc_tables_new(const uint16_t* frequencies, size_t total, const int32_t* offsets, const int32_t* lengths, size_t rows,
                   int device, void* stream, ncc_tables** tables, char* message, size_t message_size) {
  return guarded(message, message_size, [&] {
    need(tables, "The place for the tables is missing.");
    *tables = nullptr;
    const auto host = nc::Tables::build(frequencies, total, offsets, lengths, rows);
    if (!host) throw BadArgument{"The tables are malformed."};
    nc::cuda::use_device(device);
    *tables = new ncc_tables{device, rows, nc::cuda::DeviceTables(*host, stream_of(stream))};
    return NCC_OK;
  });
}

int ncc_decoder_new(const ncc_tables* tables, const uint8_t* const* streams, const size_t* sizes, size_t count,
                    void* stream, ncc_decoder** decoder, char* message, size_t message_size) {
  return guarded(message, message_size, [&] {
    need(decoder, "The place for the decoder is missing.");
    *decoder = nullptr;
    need(tables, "The tables are missing.");
    std::vector<nc::cuda::Bytes> all;
    for (size_t i = 0; i < count; ++i) all.push_back({streams[i], sizes[i]});
    nc::cuda::use_device(tables->device);
    *decoder = new ncc_decoder{tables->device, nc::cuda::BatchDecoder(all, tables->tables, stream_of(stream))};
    return NCC_OK;
  });
}

int ncc_decode(ncc_decoder* decoder, const uint8_t* indexes, int32_t* symbols, size_t n, void* stream, char* message,
               size_t message_size) {
  return guarded(message, message_size, [&] {
    need(decoder, "The decoder is missing.");
    if (n > 0) {
      need(indexes, "The indexes are missing.");
      need(symbols, "The place for the symbols is missing.");
    }
    nc::cuda::use_device(decoder->device);
    decoder->decoder.decode(indexes, symbols, n, stream_of(stream));
    return NCC_OK;
  });
}

int ncc_finish(const ncc_decoder* decoder, void* stream, int* results, const char** sentences, char* message,
               size_t message_size) {
  return guarded(message, message_size, [&] {
    need(decoder, "The decoder is missing.");
    nc::cuda::use_device(decoder->device);
    const std::vector<nc::Status> statuses = decoder->decoder.finish(stream_of(stream));
    for (size_t i = 0; i < statuses.size(); ++i) {
      results[i] = result_of(statuses[i]);
      sentences[i] = nc::message(statuses[i]);
    }
    return NCC_OK;
  });
}

int ncc_encode(const ncc_tables* tables, const int32_t* symbols, const uint8_t* indexes, const size_t* calls,
               size_t call_count, const int* lanes_log2, const int* groups_log2, size_t count, void* stream,
               uint8_t** bytes, size_t* sizes, char* message, size_t message_size) {
  return guarded(message, message_size, [&]() -> int {
    need(bytes, "The place for the bytes is missing.");
    *bytes = nullptr;
    need(tables, "The tables are missing.");
    std::vector<nc::Layout> layouts;
    for (size_t i = 0; i < count; ++i) {
      if (lanes_log2[i] < 0 || lanes_log2[i] > nc::kMaxLanesLog2 || groups_log2[i] < 0 ||
          groups_log2[i] > nc::kMaxGroupsLog2) {
        throw BadArgument{"Unknown lane or group count."};
      }
      layouts.push_back({lanes_log2[i], groups_log2[i]});
    }
    std::vector<std::vector<uint8_t>> streams;
    nc::cuda::use_device(tables->device);
    const std::vector<size_t> lengths(calls, calls + call_count);
    if (nc::cuda::encode(tables->tables, symbols, indexes, lengths, layouts, streams, stream_of(stream)) !=
        nc::Status::kOk) {
      return fail(NCC_BAD_INDEX, nc::message(nc::Status::kBadIndex), message, message_size);
    }
    size_t total = 0;
    for (size_t i = 0; i < count; ++i) total += sizes[i] = streams[i].size();
    auto* place = static_cast<uint8_t*>(std::malloc(total > 0 ? total : 1));
    if (place == nullptr) throw std::bad_alloc();
    *bytes = place;
    for (const auto& one : streams) place = std::copy(one.begin(), one.end(), place);
    return NCC_OK;
  });
}

int ncc_crc32(const int32_t* values, size_t count, size_t n, const uint32_t* before, uint32_t* after, int device,
              void* stream, char* message, size_t message_size) {
  return guarded(message, message_size, [&] {
    nc::cuda::use_device(device);
    nc::cuda::crc32(values, count, n, before, after, stream_of(stream));
    return NCC_OK;
  });
}

void ncc_tables_free(ncc_tables* tables) { delete tables; }
void ncc_decoder_free(ncc_decoder* decoder) { delete decoder; }
void ncc_free(uint8_t* bytes) { std::free(bytes); }
int ncc_is_host(void) { return nc::cuda::runs_on_host() ? 1 : 0; }
