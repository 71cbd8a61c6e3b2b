// SPDX-License-Identifier: Apache-2.0
//
// The range coder: interleaved rANS with one table row per symbol. Header only, C++17, no dependencies.
// docs/coder.md defines the bytes and neurocodec/entropy/reference.py is the readable twin; both win over this file.
//
// Surprises, in the order in which people meet them:
//  * rANS is a stack. The encoder walks symbols and writes words backwards; the decoder runs forwards.
//  * A state has 40 bits, in a 64-bit register: probabilities of 16 bits with states of 32 bits and words of 16 bits
//    cost 0.1 to 0.2 % of the size. With 8 more bits the loss vanishes and one word per renormalisation still suffices.
//  * A single lane starts from 2^16, not 2^24, and its state is stored in 3, 4 or 5 bytes: tiny streams stay tiny.
//    So the decoder of one lane may meet the end of the words with a small state, and that is no error.
//  * The last slot of each row is the escape. Its values stand beside the words, so the hot loop never reads raw bits.
//  * Lanes rotate through the symbols of a group without a break, so a group can be decoded in pieces of any size.
//  * The decoder finds symbols through a small table of buckets: each holds its first symbol whole, so most symbols
//    cost one load. An escape at the start of a bucket has frequency 0 there, which sends it to the slow path.
//  * Division in the encoder is a multiplication by ceil(2^64 / f): exact, because states have 40 bits and f has 16.

#ifndef NEUROCODEC_RANGE_CODER_HPP
#define NEUROCODEC_RANGE_CODER_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "parallel.hpp"

#if defined(__GNUC__) || defined(__clang__)
#define NC_LIKELY(x) __builtin_expect(!!(x), 1)
#define NC_NOINLINE __attribute__((noinline))
#else
#define NC_LIKELY(x) (x)
#define NC_NOINLINE
#endif

#if defined(__CUDACC__)
#define NC_HOST_DEVICE __host__ __device__
#else
#define NC_HOST_DEVICE
#endif

