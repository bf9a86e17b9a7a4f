/* What the heap's tests share: numbers at random but repeatable, a shadow model of what is allocated (each block is
 * filled with bytes that follow from its tag, and looked at before it is freed), a count of a heap by walking it, and
 * a way to do in a child what would spoil the process (limits, a shrunk region). */
#ifndef HK_TESTS_HEAP_HELPER_H
#define HK_TESTS_HEAP_HELPER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "heap/pool.h"

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define IS_SANITIZED true
#endif
#endif
#ifndef IS_SANITIZED
#define IS_SANITIZED false
#endif

static inline bool is_under_valgrind(void)
{
    const char *preload = getenv("LD_PRELOAD");
    return preload != NULL && strstr(preload, "vgpreload") != NULL;
}

/* Sanitizers and valgrind need address space of their own, and slow everything down. */
static inline bool is_watched_by_tool(void)
{
    return IS_SANITIZED || is_under_valgrind();
}

/* Rounds of a loop: fewer where each takes long. */
static inline int rounds(int usual)
{
    if (is_under_valgrind())
        return usual / 50 + 1;
    return IS_SANITIZED ? usual / 10 + 1 : usual;
}

/* splitmix64 */
static inline uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t random_below(uint64_t *state, uint64_t limit)
{
    return random_next(state) % limit;
}

/* 0 ... about 20000, as many in each doubling, with the borders of classes more often than chance would have them. */
static inline size_t random_size(uint64_t *state)
{
    uint64_t kind = random_below(state, 16);
    if (kind == 0)
        return hk_class_size[random_below(state, HK_CLASSES)] + random_below(state, 3) - (kind == 1);
    if (kind == 1)
        return HK_BLOCK_MAX - 2 + random_below(state, 5);
    size_t top = (size_t)1 << random_below(state, 15);
    return top + random_below(state, top) - 1;
}

/* A program under test makes a heap, which must be there. */
static inline hk_heap *heap_new(hk_lock_mode lock)
{
    hk_heap *heap = hk_heap_create(&(hk_heap_options){
        .size = sizeof(hk_heap_options),
        .lock = lock,
        .name = "test",
        .alignment = HK_STEP, /* all of the classes are used */
    });
    if (heap == NULL)
        abort();
    return heap;
}

/* What a block of this size from heap_new is aligned to. */
static inline size_t alignment_of(size_t size)
{
    return size > HK_BLOCK_MAX || (size > 0 && size % HK_ALIGNMENT == 0) ? HK_ALIGNMENT : HK_STEP;
}

/* ---- the shadow model ---- */

struct shadow {
    unsigned char *block;
    size_t size;
    uint64_t tag;
};

static inline void shadow_fill(struct shadow *s, void *block, size_t size, uint64_t tag)
{
    *s = (struct shadow){block, size, tag};
    for (size_t i = 0; i < size; i++)
        s->block[i] = (unsigned char)(tag + i * 7);
}

/* The first `size` bytes are what the block with this tag was filled with. */
static inline bool shadow_holds(const unsigned char *block, size_t size, uint64_t tag)
{
    for (size_t i = 0; i < size; i++)
        if (block[i] != (unsigned char)(tag + i * 7))
            return false;
    return true;
}

static inline bool is_intact(const struct shadow *s)
{
    return shadow_holds(s->block, s->size, s->tag);
}

static inline size_t usable(const void *block)
{
    return hk_heap_of(block) != NULL ? hk_usable_size(block) : hk_libc.usable_size((void *)(uintptr_t)block);
}

/* ---- walking ---- */

struct walk {
    hk_heap_stats sum; /* what statistics should say, as far as it can be walked */
    uint32_t pools, last_arena;
    const void *last_start;
    uint32_t in_pool[3]; /* blocks of the present pool, by state */
    hk_pool_info pool;
    int wrong; /* line of the first thing that was not as it should be */
};

#define WALK_CHECK(walk, condition)                                                                                    \
    do {                                                                                                               \
        if (!(condition) && (walk)->wrong == 0)                                                                        \
            (walk)->wrong = __LINE__;                                                                                  \
    } while (0)

static inline void walk_pool_end(struct walk *w)
{
    if (w->pools == 0 || w->pool.state == HK_POOL_EMPTY)
        return;
    WALK_CHECK(w, w->in_pool[HK_BLOCK_ALLOCATED] == w->pool.allocated);
    WALK_CHECK(w, w->in_pool[HK_BLOCK_ALLOCATED] + w->in_pool[HK_BLOCK_FREE] == w->pool.touched);
    WALK_CHECK(w, w->in_pool[HK_BLOCK_UNTOUCHED] + w->pool.touched == w->pool.capacity);
}

static bool walk_visit(const hk_pool_info *pool, void *block, hk_block_state state, void *argument)
{
    struct walk *w = argument;
    if (block != NULL) {
        w->in_pool[state]++;
        w->sum.live_blocks += state == HK_BLOCK_ALLOCATED;
        w->sum.live_bytes += state == HK_BLOCK_ALLOCATED ? pool->block_size : 0;
        w->sum.free_bytes += state == HK_BLOCK_FREE ? pool->block_size : 0;
        w->sum.untouched_bytes += state == HK_BLOCK_UNTOUCHED ? pool->block_size : 0;
        WALK_CHECK(w, (char *)block >= (char *)pool->start);
        WALK_CHECK(w, (char *)block + pool->block_size <= (char *)pool->start + pool->size);
        return false;
    }
    walk_pool_end(w);
    WALK_CHECK(w, w->last_start == NULL || pool->start > w->last_start);
    memset(w->in_pool, 0, sizeof(w->in_pool));
    w->pool = *pool;
    w->pools += (uint32_t)(pool->size / HK_POOL_SIZE); /* a run of pools is shown as one */
    w->last_start = pool->start;
    w->sum.pools_empty += pool->state == HK_POOL_EMPTY;
    w->sum.pools_used += pool->state == HK_POOL_USED;
    if (pool->block_size > HK_BLOCK_MAX)
        w->sum.pools_large += (uint32_t)(pool->size / HK_POOL_SIZE);
    else
        w->sum.pools_full += pool->state == HK_POOL_FULL;
    if (pool->state == HK_POOL_EMPTY)
        WALK_CHECK(w, pool->block_size == 0 && pool->capacity == 0 && pool->allocated == 0);
    else
        w->sum.tail_bytes += pool->size - pool->capacity * pool->block_size;
    WALK_CHECK(w, (pool->state == HK_POOL_FULL) == (pool->capacity != 0 && pool->allocated == pool->capacity));
    return true;
}

