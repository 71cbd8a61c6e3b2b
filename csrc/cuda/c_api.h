/* SPDX-License-Identifier: Apache-2.0
 *
 * range_coder.hpp for languages that call C. Every function but the last four returns a code, 0 for success, and after an
 * error writes one sentence, ended by a zero, into `message` (`message_size` bytes). `device` is the number of the GPU on
 * which the work is done and all device pointers lie, `stream` a cudaStream_t. No exception leaves these functions. */

#ifndef NEUROCODEC_CUDA_C_API_H
#define NEUROCODEC_CUDA_C_API_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { NCC_OK = 0, NCC_BAD_ARGUMENT = 1, NCC_CUDA_ERROR = 2, NCC_NO_MEMORY = 3, NCC_BAD_INDEX = 4 };

/* What a stream gave. */
enum { NCC_STREAM_OK = 0, NCC_STREAM_TRUNCATED = 1, NCC_STREAM_BAD = 2, NCC_STREAM_BAD_END = 3, NCC_STREAM_BAD_INDEX = 4 };

typedef struct ncc_tables ncc_tables;
typedef struct ncc_decoder ncc_decoder;

/* Tables on a device: all frequencies, and an offset and a length for each row. */
int ncc_tables_new(const uint16_t* frequencies, size_t total, const int32_t* offsets, const int32_t* lengths, size_t rows,
                   int device, void* stream, ncc_tables** tables, char* message, size_t message_size);

/* The bytes may go afterwards; the tables must outlive the decoder. */
int ncc_decoder_new(const ncc_tables* tables, const uint8_t* const* streams, const size_t* sizes, size_t count,
                    void* stream, ncc_decoder** decoder, char* message, size_t message_size);

/* indexes, symbols: device arrays (count, n). */
int ncc_decode(ncc_decoder* decoder, const uint8_t* indexes, int32_t* symbols, size_t n, void* stream, char* message,
               size_t message_size);

/* results: NCC_STREAM_... of each stream; sentences: one for each, static. */
int ncc_finish(const ncc_decoder* decoder, void* stream, int* results, const char** sentences, char* message,
               size_t message_size);

/* symbols, indexes: device arrays (count, sum of the calls). *bytes: all streams, to be freed by ncc_free; sizes: theirs. */
int ncc_encode(const ncc_tables* tables, const int32_t* symbols, const uint8_t* indexes, const size_t* calls,
               size_t call_count, const int* lanes_log2, const int* groups_log2, size_t count, void* stream,
               uint8_t** bytes, size_t* sizes, char* message, size_t message_size);

/* Registers of CRC-32 on the device, advanced over values (count, n); see range_coder.hpp. */
int ncc_crc32(const int32_t* values, size_t count, size_t n, const uint32_t* before, uint32_t* after, int device,
              void* stream, char* message, size_t message_size);

void ncc_tables_free(ncc_tables* tables);
void ncc_decoder_free(ncc_decoder* decoder);
void ncc_free(uint8_t* bytes);

/* 1 if this library runs its kernels on the CPU: built with host_shim.hpp, for tests. Pointers are then the host's. */
int ncc_is_host(void);

#ifdef __cplusplus
}
#endif

#endif /* NEUROCODEC_CUDA_C_API_H */
