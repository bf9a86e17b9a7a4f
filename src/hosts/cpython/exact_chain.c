/* Long stacks where frames cannot carry marks, up to 3.12: the last long stack is kept, and the next is compared with it.
 *
 * A walk waits for each frame's memory before it knows where the next is: some 5 ns a frame, once a stack is larger than
 * the first cache. A stack that is known needs no such wait: the processor reads ahead while each frame's link and
 * instruction are compared with what they were. So this is a walk of all frames all the same, each of them looked at, and
 * needs no proof; it is only faster, and its cost still grows with the depth.
 *
 *      chain    of the stack walked last that was long, innermost first: frame, instruction, and what the key gets
 *               from here outwards (as in exact_marks.c)
 *      index    frame -> place in the chain; what it says is looked at before it is believed
 *
 * A frame of the chain is read only when the frame before it, or the thread's state, has led to it: it may have ended.
 *
 * Main lane only. */
#include "hosts/cpython/exact_stack.h"

#define MOST_FRAMES 16384u /* of the chain; longer stacks are walked */
#define INDEX_BITS 12
#define NEW_FRAMES 64 /* inside of the chain: it is time for another */
#define WORTH_IT 96   /* frames; shorter stacks are walked sooner than compared */

struct link {
    uintptr_t frame, place;
};

static struct {
    struct link *link; /* NULL: there is no memory */
    struct reach {
        uint64_t power, rest;
    } *reach;
    uint32_t count;
    uint16_t index[1 << INDEX_BITS];
} chain;

bool hk_exact_chain_init(void)
{
    chain.link = hk_os_map(MOST_FRAMES * sizeof *chain.link);
    chain.reach = hk_os_map(MOST_FRAMES * sizeof *chain.reach);
    return chain.link != NULL && chain.reach != NULL;
}

/* The usual way walks so many frames before it comes here. Where it does so in vain, few. */
static void choose_way(uint32_t frames)
{
    uint32_t *unmarked = &hk_exact_stacks.unmarked;
    if (*unmarked >= HK_LONG) /* not a test's */
        *unmarked = frames > WORTH_IT ? HK_LONG : HK_LONG_WALK;
}

static inline uint16_t *index_of(uintptr_t frame)
{
    return &chain.index[(frame >> 3) * HK_KEY_BASE >> (64 - INDEX_BITS)];
}

/* The number of links from `at` on that are still as they were; *next: the frame behind them, 0: the stack's end. */
static inline __attribute__((always_inline)) uint32_t unchanged(uint32_t at, uintptr_t *next, int way)
{
    const struct link *link = &chain.link[at], *end = &chain.link[chain.count];
    uintptr_t frame = link->frame;
    for (; link < end; link++) {
        uintptr_t known = link->frame;
        __asm__("" : "+r"(known)); /* not to be taken for `frame`, which the processor would have to wait for */
        if (frame != link->frame || hk_exact_place(known, way) != link->place)
            break;
        frame = hk_word_at((const void *)known, hk_exact_previous(way));
    }
    *next = frame;
    return (uint32_t)(link - &chain.link[at]);
}

static inline __attribute__((always_inline)) void remember(uintptr_t frame, int way)
{
    uint64_t power = HK_KEY_BASE, rest = 0;
    chain.count = 0;
    for (; frame != 0; frame = hk_word_at((const void *)frame, hk_exact_previous(way))) {
        if (chain.count == MOST_FRAMES) {
            chain.count = 0;
            return;
        }
        *index_of(frame) = (uint16_t)chain.count;
        chain.link[chain.count++] = (struct link){frame, hk_exact_place(frame, way)};
    }
    for (uint32_t i = chain.count; i-- > 0; power *= HK_KEY_BASE) {
        rest += chain.link[i].place * power;
        chain.reach[i] = (struct reach){power, rest};
    }
}

static inline __attribute__((always_inline)) uint64_t key_by_chain(const void *state, uint64_t key, int way)
{
    uintptr_t frame = hk_exact_innermost(state, way);
    uint32_t walked = 0;
    while (frame != 0) {
        uint32_t at = *index_of(frame), same = 0;
        if (at < chain.count && chain.link[at].frame == frame) {
            uintptr_t next;
            same = unchanged(at, &next, way);
            if (next == 0 && at + same == chain.count) {
                key = key * chain.reach[at].power + chain.reach[at].rest;
                hk_exact_stacks.shortened++;
                choose_way(walked + same);
                if (walked > NEW_FRAMES)
                    remember(hk_exact_innermost(state, way), way);
                return key;
            }
            for (uint32_t i = at; i < at + same; i++)
                key = (key + chain.link[i].place) * HK_KEY_BASE;
            frame = next;
        }
        if (same == 0) {
            key = (key + hk_exact_place(frame, way)) * HK_KEY_BASE;
            frame = hk_word_at((const void *)frame, hk_exact_previous(way));
            same = 1;
        }
        walked += same;
    }
    choose_way(walked);
    if (walked >= HK_LONG)
        remember(hk_exact_innermost(state, way), way);
    return key;
}

uint64_t hk_exact_key_long(const void *state, uint64_t start)
{
    switch (hk_exact_stacks.way) {
    case HK_WAY_3_11:
        return key_by_chain(state, start, HK_WAY_3_11);
    case HK_WAY_3_12:
        return key_by_chain(state, start, HK_WAY_3_12);
    default:
        return key_by_chain(state, start, HK_WAY_OBJECTS);
    }
}
