// SPDX-License-Identifier: Apache-2.0
//
// Surprises:
//  * A warp decodes one group. Lane t of the warp takes symbols t, t + K, ... of a call, so after a call whose length is no
//    multiple of K a state moves to another lane.
//  * All lanes read one list of words in the order of their symbols. Those that need one are known by a ballot; the
//    number of lower lanes among them is the word's place. 32 words wait in registers, one a lane, and the next 32 are
//    loaded a round before anyone asks for them.
//  * Lanes beyond K, and those beyond the last symbol, run along without effect: all 32 meet at every ballot.
//  * Rare cases (escapes, the end of the words, bad indexes) are handled by the whole warp in symbol order, so that of
//    several errors the one is reported that a CPU meets first.

#include "range_coder.hpp"

#include <algorithm>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "host_shim.hpp"
#endif

namespace neurocodec::cuda {

// A group while it is decoded: between calls in global memory, during one in registers.
struct DecodeGroup {
  uint64_t states[1 << kMaxLanesLog2];
  uint64_t position;         // symbols decoded so far
  const uint16_t* words;     // the words that are left
  const uint8_t* escapes;    // the escapes that are left
  const uint8_t* escapes_end;
  uint32_t words_left;
  uint32_t stream;           // its number in the batch
  uint16_t group, groups;    // its number in the stream, and how many there are
  uint16_t lanes;
  uint8_t status;
  uint32_t failed_call;
};

struct EncodeGroup {
  uint16_t* words_end;       // of its room; words and states are written downwards from here
  uint8_t* escapes_end;
  uint64_t count;            // symbols
  uint32_t stream;
  uint16_t group, groups;
  uint16_t lanes;
  uint8_t status;
  uint32_t words_size;       // results, in bytes
  uint32_t escapes_size;
};

constexpr uint32_t kAllLanes = 0xffffffff;
constexpr uint32_t kWarp = 32;
constexpr uint32_t kThreads = 256;  // of a block; fewer where a device allows no more

void check(cudaError_t error, const char* call) {
  if (error != cudaSuccess) throw Error(std::string(call) + ": " + cudaGetErrorString(error));
}

#define NC_CUDA(call) check(call, #call)

// ---------------------------------------------------------------------------------------------------------- decoding

// The words of a group, read in symbol order by all lanes of a warp.
class Words {
 public:
  __device__ Words(const uint16_t* words, uint32_t left, uint32_t lane)
      : next_(words + lane), left_(left), lane_(lane), unread_(left) {
    window_ = load();
    window_ |= load() << 16;
    waiting_ = load();
  }

  // The word number `n` from here, 0 to 31. All lanes must call it.
  __device__ uint32_t at(uint32_t n) const {
    const uint32_t place = offset_ + n;
    return __shfl_sync(kAllLanes, window_, place % kWarp) >> (place & kWarp ? 16 : 0) & 0xffff;
  }

  __device__ uint32_t left() const { return left_; }

  // n: 0 to 32, at most left(), and the same in all lanes.
  __device__ void skip(uint32_t n) {
    left_ -= n;
    offset_ += n;
    if (offset_ < kWarp) return;
    offset_ -= kWarp;
    window_ = window_ >> 16 | waiting_ << 16;
    waiting_ = load();
  }

 private:
  __device__ uint32_t load() {
    const uint32_t word = lane_ < unread_ ? *next_ : 0;
    unread_ -= unread_ < kWarp ? unread_ : kWarp;
    next_ += kWarp;
    return word;
  }