namespace neurocodec {

constexpr int kPrecision = 16;                         // rows sum to 2^16
constexpr uint32_t kTotal = 1u << kPrecision;
constexpr uint64_t kLow = 1ull << 24;                  // states rest in [kLow, 2^40)
constexpr uint64_t kSingleStart = 1ull << 16;          // first state of a stream of one lane
constexpr int kStateBytes = 5;
constexpr int kMaxLanesLog2 = 5;
constexpr int kMaxGroupsLog2 = 7;
constexpr uint8_t kEscapeFlag = 0x40;
constexpr uint8_t kReservedBit = 0x80;

enum class Status {
  kOk,
  kTruncated,        // the data end before the symbols do
  kBadLayout,        // reserved bits or an unknown lane count
  kBadGroup,         // a group body that no encoder writes
  kBadEscape,        // an escape that no encoder writes
  kBadEnd,           // decoded to the end, but states or bytes are left over
  kBadIndex,         // an index names no table row: the caller's mistake, which only a GPU reports late
};

inline const char* message(Status status) {
  switch (status) {
    case Status::kOk: break;
    case Status::kTruncated: return "The coded stream ends before its symbols do.";
    case Status::kBadLayout: return "The layout byte of the coded stream has reserved bits or an unknown lane count.";
    case Status::kBadGroup: return "A group of the coded stream has an impossible length or state.";
    case Status::kBadEscape: return "An escape of the coded stream is missing or malformed.";
    case Status::kBadEnd:
      return "The coded stream does not end where its symbols do: damaged, or decoded with other tables.";
    case Status::kBadIndex: return "An index names no table row.";
  }
  return "";
}

NC_HOST_DEVICE inline uint64_t start_state(int lanes) { return lanes == 1 ? kSingleStart : kLow; }

// (a * b) >> 64
inline uint64_t multiply_high(uint64_t a, uint64_t b) {
#if defined(__SIZEOF_INT128__)
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>((static_cast<Wide>(a) * b) >> 64);
#else
  const uint64_t a0 = static_cast<uint32_t>(a), a1 = a >> 32, b0 = static_cast<uint32_t>(b), b1 = b >> 32;
  const uint64_t mid = a1 * b0 + ((a0 * b0) >> 32);
  return a1 * b1 + (mid >> 32) + ((a0 * b1 + static_cast<uint32_t>(mid)) >> 32);
#endif
}

inline uint16_t load_word(const uint8_t* p) {
  return static_cast<uint16_t>(p[0] | p[1] << 8);  // compilers make this one load
}

inline void store_word(uint8_t* p, uint16_t word) {
  p[0] = static_cast<uint8_t>(word);
  p[1] = static_cast<uint8_t>(word >> 8);
}

NC_HOST_DEVICE inline size_t varint_size(uint64_t value) {
  size_t bytes = 1;
  for (; value >= 0x80; value >>= 7) ++bytes;
  return bytes;
}

NC_HOST_DEVICE inline uint8_t* write_varint(uint8_t* p, uint64_t value) {
  for (; value >= 0x80; value >>= 7) *p++ = static_cast<uint8_t>(value | 0x80);
  *p++ = static_cast<uint8_t>(value);
  return p;
}

// False if there is no varint of at most 5 bytes in its shortest form.
NC_HOST_DEVICE inline bool read_varint(const uint8_t*& p, const uint8_t* end, uint64_t& value) {
  value = 0;
  for (int shift = 0; shift <= 28; shift += 7) {
    if (p == end) return false;
    const uint8_t byte = *p++;
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return byte != 0 || shift == 0;
  }
  return false;
}

// The zigzag distance of a symbol outside a row that starts at `offset` and has `escape` symbols.
NC_HOST_DEVICE inline uint64_t escape_value(int32_t symbol, int32_t offset, uint32_t escape) {
  const int64_t first = offset, end = first + escape;
  return static_cast<uint64_t>(symbol >= end ? 2 * (symbol - end) : 2 * (first - 1 - symbol) + 1);
}

// The inverse. False if the symbol is beyond 32 bits.
NC_HOST_DEVICE inline bool escaped_symbol(uint64_t zigzag, int32_t offset, uint32_t escape, int32_t& symbol) {
  const auto distance = static_cast<int64_t>(zigzag >> 1);
  const int64_t wide = zigzag & 1 ? int64_t{offset} - 1 - distance : int64_t{offset} + escape + distance;
  symbol = static_cast<int32_t>(wide);
  return symbol == wide;
}

// Where chunk k of g of a call with n symbols begins.
NC_HOST_DEVICE inline size_t chunk_begin(size_t n, size_t k, size_t groups) {
  return n / groups * k + n % groups * k / groups;  // k * n / groups without overflow
}

// ---------------------------------------------------------------------------------------------------------- layout

struct Layout {
  int lanes_log2, groups_log2;
};

// For a core or several: docs/coder.md. nonzero: the number of symbols that are not zero.
inline Layout cpu_layout(size_t nonzero) {
  if (nonzero < size_t{1} << 16) return {0, 0};
  int groups_log2 = 0;
  while (groups_log2 < 4 && nonzero >> (18 + groups_log2) != 0) ++groups_log2;
  return {2, groups_log2};
}

// For a GPU: a warp a group, and a group for every 2^14 symbols that are not zero.
inline Layout gpu_layout(size_t nonzero) {
  int groups_log2 = 0;
  while (groups_log2 < kMaxGroupsLog2 && nonzero >> (15 + groups_log2) != 0) ++groups_log2;
  return {kMaxLanesLog2, groups_log2};
}

// ---------------------------------------------------------------------------------------------------------- tables

class Tables {
 public:
  struct Encode {          // one symbol, for the encoder
    uint64_t reciprocal;   // ceil(2^64 / frequency)
    uint32_t frequency;
    uint32_t bias;
  };
  struct Bucket {          // the first symbol that reaches into a bucket, for the decoder
    uint16_t start;
    uint16_t frequency;    // 0: it is the escape
    int32_t symbol;
  };
  struct Row {
    const Bucket* buckets;
    const Encode* encode;
    const uint32_t* starts;  // cumulative frequencies, with 2^16 at the end
    int32_t offset;          // the smallest symbol
    uint32_t escape;         // position of the escape: the number of symbols
    uint32_t shift;          // slot >> shift is the bucket
  };

