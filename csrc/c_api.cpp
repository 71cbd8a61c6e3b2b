// SPDX-License-Identifier: Apache-2.0
//
// c_api.h on top of tile.hpp: checks of arguments, and exceptions turned into codes.

#include "c_api.h"

#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>

#include "crc32.hpp"
#include "generator.hpp"
#include "lossless.hpp"
#include "palette.hpp"
#include "pixel_filter.hpp"
#include "tile.hpp"

namespace nc = neurocodec;

struct nc_model {
  nc::Model model;
  nc_shape shape;
};

struct nc_generator {
  nc::Generator generator;
};

namespace {

constexpr size_t kMaxTile = 4096;    // latents in each direction
constexpr size_t kMaxThreads = 256;  // more would not be faster
constexpr size_t kMaxDimensions = 4;

struct Failure : std::runtime_error {
  Failure(int number, const std::string& sentence) : std::runtime_error(sentence), code(number) {}
  int code;
};

[[noreturn]] void refuse(const std::string& sentence) { throw Failure(NC_BAD_ARGUMENT, sentence); }

int fail(int code, const char* sentence, char* message, size_t size) noexcept {
  if (message != nullptr && size > 0) {
    const size_t length = std::min(std::strlen(sentence), size - 1);
    std::memcpy(message, sentence, length);
    message[length] = 0;
  }
  return code;
}

// Runs the body of a function of the interface.
template <typename Body>
int guarded(char* message, size_t size, const Body& body) noexcept {
  try {
    body();
    return NC_OK;
  } catch (const Failure& failure) {
    return fail(failure.code, failure.what(), message, size);
  } catch (const nc::ModelError& error) {
    return fail(NC_BAD_MODEL, error.what(), message, size);
  } catch (const std::bad_alloc&) {
    return fail(NC_NO_MEMORY, "There is not enough memory.", message, size);
  } catch (const std::exception& error) {
    return fail(NC_INTERNAL, error.what(), message, size);
  } catch (...) {
    return fail(NC_INTERNAL, "An unknown error.", message, size);
  }
}

void check(nc::Status status) {
  const auto code = status == nc::Status::kTruncated ? NC_TRUNCATED : status == nc::Status::kBadEnd ? NC_BAD_END : NC_BAD_STREAM;
  if (status != nc::Status::kOk) throw Failure(code, nc::message(status));
}

template <typename T>
void check_array(const T* values, const char* name) {
  if (values == nullptr) refuse(std::string(name) + " is missing.");
  if (reinterpret_cast<uintptr_t>(values) % alignof(T) != 0) refuse(std::string(name) + " is not aligned as its type.");
}

nc::Run checked(const nc_model* model, const nc_run* run, size_t h, size_t w) {
  if (model == nullptr || run == nullptr) refuse("The model, or how to run it, is missing.");
  if (h < 1 || w < 1 || h > kMaxTile || w > kMaxTile) refuse("A tile has 1 to 4096 latents in each direction.");
  if (run->quality_index < 0 || run->quality_index > nc::kMaxQuality) refuse("The quality index is not in 0..960.");
  const size_t threads = std::min(std::max<size_t>(run->threads, 1), kMaxThreads);
  for (const nc::Kernel kernel : nc::kernels()) {
    if (run->kernel == nullptr || std::strcmp(run->kernel, nc::name_of(kernel)) == 0) return {kernel, threads};
  }
  refuse(std::string("This machine runs no kernel named ") + run->kernel + ".");
}

nc::Array array_of(const nc_array& array) {
  const std::string name = array.name;
  nc::Array result;
  switch (array.type) {
    case NC_INT8: result.type = nc::Type::kInt8; break;
    case NC_INT16: result.type = nc::Type::kInt16; break;
    case NC_INT32: result.type = nc::Type::kInt32; break;
    case NC_UINT16: result.type = nc::Type::kUint16; break;
    default: throw nc::ModelError("the model file holds " + name + " with a type that no network uses.");
  }
  if (array.dimensions > kMaxDimensions) throw nc::ModelError(name + " has too many dimensions.");
  if (array.data == nullptr || reinterpret_cast<uintptr_t>(array.data) % nc::size_of(result.type) != 0) {
    refuse(name + " is missing, or not aligned as its type.");
  }
  result.data = array.data;
  result.shape.assign(array.shape, array.shape + array.dimensions);
  return result;
}

std::map<std::string, nc::Array> by_name(const nc_array* arrays, size_t count) {
  std::map<std::string, nc::Array> all;
  for (size_t i = 0; i < count; ++i) {
    if (arrays[i].name == nullptr) refuse("An array has no name.");
    all.emplace(arrays[i].name, array_of(arrays[i]));
  }
  return all;
}

nc::GeneratorShape checked(const nc_generator_shape& shape) {
  constexpr size_t kMaxBlocks = 16, kMaxChannels = 1024;
  const nc::GeneratorShape inner{shape.channels, shape.blocks, shape.fine_blocks, shape.fine_width};
  if (inner.channels < 16 || inner.channels > kMaxChannels || inner.channels % 16 != 0 || inner.fine_width < 1 ||
      std::max({inner.blocks, inner.fine_blocks, inner.fine_width}) > kMaxBlocks) {
    throw nc::ModelError("the shape of the generative decoder is impossible.");
  }
  return inner;
}

// Where the latents of a tile go: to the caller, or to memory of their own where the caller wants none.
class Place {
 public:
  Place(const nc_shape& shape, size_t h, size_t w, int32_t* z_hat, int32_t* symbols, int32_t* y_hat)
      : latents_{at(z_hat, "z_hat", (h + 3) / 4 * ((w + 3) / 4) * shape.hyper_channels, 0),
                 at(symbols, "symbols", h * w * shape.latent_channels, 1),
                 at(y_hat, "y_hat", h * w * shape.latent_channels, 2)} {}

