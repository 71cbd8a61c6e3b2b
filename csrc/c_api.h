/* SPDX-License-Identifier: Apache-2.0
 *
 * The core for programs in C, and for every language that calls C: a model, and the four steps of coding a tile,
 *
 *     pixels -nc_analyse-> y -nc_encode-> stream -nc_decode-> y_hat -nc_synthesise-> pixels
 *
 * Arrays are dense, the last dimension without gaps, in the machine's byte order, and aligned as their type. A tile of
 * h x w latents has 16 h x 16 w pixels; M and N are the shape's latent_channels and hyper_channels. docs/arithmetic.md
 * defines every number: results depend on no kernel, thread count or machine.
 *
 * Every function returns a code, 0 for success, and after an error writes one sentence, ended by a zero, into `message`
 * (`message_size` bytes; NULL and 0 if it is not wanted). No exception leaves these functions. A model may be used by
 * several threads at once.
 */

#ifndef NEUROCODEC_C_API_H
#define NEUROCODEC_C_API_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  NC_OK = 0,
  NC_BAD_ARGUMENT = 1, /* a pointer, size, quality or kernel that no call accepts */
  NC_BAD_MODEL = 2,    /* the model's arrays do not fit its shape, or its sums could overflow */
  NC_NO_ENCODER = 3,   /* the model is for decoding alone */
  NC_TRUNCATED = 4,    /* the stream ends before its symbols do */
  NC_BAD_STREAM = 5,   /* a stream that no encoder writes */
  NC_BAD_END = 6,      /* the stream does not end where its symbols do: damaged, or of another model */
  NC_NO_MEMORY = 7,
  NC_INTERNAL = 8
};

enum { NC_CPU_LAYOUT = 0, NC_GPU_LAYOUT = 1 }; /* of a stream: docs/coder.md; every decoder reads both */

enum { NC_INT8 = 0, NC_INT16 = 1, NC_INT32 = 2, NC_UINT16 = 3 };

/* An array of a model file. */
typedef struct {
  const char* name;
  int type; /* NC_INT8, ... */
  const void* data;
  size_t dimensions; /* at most 4 */
  size_t shape[4];
} nc_array;

/* The numbers of a model file's configuration that its networks depend on. */
typedef struct {
  size_t channels, latent_channels, hyper_channels, hidden_channels, encoder_blocks, decoder_blocks, latent_blocks;
} nc_shape;

/* How to compute. kernel: a name that nc_kernel gives, or NULL for the fastest. threads: at most as many. */
typedef struct {
  int quality_index; /* 0 to 960 */
  const char* kernel;
  size_t threads;
} nc_run;

typedef struct nc_model nc_model;

/* Names of the kernels that this machine runs, best first; NULL after the last. */
const char* nc_kernel(size_t i);

/* A model, to be freed by nc_model_free. The arrays are copied; without those of g_a and h_a it decodes only. */
int nc_model_new(const nc_shape* shape, const nc_array* arrays, size_t count, nc_model** model, char* message,
                 size_t message_size);
void nc_model_free(nc_model* model);
const nc_shape* nc_model_shape(const nc_model* model);

/* rgb: (16 h, 16 w, 3); y: (h, w, M) in units of 1/64. In 16 bits, 65535 is white. */
int nc_analyse(const nc_model* model, const nc_run* run, const uint8_t* rgb, size_t h, size_t w, int32_t* y,
               char* message, size_t message_size);
int nc_analyse16(const nc_model* model, const nc_run* run, const uint16_t* rgb, size_t h, size_t w, int32_t* y,
                 char* message, size_t message_size);

/* y -> a stream of *stream_size bytes, to be freed by nc_free, and the latents that it decodes to: see nc_decode.
 * z: the z_hat to code, or NULL for what h_a makes of y. layout: NC_CPU_LAYOUT or NC_GPU_LAYOUT. z_stream, z_stream_size: where
 * z_hat goes apart from the rest, in a stream of its own (docs/contexts.md), to be freed by nc_free; or NULL. */
int nc_encode(const nc_model* model, const nc_run* run, const int32_t* y, const int32_t* z, size_t h, size_t w, int layout,
              uint8_t** stream, size_t* stream_size, uint8_t** z_stream, size_t* z_stream_size, int32_t* z_hat, int32_t* symbols, int32_t* y_hat,
              uint32_t* checksum, char* message, size_t message_size);
