/* A program at random that takes no for an answer: it allocates, resizes and frees blocks of all sizes and kinds, and
 * looks at all contents, while its heap may say NULL at any time. */
#ifndef HK_TESTS_HEAP_PROGRAM_H
#define HK_TESTS_HEAP_PROGRAM_H

#include "heap_helper.h"

enum { PROGRAM_SLOTS = 1500 };

struct program {
    hk_heap *heap;
    uint64_t random;
    size_t largest; /* a block now and then is as large as this */
    uint64_t tags, refused;
    int wrong; /* line of the first thing that was not as it should be */
    struct shadow slots[PROGRAM_SLOTS];
};

#define PROGRAM_CHECK(p, condition)                                                                                    \
    do {                                                                                                               \
        if (!(condition) && (p)->wrong == 0)                                                                           \
            (p)->wrong = __LINE__;                                                                                     \
    } while (0)

static inline size_t program_size(struct program *p)
{
    if (p->largest > 0 && random_below(&p->random, 40) == 0)
        return 1 + random_below(&p->random, p->largest);
    return random_size(&p->random);
}

static inline void program_new_block(struct program *p, struct shadow *s, size_t size)
{
    unsigned char *block = NULL;
    uint64_t kind = random_below(&p->random, 8);
    if (kind == 0) {
        block = hk_calloc(p->heap, size, 1);
        for (size_t i = 0; block != NULL && i < size; i++)
            PROGRAM_CHECK(p, block[i] == 0);
    } else if (kind == 1) {
        size_t alignment = (size_t)1 << random_below(&p->random, 15);
        block = hk_aligned_alloc(p->heap, alignment, size);
        PROGRAM_CHECK(p, (uintptr_t)block % alignment == 0);
    } else {
        block = hk_malloc(p->heap, size);
        PROGRAM_CHECK(p, (uintptr_t)block % (p->heap->alignment == 8 ? alignment_of(size) : 16) == 0);
    }
    if (block == NULL) {
        p->refused++;
        return;
    }
    PROGRAM_CHECK(p, usable(block) >= size);
    shadow_fill(s, block, size, p->tags++);
}

static inline void program_step(struct program *p, size_t slots)
{
    struct shadow *s = &p->slots[random_below(&p->random, slots)];
    size_t size = program_size(p);
    if (s->block == NULL) {
        program_new_block(p, s, size);
        return;
    }
    PROGRAM_CHECK(p, is_intact(s));
    if (random_below(&p->random, 3) != 0) {
        hk_free(p->heap, s->block);
        s->block = NULL;
        return;
    }
    unsigned char *moved = hk_realloc(p->heap, s->block, size);
    if (moved == NULL) {
        PROGRAM_CHECK(p, size > s->size); /* shrinking never fails */
        PROGRAM_CHECK(p, is_intact(s));
        p->refused++;
        return;
    }
    PROGRAM_CHECK(p, shadow_holds(moved, size < s->size ? size : s->size, s->tag));
    shadow_fill(s, moved, size, p->tags++);
}

/* Steps, then everything is looked at. The part of the slots that is in use breathes, so that pools come and go. */
static inline void program_run(struct program *p, int steps)
{
    for (int i = 1; i <= steps; i++)
        program_step(p, i / 1000 % 2 ? PROGRAM_SLOTS : PROGRAM_SLOTS / 8);
    uint64_t live = 0;
    for (size_t i = 0; i < PROGRAM_SLOTS; i++)
        if (p->slots[i].block != NULL) {
            PROGRAM_CHECK(p, is_intact(&p->slots[i]));
            live++;
        }
    hk_heap_stats s = stats_of(p->heap);
    PROGRAM_CHECK(p, s.live_blocks + s.large_blocks == live);
    PROGRAM_CHECK(p, disagreement(p->heap) == 0);
}

static inline void program_end(struct program *p)
{
    for (size_t i = 0; i < PROGRAM_SLOTS; i++)
        if (p->slots[i].block != NULL) {
            PROGRAM_CHECK(p, is_intact(&p->slots[i]));
            hk_free(p->heap, p->slots[i].block);
            p->slots[i].block = NULL;
        }
    hk_heap_stats s = stats_of(p->heap);
    PROGRAM_CHECK(p, s.live_blocks + s.large_blocks + s.live_bytes + s.large_bytes == 0);
    PROGRAM_CHECK(p, disagreement(p->heap) == 0);
}

#endif
