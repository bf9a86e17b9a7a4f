/* See exact_blocks.h. A block that holds a code object of a known stack, and one that is watched, carry a bit in their words: who frees
 * them comes the long way, and nobody else pays. */
#include "hosts/cpython/exact_blocks.h"

#include "hosts/cpython/exact_stack.h"
#include "hosts/cpython/windows.h"

#define LIVES 8 /* watched at a time: more than fit into a short life, mostly */
#define QUARANTINE 64

struct hk_exact_blocks hk_exact_blocks;

static struct hk_life lives[LIVES]; /* under the main lock; and, where that takes a bit off, the recorder's */

static struct {
    void *blocks[QUARANTINE];
    uint32_t count;
} quarantine;

static const uintptr_t never;

bool hk_exact_holds_main(const void **state)
{
    *state = hk_py_this_thread_state(hk_python.layout);
    if (*state == NULL)
        return false;
    return !hk_python.many || hk_py_interpreter_id(hk_python.layout, *state) == 0 ||
           !hk_py_interp_has_own_gil(hk_python.layout, *state);
}

/* Frees are not counted, or not any more. */
static __attribute__((noinline)) bool deaths_are_off(void)
{
    if (is_over()) {
        hk_cpython_freeze_if_finalizing();
        hk_exact_blocks.stands_still = !hk_exact.deaths;
    }
    return !hk_exact.deaths && !hk_exact_wake();
}

bool hk_exact_births_are_off(void)
{
    return !hk_exact_wake() || !hk_exact.births;
}

/* --- lives --- */

/* Bytes allocated in the two domains. */
static uint64_t life_clock(void)
{
    return hk_heap_allocated_bytes(hk_python.heaps[HK_DOMAIN_MEM]) + hk_heap_allocated_bytes(hk_python.heaps[HK_DOMAIN_OBJECT]);
}

static struct hk_life *life_of(const void *block)
{
    for (int i = 0; i < LIVES; i++)
        if (__atomic_load_n(&lives[i].block, __ATOMIC_RELAXED) == block)
            return &lives[i];
    return NULL;
}

/* The one that is watched longest makes room. */
static void life_put(const void *block, const struct hk_life *life)
{
    static unsigned next;
    struct hk_life *at = &lives[next++ % LIVES];
    if (at->block != NULL && !at->is_code && hk_region_has(at->block) && !hk_exact_living_has(at->block))
        *hk_slot_at(hk_pool_of(at->block), at->block) &= ~HK_SLOT_CODE;
    *at = *life;
    at->block = block;
}

void hk_exact_block_watch(const void *block, const struct hk_life *life, uint32_t site, const struct hk_exact_living *living)
{
    if (!hk_exact_marking_stop())
        return;
    bool is_marked = hk_exact_living_add(block, site, living);
    if (life->weight != 0) {
        life_put(block, life);
        is_marked = true;
    }
    if (is_marked && hk_region_has(block))
        *hk_slot_at(hk_pool_of(block), block) |= HK_SLOT_CODE;
    hk_exact_marking_go_on();
}

void hk_exact_block_sample(hk_heap *heap, const void *block, size_t size, uint32_t site)
{
    static uint64_t random = 1;
    struct hk_life life = {.born = life_clock(), .site = site, .weight = watch_weight(size)};
    struct hk_exact_living living = {.birth_ns = hk_exact_living_now(), .weight = life.weight};
    random = random * 6364136223846793005u + 1442695040888963407u;
    int64_t sooner = (int64_t)(random >> 33) % (2 * HK_CAPTURE_LIFE_BYTES); /* uniform: no rhythm of the program's is met */
    if (sooner < heap->budget) {
        heap->budget -= sooner;
        heap->budget_start -= sooner;
    }
    hk_exact_life(site, life.weight, false);
    hk_exact_block_watch(block, &life, site, &living);
}