  // Builds the tables; `frequencies` holds the rows one after another. Returns nullptr if a row is malformed.
  static std::unique_ptr<Tables> build(const uint16_t* frequencies, size_t total, const int32_t* offsets,
                                       const int32_t* lengths, size_t rows) {
    if (rows < 1 || rows > 256) return nullptr;
    size_t used = 0;
    for (size_t r = 0; r < rows; ++r) {
      const int64_t length = lengths[r];
      if (length < 2 || length > int64_t{kTotal} || static_cast<size_t>(length) > total - used) return nullptr;
      if (int64_t{offsets[r]} + length - 2 > std::numeric_limits<int32_t>::max()) return nullptr;
      uint32_t sum = 0;
      for (int64_t i = 0; i < length; ++i) {
        if (frequencies[used + i] == 0) return nullptr;
        sum += frequencies[used + i];  // at most 2^16 times 2^16 - 1: no overflow
      }
      if (sum != kTotal) return nullptr;
      used += static_cast<size_t>(length);
    }
    if (used != total) return nullptr;

    std::unique_ptr<Tables> tables(new Tables);
    tables->size_ = rows;
    tables->rows_.resize(256);  // all of uint8: reads stay inside even if another thread changes the indexes
    tables->encode_.resize(total);
    tables->starts_.resize(total + rows);
    std::vector<size_t> bucket_begin(rows);
    size_t buckets = 0, begin = 0;
    for (size_t r = 0; r < rows; ++r) {
      const uint32_t shift = bucket_shift(frequencies + begin, static_cast<size_t>(lengths[r]));
      tables->rows_[r].shift = shift;
      bucket_begin[r] = buckets;
      buckets += kTotal >> shift;
      begin += static_cast<size_t>(lengths[r]);
    }
    tables->buckets_.resize(buckets);
    begin = 0;
    for (size_t r = 0; r < rows; ++r) {
      const auto length = static_cast<uint32_t>(lengths[r]);
      Row& row = tables->rows_[r];
      Encode* encode = tables->encode_.data() + begin;
      uint32_t* starts = tables->starts_.data() + begin + r;
      Bucket* bucket = tables->buckets_.data() + bucket_begin[r];
      uint32_t start = 0;
      for (uint32_t i = 0; i < length; ++i) {
        const uint32_t f = frequencies[begin + i];
        // f = 1: the multiplication by 2^64 - 1 gives x - 1, and the bias makes up for it (after ryg_rans).
        encode[i].reciprocal = f == 1 ? ~0ull : ~0ull / f + 1;
        encode[i].frequency = f;
        encode[i].bias = f == 1 ? start + kTotal - 1 : start;
        starts[i] = start;
        start += f;
      }
      starts[length] = kTotal;
      row.buckets = bucket;
      row.encode = encode;
      row.starts = starts;
      row.offset = offsets[r];
      row.escape = length - 1;
      uint32_t position = 0;
      for (uint32_t b = 0; b < (kTotal >> row.shift); ++b) {
        while (starts[position + 1] <= b << row.shift) ++position;
        const bool escape = position == row.escape;
        bucket[b].start = static_cast<uint16_t>(starts[position]);
        bucket[b].frequency = escape ? uint16_t{0} : frequencies[begin + position];
        bucket[b].symbol = escape ? 0 : static_cast<int32_t>(row.offset + int64_t{position});
      }
      begin += length;
    }
    std::fill(tables->rows_.begin() + static_cast<std::ptrdiff_t>(rows), tables->rows_.end(), tables->rows_[0]);
    return tables;
  }

  const Row* rows() const { return rows_.data(); }
  size_t size() const { return size_; }

 private:
  // 64 to 2048 buckets: about 16 per frequent symbol, so that few symbols start inside a bucket.
  static uint32_t bucket_shift(const uint16_t* frequencies, size_t length) {
    size_t frequent = 0;
    for (size_t i = 0; i < length; ++i) frequent += frequencies[i] >= 64;
    uint32_t bits = 6;
    while (bits < 11 && (size_t{1} << bits) < 16 * frequent) ++bits;
    return kPrecision - bits;
  }

