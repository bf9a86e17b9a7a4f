/* The collections of cycles that CPython itself makes, for the record.
 *
 * The collector tells nobody but gc.callbacks, which are the program's. But it counts: how often it has collected each generation,
 * how many objects were collected, and how many could not be. These numbers are looked at, a few loads, where the heap or the recorder
 * is on a slow path anyway; what they have risen by since the last look is recorded.
 *
 *      to 3.14    a collection has ended after the last look and before this one; several of a generation between two looks are one
 *                 entry. How long they took is not known. When a look finds the collector at work, since it frees, that is the moment
 *                 to be shown.
 *      from 3.15  the collector keeps records of the last ones of each generation, in a ring, with their times. Each is an entry; those
 *                 that the ring has lost since the last look are one.
 *
 * A look is good only by who holds the main interpreter's lock. Interpreters with a lock of their own are not looked at.
 *
 * Where the numbers are, layout.h says. It is believed if everything around looks as it should: the heads of the generations are linked
 * in lists that lead back to them, the list of garbage is one, and the numbers may be such. All of that is read with care, once. */
#include "hosts/cpython/internal.h"

#include <errno.h>

#include "base/os.h"
#include "record/record.h"

#define GENERATIONS 3
#define HEAD_SIZE 24 /* two pointers, two ints */
#define LIST_FLAG (1ul << 25) /* Py_TPFLAGS_LIST_SUBCLASS, of the stable ABI */
#define MOST (1ull << 48) /* more is no count */

/* As the collector has them; the latter from 3.15 on. */
struct counts {
    uint64_t collections, collected, uncollectable;
};

struct record {
    int64_t begin_ns, end_ns; /* of the last; the monotonic clock. All others are sums */
    struct counts counts;
    uint64_t candidates;
    double seconds;
    uint64_t heap_size;
};

#define YOUNG_RECORDS 11
#define OLD_RECORDS 3
HK_HOT_TABLE static const struct ring {
    uint16_t offset, records; /* then a byte: the index of the newest */
} rings[GENERATIONS] = {{0, YOUNG_RECORDS},
                        {(YOUNG_RECORDS * sizeof(struct record)) + 8, OLD_RECORDS},
                        {(YOUNG_RECORDS + OLD_RECORDS) * sizeof(struct record) + 16, OLD_RECORDS}};
#define RINGS_SIZE ((YOUNG_RECORDS + 2 * OLD_RECORDS) * sizeof(struct record) + 24)

static struct {
    bool decided;
    bool has_rings;
    const char *interpreter; /* the main one; NULL: there is nothing to look at (yet). Atomic */
    const char *counts;      /* struct counts of each generation, or rings */
    uint64_t total;          /* collections that were seen. Atomic */
    struct record seen[GENERATIONS]; /* without rings, counts only */
    uint64_t told_ns[GENERATIONS];   /* end of the last entry */
    uint64_t looked_ns;  /* atomic: the last look */
    uint64_t at_work_ns; /* the collector was at work then; 0: it was not seen since the last entries */
} collector;

/* --- what the collector has --- */

HK_HOT static unsigned newest(const char *counts, unsigned generation)
{
    return (unsigned char)counts[rings[generation].offset + rings[generation].records * sizeof(struct record)] %
           rings[generation].records;
}

HK_HOT static struct record record_at(const char *counts, unsigned generation, unsigned index)
{
    struct record record;
    memcpy(&record, counts + rings[generation].offset + index * sizeof record, sizeof record);
    return record;
}

HK_HOT static struct record record_now(const char *counts, unsigned generation, bool has_rings)
{
    struct record record = {0};
    if (has_rings)
        return record_at(counts, generation, newest(counts, generation));
    memcpy(&record.counts, counts + generation * sizeof record.counts, sizeof record.counts);
    return record;
}

HK_HOT static uint64_t total_now(void)
{
    uint64_t total = 0, collections;
    for (unsigned i = 0; i < GENERATIONS; i++) {
        const char *at = collector.counts + i * sizeof(struct counts);
        if (collector.has_rings)
            at = collector.counts + rings[i].offset + newest(collector.counts, i) * sizeof(struct record) + offsetof(struct record, counts);
        memcpy(&collections, at, sizeof collections);
        total += collections;
    }
    return total;
}

/* --- is it the collector? --- */

static bool read_word(uintptr_t address, uintptr_t *word)
{
    return address >= 0x10000 && address < 1ull << 47 && hk_os_read_memory((const void *)address, word, sizeof *word);
}