  const uint16_t* next_;  // this lane's next load
  uint32_t left_, lane_, unread_;
  uint32_t offset_ = 0;   // 0 to 31: words of the window that are used
  uint32_t window_;       // word `lane`, and above it word `lane` + 32
  uint32_t waiting_;      // word `lane` + 64
};

// The position of the symbol that covers a slot. positions: cumulative frequencies of all rows, then buckets: the
// positions at slots b << shift, and after the last the escape's. The position lies between those of two buckets.
__device__ inline uint32_t find(const DecodeRow& row, const uint16_t* positions, uint32_t slot) {
  const uint16_t* const bucket = positions + row.first + (slot >> row.shift);
  uint32_t low = bucket[0], high = bucket[1];
  while (low < high) {
    const uint32_t middle = (low + high + 1) / 2;
    const bool before = positions[row.starts + middle] <= slot;
    low = before ? middle : low;
    high = before ? high : middle - 1;
  }
  return low;
}

// Escapes and bad indexes of one round, in symbol order. Returns the lane of the first error, or 32; `status` says which.
// special: the lanes concerned. symbol: of this lane, replaced by the escaped one.
__device__ inline uint32_t read_escapes(uint32_t special, bool bad_index, const DecodeRow& row, uint32_t lane,
                                        const uint8_t*& escapes, const uint8_t* end, int32_t& symbol, Status& status) {
  for (; special != 0; special &= special - 1) {
    const auto which = static_cast<uint32_t>(__ffs(static_cast<int>(special)) - 1);
    if (__shfl_sync(kAllLanes, bad_index ? 1u : 0u, which) != 0) {
      status = Status::kBadIndex;
      return which;
    }
    uint64_t zigzag = 0;
    int32_t value = 0;
    const bool whole = read_varint(escapes, end, zigzag);  // all lanes read the same
    const bool fits = escaped_symbol(zigzag, row.offset, row.escape, value);
    if (!whole || __shfl_sync(kAllLanes, fits ? 1u : 0u, which) == 0) {
      status = Status::kBadEscape;
      return which;
    }
    if (lane == which) symbol = value;
  }
  return kWarp;
}

// One group, one call. tables: DecodeRow of each row, then positions. indexes, symbols: of this group, n of them.
__device__ inline void decode_group(DecodeGroup& group, const uint8_t* tables, uint32_t rows, const uint8_t* indexes,
                                    int32_t* symbols, size_t n, uint32_t lane, uint32_t call) {
  const auto* const row_of = reinterpret_cast<const DecodeRow*>(tables);
  const auto* const positions = reinterpret_cast<const uint16_t*>(row_of + rows);
  const uint32_t lanes = group.lanes;
  const auto state = static_cast<uint32_t>((group.position + lane) % lanes);
  uint64_t x = group.states[state];
  const uint8_t* escapes = group.escapes;
  Words words(group.words, group.words_left, lane);
  Status status = Status::kOk;
  uint32_t index = lane < lanes && lane < n ? indexes[lane] : 0;
  size_t i = 0;
  for (; i < n; i += lanes) {
    const bool active = lane < lanes && lane < n - i;
    const bool follows = lane < lanes && i + lanes + lane < n;
    const uint32_t next_index = follows ? indexes[i + lanes + lane] : 0;
    const bool bad_index = index >= rows;
    const DecodeRow row = row_of[bad_index ? 0 : index];
    const auto slot = static_cast<uint32_t>(x) & (kTotal - 1);
    const uint32_t position = find(row, positions, slot);
    const uint32_t start = positions[row.starts + position];
    const uint32_t frequency = (positions[row.starts + position + 1] - start) & 0xffff;  // 2^16 is stored as 0
    auto symbol = static_cast<int32_t>(static_cast<uint32_t>(row.offset) + position);
    if (active) x = frequency * (x >> kPrecision) + (slot - start);

    uint32_t failed = kWarp;  // the lane of the first error
    const uint32_t special = __ballot_sync(kAllLanes, active && (position == row.escape || bad_index));
    if (special != 0) {
      failed = read_escapes(special, bad_index, row, lane, escapes, group.escapes_end, symbol, status);
    }

    const bool low = active && x < kLow;
    const uint32_t readers = __ballot_sync(kAllLanes, low);
    const auto before = static_cast<uint32_t>(__popc(readers & ((1u << lane) - 1)));
    const uint32_t word = words.at(before);
    if (low && before < words.left()) x = x << 16 | word;
    auto count = static_cast<uint32_t>(__popc(readers));
    if (count > words.left()) {  // a single lane may go on with a small state
      const bool lacks = low && before >= words.left() && (lanes > 1 || x < kSingleStart);
      const uint32_t lacking = __ballot_sync(kAllLanes, lacks);
      if (lacking != 0 && static_cast<uint32_t>(__ffs(static_cast<int>(lacking)) - 1) < failed) {
        failed = static_cast<uint32_t>(__ffs(static_cast<int>(lacking)) - 1);
        status = Status::kTruncated;
      }
      count = words.left();
    }
    words.skip(count);
    if (failed < kWarp) break;
    if (active) symbols[i + lane] = symbol;
    index = next_index;
  }
  for (; i < n; i += lanes) {  // after an error
    if (lane < lanes && lane < n - i) symbols[i + lane] = 0;
  }
  if (lane < lanes) group.states[state] = x;
  __syncwarp();  // all lanes have read the group
  if (lane == 0) {
    group.position += n;
    group.words += group.words_left - words.left();
    group.words_left = words.left();
    group.escapes = escapes;
    group.status = static_cast<uint8_t>(status);
    group.failed_call = call;
  }
}

// Groups go to blocks first, then to the warps of a block, so that few groups spread over all multiprocessors.
template <bool kShared>
__global__ void __launch_bounds__(kThreads)
    decode_kernel(DecodeGroup* groups, uint32_t count, const uint8_t* tables, uint32_t tables_bytes, uint32_t rows,
                  const uint8_t* indexes, int32_t* symbols, size_t n, uint32_t call) {
  extern __shared__ uint4 shared_memory[];
  if (kShared) {
    for (uint32_t i = threadIdx.x; i < tables_bytes / sizeof(uint4); i += blockDim.x) {
      shared_memory[i] = reinterpret_cast<const uint4*>(tables)[i];
    }
    __syncthreads();
    tables = reinterpret_cast<const uint8_t*>(shared_memory);
  }
  const uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (size_t g = size_t{warp} * gridDim.x + blockIdx.x; g < count; g += size_t{gridDim.x} * (blockDim.x / kWarp)) {
    DecodeGroup& group = groups[g];
    const size_t first = group.stream * n + chunk_begin(n, group.group, group.groups);
    const size_t size = group.stream * n + chunk_begin(n, group.group + 1u, group.groups) - first;
    if (group.status != static_cast<uint8_t>(Status::kOk)) {
      for (size_t i = lane; i < size; i += kWarp) symbols[first + i] = 0;
    } else if (size != 0) {
      decode_group(group, tables, rows, indexes + first, symbols + first, size, lane, call);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------- encoding

__device__ inline void encode_group(EncodeGroup& group, const EncodeRow* rows, uint32_t row_count,
                                    const Tables::Encode* entries, const int32_t* symbols, const uint8_t* indexes,
                                    size_t total, const uint64_t* calls, uint32_t call_count, uint32_t lane) {
  const uint32_t lanes = group.lanes;
  uint64_t x = start_state(static_cast<int>(lanes));  // of state (phase + lane) mod lanes
  uint16_t* words = group.words_end;
  uint8_t* escapes = group.escapes_end;
  size_t position = group.count;  // of the first symbol of this piece in the group
  auto phase = static_cast<uint32_t>(position % lanes);
  uint32_t bad_indexes = 0;
  size_t end = total;
  for (uint32_t c = call_count; c-- > 0;) {
    const size_t base = end - calls[c];
    const size_t first = base + chunk_begin(calls[c], group.group, group.groups);
    const size_t n = base + chunk_begin(calls[c], group.group + 1u, group.groups) - first;
    end = base;
    position -= n;
    const auto new_phase = static_cast<uint32_t>(position % lanes);
    const uint32_t from = (lane + new_phase + lanes - phase) % lanes;
    const uint32_t low = __shfl_sync(kAllLanes, static_cast<uint32_t>(x), from);
    const uint32_t high = __shfl_sync(kAllLanes, static_cast<uint32_t>(x >> 32), from);
    x = static_cast<uint64_t>(high) << 32 | low;
    phase = new_phase;
    for (size_t round = (n + lanes - 1) / lanes; round-- > 0;) {
      const size_t i = round * lanes + lane;
      const bool active = lane < lanes && i < n;
      const int32_t symbol = active ? symbols[first + i] : 0;
      const uint32_t index = active ? indexes[first + i] : 0;
      const bool bad_index = index >= row_count;
      bad_indexes |= bad_index ? 1 : 0;
      const EncodeRow row = rows[bad_index ? 0 : index];
      const uint32_t place = static_cast<uint32_t>(symbol) - static_cast<uint32_t>(row.offset);
      const bool escaped = active && place >= row.escape;
      const Tables::Encode entry = entries[row.entries + (place < row.escape ? place : row.escape)];

      const bool full = active && x >= static_cast<uint64_t>(entry.frequency) << 24;
      const uint32_t writers = __ballot_sync(kAllLanes, full);
      words -= __popc(writers);
      if (full) {
        words[__popc(writers & ((1u << lane) - 1))] = static_cast<uint16_t>(x);
        x >>= 16;
      }
      if (active) x += entry.bias + __umul64hi(x, entry.reciprocal) * (kTotal - entry.frequency);

      uint32_t left = __ballot_sync(kAllLanes, escaped);
      if (left != 0) {
        const uint64_t value = escape_value(symbol, row.offset, row.escape);
        const auto size = static_cast<uint32_t>(varint_size(value));
        while (left != 0) {  // from the last lane to the first
          const uint32_t which = 31u - static_cast<uint32_t>(__clz(static_cast<int>(left)));
          escapes -= __shfl_sync(kAllLanes, size, which);
          if (lane == which) write_varint(escapes, value);
          left &= ~(1u << which);
        }
      }
    }
  }
  // The states, lane 0 first, in front of the words. phase is 0 here: position has come down to 0.
  const bool single = lanes == 1;
  const uint32_t state_bytes = group.count == 0 ? 0 : !single ? kStateBytes : x < kLow ? 3 : x < (1ull << 32) ? 4 : 5;
  const uint32_t states_size = __shfl_sync(kAllLanes, state_bytes, 0) * lanes;
  auto* const states = reinterpret_cast<uint8_t*>(words) - states_size;
  if (lane < lanes) {
    for (uint32_t i = 0; i < state_bytes; ++i) states[lane * state_bytes + i] = static_cast<uint8_t>(x >> (8 * i));
  }
  const uint32_t bad = __ballot_sync(kAllLanes, bad_indexes != 0);
  if (lane == 0) {
    group.words_size = static_cast<uint32_t>(reinterpret_cast<uint8_t*>(group.words_end) - states);
    group.escapes_size = static_cast<uint32_t>(group.escapes_end - escapes);
    group.status = static_cast<uint8_t>(bad != 0 ? Status::kBadIndex : Status::kOk);
  }
}

__global__ void __launch_bounds__(kThreads)
    encode_kernel(EncodeGroup* groups, uint32_t count, const EncodeRow* rows, uint32_t row_count,
                  const Tables::Encode* entries, const int32_t* symbols, const uint8_t* indexes, size_t total,
                  const uint64_t* calls, uint32_t call_count) {
  const uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (size_t g = size_t{warp} * gridDim.x + blockIdx.x; g < count; g += size_t{gridDim.x} * (blockDim.x / kWarp)) {
    EncodeGroup& group = groups[g];
    const size_t first = group.stream * total;
    encode_group(group, rows, row_count, entries, symbols + first, indexes + first, total, calls, call_count, lane);
  }
}

// Copies escapes and words of each group to `out`, at the group's place: escapes first.
__global__ void __launch_bounds__(kThreads)
    pack_kernel(const EncodeGroup* groups, uint32_t count, const uint64_t* places, uint8_t* out) {
  const uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (size_t g = size_t{warp} * gridDim.x + blockIdx.x; g < count; g += size_t{gridDim.x} * (blockDim.x / kWarp)) {
    const EncodeGroup& group = groups[g];
    const uint8_t* const escapes = group.escapes_end - group.escapes_size;
    const uint8_t* const words = reinterpret_cast<const uint8_t*>(group.words_end) - group.words_size;
    uint8_t* const to = out + places[g];
    for (uint32_t i = lane; i < group.escapes_size; i += kWarp) to[i] = escapes[i];
    for (uint32_t i = lane; i < group.words_size; i += kWarp) to[group.escapes_size + i] = words[i];
  }
}

// --------------------------------------------------------------------------------------------------------- checksums

// a · b modulo the polynomial of CRC-32, with reflected bits: x^0 is the top bit. After zlib's multmodp.
__device__ inline uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (int bit = 31; bit >= 0; --bit) {
    product ^= a >> bit & 1 ? b : 0;
    b = b >> 1 ^ (b & 1 ? 0xedb88320u : 0);
  }
  return product;
}

// x^(32 n)
__device__ inline uint32_t power(size_t n) {
  uint32_t result = 1u << 31, square = 1u << 30;
  for (int i = 0; i < 5; ++i) square = multiply(square, square);
  for (; n != 0; n >>= 1) {
    if (n & 1) result = multiply(result, square);
    square = multiply(square, square);
  }
  return result;
}

// Thread t of a picture takes values t, t + S, ...: a product with x^(32 S) leads from one to the next, by four tables.
__global__ void __launch_bounds__(kThreads)
    crc32_kernel(const int32_t* values, size_t n, const uint32_t* before, uint32_t* after) {
  extern __shared__ uint4 shared_memory[];
  auto* const tables = reinterpret_cast<uint32_t*>(shared_memory);  // [k][b]: b << 8 k, times x^(32 S)
  const size_t stride = size_t{gridDim.x} * blockDim.x;
  const uint32_t step = power(stride);
  for (uint32_t i = threadIdx.x; i < 1024; i += blockDim.x) tables[i] = multiply((i & 255) << (i / 256 * 8), step);
  __syncthreads();
  const size_t first = size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  uint32_t crc = 0;
  size_t last = 0;
  for (size_t i = first; i < n; i += stride) {
    crc = tables[crc & 255] ^ tables[256 + (crc >> 8 & 255)] ^ tables[512 + (crc >> 16 & 255)] ^ tables[768 + (crc >> 24)];
    crc ^= static_cast<uint32_t>(values[blockIdx.y * n + i]);
    last = i;
  }
  if (first < n) atomicXor(&after[blockIdx.y], multiply(crc, power(n - last)));
  if (first == 0) atomicXor(&after[blockIdx.y], multiply(before[blockIdx.y], power(n)));
}

// -------------------------------------------------------------------------------------------------------------- host

namespace {

int attribute(cudaDeviceAttr name) {
  int device = 0, value = 0;
  NC_CUDA(cudaGetDevice(&device));
  NC_CUDA(cudaDeviceGetAttribute(&value, name, device));
  return value;
}

int block_size() { return std::min(static_cast<int>(kThreads), attribute(cudaDevAttrMaxThreadsPerBlock)); }

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, size_t shared_bytes, cudaStream_t stream,
            const Arguments&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(block_size()));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  NC_CUDA(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

// As many blocks as run at once, and no more than there are groups.
template <typename Kernel>
dim3 grid_of(Kernel* kernel, size_t groups, size_t shared_bytes) {
  int blocks = 0;
  NC_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, block_size(), shared_bytes));
  const auto resident = static_cast<size_t>(std::max(blocks, 1)) *
                        static_cast<size_t>(attribute(cudaDevAttrMultiProcessorCount));
  return dim3(static_cast<unsigned>(std::min(groups, resident)));
}

template <typename T>
std::unique_ptr<Buffer> upload(const std::vector<T>& values, cudaStream_t stream) {
  auto buffer = std::make_unique<Buffer>(values.size() * sizeof(T), stream);
  if (!values.empty()) {
    NC_CUDA(cudaMemcpyAsync(buffer->template as<T>(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice,
                            stream));
  }
  return buffer;
}

template <typename T>
std::vector<T> download(const T* from, size_t count, cudaStream_t stream) {
  std::vector<T> values(count);
  if (count > 0) NC_CUDA(cudaMemcpyAsync(values.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost, stream));
  NC_CUDA(cudaStreamSynchronize(stream));
  return values;
}

// Buckets of a row: a quarter of its positions, 64 to 256.
uint32_t bucket_bits(size_t length) {
  uint32_t bits = 6;
  while (bits < 8 && (size_t{4} << bits) < length) ++bits;
  return bits;
}

}  // namespace

void use_device(int device) { NC_CUDA(cudaSetDevice(device)); }

bool runs_on_host() {
#if defined(__CUDACC__)
  return false;
#else
  return true;
#endif
}

Buffer::Buffer(size_t bytes, cudaStream_t stream) : stream_(stream) {
  NC_CUDA(cudaMallocAsync(&data_, std::max<size_t>(bytes, 1), stream));
}

Buffer::~Buffer() { cudaFreeAsync(data_, stream_); }  // an error here has been met before, or is met by the next call

DeviceTables::DeviceTables(const Tables& tables, cudaStream_t stream) : rows_(static_cast<uint32_t>(tables.size())) {
  std::vector<DecodeRow> decode_rows;
  std::vector<EncodeRow> encode_rows;
  std::vector<uint16_t> positions;
  std::vector<Tables::Encode> entries;
  for (uint32_t r = 0; r < rows_; ++r) {
    const Tables::Row& row = tables.rows()[r];
    const size_t length = size_t{row.escape} + 1;
    decode_rows.push_back({static_cast<uint32_t>(positions.size()), 0, row.offset, static_cast<uint16_t>(row.escape),
                           static_cast<uint16_t>(kPrecision - bucket_bits(length))});
    encode_rows.push_back({static_cast<uint32_t>(entries.size()), row.offset, row.escape});
    for (size_t i = 0; i <= length; ++i) positions.push_back(static_cast<uint16_t>(row.starts[i]));  // 2^16 as 0
    entries.insert(entries.end(), row.encode, row.encode + length);
  }
  for (uint32_t r = 0; r < rows_; ++r) {
    const Tables::Row& row = tables.rows()[r];
    decode_rows[r].first = static_cast<uint32_t>(positions.size());
    uint32_t position = 0;
    for (uint32_t slot = 0; slot < kTotal; slot += 1u << decode_rows[r].shift) {
      while (row.starts[position + 1] <= slot) ++position;
      positions.push_back(static_cast<uint16_t>(position));
    }
    positions.push_back(static_cast<uint16_t>(row.escape));
  }
  const size_t rows_bytes = decode_rows.size() * sizeof(DecodeRow), size = rows_bytes + positions.size() * 2;
  std::vector<uint8_t> all((size + 15) / 16 * 16);
  std::memcpy(all.data(), decode_rows.data(), rows_bytes);
  std::memcpy(all.data() + rows_bytes, positions.data(), positions.size() * 2);
  decode_bytes_ = static_cast<uint32_t>(all.size());
  decode_ = upload(all, stream);
  encode_rows_ = upload(encode_rows, stream);
  encode_ = upload(entries, stream);
  NC_CUDA(cudaStreamSynchronize(stream));
}

BatchDecoder::BatchDecoder(const std::vector<Bytes>& streams, const DeviceTables& tables, cudaStream_t stream)
    : tables_(tables) {
  std::vector<DecodeGroup> groups;
  std::vector<Body> bodies;  // of the same groups, without their states
  size_t bytes = 0;
  for (size_t s = 0; s < streams.size(); ++s) {
    const size_t mark = groups.size();
    opened_.push_back(read_stream(streams[s].data, streams[s].size, [&](const Layout& layout, size_t g, Body body) {
      DecodeGroup group = {};
      group.stream = static_cast<uint32_t>(s);
      group.group = static_cast<uint16_t>(g);
      group.groups = static_cast<uint16_t>(1 << layout.groups_log2);
      group.lanes = static_cast<uint16_t>(1 << layout.lanes_log2);
      const uint8_t* words = body.words;
      const Status status = read_states(group.lanes, words, body.words_size, group.states);
      if (status != Status::kOk) return status;
      body.words_size -= static_cast<size_t>(words - body.words);
      body.words = words;
      group.words_left = static_cast<uint32_t>(body.words_size / 2);
      bytes += body.words_size + body.escapes_size;
      groups.push_back(group);
      bodies.push_back(body);
      return Status::kOk;
    }));
    if (opened_[s] != Status::kOk) {
      groups.resize(mark);
      bodies.resize(mark);
    }
  }
  if (groups.size() > UINT32_MAX) throw Error("A batch has too many groups.");
  // Words of all groups, which are thereby aligned, then escapes of all groups.
  std::vector<uint8_t> data;
  data.reserve(bytes);
  for (const Body& body : bodies) data.insert(data.end(), body.words, body.words + body.words_size);
  const size_t words_size = data.size();
  for (const Body& body : bodies) data.insert(data.end(), body.escapes, body.escapes + body.escapes_size);
  data_ = upload(data, stream);
  const auto* words = data_->as<uint8_t>();
  const uint8_t* escapes = words + words_size;
  for (size_t g = 0; g < groups.size(); ++g) {
    groups[g].words = reinterpret_cast<const uint16_t*>(words);
    groups[g].escapes = escapes;
    words += bodies[g].words_size;
    groups[g].escapes_end = escapes += bodies[g].escapes_size;
  }
  groups_ = groups.size();
  device_groups_ = upload(groups, stream);
  NC_CUDA(cudaStreamSynchronize(stream));  // the vectors go
}

BatchDecoder::~BatchDecoder() = default;

void BatchDecoder::decode(const uint8_t* indexes, int32_t* symbols, size_t n, cudaStream_t stream) {
  ++calls_;
  if (n == 0) return;
  for (size_t s = 0; s < opened_.size(); ++s) {
    if (opened_[s] != Status::kOk) NC_CUDA(cudaMemsetAsync(symbols + s * n, 0, n * sizeof(int32_t), stream));
  }
  if (groups_ == 0) return;
  auto* kernel = decode_kernel<true>;
  size_t shared_bytes = tables_.decode_bytes();
  if (shared_bytes > static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin))) {
    kernel = decode_kernel<false>;
    shared_bytes = 0;
  }
  NC_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
  launch(kernel, grid_of(kernel, groups_, shared_bytes), shared_bytes, stream, device_groups_->as<DecodeGroup>(),
         groups_, tables_.decode(), tables_.decode_bytes(), tables_.rows(), indexes, symbols, n, calls_);
}