  size_t size_ = 0;
  std::vector<Row> rows_;
  std::vector<Encode> encode_;
  std::vector<uint32_t> starts_;
  std::vector<Bucket> buckets_;
};

// ----------------------------------------------------------------------------------------------------------- bytes

// The parts of a group's body.
struct Body {
  const uint8_t* escapes;
  size_t escapes_size;
  const uint8_t* words;  // states, then words
  size_t words_size;
};

inline size_t body_size(const Body& body, bool escapes) {
  return (escapes ? varint_size(body.escapes_size) : 0) + body.escapes_size + body.words_size;
}

inline bool any_escapes(const std::vector<Body>& bodies) {
  return std::any_of(bodies.begin(), bodies.end(), [](const Body& body) { return body.escapes_size != 0; });
}

inline size_t stream_size(const std::vector<Body>& bodies) {
  const bool escapes = any_escapes(bodies);
  size_t bytes = 1;
  for (size_t g = 0; g < bodies.size(); ++g) {
    const size_t size = body_size(bodies[g], escapes);
    bytes += size + (g + 1 < bodies.size() ? varint_size(size) : 0);
  }
  return bytes;
}

// Writes stream_size(bodies) bytes.
inline void write_stream(const Layout& layout, const std::vector<Body>& bodies, uint8_t* p) {
  const bool escapes = any_escapes(bodies);
  *p++ = static_cast<uint8_t>(layout.lanes_log2 | layout.groups_log2 << 3 | (escapes ? kEscapeFlag : 0));
  for (size_t g = 0; g + 1 < bodies.size(); ++g) p = write_varint(p, body_size(bodies[g], escapes));
  for (const Body& body : bodies) {
    if (escapes) p = write_varint(p, body.escapes_size);
    p = std::copy(body.escapes, body.escapes + body.escapes_size, p);
    p = std::copy(body.words, body.words + body.words_size, p);
  }
}

// Finds the groups of a stream. open_group(layout, group, body) is called for each in turn and returns a status; the
// first that is not kOk ends it.
template <typename OpenGroup>
Status read_stream(const uint8_t* p, size_t size, const OpenGroup& open_group) {
  const uint8_t* const end = p + size;
  if (size == 0) return Status::kTruncated;
  const uint8_t first = *p++;
  const Layout layout = {first & 7, first >> 3 & 7};
  if ((first & kReservedBit) != 0 || layout.lanes_log2 > kMaxLanesLog2) return Status::kBadLayout;
  std::vector<uint64_t> sizes(size_t{1} << layout.groups_log2);
  for (size_t g = 0; g + 1 < sizes.size(); ++g) {
    if (!read_varint(p, end, sizes[g])) return Status::kBadGroup;
  }
  for (size_t g = 0; g < sizes.size(); ++g) {
    const auto left = static_cast<size_t>(end - p);
    if (g + 1 == sizes.size()) sizes[g] = left;
    if (sizes[g] > left) return Status::kTruncated;
    const uint8_t* const body_end = p + sizes[g];
    uint64_t escapes = 0;
    if ((first & kEscapeFlag) != 0 && !read_varint(p, body_end, escapes)) return Status::kBadGroup;
    if (escapes > static_cast<size_t>(body_end - p)) return Status::kTruncated;
    const uint8_t* const words = p + escapes;
    const Status status =
        open_group(layout, g, Body{p, static_cast<size_t>(escapes), words, static_cast<size_t>(body_end - words)});
    if (status != Status::kOk) return status;
    p = body_end;
  }
  return Status::kOk;
}

// Reads the states at the start of a body; `words` then points behind them.
inline Status read_states(int lanes, const uint8_t*& words, size_t size, uint64_t* states) {
  std::fill(states, states + lanes, start_state(lanes));
  if (size == 0) return Status::kOk;  // no symbols
  const auto read_state = [&](int bytes) {
    uint64_t x = 0;
    for (int i = 0; i < bytes; ++i) x |= static_cast<uint64_t>(*words++) << (8 * i);
    return x;
  };
  if (lanes == 1) {
    if (size < 3) return Status::kTruncated;
    const int bytes = size == 3 ? 3 : size % 2 == 0 ? 4 : 5;
    states[0] = read_state(bytes);
    return states[0] >> (8 * (bytes - 1)) != 0 ? Status::kOk : Status::kBadGroup;
  }
  if (size < static_cast<size_t>(lanes) * kStateBytes) return Status::kTruncated;
  if ((size - static_cast<size_t>(lanes) * kStateBytes) % 2 != 0) return Status::kBadGroup;
  for (int lane = 0; lane < lanes; ++lane) {
    states[lane] = read_state(kStateBytes);
    if (states[lane] < kLow) return Status::kBadGroup;
  }
  return Status::kOk;
}

// --------------------------------------------------------------------------------------------------------- encoder

// Encodes one group. Feed the pieces of the group from the last to the first, each once, then call finish.
class GroupEncoder {
 public:
  GroupEncoder(const Tables& tables, int lanes, size_t count) : tables_(tables), lanes_(lanes), position_(count) {
    const size_t capacity = 2 * count + static_cast<size_t>(lanes) * kStateBytes;  // a symbol emits one word at most
    buffer_.reset(new uint8_t[capacity]);
    end_ = p_ = buffer_.get() + capacity;
    std::fill(states_, states_ + lanes, start_state(lanes));
    empty_ = count == 0;
  }

