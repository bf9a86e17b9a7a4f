/* Collections of cycles, as collectors tell of them.
 *
 * Each is an entry of the section. When that is full, entries are merged: of a generation and cause (a key) that has many, each
 * two neighbours become one, their sum. A key has many if it has its share of the section or more,
 *
 *      share = capacity / number of keys that have any
 *
 * There always is one, as fewer than that in each would not fill the section. So a full collection now and then keeps its entry
 * while thousands of young ones are merged, an entry is moved once for every share / 2 that are added, and nothing is lost
 * but when exactly each of many short pauses was.
 *
 * In one pass from the front: what is kept moves down, and the second of a pair is added to where the first has come to lie. If the
 * program dies in it, entries are left that have been moved or added already; a reader knows them by their times, which are not
 * after those of their key before.
 */
#include "record/internal.h"

#define KEYS (HK_CAPTURE_GENERATIONS * HK_CAPTURE_CAUSES)
#define NONE UINT64_MAX

HK_HOT static unsigned key_of(const struct hk_capture_collection *entry)
{
    return entry->generation * HK_CAPTURE_CAUSES + entry->cause;
}

static void add(struct hk_capture_collection *first, const struct hk_capture_collection *second)
{
    first->last_ns = second->last_ns;
    first->duration_ns += second->duration_ns;
    if (second->longest_ns > first->longest_ns) {
        first->longest_ns = second->longest_ns;
        first->longest_at_ns = second->longest_at_ns;
    }
    first->examined += second->examined;
    first->freed += second->freed;
    first->uncollectable += second->uncollectable;
    first->count = first->count > UINT32_MAX - second->count ? UINT32_MAX : first->count + second->count;
}

static void merge(void)
{
    struct hk_rec_section *section = &hk_rec.section[HK_SECTION_COLLECTIONS];
    struct hk_capture_collection *entries = (struct hk_capture_collection *)section->data;
    struct hk_capture_status *status = hk_rec_status();
    uint64_t had[KEYS] = {0}, waiting[KEYS], kept = 0, keys = 0;

    for (uint64_t i = 0; i < section->count; i++)
        keys += had[key_of(&entries[i])]++ == 0;
    uint64_t share = section->capacity / keys;
    for (unsigned key = 0; key < KEYS; key++)
        waiting[key] = NONE;
    __atomic_store_n(&status->timeline_sequence, status->timeline_sequence | 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (uint64_t i = 0; i < section->count; i++) {
        unsigned key = key_of(&entries[i]);
        if (waiting[key] != NONE) {
            add(&entries[waiting[key]], &entries[i]);
            waiting[key] = NONE;
            continue;
        }
        if (had[key] >= share)
            waiting[key] = kept;
        entries[kept++] = entries[i];
    }
    section->count = kept;
    hk_rec_publish(HK_SECTION_COLLECTIONS, 0);
    __atomic_store_n(&status->timeline_sequence, status->timeline_sequence + 1, __ATOMIC_RELEASE);
}

/* Who tells late may have been overtaken. */
HK_HOT static void keep_order(struct hk_capture_collection *entry, const struct hk_capture_collection *last)
{
    uint64_t first = key_of(entry) == key_of(last) ? last->last_ns + 1 : last->time_ns;

    if (entry->time_ns < first)
        entry->time_ns = first;
    if (entry->last_ns < entry->time_ns)
        entry->last_ns = entry->time_ns;
    if (entry->longest_at_ns < entry->time_ns)
        entry->longest_at_ns = entry->time_ns;
}

HK_HOT static void append(struct hk_capture_collection entry)
{
    struct hk_rec_section *section = &hk_rec.section[HK_SECTION_COLLECTIONS];

    if (section->count == section->capacity)
        merge();
    struct hk_capture_collection *place = hk_rec_append(HK_SECTION_COLLECTIONS, 1);
    if (!place)
        return;
    if (section->count != 0)
        keep_order(&entry, place - 1);
    *place = entry;
    hk_rec_publish(HK_SECTION_COLLECTIONS, 1);
}

HK_HOT static uint64_t since_start(uint64_t ns)
{
    return ns > hk_rec.start_ns ? ns - hk_rec.start_ns : 0;
}

static void append_told(const hk_collection *told)
{
    uint64_t now = since_start(hk_rec_clock()), longest = told->longest_nanoseconds;

    append((struct hk_capture_collection){
        .time_ns = now,
        .last_ns = now,
        .duration_ns = told->nanoseconds,
        .longest_ns = longest == 0 || longest > told->nanoseconds ? told->nanoseconds : longest,
        .longest_at_ns = now,
        .examined = told->examined,
        .freed = told->freed,
        .uncollectable = told->uncollectable,
        .count = 1,
        .generation = (uint8_t)(told->generation < HK_CAPTURE_GENERATIONS ? told->generation : HK_CAPTURE_GENERATIONS - 1),
        .cause = (uint8_t)((unsigned)told->cause < HK_CAPTURE_CAUSES ? told->cause : HK_CAUSE_OTHER),
    });
}

void hk_record_collection(const hk_collection *collection)
{
    int error = errno;

    if (!hk_record_is_on())
        return;
    if (!hk_rec_enter()) {
        __atomic_add_fetch(&hk_rec.skipped, 1, __ATOMIC_RELAXED);
        return;
    }
    if (hk_rec_wake())
        append_told(collection);
    hk_rec_leave();
    errno = error;
}

HK_HOT bool hk_record_collections(const struct hk_capture_collection *entries, unsigned count)
{
    int error = errno;

    if (!hk_record_is_on())
        return true;
    if (!hk_rec_enter())
        return false;
    bool on = hk_rec.stage == HK_REC_ON;
    for (unsigned i = 0; on && i < count; i++) {
        struct hk_capture_collection entry = entries[i];
        entry.time_ns = since_start(entry.time_ns);
        entry.last_ns = since_start(entry.last_ns);
        entry.longest_at_ns = since_start(entry.longest_at_ns);
        append(entry);
    }
    hk_rec_leave();
    errno = error;
    return on;
}
