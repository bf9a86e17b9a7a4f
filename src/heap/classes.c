/* The size classes. Of the guide's geometry: every 8 bytes to 512. Of the default one: every 16 bytes to 512, every 64 to 1024,
 * then the sizes of which 15, 14, ... 4 fill a pool of 16 KiB. At most 4 % of a pool is behind its last block; inside a block at most 1/8 is wasted from 512 to 2048
 * bytes, 1/4 for the last three. Classes over 512 are multiples of 64, so that the class of a size is one look
 * at (size + 63) / 64. */
#include "heap/misuse.h"

#include <string.h>

#ifdef HK_GEOMETRY_GUIDE

HK_HOT_TABLE const uint16_t hk_class_size[HK_CLASSES] = {
    0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128,
    136, 144, 152, 160, 168, 176, 184, 192, 200, 208, 216, 224, 232, 240, 248, 256,
    264, 272, 280, 288, 296, 304, 312, 320, 328, 336, 344, 352, 360, 368, 376, 384,
    392, 400, 408, 416, 424, 432, 440, 448, 456, 464, 472, 480, 488, 496, 504, 512,
};

HK_HOT_TABLE const uint8_t hk_class_of_64[HK_BLOCK_MAX / 64 + 1] = {1, 8, 16, 24, 32, 40, 48, 56, 64};

#else

HK_HOT_TABLE const uint16_t hk_class_size[HK_CLASSES] = {
    0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176,
    192, 208, 224, 240, 256, 272, 288, 304, 320, 336, 352, 368,
    384, 400, 416, 432, 448, 464, 480, 496, 512, 576, 640, 704,
    768, 832, 896, 960, 1024, 1088, 1152, 1216, 1344, 1472, 1600, 1792,
    2048, 2304, 2688, 3264, 4096,
};

HK_HOT_TABLE const uint8_t hk_class_of_64[HK_BLOCK_MAX / 64 + 1] = {
    1, 4, 8, 12, 16, 20, 24, 28, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
    44, 44, 45, 45, 46, 46, 47, 47, 47, 48, 48, 48, 48, 49, 49, 49, 49, 50, 50, 50,
    50, 50, 50, 51, 51, 51, 51, 51, 51, 51, 51, 51, 52, 52, 52, 52, 52, 52, 52, 52,
    52, 52, 52, 52, 52,
};

#endif

void hk_get_geometry(hk_geometry *geometry)
{
    if (geometry == NULL || geometry->size <= offsetof(hk_geometry, name)) {
        hk_misuse(NULL, geometry == NULL ? "hk_get_geometry: the geometry is NULL"
                                         : "hk_get_geometry: its size is not sizeof(hk_geometry)");
        return;
    }
    hk_geometry all = {
        .size = geometry->size,
        .name = HK_GEOMETRY_NAME,
        .arena_bytes = (uint32_t)HK_ARENA_SIZE,
        .pool_bytes = (uint32_t)HK_POOL_SIZE,
        .pools_per_arena = HK_ARENA_POOLS,
        .classes = HK_CLASSES - 1,
        .block_step = HK_STEP,
        .block_max = HK_BLOCK_MAX,
    };
    memcpy(geometry, &all, geometry->size < sizeof(all) ? geometry->size : sizeof(all));
}

size_t hk_class_bytes(uint32_t size_class)
{
    return size_class < HK_CLASSES ? hk_class_size[size_class] : 0;
}
