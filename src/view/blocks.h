/* heapkeeper blocks: arenas, pools and blocks by state, as text for a person and as JSON for a program. */
#ifndef HK_VIEW_BLOCKS_H
#define HK_VIEW_BLOCKS_H

#include "read/heapmap.h"
#include "view/text.h"

/* Everything is borrowed; the map may be brought up to date where a pool is looked into. */
struct hk_blocks {
    const struct hk_capture *capture;
    struct hk_heap_map *map;
    const char *note; /* why this is not the heap as it is now; NULL: nothing to be said */
    long heap;        /* index of the only one to show; -1: all */
    long arena;       /* index of the one to zoom into; -1: none */
    long pool;        /* in that arena; -1: none */
    uint32_t block_size; /* of the only class to show; 0: all */
    bool all;            /* every row, however many */
};

void hk_blocks_text(struct hk_blocks *blocks, const struct hk_terminal *terminal);

/* Keys are stable: names are never changed or removed within a major version, only added. */
void hk_blocks_json(struct hk_blocks *blocks, FILE *out);

/* ---- shared ---- */

/* True if the heap with this index is to be shown. */
bool hk_blocks_shows(const struct hk_blocks *blocks, size_t heap);

/* The sums of what is shown. */
struct hk_map_sums hk_blocks_sums(const struct hk_blocks *blocks);

/* Classes of what is shown, those of several heaps added up, by size; the caller frees them. `heap` is 0 in each;
 * heaps with pools of different sizes have `capacity` of the last. */
struct hk_map_class *hk_blocks_classes(const struct hk_blocks *blocks, size_t *count);

/* Bytes of pools that a class has but that are not in allocated blocks: free, untouched and tails. */
uint64_t hk_class_lost(const struct hk_blocks *blocks, const struct hk_map_class *c);

/* What it all means, in one or two sentences. */
void hk_blocks_meaning(const struct hk_blocks *blocks, char *text, size_t size);

/* "empty", "returned", "used", "full", "large" */
const char *hk_pool_state_word(uint8_t state);

/* A bar of `width` columns: allocated, free, and the rest blank. `to` holds 3 bytes a column and one more. */
char *hk_blocks_bar(const struct hk_terminal *t, char *to, unsigned width, double allocated, double free_part, double whole);

/* A share in which only what is whole is 100%. */
char *hk_blocks_percent(char to[32], uint64_t part, uint64_t whole);

/* A heading (or "") and a sentence beside it, wrapped at words. */
void hk_blocks_wrapped(const struct hk_terminal *t, const char *heading, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- blocks_zoom.c: what --arena, --pool and --class show ---- */
void hk_blocks_arenas(const struct hk_blocks *blocks, const struct hk_terminal *t);
void hk_blocks_zoom_arena(const struct hk_blocks *blocks, const struct hk_terminal *t);
void hk_blocks_zoom_pool(struct hk_blocks *blocks, const struct hk_terminal *t);
void hk_blocks_zoom_class(const struct hk_blocks *blocks, const struct hk_terminal *t);

#endif
