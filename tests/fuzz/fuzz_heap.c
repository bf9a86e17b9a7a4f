/* Allocator operations against a model.
 *
 * The input is a program: what heaps there are (source, lock, limit, where large blocks come from), then operations of
 * four bytes each on sixty-four slots: what, which slot, and a size. The model is what each slot's block holds, how
 * large it is and whose: a block is filled when it is made and looked at before it is resized or freed, so blocks that
 * overlap, move without their contents or are cleared are found; heaps and their statistics are checked on the way and
 * when everything is freed. The C allocator refuses now and then, as the input says.
 *
 *     make FUZZ=1; build-fuzz/tests/fuzz/fuzz_heap -max_total_time=600 -max_len=4096 NEW tests/fuzz/corpus_heap
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "heap/pool.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SLOTS 64
#define HEAPS 2
#define BUFFER ((size_t)1 << 20)

struct slot {
    unsigned char *block;
    size_t size;
    int heap;
    uint8_t tag;
};

struct model {
    hk_heap *heaps[HEAPS];
    size_t most[HEAPS]; /* that the heap may have mapped: its limit, or what it had when that was set. 0: no limit */
    int file;
    bool evicts, libc_fails;
    uint8_t tags;
    struct slot slots[SLOTS];
};

static struct model model;
static char buffers[HEAPS][BUFFER];

#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* ---- the C allocator, which may refuse ---- */

static void *may_malloc(size_t size)
{
    return model.libc_fails ? NULL : malloc(size);
}

static void *may_calloc(size_t count, size_t size)
{
    return model.libc_fails ? NULL : calloc(count, size);
}

static void *may_realloc(void *block, size_t size)
{
    return model.libc_fails ? NULL : realloc(block, size);
}

static int may_memalign(void **block, size_t alignment, size_t size)
{
    return model.libc_fails ? 12 : posix_memalign(block, alignment, size);
}

/* ---- the model ---- */

/* By the 256 bytes, which is faster than by the byte where each branch is counted. */
static uint8_t pattern[512];

static const uint8_t *chunk_of(uint8_t tag, size_t at)
{
    if (pattern[1] == 0)
        for (size_t i = 0; i < sizeof(pattern); i++)
            pattern[i] = (uint8_t)(i * 13);
    return pattern + (uint8_t)(tag + at / 256 * 7);
}

static void fill(struct slot *slot, void *block, size_t size, int heap)
{
    *slot = (struct slot){block, size, heap, model.tags++};
    for (size_t at = 0; at < size; at += 256)
        memcpy(slot->block + at, chunk_of(slot->tag, at), size - at < 256 ? size - at : 256);
}

static void look(const unsigned char *block, size_t size, uint8_t tag)
{
    for (size_t at = 0; at < size; at += 256)
        MUST(memcmp(block + at, chunk_of(tag, at), size - at < 256 ? size - at : 256) == 0);
}

static void slot_free(struct slot *slot, int by, bool remote)
{
    if (slot->block == NULL)
        return;
    look(slot->block, slot->size, slot->tag);
    /* A large block of the C allocator is counted by the heap that frees it, so it goes back to its own. Under a lock of
     * the host each heap may free the others' blocks. */
    if (hk_heap_of(slot->block) == NULL)
        by = slot->heap;
    if (!remote || !hk_free_remote(slot->block))
        hk_free(model.heaps[by], slot->block);
    slot->block = NULL;
}

static bool at_limit(hk_heap *heap, size_t wanted, void *argument)
{
    MUST(wanted > 0);
    if (!model.evicts)
        return false;
    for (int i = 0; i < SLOTS; i++)
        if (model.slots[i].block != NULL && model.heaps[model.slots[i].heap] == heap) {
            slot_free(&model.slots[i], model.slots[i].heap, false);
            return true;
        }
    return false;
}

