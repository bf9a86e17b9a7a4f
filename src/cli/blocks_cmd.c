/* heapkeeper blocks: finds the heap's map, in a capture or in a running process, and shows it.
 *
 * Of a running process the memory itself is read; where that is not permitted, the newest map of its capture is shown and
 * a line says why. */
#include "cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"
#include "read/attach.h"
#include "view/blocks.h"

struct options {
    bool json, all, stored;
    const char *heap, *pool, *colour, *target;
    long arena;
    uint32_t block_size;
};

static bool number(const char *text, void *to)
{
    size_t value;
    bool good = hk_cli_number(text, &value) && value <= LONG_MAX;
    *(long *)to = good ? (long)value : -1;
    return good;
}

static bool block_size(const char *text, void *to)
{
    size_t value;
    bool good = hk_cli_count(text, &value) && value <= INT_MAX;
    *(uint32_t *)to = good ? (uint32_t)value : 0;
    return good;
}

static int parse(int argc, char **argv, struct options *o)
{
    const struct hk_option options[] = {
        HK_FLAG("json", 'j', &o->json),
        HK_FLAG("all", 0, &o->all),
        HK_FLAG("stored", 0, &o->stored),
        HK_TEXT("heap", 0, &o->heap),
        HK_VALUE("arena", 0, &o->arena, number, "needs the number of an arena"),
        HK_TEXT("pool", 0, &o->pool),
        HK_VALUE("class", 0, &o->block_size, block_size, "needs a size in bytes"),
        HK_COLOUR(&o->colour),
        HK_NO_OPTION,
    };
    int status = hk_cli_options(argc, argv, options);
    return status ? status : hk_cli_target(argc, argv, "capture or process", &o->target);
}

/* ---- what to show ---- */

static int no_such_heap(const struct hk_heap_map *map, const char *name)
{
    char names[512] = "";
    size_t at = 0;
    for (size_t i = 0; i < map->heap_count && at + 40 < sizeof names; i++)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s\"%s\"", i ? ", " : "", map->heaps[i].name);
    return hk_cli_fail(HK_EXIT_FAILURE, "blocks: there is no heap \"%s\"; there are %s", name, at ? names : "none");
}

/* The smallest class that holds `size` bytes, of those there are. */
static uint32_t class_for(const struct hk_heap_map *map, uint32_t size)
{
    uint32_t best = 0;
    for (size_t i = 0; i < map->class_count; i++)
        if (map->classes[i].block_size >= size && (!best || map->classes[i].block_size < best))
            best = map->classes[i].block_size;
    return best;
}

static bool pool_at(const struct hk_heap_map *map, uint64_t address, long *arena, long *pool)
{
    for (size_t i = 0; i < map->arena_count; i++) {
        const struct hk_map_arena *a = &map->arenas[i];
        uint64_t size = map->heaps[a->heap].pool_size;
        if (address - a->start < a->pool_count * size) {
            *arena = (long)i;
            *pool = (long)((address - a->start) / size);
            return true;
        }
    }
    return false;
}

/* "A.P", "P" with --arena, or an address. */
static int choose_pool(const struct options *o, struct hk_blocks *b)
{
    char text[64], *dot, *end;
    if (strncmp(o->pool, "0x", 2) == 0) {
        errno = 0;
        uint64_t address = strtoull(o->pool, &end, 16);
        if (*end || errno)
            return hk_cli_fail(HK_EXIT_USAGE, "blocks: \"%s\" is no address", o->pool);
        return pool_at(b->map, address, &b->arena, &b->pool)
                   ? 0
                   : hk_cli_fail(HK_EXIT_FAILURE,
                                 "blocks: %s is in no pool: a large block, or not of these heaps", o->pool);
    }
    snprintf(text, sizeof text, "%s", o->pool);
    if ((dot = strchr(text, '.')))
        *dot++ = 0;
    if (dot ? !number(text, &b->arena) || !number(dot, &b->pool) : !number(text, &b->pool) || b->arena < 0)
        return hk_cli_fail(HK_EXIT_USAGE,
                           "blocks: --pool needs ARENA.POOL (3.17), a pool with --arena, or an address (0x...), not \"%s\"",
                           o->pool);
    return 0;
}

static int choose(const struct options *o, struct hk_blocks *b)
{
    const struct hk_heap_map *map = b->map;
    b->heap = b->pool = -1;
    b->arena = o->arena;
    b->all = o->all;
    for (size_t i = 0; o->heap && i < map->heap_count; i++)
        if (strcmp(map->heaps[i].name, o->heap) == 0)
            b->heap = (long)i;
    if (o->heap && b->heap < 0)
        return no_such_heap(map, o->heap);
    int status = o->pool ? choose_pool(o, b) : 0;
    if (status)
        return status;
    if (b->arena >= 0 && (size_t)b->arena >= map->arena_count)
        return hk_cli_fail(HK_EXIT_FAILURE, "blocks: there is no arena %ld; there are %zu, from 0", b->arena,
                           map->arena_count);
    if (b->pool >= 0 && (uint32_t)b->pool >= map->arenas[b->arena].pool_count)
        return hk_cli_fail(HK_EXIT_FAILURE, "blocks: an arena has %u pools, from 0; there is no %ld",
                           map->arenas[b->arena].pool_count, b->pool);
    if (o->block_size && !(b->block_size = class_for(map, o->block_size)))
        return hk_cli_fail(HK_EXIT_FAILURE, "blocks: no pool holds blocks of %u bytes: larger ones are the C library's",
                           o->block_size);
    return 0;
}

static int show(const struct options *o, struct hk_blocks *b)
{
    struct hk_terminal terminal;
    int status = choose(o, b);
    if (status)
        return status;
    hk_cli_terminal(&terminal, o->colour);
    if (o->json)
        hk_blocks_json(b, stdout);
    else
        hk_blocks_text(b, &terminal);
    if (fflush(stdout) != 0 || ferror(stdout))
        return hk_cli_fail(HK_EXIT_FAILURE, "the heap could not be shown: %s", strerror(errno));
    return 0;
}

int hk_cli_blocks(int argc, char **argv)
{
    struct options o = {.arena = -1};
    struct hk_error error, why;
    char note[1200];
    int status = parse(argc, argv, &o);
    if (status)
        return status;

    struct hk_capture *capture = hk_cli_open(o.target);
    if (!capture)
        return HK_EXIT_FAILURE;
    int pid = hk_cli_pid(o.target);
    struct hk_blocks b = {.capture = capture, .map = hk_heap_map_read(capture, &error)};
    if (b.map && capture->life == HK_LIFE_RUNNING && !o.stored) {
        struct hk_heap_map *live = hk_heap_map_live(b.map, pid ? pid : (int)capture->header.pid, &why);
        if (live) {
            hk_heap_map_free(b.map);
            b.map = live;
        } else {
            snprintf(note, sizeof note, "Not as it is now: %s. This is the newest map of its capture.", why.text);
            b.note = note;
        }
    }
    status = b.map ? show(&o, &b) : hk_cli_fail(HK_EXIT_FAILURE, "%s", error.text);
    hk_heap_map_free(b.map);
    hk_capture_close(capture);
    return status;
}