static inline struct walk walk_heap(hk_heap *heap)
{
    struct walk w = {.last_start = NULL};
    hk_heap_visit(heap, walk_visit, &w);
    walk_pool_end(&w);
    return w;
}

static inline hk_heap_stats stats_of(hk_heap *heap)
{
    hk_heap_stats stats = {.size = sizeof(stats)};
    hk_heap_get_stats(heap, &stats);
    return stats;
}

static inline uint64_t sum_of_classes(const hk_heap_stats *s)
{
    return s->live_bytes + s->free_bytes + s->untouched_bytes + s->tail_bytes + s->empty_bytes + s->metadata_bytes;
}

/* 0, or the line above or below on which the heap, its statistics and a walk through it do not agree. */
static inline int disagreement(hk_heap *heap)
{
    int broken = hk_heap_check(heap);
    if (broken) {
        fprintf(stderr, "hk_heap_check: rule %d\n", broken);
        return __LINE__;
    }
    hk_heap_stats s = stats_of(heap);
    struct walk w = walk_heap(heap);
    if (w.wrong)
        return w.wrong;
    if (s.mapped_bytes != sum_of_classes(&s))
        return __LINE__;
    if (s.live_blocks != w.sum.live_blocks || s.live_bytes != w.sum.live_bytes)
        return __LINE__;
    if (s.free_bytes != w.sum.free_bytes || s.untouched_bytes != w.sum.untouched_bytes)
        return __LINE__;
    if (s.tail_bytes != w.sum.tail_bytes)
        return __LINE__;
    if (s.pools_used != w.sum.pools_used || s.pools_full != w.sum.pools_full || s.pools_empty != w.sum.pools_empty)
        return __LINE__;
    if (s.pools_large != w.sum.pools_large || s.own_large_bytes != s.pools_large * HK_POOL_SIZE)
        return __LINE__;
    bool in_buffer = s.source == HK_SOURCE_BUFFER; /* whose last arena may be smaller */
    if (in_buffer ? w.pools > s.arenas * HK_ARENA_POOLS : w.pools != s.arenas * HK_ARENA_POOLS)
        return __LINE__;
    if (s.empty_bytes + s.returned_bytes != s.pools_empty * HK_POOL_SIZE)
        return __LINE__;
    uint64_t pool_bytes = s.mapped_bytes - s.metadata_bytes + s.returned_bytes;
    if (hk_heap_mapped(heap) != s.mapped_bytes + s.large_bytes) /* what a limit looks at */
        return __LINE__;
    return pool_bytes == (uint64_t)w.pools * HK_POOL_SIZE ? 0 : __LINE__;
}

#define assert_in_order(heap) assert_int_equal(disagreement(heap), 0)

/* ---- children ---- */

/* In a child a failed assertion must not go on with the parent's tests. */
#define CHILD_CHECK(condition)                                                                                         \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: in a child: %s\n", __FILE__, __LINE__, #condition);                                \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

static inline void in_child(void (*function)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(100);
        function();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status))
        fail_msg("the child was killed by signal %d", WTERMSIG(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* What a child says on stderr, and how it ends. */
static __attribute__((noinline, unused)) int run_child(void (*function)(void), char *text, size_t capacity)
{
    int pipes[2], status;
    fflush(NULL);
    assert_int_equal(pipe(pipes), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(100);
        signal(SIGABRT, SIG_DFL); /* not cmocka's */
        dup2(pipes[1], STDERR_FILENO);
        close(pipes[0]);
        close(pipes[1]);
        function();
        _exit(0);
    }
    close(pipes[1]);
    size_t length = 0;
    for (ssize_t n; length + 1 < capacity && (n = read(pipes[0], text + length, capacity - 1 - length)) > 0;)
        length += (size_t)n;
    text[length] = '\0';
    close(pipes[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

/* True if the report has the stack under this heading, and in it the function. */
static inline bool has_in_stack(const char *text, const char *heading, const char *function)
{
    const char *at = strstr(text, heading);
    if (at == NULL || (at = strchr(at + 1, '\n')) == NULL)
        return false;
    while (strncmp(at + 1, "      ", 6) == 0) {
        const char *end = strchr(at + 1, '\n');
        if (strncmp(at + 7, function, strlen(function)) == 0 && at[7 + strlen(function)] == ' ')
            return true;
        at = end;
    }
    return false;
}

/* True if it is the innermost that is shown. */
static inline bool is_top_of_stack(const char *text, const char *heading, const char *function)
{
    const char *at = strstr(text, heading);
    at = at != NULL ? strchr(at + 1, '\n') : NULL;
    return at != NULL && strncmp(at, "\n      ", 7) == 0 && strncmp(at + 7, function, strlen(function)) == 0 &&
           at[7 + strlen(function)] == ' ';
}

#endif