static uint64_t mapped(hk_heap *heap)
{
    hk_heap_stats s = {.size = sizeof(s)};
    hk_heap_get_stats(heap, &s);
    MUST(s.mapped_bytes == s.live_bytes + s.free_bytes + s.untouched_bytes + s.tail_bytes + s.empty_bytes +
                               s.metadata_bytes);
    MUST(s.mapped_bytes + s.large_bytes == hk_heap_mapped(heap));
    return s.mapped_bytes + s.large_bytes;
}

static void set_limit(int heap, size_t bytes)
{
    hk_heap_set_limit(model.heaps[heap], bytes);
    size_t now = mapped(model.heaps[heap]);
    model.most[heap] = bytes == 0 ? 0 : bytes > now ? bytes : now;
}

static void check(bool all_is_freed)
{
    for (int h = 0; h < HEAPS; h++) {
        hk_heap *heap = model.heaps[h];
        int broken = hk_heap_check(heap);
        if (broken)
            fprintf(stderr, "heap %d: rule %d\n", h, broken);
        MUST(broken == 0);
        uint64_t now = mapped(heap);
        MUST(model.most[h] == 0 || now <= model.most[h] + 16384); /* the C allocator gives more than was asked */
        if (!all_is_freed)
            continue;
        hk_heap_trim(heap); /* what was freed from outside comes back */
        hk_heap_stats s = {.size = sizeof(s)};
        hk_heap_get_stats(heap, &s);
        MUST(s.live_blocks + s.large_blocks + s.live_bytes + s.large_bytes == 0);
        MUST(hk_heap_check(heap) == 0);
    }
}

/* ---- the program ---- */

static hk_heap *heap_make(int number, uint8_t kind, uint8_t limit)
{
    static const hk_lock_mode locks[] = {HK_LOCK_HOST, HK_LOCK_OWN, HK_LOCK_THREADS, HK_LOCK_HOST};
    hk_heap_options options = {
        .size = sizeof(options),
        .lock = locks[kind & 3],
        .name = "fuzz",
        .alignment = kind & 4 ? 8 : 16,
        .source = (hk_source)(kind >> 3 & 3),
        .large_from_source = kind >> 5 & 1,
        .limit_bytes = limit % 4 == 0 ? (size_t)limit << 14 : 0,
        .at_limit = at_limit,
    };
    if (options.source == HK_SOURCE_BUFFER) {
        options.buffer = buffers[number] + (kind >> 6) * 7;
        options.buffer_size = BUFFER - 100 - (size_t)limit * 4000;
        if (options.lock == HK_LOCK_THREADS)
            options.lock = HK_LOCK_OWN;
    }
    if (options.source == HK_SOURCE_FILE) {
        model.file = model.file >= 0 ? model.file : memfd_create("fuzz", 0);
        options.file = number == 0 ? model.file : -1; /* the second one can get no memory from it */
    }
    hk_heap *heap = hk_heap_create(&options);
    if (heap == NULL) {
        options.source = HK_SOURCE_SYSTEM;
        heap = hk_heap_create(&options);
    }
    MUST(heap != NULL);
    model.heaps[number] = heap;
    model.most[number] = 0;
    if (options.limit_bytes != 0)
        set_limit(number, options.limit_bytes);
    return heap;
}

static size_t size_of(uint8_t low, uint8_t high)
{
    size_t n = (size_t)high << 8 | low;
    if (n < 0xc000)
        return n % 5000;
    if (n < 0xff00)
        return (n & 0x3fff) * 16; /* to 256 KiB */
    return n < 0xfff8 ? (n & 0xff) << 14 : SIZE_MAX - (n & 7) * 5000; /* to 4 MiB; none can have the last */
}