  // Indexes must be below tables.size().
  void encode(const int32_t* symbols, const uint8_t* indexes, size_t n) {
    position_ -= n;  // position in the group of the first symbol of this piece
    switch (lanes_) {
      case 1: run<1>(symbols, indexes, n); break;
      case 2: run<2>(symbols, indexes, n); break;
      case 4: run<4>(symbols, indexes, n); break;
      case 8: run<8>(symbols, indexes, n); break;
      case 16: run<16>(symbols, indexes, n); break;
      default: run<32>(symbols, indexes, n); break;
    }
  }

  void finish() {
    for (int lane = lanes_ - 1; lane >= 0 && !empty_; --lane) {
      const uint64_t x = states_[lane];
      const int bytes = lanes_ > 1 ? kStateBytes : x < kLow ? 3 : x < (1ull << 32) ? 4 : 5;
      p_ -= bytes;
      for (int i = 0; i < bytes; ++i) p_[i] = static_cast<uint8_t>(x >> (8 * i));
    }
    std::reverse(escapes_.begin(), escapes_.end());
  }

  // Valid as long as the encoder; to be asked for after `finish`.
  Body body() const { return {escapes_.data(), escapes_.size(), p_, static_cast<size_t>(end_ - p_)}; }

 private:
  template <int K>
  void run(const int32_t* symbols, const uint8_t* indexes, size_t n) {
    const int phase = static_cast<int>(position_ % K);
    uint64_t x[K];  // x[j] codes the symbols at j, j + K, ... of this piece
    for (int j = 0; j < K; ++j) x[j] = states_[(j + phase) % K];
    uint8_t* p = p_;
    const Tables::Row* rows = tables_.rows();
    size_t i = n;
    for (; i % K != 0; --i) step(x[(i - 1) % K], p, symbols[i - 1], rows[indexes[i - 1]]);
    for (; i != 0; i -= K) {
      for (int j = K - 1; j >= 0; --j) step(x[j], p, symbols[i - K + j], rows[indexes[i - K + j]]);
    }
    for (int j = 0; j < K; ++j) states_[(j + phase) % K] = x[j];
    p_ = p;
  }

  inline void step(uint64_t& x, uint8_t*& p, int32_t symbol, const Tables::Row& row) {
    uint32_t u = static_cast<uint32_t>(symbol) - static_cast<uint32_t>(row.offset);
    if (!NC_LIKELY(u < row.escape)) {
      push_escape(symbol, row);
      u = row.escape;
    }
    const Tables::Encode& e = row.encode[u];
    const bool full = x >= static_cast<uint64_t>(e.frequency) << 24;
    store_word(p - 2, static_cast<uint16_t>(x));  // inside the buffer even if not kept: the states are written last
    p -= full ? 2 : 0;
    x = full ? x >> 16 : x;
    x += e.bias + multiply_high(x, e.reciprocal) * (kTotal - e.frequency);  // (x / f << 16) + start + x % f
  }

  // LEB128 of the zigzag distance outside the row, written backwards.
  NC_NOINLINE void push_escape(int32_t symbol, const Tables::Row& row) {
    uint8_t bytes[5];
    auto count = write_varint(bytes, escape_value(symbol, row.offset, row.escape)) - bytes;
    while (count > 0) escapes_.push_back(bytes[--count]);
  }

