/* Groups are made of the merged lines, which already hold every site once; of domains, threads and sizes, of the sites themselves.
 *
 * Each line is turned into what its group has in common (a frame without its line, a file alone, a module's name), and
 * a hash table finds the group that has the same. */
#include "read/groups.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "read/index.h"

const char *const hk_group_words[HK_GROUP_CHOICES + 1] = {"line", "function", "file", "module", "domain", "size", "thread", NULL};

const char *hk_group_word(enum hk_group_by by)
{
    return by < HK_GROUP_CHOICES ? hk_group_words[by] : "unknown";
}

void hk_amounts_add(struct hk_amounts *sum, const struct hk_amounts *more)
{
    sum->live_bytes += more->live_bytes;
    sum->live_blocks += more->live_blocks;
    sum->peak_bytes += more->peak_bytes;
    sum->peak_blocks += more->peak_blocks;
    sum->total_bytes += more->total_bytes;
    sum->total_blocks += more->total_blocks;
    sum->samples += more->samples;
    hk_lives_add(&sum->lives, &more->lives);
}

/* ---- names of modules ---- */

/* Behind the last "-packages/" or "/lib/python3.X/"; NULL: the path has neither. */
static const char *behind_library(const char *file)
{
    const char *found = NULL, *at = file;
    while ((at = strstr(at, "-packages/")))
        found = at += strlen("-packages/");
    if (!found && (at = strstr(file, "/lib/python3")) && (at = strchr(at + 5, '/')))
        found = at + 1;
    return found;
}

static bool cut_end(char *text, const char *end)
{
    size_t length = strlen(text), cut = strlen(end);
    if (length <= cut || strcmp(text + length - cut, end) != 0)
        return false;
    text[length - cut] = 0;
    return true;
}

char *hk_module_name(const char *file, const char *directory)
{
    size_t length = strlen(directory);
    const char *from = behind_library(file), *slash = strrchr(file, '/');
    if (strncmp(file, "<frozen ", 8) == 0 && file[8] && file[strlen(file) - 1] == '>') {
        char *name = hk_must_strdup(file + 8);
        name[strlen(name) - 1] = 0;
        return name;
    }
    if (!from && length > 1 && strncmp(file, directory, length) == 0 && file[length] == '/')
        from = file + length + 1;
    if (!from)
        from = slash && slash[1] ? slash + 1 : file;
    char *name = hk_must_strdup(from);
    if (!cut_end(name, ".py"))
        return name; /* "<string>", or no module that a name could be made of */
    cut_end(name, "/__init__");
    for (char *at = name; *at; at++)
        if (*at == '/')
            *at = '.';
    return name;
}

/* ---- what a line's group has in common ---- */

static const char *code_of(const struct hk_source_frame *f)
{
    return f->through ? f->through : f->module;
}

static struct hk_group common(const struct hk_sites *s, const struct hk_line *line, enum hk_group_by by)
{
    const struct hk_source_frame *f = &line->frame;
    struct hk_group g = {.frame = {"", "", "", 0, NULL, 0, NULL, false}};
    const char *directory = hk_capture_string(s->capture, s->capture->header.working_directory), *code = code_of(f);
    if (by == HK_BY_LINE || by == HK_BY_FUNCTION) {
        g.frame = *f;
        g.frame.address = 0;
        if (by == HK_BY_FUNCTION) {
            g.frame.line = 0;
            g.frame.is_near = false;
        }
    } else if (by == HK_BY_FILE) {
        g.frame.file = f->file;
        if (!*f->file)
            g.name = hk_must_strdup(code && *code ? code : f->function);
    } else if (code && *code) {
        g.frame.module = code;
        g.name = hk_must_strdup(code);
    } else {
        g.name = *f->file ? hk_module_name(f->file, directory) : hk_must_strdup(f->function);
    }
    return g;
}

