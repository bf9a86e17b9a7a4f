/* The ages of the living: of exact recording, a sample of the blocks that live, each with its site and when it was allocated.
 *
 * The host takes up a block now and then, after so many bytes of allocation (capture/format.h: hk_capture_living), and tells when it
 * dies. A table in private memory, address -> entry of the section, with open addressing as that of samples.c.
 *
 *      weight >= 2^shift       always kept
 *      smaller                 kept with the chance weight / 2^shift: if a hash of its address is below that
 *
 * The shift is 0 until the section is full; then it is raised until a quarter of the section has become free. What is left out so stays in
 * the table, without an entry: its block is marked, and whoever frees it asks for it. Of a program that only grows these are
 * some thousand for each doubling. What is taken up later and has no chance is not taken up.
 *
 * Figures stand still when the recorder is frozen, and a child writes nothing before it has a section of its own: then only the
 * table changes. */
#include <string.h>

#include "record/exact.h"
#include "record/internal.h"

#define FIRST_CAPACITY 128u /* one page */
#define NO_ENTRY       UINT32_MAX
#define SHIFT_MAX      32u

struct watched {
    uintptr_t block; /* 0: empty */
    uint64_t birth_ns;
    uint32_t site, weight;
    uint32_t entry; /* of the section, or NO_ENTRY */
    uint32_t is_code;
};

static struct {
    struct watched *at;
    uint32_t capacity, count; /* capacity: a power of two, or 0 */
    uint32_t first_free;      /* entry + 1 of the section, whose site is the next; 0: none */
    uint32_t shift;
} living;

static uint32_t home(uintptr_t block)
{
    return (uint32_t)((block >> 3) * 0x9e3779b97f4a7c15u >> 32) & (living.capacity - 1);
}

static struct watched *find(uintptr_t block)
{
    if (living.count == 0)
        return NULL;
    for (uint32_t at = home(block);; at = (at + 1) & (living.capacity - 1)) {
        if (living.at[at].block == block)
            return &living.at[at];
        if (living.at[at].block == 0)
            return NULL;
    }
}

static struct watched *place(uintptr_t block)
{
    uint32_t at = home(block);

    while (living.at[at].block != 0)
        at = (at + 1) & (living.capacity - 1);
    return &living.at[at];
}

static bool grow(void)
{
    struct watched *old = living.at;
    uint32_t count = living.capacity, capacity = count ? count * 2 : FIRST_CAPACITY;
    struct watched *larger = capacity ? hk_rec_map((size_t)capacity * sizeof *larger) : NULL;

    if (!larger)
        return false;
    living.at = larger;
    living.capacity = capacity;
    for (uint32_t i = 0; i < count; i++)
        if (old[i].block)
            *place(old[i].block) = old[i];
    hk_rec_unmap(old, (size_t)count * sizeof *old);
    return true;
}

static void drop(struct watched *watched)
{
    uint32_t mask = living.capacity - 1, hole = (uint32_t)(watched - living.at), at = hole;

    for (;;) {
        at = (at + 1) & mask;
        if (living.at[at].block == 0)
            break;
        if (((at - home(living.at[at].block)) & mask) >= ((at - hole) & mask)) { /* may sit as far back as the hole */
            living.at[hole] = living.at[at];
            hole = at;
        }
    }
    living.at[hole].block = 0;
    living.count--;
}

/* --- the section --- */

static bool can_write(void)
{
    return hk_rec.stage == HK_REC_ON && !hk_rec.frozen;
}

static struct hk_capture_living *entry_of(uint32_t number)
{
    return (struct hk_capture_living *)hk_rec.section[HK_SECTION_LIVING].data + number;
}

static bool has_a_chance(uintptr_t block, uint32_t weight)
{
    return (uint64_t)weight << 32 > (uint64_t)hk_rec_hash(block, 2) << living.shift;
}

static void give_back(struct watched *watched)
{
    if (can_write() && watched->entry != NO_ENTRY) {
        struct hk_capture_living *entry = entry_of(watched->entry);
        __atomic_store_n(&entry->weight, 0, __ATOMIC_RELEASE);
        entry->site = living.first_free;
        living.first_free = watched->entry + 1;
    }
    watched->entry = NO_ENTRY;
}

static void leave_some_out(void)
{
    uint64_t capacity = hk_rec.section[HK_SECTION_LIVING].capacity, freed = 0;

    while (freed < capacity / 4 && living.shift < SHIFT_MAX) {
        living.shift++;
        for (uint32_t i = 0; i < living.capacity; i++) {
            struct watched *watched = &living.at[i];
            if (watched->block == 0 || watched->entry == NO_ENTRY || has_a_chance(watched->block, watched->weight))
                continue;
            give_back(watched);
            freed++;
        }
    }
    __atomic_store_n(&hk_rec_status()->living_shift, living.shift, __ATOMIC_RELEASE);
}

