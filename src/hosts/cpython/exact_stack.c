/* Keys of stacks, their cache, and where a thread's state is; see exact_stack.h.
 *
 * CPython tells a thread's state by a function, of which we need one load with every allocation. Where the function's code is
 * one of the few that compilers make of it, the load is made here:
 *
 *      mov disp(%rip), %rax                  a static interpreter until 3.11: a variable
 *      mov disp(%rip), %rax; mov d(%rax)...  the same in a shared library, by way of its table of addresses
 *      mov %fs:disp, %rax                    a static one from 3.12 on: thread-local
 *      lea disp(%rip), %rdi; call ...        the same in a shared library. It was loaded with the program, so its
 *                                            variables lie at the same distance from every thread's pointer
 *
 * What was found so is believed only if it agrees with the function where a state is there. */
#include "hosts/cpython/exact_stack.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "hosts/native/stack.h"

struct hk_exact_stacks hk_exact_stacks;

#define BELIEVED 64 /* new stacks, after one of so many frames that none are kept: their marks are not looked at */

static struct {
    uint32_t believed; /* so many are left of these */
    uint64_t done, differ;
} comparison;

static bool may_look; /* exact_seen.c has memory */
static uint32_t blind[2][HK_DOMAINS][HK_CAPTURE_THREADS + 1]; /* [apart][domain][thread]: a site + 1; 0: not asked for yet */

/* --- where the state is --- */

#if defined(__x86_64__)
/* Looked up, since our own variables need no such call, which allocates at a thread's first. */
static void *thread_local_address(void *index)
{
    void *(*get)(void *) = (void *(*)(void *))dlsym(RTLD_DEFAULT, "__tls_get_addr");
    return get != NULL ? get(index) : NULL;
}

static int32_t displacement(const uint8_t *code)
{
    int32_t value;
    memcpy(&value, code, sizeof value);
    return value;
}

static bool begins(const uint8_t **code, const char *bytes, size_t count)
{
    if (memcmp(*code, bytes, count) != 0)
        return false;
    *code += count;
    return true;
}

static void read_code(const uint8_t *code, void *const **at, intptr_t *tls)
{
    begins(&code, "\xf3\x0f\x1e\xfa", 4); /* endbr64 */
    begins(&code, "\x55\x48\x89\xe5", 4); /* a frame pointer */
    begins(&code, "\x48\x83\xec\x08", 4);
    if (begins(&code, "\x64\x48\x8b\x04\x25", 5)) {
        *tls = displacement(code);
    } else if (begins(&code, "\x48\x8b\x05", 3)) {
        char *variable = (char *)(uintptr_t)code + 4 + displacement(code);
        code += 4;
        if (begins(&code, "\x48\x8b\x80", 3))
            variable = *(char **)variable + displacement(code);
        else if (begins(&code, "\x48\x8b", 2))
            return;
        *at = (void *const *)variable;
    } else if (begins(&code, "\x66\x48\x8d\x3d", 4)) {
        void *index = (char *)(uintptr_t)code + 4 + displacement(code);
        code += 4;
        bool calls = begins(&code, "\x66\x66\x48\xe8", 4) || begins(&code, "\x66\x48\xff\x15", 4);
        char *variable = calls ? thread_local_address(index) : NULL;
        if (variable != NULL)
            *tls = variable - (char *)__builtin_thread_pointer();
    }
}

void hk_exact_stacks_found(void)
{
    struct hk_exact_stacks *s = &hk_exact_stacks;
    void *const *at = NULL;
    intptr_t tls = 0;
    read_code((const uint8_t *)s->state, &at, &tls);
    const void *truth = s->state();
    if (truth == NULL)
        return;
    if (at != NULL && *at == truth)
        s->state_at = at;
    else if (at == NULL && tls != 0 && *(void **)((char *)__builtin_thread_pointer() + tls) == truth)
        s->state_tls = tls;
}
#else
void hk_exact_stacks_found(void)
{
}
#endif

