/* Misuses of the public functions of heap.h, one a row of the table at the end. Each is done to a heap that is otherwise in
 * order, in a child (test_heap_misuse.c). */
#ifndef HK_TESTS_HEAP_MISUSE_H
#define HK_TESTS_HEAP_MISUSE_H

#include "heap/debug.h"
#include "heap_helper.h"

#include <fcntl.h>
#include <sys/mman.h>

/* ---- what rows share ---- */

static hk_lock_mode lock; /* of heaps made here */

static hk_heap *heap_make(bool large_from_source)
{
    hk_heap *heap = hk_heap_create(&(hk_heap_options){
        .size = sizeof(hk_heap_options), .lock = lock, .name = "other", .large_from_source = large_from_source});
    if (heap == NULL)
        abort();
    return heap;
}

static hk_heap *destroyed_heap(void)
{
    hk_heap *heap = heap_make(false);
    hk_free(heap, hk_malloc(heap, 100));
    hk_heap_destroy(heap);
    return heap;
}

static void *block_of_destroyed_heap(void)
{
    hk_heap *heap = heap_make(false);
    void *block = hk_malloc(heap, 100);
    hk_heap_destroy(heap);
    return block;
}

/* Reads as a heap without being one. */
static hk_heap *no_heap(void)
{
    static uint64_t words[sizeof(hk_heap) / 8];
    memset(words, 0x55, sizeof(words));
    return (hk_heap *)words;
}

/* In the range of addresses that heaps have, where none has been yet. */
static void *address_without_block(const hk_heap *heap)
{
    return hk_region.base + hk_region.span - HK_POOL_SIZE + 64;
}

#define OPTIONS(...) (&(hk_heap_options){.size = sizeof(hk_heap_options), __VA_ARGS__})

static _Alignas(64) char buffer[1 << 20];

