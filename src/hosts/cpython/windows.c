/* The windows; see windows.h. */
#include "hosts/cpython/windows.h"

#include <string.h>

#include "heap/slots.h"
#include "heap/threads.h"
#include "capture/format.h"
#include "record/exact.h"

#define OLDEST 1u /* the age of what was there before a window to which everything belongs */
#define NEWEST 255u

struct hk_windows hk_windows;

/* --- ages of all blocks --- */

struct change {
    uint8_t to[NEWEST + 1];
    uint64_t live; /* bytes that have an age afterwards, but for malloc's */
};

static bool is_native(uint32_t site)
{
    return hk_process_heap != NULL && hk_exact_domain_of(site) == HK_DOMAIN_NATIVE;
}

static void change_age(uint8_t *age, uint32_t site, size_t bytes, struct change *change)
{
    *age = change->to[*age];
    if (*age != 0 && !is_native(site))
        change->live += bytes;
}

static void change_block(uint32_t *word, size_t bytes, void *change)
{
    if (*word >> HK_SLOT_SITE_SHIFT != 0)
        change_age(hk_age_of(word), hk_slot_site(*word), bytes, change);
}

static void change_large(uint32_t site, size_t bytes, uint8_t *age, void *change)
{
    change_age(age, site, bytes, change);
}

static uint64_t change_ages(struct change *change)
{
    hk_slots_visit(change_block, change);
    hk_exact_large_visit(change_large, change);
    return change->live;
}

/* Ages that no window tells apart become one. */
static void renumber(void)
{
    struct change change = {{0}, 0};
    uint32_t next = 1, of[NEWEST + 1] = {0};
    for (uint32_t age = 1; age <= hk_windows.age; age++) {
        bool begins = false;
        for (uint32_t i = 0; i < hk_windows.end; i++)
            begins |= hk_windows.at[i].first == age || hk_windows.at[i].end == age;
        if (begins)
            of[age] = age == OLDEST ? OLDEST : ++next;
        change.to[age] = (uint8_t)(begins ? of[age] : change.to[age - 1]);
    }
    for (uint32_t i = 0; i < hk_windows.end; i++) {
        hk_windows.at[i].first = of[hk_windows.at[i].first];
        hk_windows.at[i].end = of[hk_windows.at[i].end];
    }
    change_ages(&change);
    hk_windows.age = next;
}

/* --- open and close --- */

static void find_end(void)
{
    uint32_t end = 0;
    for (uint32_t i = 0; i < HK_WINDOWS; i++)
        if (hk_windows.at[i].first != 0)
            end = i + 1;
    __atomic_store_n(&hk_windows.end, end, __ATOMIC_RELEASE);
    hk_exact_set_watched(end != 0);
}

static void begin(struct hk_window *window, uint32_t first, uint64_t live)
{
    *window = (struct hk_window){.live = (int64_t)live, .peak = (int64_t)live, .serial = 1};
    window->first = first;
}

/* What sites have at the peak: one table is kept for the next window. */
#define SITES_BYTES (HK_SLOT_SITES * sizeof(struct hk_window_site))

static struct hk_window_site *spare;

static struct hk_window_site *take_sites(void)
{
    struct hk_window_site *sites = spare;
    if (sites == NULL)
        return hk_os_map(SITES_BYTES);
    spare = NULL;
    if (!hk_os_discard(sites, SITES_BYTES))
        memset(sites, 0, SITES_BYTES);
    return sites;
}

static void give_sites(struct hk_window_site *sites)
{
    if (sites != NULL && spare != NULL)
        hk_os_unmap(sites, SITES_BYTES);
    else if (sites != NULL)
        spare = sites;
}

int hk_window_open(struct hk_window_options options)
{
    bool everything = options.everything;
    struct hk_window_site *sites = NULL;
    int free = 0;
    while (free < HK_WINDOWS && hk_windows.at[free].first != 0)
        free++;
    if (free == HK_WINDOWS)
        return -1;
    if (hk_windows.end == 0) {
        struct change none = {{0}, 0};
        if (!hk_ages_begin())
            return -1;
        hk_exact_large_visit(change_large, &none);
        hk_windows.age = OLDEST;
    }
    if (options.at_peak && (sites = take_sites()) == NULL)
        return -1;
    if (hk_windows.age == NEWEST)
        renumber();
    hk_windows.age++;
    uint64_t live = 0;
    if (everything) {
        struct change old;
        for (uint32_t age = 0; age <= NEWEST; age++)
            old.to[age] = (uint8_t)(age != 0 ? age : OLDEST);
        old.live = 0;
        live = change_ages(&old);
    }
    begin(&hk_windows.at[free], everything ? OLDEST : hk_windows.age, live);
    hk_windows.at[free].sites = sites;
    hk_windows.at[free].native = options.native;
    if (options.this_thread) {
        if (hk_exact_thread == 0)
            hk_exact_meet_thread();
        hk_windows.at[free].thread = hk_exact_thread;
    }
    find_end();
    return free;
}

bool hk_window_restart(int window)
{
    if (hk_windows.age == NEWEST)
        renumber();
    begin(&hk_windows.at[window], ++hk_windows.age, 0);
    return true;
}

void hk_window_freeze(int window)
{
    if (hk_windows.age == NEWEST)
        renumber();
    hk_windows.at[window].end = ++hk_windows.age;
}

