/* Debug mode: allocation, free, quarantine and walk. See debug.h for the model. */
#include "heap/debug.h"
#include "heap/misuse.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define QUARANTINE_BYTES ((size_t)16 << 20)
#define QUARANTINE_BLOCKS (1u << 18)
#define WAITS_AT_MOST ((size_t)1 << 20) /* a larger block is given back at once */
#define REMEMBERED 4096u
#define MOST_SIZE ((size_t)PTRDIFF_MAX / 2)

bool hk_debug_on;

static int by_default; /* hk_debug_default: 1 on, -1 off, 0: as the environment says */
static uint64_t serials;
static __thread uint32_t this_thread;

struct waiting {
    uintptr_t block;
    uint64_t serial;
    size_t bytes;
    const hk_heap *heap;
};

static struct {
    hk_lock lock;
    struct waiting *ring;
    uint32_t first, count;
    size_t bytes;
    struct hk_debug_record *history; /* of those that left: a ring, too */
    uint64_t left;
} quarantine;

static uint32_t thread_id(void)
{
    if (this_thread == 0)
        this_thread = (uint32_t)syscall(SYS_gettid);
    return this_thread;
}

/* --- looking at bytes --- */

/* The first byte in [start, end) that is not `fill`; NULL: all are. */
static const unsigned char *first_changed(const void *start, const void *end, unsigned char fill)
{
    const unsigned char *at = start;
    const uint64_t word = fill * 0x0101010101010101u;
    for (; at < (const unsigned char *)end && (uintptr_t)at % 8 != 0; at++)
        if (*at != fill)
            return at;
    for (; (const unsigned char *)end - at >= 8 && *(const uint64_t *)at == word;)
        at += 8;
    for (; at < (const unsigned char *)end; at++)
        if (*at != fill)
            return at;
    return NULL;
}

/* One past the last byte that is not `fill`. */
static const unsigned char *last_changed(const void *start, const void *end, unsigned char fill)
{
    const unsigned char *at = end;
    while (at > (const unsigned char *)start && at[-1] == fill)
        at--;
    return at;
}

static const char *bytes_text(size_t count, char buffer[32])
{
    snprintf(buffer, 32, "%zu byte%s", count, count == 1 ? "" : "s");
    return buffer;
}

static void report_change(const struct hk_debug_record *record, const char *found, const char *what, const unsigned char *changed,
                          size_t count)
{
    char text[256], name[96], written[32], size[32];
    snprintf(text, sizeof(text), what, bytes_text(count, written), bytes_text(record->size, size),
             hk_debug_heap_name(record->heap, name, sizeof(name)));
    hk_debug_report(&(struct hk_debug_finding){.what = text, .found = found, .record = record, .changed = changed});
}

/* Reports if the block is not as it should be in its state. Its shard is locked. */
static void look_at(const struct hk_debug_record *record, const char *found)
{
    const char *start = (const char *)record->block, *end = start + record->size, *front = hk_debug_below(record);
    const char *rear_end = end + hk_debug_rear(record);
    const unsigned char *changed;
    if (record->state > HK_DEBUG_WAITING)
        return;
    if ((changed = first_changed(end, rear_end, HK_DEBUG_FENCE)) != NULL)
        report_change(record, found, "heap buffer overflow: %s written behind a block of %s (%s)", changed,
                      (size_t)(last_changed(end, rear_end, HK_DEBUG_FENCE) - changed));
    if ((changed = first_changed(front, start, HK_DEBUG_FENCE)) != NULL)
        report_change(record, found, "heap buffer underflow: %s written in front of a block of %s (%s)", changed,
                      (size_t)(last_changed(front, start, HK_DEBUG_FENCE) - changed));
    if (record->state == HK_DEBUG_WAITING && (changed = first_changed(start, end, HK_DEBUG_DEAD)) != NULL)
        report_change(record, found, "use after free: %s written into a freed block of %s (%s)", changed,
                      (size_t)(last_changed(start, end, HK_DEBUG_DEAD) - changed));
}

/* --- blocks --- */

static bool end_waiting(hk_heap *heap);