  const nc::Latents& latents() const { return latents_; }

  uint32_t checksum() const {
    nc::Crc32 crc;
    crc.update(latents_.z_hat, sizes_[0]);
    crc.update(latents_.y_hat, sizes_[2]);
    return crc.value();
  }

 private:
  int32_t* at(int32_t* values, const char* name, size_t size, size_t i) {
    sizes_[i] = size;
    if (values == nullptr) {
      own_[i].resize(size);
      values = own_[i].data();
    }
    check_array(values, name);
    return values;
  }

  std::vector<int32_t> own_[3];
  size_t sizes_[3];
  nc::Latents latents_;
};

struct Free {
  void operator()(uint8_t* bytes) const { std::free(bytes); }
};
using Bytes = std::unique_ptr<uint8_t, Free>;

Bytes allocated(size_t size) {
  Bytes bytes(static_cast<uint8_t*>(std::malloc(size)));
  if (!bytes) throw std::bad_alloc();
  return bytes;
}

void need_encoder(const nc_model* model) {
  if (model != nullptr && !model->model.encodes()) {
    throw Failure(NC_NO_ENCODER, "This model is for decoding alone: it has no encoder.");
  }
}

template <typename Sample>
int analyse(const nc_model* model, const nc_run* run, const Sample* rgb, size_t h, size_t w, int32_t* y, char* message,
            size_t message_size) {
  return guarded(message, message_size, [&] {
    need_encoder(model);
    const nc::Run how = checked(model, run, h, w);
    check_array(rgb, "rgb");
    check_array(y, "y");
    model->model.analyse(how, rgb, h, w, run->quality_index, y);
  });
}

template <typename Sample>
int synthesise(const nc_model* model, const nc_run* run, const int32_t* y_hat, size_t h, size_t w, Sample* rgb,
               char* message, size_t message_size) {
  return guarded(message, message_size, [&] {
    const nc::Run how = checked(model, run, h, w);
    check_array(y_hat, "y_hat");
    check_array(rgb, "rgb");
    model->model.synthesise(how, y_hat, h, w, run->quality_index, rgb);
  });
}

template <typename Sample>
int realise(const nc_model* model, const nc_generator* generator, const nc_run* run, int realism, const int32_t* y_hat,
            size_t h, size_t w, Sample* rgb, char* message, size_t message_size) {
  return guarded(message, message_size, [&] {
    const nc::Run how = checked(model, run, h, w);
    if (generator == nullptr || generator->generator.base_channels() != model->shape.channels) {
      refuse("The generative decoder is missing, or belongs to another model.");
    }
    if (realism < 1 || realism > nc::kRealismSteps) refuse("Realism is not in 1..2048.");
    check_array(y_hat, "y_hat");
    check_array(rgb, "rgb");
    generator->generator(how, model->model.g_s(), y_hat, h, w, run->quality_index, realism, rgb);
  });
}

template <typename Sample>
int filter(const uint16_t* rgb, size_t h, size_t w, int shift, const int8_t* weights, size_t threads, Sample* filtered,
           char* message, size_t message_size) {
  return guarded(message, message_size, [&] {
    if (h < 1 || w < 1 || h > 16 * kMaxTile || w > 16 * kMaxTile) refuse("A tile has 1 to 65536 pixels in each direction.");
    if (shift < nc::kLeastFilterShift || shift > nc::kMostFilterShift) refuse("The shift of a filter is 6 to 10.");
    check_array(rgb, "rgb");
    check_array(weights, "weights");
    check_array(filtered, "filtered");
    nc::filter_pixels(rgb, h, w, shift, weights, std::min(std::max<size_t>(threads, 1), kMaxThreads), filtered);
  });
}

}  // namespace