/* --- sites --- */

bool hk_exact_stacks_init(const hk_py_layout *layout, bool with_native)
{
    struct hk_exact_stacks *s = &hk_exact_stacks;
    s->cache = hk_os_map(sizeof *s->cache << HK_KEY_BITS);
    s->apart = hk_os_map(sizeof *s->apart << HK_KEY_APART_BITS);
    s->native = with_native ? hk_os_map(sizeof *s->native << HK_KEY_NATIVE_BITS) : NULL;
    if (s->cache == NULL || s->apart == NULL || (with_native && s->native == NULL))
        return false;
    hk_exact_sites_forget();
    s->seed = s->apart_seed = 1;
    s->state = layout->thread_state;
    s->thread_frame = layout->thread_frame;
    s->cframe_current = layout->cframe_current;
    s->frame_previous = layout->frame_previous;
    s->frame_instruction = layout->frame_instruction;
    s->frame_code = layout->frame_code;
    s->thread_executor = layout->thread_executor;
    if (layout->frames == HK_PY_FRAME_OBJECTS)
        s->way = HK_WAY_OBJECTS;
    else if (layout->cframe_current >= 0)
        s->way = layout->minor == 11 ? HK_WAY_3_11 : HK_WAY_3_12;
    else
        s->way = HK_WAY_3_13;
    s->marks = HK_MARKS_NONE;
    s->unmarked = UINT32_MAX;
    bool known = layout->frame_previous == HK_WAY_PREVIOUS(s->way) && layout->frame_instruction == HK_WAY_INSTRUCTION;
    if (s->way == HK_WAY_3_13 && !known)
        s->way = HK_WAY_FRAMES;
    if (s->way == HK_WAY_3_13)
        hk_exact_marks_init(layout);
    may_look = hk_exact_seen_init();
    if (may_look && s->way != HK_WAY_3_13 && s->way != HK_WAY_FRAMES)
        s->unmarked = HK_NEAR;
    s->compares = secure_getenv("HEAPKEEPER_TEST_COMPARE_STACKS") != NULL;
    if (s->compares && s->unmarked != UINT32_MAX)
        s->unmarked = 1;
    return s->way >= HK_WAY_3_13 || known;
}

void hk_exact_sites_forget(void)
{
    memset(blind, 0, sizeof blind);
}

/* --- all keys of the main lane, where the cache has lost some: a program may have a million stacks ---
 *
 * They stand in the order in which they came, since a program mostly does again what it did, in the same order: what the cache has lost is looked
 * for behind the key that was found last, where the processor reads ahead. If it is not there, in a table of numbers of keys: open addressing, at
 * most three quarters full, four bytes for each, the rest of which are bits of the key, so that a probe looks at a key only if it is most likely
 * the one. Keys of an older seed stay until the table is full. */

#define KEYS_FIRST_BITS 12
#define KEYS_MOST_BITS 21
#define KEYS_HUGE_BITS 19 /* from 2 MiB on: else most look-ups would wait for the kernel's tables of pages, too */
#define KEYS_MOST ((3u << KEYS_MOST_BITS) / 4)
#define KEYS_NEXT 4 /* between two that the cache has lost are others that it has */
#define NUMBER_BITS 21
#define NUMBER(slot) ((slot) & ((1u << NUMBER_BITS) - 1)) /* + 1; 0: the slot is empty */
_Static_assert(KEYS_MOST < 1u << NUMBER_BITS, "numbers fit");

struct known_key {
    uint32_t low, high; /* the key */
    uint32_t word;      /* hk_slot_word of the site and no slack */
};

static struct {
    struct known_key *list; /* NULL: none yet */
    uint32_t *slots;
    uint32_t bits, used, stale; /* stale: of used, when the seed changed last */
    uint32_t late; /* the one that was found last */
    bool failed;
} all_keys;

static inline uint64_t known_of(uint32_t number)
{
    return (uint64_t)all_keys.list[number].high << 32 | all_keys.list[number].low;
}