/* A walk meets this code: whoever frees it must be told. Called with the recorder's lock held. */
void hk_cpython_exact_mark_code(const void *code)
{
    const char *block = (const char *)code - hk_exact_blocks.code_header;
    struct hk_life *life = life_of(block);
    if (life != NULL)
        life->is_code = true;
    hk_exact_living_mark_code(block);
    if (hk_region_has(block))
        *hk_slot_at(hk_pool_of(block), block) |= HK_SLOT_CODE;
    else
        hk_exact_large_mark_code(block);
}

/* --- what is known of a block, whichever it is --- */

/* What was marked need not be code. */
static void take_life(const void *block, struct hk_exact_block *record, bool may_live)
{
    struct hk_life *life = life_of(block);
    bool is_living = may_live && hk_exact_living_take(block, &record->living);
    if (life == NULL && !is_living)
        return;
    record->is_code = (life != NULL && life->is_code) || (is_living && record->living.is_code);
    if (life == NULL)
        return;
    record->life = *life;
    __atomic_store_n(&life->block, NULL, __ATOMIC_RELAXED);
}

struct hk_exact_block hk_exact_block_take(const void *block)
{
    struct hk_exact_block record = {.site = HK_EXACT_NONE};
    if (!hk_region_has(block)) {
        bool may_live = false;
        hk_exact_large_take(block, &record.bytes, &record.site, &record.age, &record.is_code, &may_live);
        take_life(block, &record, may_live);
        return record;
    }
    const struct hk_pool *pool = hk_pool_of(block);
    uint32_t *word = hk_slot_at(pool, block);
    if (has_site(*word))
        record = (struct hk_exact_block){.bytes = bytes_of(pool, *word), .site = hk_slot_site(*word),
                                         .age = hk_windows_are_open() ? *hk_age_of(word) : 0};
    record.is_code = *word & HK_SLOT_CODE;
    *word = 0;
    if (__builtin_expect(record.is_code, 0))
        take_life(block, &record, true);
    return record;
}

ssize_t hk_exact_block_put(const void *block, size_t size, uint32_t site, uint8_t age)
{
    if (!hk_region_has(block))
        return hk_exact_large_add(block, size, site, age) ? (ssize_t)size : -1;
    const struct hk_pool *pool = hk_pool_of(block);
    size_t slack = slack_of(pool, size);
    uint32_t *word = hk_slot_at(pool, block);
    *word = hk_slot_word(site, slack);
    if (hk_windows_are_open())
        *hk_age_of(word) = age;
    return (ssize_t)(pool->block_size - slack);
}

void hk_exact_block_died(const struct hk_exact_block *record, enum hk_exact_lane lane)
{
    const void *state;
    if (record->site == HK_EXACT_NONE || deaths_are_off())
        return;
    if (record->life.weight != 0 && life_clock() - record->life.born <= HK_CAPTURE_LIFE_SHORT + 2 * record->bytes)
        hk_exact_life(record->life.site, record->life.weight, true);
    bool main = lane == HK_LANE_MAIN || hk_exact_holds_main(&state), is_main = hk_exact_is_main(record->site);
    if (hk_windows_are_open())
        hk_window_death(record->site, record->age, record->bytes, main);
    if (main && is_main) {
        hk_exact_death(&hk_exact.counters[record->site], record->bytes);
        return;
    }
    if (!hk_exact_apart_enter())
        return;
    if (is_main)
        hk_exact_orphan(record->site, record->bytes);
    else
        hk_exact_apart_death(record->site, record->bytes, main);
    hk_lock_release(&hk_exact_apart);
}

uint32_t hk_exact_block_site(const void *block)
{
    uint32_t site = HK_EXACT_NONE;
    size_t bytes;
    uint8_t age;
    if (!hk_region_has(block)) {
        hk_exact_large_find(block, &bytes, &site, &age);
        return site;
    }
    uint32_t word = *hk_slot_at(hk_pool_of(block), block);
    return has_site(word) ? hk_slot_site(word) : HK_EXACT_NONE;
}

