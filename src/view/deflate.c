/* See deflate.h. */
#include "view/deflate.h"

#include <stdlib.h>
#include <string.h>

#include "read/capture.h"

#ifdef HK_HAVE_ZLIB
#include <zlib.h>
#endif

#define STORED 65535u /* bytes of a stored block, at most */

uint32_t hk_crc32(uint32_t crc, const uint8_t *data, size_t size)
{
    crc = ~crc;
    for (size_t i = 0; i < size; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static uint32_t adler32_of(const uint8_t *data, size_t size)
{
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < size; i++) {
        a = (a + data[i]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

/* Raw deflate (RFC 1951) behind `head` bytes of room, with 8 bytes of room at the end. */
static uint8_t *deflate_raw(const uint8_t *data, size_t size, size_t head, size_t *packed)
{
    size_t blocks = size / STORED + 1, bound = head + size + size / 1000 + blocks * 5 + 64, at = head;
    uint8_t *out = hk_must_calloc(bound, 1);
#ifdef HK_HAVE_ZLIB
    z_stream z = {.next_in = (Bytef *)(uintptr_t)data, .next_out = out + head};
    if (size < UINT32_MAX && deflateInit2(&z, 6, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) == Z_OK) {
        z.avail_in = (uInt)size;
        z.avail_out = (uInt)(bound - head - 8);
        int done = deflate(&z, Z_FINISH);
        *packed = head + z.total_out;
        deflateEnd(&z);
        if (done == Z_STREAM_END)
            return out;
    }
#endif
    for (size_t i = 0; i < blocks; i++) {
        size_t length = i + 1 < blocks ? STORED : size % STORED;
        out[at++] = i + 1 == blocks; /* the last; stored */
        out[at++] = (uint8_t)length;
        out[at++] = (uint8_t)(length >> 8);
        out[at++] = (uint8_t)~length;
        out[at++] = (uint8_t)(~length >> 8);
        memcpy(out + at, data + i * STORED, length);
        at += length;
    }
    *packed = at;
    return out;
}

static void put_big(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> (24 - 8 * i));
}

static void put_little(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> 8 * i);
}

uint8_t *hk_zlib(const uint8_t *data, size_t size, size_t *packed)
{
    uint8_t *out = deflate_raw(data, size, 2, packed);
    out[0] = 0x78;
    out[1] = 0x01;
    put_big(out + *packed, adler32_of(data, size));
    *packed += 4;
    return out;
}

uint8_t *hk_gzip(const uint8_t *data, size_t size, size_t *packed)
{
    static const uint8_t head[10] = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}; /* no name, no time */
    uint8_t *out = deflate_raw(data, size, sizeof head, packed);
    memcpy(out, head, sizeof head);
    put_little(out + *packed, hk_crc32(0, data, size));
    put_little(out + *packed + 4, (uint32_t)size);
    *packed += 8;
    return out;
}