/* 0: there is none yet, or it cannot be found. */
static uintptr_t main_interpreter(const hk_py_layout *layout)
{
    uintptr_t interpreter = hk_word_at(layout->runtime, layout->runtime_main >= 0 ? layout->runtime_main : layout->runtime_interpreters);
    uintptr_t id = 0;
    for (int i = 0; layout->runtime_main < 0 && i < 10000 && interpreter != 0; i++) {
        if (!read_word(interpreter + (uintptr_t)layout->interpreter_id, &id))
            return 0;
        if (id == 0)
            return interpreter;
        if (!read_word(interpreter + (uintptr_t)layout->interpreter_next, &interpreter))
            return 0;
    }
    return layout->runtime_main >= 0 ? interpreter : 0;
}

/* A list's head, and the neighbours that it has lead to it. The low bits of links are flags. */
static bool is_head(uintptr_t head)
{
    uintptr_t next, previous, back, forth;
    return read_word(head, &next) && read_word(head + sizeof next, &previous) && read_word((next & ~3ul) + sizeof next, &back) &&
           read_word(previous & ~3ul, &forth) && (back & ~3ul) == head && (forth & ~3ul) == head;
}

static bool has_heads(uintptr_t first)
{
    uintptr_t numbers;
    for (unsigned i = 0; i < GENERATIONS; i++) {
        uintptr_t head = first + i * HEAD_SIZE;
        if (!is_head(head) || !read_word(head + 2 * sizeof(void *), &numbers) || (int32_t)numbers < 0) /* the threshold */
            return false;
    }
    return true;
}

static bool is_list(const hk_py_layout *layout, uintptr_t object)
{
    uintptr_t type, flags;
    return read_word(object + (uintptr_t)layout->object_type, &type) && read_word(type + (uintptr_t)layout->type_flags, &flags) &&
           (flags & LIST_FLAG) != 0;
}

static bool are_counts(const hk_py_layout *layout, uintptr_t *counts)
{
    char copy[RINGS_SIZE];
    bool has_rings = layout->minor >= 15;
    if (has_rings && !read_word(*counts, counts))
        return false;
    size_t size = has_rings ? RINGS_SIZE : GENERATIONS * sizeof(struct counts), rest = (size_t)layout->gc_counts_size - size;
    if (rest > (has_rings ? 8 : 0) || !hk_os_read_memory((const void *)*counts, copy, size))
        return false;
    for (unsigned i = 0; i < GENERATIONS; i++) {
        struct record record = record_now(copy, i, has_rings);
        if (has_rings && (unsigned char)copy[rings[i].offset + rings[i].records * sizeof record] >= rings[i].records)
            return false;
        if (record.counts.collections >= MOST || record.counts.collected >= MOST || record.counts.uncollectable >= MOST)
            return false;
    }
    return true;
}

static bool is_collector(const hk_py_layout *layout, uintptr_t interpreter, uintptr_t *counts)
{
    uintptr_t heads = interpreter + (uintptr_t)layout->gc_generations, garbage;
    *counts = interpreter + (uintptr_t)layout->gc_counts;
    return read_word(interpreter + (uintptr_t)layout->gc_garbage, &garbage) && is_list(layout, garbage) &&
           (has_heads(heads) || (layout->minor == 13 && has_heads(heads - 4))) && are_counts(layout, counts);
}

static void decide(bool good)
{
    collector.decided = true;
    if (!good)
        hk_record_event(HK_EVENT_NOTE, 0, "collections of cycles by Python are not recorded: its collector is not one that is known");
}

static __attribute__((noinline)) void begin(void)
{
    const hk_py_layout *layout = hk_python.layout;
    if (!layout->stacks || layout->gc_generations == 0) {
        decide(false);
        return;
    }
    uintptr_t interpreter = main_interpreter(layout), counts, at_work;
    bool is_ready = hk_python.is_initialized != NULL && hk_python.is_initialized();
    if (interpreter == 0 || !read_word(interpreter + (uintptr_t)layout->gc_collecting, &at_work) || (unsigned)at_work > 1) {
        if (is_ready)
            decide(false);
        return;
    }
    if ((unsigned)at_work == 1) /* lists are in pieces */
        return;
    bool good = is_collector(layout, interpreter, &counts);
    if (!good && !is_ready)
        return; /* it is being made, perhaps */
    decide(good);
    if (!good)
        return;
    collector.has_rings = layout->minor >= 15;
    collector.counts = (const char *)counts;
    __atomic_store_n(&collector.interpreter, (const char *)interpreter, __ATOMIC_RELEASE);
}

HK_HOT void hk_cpython_collections_begin(void)
{
    if (collector.decided)
        return;
    int error = errno;
    begin();
    if (collector.decided)
        hk_os_rest_code();
    errno = error;
}

/* --- looks --- */

