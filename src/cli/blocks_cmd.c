/* heapkeeper blocks: finds the heap's map, in a capture or in a running process, and shows it.
 *
 * Of a running process the memory itself is read; where that is not permitted, the newest map of its capture is shown and
 * a line says why. */
#include "cli/cli.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "read/attach.h"
#include "read/find.h"
#include "view/blocks.h"

struct options {
    bool json, all, stored;
    const char *heap, *pool, *colour, *target;
    long arena;
    uint32_t block_size;
};

static bool number(const char *text, long *value)
{
    char *end;
    errno = 0;
    *value = strtol(text, &end, 10);
    return *text && !*end && errno == 0 && *value >= 0;
}

static int parse_option(struct options *o, int option)
{
    long value;
    switch (option) {
    case 'j':
        o->json = true;
        return 0;
    case 'A':
        o->all = true;
        return 0;
    case 's':
        o->stored = true;
        return 0;
    case 'H':
        o->heap = optarg;
        return 0;
    case 'P':
        o->pool = optarg;
        return 0;
    case 'a':
        return number(optarg, &o->arena)
                   ? 0
                   : hk_cli_fail(HK_EXIT_USAGE, "blocks: --arena needs the number of an arena, not \"%s\"", optarg);
    case 'k':
        if (!number(optarg, &value) || value == 0 || value > INT_MAX)
            return hk_cli_fail(HK_EXIT_USAGE, "blocks: --class needs a size in bytes, not \"%s\"", optarg);
        o->block_size = (uint32_t)value;
        return 0;
    default:
        o->colour = optarg;
        if (strcmp(optarg, "auto") && strcmp(optarg, "always") && strcmp(optarg, "never"))
            return hk_cli_fail(HK_EXIT_USAGE, "blocks: --color is auto, always or never, not \"%s\"", optarg);
        return 0;
    }
}

static int parse(int argc, char **argv, struct options *o)
{
    static const struct option known[] = {
        {"json", no_argument, NULL, 'j'},         {"all", no_argument, NULL, 'A'},
        {"stored", no_argument, NULL, 's'},       {"heap", required_argument, NULL, 'H'},
        {"arena", required_argument, NULL, 'a'},  {"pool", required_argument, NULL, 'P'},
        {"class", required_argument, NULL, 'k'},  {"color", required_argument, NULL, 'c'},
        {"colour", required_argument, NULL, 'c'}, {NULL, 0, NULL, 0},
    };
    int option, status;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":j", known, NULL)) != -1) {
        if (option == '?' || option == ':')
            return hk_cli_bad_option(argc, argv, option);
        if ((status = parse_option(o, option)) != 0)
            return status;
    }
    if (argc - optind > 1)
        return hk_cli_fail(HK_EXIT_USAGE, "blocks: one capture or process at a time, not \"%s\" too", argv[optind + 1]);
    o->target = argv[optind];
    return 0;
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
    hk_terminal_for(&terminal, stdout);
    if (o->colour && strcmp(o->colour, "auto") != 0)
        terminal.colour = strcmp(o->colour, "always") == 0;
    if (o->json)
        hk_blocks_json(b, stdout);
    else
        hk_blocks_text(b, &terminal);
    if (fflush(stdout) != 0 || ferror(stdout))
        return hk_cli_fail(HK_EXIT_FAILURE, "the heap could not be shown: %s", strerror(errno));
    return 0;
}

/* ---- where from ---- */

static struct hk_capture *open_target(const char *target, int *pid, struct hk_error *error)
{
    long value;
    *pid = 0;
    if (target && number(target, &value) && value > 0 && value <= INT_MAX && access(target, F_OK) != 0) {
        *pid = (int)value;
        return hk_capture_of_process(*pid, HK_OPEN_WHOLE, error);
    }
    char *path = target ? hk_must_strdup(target) : hk_find_newest(error);
    struct hk_capture *capture = path ? hk_capture_open(path, HK_OPEN_WHOLE, error) : NULL;
    free(path);
    return capture;
}

int hk_cli_blocks(int argc, char **argv)
{
    struct options o = {.arena = -1};
    struct hk_error error, why;
    char note[1200];
    int pid, status = parse(argc, argv, &o);
    if (status)
        return status;

    struct hk_capture *capture = open_target(o.target, &pid, &error);
    if (!capture)
        return hk_cli_fail(HK_EXIT_FAILURE, "%s", error.text);
    if (capture->life == HK_LIFE_EMPTY) {
        hk_capture_close(capture);
        return hk_cli_fail(HK_EXIT_FAILURE, "%s: nothing recorded: the library was not loaded into the program",
                           o.target ? o.target : "the newest capture");
    }
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
