/* Pictures: all arenas, one arena, one pool, one size class.
 *
 *      ARENAS     one row an arena, one character a pool: full, in use by how full, empty, given back
 *      --arena    one row a pool
 *      --pool     one character a block: # allocated, . free, blank never handed out
 *      --class    how full the pools of one size are, and where they lie
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "view/blocks.h"

#define LABEL        8  /* columns in front of an arena's pools */
#define ROWS         8  /* arenas of each heap, when all heaps are shown */
#define ROWS_OF_ONE  32 /* when one is */
#define BAR_MAX      30

/* "▁" to "▇" by eighths of what is allocated; '1' to '9' by tenths. */
static const char *pool_sign(const struct hk_terminal *t, const struct hk_map_pool *p)
{
    static const char *const bars[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇"};
    static const char *const digits[] = {"1", "2", "3", "4", "5", "6", "7", "8", "9"};
    switch (p->state) {
    case HK_MAP_POOL_EMPTY:
        return t->utf8 ? "·" : ".";
    case HK_MAP_POOL_RETURNED:
        return " ";
    case HK_MAP_POOL_FULL:
        return t->utf8 ? "█" : "#";
    case HK_MAP_POOL_LARGE:
        return "L";
    default:
        return t->utf8 ? bars[(uint64_t)p->allocated * 7 / (p->capacity | !p->capacity)]
                       : digits[(uint64_t)p->allocated * 9 / (p->capacity | !p->capacity)];
    }
}

static enum hk_style pool_style(const struct hk_map_pool *p)
{
    if (p->state == HK_MAP_POOL_FULL)
        return HK_GREEN;
    if (p->state != HK_MAP_POOL_USED)
        return HK_DIM;
    return p->allocated * 4 < p->capacity ? HK_RED : p->allocated * 2 < p->capacity ? HK_YELLOW : HK_GREEN;
}

/* Several pools to one character, where a row is too short: one that stands for them. */
static struct hk_map_pool mean_of(const struct hk_map_pool *pools, uint32_t count)
{
    struct hk_map_pool mean = {.state = HK_MAP_POOL_RETURNED};
    uint64_t part = 0, used = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (pools[i].capacity) {
            part += (uint64_t)pools[i].allocated * 1000 / pools[i].capacity;
            used++;
        } else if (pools[i].state == HK_MAP_POOL_EMPTY && mean.state == HK_MAP_POOL_RETURNED) {
            mean.state = HK_MAP_POOL_EMPTY;
        }
    }
    if (count == 1)
        return pools[0];
    if (used) {
        mean.capacity = 1000;
        mean.allocated = (uint32_t)(part / count);
        mean.state = mean.allocated >= 1000 ? HK_MAP_POOL_FULL : HK_MAP_POOL_USED;
    }
    return mean;
}

static double share_of(const struct hk_heap_map *map, const struct hk_map_arena *arena)
{
    double used = 0, whole = (double)arena->pool_count * map->heaps[arena->heap].pool_size;
    for (uint32_t i = 0; i < arena->pool_count; i++) {
        const struct hk_map_pool *p = &map->pools[arena->first_pool + i];
        used += (double)p->allocated * p->block_size;
    }
    return whole > 0 ? used / whole : 0;
}

/* The pools of an arena in a row; `only`: of this block size, the others are blank. */
static void put_pools(const struct hk_blocks *b, const struct hk_terminal *t, const struct hk_map_arena *arena,
                      uint32_t only)
{
    uint32_t columns = t->width ? t->width - LABEL - 8 : 128, each = 1;
    enum hk_style style = HK_PLAIN;
    while (arena->pool_count / each > columns)
        each++;
    for (uint32_t i = 0; i < arena->pool_count; i += each) {
        uint32_t count = arena->pool_count - i < each ? arena->pool_count - i : each;
        struct hk_map_pool pool = mean_of(&b->map->pools[arena->first_pool + i], count);
        if (only && pool.block_size != only)
            pool = (struct hk_map_pool){.state = HK_MAP_POOL_RETURNED};
        if (pool_style(&pool) != style) {
            style = pool_style(&pool);
            fprintf(t->out, "%s%s", hk_style(t, HK_PLAIN), hk_style(t, style));
        }
        fputs(pool_sign(t, &pool), t->out);
    }
    fputs(hk_style(t, HK_PLAIN), t->out);
}