  const Tables& tables_;
  const int lanes_;
  size_t position_;
  bool empty_;
  uint64_t states_[1 << kMaxLanesLog2];
  std::unique_ptr<uint8_t[]> buffer_;
  uint8_t* end_;
  uint8_t* p_;
  std::vector<uint8_t> escapes_;
};

// --------------------------------------------------------------------------------------------------------- decoder

// Decodes one group, in pieces of any size. The bytes must outlive it. After an error it must not be used again.
class GroupDecoder {
 public:
  Status open(int lanes, const Body& body) {
    lanes_ = lanes;
    escape_ = body.escapes;
    escape_end_ = body.escapes + body.escapes_size;
    p_ = body.words;
    end_ = body.words + body.words_size;
    position_ = 0;
    return read_states(lanes, p_, body.words_size, states_);
  }

  // Indexes must be below tables.size().
  Status decode(const Tables& tables, const uint8_t* indexes, int32_t* symbols, size_t n) {
    switch (lanes_) {
      case 1: return run<1>(tables, indexes, symbols, n);
      case 2: return run<2>(tables, indexes, symbols, n);
      case 4: return run<4>(tables, indexes, symbols, n);
      case 8: return run<8>(tables, indexes, symbols, n);
      case 16: return run<16>(tables, indexes, symbols, n);
      default: return run<32>(tables, indexes, symbols, n);
    }
  }

  Status finish() const {
    for (int lane = 0; lane < lanes_; ++lane) {
      if (states_[lane] != start_state(lanes_)) return Status::kBadEnd;
    }
    return p_ == end_ && escape_ == escape_end_ ? Status::kOk : Status::kBadEnd;
  }

 private:
  template <int K>
  Status run(const Tables& tables, const uint8_t* indexes, int32_t* symbols, size_t n) {
    const int phase = static_cast<int>(position_ % K);
    uint64_t x[K];  // x[j] decodes the symbols at j, j + K, ... of this piece
    for (int j = 0; j < K; ++j) x[j] = states_[(j + phase) % K];
    const uint8_t* p = p_;
    const Tables::Row* rows = tables.rows();
    Status status = Status::kOk;
    size_t i = 0;
    for (;;) {
      // K symbols read at most K words, so this many rounds need no check for the end.
      size_t rounds = std::min((n - i) / K, static_cast<size_t>(end_ - p) / (2 * K));
      if (rounds == 0) break;
      for (; rounds != 0; --rounds, i += K) {
        for (int j = 0; j < K; ++j) {
          if (!step(x[j], rows[indexes[i + j]], symbols[i + j])) return Status::kBadEscape;
          const bool low = x[j] < kLow;
          const uint64_t refilled = x[j] << 16 | load_word(p);
          x[j] = low ? refilled : x[j];
          p += low ? 2 : 0;
        }
      }
    }
    for (; i < n; ++i) {
      uint64_t& state = x[i % K];
      if (!step(state, rows[indexes[i]], symbols[i])) {
        status = Status::kBadEscape;
        break;
      }
      if (state >= kLow) continue;
      if (end_ - p >= 2) {
        state = state << 16 | load_word(p);
        p += 2;
      } else if (K > 1 || state < kSingleStart) {
        status = Status::kTruncated;
        break;
      }
    }
    for (int j = 0; j < K; ++j) states_[(j + phase) % K] = x[j];
    p_ = p;
    position_ += n;
    return status;
  }

  inline bool step(uint64_t& x, const Tables::Row& row, int32_t& symbol) {
    const auto slot = static_cast<uint32_t>(x & (kTotal - 1));
    const Tables::Bucket& bucket = row.buckets[slot >> row.shift];
    uint32_t frequency = bucket.frequency;
    uint32_t rest = slot - bucket.start;
    int32_t value = bucket.symbol;
    bool ok = true;
    if (!NC_LIKELY(rest < frequency)) ok = search(row, slot, frequency, rest, value);
    symbol = value;
    x = frequency * (x >> kPrecision) + rest;
    return ok;
  }