void nc_free(uint8_t* stream);

/* z_stream: that of z_hat if it is apart, or NULL. z_hat: (ceil(h / 4), ceil(w / 4), N); symbols: of the four passes, (4, h, w, M / 4); y_hat: (h, w, M) in units of
 * 1/64; checksum: CRC-32 of z_hat and then y_hat, as little-endian bytes. Each of the four may be NULL. The latents are
 * the encoder's only if the checksum is. */
int nc_decode(const nc_model* model, const nc_run* run, const uint8_t* stream, size_t stream_size,
              const uint8_t* z_stream, size_t z_stream_size, size_t h, size_t w, int32_t* z_hat, int32_t* symbols,
              int32_t* y_hat, uint32_t* checksum, char* message, size_t message_size);

/* y_hat: (h, w, M) in units of 1/64; rgb: (16 h, 16 w, 3). In 16 bits, 65535 is white. */
int nc_synthesise(const nc_model* model, const nc_run* run, const int32_t* y_hat, size_t h, size_t w, uint8_t* rgb,
                  char* message, size_t message_size);
int nc_synthesise16(const nc_model* model, const nc_run* run, const int32_t* y_hat, size_t h, size_t w, uint16_t* rgb,
                    char* message, size_t message_size);

/* A generative decoder for a model, from the arrays of its file; to be freed by nc_generator_free. They are copied. */
typedef struct {
  size_t channels, blocks, fine_blocks, fine_width;
} nc_generator_shape;

typedef struct nc_generator nc_generator;

int nc_generator_new(const nc_model* model, const nc_generator_shape* shape, const nc_array* arrays, size_t count,
                     nc_generator** generator, char* message, size_t message_size);
void nc_generator_free(nc_generator* generator);

/* nc_synthesise with detail that the generative decoder adds. realism: 1 to 2048, which is realism 1. */
int nc_realise(const nc_model* model, const nc_generator* generator, const nc_run* run, int realism,
               const int32_t* y_hat, size_t h, size_t w, uint8_t* rgb, char* message, size_t message_size);
int nc_realise16(const nc_model* model, const nc_generator* generator, const nc_run* run, int realism,
                 const int32_t* y_hat, size_t h, size_t w, uint16_t* rgb, char* message, size_t message_size);

/* Applies the filter of a file. rgb: what nc_synthesise16 gives, (h, w, 3); h, w: 1 to 65536. filtered: another array of
 * that shape, in 8 or 16 bits. weights: (3, 3, 6), by the colour that is corrected, the colour that is read, and the pair of
 * neighbours; shift: 6 to 10, their number of fractional bits. */
int nc_filter(const uint16_t* rgb, size_t h, size_t w, int shift, const int8_t* weights, size_t threads,
              uint8_t* filtered, char* message, size_t message_size);
int nc_filter16(const uint16_t* rgb, size_t h, size_t w, int shift, const int8_t* weights, size_t threads,
                uint16_t* filtered, char* message, size_t message_size);

/* The indexes of a tile's palette (docs/contexts.md), (16 h, 16 w): below `colours`, 1 to 255, they name the colour of a pixel;
 * where they are `colours`, the pixel is what the networks decode. */
int nc_palette_decode(const uint8_t* stream, size_t stream_size, size_t h, size_t w, size_t colours, uint8_t* indexes,
                      char* message, size_t message_size);

/* The exact pixels of a tile of a lossless file, from its residual (docs/lossless.md) and x_hat, the pixels that
 * nc_synthesise gives. x_hat, exact: (h, w, channels), inside the picture; channels: 3, or 1 for a gray picture; h, w: 1
 * to 65536. The two may be the same array. A damaged stream may decode: compare the CRC-32 of the exact pixels. */
int nc_residual_decode(const uint8_t* stream, size_t stream_size, const uint8_t* x_hat, size_t h, size_t w,
                       size_t channels, uint8_t* exact, char* message, size_t message_size);

#ifdef __cplusplus
}
#endif

#endif /* NEUROCODEC_C_API_H */
