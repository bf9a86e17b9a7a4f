/* The heap as a picture and two tables.
 *
 *      shop.py · Python 3.13.0 · pid 4242 · ended · the heap at its end
 *
 *      HEAPS       one row a heap: arenas, pools by state, blocks, how full its pools are, what is mapped
 *      CLASSES     one row a size class: pools, blocks by state, and what is lost in it
 *      ARENAS      one row an arena, one character a pool (blocks_zoom.c)
 *      MEANING     one or two sentences
 */
#include "view/blocks.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "view/report.h"

#define MARGIN 10 /* columns of the headings */
#define LINE   1100
#define ROWS   16 /* classes that have one of their own, unless all are wanted */

/* ---- shared ---- */

bool hk_blocks_shows(const struct hk_blocks *b, size_t heap)
{
    return b->heap < 0 || (size_t)b->heap == heap;
}

struct hk_map_sums hk_blocks_sums(const struct hk_blocks *b)
{
    return b->heap < 0 ? b->map->sums : b->map->heaps[b->heap].sums;
}

const char *hk_pool_state_word(uint8_t state)
{
    static const char *const words[] = {"empty", "returned", "used", "full", "large"};
    return state < 5 ? words[state] : "unknown";
}

static int by_size(const void *a, const void *b)
{
    const struct hk_map_class *x = a, *y = b;
    return x->block_size < y->block_size ? -1 : x->block_size > y->block_size;
}

struct hk_map_class *hk_blocks_classes(const struct hk_blocks *b, size_t *count)
{
    struct hk_map_class *classes = hk_must_calloc(b->map->class_count, sizeof *classes);
    size_t n = 0, out = 0;
    for (size_t i = 0; i < b->map->class_count; i++)
        if (hk_blocks_shows(b, b->map->classes[i].heap))
            classes[n++] = b->map->classes[i];
    qsort(classes, n, sizeof *classes, by_size);
    for (size_t i = 0; i < n; i++) {
        struct hk_map_class c = classes[i], *last = out ? &classes[out - 1] : NULL;
        if (!last || last->block_size != c.block_size) {
            classes[out++] = c;
            continue;
        }
        last->pools_used += c.pools_used;
        last->pools_full += c.pools_full;
        last->allocated += c.allocated;
        last->free += c.free;
        last->untouched += c.untouched;
    }
    *count = out;
    return classes;
}

uint64_t hk_class_lost(const struct hk_blocks *b, const struct hk_map_class *c)
{
    uint64_t pool_size = b->map->heap_count ? b->map->heaps[c->heap].pool_size : 0;
    uint64_t pools = (uint64_t)c->pools_used + c->pools_full;
    return pools * pool_size - c->allocated * c->block_size;
}

char *hk_blocks_bar(const struct hk_terminal *t, char *to, unsigned width, double allocated, double free_part,
                    double whole)
{
    unsigned full = whole > 0 ? (unsigned)(allocated / whole * width + 0.5) : 0;
    unsigned end = whole > 0 ? (unsigned)((allocated + free_part) / whole * width + 0.5) : 0;
    char *at = to;
    full = full > width ? width : full;
    end = end > width ? width : end < full ? full : end;
    for (unsigned i = 0; i < width; i++) {
        const char *piece = i < full ? (t->utf8 ? "█" : "#") : i < end ? (t->utf8 ? "░" : ".") : " ";
        size_t length = strlen(piece);
        memcpy(at, piece, length);
        at += length;
    }
    *at = 0;
    return to;
}

char *hk_blocks_percent(char to[32], uint64_t part, uint64_t whole)
{
    double share = whole ? (double)part / (double)whole : 0;
    return hk_text_percent(to, part < whole && share > 0.99 ? 0.99 : share, 1);
}

/* ---- meaning ---- */

struct waste {
    uint64_t sparse_pools; /* in use, and less than half of their blocks allocated */
    uint64_t sparse_free;  /* bytes of free blocks in them */
};

static struct waste find_waste(const struct hk_blocks *b)
{
    struct waste w = {0, 0};
    for (size_t i = 0; i < b->map->arena_count; i++) {
        const struct hk_map_arena *arena = &b->map->arenas[i];
        if (!hk_blocks_shows(b, arena->heap))
            continue;
        for (uint32_t k = 0; k < arena->pool_count; k++) {
            const struct hk_map_pool *p = &b->map->pools[arena->first_pool + k];
            if (p->state == HK_MAP_POOL_USED && p->allocated * 2 < p->touched) {
                w.sparse_pools++;
                w.sparse_free += (uint64_t)(p->touched - p->allocated) * p->block_size;
            }
        }
    }
    return w;
}