static inline uint32_t first_slot(uint64_t key)
{
    return (uint32_t)(key >> (64 - all_keys.bits));
}

static inline uint32_t slot_of(uint64_t key, uint32_t number)
{
    return (uint32_t)(key >> 32) << NUMBER_BITS | (number + 1);
}

static void place_key(uint64_t key, uint32_t number)
{
    uint32_t mask = (1u << all_keys.bits) - 1, at = first_slot(key);
    while (all_keys.slots[at] != 0)
        at = (at + 1) & mask;
    all_keys.slots[at] = slot_of(key, number);
}

/* A larger table, unless most keys are old; these are dropped. */
static bool grow_keys(void)
{
    uint32_t had = all_keys.bits, fresh = all_keys.used - all_keys.stale;
    uint32_t bits = had == 0 ? KEYS_FIRST_BITS : had + (fresh >= all_keys.used / 2);
    uint32_t *slots = bits <= KEYS_MOST_BITS ? hk_os_map(sizeof *slots << bits) : NULL;
    if (all_keys.list == NULL) {
        all_keys.list = hk_os_reserve_zero(KEYS_MOST * sizeof *all_keys.list, hk_os_page_size());
        if (all_keys.list != NULL)
            hk_os_huge_pages(all_keys.list, KEYS_MOST * sizeof *all_keys.list, false);
    }
    if (slots == NULL || all_keys.list == NULL || !hk_os_commit(all_keys.list, (3u << bits) / 4 * sizeof *all_keys.list)) {
        all_keys.failed = true; /* it serves as it is */
        if (slots != NULL)
            hk_os_unmap(slots, sizeof *slots << bits);
        return false;
    }
    hk_os_huge_pages(slots, sizeof *slots << bits, bits >= KEYS_HUGE_BITS);
    memmove(all_keys.list, all_keys.list + all_keys.stale, fresh * sizeof *all_keys.list);
    if (all_keys.slots != NULL)
        hk_os_unmap(all_keys.slots, sizeof *slots << had);
    all_keys.slots = slots;
    all_keys.bits = bits;
    all_keys.used = fresh;
    all_keys.stale = all_keys.late = 0;
    for (uint32_t i = 0; i < fresh; i++)
        place_key(known_of(i), i);
    return true;
}

static void add_key(uint64_t key, uint32_t word)
{
    bool is_full = all_keys.slots == NULL || all_keys.used >= (3u << all_keys.bits) / 4;
    if (all_keys.failed || (is_full && !grow_keys()))
        return;
    all_keys.list[all_keys.used] = (struct known_key){(uint32_t)key, (uint32_t)(key >> 32), word};
    place_key(key, all_keys.used);
    all_keys.late = all_keys.used++;
}

/* Its number, which is among them then; else that of no key. */
static uint32_t number_of(uint64_t key)
{
    const uint32_t mask = (1u << all_keys.bits) - 1;
    for (uint32_t number = all_keys.late + 1; number < all_keys.used && number <= all_keys.late + KEYS_NEXT; number++)
        if (known_of(number) == key)
            return number;
    for (uint32_t at = first_slot(key); all_keys.slots[at] != 0; at = (at + 1) & mask)
        if (((all_keys.slots[at] ^ slot_of(key, 0)) >> NUMBER_BITS) == 0 && known_of(NUMBER(all_keys.slots[at]) - 1) == key)
            return NUMBER(all_keys.slots[at]) - 1;
    return KEYS_MOST;
}

/* 0: not there. */
static uint32_t find_key(uint64_t key)
{
    uint32_t number = all_keys.slots != NULL ? number_of(key) : KEYS_MOST;
    if (number == KEYS_MOST)
        return 0;
    all_keys.late = number;
    return all_keys.list[number].word;
}

static inline void prefetch_key(uint64_t key)
{
    if (all_keys.slots != NULL)
        __builtin_prefetch(&all_keys.slots[first_slot(key)]);
}

