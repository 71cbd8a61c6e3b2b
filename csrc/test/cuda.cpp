// SPDX-License-Identifier: Apache-2.0
//
// The CUDA range coder against the one for CPUs: the same bytes, symbols and errors, for random streams, many escapes, no
// symbols at all, every layout, and damaged streams. `make cuda-shim` runs it on a CPU, through host_shim.hpp, under
// sanitizers; tools/gpu_check.sh compiles it with nvcc.
//
// Arguments: the number of batches of intact streams, of damaged streams, and the seed.

#include <cstdio>
#include <random>

#include "cuda/range_coder.cu"

namespace nc = neurocodec;
namespace cuda = neurocodec::cuda;
using nc::Status;

namespace {

std::mt19937 random_bits(1);
size_t below(size_t n) { return static_cast<size_t>(random_bits() % n); }

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "cuda test: %s\n", what);
  std::exit(1);
}

template <typename T>
class Device {
 public:
  explicit Device(const std::vector<T>& values) : size_(values.size()), buffer_(cuda::upload(values, nullptr)) {}
  T* data() const { return buffer_->template as<T>(); }
  std::vector<T> values() const { return cuda::download(data(), size_, nullptr); }

 private:
  size_t size_;
  std::unique_ptr<cuda::Buffer> buffer_;
};

struct Rows {
  std::unique_ptr<nc::Tables> host;
  std::unique_ptr<cuda::DeviceTables> device;
};

Rows make_rows(const std::vector<uint16_t>& frequencies, const std::vector<int32_t>& offsets,
               const std::vector<int32_t>& lengths) {
  Rows rows;
  rows.host = nc::Tables::build(frequencies.data(), frequencies.size(), offsets.data(), lengths.data(), lengths.size());
  if (!rows.host) fail("the tables are malformed");
  rows.device = std::make_unique<cuda::DeviceTables>(*rows.host, nullptr);
  return rows;
}

// Sharp, flat, and at each end of the 32-bit integers.
Rows edge_rows() {
  std::vector<uint16_t> frequencies = {7, 65521, 7, 1};
  frequencies.insert(frequencies.end(), 300, 218);
  frequencies.insert(frequencies.end(), {136, 40000, 25535, 1, 1, 65535});
  return make_rows(frequencies, {-1, -150, INT32_MIN, INT32_MAX}, {4, 301, 3, 2});
}

// `count` rows of random lengths and frequencies, the last with the largest number of symbols that there can be.
Rows random_rows(size_t count, bool largest) {
  std::vector<uint16_t> frequencies;
  std::vector<int32_t> offsets, lengths;
  for (size_t r = 0; r < count; ++r) {
    const bool full = largest && r + 1 == count;
    const size_t length = full ? nc::kTotal : 2 + below(size_t{1} << below(11));
    std::vector<uint32_t> row(length, 1);
    for (uint32_t left = nc::kTotal - static_cast<uint32_t>(length); left > 0;) {
      const uint32_t more = std::min<uint32_t>(left, 1 + static_cast<uint32_t>(below(4000)));
      uint32_t& f = row[below(length)];
      if (f + more > 65535) continue;
      f += more;
      left -= more;
    }
    frequencies.insert(frequencies.end(), row.begin(), row.end());
    offsets.push_back(static_cast<int32_t>(random_bits()) >> (1 + below(31)));
    lengths.push_back(static_cast<int32_t>(length));
  }
  return make_rows(frequencies, offsets, lengths);
}

// Streams of the same calls, each with its layout.
struct Batch {
  std::vector<size_t> calls;
  std::vector<nc::Layout> layouts;
  std::vector<uint8_t> indexes;  // (streams, total)
  std::vector<int32_t> symbols;
  size_t total = 0;

  size_t streams() const { return layouts.size(); }

  // Of all streams, call c, as a decoder gets them.
  std::vector<uint8_t> indexes_of(size_t c) const {
    size_t first = 0;
    for (size_t i = 0; i < c; ++i) first += calls[i];
    std::vector<uint8_t> part;
    for (size_t s = 0; s < streams(); ++s) {
      const auto begin = indexes.begin() + static_cast<std::ptrdiff_t>(s * total + first);
      part.insert(part.end(), begin, begin + static_cast<std::ptrdiff_t>(calls[c]));
    }
    return part;
  }
};