static void put_row(const struct hk_blocks *b, const struct hk_terminal *t, size_t index, uint32_t only)
{
    char share[32];
    fprintf(t->out, "%*zu  ", LABEL - 2, index);
    put_pools(b, t, &b->map->arenas[index], only);
    fprintf(t->out, "  %s\n", hk_text_percent(share, share_of(b->map, &b->map->arenas[index]), 1));
}

static void put_legend(const struct hk_terminal *t)
{
    fprintf(t->out, "%s%s%s\n", hk_style(t, HK_DIM),
            t->utf8 ? "█ full  ▁▂▃▄▅▆▇ in use, by how full  · empty  blank: without memory"
                    : "# full  1-9 in use, by tenths  . empty  blank: without memory",
            hk_style(t, HK_PLAIN));
}

/* The arenas of a heap; those that are too many are told by their number and how full they are. */
static void put_arenas_of(const struct hk_blocks *b, const struct hk_terminal *t, size_t heap)
{
    size_t rows = b->all ? SIZE_MAX : b->heap < 0 ? ROWS : ROWS_OF_ONE, shown = 0, left = 0;
    double least = 2, most = -1;
    char name[64], x[3][32];
    for (size_t i = 0; i < b->map->arena_count; i++) {
        if (b->map->arenas[i].heap != heap)
            continue;
        if (shown == 0) {
            hk_text_clean(t, name, sizeof name, b->map->heaps[heap].name);
            fprintf(t->out, "%s\n", name);
        }
        if (shown++ < rows) {
            put_row(b, t, i, 0);
            continue;
        }
        double share = share_of(b->map, &b->map->arenas[i]);
        least = share < least ? share : least;
        most = share > most ? share : most;
        left++;
    }
    if (left)
        fprintf(t->out, "%*s%s%s %s more arena%s, %s to %s full%s\n", LABEL, "", hk_style(t, HK_DIM),
                t->utf8 ? "…" : "...", hk_text_count(x[0], left), left == 1 ? "" : "s", hk_text_percent(x[1], least, 1),
                hk_text_percent(x[2], most, 1), hk_style(t, HK_PLAIN));
}

void hk_blocks_arenas(const struct hk_blocks *b, const struct hk_terminal *t)
{
    char x[32];
    if (b->map->arena_count == 0)
        return;
    fprintf(t->out, "\n%sARENAS%s    one row an arena, one character a pool\n%*s", hk_style(t, HK_BOLD),
            hk_style(t, HK_PLAIN), 10, "");
    put_legend(t);
    for (size_t heap = 0; heap < b->map->heap_count; heap++)
        if (hk_blocks_shows(b, heap))
            put_arenas_of(b, t, heap);
    if (b->map->arenas_left_out)
        fprintf(t->out, "%*s%s arenas had no room in the capture; the tables above have them\n", LABEL, "",
                hk_text_count(x, b->map->arenas_left_out));
}

/* ---- one arena ---- */

static void put_pool_row(const struct hk_terminal *t, uint32_t number, const struct hk_map_pool *p, uint64_t start)
{
    char bar[3 * BAR_MAX + 1], x[32];
    unsigned width = t->width && t->width < 74 + BAR_MAX ? (t->width > 81 ? t->width - 74 : 7) : BAR_MAX;
    fprintf(t->out, "%6u  %#14" PRIx64, number, start);
    if (p->capacity == 0) {
        fprintf(t->out, "         %s%s%s\n", hk_style(t, HK_DIM),
                p->state == HK_MAP_POOL_RETURNED ? "empty, without memory" : hk_pool_state_word(p->state),
                hk_style(t, HK_PLAIN));
        return;
    }
    fprintf(t->out, " %5u B %-5s %6u %6u %9u  %s%s%s %4s%s\n", p->block_size, hk_pool_state_word(p->state), p->allocated,
            p->touched - p->allocated, p->capacity - p->touched, hk_style(t, pool_style(p)),
            hk_blocks_bar(t, bar, width, p->allocated, p->touched - p->allocated, p->capacity), hk_style(t, HK_PLAIN),
            hk_blocks_percent(x, p->allocated, p->capacity), p->is_current ? "  next" : "");
}

