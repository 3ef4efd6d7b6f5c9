/* crc32.h: the CRC-32 of zip. */
#ifndef DSE_RUN_CRC32_H
#define DSE_RUN_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* Continues a CRC over more bytes; starts with 0. */
uint32_t crc32_add(uint32_t crc, const void *data, size_t bytes);

#endif