const char* nc_kernel(size_t i) {
  const auto& list = nc::kernels();
  return i < list.size() ? nc::name_of(list[i]) : nullptr;
}

int nc_model_new(const nc_shape* shape, const nc_array* arrays, size_t count, nc_model** model, char* message,
                 size_t message_size) {
  return guarded(message, message_size, [&] {
    if (shape == nullptr || model == nullptr || (arrays == nullptr && count > 0)) refuse("An argument is missing.");
    *model = nullptr;
    const nc::Shape inner{shape->channels,       shape->latent_channels, shape->hyper_channels, shape->hidden_channels,
                          shape->encoder_blocks, shape->decoder_blocks,  shape->latent_blocks};
    *model = new nc_model{nc::Model(inner, by_name(arrays, count)), *shape};
  });
}

void nc_model_free(nc_model* model) { delete model; }

const nc_shape* nc_model_shape(const nc_model* model) { return model == nullptr ? nullptr : &model->shape; }

int nc_analyse(const nc_model* model, const nc_run* run, const uint8_t* rgb, size_t h, size_t w, int32_t* y,
               char* message, size_t message_size) {
  return analyse(model, run, rgb, h, w, y, message, message_size);
}

int nc_analyse16(const nc_model* model, const nc_run* run, const uint16_t* rgb, size_t h, size_t w, int32_t* y,
                 char* message, size_t message_size) {
  return analyse(model, run, rgb, h, w, y, message, message_size);
}

int nc_encode(const nc_model* model, const nc_run* run, const int32_t* y, const int32_t* z, size_t h, size_t w, int layout,
              uint8_t** stream, size_t* stream_size, uint8_t** z_stream, size_t* z_stream_size, int32_t* z_hat,
              int32_t* symbols, int32_t* y_hat, uint32_t* checksum, char* message, size_t message_size) {
  return guarded(message, message_size, [&] {
    const bool apart = z_stream != nullptr;
    if (stream == nullptr || stream_size == nullptr || apart != (z_stream_size != nullptr)) {
      refuse("The place for a stream is missing.");
    }
    *stream = nullptr;
    if (apart) *z_stream = nullptr;
    need_encoder(model);
    const nc::Run how = checked(model, run, h, w);
    if (layout != NC_CPU_LAYOUT && layout != NC_GPU_LAYOUT) refuse("There is no such layout.");
    check_array(y, "y");
    for (size_t i = 0; i < h * w * model->shape.latent_channels; ++i) {
      if (y[i] < -nc::kMaxLatent || y[i] > nc::kMaxLatent) refuse("A latent is beyond 2^22 - 1 in magnitude.");
    }
    if (z != nullptr) check_array(z, "z");
    const Place place(model->shape, h, w, z_hat, symbols, y_hat);
    const auto choose = layout == NC_GPU_LAYOUT ? nc::gpu_layout : nc::cpu_layout;
    const nc::StreamEncoder encoder =
        model->model.encode(how, y, z, h, w, run->quality_index, choose, apart, place.latents());
    Bytes bytes = allocated(encoder.size());
    encoder.write(bytes.get());
    if (apart) {
      const size_t rows = (h + 3) / 4, columns = (w + 3) / 4, channels = model->shape.hyper_channels;
      std::vector<int32_t> values(place.latents().z_hat, place.latents().z_hat + rows * columns * channels);
      if (!nc::hyper::fits(values)) refuse("A value of z is too large for a stream of its own.");
      const std::vector<uint8_t> coded = nc::hyper::encode(values.data(), rows, columns, channels);
      Bytes z_bytes = allocated(coded.size());
      std::copy(coded.begin(), coded.end(), z_bytes.get());
      *z_stream = z_bytes.release();
      *z_stream_size = coded.size();
    }
    *stream = bytes.release();
    *stream_size = encoder.size();
    if (checksum != nullptr) *checksum = place.checksum();
  });
}

void nc_free(uint8_t* stream) { std::free(stream); }