Batch make_batch(const Rows& rows, size_t streams, size_t largest_call, size_t escapes_per_1000) {
  Batch batch;
  for (size_t c = 1 + below(4); c > 0; --c) batch.calls.push_back(below(8) == 0 ? 0 : below(largest_call + 1));
  for (const size_t n : batch.calls) batch.total += n;
  for (size_t s = 0; s < streams; ++s) {
    batch.layouts.push_back({static_cast<int>(below(6)), static_cast<int>(below(below(4) == 0 ? 8 : 4))});
    for (size_t i = 0; i < batch.total; ++i) {
      const auto index = static_cast<uint8_t>(below(rows.host->size()));
      const nc::Tables::Row& row = rows.host->rows()[index];
      const bool escape = below(1000) < escapes_per_1000;
      const size_t inside = below(2) == 0 ? below(row.escape) : std::min<size_t>(row.escape - 1, below(4));
      batch.indexes.push_back(index);
      batch.symbols.push_back(escape ? static_cast<int32_t>(random_bits()) >> below(32)
                                     : static_cast<int32_t>(row.offset + static_cast<int64_t>(inside)));
    }
  }
  return batch;
}

std::vector<std::vector<uint8_t>> encode_on_cpu(const Rows& rows, const Batch& batch) {
  std::vector<std::vector<uint8_t>> streams;
  for (size_t s = 0; s < batch.streams(); ++s) {
    const nc::StreamEncoder encoder(*rows.host, batch.symbols.data() + s * batch.total,
                                    batch.indexes.data() + s * batch.total, batch.calls, batch.layouts[s], 1);
    streams.emplace_back(encoder.size());
    encoder.write(streams.back().data());
  }
  return streams;
}

struct Decoded {
  std::vector<Status> statuses;
  std::vector<std::vector<int32_t>> symbols;  // of each stream
};

Decoded decode_on_cpu(const Rows& rows, const Batch& batch, const std::vector<std::vector<uint8_t>>& streams) {
  Decoded decoded;
  for (size_t s = 0; s < batch.streams(); ++s) {
    nc::StreamDecoder decoder(streams[s].data(), streams[s].size(), *rows.host);
    std::vector<int32_t> symbols(batch.total);
    size_t first = 0;
    for (const size_t n : batch.calls) {
      decoder.decode(batch.indexes.data() + s * batch.total + first, symbols.data() + first, n, 1);
      first += n;
    }
    decoded.statuses.push_back(decoder.finish());
    decoded.symbols.push_back(symbols);
  }
  return decoded;
}

Decoded decode_on_device(const Rows& rows, const Batch& batch, const std::vector<std::vector<uint8_t>>& streams) {
  std::vector<cuda::Bytes> bytes;
  for (const auto& stream : streams) bytes.push_back({stream.data(), stream.size()});
  cuda::BatchDecoder decoder(bytes, *rows.device, nullptr);
  Decoded decoded;
  decoded.symbols.resize(batch.streams());
  for (size_t c = 0; c < batch.calls.size(); ++c) {
    const size_t n = batch.calls[c];
    const Device<uint8_t> indexes(batch.indexes_of(c));
    const Device<int32_t> symbols(std::vector<int32_t>(batch.streams() * n, 77));
    decoder.decode(indexes.data(), symbols.data(), n, nullptr);
    const std::vector<int32_t> values = symbols.values();
    for (size_t s = 0; s < batch.streams(); ++s) {
      const auto begin = values.begin() + static_cast<std::ptrdiff_t>(s * n);
      decoded.symbols[s].insert(decoded.symbols[s].end(), begin, begin + static_cast<std::ptrdiff_t>(n));
    }
  }
  decoded.statuses = decoder.finish(nullptr);
  return decoded;
}

void damage(std::vector<uint8_t>& stream) {
  for (size_t k = 1 + below(3); k > 0 && !stream.empty(); --k) {
    // Half of them in the first bytes: the layout, the lengths and the escapes.
    stream[below(below(2) == 0 ? std::min<size_t>(stream.size(), 12) : stream.size())] ^= 1u << below(8);
  }
  if (below(4) == 0) stream.resize(below(stream.size() + 1));
  if (below(8) == 0) stream.insert(stream.end(), below(9), static_cast<uint8_t>(random_bits()));
  if (below(16) == 0) {
    for (uint8_t& byte : stream) byte = static_cast<uint8_t>(random_bits());
    if (!stream.empty() && below(2) == 0) stream[0] &= 0x4a;  // few lanes and groups reach further
  }
}

void test_intact(const Rows& rows, const Batch& batch) {
  const auto streams = encode_on_cpu(rows, batch);
  std::vector<std::vector<uint8_t>> encoded;
  const Device<int32_t> symbols(batch.symbols);
  const Device<uint8_t> indexes(batch.indexes);
  if (cuda::encode(*rows.device, symbols.data(), indexes.data(), batch.calls, batch.layouts, encoded, nullptr) !=
          Status::kOk ||
      encoded != streams) {
    fail("encoded to other bytes");
  }
  const Decoded decoded = decode_on_device(rows, batch, streams);
  for (size_t s = 0; s < batch.streams(); ++s) {
    const auto begin = batch.symbols.begin() + static_cast<std::ptrdiff_t>(s * batch.total);
    if (decoded.statuses[s] != Status::kOk || !std::equal(begin, begin + static_cast<std::ptrdiff_t>(batch.total),
                                                          decoded.symbols[s].begin(), decoded.symbols[s].end())) {
      fail("decoded to other symbols");
    }
  }
}