static void *block_begin(hk_heap *heap, char *below, unsigned front_shift, size_t size)
{
    char *block = below + ((size_t)1 << front_shift);
    if (hk_debug_dying)
        return block;
    uint32_t site = hk_debug_site(heap->domain), thread = thread_id();
    struct hk_debug_shard *shard = hk_debug_shard_of(block);
    hk_lock_take(&shard->lock);
    struct hk_debug_record *record = hk_debug_insert(shard, block);
    if (record != NULL) {
        record->heap = heap;
        record->size = size;
        record->front_shift = front_shift;
        record->serial = __atomic_add_fetch(&serials, 1, __ATOMIC_RELAXED);
        record->state = HK_DEBUG_LIVE;
        record->allocated = site;
        record->allocated_by = thread;
        memset(below, HK_DEBUG_FENCE, (size_t)1 << front_shift);
        memset(block + size, HK_DEBUG_FENCE, hk_debug_rear(record));
    }
    hk_lock_release(&shard->lock);
    if (record != NULL)
        return block;
    hk_below_free(heap, below);
    return NULL;
}

void *hk_debug_malloc(hk_heap *heap, size_t size)
{
    char *below;
    do
        below = size <= MOST_SIZE ? hk_below_malloc(heap, hk_debug_total(HK_DEBUG_GUARD, size)) : NULL;
    while (below == NULL && size <= MOST_SIZE && end_waiting(heap));
    if (below == NULL)
        return NULL;
    memset(below + HK_DEBUG_GUARD, HK_DEBUG_FRESH, size);
    return block_begin(heap, below, 4, size);
}

void *hk_debug_calloc(hk_heap *heap, size_t size)
{
    char *below;
    do
        below = size <= MOST_SIZE ? hk_below_calloc(heap, hk_debug_total(HK_DEBUG_GUARD, size)) : NULL;
    while (below == NULL && size <= MOST_SIZE && end_waiting(heap));
    return below != NULL ? block_begin(heap, below, 4, size) : NULL;
}

void *hk_debug_aligned_alloc(hk_heap *heap, size_t alignment, size_t size)
{
    if (alignment <= HK_DEBUG_GUARD)
        return hk_debug_malloc(heap, size);
    char *below;
    do
        below = size <= MOST_SIZE ? hk_below_aligned(heap, alignment, hk_debug_total(alignment, size)) : NULL;
    while (below == NULL && size <= MOST_SIZE && end_waiting(heap));
    if (below == NULL)
        return NULL;
    memset(below + alignment, HK_DEBUG_FRESH, size);
    return block_begin(heap, below, (unsigned)__builtin_ctzll(alignment), size);
}

/* What is wrong with giving this block to the heap, if anything is: reported. The shard is locked; record NULL: no
 * such block. heap NULL: any. */
static void check_owner(const hk_heap *heap, const struct hk_debug_record *record, const void *block, const char *how)
{
    char text[256], ours[96], its[96], found[96];
    snprintf(found, sizeof(found), "when it was %s", how);
    if (record == NULL) {
        const struct hk_debug_record *near = hk_debug_near(block), *before = hk_debug_remembered(block);
        if (near != NULL)
            snprintf(text, sizeof(text), "invalid free: the pointer is not the start of a block");
        else if (before != NULL && (uintptr_t)block == before->block)
            snprintf(text, sizeof(text), "double free of a block of %llu bytes (%s)", (unsigned long long)before->size,
                     hk_debug_heap_name(before->heap, its, sizeof(its)));
        else
            snprintf(text, sizeof(text), "foreign free: no heap in debug mode has such a block");
        hk_debug_report(&(struct hk_debug_finding){.what = text, .found = found, .record = near != NULL ? near : before, .pointer = block});
    }
    if (record->state == HK_DEBUG_WAITING) {
        snprintf(text, sizeof(text), "double free of a block of %llu bytes (%s)", (unsigned long long)record->size,
                 hk_debug_heap_name(record->heap, its, sizeof(its)));
        hk_debug_report(&(struct hk_debug_finding){.what = text, .found = found, .record = record});
    }
    if (heap != NULL && record->heap != heap) {
        snprintf(text, sizeof(text), "wrong %s: a block of the %s was given to the %s", heap->is_domain ? "domain" : "heap",
                 hk_debug_heap_name(record->heap, its, sizeof(its)), hk_debug_heap_name(heap, ours, sizeof(ours)));
        hk_debug_report(&(struct hk_debug_finding){.what = text, .found = found, .record = record});
    }
}

/* --- quarantine --- */

