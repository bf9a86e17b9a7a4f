/* Which stack is this? For exact recording, with every allocation.
 *
 * A stack is known by a number, its key: its instruction pointers, innermost first, as the digits of a number in an odd base,
 * modulo 2^64. That is two or three loads a frame; no code object is looked at, and lines are the
 * reader's work. Two stacks have the same key only if differences below 2^48 cancel out modulo 2^64. A cache knows
 * the site of a key; the recorder walks the stack itself only when the key is not there.
 *
 * Deep stacks, 3.13 on: frames carry marks, by which a walk ends after some frames; see exact_marks.c. The key is the same.
 *
 * An instruction pointer stands for a place in the program only while its code object lives. So when one dies all keys become
 * worthless (hk_exact_stacks.seed; see exact.c on the quarantine). */
#ifndef HK_HOSTS_CPYTHON_EXACT_STACK_H
#define HK_HOSTS_CPYTHON_EXACT_STACK_H

#include <string.h>

#include "heap/slots.h"
#include "hosts/cpython/internal.h"
#include "record/exact.h"

#define HK_KEY_BASE 0x9e3779b97f4a7c15u
#define HK_KEY_INDEX 0xd6e8feb86659fd93u  /* of a frame object's instruction */
#define HK_KEY_DOMAIN 0xa0761d6478bd642fu
#define HK_KEY_BITS 15 /* entries of the cache: 2^15 */
#define HK_KEY_APART_BITS 11

/* How frames are found. Constants where they are used: a set of allocator functions is compiled for each. The first three
 * know the offsets, the others look them up. */
enum hk_exact_way {
    HK_WAY_3_11, /* by the thread's cframe */
    HK_WAY_3_12, /* the same, with other offsets */
    HK_WAY_3_13, /* and later */
    HK_WAY_FRAMES, /* 3.13 on, where the offsets are not the known ones */
    HK_WAY_OBJECTS, /* 3.9, 3.10 */
    HK_WAYS,
};
#define HK_WAY_HAS_CFRAME(way) ((way) == HK_WAY_3_11 || (way) == HK_WAY_3_12)
#define HK_WAY_PREVIOUS(way) ((way) == HK_WAY_3_11 ? 48 : 8)
#define HK_WAY_INSTRUCTION 56
#define HK_WAY_LOCALS 40 /* of HK_WAY_3_13: where a mark is */

/* A frame's mark: what the frame's callers add to a key. It begins like an object, since it lies where CPython expects one:
 * an immortal `object()`. */
struct hk_frame_mark {
    uint64_t references;
    const void *type;
    uintptr_t frame;      /* whose it is; 0: nobody's */
    uint64_t generation;  /* another than hk_exact_stacks.generation: worth nothing */
    uint64_t power, rest; /* key of the stack = key of the frames up to this one * power + rest */
    uint64_t unused[2];
};
#define HK_MARK_BITS 12 /* marks: 2^12, by the frame's address */
#define HK_MARKS_BYTES (sizeof(struct hk_frame_mark) << HK_MARK_BITS)
#define HK_MARKS_NONE ((uintptr_t)1 << 62) /* no pointer is near */

struct hk_key_entry {
    uint64_t key;
    uint32_t word; /* hk_slot_word of the site and no slack */
    uint32_t unused;
};

struct hk_exact_stacks {
    struct hk_key_entry *cache, *apart; /* of the main lane; of the other, under hk_exact_apart */
    uint64_t seed, apart_seed;
    uintptr_t marks;     /* HK_MARKS_NONE: there are none */
    uint64_t generation; /* of marks */
    uint32_t unmarked;   /* so many frames without a mark are walked on the way; more: hk_exact_key_deep */
    intptr_t thread_frame, cframe_current, frame_previous, frame_instruction, frame_code;
    intptr_t thread_executor; /* -1: none */

    /* Where this thread's state is: at *state_at; at fs + state_tls; or a function is to be asked. */
    void *const *state_at;
    intptr_t state_tls;
    void *(*state)(void);
    uint8_t way; /* enum hk_exact_way */
};
extern struct hk_exact_stacks hk_exact_stacks;

/* False: no memory. */
bool hk_exact_stacks_init(const hk_py_layout *layout);
/* This thread has a thread state: where such are found may be told from now on. */
void hk_exact_stacks_found(void);

void hk_exact_sites_forget(void); /* the recorder has begun anew */

/* The site of this thread's stack, whatever is known of stacks (main lane), or of a thread whose state is given, or NULL
 * (hk_exact_apart is held). */
uint32_t hk_exact_site_main(int domain);
uint32_t hk_exact_site_apart(int domain, const void *state);

/* --- exact_marks.c: where way is HK_WAY_3_13; the main lane --- */

