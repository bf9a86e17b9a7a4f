/* Which stack is this? For exact recording, with every allocation.
 *
 * A stack is known by a number, its key: its instruction pointers, innermost first, as the digits of a number in an odd base,
 * modulo 2^64. That is two or three loads a frame; no code object is looked at, and lines are the
 * reader's work. Two stacks have the same key only if differences below 2^48 cancel out modulo 2^64. A cache knows
 * the site of a key; behind it is a table of all keys (exact_stack.c); the recorder walks the stack itself only when the key is
 * new.
 *
 * Deep stacks: from 3.13 on frames carry marks, by which a walk ends after some frames (exact_marks.c); before, what lies beyond the
 * innermost frames is compared with what lay there last (exact_seen.c), as on all versions a stack is whose key is new. The key is the
 * same.
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
#define HK_KEY_THREAD 0xe7037ed1a0b428dbu
#define HK_KEY_BITS 15 /* entries of the cache: 2^15 */
#define HK_KEY_APART_BITS 11
#define HK_KEY_NATIVE_BITS 14

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
#define HK_LONG 16 /* frames; a stack that is longer is worth a mark */
#define HK_NEAR 8  /* where there are no marks: of a stack that is longer the others are compared with the last one's */
#define HK_FAR 2 /* frames before one with a mark; a walk that passes so many costs patience */
#define HK_MARK_BITS 12 /* marks: 2^12, by the frame's address */
#define HK_MARKS_BYTES (sizeof(struct hk_frame_mark) << HK_MARK_BITS)
#define HK_MARKS_NONE ((uintptr_t)1 << 62) /* no pointer is near */

/* An entry of a cache: the key's lower 44 bits, and the site, as a block's word has it; 0: empty. The upper bits say which entry it
 * is; a few between them are not looked at. */
typedef uint64_t hk_key_entry;
#define HK_KEY_SITE_BITS (32 - HK_SLOT_SITE_SHIFT)

static inline hk_key_entry hk_key_entry_of(uint64_t key, uint32_t word)
{
    return key << HK_KEY_SITE_BITS | word >> HK_SLOT_SITE_SHIFT;
}

/* hk_slot_word of the site and no slack; 0: it is another key's. */
static inline __attribute__((always_inline)) uint32_t hk_key_word(hk_key_entry entry, uint64_t key)
{
    uint64_t rest = entry ^ key << HK_KEY_SITE_BITS;
    return __builtin_expect(rest >> HK_KEY_SITE_BITS == 0, 1) ? (uint32_t)rest << HK_SLOT_SITE_SHIFT : 0;
}