/* The oldest block's time is over: it is looked at for the last time and goes back to its heap. */
static void leave(const struct waiting *oldest)
{
    struct hk_debug_shard *shard = hk_debug_shard_of((void *)oldest->block);
    hk_lock_take(&shard->lock);
    struct hk_debug_record *record = hk_debug_find(shard, (void *)oldest->block), copy;
    bool is_it = record != NULL && record->state == HK_DEBUG_WAITING && record->serial == oldest->serial;
    if (is_it) {
        look_at(record, "when the freed block left the quarantine");
        copy = *record;
        hk_debug_remove(shard, record);
    }
    hk_lock_release(&shard->lock);
    if (!is_it)
        return; /* its heap has ended */
    hk_lock_take(&quarantine.lock);
    if (quarantine.history == NULL)
        quarantine.history = hk_os_map(REMEMBERED * sizeof(*quarantine.history));
    if (quarantine.history != NULL)
        quarantine.history[quarantine.left++ % REMEMBERED] = copy;
    hk_lock_release(&quarantine.lock);
    hk_below_free(copy.heap, hk_debug_below(&copy));
}

const struct hk_debug_record *hk_debug_remembered(const void *pointer)
{
    uint64_t count = quarantine.left < REMEMBERED ? quarantine.left : REMEMBERED;
    for (uint64_t i = 1; i <= count; i++) {
        const struct hk_debug_record *record = &quarantine.history[(quarantine.left - i) % REMEMBERED];
        if ((uintptr_t)pointer >= record->block && (uintptr_t)pointer < record->block + record->size + (record->size == 0))
            return record;
    }
    return NULL;
}

/* Takes the oldest block off if there are too many for one of `bytes` to be added. */
static bool take_oldest(size_t bytes, struct waiting *oldest)
{
    if (quarantine.count == 0 || (quarantine.bytes + bytes <= QUARANTINE_BYTES && quarantine.count < QUARANTINE_BLOCKS))
        return false;
    *oldest = quarantine.ring[quarantine.first];
    quarantine.first = (quarantine.first + 1) % QUARANTINE_BLOCKS;
    quarantine.count--;
    quarantine.bytes -= oldest->bytes;
    return true;
}

/* Takes the older half of the heap's blocks off, but no more than there is room for. */
static uint32_t take_of_heap(const hk_heap *heap, struct waiting *taken, uint32_t room)
{
    uint32_t waiting = 0, count = 0, kept = 0;
    for (uint32_t i = 0; i < quarantine.count; i++)
        waiting += quarantine.ring[(quarantine.first + i) % QUARANTINE_BLOCKS].heap == heap;
    uint32_t wanted = (waiting + 1) / 2 < room ? (waiting + 1) / 2 : room;
    for (uint32_t i = 0; wanted > 0 && i < quarantine.count; i++) {
        struct waiting entry = quarantine.ring[(quarantine.first + i) % QUARANTINE_BLOCKS];
        if (entry.heap == heap && count < wanted) {
            taken[count++] = entry;
            quarantine.bytes -= entry.bytes;
        } else {
            quarantine.ring[(quarantine.first + kept++) % QUARANTINE_BLOCKS] = entry;
        }
    }
    quarantine.count -= count;
    return count;
}

/* The heap has no memory: blocks that wait are worth less than one that is needed. False: none did. */
static bool end_waiting(hk_heap *heap)
{
    struct waiting taken[64];
    hk_lock_take(&quarantine.lock);
    uint32_t count = take_of_heap(heap, taken, sizeof(taken) / sizeof(taken[0]));
    hk_lock_release(&quarantine.lock);
    for (uint32_t i = 0; i < count; i++)
        leave(&taken[i]);
    if (count > 0) { /* what was refused may be there now */
        hk_heap_take(heap);
        hk_limit_forget(heap);
        hk_heap_release(heap);
    }
    return count > 0;
}

static void wait_in_quarantine(const struct waiting *entry)
{
    struct waiting oldest;
    bool added = false;
    if (entry->bytes > WAITS_AT_MOST) { /* nobody makes room for it */
        leave(entry);
        return;
    }
    while (!added) {
        hk_lock_take(&quarantine.lock);
        if (quarantine.ring == NULL)
            quarantine.ring = hk_os_map(QUARANTINE_BLOCKS * sizeof(*quarantine.ring));
        bool is_full = quarantine.ring != NULL && take_oldest(entry->bytes, &oldest);
        if (!is_full && quarantine.ring != NULL) {
            quarantine.ring[(quarantine.first + quarantine.count++) % QUARANTINE_BLOCKS] = *entry;
            quarantine.bytes += entry->bytes;
            added = true;
        }
        hk_lock_release(&quarantine.lock);
        if (is_full)
            leave(&oldest);
        else if (!added) {
            leave(entry); /* no memory for a quarantine */
            added = true;
        }
    }
}