/* " (most of it in blocks of 48 and 64 bytes)": the two classes with the most free bytes, if that is half or more. */
static void worst_classes(const struct hk_blocks *b, uint64_t free_bytes, char *text, size_t size)
{
    size_t count, first = 0, second = 0;
    struct hk_map_class *classes = hk_blocks_classes(b, &count);
    uint64_t most = 0, next = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = classes[i].free * classes[i].block_size;
        if (bytes > most) {
            next = most;
            second = first;
            most = bytes;
            first = i;
        } else if (bytes > next) {
            next = bytes;
            second = i;
        }
    }
    text[0] = 0;
    if (most * 2 >= free_bytes && most)
        snprintf(text, size, ", most of it in blocks of %u bytes,", classes[first].block_size);
    else if ((most + next) * 2 >= free_bytes && next)
        snprintf(text, size, ", most of it in blocks of %u and %u bytes,", classes[first].block_size,
                 classes[second].block_size);
    free(classes);
}

void hk_blocks_meaning(const struct hk_blocks *b, char *text, size_t size)
{
    struct hk_map_sums s = hk_blocks_sums(b);
    struct waste w = find_waste(b);
    uint64_t in_pools = s.allocated_bytes + s.free_bytes + s.untouched_bytes + s.tail_bytes;
    uint64_t whole = in_pools + s.empty_bytes;
    char a[32], c[32], d[32], e[32], worst[128];
    int n = 0;
    if (in_pools == 0) {
        snprintf(text, size, "Nothing is allocated in pools.");
        return;
    }
    worst_classes(b, s.free_bytes, worst, sizeof worst);
    if (s.free_bytes * 10 >= in_pools && s.free_bytes >= s.untouched_bytes)
        n = snprintf(text, size,
                     "Fragmented: %s of the %s in pools is free blocks%s pinned between blocks that are still allocated: a "
                     "pool can be given back or serve another size only when its last block is freed.",
                     hk_text_bytes(a, (double)s.free_bytes), hk_text_bytes(c, (double)whole), worst);
    else if ((in_pools - s.allocated_bytes) * 10 < in_pools)
        n = snprintf(text, size, "Well filled: %s of the %s in pools is allocated blocks (%s).",
                     hk_text_bytes(a, (double)s.allocated_bytes), hk_text_bytes(c, (double)whole),
                     hk_text_percent(d, (double)s.allocated_bytes, (double)whole));
    else
        n = snprintf(text, size,
                     "Young or small: %s of the %s in pools was never handed out, since each size that is used has a pool "
                     "of its own; %s is free blocks.",
                     hk_text_bytes(a, (double)s.untouched_bytes), hk_text_bytes(c, (double)whole),
                     hk_text_bytes(d, (double)s.free_bytes));
    if (n > 0 && (size_t)n < size && w.sparse_pools > 1 && w.sparse_free * 20 >= in_pools)
        n += snprintf(text + n, size - (size_t)n, " %s pools are less than half full; %s is free in them.",
                      hk_text_count(a, w.sparse_pools), hk_text_bytes(c, (double)w.sparse_free));
    if (n > 0 && (size_t)n < size && s.empty_bytes * 10 >= whole)
        snprintf(text + n, size - (size_t)n, " %s is in %s empty pools, ready for any size.",
                 hk_text_bytes(d, (double)s.empty_bytes), hk_text_count(e, s.pools_empty));
}

/* ---- head ---- */

void hk_blocks_wrapped(const struct hk_terminal *t, const char *heading, const char *format, ...)
{
    char text[LINE];
    size_t room = t->width ? t->width - MARGIN : 110, column = 0;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(t->out, "%s%-*s%s", hk_style(t, HK_BOLD), MARGIN, heading, hk_style(t, HK_PLAIN));
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) {
        size_t columns = hk_text_columns(word);
        if (column && column + 1 + columns > room) {
            fprintf(t->out, "\n%*s", MARGIN, "");
            column = 0;
        }
        fprintf(t->out, "%s%s", column ? " " : "", word);
        column += columns + (column ? 1 : 0);
    }
    fputc('\n', t->out);
}

static void put_head(const struct hk_blocks *b, const struct hk_terminal *t)
{
    const struct hk_capture *c = b->capture;
    const char *dot = t->utf8 ? " · " : ", ";
    char program[256], name[512], version[32], when[32];

    hk_text_clean(t, name, sizeof name, hk_capture_program(c, program, sizeof program));
    fprintf(t->out, "%s%s%s", hk_style(t, HK_BOLD), name, hk_style(t, HK_PLAIN));
    if (c->header.python_version)
        fprintf(t->out, "%sPython %s", dot, hk_python_version(c->header.python_version, version));
    fprintf(t->out, "%spid %u%s%s%s", dot, b->map->source == HK_MAP_OF_PROCESS ? (unsigned)b->map->pid : c->header.pid, dot,
            hk_life_name(c->life), dot);
    if (b->map->source == HK_MAP_OF_PROCESS)
        fputs("the heap now\n", t->out);
    else if (b->map->is_final)
        fputs("the heap at the program's end\n", t->out);
    else
        fprintf(t->out, "the heap as it was after %s\n", hk_text_duration(when, b->map->time_ns));
    if (b->note)
        hk_blocks_wrapped(t, "", "%s", b->note);
}