void hk_blocks_zoom_arena(const struct hk_blocks *b, const struct hk_terminal *t)
{
    const struct hk_map_arena *arena = &b->map->arenas[b->arena];
    const struct hk_map_heap *heap = &b->map->heaps[arena->heap];
    char name[64], size[32];
    hk_text_clean(t, name, sizeof name, heap->name);
    fprintf(t->out, "\n%sARENA %ld%s    %s, %u pools, of heap %s, at %#" PRIx64 "\n", hk_style(t, HK_BOLD), b->arena,
            hk_style(t, HK_PLAIN), hk_text_bytes(size, (double)heap->pool_size * arena->pool_count), arena->pool_count, name,
            arena->start);
    fprintf(t->out, "%*s", LABEL, "");
    put_pools(b, t, arena, 0);
    fprintf(t->out, "\n%*s", LABEL, "");
    put_legend(t);
    fprintf(t->out, "\n%s  pool          start  blocks state  alloc.   free untouched  how full%s\n", hk_style(t, HK_DIM),
            hk_style(t, HK_PLAIN));
    for (uint32_t i = 0; i < arena->pool_count; i++)
        put_pool_row(t, i, &b->map->pools[arena->first_pool + i], arena->start + (uint64_t)i * heap->pool_size);
    fprintf(t->out, "\n\"next\": the next block of this size comes from here. One pool: --pool %ld.N\n", b->arena);
}

/* ---- one pool ---- */

static unsigned blocks_in_a_row(const struct hk_terminal *t)
{
    unsigned width = t->width ? t->width : 80, row = 16;
    while (row * 2 + 10 <= width && row < 128)
        row *= 2;
    return row;
}

static void put_blocks(const struct hk_terminal *t, const char *signs, uint32_t count, uint32_t block_size)
{
    unsigned row = blocks_in_a_row(t);
    for (uint32_t i = 0; i < count; i += row) {
        fprintf(t->out, "%s%7u%s  ", hk_style(t, HK_DIM), i * block_size, hk_style(t, HK_PLAIN));
        for (uint32_t k = i; k < count && k < i + row; k++) {
            char sign = signs[k];
            const char *style = sign == '#' ? hk_style(t, HK_GREEN) : sign == '.' ? hk_style(t, HK_YELLOW) : "";
            fprintf(t->out, "%s%c%s", style, sign == ' ' ? '_' : sign, *style ? hk_style(t, HK_PLAIN) : "");
        }
        fputc('\n', t->out);
    }
}

void hk_blocks_zoom_pool(struct hk_blocks *b, const struct hk_terminal *t)
{
    const struct hk_map_arena *arena = &b->map->arenas[b->arena];
    const struct hk_map_heap *heap = &b->map->heaps[arena->heap];
    struct hk_map_pool *p = &b->map->pools[arena->first_pool + (size_t)b->pool];
    char *signs = hk_heap_map_blocks(b->map, arena, (uint32_t)b->pool);
    char name[64], size[32];

    hk_text_clean(t, name, sizeof name, heap->name);
    fprintf(t->out, "\n%sPOOL %ld.%ld%s  %s, of heap %s, at %#" PRIx64 "\n", hk_style(t, HK_BOLD), b->arena, b->pool,
            hk_style(t, HK_PLAIN), hk_text_bytes(size, heap->pool_size), name,
            arena->start + (uint64_t)b->pool * heap->pool_size);
    if (p->capacity == 0) {
        fprintf(t->out, "          %s: it has no blocks, and can serve any size\n",
                p->state == HK_MAP_POOL_RETURNED ? "empty, without memory" : hk_pool_state_word(p->state));
    } else {
        uint32_t tail = heap->pool_size - p->capacity * p->block_size;
        hk_blocks_wrapped(t, "", "%s: %u blocks of %u bytes, %u allocated, %u free, %u untouched%s%s%s",
                hk_pool_state_word(p->state), p->capacity, p->block_size, p->allocated, p->touched - p->allocated,
                p->capacity - p->touched, tail ? "; " : "", tail ? hk_text_bytes(size, tail) : "",
                tail ? " behind the last" : "");
        if (p->is_current)
            fputs("          the next block of this size comes from here\n", t->out);
        if (signs) {
            fprintf(t->out, "          %s# allocated  . free  _ untouched; in front: bytes from the start%s\n",
                    hk_style(t, HK_DIM), hk_style(t, HK_PLAIN));
            put_blocks(t, signs, p->capacity, p->block_size);
        } else {
            hk_blocks_wrapped(t, "", "which of its blocks are allocated is not in the capture: that is kept of the "
                                     "program's end and of named marks");
        }
    }
    free(signs);
}