  // The symbol is not the first of its bucket, or is an escape.
  NC_NOINLINE bool search(const Tables::Row& row, uint32_t slot, uint32_t& frequency, uint32_t& rest, int32_t& value) {
    uint32_t position = frequency == 0 ? row.escape : static_cast<uint32_t>(value - int64_t{row.offset}) + 1;
    while (row.starts[position + 1] <= slot) ++position;  // ends: starts[escape + 1] is 2^16
    frequency = row.starts[position + 1] - row.starts[position];
    rest = slot - row.starts[position];
    if (position != row.escape) {
      value = static_cast<int32_t>(row.offset + int64_t{position});
      return true;
    }
    uint64_t zigzag = 0;
    return read_varint(escape_, escape_end_, zigzag) && escaped_symbol(zigzag, row.offset, row.escape, value);
  }

  int lanes_ = 1;
  size_t position_ = 0;
  uint64_t states_[1 << kMaxLanesLog2] = {};
  const uint8_t* p_ = nullptr;
  const uint8_t* end_ = nullptr;
  const uint8_t* escape_ = nullptr;
  const uint8_t* escape_end_ = nullptr;
};

// --------------------------------------------------------------------------------------------------------- streams

class StreamEncoder {
 public:
  // Indexes must be below tables.size(); the calls must add up to the number of symbols.
  StreamEncoder(const Tables& tables, const int32_t* symbols, const uint8_t* indexes, const std::vector<size_t>& calls,
                const Layout& layout, size_t threads)
      : layout_(layout) {
    const size_t groups = size_t{1} << layout.groups_log2;
    size_t total = 0;
    for (const size_t n : calls) total += n;
    groups_.reserve(groups);
    for (size_t g = 0; g < groups; ++g) {
      size_t count = 0;
      for (const size_t n : calls) count += chunk_begin(n, g + 1, groups) - chunk_begin(n, g, groups);
      groups_.emplace_back(tables, 1 << layout.lanes_log2, count);
    }
    parallel(groups, threads, [&](size_t g) {
      size_t end = total;
      for (size_t c = calls.size(); c-- > 0;) {
        const size_t base = end - calls[c];
        const size_t first = base + chunk_begin(calls[c], g, groups);
        const size_t last = base + chunk_begin(calls[c], g + 1, groups);
        groups_[g].encode(symbols + first, indexes + first, last - first);
        end = base;
      }
      groups_[g].finish();
    });
    for (const auto& group : groups_) bodies_.push_back(group.body());
  }

  size_t size() const { return stream_size(bodies_); }
  void write(uint8_t* p) const { write_stream(layout_, bodies_, p); }

 private:
  const Layout layout_;
  std::vector<GroupEncoder> groups_;
  std::vector<Body> bodies_;
};

class StreamDecoder {
 public:
  // The bytes and the tables must outlive the decoder.
  StreamDecoder(const uint8_t* data, size_t size, const Tables& tables) : tables_(tables), status_(open(data, size)) {}

  Status status() const { return status_; }

  // Indexes must be below tables.size(). After an error every call returns that error.
  Status decode(const uint8_t* indexes, int32_t* symbols, size_t n, size_t threads) {
    if (status_ != Status::kOk) return status_;
    const size_t groups = groups_.size();
    std::vector<Status> results(groups, Status::kOk);
    parallel(groups, threads, [&](size_t g) {
      const size_t first = chunk_begin(n, g, groups);
      results[g] = groups_[g].decode(tables_, indexes + first, symbols + first, chunk_begin(n, g + 1, groups) - first);
    });
    for (size_t g = 0; g < groups && status_ == Status::kOk; ++g) status_ = results[g];
    return status_;
  }

  Status finish() const {
    Status status = status_;
    for (size_t g = 0; g < groups_.size() && status == Status::kOk; ++g) status = groups_[g].finish();
    return status;
  }

 private:
  Status open(const uint8_t* data, size_t size) {
    return read_stream(data, size, [&](const Layout& layout, size_t g, const Body& body) {
      groups_.resize(size_t{1} << layout.groups_log2);
      return groups_[g].open(1 << layout.lanes_log2, body);
    });
  }

  const Tables& tables_;
  std::vector<GroupDecoder> groups_;
  Status status_;
};

}  // namespace neurocodec

#endif  // NEUROCODEC_RANGE_CODER_HPP
