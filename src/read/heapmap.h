/* The map of a heap: its arenas, pools and blocks, from a capture or from the memory of the running process.
 *
 * Both sources are hostile input: what is returned here has been checked (counts fit each other, every pool's heap and
 * arena exist), and all sums are made here. A map owns its memory; hk_heap_map_free frees it. */
#ifndef HK_READ_HEAPMAP_H
#define HK_READ_HEAPMAP_H

#include "read/capture.h"

enum hk_map_source { HK_MAP_OF_CAPTURE, HK_MAP_OF_PROCESS };

struct hk_map_pool {
    uint32_t block_size;  /* bytes; 0: empty */
    uint32_t capacity, allocated, touched; /* blocks */
    uint8_t state;        /* enum hk_map_pool_state */
    bool is_current;
    uint32_t bits; /* where its bits begin, plus 1; 0: which blocks are allocated is not known */
};

struct hk_map_arena {
    uint64_t start;  /* address */
    uint32_t heap;   /* index into heaps */
    uint32_t number; /* in its heap */
    size_t first_pool;
    uint32_t pool_count;
};

struct hk_map_class {
    uint32_t heap; /* index */
    uint32_t block_size, capacity, pools_used, pools_full;
    uint64_t allocated, free, untouched; /* blocks */
};

/* Bytes in exactly one class each, and counts. */
struct hk_map_sums {
    uint64_t arenas, pools_used, pools_full, pools_empty, pools_returned, pools_large;
    uint64_t allocated_blocks, free_blocks, untouched_blocks;
    uint64_t allocated_bytes, free_bytes, untouched_bytes, tail_bytes, empty_bytes, metadata_bytes;
    uint64_t mapped_bytes; /* sum of the six and of own_large_bytes */
    uint64_t returned_bytes;
    uint64_t large_bytes, large_blocks;         /* of the C allocator; beside the heap */
    uint64_t own_large_bytes, own_large_blocks; /* made of whole pools */
};

struct hk_map_heap {
    char name[25];
    uint32_t number, domain;
    uint32_t pool_size, arena_pools;
    struct hk_map_sums sums;
};

struct hk_heap_map {
    enum hk_map_source source;
    uint64_t time_ns; /* since the process's start; of a capture */
    bool is_final;    /* the program's end */
    uint64_t arenas_left_out, heaps_left_out;
    struct hk_map_heap *heaps;
    size_t heap_count;
    struct hk_map_arena *arenas;
    size_t arena_count;
    struct hk_map_pool *pools;
    size_t pool_count;
    struct hk_map_class *classes; /* by heap, then by size */
    size_t class_count;
    struct hk_map_sums sums; /* of all heaps */
    uint8_t *bits;
    size_t bits_size;
    uint64_t dropped; /* entries that could not be */
    /* of a running process */
    int pid;
    struct hk_capture_live live;
    uint64_t base, descriptors; /* of its region: first address, and that of the table of pools */
};

/* The newest whole map of a capture. NULL and an error: it has none. */
struct hk_heap_map *hk_heap_map_read(const struct hk_capture *capture, struct hk_error *error);

/* The heap of the running process, from its memory, without its help: it may change meanwhile, and a pool is then off
 * by what happened. `where`: a map of its capture, which says where to look. NULL and an error: not permitted, gone. */
struct hk_heap_map *hk_heap_map_live(const struct hk_heap_map *where, int pid, struct hk_error *error);

void hk_heap_map_free(struct hk_heap_map *map);

/* The states of a pool's blocks, one character each: '#' allocated, '.' free, ' ' untouched. Reads them from the
 * process if that is the source. NULL: not known; the caller frees it. */
char *hk_heap_map_blocks(struct hk_heap_map *map, const struct hk_map_arena *arena, uint32_t pool);

/* For those that make a map: an empty one; a heap's sums of its classes; and all sums once everything is in. */
struct hk_heap_map *hk_heap_map_new(size_t heaps, size_t arenas, size_t pools, size_t classes);
void hk_heap_map_sum(struct hk_heap_map *map);

#endif