void hk_exact_keys_forget(void)
{
    all_keys.stale = all_keys.used;
}

static uint8_t flags_of(int domain, bool apart)
{
    return apart && domain != HK_DOMAIN_RAW ? HK_SITE_APART : 0;
}

static void meet_thread(void)
{
    if (__builtin_expect(hk_exact_thread == 0, 0))
        hk_exact_meet_thread();
}

/* Of a thread without a stack. */
static uint32_t site_blind(int domain, bool apart)
{
    uint32_t *known = &blind[apart][domain][hk_exact_thread], site;
    if (*known != 0)
        return *known - 1;
    site = hk_exact_site(domain, flags_of(domain, apart));
    if (site != HK_EXACT_NONE)
        *known = site + 1;
    return site;
}

/* Of a key that nobody knows. */
static uint32_t site_missed(hk_key_entry *entry, uint64_t key, int domain, uint8_t flags)
{
    uint32_t site = hk_exact_site(domain, flags);
    if (site != HK_EXACT_NONE)
        *entry = hk_key_entry_of(key, hk_slot_word(site, 0));
    return site;
}

/* The word of a key's site; 0: neither the cache nor the table has it. */
static uint32_t find_again(hk_key_entry *entry, uint64_t key)
{
    uint32_t word = hk_key_word(*entry, key);
    if (word == 0 && (word = find_key(key)) != 0)
        *entry = hk_key_entry_of(key, word);
    return word;
}

static uint64_t key_of(const void *state, uint64_t start)
{
    switch (hk_exact_stacks.way) {
    case HK_WAY_3_11:
        return hk_exact_key(state, start, HK_WAY_3_11);
    case HK_WAY_3_12:
        return hk_exact_key(state, start, HK_WAY_3_12);
    case HK_WAY_3_13:
        return hk_exact_key(state, start, HK_WAY_3_13);
    case HK_WAY_FRAMES:
        return hk_exact_key(state, start, HK_WAY_FRAMES);
    default:
        return hk_exact_key(state, start, HK_WAY_OBJECTS);
    }
}

/* Of a stack of any depth. */
static uint64_t long_key_of(const void *state, uint64_t start)
{
    const intptr_t previous = hk_exact_stacks.frame_previous;
    uint64_t key = start;
    if (hk_exact_stacks.way == HK_WAY_3_13)
        return hk_exact_key_deep(state, start);
    if (hk_exact_stacks.unmarked == UINT32_MAX)
        return key_of(state, start);
    uintptr_t frame = hk_exact_innermost(state, hk_exact_stacks.way);
    for (uint32_t left = HK_NEAR; frame != 0 && left > 0; left--, frame = hk_word_at((const void *)frame, previous))
        key = (key + hk_exact_place(frame, hk_exact_stacks.way)) * HK_KEY_BASE;
    if (frame == 0)
        return key;
    hk_exact_stacks.shortened++;
    return hk_exact_key_beyond(state, frame, key);
}

/* The key of a new stack, by a look at all frames: only marks say what they do not look at. */
static uint64_t look_again(const void *state, uint64_t start, uint64_t key)
{
    if (!may_look)
        return key;
    if (comparison.believed > 0) {
        comparison.believed--;
        hk_exact_seen_forget();
        return key;
    }
    uint64_t whole = hk_exact_look(state, start, key);
    if (hk_exact_seen_none())
        comparison.believed = BELIEVED; /* or a stack of 20,000 frames would be walked for each site */
    return whole;
}

static uint64_t compare(const void *state, uint64_t start, uint64_t key, uint64_t looked)
{
    uint64_t whole = key_of(state, start);
    comparison.done++;
    comparison.differ += whole != key || whole != looked;
    return whole;
}