static void write_entry(struct watched *watched)
{
    struct hk_capture_living *entry = entry_of(watched->entry);

    entry->site = watched->site;
    entry->birth_ns = watched->birth_ns;
    __atomic_store_n(&entry->weight, watched->weight, __ATOMIC_RELEASE);
}

/* Without room, or a chance, it stays without an entry. */
static void give_entry(struct watched *watched)
{
    struct hk_rec_section *section = &hk_rec.section[HK_SECTION_LIVING];

    if (!can_write())
        return;
    if (living.first_free == 0 && section->count == section->capacity)
        leave_some_out();
    if (!has_a_chance(watched->block, watched->weight))
        return;
    if (living.first_free != 0) {
        watched->entry = living.first_free - 1;
        living.first_free = entry_of(watched->entry)->site;
        write_entry(watched);
    } else if (hk_rec_append(HK_SECTION_LIVING, 1)) {
        watched->entry = (uint32_t)section->count;
        write_entry(watched);
        hk_rec_publish(HK_SECTION_LIVING, 1);
    }
}

/* --- what the host calls --- */

uint64_t hk_exact_living_now(void)
{
    uint64_t now = hk_rec_coarse_clock(); /* may lag behind the start by a few ms */

    return now > hk_rec.start_ns ? now - hk_rec.start_ns : 0;
}

bool hk_exact_living_add(const void *block, uint32_t site, const struct hk_exact_living *what)
{
    struct watched *watched = find((uintptr_t)block); /* its death was not told: C's free */

    if (what->weight == 0)
        return false;
    if (watched) {
        give_back(watched);
    } else {
        if (!has_a_chance((uintptr_t)block, what->weight))
            return false;
        if (living.count >= living.capacity / 4 * 3 && !grow())
            return false;
        watched = place((uintptr_t)block);
        living.count++;
    }
    *watched = (struct watched){(uintptr_t)block, what->birth_ns, site, what->weight, NO_ENTRY, what->is_code};
    give_entry(watched);
    return true;
}

bool hk_exact_living_has(const void *block)
{
    return find((uintptr_t)block) != NULL;
}

void hk_exact_living_mark_code(const void *block)
{
    struct watched *watched = find((uintptr_t)block);

    if (watched)
        watched->is_code = 1;
}

void hk_rec_living_drop(const void *block)
{
    struct watched *watched = find((uintptr_t)block);

    if (watched) {
        give_back(watched);
        drop(watched);
    }
}

bool hk_exact_living_take(const void *block, struct hk_exact_living *what)
{
    struct watched *watched;
    int error = errno;

    if (!hk_rec_enter())
        return false;
    watched = find((uintptr_t)block);
    if (watched) {
        *what = (struct hk_exact_living){watched->birth_ns, watched->weight, watched->is_code};
        hk_rec_living_drop(block);
    }
    hk_rec_leave();
    errno = error;
    return watched != NULL;
}

void hk_exact_living_renew(const void *block, uint32_t site)
{
    struct watched *watched;

    if (!hk_rec_enter())
        return;
    watched = find((uintptr_t)block);
    if (watched) {
        watched->site = site;
        watched->birth_ns = hk_exact_living_now();
        if (can_write() && watched->entry != NO_ENTRY)
            write_entry(watched);
    }
    hk_rec_leave();
}

/* --- fork, checks --- */

/* trusted: as of hk_rec_samples_clear. */
void hk_rec_living_clear(bool trusted)
{
    if (trusted)
        hk_rec_unmap(living.at, (size_t)living.capacity * sizeof *living.at);
    memset(&living, 0, sizeof living);
}

bool hk_rec_living_adopt(void)
{
    living.first_free = 0;
    for (uint32_t i = 0; i < living.capacity; i++) {
        struct watched *watched = &living.at[i];
        if (watched->block == 0)
            continue;
        watched->entry = NO_ENTRY;
        watched->birth_ns = 0;
        give_entry(watched);
    }
    hk_rec_status()->living_shift = living.shift;
    return hk_rec.stage == HK_REC_ON;
}

int hk_rec_living_check(void)
{
    uint64_t count = hk_rec.section[HK_SECTION_LIVING].count, entries = 0, listed = 0, used = 0;

    for (uint32_t i = 0; i < living.capacity; i++) {
        const struct watched *watched = &living.at[i];
        if (watched->block == 0)
            continue;
        used++;
        if (find(watched->block) != watched)
            return 60;
        if (watched->entry == NO_ENTRY)
            continue;
        entries++;
        if (watched->entry >= count || entry_of(watched->entry)->site != watched->site ||
            entry_of(watched->entry)->weight != watched->weight)
            return 61;
    }
    for (uint32_t next = living.first_free; next != 0 && listed <= count; next = entry_of(next - 1)->site, listed++)
        if (next > count || entry_of(next - 1)->weight != 0)
            return 62;
    return used != living.count ? 63 : entries + listed != count ? 64 : 0;
}