struct hk_amounts hk_amounts_of_line(const struct hk_line *line)
{
    return (struct hk_amounts){line->live_bytes,  line->live_blocks,  line->peak_bytes,   line->peak_blocks,
                               line->total_bytes, line->total_blocks, line->samples_total,
                               line->lives};
}

struct hk_amounts hk_amounts_of_site(const struct hk_site *site)
{
    return (struct hk_amounts){site->live_bytes,  site->live_blocks,  site->peak_bytes,   site->peak_blocks,
                               site->total_bytes, site->total_blocks, site->samples_total,
                               site->lives};
}

/* ---- the table ---- */

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

bool hk_group_same(const struct hk_group *a, const struct hk_group *b)
{
    const struct hk_source_frame *x = &a->frame, *y = &b->frame;
    return x->line == y->line && same_text(a->name, b->name) &&
           same_text(x->function, y->function) && same_text(x->qualified_name, y->qualified_name) &&
           same_text(x->file, y->file) && same_text(x->module, y->module) && same_text(x->through, y->through);
}

uint64_t hk_group_hash(const struct hk_group *g)
{
    uint64_t hash = hk_hash_text(hk_hash_text(HK_HASH ^ (uint32_t)g->frame.line, g->name), g->frame.qualified_name);
    return hk_hash_text(hk_hash_text(hash, g->frame.file), g->frame.module);
}

/* Takes over the name. */
static struct hk_group *find_or_add(struct hk_index *index, struct hk_groups *all, struct hk_group *wanted)
{
    struct hk_probe probe = hk_index_probe(index, hk_group_hash(wanted));
    while (hk_index_next(&probe)) {
        if (hk_group_same(&all->groups[probe.number], wanted)) {
            free(wanted->name);
            return &all->groups[probe.number];
        }
    }
    hk_index_put(&probe, all->count);
    all->groups[all->count] = *wanted;
    return &all->groups[all->count++];
}

static void add_marks(struct hk_group *g, const uint64_t *at_mark, const uint64_t *born_in)
{
    for (unsigned i = 0; i < HK_MARKS; i++) {
        g->at_mark[i] += at_mark[i];
        g->born_in[i] += born_in[i];
    }
}

static void group_lines(struct hk_groups *all, const struct hk_sites *s, enum hk_group_by by)
{
    struct hk_index index = {.size = 0};
    all->groups = hk_must_calloc(s->line_count, sizeof *all->groups);
    for (size_t i = 0; i < s->line_count; i++) {
        struct hk_amounts amounts = hk_amounts_of_line(&s->lines[i]);
        struct hk_group wanted = common(s, &s->lines[i], by), *g = find_or_add(&index, all, &wanted);
        hk_amounts_add(&g->amounts, &amounts);
        hk_ages_add(&g->ages, &s->lines[i].ages);
        g->frame.is_near |= wanted.frame.is_near;
        add_marks(g, s->lines[i].at_mark, s->lines[i].born_in);
        g->site_count += s->lines[i].site_count;
    }
    hk_index_free(&index);
}

/* Sizes: the small classes, SIZE_STEP apart up to SIZE_SMALL, have keys from 0, and what is larger, by powers of two, those behind them. */
#define SIZE_STEP  16u
#define SIZE_SMALL 512u
#define SIZES      (SIZE_SMALL / SIZE_STEP)
#define KEYS       (HK_CAPTURE_THREADS + 32u)
_Static_assert(SIZES + 64 - 9 <= KEYS && HK_CAPTURE_THREADS + 1 <= KEYS, "every key has its group");

static unsigned size_key(const struct hk_site *site)
{
    uint64_t blocks = site->total_blocks ? site->total_blocks : site->live_blocks; /* 0: all are a parent's */
    uint64_t bytes = site->total_blocks ? site->total_bytes : site->live_bytes;
    uint64_t average = blocks ? (bytes + blocks - 1) / blocks : 0;
    if (average <= SIZE_SMALL)
        return average ? (unsigned)(average - 1) / SIZE_STEP : 0;
    return SIZES + (unsigned)(64 - __builtin_clzll(average - 1)) - 10; /* 513 to 1024 is the first */
}

