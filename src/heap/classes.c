/* The size classes: every 16 bytes to 512, every 64 to 1024, then the sizes of which 15, 14, ... 4 fill a pool of
 * 16 KiB. At most 4 % of a pool is behind its last block; inside a block at most 1/8 is wasted from 512 to 2048
 * bytes, 1/4 for the last three. Classes over 512 are multiples of 64, so that the class of a size is one look
 * at (size + 63) / 64. */
#include "heap/pool.h"

const uint16_t hk_class_size[HK_CLASSES] = {
    0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176,
    192, 208, 224, 240, 256, 272, 288, 304, 320, 336, 352, 368,
    384, 400, 416, 432, 448, 464, 480, 496, 512, 576, 640, 704,
    768, 832, 896, 960, 1024, 1088, 1152, 1216, 1344, 1472, 1600, 1792,
    2048, 2304, 2688, 3264, 4096,
};

const uint8_t hk_class_of_64[HK_BLOCK_MAX / 64 + 1] = {
    1, 4, 8, 12, 16, 20, 24, 28, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
    44, 44, 45, 45, 46, 46, 47, 47, 47, 48, 48, 48, 48, 49, 49, 49, 49, 50, 50, 50,
    50, 50, 50, 51, 51, 51, 51, 51, 51, 51, 51, 51, 52, 52, 52, 52, 52, 52, 52, 52,
    52, 52, 52, 52, 52,
};