/* ---- tables ---- */

static unsigned room(const struct hk_terminal *t, unsigned taken)
{
    unsigned width = t->width ? t->width : 100;
    unsigned left = width > taken ? width - taken : 0;
    return left < 5 ? 5 : left > 30 ? 30 : left;
}

static void put_bar(const struct hk_terminal *t, unsigned width, uint64_t allocated, uint64_t free_part, uint64_t whole)
{
    char bar[3 * 30 + 1], share[32];
    double full = whole ? (double)allocated / (double)whole : 1;
    fprintf(t->out, "  %s%s%s %5s", hk_style(t, full < 0.5 ? HK_RED : full < 0.8 ? HK_YELLOW : HK_GREEN),
            hk_blocks_bar(t, bar, width, (double)allocated, (double)free_part, (double)whole), hk_style(t, HK_PLAIN),
            hk_blocks_percent(share, allocated, whole));
}

static void put_sums(const struct hk_terminal *t, const char *name, const struct hk_map_sums *s, unsigned bar)
{
    char a[32], b[32], c[32], d[32], e[32], f[32];
    fprintf(t->out, "%-15s %6s %7s %7s %7s %10s", name, hk_text_count(a, s->arenas), hk_text_count(b, s->pools_full),
            hk_text_count(c, s->pools_used), hk_text_count(d, s->pools_empty + s->pools_returned),
            hk_text_count(e, s->allocated_blocks));
    put_bar(t, bar, s->allocated_bytes, s->free_bytes,
            s->allocated_bytes + s->free_bytes + s->untouched_bytes + s->tail_bytes);
    fprintf(t->out, " %9s\n", hk_text_bytes(f, (double)s->mapped_bytes));
}

static void put_heaps(const struct hk_blocks *b, const struct hk_terminal *t)
{
    unsigned bar = room(t, 75);
    size_t shown = 0;
    fprintf(t->out, "\n%sHEAPS%s%s           %6s %7s %7s %7s %10s  %-*s %9s%s\n", hk_style(t, HK_BOLD),
            hk_style(t, HK_PLAIN), hk_style(t, HK_DIM), "arenas", "full", "used", "empty", "blocks", (int)bar + 6,
            "how full", "mapped", hk_style(t, HK_PLAIN));
    for (size_t i = 0; i < b->map->heap_count; i++) {
        const struct hk_map_heap *heap = &b->map->heaps[i];
        char name[64];
        if (!hk_blocks_shows(b, i) || (b->heap < 0 && heap->sums.arenas == 0 && heap->sums.large_blocks == 0))
            continue;
        hk_text_clean(t, name, sizeof name, heap->name);
        hk_text_keep_start(t, name, sizeof name, 15);
        put_sums(t, name, &heap->sums, bar);
        shown++;
    }
    if (shown > 1)
        put_sums(t, "together", &b->map->sums, bar);
}

static void put_bytes(const struct hk_blocks *b, const struct hk_terminal *t)
{
    struct hk_map_sums s = hk_blocks_sums(b);
    char x[7][32], large[128] = "", own[64] = "", returned[64] = "";
    if (s.large_blocks)
        snprintf(large, sizeof large, " Beside it %s in %s large block%s of the C library.",
                 hk_text_bytes(x[0], (double)s.large_bytes), hk_text_count(x[1], s.large_blocks),
                 s.large_blocks == 1 ? "" : "s");
    if (s.own_large_bytes)
        snprintf(own, sizeof own, " + %s in large blocks", hk_text_bytes(x[0], (double)s.own_large_bytes));
    if (s.returned_bytes)
        snprintf(returned, sizeof returned, " %s of empty pools has no memory.",
                 hk_text_bytes(x[0], (double)s.returned_bytes));
    hk_blocks_wrapped(t, "", "%s mapped = %s allocated + %s free + %s untouched + %s tails + %s empty + %s metadata%s.%s%s",
            hk_text_bytes(x[0], (double)s.mapped_bytes), hk_text_bytes(x[1], (double)s.allocated_bytes),
            hk_text_bytes(x[2], (double)s.free_bytes), hk_text_bytes(x[3], (double)s.untouched_bytes),
            hk_text_bytes(x[4], (double)s.tail_bytes), hk_text_bytes(x[5], (double)s.empty_bytes),
            hk_text_bytes(x[6], (double)s.metadata_bytes), own, returned, large);
}