bool hk_window_has_age(const struct hk_window *window, uint8_t age)
{
    return age >= window->first && (window->end == 0 || age < window->end);
}

void hk_window_close(int window)
{
    struct hk_window *at = &hk_windows.at[window];
    struct hk_window_site *sites = at->sites;
    at->first = at->end = 0;
    at->sites = NULL;
    find_end();
    give_sites(sites);
}

/* --- figures --- */

static void see_peak(struct hk_window *window, int64_t live)
{
    if (live > window->peak) {
        window->peak = live;
        __atomic_store_n(&window->serial, window->serial + 1, __ATOMIC_RELAXED);
    }
}

static void take_apart(struct hk_window *window)
{
    if (__builtin_expect(__atomic_load_n(&window->apart, __ATOMIC_RELAXED) != 0 || __atomic_load_n(&window->apart_high, __ATOMIC_RELAXED) != 0, 0)) {
        int64_t apart = __atomic_exchange_n(&window->apart, 0, __ATOMIC_RELAXED);
        see_peak(window, window->live + __atomic_exchange_n(&window->apart_high, 0, __ATOMIC_RELAXED));
        window->live += apart;
    }
    see_peak(window, window->live);
}

void hk_window_figures(int window, uint64_t *live, uint64_t *peak)
{
    struct hk_window *at = &hk_windows.at[window];
    take_apart(at);
    *live = at->live > 0 ? (uint64_t)at->live : 0;
    *peak = (uint64_t)at->peak;
}

void hk_window_reset_peak(int window)
{
    struct hk_window *at = &hk_windows.at[window];
    take_apart(at);
    at->peak = at->live;
    at->serial++;
}

uint64_t hk_window_at_peak(int window, uint32_t site)
{
    const struct hk_window *at = &hk_windows.at[window];
    if (at->sites == NULL || site >= HK_SLOT_SITES)
        return 0;
    const struct hk_window_site *s = &at->sites[site];
    int64_t bytes = s->serial == at->serial ? s->at_peak : s->live;
    return bytes > 0 ? (uint64_t)bytes : 0;
}

/* Deaths come without a lock, too: of two that save at once one is from shortly before the other. */
static void change_site(struct hk_window *window, uint32_t site, int64_t bytes)
{
    if (window->sites == NULL || site >= HK_SLOT_SITES)
        return;
    struct hk_window_site *at = &window->sites[site];
    const uint32_t serial = __atomic_load_n(&window->serial, __ATOMIC_RELAXED);
    if (__atomic_load_n(&at->serial, __ATOMIC_RELAXED) != serial) {
        __atomic_store_n(&at->at_peak, __atomic_load_n(&at->live, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
        __atomic_store_n(&at->serial, serial, __ATOMIC_RELAXED);
    }
    __atomic_add_fetch(&at->live, bytes, __ATOMIC_RELAXED);
}

static void change_live(struct hk_window *window, int64_t bytes, bool main)
{
    if (!main) { /* of births hk_exact_apart is held, and only they raise it */
        int64_t apart = __atomic_add_fetch(&window->apart, bytes, __ATOMIC_RELAXED);
        if (apart > __atomic_load_n(&window->apart_high, __ATOMIC_RELAXED))
            __atomic_store_n(&window->apart_high, apart, __ATOMIC_RELAXED);
        return;
    }
    window->live += bytes;
    take_apart(window);
}

void hk_window_add(int window, int64_t bytes)
{
    change_live(&hk_windows.at[window], bytes, true);
}

bool hk_window_takes(const struct hk_window *window, uint32_t site)
{
    return window->first != 0 && (window->thread == 0 || hk_exact_thread_of(site) == window->thread) && (window->native || !is_native(site));
}

void hk_window_birth(uint32_t site, size_t bytes, bool main)
{
    if (hk_windows.paused)
        return;
    for (uint32_t i = 0; i < hk_windows.end; i++) {
        struct hk_window *window = &hk_windows.at[i];
        if (window->end != 0 || !hk_window_takes(window, site))
            continue;
        __atomic_add_fetch(&window->born_bytes, bytes, __ATOMIC_RELAXED);
        __atomic_add_fetch(&window->born_blocks, 1, __ATOMIC_RELAXED);
        change_site(window, site, (int64_t)bytes);
        change_live(window, (int64_t)bytes, main);
    }
}

void hk_window_death(uint32_t site, uint8_t age, size_t bytes, bool main)
{
    for (uint32_t i = 0; i < hk_windows.end && age != 0; i++) {
        struct hk_window *window = &hk_windows.at[i];
        if (!hk_window_takes(window, site) || !hk_window_has_age(window, age))
            continue;
        change_site(window, site, -(int64_t)bytes);
        change_live(window, -(int64_t)bytes, main);
    }
}

void hk_window_move(uint32_t from, uint32_t to, uint8_t age, size_t bytes)
{
    for (uint32_t i = 0; i < hk_windows.end && age != 0; i++) {
        struct hk_window *window = &hk_windows.at[i];
        if (window->first == 0 || !hk_window_has_age(window, age))
            continue;
        bool had = hk_window_takes(window, from), takes = hk_window_takes(window, to);
        if (had)
            change_site(window, from, -(int64_t)bytes);
        if (takes)
            change_site(window, to, (int64_t)bytes);
        if (had != takes)
            change_live(window, takes ? (int64_t)bytes : -(int64_t)bytes, true);
    }
}