/* heap NULL: any. False: there is no such block, and `must` does not hold. */
static bool free_block(hk_heap *heap, void *block, const char *how, bool must)
{
    if (hk_debug_dying)
        return true;
    struct hk_debug_shard *shard = hk_debug_shard_of(block);
    uint32_t site = hk_debug_site(heap != NULL ? heap->domain : HK_DOMAIN_RAW), thread = thread_id();
    hk_lock_take(&shard->lock);
    struct hk_debug_record *record = hk_debug_find(shard, block);
    if (record == NULL && !must) {
        hk_lock_release(&shard->lock);
        return false;
    }
    check_owner(heap, record, block, how);
    look_at(record, "when the block was freed");
    record->freed = site;
    record->freed_by = thread;
    record->state = HK_DEBUG_WAITING;
    memset(block, HK_DEBUG_DEAD, record->size);
    struct waiting entry = {record->block, record->serial, hk_debug_total((size_t)1 << record->front_shift, record->size),
                            record->heap};
    hk_lock_release(&shard->lock);
    wait_in_quarantine(&entry);
    return true;
}

void hk_debug_free(hk_heap *heap, void *block)
{
    if (block != NULL)
        free_block(heap, block, "freed", true);
}

bool hk_debug_stray(hk_heap *heap, void *block, const char *how)
{
    size_t size;
    if (heap != NULL && heap->mode != HK_LOCK_MEMBER && heap->magic != HK_HEAP_LIVE)
        hk_misuse(heap, "hk_free: the heap was destroyed before");
    if (hk_debug_knows(block, &size) && free_block(heap, block, how, false))
        return true;
    hk_heap *owner = block != NULL ? hk_heap_of(block) : NULL;
    if (owner == NULL || !owner->is_debug)
        return false;
    free_block(owner, block, how, true); /* inside of a block, or of one that is no more: reported */
    return true;
}

bool hk_debug_knows(const void *block, size_t *size)
{
    if (!hk_debug_on || block == NULL)
        return false;
    struct hk_debug_shard *shard = hk_debug_shard_of(block);
    hk_lock_take(&shard->lock);
    const struct hk_debug_record *record = hk_debug_find(shard, block);
    if (record != NULL)
        *size = record->size;
    hk_lock_release(&shard->lock);
    return record != NULL;
}

/* Where there is no memory to move it to. */
static void *shrink(void *block, size_t size)
{
    struct hk_debug_shard *shard = hk_debug_shard_of(block);
    hk_lock_take(&shard->lock);
    struct hk_debug_record *record = hk_debug_find(shard, block);
    if (record != NULL && record->size >= size) {
        record->size = size;
        memset((char *)block + size, HK_DEBUG_FENCE, hk_debug_rear(record));
    }
    hk_lock_release(&shard->lock);
    return block;
}

static void *realloc_dying(hk_heap *heap, void *block, size_t size)
{
    const struct hk_debug_record *record = hk_debug_find(hk_debug_shard_of(block), block);
    void *moved = hk_below_malloc(heap, size);
    if (moved != NULL && record != NULL)
        memcpy(moved, block, size < record->size ? size : record->size);
    return moved;
}

/* Always moves: who still uses the old block is found out. */
void *hk_debug_realloc(hk_heap *heap, void *block, size_t size)
{
    if (block == NULL)
        return hk_debug_malloc(heap, size);
    if (hk_debug_dying)
        return realloc_dying(heap, block, size);
    struct hk_debug_shard *shard = hk_debug_shard_of(block);
    hk_lock_take(&shard->lock);
    struct hk_debug_record *record = hk_debug_find(shard, block);
    check_owner(heap, record, block, "reallocated");
    look_at(record, "when the block was reallocated");
    size_t old = record->size;
    hk_lock_release(&shard->lock);

    void *moved = hk_malloc(heap, size); /* which asks who may make room under a limit */
    if (moved != NULL) {
        memcpy(moved, block, size < old ? size : old);
        hk_debug_free(heap, block);
        return moved;
    }
    return size <= old ? shrink(block, size) : NULL;
}