/* Those of a generation after `from`, up to the one that ended with `to`. */
HK_HOT static struct hk_capture_collection entry_of(unsigned generation, const struct record *from, const struct record *to, uint64_t now)
{
    uint64_t count = to->counts.collections - from->counts.collections, after = __atomic_load_n(&collector.looked_ns, __ATOMIC_RELAXED);
    if (after <= collector.told_ns[generation])
        after = collector.told_ns[generation] + 1;
    struct hk_capture_collection entry = {
        .time_ns = after,
        .last_ns = now,
        .longest_at_ns = count == 1 && collector.at_work_ns >= after ? collector.at_work_ns : now,
        .freed = to->counts.collected - from->counts.collected,
        .uncollectable = to->counts.uncollectable - from->counts.uncollectable,
        .count = count < UINT32_MAX ? (uint32_t)count : UINT32_MAX,
        .generation = (uint8_t)generation,
        .cause = HK_CAUSE_OTHER,
    };
    if (collector.has_rings) {
        int64_t took = to->end_ns - to->begin_ns;
        double seconds = to->seconds - from->seconds;
        entry.last_ns = entry.longest_at_ns = (uint64_t)to->end_ns < now ? (uint64_t)to->end_ns : now;
        if (count == 1 || entry.time_ns > entry.last_ns)
            entry.time_ns = entry.last_ns;
        entry.longest_ns = took > 0 ? (uint64_t)took : 0;
        entry.duration_ns = count > 1 && seconds > 0 && seconds < 1e9 ? (uint64_t)(seconds * 1e9) : entry.longest_ns;
        if (entry.duration_ns < entry.longest_ns)
            entry.duration_ns = entry.longest_ns;
        entry.examined = to->candidates - from->candidates;
    }
    return entry;
}

/* In the order of time. */
HK_HOT static void put(struct hk_capture_collection *entries, unsigned *count, struct hk_capture_collection entry)
{
    unsigned at = (*count)++;
    for (; at > 0 && entries[at - 1].time_ns > entry.time_ns; at--)
        entries[at] = entries[at - 1];
    entries[at] = entry;
}

HK_HOT static void put_generation(unsigned generation, uint64_t now, struct hk_capture_collection *entries, unsigned *count, struct record *last)
{
    struct record from = collector.seen[generation];
    *last = record_now(collector.counts, generation, collector.has_rings);
    uint64_t missing = last->counts.collections - from.counts.collections;
    if (missing == 0)
        return;
    if (!collector.has_rings) {
        put(entries, count, entry_of(generation, &from, last, now));
        return;
    }
    unsigned records = rings[generation].records, at = newest(collector.counts, generation);
    for (unsigned known = missing < records ? (unsigned)missing : records; known > 0; known--) {
        struct record to = record_at(collector.counts, generation, (at + records + 1 - known) % records);
        put(entries, count, entry_of(generation, &from, &to, now));
        from = to;
    }
}

HK_HOT static void tell(uint64_t now)
{
    struct hk_capture_collection entries[YOUNG_RECORDS + 2 * OLD_RECORDS];
    struct record last[GENERATIONS];
    unsigned count = 0;
    for (unsigned i = 0; i < GENERATIONS; i++)
        put_generation(i, now, entries, &count, &last[i]);
    if (!hk_record_collections(entries, count))
        return; /* with the next look */
    uint64_t total = 0;
    for (unsigned i = 0; i < GENERATIONS; i++) {
        collector.seen[i] = last[i];
        total += last[i].counts.collections;
    }
    __atomic_store_n(&collector.total, total, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < count; i++)
        collector.told_ns[entries[i].generation] = entries[i].last_ns;
    collector.at_work_ns = 0;
}

HK_HOT static bool holds_main_lock(void)
{
    const void *state = hk_py_this_thread_state(hk_python.layout);
    return state != NULL && (hk_py_interpreter_id(hk_python.layout, state) == 0 || !hk_py_interp_has_own_gil(hk_python.layout, state));
}

HK_HOT void hk_cpython_collections_look(void)
{
    const char *interpreter = __atomic_load_n(&collector.interpreter, __ATOMIC_ACQUIRE);
    if (interpreter == NULL)
        return;
    bool is_at_work = (int32_t)hk_word_at(interpreter, hk_python.layout->gc_collecting) != 0;
    bool is_new = total_now() != __atomic_load_n(&collector.total, __ATOMIC_RELAXED);
    uint64_t now = hk_os_clock_ns();
    if (is_at_work || is_new) {
        if (!holds_main_lock())
            return;
        if (is_new)
            tell(now);
        if (is_at_work)
            collector.at_work_ns = now + 1; /* after what was told */
    }
    __atomic_store_n(&collector.looked_ns, now, __ATOMIC_RELAXED);
}

void hk_cpython_collections_end(void)
{
    hk_cpython_collections_look();
    __atomic_store_n(&collector.interpreter, NULL, __ATOMIC_RELAXED);
    collector.decided = true;
}

void hk_cpython_collections_forked(void)
{
    if (collector.interpreter == NULL)
        return;
    collector.total = total_now();
    for (unsigned i = 0; i < GENERATIONS; i++)
        collector.seen[i] = record_now(collector.counts, i, collector.has_rings);
    collector.at_work_ns = 0;
}