static uint64_t pools_of(const struct hk_map_class *c)
{
    return (uint64_t)c->pools_full + c->pools_used;
}

/* Those with the most pools have a row of their own, of two with as many the smaller. */
static bool has_row(const struct hk_blocks *b, const struct hk_map_class *classes, size_t count, size_t index)
{
    size_t before = 0;
    for (size_t i = 0; i < count; i++)
        before += pools_of(&classes[i]) > pools_of(&classes[index]) ||
                  (pools_of(&classes[i]) == pools_of(&classes[index]) && i < index);
    return b->all || count <= ROWS + 1 || before < ROWS;
}

static void put_class(const struct hk_terminal *t, const char *name, const struct hk_map_class *c,
                      const uint64_t bytes[3], unsigned bar)
{
    char x[6][32];
    fprintf(t->out, "%7s %8s %7s %10s %9s %9s", name, hk_text_count(x[0], c->pools_full), hk_text_count(x[1], c->pools_used),
            hk_text_count(x[2], c->allocated), hk_text_count(x[3], c->free), hk_text_count(x[4], c->untouched));
    put_bar(t, bar, bytes[0], bytes[1], bytes[0] + bytes[2]);
    fprintf(t->out, " %9s\n", hk_text_bytes(x[5], (double)bytes[2]));
}

static void put_classes(const struct hk_blocks *b, const struct hk_terminal *t)
{
    size_t count, others = 0;
    struct hk_map_class *classes = hk_blocks_classes(b, &count), rest = {0};
    uint64_t rest_bytes[3] = {0};
    unsigned bar = room(t, 73);
    char name[32];
    fprintf(t->out, "\n%sCLASSES%s%s %8s %7s %10s %9s %9s  %-*s %9s%s\n", hk_style(t, HK_BOLD), hk_style(t, HK_PLAIN),
            hk_style(t, HK_DIM), "full", "used", "allocated", "free", "untouched", (int)bar + 6, "how full", "lost",
            hk_style(t, HK_PLAIN));
    for (size_t i = 0; i < count; i++) {
        const struct hk_map_class *c = &classes[i];
        uint64_t bytes[3] = {c->allocated * c->block_size, c->free * c->block_size, hk_class_lost(b, c)};
        if (has_row(b, classes, count, i)) {
            snprintf(name, sizeof name, "%u B", c->block_size);
            put_class(t, name, c, bytes, bar);
            continue;
        }
        others++;
        rest.pools_full += c->pools_full;
        rest.pools_used += c->pools_used;
        rest.allocated += c->allocated;
        rest.free += c->free;
        rest.untouched += c->untouched;
        for (int k = 0; k < 3; k++)
            rest_bytes[k] += bytes[k];
    }
    if (others) {
        put_class(t, "others", &rest, rest_bytes, bar);
        fprintf(t->out, "%s        %zu other sizes, which have few pools; --all shows each%s\n", hk_style(t, HK_DIM), others,
                hk_style(t, HK_PLAIN));
    }
    free(classes);
}

static void put_geometry(const struct hk_blocks *b, const struct hk_terminal *t)
{
    const struct hk_map_heap *heap = &b->map->heaps[b->heap < 0 ? 0 : b->heap];
    char a[32], c[32];
    if (b->map->heap_count)
        fprintf(t->out, "%sarenas of %s, %u pools of %s each%s\n", hk_style(t, HK_DIM),
                hk_text_bytes(a, (double)heap->pool_size * heap->arena_pools), heap->arena_pools,
                hk_text_bytes(c, heap->pool_size), hk_style(t, HK_PLAIN));
}

void hk_blocks_text(struct hk_blocks *b, const struct hk_terminal *t)
{
    char meaning[LINE];
    put_head(b, t);
    if (b->arena >= 0 && b->pool >= 0) {
        hk_blocks_zoom_pool(b, t);
        return;
    }
    if (b->arena >= 0) {
        hk_blocks_zoom_arena(b, t);
        return;
    }
    if (b->block_size) {
        hk_blocks_zoom_class(b, t);
        return;
    }
    put_geometry(b, t);
    put_heaps(b, t);
    put_bytes(b, t);
    put_classes(b, t);
    hk_blocks_arenas(b, t);
    fputc('\n', t->out);
    hk_blocks_meaning(b, meaning, sizeof meaning);
    hk_blocks_wrapped(t, "MEANING", "%s", meaning);
    if (b->map->dropped)
        hk_blocks_wrapped(t, "", "%llu entries of the map are damaged and were left out.", (unsigned long long)b->map->dropped);
}