bool hk_debug_foreign_free(void *block, const char *function, bool forgive)
{
    char text[256], name[96], found[96];
    if (!hk_debug_on || hk_debug_dying || block == NULL)
        return false;
    struct hk_debug_shard *shard = hk_debug_shard_of(block);
    hk_lock_take(&shard->lock);
    const struct hk_debug_record *record = hk_debug_find(shard, block);
    if (record == NULL && !hk_region_has(block)) {
        hk_lock_release(&shard->lock);
        return false;
    }
    if (!forgive || record == NULL || record->state == HK_DEBUG_WAITING) {
        snprintf(found, sizeof(found), "given to C's %s", function);
        check_owner(NULL, record, block, found);
        snprintf(text, sizeof(text), "wrong domain: a block of the %s was given to C's %s",
                 hk_debug_heap_name(record->heap, name, sizeof(name)), function);
        snprintf(found, sizeof(found), "when it was given to C's %s", function);
        hk_debug_report(&(struct hk_debug_finding){.what = text, .found = found, .record = record});
    }
    hk_lock_release(&shard->lock);
    return free_block(NULL, block, function, false);
}

/* --- walking --- */

static size_t check_all(const char *found)
{
    size_t count = 0;
    for (uint32_t s = 0; s < HK_DEBUG_SHARDS; s++) {
        struct hk_debug_shard *shard = &hk_debug_shards[s];
        hk_lock_take(&shard->lock);
        for (uint32_t i = 0; i < shard->capacity; i++)
            if (shard->slots[i].block != 0) {
                look_at(&shard->slots[i], found);
                count++;
            }
        hk_lock_release(&shard->lock);
    }
    return count;
}

size_t hk_debug_check(void)
{
    return hk_debug_on ? check_all("when all blocks were checked") : 0;
}

void hk_debug_check_at_exit(void)
{
    static bool done;
    if (hk_debug_on && !__atomic_exchange_n(&done, true, __ATOMIC_RELAXED))
        check_all("when all blocks were checked at the program's end");
}

__attribute__((destructor)) static void last_check(void)
{
    hk_debug_check_at_exit();
}

/* --- begin and end --- */

bool hk_debug_wanted(void)
{
    const char *text = by_default == 0 ? secure_getenv("HEAPKEEPER_DEBUG") : NULL;
    return by_default > 0 || (text != NULL && text[0] != '\0' && strcmp(text, "0") != 0);
}

void hk_debug_default(bool on)
{
    by_default = on ? 1 : -1;
}

static void fork_release(void)
{
    this_thread = 0;
    hk_debug_fork_release();
}

void hk_debug_start(void)
{
    static hk_lock lock;
    static bool begun;
    hk_lock_take(&lock);
    bool first = !begun;
    begun = true;
    hk_lock_release(&lock);
    __atomic_store_n(&hk_debug_on, true, __ATOMIC_RELEASE);
    if (!first)
        return;
    hk_debug_sites_begin();
    pthread_atfork(hk_debug_fork_prepare, hk_debug_fork_release, fork_release);
}

/* Takes one block of the heap off the shard, from slot *at on, after a last look; false: there is none left. */
static bool forget_one(hk_heap *heap, struct hk_debug_shard *shard, uint32_t *at, struct hk_debug_record *copy)
{
    bool found = false;
    hk_lock_take(&shard->lock);
    for (; !found && *at < shard->capacity; *at += !found)
        if (shard->slots[*at].block != 0 && shard->slots[*at].heap == heap) {
            look_at(&shard->slots[*at], "when the heap was destroyed");
            *copy = shard->slots[*at];
            hk_debug_remove(shard, &shard->slots[*at]);
            found = true;
        }
    hk_lock_release(&shard->lock);
    return found;
}

void hk_debug_end(hk_heap *heap)
{
    struct hk_debug_record copy;
    for (uint32_t s = 0; s < HK_DEBUG_SHARDS; s++)
        for (uint32_t at = 0; forget_one(heap, &hk_debug_shards[s], &at, &copy);)
            if (copy.state == HK_DEBUG_WAITING)
                hk_below_free(heap, hk_debug_below(&copy));
    hk_lock_take(&quarantine.lock);
    for (uint64_t i = 0; quarantine.history != NULL && i < REMEMBERED; i++)
        if (quarantine.history[i].heap == heap)
            quarantine.history[i] = (struct hk_debug_record){.block = 0};
    hk_lock_release(&quarantine.lock);
}

void hk_debug_fork_prepare(void)
{
    for (uint32_t s = 0; s < HK_DEBUG_SHARDS; s++)
        hk_lock_take_to_fork(&hk_debug_shards[s].lock);
    hk_lock_take_to_fork(&quarantine.lock);
    hk_debug_sites_fork_prepare();
}

void hk_debug_fork_release(void)
{
    hk_debug_sites_fork_release();
    hk_lock_release_forked(&quarantine.lock);
    for (uint32_t s = 0; s < HK_DEBUG_SHARDS; s++)
        hk_lock_release_forked(&hk_debug_shards[s].lock);
}
