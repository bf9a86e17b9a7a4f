/* The heap as the capture has it. */
#ifndef HK_HEAP_MAP_H
#define HK_HEAP_MAP_H

#include <stdbool.h>
#include <stdint.h>

#include "capture/format.h"

/* Fills a map (format.h) from its third field on, time_ns; `bits`: with the allocated blocks of the used pools, as far as
 * there is room. ready(n) is called before anything is written: the first n bytes, and none behind them, may be written
 * then; false: they cannot be. Takes no lock and allocates nothing: may be called in a hook. Returns the map's bytes; 0: it
 * does not fit into `capacity` or could not be made ready. `sums`: what it counts in, whatever it holds. */
#define HK_MAP_CLASSES 64 /* the most that a geometry has */
uint32_t hk_heap_map_fill(struct hk_capture_map *map, uint64_t capacity, bool bits, bool (*ready)(uint64_t bytes),
                          struct hk_capture_map_class sums[HK_MAP_CLASSES]);

/* A capacity that does for the heaps as they are at this moment, without bits. */
uint64_t hk_heap_map_room(void);

#endif
