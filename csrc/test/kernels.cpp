// SPDX-License-Identifier: Apache-2.0
//
// Compares every kernel with plain C++: random layers, then whole tiles of a random model. What it prints is the same on
// every machine, so that machines can be compared too (tests/integer/test_machines.py does). Kernels that this machine
// lacks are named on stderr, unless an emulation of their instructions is compiled in:
//
//   g++ -std=c++17 -O2 -pthread -I csrc csrc/test/kernels.cpp -o kernels && ./kernels
//   g++ -std=c++17 -O2 -mavx2 -pthread -I csrc -DNC_EMULATE_AVX512 csrc/test/kernels.cpp -o kernels && ./kernels    (SIMDe)
//   aarch64-linux-gnu-g++ -std=c++17 -O2 -static -pthread -I csrc csrc/test/kernels.cpp -o kernels && qemu-aarch64 ./kernels

#ifdef NC_EMULATE_AVX512
#define SIMDE_ENABLE_NATIVE_ALIASES
#define NC_AVX512 __attribute__((target("avx2")))
#include <simde/x86/avx512.h>
#endif

#include <cstdio>
#include <string>

#include "../c_api.cpp"
#include "random_model.hpp"

namespace {

std::mt19937 generator(7);

int32_t between(int32_t low, int32_t high) {
  return low + static_cast<int32_t>(generator() % (static_cast<uint32_t>(high - low) + 1));
}

uint32_t crc(const std::vector<int32_t>& values) {
  nc::Crc32 state;
  state.update(values.data(), values.size());
  return state.value();
}

std::vector<nc::Kernel> kernels_to_test() {
  std::vector<nc::Kernel> list = nc::kernels();
#ifdef NC_EMULATE_AVX512
  if (list[0] != nc::Kernel::kAvx512) list.insert(list.begin(), nc::Kernel::kAvx512);
#endif
  return list;
}

// Any activations, with many at the ends of the range.
std::vector<int16_t> activations(size_t count) {
  std::vector<int16_t> x(count);
  for (int16_t& v : x) {
    const int32_t kind = between(0, 7);
    v = static_cast<int16_t>(kind == 0 ? -32768 : kind == 1 ? 32767 : kind < 5 ? between(-2000, 2000) : between(-32768, 32767));
  }
  return x;
}

template <typename Out, typename Compute>
std::vector<int32_t> same_everywhere(const char* what, size_t count, const Compute& compute) {
  std::vector<Out> expected(count), actual(count);
  compute(nc::Kernel::kGeneric, expected.data());
  for (const nc::Kernel kernel : kernels_to_test()) {
    std::fill(actual.begin(), actual.end(), Out{});
    compute(kernel, actual.data());
    if (actual != expected) {
      std::fprintf(stderr, "%s differs from plain C++ in %s\n", nc::name_of(kernel), what);
      std::exit(1);
    }
  }
  return {expected.begin(), expected.end()};
}

uint32_t random_layers() {
  std::vector<int32_t> all;
  const auto keep = [&](const std::vector<int32_t>& values) { all.insert(all.end(), values.begin(), values.end()); };
  for (int round = 0; round < 150; ++round) {
    const auto inputs = static_cast<size_t>(between(1, 90)), outputs = static_cast<size_t>(between(1, 90));
    const auto positions = static_cast<size_t>(between(1, 40));
    const int32_t largest = std::min<int32_t>(32767, 60000 / static_cast<int32_t>(std::max<size_t>(inputs, 9)));
    const bool extreme = round % 4 == 0;
    const auto weights = [&](size_t count) {
      std::vector<int16_t> w(count);
      for (int16_t& v : w) v = static_cast<int16_t>(extreme ? between(0, 1) * 2 * largest - largest : between(-largest, largest));
      return w;
    };
    const std::vector<int16_t> x = activations(positions * inputs + 1);
    std::vector<int32_t> bias(std::max(inputs, outputs));
    std::vector<int8_t> shift(bias.size());
    for (int32_t& b : bias) b = between(-(1 << 24), 1 << 24);
    for (int8_t& s : shift) s = static_cast<int8_t>(between(0, extreme ? 26 : 18));

    const nc::Pointwise pointwise(weights(outputs * inputs).data(), bias.data(), shift.data(), outputs, inputs);
    const int32_t low = between(-3, 0) * 128, high = between(1, 3) * 128;
    keep(same_everywhere<int16_t>("a 1x1 layer", positions * outputs, [&](nc::Kernel kernel, int16_t* out) {
      pointwise.run(kernel, x.data(), positions, out);
    }));
    keep(same_everywhere<int16_t>("a 1x1 layer with limits", positions * outputs, [&](nc::Kernel kernel, int16_t* out) {
      pointwise.run(kernel, x.data(), positions, out, low, high);
    }));
    keep(same_everywhere<int32_t>("a wide 1x1 layer", positions * outputs, [&](nc::Kernel kernel, int32_t* out) {
      pointwise.run<int32_t>(
          kernel, positions, [&](size_t p) { return x.data() + p * inputs; },
          [&](size_t) { return pointwise.bias().data(); }, -(1 << 23), (1 << 23) - 1,
          [&](size_t p) { return out + p * outputs; });
    }));

    const nc::Depthwise depthwise(weights(9 * inputs).data(), bias.data(), shift.data(), inputs);
    keep(same_everywhere<int16_t>("a depthwise layer", positions * inputs, [&](nc::Kernel kernel, int16_t* out) {
      const int16_t* const row = x.data();
      depthwise.run_row(kernel, round % 3 == 0 ? nullptr : row, row, round % 3 == 1 ? nullptr : row, positions, inputs, out,
                        inputs);
    }));

    const size_t count = positions * inputs;
    const std::vector<int16_t> y = activations(count);
    keep(same_everywhere<int16_t>("the leaky ReLU", count, [&](nc::Kernel kernel, int16_t* out) {
      std::copy_n(x.data(), count, out);
      nc::leaky_relu(kernel, out, count);
    }));
    keep(same_everywhere<int16_t>("an addition", count, [&](nc::Kernel kernel, int16_t* out) {
      nc::add(kernel, x.data(), y.data(), count, out);
    }));
    keep(same_everywhere<int16_t>("a gate", count, [&](nc::Kernel kernel, int16_t* out) {
      nc::gate(kernel, x.data(), y.data(), count, out);
    }));
    std::vector<int32_t> mantissa(count), by(count), half(count);
    for (size_t i = 0; i < count; ++i) {
      mantissa[i] = between(16384, 32767);
      by[i] = between(0, 30);
      half[i] = by[i] > 0 ? 1 << (by[i] - 1) : 0;
    }
    keep(same_everywhere<int16_t>("a gain", count, [&](nc::Kernel kernel, int16_t* out) {
      nc::gain(kernel, x.data(), mantissa.data(), by.data(), half.data(), count, out);
    }));
    const std::vector<int16_t> roots = nc::reciprocal_roots();
    keep(same_everywhere<int16_t>("a norm", count, [&](nc::Kernel kernel, int16_t* out) {
      for (size_t p = 0; p < positions; ++p) {
        nc::normalise(kernel, x.data() + p * inputs, inputs, 1 + round * 1000, roots.data(), out + p * inputs);
      }
    }));
    std::vector<int16_t> sigmoid(4096);
    for (int16_t& v : sigmoid) v = static_cast<int16_t>(between(0, 32767));
    keep(same_everywhere<int16_t>("a gate by SiLU", count, [&](nc::Kernel kernel, int16_t* out) {
      nc::silu_gate(kernel, x.data(), y.data(), sigmoid.data(), count, out);
    }));
    for (size_t i = 0; i < count; ++i) by[i] = between(-32767, 32767);
    keep(same_everywhere<int16_t>("an addition with gains", count, [&](nc::Kernel kernel, int16_t* out) {
      std::copy_n(x.data(), count, out);
      nc::add_gained(kernel, out, y.data(), by.data(), count);
    }));
  }
  return crc(all);
}

// One tile from pixels to its stream and back; pixels and stream in one checksum.
uint32_t tile(const nc_model& model, nc::Kernel kernel, size_t threads, size_t h, size_t w, int quality) {
  const nc::Run run{kernel, threads};
  const nc::Model& core = model.model;
  std::mt19937 random(static_cast<uint32_t>(h * 100 + w));
  std::vector<uint8_t> rgb(16 * h * 16 * w * 3), decoded(rgb.size());
  for (uint8_t& v : rgb) v = static_cast<uint8_t>(random());
  std::vector<int32_t> y(h * w * model.shape.latent_channels);
  core.analyse(run, rgb.data(), h, w, quality, y.data());
  const Place first(model.shape, h, w, nullptr, nullptr, nullptr), second(model.shape, h, w, nullptr, nullptr, nullptr);
  std::vector<uint8_t> stream, z_stream;
  for (const bool apart : {false, true}) {
    const nc::StreamEncoder encoder =
        core.encode(run, y.data(), nullptr, h, w, quality, nc::cpu_layout, apart, first.latents());
    std::vector<uint8_t> part(encoder.size());
    encoder.write(part.data());
    if (apart) {
      const size_t rows = (h + 3) / 4, columns = (w + 3) / 4, channels = model.shape.hyper_channels;
      std::vector<int32_t> z(first.latents().z_hat, first.latents().z_hat + rows * columns * channels);
      z_stream = nc::hyper::encode(z.data(), rows, columns, channels);
    }
    const nc::Status status = core.decode(run, part.data(), part.size(), apart ? z_stream.data() : nullptr,
                                          z_stream.size(), h, w, quality, second.latents());
    if (status != nc::Status::kOk || first.checksum() != second.checksum()) {
      std::fprintf(stderr, "%s does not decode what it encoded\n", nc::name_of(kernel));
      std::exit(1);
    }
    stream.insert(stream.end(), part.begin(), part.end());
  }
  stream.insert(stream.end(), z_stream.begin(), z_stream.end());
  core.synthesise(run, second.latents().y_hat, h, w, quality, decoded.data());
  std::vector<int32_t> all(y);
  all.insert(all.end(), stream.begin(), stream.end());
  all.insert(all.end(), decoded.begin(), decoded.end());
  all.push_back(static_cast<int32_t>(first.checksum()));
  return crc(all);
}

// The palette of a tile of random shapes, there and back; its stream in a checksum.
uint32_t drawn() {
  constexpr size_t h = 3, w = 4, colours = 37, width = 16 * w;
  std::mt19937 random(1);
  std::vector<uint8_t> indexes(16 * h * width), decoded(indexes.size());
  for (int shape = 0; shape < 60; ++shape) {
    const size_t top = random() % (16 * h), left = random() % width, value = random() % colours;
    for (size_t y = top; y < std::min<size_t>(top + 9, 16 * h); ++y) {
      for (size_t x = left; x < std::min(left + 7, width); ++x) indexes[y * width + x] = static_cast<uint8_t>(value);
    }
  }
  for (size_t y = 16; y < 32; ++y) std::fill_n(indexes.begin() + static_cast<std::ptrdiff_t>(y * width + 16), 16, uint8_t{colours});
  std::vector<int64_t> costs(h * w);
  const std::vector<uint8_t> stream = nc::palette::encode(indexes.data(), h, w, colours, costs.data());
  if (nc::palette::decode(stream.data(), stream.size(), h, w, colours, decoded.data()) != nc::Status::kOk ||
      decoded != indexes) {
    std::fprintf(stderr, "a palette does not decode\n");
    std::exit(1);
  }
  std::vector<int32_t> all(stream.begin(), stream.end());
  for (const int64_t cost : costs) all.push_back(static_cast<int32_t>(cost));
  return crc(all);
}

}  // namespace

