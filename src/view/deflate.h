/* zlib's two containers (RFC 1950 and 1952) of a piece of memory: what PNG and pprof are made of. With zlib, if the command was
 * built with it, compressed; without, stored as it is, which every reader takes as well. */
#ifndef HK_VIEW_DEFLATE_H
#define HK_VIEW_DEFLATE_H

#include <stddef.h>
#include <stdint.h>

/* Allocated; the caller frees it. *packed: its size. */
uint8_t *hk_zlib(const uint8_t *data, size_t size, size_t *packed);
uint8_t *hk_gzip(const uint8_t *data, size_t size, size_t *packed);

/* CRC-32 of both, begun with 0. */
uint32_t hk_crc32(uint32_t crc, const uint8_t *data, size_t size);

#endif
