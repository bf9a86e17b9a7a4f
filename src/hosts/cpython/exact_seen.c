/* The stack that was looked at last, frame by frame: the next is mostly the same but for its innermost frames.
 *
 * A walk waits for each frame's memory before it knows where the next is. A stack that is known needs no such wait: the
 * processor reads ahead while each frame's link and instruction are compared with what they were. So a look is a walk of all frames all
 * the same, and needs no proof; but what is known of a frame whose callers are as they were need not be found out again: its key, which
 * is that of the whole stack without marks, and what the recorder was told of it.
 *
 * Two kinds of looks: at the frames beyond the innermost, with every allocation where there are no marks; and, when the key is new, at
 * all of them, since the recorder is told of those that it does not know. The second does not compare again what the first just has.
 *
 *      level    outermost first: frame, instruction, what it and its callers add to a key (as in exact_marks.c), and how many of these
 *               frames the recorder sees, if it was told
 *      index    frame -> its level; what it says is looked at before it is believed
 *
 * A frame of a level is read only when the frame before it, or the thread's state, has led to it: it may have ended.
 *
 * Main lane only: the main interpreter's lock is held. */
#include "hosts/cpython/exact_stack.h"

#define MOST_FRAMES 16384u /* of longer stacks nothing is kept */
#define INDEX_BITS 12

struct frame {
    uintptr_t frame, place;
};

static struct {
    struct level {
        uintptr_t frame, place;
        uint64_t rest;
        uint32_t recorded; /* of the first `told` levels */
    } *level; /* NULL: there is no memory. Before the first is one without a frame: what the outermost frame says of its caller */
    struct frame *fresh;
    uint64_t *power; /* of HK_KEY_BASE */
    const void *state; /* whose stack it is */
    uint32_t count, told; /* told: so many levels are as the recorder knows them */
    uint32_t powers, looks;
    uint32_t sure; /* levels that were as they are known when a look beyond the innermost gave `key` */
    uint64_t key;
    bool is_long; /* so much that none of it was kept */
    uint16_t index[1 << INDEX_BITS];
} seen;

bool hk_exact_seen_init(void)
{
    struct level *level = hk_os_map((MOST_FRAMES + 1) * sizeof *level);
    seen.level = level != NULL ? level + 1 : NULL;
    seen.fresh = hk_os_map(MOST_FRAMES * sizeof *seen.fresh);
    seen.power = hk_os_map((MOST_FRAMES + 1) * sizeof *seen.power);
    if (seen.level == NULL || seen.fresh == NULL || seen.power == NULL)
        return false;
    seen.power[0] = 1;
    return true;
}

bool hk_exact_seen_none(void)
{
    return seen.is_long;
}

void hk_exact_seen_forget(void)
{
    seen.count = seen.told = seen.sure = 0;
}

static inline uint16_t *index_of(uintptr_t frame)
{
    return &seen.index[(frame >> 3) * HK_KEY_BASE >> (64 - INDEX_BITS)];
}

static uint64_t power_of(uint32_t exponent)
{
    for (; seen.powers < exponent; seen.powers++)
        seen.power[seen.powers + 1] = seen.power[seen.powers] * HK_KEY_BASE;
    return seen.power[exponent];
}

/* True if the frame at a level, which was reached, and all its callers are as they were; the first so many levels are known to be. Else
 * *broken: the first that is not, or whose caller is another. */
static inline __attribute__((always_inline)) bool is_unchanged(uint32_t at, uint32_t sure, uint32_t *broken, int way)
{
    const struct level *level = &seen.level[at], *last = &seen.level[sure];
#pragma GCC unroll 4
    for (; level >= last; level--) {
        uintptr_t known = level->frame;
        __asm__("" : "+r"(known)); /* not to be taken for what the frame before said, for which the processor would have to wait */
        if (hk_exact_place(known, way) != level->place || hk_word_at((const void *)known, hk_exact_previous(way)) != level[-1].frame) {
            *broken = (uint32_t)(level - seen.level);
            return false;
        }
    }
    return true;
}

static void keep(uint32_t base, uint32_t fresh)
{
    uint64_t rest = base > 0 ? seen.level[base - 1].rest : 0;
    if (seen.told > base)
        seen.told = base;
    seen.count = base;
    for (uint32_t at = base; fresh > 0; at++) {
        const struct frame *frame = &seen.fresh[--fresh];
        rest += frame->place * power_of(at + 1);
        seen.level[at] = (struct level){frame->frame, frame->place, rest, 0};
        *index_of(frame->frame) = (uint16_t)at;
        seen.count = at + 1;
    }
}

