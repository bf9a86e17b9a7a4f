/* See utf8.h. */
#include "base/utf8.h"

unsigned hk_utf8_next(const char *text, uint32_t *point)
{
    const uint8_t *b = (const uint8_t *)text;
    unsigned length = b[0] < 0x80                   ? 1
                      : b[0] >= 0xc2 && b[0] < 0xe0 ? 2
                      : (b[0] & 0xf0) == 0xe0       ? 3
                      : b[0] >= 0xf0 && b[0] < 0xf5 ? 4
                                                    : 0;
    static const uint8_t masks[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    if (b[0] == 0 || length == 0)
        return 0;
    uint32_t p = b[0] & masks[length];
    for (unsigned i = 1; i < length; i++) {
        if ((b[i] & 0xc0) != 0x80)
            return 0;
        p = p << 6 | (b[i] & 0x3f);
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (p < least[length] || p > 0x10ffff || (p >= 0xd800 && p < 0xe000))
        return 0;
    *point = p;
    return length;
}