int nc_decode(const nc_model* model, const nc_run* run, const uint8_t* stream, size_t stream_size,
              const uint8_t* z_stream, size_t z_stream_size, size_t h, size_t w, int32_t* z_hat, int32_t* symbols,
              int32_t* y_hat, uint32_t* checksum, char* message, size_t message_size) {
  return guarded(message, message_size, [&] {
    const nc::Run how = checked(model, run, h, w);
    if ((stream == nullptr && stream_size > 0) || (z_stream == nullptr && z_stream_size > 0)) {
      refuse("The stream is missing.");
    }
    const Place place(model->shape, h, w, z_hat, symbols, y_hat);
    check(model->model.decode(how, stream, stream_size, z_stream, z_stream_size, h, w, run->quality_index, place.latents()));
    if (checksum != nullptr) *checksum = place.checksum();
  });
}

int nc_synthesise(const nc_model* model, const nc_run* run, const int32_t* y_hat, size_t h, size_t w, uint8_t* rgb,
                  char* message, size_t message_size) {
  return synthesise(model, run, y_hat, h, w, rgb, message, message_size);
}

int nc_synthesise16(const nc_model* model, const nc_run* run, const int32_t* y_hat, size_t h, size_t w, uint16_t* rgb,
                    char* message, size_t message_size) {
  return synthesise(model, run, y_hat, h, w, rgb, message, message_size);
}

int nc_generator_new(const nc_model* model, const nc_generator_shape* shape, const nc_array* arrays, size_t count,
                     nc_generator** generator, char* message, size_t message_size) {
  return guarded(message, message_size, [&] {
    if (model == nullptr || shape == nullptr || generator == nullptr || (arrays == nullptr && count > 0)) {
      refuse("An argument is missing.");
    }
    *generator = nullptr;
    const auto all = by_name(arrays, count);
    *generator = new nc_generator{nc::Generator(checked(*shape), model->shape.channels, nc::Arrays(all))};
  });
}

void nc_generator_free(nc_generator* generator) { delete generator; }

int nc_realise(const nc_model* model, const nc_generator* generator, const nc_run* run, int realism,
               const int32_t* y_hat, size_t h, size_t w, uint8_t* rgb, char* message, size_t message_size) {
  return realise(model, generator, run, realism, y_hat, h, w, rgb, message, message_size);
}

int nc_realise16(const nc_model* model, const nc_generator* generator, const nc_run* run, int realism,
                 const int32_t* y_hat, size_t h, size_t w, uint16_t* rgb, char* message, size_t message_size) {
  return realise(model, generator, run, realism, y_hat, h, w, rgb, message, message_size);
}

int nc_filter(const uint16_t* rgb, size_t h, size_t w, int shift, const int8_t* weights, size_t threads,
              uint8_t* filtered, char* message, size_t message_size) {
  return filter(rgb, h, w, shift, weights, threads, filtered, message, message_size);
}

int nc_filter16(const uint16_t* rgb, size_t h, size_t w, int shift, const int8_t* weights, size_t threads,
                uint16_t* filtered, char* message, size_t message_size) {
  return filter(rgb, h, w, shift, weights, threads, filtered, message, message_size);
}

int nc_palette_decode(const uint8_t* stream, size_t stream_size, size_t h, size_t w, size_t colours, uint8_t* indexes,
                      char* message, size_t message_size) {
  return guarded(message, message_size, [&] {
    if (stream == nullptr && stream_size > 0) refuse("The stream is missing.");
    if (h < 1 || w < 1 || h > kMaxTile || w > kMaxTile) refuse("A tile has 1 to 4096 latents in each direction.");
    if (colours < 1 || colours > nc::palette::kMostColours) refuse("A palette has 1 to 255 colours.");
    check_array(indexes, "indexes");
    check(nc::palette::decode(stream, stream_size, h, w, colours, indexes));
  });
}

int nc_residual_decode(const uint8_t* stream, size_t stream_size, const uint8_t* x_hat, size_t h, size_t w,
                       size_t channels, uint8_t* exact, char* message, size_t message_size) {
  return guarded(message, message_size, [&] {
    if (stream == nullptr && stream_size > 0) refuse("The stream is missing.");
    if (h < 1 || w < 1 || h > nc::lossless::kMaxSide || w > nc::lossless::kMaxSide) {
      refuse("A tile has 1 to 65536 pixels in each direction.");
    }
    if (channels != 1 && channels != 3) refuse("A picture has 1 or 3 channels.");
    check_array(x_hat, "x_hat");
    check_array(exact, "exact");
    check(nc::LosslessTile(x_hat, h, w, channels).decode(stream, stream_size, exact));
  });
}