// The number of damaged streams that gave each status.
void test_damaged(const Rows& rows, const Batch& batch, std::vector<size_t>& counts) {
  auto streams = encode_on_cpu(rows, batch);
  for (auto& stream : streams) damage(stream);
  const Decoded expected = decode_on_cpu(rows, batch, streams), decoded = decode_on_device(rows, batch, streams);
  for (size_t s = 0; s < batch.streams(); ++s) {
    if (decoded.statuses[s] != expected.statuses[s]) fail("a damaged stream gives another status");
    if (expected.statuses[s] == Status::kOk && decoded.symbols[s] != expected.symbols[s]) {
      fail("a damaged stream gives other symbols");
    }
    ++counts[static_cast<size_t>(expected.statuses[s])];
  }
}

void test_bad_index(const Rows& rows) {
  Batch batch = make_batch(rows, 3, 50, 0);
  batch.calls = {batch.total};
  const auto streams = encode_on_cpu(rows, batch);
  if (batch.total == 0) return;
  batch.indexes[batch.total + batch.total / 2] = static_cast<uint8_t>(rows.host->size());
  if (decode_on_device(rows, batch, streams).statuses[1] != Status::kBadIndex) fail("an index beyond the rows is accepted");
  std::vector<std::vector<uint8_t>> encoded;
  const Device<int32_t> symbols(batch.symbols);
  const Device<uint8_t> indexes(batch.indexes);
  if (cuda::encode(*rows.device, symbols.data(), indexes.data(), batch.calls, batch.layouts, encoded, nullptr) !=
      Status::kBadIndex) {
    fail("the encoder accepts an index beyond the rows");
  }
}

uint32_t crc32_by_bits(const std::vector<int32_t>& values, size_t first, size_t n, uint32_t crc) {
  for (size_t i = first; i < first + n; ++i) {
    crc ^= static_cast<uint32_t>(values[i]);
    for (int bit = 0; bit < 32; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
  }
  return crc;
}

void test_crc32(size_t count, size_t n) {
  std::vector<int32_t> values(count * n);
  for (int32_t& value : values) value = static_cast<int32_t>(random_bits());
  const Device<int32_t> on_device(values);
  const Device<uint32_t> before(std::vector<uint32_t>(count, ~0u)), middle(std::vector<uint32_t>(count, 5)), after(std::vector<uint32_t>(count, 6));
  cuda::crc32(on_device.data(), count, n, before.data(), middle.data(), nullptr);
  cuda::crc32(on_device.data(), count, n, middle.data(), after.data(), nullptr);
  const std::vector<uint32_t> once = middle.values(), twice = after.values();
  for (size_t i = 0; i < count; ++i) {
    const uint32_t expected = crc32_by_bits(values, i * n, n, ~0u);
    if (once[i] != expected || twice[i] != crc32_by_bits(values, i * n, n, expected)) fail("a checksum is wrong");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const long intact = argc > 1 ? std::atol(argv[1]) : 100, damaged = argc > 2 ? std::atol(argv[2]) : 1000;
  if (argc > 3) random_bits.seed(static_cast<unsigned>(std::atol(argv[3])));
  // Edges; rows of all kinds; rows that fill a page; one that fits into no shared memory.
  const Rows rows[] = {edge_rows(), random_rows(64, false), random_rows(256, false), random_rows(3, true)};
  constexpr size_t kStreams = 4;
  for (long i = 0; i < intact; ++i) {
    const size_t escapes[] = {0, 2, 50, 1000};
    const Rows& mine = rows[i % 4];
    test_intact(mine, make_batch(mine, 1 + below(kStreams), below(16) == 0 ? 2000 : 150, escapes[below(4)]));
  }
  std::vector<size_t> counts(8);
  for (long i = 0; i < damaged; i += kStreams) {
    const Rows& mine = rows[i / static_cast<long>(kStreams) % 4 == 3 ? 3 : 0];
    test_damaged(mine, make_batch(mine, kStreams, below(16) == 0 ? 400 : 40, below(3) * 40), counts);
  }
  test_bad_index(rows[0]);
  test_bad_index(rows[3]);
  for (const size_t n : {size_t{0}, size_t{1}, size_t{255}, size_t{4096}, size_t{10007}}) test_crc32(1 + n % 3, n);
  std::printf("%ld batches of intact streams; of damaged streams %zu decoded, %zu truncated, %zu with a bad layout, %zu "
              "with a bad group, %zu with a bad escape, %zu with a bad end: as on the CPU\n",
              intact, counts[0], counts[1], counts[2], counts[3], counts[4], counts[5]);
  return 0;
}