static void slot_make(struct slot *slot, int h, int how, size_t size)
{
    hk_heap *heap = model.heaps[h];
    size_t alignment = heap->alignment == 8 && (size % 16 != 0 || size == 0) ? 8 : 16;
    unsigned char *block;
    if (how == 1) {
        block = hk_calloc(heap, size / 4 + (size % 4 != 0), 4);
    } else if (how == 2) {
        alignment = (size_t)1 << (model.tags % 15);
        block = hk_aligned_alloc(heap, alignment, size);
    } else {
        block = hk_malloc(heap, size);
    }
    if (block == NULL)
        return;
    MUST(size < PTRDIFF_MAX);
    MUST((uintptr_t)block % alignment == 0);
    MUST(hk_heap_of(block) == heap || hk_heap_of(block) == NULL);
    MUST(hk_heap_of(block) == NULL || hk_usable_size(block) >= size);
    static const unsigned char zeros[256];
    for (size_t at = 0; how == 1 && at < size; at += 256)
        MUST(memcmp(block + at, zeros, size - at < 256 ? size - at : 256) == 0);
    fill(slot, block, size, h);
}

static void slot_resize(struct slot *slot, size_t size)
{
    struct slot old = *slot;
    *slot = (struct slot){.block = NULL}; /* not to be evicted meanwhile */
    look(old.block, old.size, old.tag);
    unsigned char *block = hk_realloc(model.heaps[old.heap], old.block, size);
    if (block == NULL) {
        MUST(size > old.size);
        look(old.block, old.size, old.tag);
        *slot = old;
        return;
    }
    MUST(size < PTRDIFF_MAX);
    look(block, size < old.size ? size : old.size, old.tag);
    fill(slot, block, size, old.heap);
}

static void step(const uint8_t *op)
{
    struct slot *slot = &model.slots[op[1] % SLOTS];
    int h = op[1] >> 7;
    size_t size = size_of(op[2], op[3]);
    switch (op[0] & 15) {
    case 0: case 1: case 2: case 3: case 4: case 5:
        slot_free(slot, slot->heap, false);
        slot_make(slot, h, (op[0] & 15) - 3, size);
        break;
    case 6: case 7:
        if (slot->block != NULL)
            slot_resize(slot, size);
        break;
    case 8: case 9:
        slot_free(slot, slot->heap, false);
        break;
    case 10:
        slot_free(slot, h, false); /* maybe through the other heap */
        break;
    case 11:
        slot_free(slot, h, true);
        break;
    case 12:
        for (int i = 0; i < 1 + op[2] % 64; i++) { /* a row of one size */
            struct slot *next = &model.slots[(op[1] + i) % SLOTS];
            slot_free(next, next->heap, false);
            slot_make(next, h, 0, op[3] * 16);
        }
        break;
    case 13:
        hk_heap_trim(model.heaps[h]);
        break;
    case 14:
        set_limit(h, op[2] % 8 == 0 ? 0 : ((size_t)op[3] << 14) + op[2]);
        break;
    case 15:
        model.libc_fails = op[2] & 1 && op[2] & 2;
        model.evicts = op[2] & 4;
        check(false);
        break;
    }
}

static void all_free(void)
{
    for (int i = 0; i < SLOTS; i++)
        slot_free(&model.slots[i], model.slots[i].heap, false);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4)
        return 0;
    memset(&model, 0, sizeof(model));
    model.file = -1;
    hk_libc.malloc = may_malloc;
    hk_libc.calloc = may_calloc;
    hk_libc.realloc = may_realloc;
    hk_libc.memalign = may_memalign;
    for (int h = 0; h < HEAPS; h++)
        heap_make(h, data[2 * h], data[2 * h + 1]);
    /* A block may be freed through the other heap only if that cannot be in use elsewhere: there is one thread. */
    for (size_t at = 4; at + 4 <= size; at += 4) {
        step(data + at);
        if (at % 256 == 0)
            check(false);
    }
    model.libc_fails = false;
    if (data[0] & 1) /* else they end with what is in them, but for what is the C allocator's */
        all_free();
    for (int i = 0; i < SLOTS; i++)
        if (model.slots[i].block != NULL && hk_heap_of(model.slots[i].block) == NULL)
            slot_free(&model.slots[i], model.slots[i].heap, false);
    check(data[0] & 1);
    for (int h = 0; h < HEAPS; h++)
        hk_heap_destroy(model.heaps[h]);
    if (model.file >= 0)
        close(model.file);
    return 0;
}

#include "replay.h"