/* ---- one class ---- */

static void put_histogram(const struct hk_blocks *b, const struct hk_terminal *t)
{
    uint64_t pools[11] = {0}, free_bytes[11] = {0}, most = 0;
    char bar[3 * BAR_MAX + 1], x[2][32];
    for (size_t i = 0, arena = 0; i < b->map->pool_count; i++) {
        const struct hk_map_pool *p = &b->map->pools[i];
        while (arena + 1 < b->map->arena_count && i >= b->map->arenas[arena + 1].first_pool)
            arena++;
        if (p->block_size != b->block_size || p->capacity == 0 || !hk_blocks_shows(b, b->map->arenas[arena].heap))
            continue;
        unsigned tenth = (unsigned)((uint64_t)p->allocated * 10 / p->capacity);
        pools[tenth]++;
        free_bytes[tenth] += (uint64_t)(p->touched - p->allocated) * p->block_size;
        most = pools[tenth] > most ? pools[tenth] : most;
    }
    fprintf(t->out, "\n%s  allocated     pools  %-*s  free in them%s\n", hk_style(t, HK_DIM), BAR_MAX, "",
            hk_style(t, HK_PLAIN));
    for (unsigned i = 0; i <= 10; i++) {
        char range[16];
        snprintf(range, sizeof range, i == 10 ? "100%%" : "%u-%u%%", i * 10, i * 10 + 9);
        fprintf(t->out, "%11s %9s  %s  %s\n", range, hk_text_count(x[0], pools[i]),
                hk_blocks_bar(t, bar, BAR_MAX, (double)pools[i], 0, (double)(most ? most : 1)),
                free_bytes[i] ? hk_text_bytes(x[1], (double)free_bytes[i]) : "");
    }
}

static bool has_class(const struct hk_blocks *b, const struct hk_map_arena *arena)
{
    for (uint32_t i = 0; i < arena->pool_count; i++)
        if (b->map->pools[arena->first_pool + i].block_size == b->block_size)
            return true;
    return false;
}

void hk_blocks_zoom_class(const struct hk_blocks *b, const struct hk_terminal *t)
{
    size_t rows = b->all ? SIZE_MAX : ROWS_OF_ONE, shown = 0;
    char x[5][32], name[64];
    fprintf(t->out, "\n%sCLASS %u%s   blocks of %u bytes\n", hk_style(t, HK_BOLD), b->block_size, hk_style(t, HK_PLAIN),
            b->block_size);
    for (size_t i = 0; i < b->map->class_count; i++) {
        const struct hk_map_class *c = &b->map->classes[i];
        if (c->block_size != b->block_size || !hk_blocks_shows(b, c->heap))
            continue;
        hk_text_clean(t, name, sizeof name, b->map->heaps[c->heap].name);
        hk_blocks_wrapped(t, "", "%s: %s full and %s used pools; %s allocated, %s free, %s untouched", name, hk_text_count(x[0], c->pools_full), hk_text_count(x[1], c->pools_used), hk_text_count(x[2], c->allocated),
                hk_text_count(x[3], c->free), hk_text_count(x[4], c->untouched));
    }
    put_histogram(b, t);
    fprintf(t->out, "\n%sARENAS%s    where they lie\n%*s", hk_style(t, HK_BOLD), hk_style(t, HK_PLAIN), 10, "");
    put_legend(t);
    for (size_t i = 0; i < b->map->arena_count; i++) {
        if (!hk_blocks_shows(b, b->map->arenas[i].heap) || !has_class(b, &b->map->arenas[i]))
            continue;
        if (shown++ < rows)
            put_row(b, t, i, b->block_size);
    }
    if (shown > rows)
        fprintf(t->out, "%*s%s %s more arenas\n", LABEL, "", t->utf8 ? "…" : "...", hk_text_count(x[0], shown - rows));
}