/* From `frame` outwards, of which so many levels need not be looked at. is_whole: it is the innermost. */
static inline __attribute__((always_inline)) uint64_t look(const void *state, uintptr_t frame, uint64_t start, uint32_t sure, bool is_whole,
                                                            int way)
{
    uint32_t looks = ++seen.looks, fresh = 0, base = 0, broken, at;
    uint64_t key = start;
    const uintptr_t first = frame;
    const intptr_t previous = hk_exact_previous(way);
    bool fits = true;
    while (frame != 0) {
        at = *index_of(frame);
        if (at >= seen.count || seen.level[at].frame != frame) {
            broken = at = 0;
        } else if (at < sure || is_unchanged(at, sure, &broken, way)) {
            base = at + 1;
            key = key * power_of(base) + seen.level[at].rest;
            break;
        }
        for (uint32_t some = at - broken + 1; some > 0; some--) { /* the frames from that level to the one that is not as it was */
            uintptr_t place = hk_exact_place(frame, way);
            key = (key + place) * HK_KEY_BASE;
            if (fresh < MOST_FRAMES)
                seen.fresh[fresh++] = (struct frame){frame, place};
            else
                fits = false;
            frame = hk_word_at((const void *)frame, previous);
        }
    }
    fits &= base + fresh <= MOST_FRAMES;
    if (fits && (is_whole || fresh > 0))
        keep(base, fresh);
    seen.state = state;
    seen.is_long = !fits;
    bool alone = seen.looks == looks; /* else a signal handler's look was between */
    if (!fits || !alone)
        hk_exact_seen_forget();
    for (frame = first; !alone && frame != 0; frame = hk_word_at((const void *)frame, previous))
        start = (start + hk_exact_place(frame, way)) * HK_KEY_BASE;
    if (!alone)
        return start;
    seen.sure = is_whole ? 0 : base + fresh;
    seen.key = key;
    return key;
}

static inline __attribute__((always_inline)) uint64_t look_whole(const void *state, uint64_t start, uint64_t key, int way)
{
    return hk_exact_jit(state, look(state, hk_exact_innermost(state, way), start, seen.key == key ? seen.sure : 0, true, way), way);
}

uint64_t hk_exact_look(const void *state, uint64_t start, uint64_t key)
{
    switch (hk_exact_stacks.way) {
    case HK_WAY_3_11:
        return look_whole(state, start, key, HK_WAY_3_11);
    case HK_WAY_3_12:
        return look_whole(state, start, key, HK_WAY_3_12);
    case HK_WAY_3_13:
        return look_whole(state, start, key, HK_WAY_3_13);
    case HK_WAY_FRAMES:
        return look_whole(state, start, key, HK_WAY_FRAMES);
    default:
        return look_whole(state, start, key, HK_WAY_OBJECTS);
    }
}

uint64_t hk_exact_key_beyond(const void *state, uintptr_t frame, uint64_t key)
{
    switch (hk_exact_stacks.way) {
    case HK_WAY_3_11:
        return look(state, frame, key, 0, false, HK_WAY_3_11);
    case HK_WAY_3_12:
        return look(state, frame, key, 0, false, HK_WAY_3_12);
    default:
        return look(state, frame, key, 0, false, HK_WAY_OBJECTS);
    }
}

int hk_exact_seen_frames(const void *state, struct hk_frame *frames, int max, struct hk_stack_known *known)
{
    uint32_t told = seen.told, at = seen.count, most = (uint32_t)max;
    int count = 0;
    if (seen.level == NULL || seen.state != state || seen.count == 0 || seen.count > (uint32_t)max)
        goto unknown;
    while (told > 0 && seen.level[told - 1].recorded > known->levels)
        told--;
    if (told > 0 && seen.level[told - 1].recorded == known->levels)
        most = known->enough;
    for (; at > told && (uint32_t)count < most; at--) {
        int is_recorded = hk_py_frame_at(hk_python.layout, seen.level[at - 1].frame, &frames[count]);
        if (is_recorded < 0)
            goto unknown;
        seen.level[at - 1].recorded = (uint32_t)is_recorded;
        count += is_recorded;
    }
    known->levels = told > 0 ? seen.level[told - 1].recorded : 0;
    known->told = true;
    seen.told = told;
    if (at == told) {
        for (uint32_t recorded = known->levels; at < seen.count; at++)
            seen.level[at].recorded = recorded += seen.level[at].recorded;
        seen.told = seen.count;
    }
    return count;
unknown:
    seen.told = 0;
    return -1;
}