int main() {
  for (const nc::Kernel kernel : kernels_to_test()) std::fprintf(stderr, "%s\n", nc::name_of(kernel));
  std::printf("palette %08x\n", static_cast<unsigned>(drawn()));
  std::printf("layers %08x\n", static_cast<unsigned>(random_layers()));
  const nc::RandomModel random;
  nc_model* model = nullptr;
  char message[200] = "";
  if (nc_model_new(&nc::RandomModel::kShape, random.arrays().data(), random.arrays().size(), &model, message,
                   sizeof(message)) != NC_OK) {
    std::fprintf(stderr, "%s\n", message);
    return 1;
  }
  for (const auto& [h, w, quality] : {std::array<int, 3>{1, 1, 0}, {5, 7, 333}, {8, 6, 960}}) {
    const auto rows = static_cast<size_t>(h), columns = static_cast<size_t>(w);
    const uint32_t expected = tile(*model, nc::Kernel::kGeneric, 1, rows, columns, quality);
    for (const nc::Kernel kernel : kernels_to_test()) {
      for (const size_t threads : {1, 3}) {
        if (tile(*model, kernel, threads, rows, columns, quality) == expected) continue;
        std::fprintf(stderr, "%s differs from plain C++ in a tile with %zu threads\n", nc::name_of(kernel), threads);
        return 1;
      }
    }
    std::printf("tile %dx%d %08x\n", h, w, static_cast<unsigned>(expected));
  }
  nc_model_free(model);
  return 0;
}