std::vector<Status> BatchDecoder::finish(cudaStream_t stream) const {
  const std::vector<DecodeGroup> groups = download(device_groups_->as<DecodeGroup>(), groups_, stream);
  std::vector<Status> statuses = opened_;
  std::vector<uint32_t> calls(opened_.size(), UINT32_MAX);  // those that failed first
  for (const DecodeGroup& group : groups) {
    const auto status = static_cast<Status>(group.status);
    if (status == Status::kOk || group.failed_call >= calls[group.stream]) continue;
    statuses[group.stream] = status;
    calls[group.stream] = group.failed_call;
  }
  for (const DecodeGroup& group : groups) {
    if (statuses[group.stream] != Status::kOk) continue;
    const uint64_t start = start_state(group.lanes);
    const bool ended = std::all_of(group.states, group.states + group.lanes, [&](uint64_t x) { return x == start; });
    if (!ended || group.words_left != 0 || group.escapes != group.escapes_end) statuses[group.stream] = Status::kBadEnd;
  }
  return statuses;
}

Status encode(const DeviceTables& tables, const int32_t* symbols, const uint8_t* indexes,
              const std::vector<size_t>& calls, const std::vector<Layout>& layouts,
              std::vector<std::vector<uint8_t>>& streams, cudaStream_t stream) {
  size_t total = 0;
  for (const size_t n : calls) total += n;
  if (total > UINT32_MAX / 8) throw Error("A stream has too many symbols.");
  std::vector<EncodeGroup> groups;
  std::vector<size_t> words_ends, escapes_ends;  // in bytes
  size_t words_bytes = 0, escapes_bytes = 0;
  for (size_t s = 0; s < layouts.size(); ++s) {
    const size_t count = size_t{1} << layouts[s].groups_log2;
    for (size_t g = 0; g < count; ++g) {
      EncodeGroup group = {};
      for (const size_t n : calls) group.count += chunk_begin(n, g + 1, count) - chunk_begin(n, g, count);
      group.stream = static_cast<uint32_t>(s);
      group.group = static_cast<uint16_t>(g);
      group.groups = static_cast<uint16_t>(count);
      group.lanes = static_cast<uint16_t>(1 << layouts[s].lanes_log2);
      words_bytes += 2 * group.count + (size_t{group.lanes} * kStateBytes + 1) / 2 * 2;
      escapes_bytes += 5 * group.count;
      words_ends.push_back(words_bytes);
      escapes_ends.push_back(escapes_bytes);
      groups.push_back(group);
    }
  }
  streams.clear();
  if (groups.empty()) return Status::kOk;
  if (groups.size() > UINT32_MAX) throw Error("A batch has too many groups.");
  const Buffer words(words_bytes, stream), escapes(escapes_bytes, stream);
  for (size_t g = 0; g < groups.size(); ++g) {
    groups[g].words_end = reinterpret_cast<uint16_t*>(words.as<uint8_t>() + words_ends[g]);
    groups[g].escapes_end = escapes.as<uint8_t>() + escapes_ends[g];
  }
  const std::vector<uint64_t> lengths(calls.begin(), calls.end());
  const auto device_groups = upload(groups, stream), device_calls = upload(lengths, stream);
  launch(encode_kernel, grid_of(encode_kernel, groups.size(), 0), 0, stream, device_groups->as<EncodeGroup>(),
         groups.size(), tables.encode_rows(), tables.rows(), tables.encode(), symbols, indexes, total,
         device_calls->as<uint64_t>(), calls.size());
  groups = download(device_groups->as<EncodeGroup>(), groups.size(), stream);

  std::vector<uint64_t> places;
  size_t size = 0;
  for (const EncodeGroup& group : groups) {
    if (group.status != static_cast<uint8_t>(Status::kOk)) return static_cast<Status>(group.status);
    places.push_back(size);
    size += size_t{group.escapes_size} + group.words_size;
  }
  const Buffer packed(size, stream);
  const auto device_places = upload(places, stream);
  launch(pack_kernel, grid_of(pack_kernel, groups.size(), 0), 0, stream, device_groups->as<EncodeGroup>(),
         groups.size(), device_places->as<uint64_t>(), packed.as<uint8_t>());
  const std::vector<uint8_t> bytes = download(packed.as<uint8_t>(), size, stream);

  for (size_t s = 0, g = 0; s < layouts.size(); ++s) {
    std::vector<Body> bodies;
    for (const size_t end = g + (size_t{1} << layouts[s].groups_log2); g < end; ++g) {
      const uint8_t* const body = bytes.data() + places[g];
      bodies.push_back({body, groups[g].escapes_size, body + groups[g].escapes_size, groups[g].words_size});
    }
    streams.emplace_back(stream_size(bodies));
    write_stream(layouts[s], bodies, streams.back().data());
  }
  return Status::kOk;
}

void crc32(const int32_t* values, size_t count, size_t n, const uint32_t* before, uint32_t* after, cudaStream_t stream) {
  if (count == 0) return;
  NC_CUDA(cudaMemsetAsync(after, 0, count * sizeof(uint32_t), stream));
  constexpr size_t kValuesPerThread = 16, kMaxBlocks = 64;
  const size_t blocks = std::min(kMaxBlocks, n / (kThreads * kValuesPerThread) + 1);
  launch(crc32_kernel, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(count)), 4096, stream, values, n, before,
         after);
}

}  // namespace neurocodec::cuda