/* Of a stack that the cache does not know. */
static uint32_t site_of_key(const void *state, uint64_t start, uint64_t key, int domain)
{
    hk_key_entry *entry = hk_exact_entry(key);
    const bool compares = hk_exact_stacks.compares;
    uint32_t word = compares ? 0 : find_again(entry, key);
    if (word != 0)
        return hk_slot_site(word);
    uint64_t whole = look_again(state, start, key);
    if (compares)
        whole = compare(state, start, key, whole);
    if (whole != key || compares) {
        if (whole != key)
            hk_exact_stacks.generation++; /* all marks are worthless */
        key = whole;
        entry = hk_exact_entry(key);
        word = find_again(entry, key);
        if (word != 0)
            return hk_slot_site(word);
    }
    hk_cpython_collections_look();
    uint32_t site = site_missed(entry, key, domain, 0);
    if (site != HK_EXACT_NONE)
        add_key(key, hk_slot_word(site, 0));
    return site;
}

uint32_t hk_exact_site_main(int domain)
{
    const void *state = hk_exact_stacks.state();
    meet_thread();
    if (state == NULL || !hk_cpython_stacks_ready(domain))
        return site_blind(domain, false);
    uint64_t start = hk_exact_start(domain), key = long_key_of(state, start);
    prefetch_key(key); /* while we wait for the cache's */
    return site_of_key(state, start, key, domain);
}

uint32_t hk_exact_site_missed(int domain, const void *state, uint64_t key)
{
    if (__builtin_expect(hk_exact_thread == 0, 0))
        return hk_exact_site_main(domain);
    prefetch_key(key);
    return site_of_key(state, hk_exact_start(domain), key, domain);
}

void hk_exact_stacks_say(void)
{
    char text[160];
    if (!hk_exact_stacks.compares)
        return;
    snprintf(text, sizeof text, "stacks: %llu compared, %llu differ, %llu not walked to the end",
             (unsigned long long)comparison.done, (unsigned long long)comparison.differ,
             (unsigned long long)hk_exact_stacks.shortened);
    hk_record_event(HK_EVENT_NOTE, 0, text);
}

uint32_t hk_exact_site_apart(int domain, const void *state)
{
    struct hk_exact_stacks *s = &hk_exact_stacks;
    meet_thread();
    if (state == NULL || !hk_cpython_stacks_ready(domain))
        return site_blind(domain, true);
    uint64_t key = key_of(state, (s->seed ^ s->apart_seed) + (uint64_t)domain * HK_KEY_DOMAIN + hk_exact_thread * HK_KEY_THREAD);
    hk_key_entry *entry = &s->apart[key >> (64 - HK_KEY_APART_BITS)];
    uint32_t word = hk_key_word(*entry, key);
    return word != 0 ? hk_slot_site(word) : site_missed(entry, key, domain, flags_of(domain, true));
}

/* The thread's own frames stand still while it is in machine code, and their code objects live, whoever has the GIL. What lay at these
 * addresses before may be known to the cache: so the key begins with how often that has changed. */
uint32_t hk_exact_site_native(const void *state)
{
    static struct hk_frame frames[HK_NATIVE_FRAMES]; /* hk_exact_apart is held */
    uint8_t flags = 0;
    meet_thread();
    if (state != NULL && !hk_cpython_stacks_ready(HK_DOMAIN_NATIVE))
        state = NULL;
    uint64_t key = hk_exact_codes() * HK_KEY_DOMAIN + hk_exact_thread * HK_KEY_THREAD + (state != NULL);
    int count = hk_native_stack(state != NULL, frames, HK_NATIVE_FRAMES, &flags);
    for (int i = 0; i < count; i++)
        key = (key + (uintptr_t)frames[i].code) * HK_KEY_BASE;
    if (state != NULL)
        key = key_of(state, key);
    hk_key_entry *entry = &hk_exact_stacks.native[key >> (64 - HK_KEY_NATIVE_BITS)];
    uint32_t word = hk_key_word(*entry, key);
    return word != 0 ? hk_slot_site(word) : site_missed(entry, key, HK_DOMAIN_NATIVE, 0);
}