/* --- code objects --- */

void hk_exact_forget_stacks(void)
{
    hk_exact_stacks.seed += 2 * HK_KEY_DOMAIN + 1;
    hk_exact_codes_forget();
    hk_exact_keys_forget();
}

static void quarantine_flush(void)
{
    hk_exact_forget_stacks();
    for (uint32_t i = 0; i < quarantine.count; i++)
        hk_free_unlocked(hk_python.heaps[HK_DOMAIN_OBJECT], quarantine.blocks[i]);
    quarantine.count = 0;
}

void hk_exact_quarantine(void *block)
{
    if (quarantine.count == QUARANTINE)
        quarantine_flush();
    quarantine.blocks[quarantine.count++] = block;
}

/* --- blocks that move --- */

void hk_exact_block_restore(const void *block, const struct hk_exact_block *record)
{
    if (record->site != HK_EXACT_NONE)
        hk_exact_block_put(block, record->bytes, record->site, record->age);
    if (record->is_code && hk_region_has(block))
        *hk_slot_at(hk_pool_of(block), block) |= HK_SLOT_CODE;
    if (is_watched(record))
        hk_exact_block_watch(block, &record->life, record->site, &record->living);
}

void hk_exact_block_shrank(const struct hk_exact_block *had, const void *moved, size_t size, enum hk_exact_lane lane)
{
    const void *state;
    ssize_t bytes = hk_exact_block_put(moved, size, had->site, had->age);
    struct hk_exact_block rest = {.bytes = had->bytes - (size_t)bytes, .site = had->site, .age = had->age};
    if (bytes < 0) {
        hk_exact_block_died(had, lane);
        return;
    }
    if (rest.bytes == 0 || deaths_are_off())
        return;
    bool main = lane == HK_LANE_MAIN || hk_exact_holds_main(&state), is_main = hk_exact_is_main(had->site);
    if (hk_windows_are_open())
        hk_window_death(rest.site, rest.age, rest.bytes, main);
    if (main && is_main) {
        hk_exact_shrink(&hk_exact.counters[rest.site], rest.bytes);
        return;
    }
    if (!hk_exact_apart_enter())
        return;
    if (!is_main)
        hk_exact_apart_shrink(rest.site, rest.bytes, main);
    hk_lock_release(&hk_exact_apart);
}

/* --- all blocks --- */

static void visit_word(uint32_t *word, size_t bytes, void *argument)
{
    void (*const *visitor)(uint32_t, size_t) = argument;
    if (has_site(*word))
        (*visitor)(hk_slot_site(*word), bytes);
}

void hk_cpython_exact_visit(void (*visitor)(uint32_t site, size_t bytes))
{
    hk_slots_visit(visit_word, &visitor);
}

static void forget_word(uint32_t *word, size_t bytes, void *argument)
{
    *word = 0;
}

void hk_cpython_exact_forget_all(void)
{
    hk_slots_visit(forget_word, NULL);
    hk_exact_forget_stacks();
    hk_exact_sites_forget();
}

/* --- beginning --- */

void hk_cpython_exact_stacks(bool good)
{
    if (!hk_python.exact)
        return;
    if (good)
        hk_exact_stacks_found();
    hk_exact_set_host(good);
}

void hk_exact_blocks_init(void)
{
    const hk_py_layout *layout = hk_python.layout;
    const unsigned long has_gc = 1ul << 14; /* Py_TPFLAGS_HAVE_GC, stable ABI */
    hk_exact_blocks.finalizing = &never;
    if (layout->runtime_finalizing >= 0)
        hk_exact_blocks.finalizing = (const uintptr_t *)((const char *)layout->runtime + layout->runtime_finalizing);
    if (*(const unsigned long *)((const char *)layout->code_type + layout->type_flags) & has_gc)
        hk_exact_blocks.code_header = 16;
}
