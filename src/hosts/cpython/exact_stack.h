/* Which stack is this? For exact recording, with every allocation.
 *
 * A stack is known by a number, its key: the sum over its frames of (instruction pointer * an odd power of the frame's distance
 * from the innermost), modulo 2^64. That is two or three loads a frame; no code object is looked at, and lines are the
 * reader's work. Two stacks have the same key only if differences below 2^48 cancel out modulo 2^64. A cache knows
 * the site of a key; the recorder walks the stack itself only when the key is not there.
 *
 * An instruction pointer stands for a place in the program only while its code object lives. So when one dies all keys become
 * worthless (hk_exact_stacks.seed; see exact.c on the quarantine). */
#ifndef HK_HOSTS_CPYTHON_EXACT_STACK_H
#define HK_HOSTS_CPYTHON_EXACT_STACK_H

#include <string.h>

#include "hosts/cpython/internal.h"
#include "record/exact.h"

#define HK_KEY_POWER 0x9e3779b97f4a7c15u  /* of a frame's place */
#define HK_KEY_INDEX 0xd6e8feb86659fd93u  /* of a frame object's instruction */
#define HK_KEY_DOMAIN 0xa0761d6478bd642fu
#define HK_KEY_BITS 15 /* entries of the cache: 2^15 */
#define HK_KEY_APART_BITS 11

/* How frames are found. Constants where they are used: a set of allocator functions is compiled for each. */
enum hk_exact_way {
    HK_WAY_OBJECTS, /* 3.9, 3.10 */
    HK_WAY_CFRAME,  /* 3.11, 3.12 */
    HK_WAY_FRAMES,  /* 3.13 on */
    HK_WAYS,
};

struct hk_key_entry {
    uint64_t key, site;
};

struct hk_exact_stacks {
    struct hk_key_entry *cache, *apart; /* of the main lane; of the other, under hk_exact_apart */
    uint64_t seed, apart_seed;
    int32_t thread_frame, cframe_current, frame_previous, frame_instruction, frame_code;
    int32_t thread_executor; /* -1: none */

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

/* The site of a key that the cache did not know (here), or of a thread without a stack (blind). HK_EXACT_NONE: none. */
uint32_t hk_exact_site_missed(struct hk_key_entry *entry, uint64_t key, int domain, uint8_t flags);
uint32_t hk_exact_site_blind(int domain, bool apart);
void hk_exact_sites_forget(void); /* the recorder has begun anew */

static inline uintptr_t hk_word_at(const void *base, int32_t offset)
{
    uintptr_t word;
    memcpy(&word, (const char *)base + offset, sizeof word);
    return word;
}

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
    return s->state();
}

static inline __attribute__((always_inline)) uint64_t hk_exact_key(const void *state, uint64_t sum, int way)
{
    const struct hk_exact_stacks *s = &hk_exact_stacks;
    uint64_t power = HK_KEY_POWER;
    uintptr_t frame = hk_word_at(state, s->thread_frame);
    const int32_t previous = s->frame_previous, instruction = s->frame_instruction, code = s->frame_code;
    if (way == HK_WAY_CFRAME && frame != 0)
        frame = hk_word_at((const void *)frame, s->cframe_current);
    for (; frame != 0; frame = hk_word_at((const void *)frame, previous), power *= HK_KEY_POWER) {
        uintptr_t place = hk_word_at((const void *)frame, instruction);
        if (way == HK_WAY_OBJECTS)
            place = hk_word_at((const void *)frame, code) + (uint32_t)place * HK_KEY_INDEX;
        sum += place * power;
    }
    if (way == HK_WAY_FRAMES && s->thread_executor >= 0 && hk_word_at(state, s->thread_executor) != 0)
        sum ^= HK_KEY_INDEX; /* in JIT code: the site is to say so */
    return sum;
}

/* Of the main lane, where stacks may be walked. */
static inline __attribute__((always_inline)) uint32_t hk_exact_site_here(int domain, int way)
{
    const void *state = hk_exact_state();
    if (__builtin_expect(state == NULL, 0))
        return hk_exact_site_blind(domain, false);
    uint64_t key = hk_exact_key(state, hk_exact_stacks.seed + (uint64_t)domain * HK_KEY_DOMAIN, way);
    struct hk_key_entry *entry = &hk_exact_stacks.cache[key >> (64 - HK_KEY_BITS)];
    if (__builtin_expect(entry->key == key, 1))
        return (uint32_t)entry->site;
    return hk_exact_site_missed(entry, key, domain, 0);
}

/* The same where it is not known whether they may (main) or by a thread whose state is given (apart; hk_exact_apart is held). */
uint32_t hk_exact_site_main(int domain);
uint32_t hk_exact_site_apart(int domain, const void *state);

#endif