void hk_exact_marks_init(const hk_py_layout *layout);
/* The key of a stack of any depth; places marks. */
uint64_t hk_exact_key_deep(const void *state, uint64_t start);
/* A key was found by marks. True: a walk of all frames gives the same. Else marks are worthless from now on. */
bool hk_exact_marks_agree(const void *state, uint64_t start, uint64_t key);
void hk_exact_marks_say(void); /* into the record, if a test asked for comparisons */

static inline uintptr_t hk_word_at(const void *base, intptr_t offset)
{
    uintptr_t word;
    memcpy(&word, (const char *)base + offset, sizeof word);
    return word;
}

/* This thread's state; NULL: it has none, or a function is to be asked. */
static inline __attribute__((always_inline)) const void *hk_exact_state(void)
{
    const struct hk_exact_stacks *s = &hk_exact_stacks;
    if (s->state_at != NULL)
        return *s->state_at;
#if defined(__x86_64__)
    if (s->state_tls != 0) {
        const void *state;
        __asm__ volatile("movq %%fs:(%1), %0" : "=r"(state) : "r"(s->state_tls));
        return state;
    }
#endif
    return NULL;
}

static inline __attribute__((always_inline)) uint64_t hk_exact_key(const void *state, uint64_t key, int way)
{
    const struct hk_exact_stacks *s = &hk_exact_stacks;
    uintptr_t frame = hk_word_at(state, s->thread_frame);
    intptr_t previous = s->frame_previous, instruction = s->frame_instruction;
    const intptr_t code = s->frame_code;
    if (HK_WAY_HAS_CFRAME(way)) /* there always is one */
        frame = hk_word_at((const void *)frame, s->cframe_current);
    if (way <= HK_WAY_3_13) {
        previous = HK_WAY_PREVIOUS(way);
        instruction = HK_WAY_INSTRUCTION;
    }
    for (; frame != 0; frame = hk_word_at((const void *)frame, previous)) {
        uintptr_t place = hk_word_at((const void *)frame, instruction);
        if (way == HK_WAY_OBJECTS)
            place = hk_word_at((const void *)frame, code) + (uint32_t)place * HK_KEY_INDEX;
        key = (key + place) * HK_KEY_BASE;
    }
    if ((way == HK_WAY_3_13 || way == HK_WAY_FRAMES) && s->thread_executor >= 0 && hk_word_at(state, s->thread_executor) != 0)
        key ^= HK_KEY_INDEX; /* in JIT code: the site is to say so */
    return key;
}

/* The same by marks. False: the stack is deep and no mark is near: hk_exact_site_main finds the key. Main lane only. */
static inline __attribute__((always_inline)) bool hk_exact_key_near(const void *state, uint64_t *start, int way)
{
    const struct hk_exact_stacks *s = &hk_exact_stacks;
    if (way != HK_WAY_3_13) {
        *start = hk_exact_key(state, *start, way);
        return true;
    }
    uint64_t key = *start;
    const uintptr_t marks = s->marks;
    uintptr_t frame = hk_word_at(state, s->thread_frame);
    for (uint32_t left = s->unmarked; frame != 0; frame = hk_word_at((const void *)frame, HK_WAY_PREVIOUS(way))) {
        key = (key + hk_word_at((const void *)frame, HK_WAY_INSTRUCTION)) * HK_KEY_BASE;
        uintptr_t distance = hk_word_at((const void *)frame, HK_WAY_LOCALS) - marks;
        if (distance < HK_MARKS_BYTES) {
            const struct hk_frame_mark *mark = (const void *)(marks + distance);
            if (__builtin_expect(mark->frame == frame && mark->generation == s->generation, 1)) {
                key = key * mark->power + mark->rest;
                break;
            }
        }
        if (__builtin_expect(--left == 0, 0))
            return false;
    }
    if (s->thread_executor >= 0 && hk_word_at(state, s->thread_executor) != 0)
        key ^= HK_KEY_INDEX;
    *start = key;
    return true;
}

static inline uint64_t hk_exact_start(int domain)
{
    return hk_exact_stacks.seed + (uint64_t)domain * HK_KEY_DOMAIN;
}

static inline struct hk_key_entry *hk_exact_entry(uint64_t key)
{
    return &hk_exact_stacks.cache[key >> (64 - HK_KEY_BITS)];
}

/* Of the main lane, where stacks may be walked. */
static inline __attribute__((always_inline)) uint32_t hk_exact_site_here(int domain, int way)
{
    const void *state = hk_exact_state();
    if (__builtin_expect(state == NULL, 0))
        return hk_exact_site_main(domain);
    uint64_t key = hk_exact_start(domain);
    if (__builtin_expect(!hk_exact_key_near(state, &key, way), 0))
        return hk_exact_site_main(domain);
    struct hk_key_entry *entry = hk_exact_entry(key);
    if (__builtin_expect(entry->key == key, 1))
        return hk_slot_site(entry->word);
    return hk_exact_site_main(domain);
}

#endif