static bool is_zero(const void *start, size_t size)
{
    const char *bytes = start;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

/* ---- the rows ---- */

static bool options_without_size(hk_heap *heap)
{
    return hk_heap_create(&(hk_heap_options){.lock = HK_LOCK_OWN}) == NULL;
}

static bool options_with_any_size(hk_heap *heap)
{
    return hk_heap_create(&(hk_heap_options){.size = 1 << 20}) == NULL;
}

static bool options_of_a_later_version(hk_heap *heap)
{
    struct {
        hk_heap_options known;
        size_t later;
    } options = {{.size = sizeof(options)}, 1};
    return hk_heap_create(&options.known) == NULL;
}

static bool unknown_lock(hk_heap *heap)
{
    return hk_heap_create(OPTIONS(.lock = (hk_lock_mode)3)) == NULL;
}

static bool unknown_source(hk_heap *heap)
{
    return hk_heap_create(OPTIONS(.source = (hk_source)4)) == NULL;
}

static bool unknown_debug_mode(hk_heap *heap)
{
    return hk_heap_create(OPTIONS(.debug = (hk_debug_mode)3)) == NULL;
}

static bool odd_alignment_of_a_heap(hk_heap *heap)
{
    return hk_heap_create(OPTIONS(.alignment = 24)) == NULL;
}

static bool no_buffer(hk_heap *heap)
{
    return hk_heap_create(OPTIONS(.source = HK_SOURCE_BUFFER, .buffer_size = 1 << 20)) == NULL;
}

static bool small_buffer(hk_heap *heap)
{
    return hk_heap_create(OPTIONS(.source = HK_SOURCE_BUFFER, .buffer = buffer, .buffer_size = 4000)) == NULL;
}

static bool endless_buffer(hk_heap *heap)
{
    return hk_heap_create(OPTIONS(.source = HK_SOURCE_BUFFER, .buffer = buffer, .buffer_size = SIZE_MAX)) == NULL;
}

static bool buffer_of_another_heap(hk_heap *heap)
{
    hk_heap *other = hk_heap_create(OPTIONS(.source = HK_SOURCE_BUFFER, .buffer = buffer, .buffer_size = 1 << 19));
    return hk_heap_create(OPTIONS(.source = HK_SOURCE_BUFFER, .buffer = buffer + (1 << 18), .buffer_size = 1 << 19)) == NULL &&
           hk_malloc(other, 100) != NULL;
}

static bool buffer_for_threads(hk_heap *heap)
{
    return hk_heap_create(OPTIONS(.source = HK_SOURCE_BUFFER, .buffer = buffer, .buffer_size = sizeof(buffer),
                                  .lock = HK_LOCK_THREADS)) == NULL;
}

static bool file_that_is_not_open(hk_heap *heap)
{
    return hk_heap_create(OPTIONS(.source = HK_SOURCE_FILE, .file = 1000)) == NULL;
}

static bool file_to_read(hk_heap *heap)
{
    return hk_heap_create(OPTIONS(.source = HK_SOURCE_FILE, .file = open("/dev/null", O_RDONLY))) == NULL;
}

static bool file_that_is_a_device(hk_heap *heap)
{
    return hk_heap_create(OPTIONS(.source = HK_SOURCE_FILE, .file = open("/dev/null", O_RDWR))) == NULL;
}

static bool file_of_another_heap(hk_heap *heap)
{
    int file = memfd_create("misuse", 0);
    hk_heap *other = hk_heap_create(OPTIONS(.source = HK_SOURCE_FILE, .file = file));
    return hk_heap_create(OPTIONS(.source = HK_SOURCE_FILE, .file = dup(file))) == NULL && hk_malloc(other, 100) != NULL;
}

static bool destroyed_twice(hk_heap *heap)
{
    hk_heap_destroy(destroyed_heap());
    hk_heap *one = heap_make(false), *two = heap_make(false); /* its structure did not become free twice */
    return one != two;
}

static bool destroyed_what_is_none(hk_heap *heap)
{
    hk_heap_destroy(no_heap());
    return true;
}

static bool destroyed_a_domains_heap(hk_heap *heap)
{
    void *block = hk_domain_malloc(HK_DOMAIN_RAW, 100);
    hk_heap_destroy(hk_heap_of(block));
    hk_domain_free(HK_DOMAIN_RAW, block);
    return hk_domain_malloc(HK_DOMAIN_RAW, 100) == block;
}

static bool malloc_from_null(hk_heap *heap)
{
    return hk_malloc(NULL, 100) == NULL;
}

static bool malloc_from_a_destroyed_heap(hk_heap *heap)
{
    hk_heap *other = destroyed_heap();
    return hk_malloc(other, 0) == NULL && hk_malloc(other, 100) == NULL && hk_malloc(other, 100000) == NULL;
}

static bool malloc_of_too_much(hk_heap *heap)
{
    return hk_malloc(heap, (size_t)PTRDIFF_MAX + 1) == NULL && hk_malloc(heap, SIZE_MAX) == NULL;
}

static bool calloc_from_null(hk_heap *heap)
{
    return hk_calloc(NULL, 1, 100) == NULL;
}

static bool calloc_from_a_destroyed_heap(hk_heap *heap)
{
    hk_heap *other = destroyed_heap();
    return hk_calloc(other, 1, 100) == NULL && hk_calloc(other, 100, 1000) == NULL;
}

static bool calloc_of_too_much(hk_heap *heap)
{
    return hk_calloc(heap, SIZE_MAX / 2, 3) == NULL && hk_calloc(heap, SIZE_MAX, SIZE_MAX) == NULL;
}

static bool realloc_in_null(hk_heap *heap)
{
    struct shadow s;
    shadow_fill(&s, hk_malloc(heap, 100), 100, 1);
    return hk_realloc(NULL, s.block, 200) == NULL && is_intact(&s);
}

static bool realloc_in_a_destroyed_heap(hk_heap *heap)
{
    struct shadow s;
    shadow_fill(&s, hk_malloc(heap, 100), 100, 1);
    return hk_realloc(destroyed_heap(), s.block, 200) == NULL && is_intact(&s);
}

static bool realloc_of_another_heaps_block(hk_heap *heap)
{
    void *block = hk_malloc(heap_make(false), 100);
    memset(block, 7, 100);
    unsigned char *moved = hk_realloc(heap, block, 200);
    return moved[0] == 7 && moved[99] == 7 && hk_heap_of(moved) == heap;
}

static bool realloc_of_cs_block(hk_heap *heap)
{
    void *block = malloc(100);
    memset(block, 7, 100);
    unsigned char *moved = hk_realloc(heap, block, 200);
    return moved[0] == 7 && moved[99] == 7;
}

static bool realloc_of_a_destroyed_heaps_block(hk_heap *heap)
{
    return hk_realloc(heap, block_of_destroyed_heap(), 200) == NULL;
}

static bool realloc_of_no_block(hk_heap *heap)
{
    return hk_realloc(heap, address_without_block(heap), 200) == NULL;
}

static bool realloc_of_a_freed_block(hk_heap *heap)
{
    void *block = hk_malloc(heap, 100);
    hk_free(heap, block);
    return hk_realloc(heap, block, 200) == NULL;
}

static bool aligned_from_null(hk_heap *heap)
{
    return hk_aligned_alloc(NULL, 64, 100) == NULL;
}

static bool aligned_from_a_destroyed_heap(hk_heap *heap)
{
    return hk_aligned_alloc(destroyed_heap(), 64, 100) == NULL;
}

static bool aligned_to_nothing(hk_heap *heap)
{
    return hk_aligned_alloc(heap, 0, 100) == NULL;
}

static bool aligned_to_no_power_of_two(hk_heap *heap)
{
    return hk_aligned_alloc(heap, 24, 100) == NULL;
}

static bool aligned_to_too_much(hk_heap *heap)
{
    return hk_aligned_alloc(heap, 32768, 100) == NULL;
}

static bool free_into_null(hk_heap *heap)
{
    struct shadow s;
    shadow_fill(&s, hk_malloc(heap, 100), 100, 1);
    hk_free(NULL, s.block);
    return is_intact(&s);
}

static bool free_into_a_destroyed_heap(hk_heap *heap)
{
    uint64_t before = stats_of(heap).live_blocks;
    void *block = hk_malloc(heap, 100);
    hk_free(destroyed_heap(), block);
    hk_heap_trim(heap);
    return stats_of(heap).live_blocks == before;
}

static bool free_of_another_heaps_block(hk_heap *heap)
{
    hk_heap *other = heap_make(false);
    hk_free(heap, hk_malloc(other, 100));
    hk_heap_trim(other); /* takes it back */
    return stats_of(other).live_blocks == 0;
}

static bool free_of_cs_block(hk_heap *heap)
{
    hk_free(heap, malloc(100));
    return true;
}

static bool free_of_a_destroyed_heaps_block(hk_heap *heap)
{
    hk_free(heap, block_of_destroyed_heap());
    return true;
}

static bool free_of_no_block(hk_heap *heap)
{
    hk_free(heap, address_without_block(heap));
    return true;
}

/* A pool is empty when its last block is freed; the one that blocks come from stays. In debug mode none is: blocks wait. */
static bool double_free_in_an_empty_pool(hk_heap *heap)
{
    void *blocks[3 * HK_POOL_SIZE / 256];
    for (size_t i = 0; i < COUNT(blocks); i++)
        blocks[i] = hk_malloc(heap, 256);
    size_t freed_again = 0;
    for (size_t i = 0; i < COUNT(blocks); i++)
        hk_free(heap, blocks[i]);
    for (size_t i = 0; i < COUNT(blocks); i++)
        if (hk_debug_on || hk_pool_of(blocks[i])->place == HK_PLACE_EMPTY) {
            hk_free(heap, blocks[i]);
            freed_again++;
        }
    return freed_again > 0;
}

static bool double_free(hk_heap *heap)
{
    void *block = hk_malloc(heap, 100);
    hk_free(heap, block);
    hk_free(heap, block);
    return true;
}

static bool free_inside_of_a_block(hk_heap *heap)
{
    hk_free(heap, (char *)hk_malloc(heap, 100) + 16);
    return true;
}

static bool free_inside_of_a_large_block(hk_heap *heap)
{
    hk_heap *other = heap_make(true);
    struct shadow s;
    shadow_fill(&s, hk_malloc(other, 4 * HK_POOL_SIZE), 4 * HK_POOL_SIZE, 1);
    hk_free(other, s.block + 2 * HK_POOL_SIZE);
    return is_intact(&s) && stats_of(other).live_blocks == 1;
}

static bool free_remote_of_cs_block(hk_heap *heap)
{
    void *block = malloc(100);
    bool done = hk_free_remote(block) || hk_free_remote(NULL);
    free(block);
    return !done;
}

static bool free_remote_of_a_destroyed_heaps_block(hk_heap *heap)
{
    return !hk_free_remote(block_of_destroyed_heap());
}

static bool usable_size_of_no_block(hk_heap *heap)
{
    int on_stack;
    return hk_usable_size(NULL) + hk_usable_size(&on_stack) + hk_usable_size(address_without_block(heap)) +
               hk_usable_size(block_of_destroyed_heap()) == 0;
}

static bool heap_of_no_block(hk_heap *heap)
{
    int on_stack;
    return hk_heap_of(NULL) == NULL && hk_heap_of(&on_stack) == NULL && hk_heap_of(address_without_block(heap)) == NULL &&
           hk_heap_of(block_of_destroyed_heap()) == NULL;
}

static bool trim_of_null(hk_heap *heap)
{
    return hk_heap_trim(NULL) == 0;
}

static bool trim_of_a_destroyed_heap(hk_heap *heap)
{
    return hk_heap_trim(destroyed_heap()) == 0;
}

static bool trim_of_no_heap(hk_heap *heap)
{
    return hk_heap_trim(no_heap()) == 0;
}

static bool limit_of_null(hk_heap *heap)
{
    hk_heap_set_limit(NULL, 1);
    return true;
}

static bool limit_of_a_destroyed_heap(hk_heap *heap)
{
    hk_heap *other = destroyed_heap();
    hk_heap_set_limit(other, 0);
    return hk_malloc(other, 100) == NULL;
}

static bool destroy_it(hk_heap *heap, size_t wanted, void *argument)
{
    hk_heap_destroy(heap);
    return true;
}

static bool at_limit_destroys(hk_heap *heap)
{
    hk_heap *other = hk_heap_create(OPTIONS(.lock = lock, .limit_bytes = 1 << 20, .at_limit = destroy_it));
    return hk_malloc(other, 2 << 20) == NULL;
}

static bool say_yes(hk_heap *heap, size_t wanted, void *argument)
{
    ++*(int *)argument;
    return true;
}

static bool at_limit_always_says_yes(hk_heap *heap)
{
    int asked = 0;
    hk_heap *other = hk_heap_create(OPTIONS(.lock = lock, .limit_bytes = 1 << 20, .at_limit = say_yes, .at_limit_argument = &asked));
    return hk_malloc(other, 2 << 20) == NULL && asked == 1000;
}

static bool stats_into_null(hk_heap *heap)
{
    hk_heap_get_stats(heap, NULL);
    return true;
}

static bool stats_without_size(hk_heap *heap)
{
    hk_heap_stats stats = {.size = 0};
    hk_heap_get_stats(heap, &stats);
    return is_zero(&stats, sizeof(stats));
}

static bool stats_of_a_destroyed_heap(hk_heap *heap)
{
    hk_heap_stats stats = stats_of(destroyed_heap());
    return stats.size == sizeof(stats) && is_zero((char *)&stats + sizeof(stats.size), sizeof(stats) - sizeof(stats.size));
}

static bool text_into_null(hk_heap *heap)
{
    return hk_stats_text(NULL, 100) == hk_stats_text(NULL, 0);
}

static bool json_into_null(hk_heap *heap)
{
    return hk_stats_json(NULL, 100) == hk_stats_json(NULL, 0);
}

static bool blocks_into_null(hk_heap *heap)
{
    return hk_blocks_json(NULL, 100, true) == hk_blocks_json(NULL, 0, true);
}

static bool geometry_into_null(hk_heap *heap)
{
    hk_get_geometry(NULL);
    return true;
}

static bool geometry_without_size(hk_heap *heap)
{
    hk_geometry geometry = {.size = 0};
    hk_get_geometry(&geometry);
    return is_zero(&geometry, sizeof(geometry));
}

static bool bytes_of_no_class(hk_heap *heap)
{
    return hk_class_bytes(0) == 0 && hk_class_bytes(HK_CLASSES) == 0 && hk_class_bytes(UINT32_MAX) == 0;
}

static bool visit_nothing(const hk_pool_info *pool, void *block, hk_block_state state, void *argument)
{
    return true;
}

static bool destroy_visited(const hk_pool_info *pool, void *block, hk_block_state state, void *argument)
{
    hk_heap_destroy(argument);
    return false;
}

static bool visit_of_null(hk_heap *heap)
{
    hk_heap_visit(NULL, visit_nothing, NULL);
    return true;
}

static bool visit_of_a_destroyed_heap(hk_heap *heap)
{
    hk_heap_visit(destroyed_heap(), visit_nothing, NULL);
    return true;
}

static bool visit_by_null(hk_heap *heap)
{
    hk_heap_visit(heap, NULL, NULL);
    return true;
}

static bool visitor_destroys(hk_heap *heap)
{
    hk_heap *other = heap_make(false);
    hk_malloc(other, 100);
    hk_heap_visit(other, destroy_visited, other);
    return true;
}

static bool check_of_a_destroyed_heap(hk_heap *heap)
{
    return hk_heap_check(destroyed_heap()) == -1;
}

static bool check_of_no_heap(hk_heap *heap)
{
    return hk_heap_check(no_heap()) == -1;
}

static bool get_allocator_of_no_domain(hk_heap *heap)
{
    hk_allocator allocator;
    hk_get_allocator(HK_DOMAINS, &allocator);
    return is_zero(&allocator, sizeof(allocator));
}

static bool get_allocator_into_null(hk_heap *heap)
{
    hk_get_allocator(HK_DOMAIN_RAW, NULL);
    return true;
}

static bool set_allocator_of_no_domain(hk_heap *heap)
{
    hk_allocator allocator;
    hk_get_allocator(HK_DOMAIN_RAW, &allocator);
    hk_set_allocator((hk_domain)-1, &allocator);
    return hk_domain_malloc(HK_DOMAIN_RAW, 100) != NULL;
}

static bool set_allocator_null(hk_heap *heap)
{
    hk_set_allocator(HK_DOMAIN_RAW, NULL);
    return hk_domain_malloc(HK_DOMAIN_RAW, 100) != NULL;
}

static bool set_allocator_in_part(hk_heap *heap)
{
    hk_allocator allocator;
    hk_get_allocator(HK_DOMAIN_RAW, &allocator);
    allocator.realloc = NULL;
    hk_set_allocator(HK_DOMAIN_RAW, &allocator);
    return hk_domain_realloc(HK_DOMAIN_RAW, NULL, 100) != NULL;
}

static bool malloc_in_no_domain(hk_heap *heap)
{
    return hk_domain_malloc((hk_domain)17, 100) == NULL;
}

static bool calloc_in_no_domain(hk_heap *heap)
{
    return hk_domain_calloc((hk_domain)17, 1, 100) == NULL;
}

static bool realloc_in_no_domain(hk_heap *heap)
{
    struct shadow s;
    shadow_fill(&s, hk_domain_malloc(HK_DOMAIN_RAW, 100), 100, 1);
    return hk_domain_realloc((hk_domain)17, s.block, 200) == NULL && is_intact(&s);
}

static bool free_in_no_domain(hk_heap *heap)
{
    struct shadow s;
    shadow_fill(&s, hk_domain_malloc(HK_DOMAIN_RAW, 100), 100, 1);
    hk_domain_free((hk_domain)17, s.block);
    return is_intact(&s);
}

static bool realloc_of_another_domains_block(hk_heap *heap)
{
    void *block = hk_domain_malloc(HK_DOMAIN_RAW, 100);
    memset(block, 7, 100);
    unsigned char *moved = hk_domain_realloc(HK_DOMAIN_OBJECT, block, 200);
    return moved[0] == 7 && moved[99] == 7;
}

static bool free_of_another_domains_block(hk_heap *heap)
{
    void *block = hk_domain_malloc(HK_DOMAIN_RAW, 100);
    hk_heap *raw = hk_heap_of(block);
    hk_domain_free(HK_DOMAIN_MEM, block);
    return stats_of(raw).live_blocks == 0;
}

/* ---- the table ---- */

#define FOREIGN "foreign free: no heap in debug mode has such a block"
#define NOBODYS "the block is of no heap, or of one that was destroyed"
#define AS_IN_C "not defined, as in C"

static const struct row {
    const char *function, *misuse;
    bool (*commit)(hk_heap *heap); /* true: what came of it is what `release` says */
    const char *innermost;         /* its name */
    const char *debug, *release;   /* debug NULL: nothing is said */
} rows[] = {
#define ROW(function, misuse, commit, debug, release) {function, misuse, commit, #commit, debug, release}
    ROW("hk_heap_create", "`options.size` is 0", options_without_size, "hk_heap_create: options.size is 0, and not sizeof(hk_heap_options)", "NULL"),
    ROW("hk_heap_create", "`options.size` is some number", options_with_any_size, "hk_heap_create: options.size is 1048576, and not sizeof(hk_heap_options)", "NULL"),
    ROW("hk_heap_create", "an option of a later version is set", options_of_a_later_version, "hk_heap_create: something is set in options that this version does not know", "NULL"),
    ROW("hk_heap_create", "a lock mode that there is not", unknown_lock, "hk_heap_create: 3 is no hk_lock_mode", "NULL"),
    ROW("hk_heap_create", "a source that there is not", unknown_source, "hk_heap_create: 4 is no hk_source", "NULL"),
    ROW("hk_heap_create", "a debug mode that there is not", unknown_debug_mode, "hk_heap_create: 3 is no hk_debug_mode", "NULL"),
    ROW("hk_heap_create", "an alignment that is none of 0, 8, 16", odd_alignment_of_a_heap, "hk_heap_create: an alignment of 24 is neither 8 nor 16", "NULL"),
    ROW("hk_heap_create", "the buffer is NULL", no_buffer, "hk_heap_create: the buffer is NULL", "NULL"),
    ROW("hk_heap_create", "the buffer is too small for one pool", small_buffer, "hk_heap_create: a buffer of 4000 bytes is too small", "NULL"),
    ROW("hk_heap_create", "the buffer ends beyond the last address", endless_buffer, "hk_heap_create: a buffer of 18446744073709551615 bytes", "NULL"),
    ROW("hk_heap_create", "another heap lies in the buffer", buffer_of_another_heap, "hk_heap_create: another heap lies in the buffer", "NULL"),
    ROW("hk_heap_create", "a buffer under `HK_LOCK_THREADS`", buffer_for_threads, "hk_heap_create: a heap in a buffer cannot be under HK_LOCK_THREADS", "NULL"),
    ROW("hk_heap_create", "the file is not open", file_that_is_not_open, "hk_heap_create: the file is not open", "NULL"),
    ROW("hk_heap_create", "the file is open for reading only", file_to_read, "hk_heap_create: the file is not open for reading and writing", "NULL"),
    ROW("hk_heap_create", "the file is a device, a pipe, a socket", file_that_is_a_device, "hk_heap_create: the file is not a regular one", "NULL"),
    ROW("hk_heap_create", "another heap lies in the file", file_of_another_heap, "hk_heap_create: another heap lies in the file", "NULL"),
    ROW("hk_heap_destroy", "a heap that was destroyed before", destroyed_twice, "hk_heap_destroy: the heap was destroyed before", "nothing"),
    ROW("hk_heap_destroy", "a pointer to something else", destroyed_what_is_none, "hk_heap_destroy: the pointer is no heap", "nothing"),
    ROW("hk_heap_destroy", "a domain's heap", destroyed_a_domains_heap, "hk_heap_destroy: the raw domain lasts as long as the process", "nothing"),
    ROW("hk_malloc", "the heap is NULL", malloc_from_null, "hk_malloc: the heap is NULL", "NULL"),
    ROW("hk_malloc", "a destroyed heap", malloc_from_a_destroyed_heap, "hk_malloc: the heap was destroyed before", "NULL"),
    ROW("hk_malloc", "more than PTRDIFF_MAX bytes", malloc_of_too_much, NULL, "NULL"),
    ROW("hk_calloc", "the heap is NULL", calloc_from_null, "hk_calloc: the heap is NULL", "NULL"),
    ROW("hk_calloc", "a destroyed heap", calloc_from_a_destroyed_heap, "hk_calloc: the heap was destroyed before", "NULL"),
    ROW("hk_calloc", "the product overflows", calloc_of_too_much, NULL, "NULL"),
    ROW("hk_realloc", "the heap is NULL", realloc_in_null, "hk_realloc: the heap is NULL", "NULL; the block stays"),
    ROW("hk_realloc", "a destroyed heap", realloc_in_a_destroyed_heap, "hk_realloc: the heap was destroyed before", "NULL; the block stays"),
    ROW("hk_realloc", "a block of another heap", realloc_of_another_heaps_block, "wrong heap: a block of the heap \"other\" was given to the heap \"test\"", "a block of this heap, unless the old one does"),
    ROW("hk_realloc", "a block of C's `malloc`", realloc_of_cs_block, FOREIGN, "a block of this heap, or C's"),
    ROW("hk_realloc", "a block of a destroyed heap", realloc_of_a_destroyed_heaps_block, FOREIGN, "NULL"),
    ROW("hk_realloc", "a pointer into the heaps' addresses where no block ever was", realloc_of_no_block, FOREIGN, "NULL"),
    ROW("hk_realloc", "a freed block", realloc_of_a_freed_block, "double free of a block of 100 bytes (heap \"test\")", AS_IN_C),
    ROW("hk_aligned_alloc", "the heap is NULL", aligned_from_null, "hk_aligned_alloc: the heap is NULL", "NULL"),
    ROW("hk_aligned_alloc", "a destroyed heap", aligned_from_a_destroyed_heap, "hk_aligned_alloc: the heap was destroyed before", "NULL"),
    ROW("hk_aligned_alloc", "an alignment of 0", aligned_to_nothing, "hk_aligned_alloc: an alignment of 0 is no power of two up to 16384", "NULL"),
    ROW("hk_aligned_alloc", "an alignment that is no power of two", aligned_to_no_power_of_two, "hk_aligned_alloc: an alignment of 24 is no power of two up to 16384", "NULL"),
    ROW("hk_aligned_alloc", "an alignment over 16384", aligned_to_too_much, "hk_aligned_alloc: an alignment of 32768 is no power of two up to 16384", "NULL"),
    ROW("hk_free", "the heap is NULL", free_into_null, "hk_free: the heap is NULL", "the block stays"),
    ROW("hk_free", "a destroyed heap", free_into_a_destroyed_heap, "hk_free: the heap was destroyed before", "the block's own heap gets it"),
    ROW("hk_free", "a block of another heap", free_of_another_heaps_block, "wrong heap: a block of the heap \"other\" was given to the heap \"test\"", "the block's own heap gets it"),
    ROW("hk_free", "a block of C's `malloc`", free_of_cs_block, FOREIGN, "C's `free` gets it"),
    ROW("hk_free", "a block of a destroyed heap", free_of_a_destroyed_heaps_block, FOREIGN, "nothing"),
    ROW("hk_free", "a pointer into the heaps' addresses where no block ever was", free_of_no_block, FOREIGN, "nothing"),
    ROW("hk_free", "a freed block, whose pool is empty", double_free_in_an_empty_pool, "double free of a block of 256 bytes (heap \"test\")", "nothing"),
    ROW("hk_free", "a freed block", double_free, "double free of a block of 100 bytes (heap \"test\")", AS_IN_C),
    ROW("hk_free", "a pointer into a block", free_inside_of_a_block, "invalid free: the pointer is not the start of a block", AS_IN_C),
    ROW("hk_free", "a pointer into a large block of the heap's own", free_inside_of_a_large_block, "invalid free: the pointer is not the start of a block", "nothing, from its second pool on"),
    ROW("hk_free_remote", "NULL, or a block of C's `malloc`", free_remote_of_cs_block, NULL, "false"),
    ROW("hk_free_remote", "a block of a destroyed heap", free_remote_of_a_destroyed_heaps_block, "hk_free_remote: " NOBODYS, "false"),
    ROW("hk_usable_size", "a pointer that is no heap's block", usable_size_of_no_block, NULL, "0"),
    ROW("hk_heap_of", "a pointer that is no heap's block", heap_of_no_block, NULL, "NULL"),
    ROW("hk_heap_trim", "the heap is NULL", trim_of_null, "hk_heap_trim: the heap is NULL", "0"),
    ROW("hk_heap_trim", "a destroyed heap", trim_of_a_destroyed_heap, "hk_heap_trim: the heap was destroyed before", "0"),
    ROW("hk_heap_trim", "a pointer to something else", trim_of_no_heap, "hk_heap_trim: the pointer is no heap", "0"),
    ROW("hk_heap_set_limit", "the heap is NULL", limit_of_null, "hk_heap_set_limit: the heap is NULL", "nothing"),
    ROW("hk_heap_set_limit", "a destroyed heap", limit_of_a_destroyed_heap, "hk_heap_set_limit: the heap was destroyed before", "nothing"),
    ROW("hk_at_limit", "it destroys its heap", at_limit_destroys, "hk_at_limit: it destroyed its heap", "the request returns NULL"),
    ROW("hk_at_limit", "it says true and makes no room", at_limit_always_says_yes, NULL, "after 1000 times the request returns NULL"),
    ROW("hk_heap_get_stats", "the statistics are NULL", stats_into_null, "hk_heap_get_stats: the statistics are NULL", "nothing"),
    ROW("hk_heap_get_stats", "their `size` is 0", stats_without_size, "hk_heap_get_stats: their size is not sizeof(hk_heap_stats)", "nothing"),
    ROW("hk_heap_get_stats", "a destroyed heap", stats_of_a_destroyed_heap, "hk_heap_get_stats: the heap was destroyed before", "zeros"),
    ROW("hk_stats_text", "the buffer is NULL, the capacity is not 0", text_into_null, "hk_stats_text: the buffer is NULL", "the length"),
    ROW("hk_stats_json", "the buffer is NULL, the capacity is not 0", json_into_null, "hk_stats_json: the buffer is NULL", "the length"),
    ROW("hk_blocks_json", "the buffer is NULL, the capacity is not 0", blocks_into_null, "hk_blocks_json: the buffer is NULL", "the length"),
    ROW("hk_get_geometry", "the geometry is NULL", geometry_into_null, "hk_get_geometry: the geometry is NULL", "nothing"),
    ROW("hk_get_geometry", "its `size` is 0", geometry_without_size, "hk_get_geometry: its size is not sizeof(hk_geometry)", "nothing"),
    ROW("hk_class_bytes", "a class that there is not", bytes_of_no_class, NULL, "0"),
    ROW("hk_heap_visit", "the heap is NULL", visit_of_null, "hk_heap_visit: the heap is NULL", "nothing"),
    ROW("hk_heap_visit", "a destroyed heap", visit_of_a_destroyed_heap, "hk_heap_visit: the heap was destroyed before", "nothing"),
    ROW("hk_heap_visit", "the visitor is NULL", visit_by_null, "hk_heap_visit: the visitor is NULL", "nothing"),
    ROW("hk_visitor", "it destroys the heap", visitor_destroys, "hk_heap_visit: the visitor destroyed the heap", "the walk ends"),
    ROW("hk_heap_check", "a destroyed heap", check_of_a_destroyed_heap, "hk_heap_check: the heap was destroyed before", "-1"),
    ROW("hk_heap_check", "a pointer to something else", check_of_no_heap, "hk_heap_check: the pointer is no heap", "-1"),
    ROW("hk_get_allocator", "a number that is no domain", get_allocator_of_no_domain, "hk_get_allocator: 3 is no domain", "all functions are NULL"),
    ROW("hk_get_allocator", "the allocator is NULL", get_allocator_into_null, "hk_get_allocator: the allocator is NULL", "nothing"),
    ROW("hk_set_allocator", "a number that is no domain", set_allocator_of_no_domain, "hk_set_allocator: -1 is no domain", "nothing"),
    ROW("hk_set_allocator", "the allocator is NULL", set_allocator_null, "hk_set_allocator: the allocator is NULL", "nothing"),
    ROW("hk_set_allocator", "one of its functions is NULL", set_allocator_in_part, "hk_set_allocator: a function of the allocator is NULL", "nothing"),
    ROW("hk_domain_malloc", "a number that is no domain", malloc_in_no_domain, "hk_domain_malloc: 17 is no domain", "NULL"),
    ROW("hk_domain_calloc", "a number that is no domain", calloc_in_no_domain, "hk_domain_calloc: 17 is no domain", "NULL"),
    ROW("hk_domain_realloc", "a number that is no domain", realloc_in_no_domain, "hk_domain_realloc: 17 is no domain", "NULL; the block stays"),
    ROW("hk_domain_realloc", "a block of another domain", realloc_of_another_domains_block, "wrong domain: a block of the raw domain was given to the object domain", "a block of this domain, unless the old one does"),
    ROW("hk_domain_free", "a number that is no domain", free_in_no_domain, "hk_domain_free: 17 is no domain", "the block stays"),
    ROW("hk_domain_free", "a block of another domain", free_of_another_domains_block, "wrong domain: a block of the raw domain was given to the mem domain", "the block's own domain gets it"),
};

#endif