static char *size_name(unsigned key)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    char text[64];
    unsigned shift = key - SIZES + 9; /* of what is large: beyond 2^shift */
    if (key < SIZES)
        snprintf(text, sizeof text, "%u to %u bytes", key * SIZE_STEP + 1, (key + 1) * SIZE_STEP);
    else
        snprintf(text, sizeof text, "%llu %s to %llu %s", 1ull << shift % 10, units[shift / 10], 1ull << (shift + 1) % 10, units[(shift + 1) / 10]);
    return hk_must_strdup(text);
}

static unsigned key_of(const struct hk_site *site, enum hk_group_by by)
{
    return by == HK_BY_THREAD ? site->thread : by == HK_BY_SIZE ? size_key(site) : site->domain & 3u;
}

static char *key_name(const struct hk_sites *s, unsigned key, enum hk_group_by by)
{
    return by == HK_BY_THREAD ? hk_sites_thread(s, key) : by == HK_BY_SIZE ? size_name(key) : hk_must_strdup(hk_domain_name(key));
}

/* By what sites have a number for. */
static void group_sites(struct hk_groups *all, const struct hk_sites *s, enum hk_group_by by)
{
    uint32_t index[KEYS] = {0}; /* of a group + 1 */
    all->groups = hk_must_calloc(KEYS, sizeof *all->groups);
    for (size_t i = 0; i < s->site_count; i++) {
        const struct hk_site *site = &s->sites[i];
        unsigned key = key_of(site, by);
        if (!index[key]) {
            all->groups[all->count].frame = (struct hk_source_frame){"", "", "", 0, NULL, 0, NULL, false};
            all->groups[all->count].name = key_name(s, key, by);
            index[key] = (uint32_t)++all->count;
        }
        struct hk_amounts amounts = hk_amounts_of_site(site);
        struct hk_group *g = &all->groups[index[key] - 1];
        uint64_t at_mark[HK_MARKS], born_in[HK_MARKS];
        hk_sites_marks(s, site, at_mark, born_in);
        hk_amounts_add(&g->amounts, &amounts);
        add_marks(g, at_mark, born_in);
        g->site_count++;
    }
    for (size_t i = 0; i < s->living_count; i++)
        hk_living_add(&all->groups[index[key_of(&s->sites[s->living[i].site], by)] - 1].ages, &s->living[i]);
}

/* "(other)" of a record whose tables never filled, and the like. */
static void drop_empty(struct hk_groups *all)
{
    size_t kept = 0;
    for (size_t i = 0; i < all->count; i++) {
        const struct hk_amounts *a = &all->groups[i].amounts;
        if (a->live_blocks | a->peak_blocks | a->total_blocks | a->live_bytes | a->peak_bytes | a->total_bytes)
            all->groups[kept++] = all->groups[i];
        else
            free(all->groups[i].name);
    }
    all->count = kept;
}

struct hk_groups *hk_groups_make(const struct hk_sites *s, enum hk_group_by by)
{
    struct hk_groups *all = hk_must_calloc(1, sizeof *all);
    if (by == HK_BY_DOMAIN || by == HK_BY_THREAD || by == HK_BY_SIZE)
        group_sites(all, s, by);
    else
        group_lines(all, s, by);
    drop_empty(all);
    for (size_t i = 0; i < all->count; i++) {
        hk_amounts_add(&all->totals, &all->groups[i].amounts);
        hk_ages_add(&all->ages, &all->groups[i].ages);
    }
    return all;
}

void hk_groups_free(struct hk_groups *all)
{
    for (size_t i = 0; all && i < all->count; i++)
        free(all->groups[i].name);
    if (all)
        free(all->groups);
    free(all);
}