struct hk_exact_stacks {
    hk_key_entry *cache, *apart; /* of the main lane; of the other, under hk_exact_apart */
    hk_key_entry *native;        /* of malloc's blocks, under the same; NULL: they are not recorded */
    uint64_t seed, apart_seed;
    uintptr_t marks;     /* HK_MARKS_NONE: there are none */
    uint64_t generation; /* of marks */
    uint64_t shortened;  /* so many stacks were not walked to their end, of those that hk_exact_site_main was asked for */
    uint32_t unmarked;   /* so many frames are walked on the usual way, if there is no mark */
    bool compares;       /* a test: no stack goes the usual way */
    uint32_t patience;   /* so many far walks from now on hk_exact_site_main is to place marks near by */
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
bool hk_exact_stacks_init(const hk_py_layout *layout, bool with_native);
/* This thread has a thread state: where such are found may be told from now on. */
void hk_exact_stacks_found(void);

void hk_exact_keys_forget(void); /* the seed is another: no key that was known comes again */
void hk_exact_stacks_say(void); /* into the record, if a test asked for comparisons */
void hk_exact_sites_forget(void); /* the recorder has begun anew */

/* The site of this thread's stack, whatever is known of stacks (main lane), or of a thread whose state is given, or NULL
 * (hk_exact_apart is held). */
uint32_t hk_exact_site_main(int domain);
/* The same where stacks may be walked, and the key is known, but the cache does not have it. */
uint32_t hk_exact_site_missed(int domain, const void *state, uint64_t key);
uint32_t hk_exact_site_apart(int domain, const void *state);
/* Of a block of malloc's: its site is where machine code called malloc, and the frames of the thread's state, which need not be the running
 * one. */
uint32_t hk_exact_site_native(const void *state);

/* --- exact_seen.c: the main lane --- */

bool hk_exact_seen_init(void); /* false: no memory; the others are not to be called then */
/* The key, by a look at all frames. key: what it was found to be on the usual way. */
uint64_t hk_exact_look(const void *state, uint64_t start, uint64_t key);
/* The same of a stack whose frames before this one make this key. */
uint64_t hk_exact_key_beyond(const void *state, uintptr_t frame, uint64_t key);
bool hk_exact_seen_none(void); /* of so long a stack no frames are kept */
void hk_exact_seen_forget(void);     /* the recorder is about to be asked for another stack than was looked at last */
/* For the recorder: the stack that was looked at just now; see hk_stack_known. -1: it is to be walked. */
int hk_exact_seen_frames(const void *state, struct hk_frame *frames, int max, struct hk_stack_known *known);

/* --- exact_marks.c: where way is HK_WAY_3_13; the main lane --- */

void hk_exact_marks_init(const hk_py_layout *layout);
/* The key of a stack of any depth; places marks. */
uint64_t hk_exact_key_deep(const void *state, uint64_t start);

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

static inline __attribute__((always_inline)) uintptr_t hk_exact_innermost(const void *state, int way)
{
    uintptr_t frame = hk_word_at(state, hk_exact_stacks.thread_frame);
    return HK_WAY_HAS_CFRAME(way) ? hk_word_at((const void *)frame, hk_exact_stacks.cframe_current) : frame; /* there always is one */
}

static inline __attribute__((always_inline)) intptr_t hk_exact_previous(int way)
{
    return way <= HK_WAY_3_13 ? HK_WAY_PREVIOUS(way) : hk_exact_stacks.frame_previous;
}

/* What a frame adds to the key. */
static inline __attribute__((always_inline)) uintptr_t hk_exact_place(uintptr_t frame, int way)
{
    const struct hk_exact_stacks *s = &hk_exact_stacks;
    uintptr_t place = hk_word_at((const void *)frame, way <= HK_WAY_3_13 ? HK_WAY_INSTRUCTION : s->frame_instruction);
    if (way == HK_WAY_OBJECTS)
        place = hk_word_at((const void *)frame, s->frame_code) + (uint32_t)place * HK_KEY_INDEX;
    return place;
}

static inline __attribute__((always_inline)) uint64_t hk_exact_jit(const void *state, uint64_t key, int way)
{
    const intptr_t executor = hk_exact_stacks.thread_executor;
    if ((way == HK_WAY_3_13 || way == HK_WAY_FRAMES) && executor >= 0 && hk_word_at(state, executor) != 0)
        key ^= HK_KEY_INDEX; /* in JIT code: the site is to say so */
    return key;
}

/* By a walk of all frames. */
static inline __attribute__((always_inline)) uint64_t hk_exact_key(const void *state, uint64_t key, int way)
{
    const intptr_t previous = hk_exact_previous(way);
    for (uintptr_t frame = hk_exact_innermost(state, way); frame != 0; frame = hk_word_at((const void *)frame, previous))
        key = (key + hk_exact_place(frame, way)) * HK_KEY_BASE;
    return hk_exact_jit(state, key, way);
}

/* The same, by a walk of the innermost frames only. Unless no mark is near where there are some, or it is time for marks nearer by: then
 * false, and hk_exact_site_main finds the key. Main lane only. */
static inline __attribute__((always_inline)) bool hk_exact_key_near(const void *state, uint64_t *start, int way)
{
    struct hk_exact_stacks *s = &hk_exact_stacks;
    const uintptr_t marks = s->marks;
    const intptr_t previous = hk_exact_previous(way);
    uint64_t key = *start;
    uint32_t left = s->unmarked;
    for (uintptr_t frame = hk_exact_innermost(state, way); frame != 0; frame = hk_word_at((const void *)frame, previous)) {
        key = (key + hk_exact_place(frame, way)) * HK_KEY_BASE;
        uintptr_t distance = way == HK_WAY_3_13 ? hk_word_at((const void *)frame, HK_WAY_LOCALS) - marks : UINTPTR_MAX;
        if (distance < HK_MARKS_BYTES) {
            const struct hk_frame_mark *mark = (const void *)(marks + distance);
            if (__builtin_expect(mark->frame == frame && mark->generation == s->generation, 1)) {
                key = key * mark->power + mark->rest;
                break;
            }
        }
        if (__builtin_expect(--left == 0, 0)) {
            if (way == HK_WAY_3_13 || s->compares)
                return false;
            *start = hk_exact_key_beyond(state, hk_word_at((const void *)frame, previous), key);
            return true;
        }
    }
    if (way == HK_WAY_3_13 && s->unmarked - left >= HK_FAR && __builtin_expect(--s->patience == 0, 0))
        return false;
    *start = hk_exact_jit(state, key, way);
    return true;
}

static inline uint64_t hk_exact_start(int domain)
{
    return hk_exact_stacks.seed + (uint64_t)domain * HK_KEY_DOMAIN + hk_exact_thread * HK_KEY_THREAD;
}

static inline hk_key_entry *hk_exact_entry(uint64_t key)
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
    uint32_t word = hk_key_word(*hk_exact_entry(key), key);
    if (__builtin_expect(word != 0, 1))
        return hk_slot_site(word);
    return hk_exact_site_missed(domain, state, key);
}

#endif
