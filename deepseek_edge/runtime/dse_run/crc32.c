/* crc32.c: eight bytes at a time by tables ("slicing-by-8", Kounavis and Berry 2005). It adds
 * nothing to SHA-256, but a bundle must not be good for one reader and bad for another. */
#include "crc32.h"

static uint32_t tables[8][256];

static void fill_tables(void) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    tables[0][i] = crc;
  }
  for (int k = 1; k < 8; k++)
    for (int i = 0; i < 256; i++)
      tables[k][i] = tables[k - 1][i] >> 8 ^ tables[0][tables[k - 1][i] & 255];
}

uint32_t crc32_add(uint32_t crc, const void *data, size_t bytes) {
  const uint8_t *at = data;
  if (!tables[0][1]) fill_tables();
  crc = ~crc;
  for (; bytes >= 8; bytes -= 8, at += 8) {
    crc ^= (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
    crc = tables[7][crc & 255] ^ tables[6][crc >> 8 & 255] ^ tables[5][crc >> 16 & 255] ^
          tables[4][crc >> 24] ^ tables[3][at[4]] ^ tables[2][at[5]] ^ tables[1][at[6]] ^
          tables[0][at[7]];
  }
  for (; bytes; bytes--) crc = crc >> 8 ^ tables[0][(crc ^ *at++) & 255];
  return ~crc;
}
