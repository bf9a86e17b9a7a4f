/* Groups and tracebacks; see traces.h.
 *
 * A line is found by running through a line table, so each place (code, offset) is looked up once. */
#include "hosts/cpython/traces.h"

#include <string.h>

#include "heap/slots.h"
#include "hosts/cpython/internal.h"
#include "hosts/cpython/windows.h"
#include "read/lines.h"
#include "record/exact.h"
#include "record/look.h"

#define NONE UINT32_MAX

void hk_traces_free(void *memory, size_t bytes)
{
    if (memory != NULL)
        hk_os_unmap(memory, bytes);
}

/* Room for at least `need` elements in *array. */
static bool make_room(void *array, size_t *room, size_t need, size_t size)
{
    void *old, *more;
    size_t had = *room, wanted = had != 0 ? had : 4096 / size + 1;
    memcpy(&old, array, sizeof old);
    if (need <= had)
        return true;
    while (wanted < need)
        wanted *= 2;
    more = hk_os_map(wanted * size);
    if (more == NULL)
        return false;
    if (had != 0) {
        memcpy(more, old, had * size);
        hk_os_unmap(old, had * size);
    }
    memcpy(array, &more, sizeof more);
    *room = wanted;
    return true;
}

static uint32_t mix(uint64_t key)
{
    return (uint32_t)(key * 0x9e3779b97f4a7c15u >> 32);
}

/* --- numbers for keys: open addressing, at most half full --- */

struct numbers {
    struct entry {
        uint64_t key;
        uint32_t number; /* + 1; 0: empty */
    } *slots;
    size_t capacity, used;
};

static struct entry *entry_of(struct entry *slots, size_t capacity, uint64_t key)
{
    size_t at = mix(key ^ key >> 29) & (capacity - 1);
    while (slots[at].number != 0 && slots[at].key != key)
        at = (at + 1) & (capacity - 1);
    return &slots[at];
}

static bool numbers_grow(struct numbers *n)
{
    size_t capacity = n->capacity != 0 ? 2 * n->capacity : 1024;
    struct entry *slots = hk_os_map(capacity * sizeof *slots);
    if (slots == NULL)
        return false;
    for (size_t i = 0; i < n->capacity; i++)
        if (n->slots[i].number != 0)
            *entry_of(slots, capacity, n->slots[i].key) = n->slots[i];
    hk_traces_free(n->slots, n->capacity * sizeof *slots);
    n->slots = slots;
    n->capacity = capacity;
    return true;
}

static void numbers_end(struct numbers *n)
{
    hk_traces_free(n->slots, n->capacity * sizeof *n->slots);
}

/* The place for the number of a key, which is to be filled in if it is 0; NULL: no memory. */
static uint32_t *number_of(struct numbers *n, uint64_t key)
{
    if (2 * n->used >= n->capacity && !numbers_grow(n))
        return NULL;
    struct entry *entry = entry_of(n->slots, n->capacity, key);
    if (entry->number == 0) {
        entry->key = key;
        n->used++;
    }
    return &entry->number;
}

/* --- what lives --- */

struct collection {
    struct numbers numbers; /* of groups, by site and size */
    struct hk_group *groups;
    size_t count, room;
    uint64_t last_key; /* blocks of one kind often lie together */
    struct hk_group *last;
    const struct hk_window *window; /* NULL: all */
    uint32_t sites;
    bool failed;
};

static void collect(struct collection *c, uint32_t site, size_t bytes)
{
    if (c->window != NULL ? !hk_window_takes(c->window, site) : hk_exact_domain_of(site) == HK_DOMAIN_NATIVE)
        return;
    uint64_t key = (uint64_t)site << 40 ^ bytes; /* 20 bits of site; blocks of 2^40 bytes and more do not exist */
    if (key != c->last_key || c->last == NULL) {
        uint32_t *number = c->failed ? NULL : number_of(&c->numbers, key);
        if (number == NULL || !make_room(&c->groups, &c->room, c->count + 1, sizeof *c->groups)) {
            c->failed = true;
            return;
        }
        if (*number == 0) {
            c->groups[c->count] = (struct hk_group){.site = site};
            *number = (uint32_t)++c->count;
        }
        c->last_key = key;
        c->last = &c->groups[*number - 1];
    }
    c->last->bytes += bytes;
    c->last->blocks++;
}

static void collect_block(uint32_t *word, size_t bytes, void *argument)
{
    struct collection *c = argument;
    uint32_t word_now = *word;
    if (word_now >> HK_SLOT_SITE_SHIFT == 0 || hk_slot_site(word_now) >= c->sites ||
        (c->window != NULL && !hk_window_has_age(c->window, *hk_age_of(word))))
        return;
    collect(c, hk_slot_site(word_now), bytes);
}

static void collect_large(uint32_t site, size_t bytes, uint8_t *age, void *argument)
{
    struct collection *c = argument;
    if (site < c->sites && (c->window == NULL || hk_window_has_age(c->window, *age)))
        collect(c, site, bytes);
}

bool hk_traces_collect(int window, struct hk_group **groups, size_t *count)
{
    struct hk_look look;
    struct collection c = {.window = window >= 0 ? &hk_windows.at[window] : NULL};
    *groups = NULL;
    *count = 0;
    if (!hk_look(&look))
        return false;
    c.sites = (uint32_t)look.site_count;
    if (!make_room(&c.groups, &c.room, 1, sizeof *c.groups))
        return false;
    hk_slots_visit(collect_block, &c);
    hk_exact_large_visit(collect_large, &c);
    numbers_end(&c.numbers);
    if (!c.failed && make_room(&c.groups, &c.room, c.count, sizeof *c.groups)) {
        if (c.room != c.count && c.count != 0) { /* the caller knows the count only */
            struct hk_group *exact = hk_os_map(c.count * sizeof *exact);
            if (exact != NULL)
                memcpy(exact, c.groups, c.count * sizeof *exact);
            c.failed = exact == NULL;
            hk_traces_free(c.groups, c.room * sizeof *c.groups);
            c.groups = exact;
        } else if (c.count == 0) {
            hk_traces_free(c.groups, c.room * sizeof *c.groups);
            c.groups = NULL;
        }
        *groups = c.groups;
        *count = c.count;
        return !c.failed;
    }
    hk_traces_free(c.groups, c.room * sizeof *c.groups);
    return false;
}

bool hk_traces_totals(struct hk_group **groups, size_t *count)
{
    struct hk_look look;
    *groups = NULL;
    *count = 0;
    if (!hk_look(&look) || look.site_count == 0)
        return false;
    struct hk_group *list = hk_os_map(look.site_count * sizeof *list);
    for (size_t i = 0; list != NULL && i < look.site_count; i++) {
        list[i] = (struct hk_group){look.counters[i].total_bytes, look.counters[i].total_blocks, (uint32_t)i, 0};
        if (look.sites[i].domain == HK_DOMAIN_NATIVE)
            list[i] = (struct hk_group){.site = (uint32_t)i};
    }
    *groups = list;
    *count = look.site_count;
    return list != NULL;
}

bool hk_traces_at_peak(int window, struct hk_group **groups, size_t *count)
{
    struct hk_look look;
    size_t found = 0;
    *groups = NULL;
    *count = 0;
    if (!hk_look(&look))
        return false;
    for (uint32_t site = 0; site < look.site_count; site++)
        found += hk_window_at_peak(window, site) != 0;
    struct hk_group *list = found != 0 ? hk_os_map(found * sizeof *list) : NULL;
    size_t filled = 0;
    for (uint32_t site = 0; list != NULL && site < look.site_count && filled < found; site++)
        if (hk_window_at_peak(window, site) != 0)
            list[filled++] = (struct hk_group){.bytes = hk_window_at_peak(window, site), .site = site};
    *groups = list;
    *count = list != NULL ? found : 0;
    return list != NULL || found == 0;
}

/* An object may begin behind the start of its block: the collector's header, a dict and a list of weak references. */
static bool find_large(const void *object, struct hk_group *group, uint8_t *age)
{
    size_t bytes;
    for (uintptr_t before = 0; before <= 32; before += 8)
        if (hk_exact_large_find((const char *)object - before, &bytes, &group->site, age)) {
            group->bytes = bytes;
            return true;
        }
    return false;
}

bool hk_traces_find(const void *object, int window, struct hk_group *group)
{
    uint8_t age = 0;
    struct hk_look look;
    *group = (struct hk_group){.blocks = 1};
    if (!hk_look(&look))
        return false;
    if (hk_region_has(object)) {
        const struct hk_pool *pool = hk_pool_of(object);
        uint32_t size = pool->block_size;
        uintptr_t distance = (uintptr_t)object - (uintptr_t)hk_region.base;
        uintptr_t pool_at = distance >> HK_POOL_SHIFT << HK_POOL_SHIFT;
        if (size == 0 || hk_slots_base[0] == NULL)
            return false;
        uint32_t *word = hk_slot_at(pool, hk_region.base + pool_at + (distance - pool_at) / size * size);
        if (*word >> HK_SLOT_SITE_SHIFT == 0)
            return false;
        group->site = hk_slot_site(*word);
        group->bytes = size - (*word >> 1 & HK_SLOT_SLACK_MAX);
        age = window >= 0 ? *hk_age_of(word) : 0;
    } else if (!find_large(object, group, &age)) {
        return false;
    }
    return group->site < look.site_count && (window < 0 || hk_window_has_age(&hk_windows.at[window], age));
}

/* --- where it was allocated --- */

struct resolving {
    const struct hk_traces_options *options;
    struct hk_look look;
    struct hk_traces *out;
    struct numbers places, frames, traces;
    uint32_t *trace_of_site, *depths; /* the latter by node; 0: not known yet */
    uint32_t *seen; /* by frame: the group that was counted last, + 1 */
    size_t seen_room;
};

static uint32_t add_frame(struct resolving *r, struct hk_trace_frame frame, uint32_t what)
{
    struct hk_traces *t = r->out;
    uint64_t place = (uint64_t)frame.file << 32 | what;
    if (r->options->key == HK_BY_CALL)
        place ^= (uint64_t)frame.function * 0x9e3779b97f4a7c15u;
    uint32_t *number = number_of(&r->frames, place);
    if (number == NULL)
        return NONE;
    if (*number == 0) {
        if (!make_room(&t->frames, &t->frame_room, t->frame_count + 1, sizeof *t->frames))
            return NONE;
        t->frames[t->frame_count] = frame;
        *number = (uint32_t)++t->frame_count;
    }
    return *number - 1;
}

static int32_t line_of(const struct resolving *r, const struct hk_capture_code *code, int32_t offset)
{
    int first = code->first_line > 0 ? code->first_line : 0;
    if (code->line_table == 0 || offset < 0)
        return first;
    const uint8_t *table = (const uint8_t *)r->look.strings + code->line_table;
    int line = hk_line_of(hk_python.layout->minor, table, code->line_table_size, code->first_line, offset);
    return line > 0 ? line : first;
}

static uint32_t frame_of(struct resolving *r, const struct hk_capture_node *node)
{
    const struct hk_capture_code *code = &r->look.codes[node->code];
    if (r->options->key == HK_BY_FILE)
        return add_frame(r, (struct hk_trace_frame){code->file, 0, 0}, 0);
    if (r->options->key == HK_BY_FUNCTION) {
        uint32_t name = code->qualified_name != 0 ? code->qualified_name : code->name;
        return add_frame(r, (struct hk_trace_frame){code->file, name, code->first_line}, name);
    }
    uint32_t *place = number_of(&r->places, (uint64_t)node->code << 32 | (uint32_t)node->offset);
    if (place == NULL)
        return NONE;
    if (*place == 0) {
        int32_t line = line_of(r, code, node->offset);
        uint32_t function = r->options->key == HK_BY_CALL ? code->name : 0;
        *place = add_frame(r, (struct hk_trace_frame){code->file, function, line}, (uint32_t)line) + 1; /* NONE: 0 again */
    }
    return *place - 1;
}

static bool is_hidden(const struct resolving *r, const struct hk_capture_node *node)
{
    const struct hk_capture_code *code = &r->look.codes[node->code];
    return (code->flags & (HK_CODE_TRAMPOLINE | HK_CODE_NATIVE)) || hk_has_not_begun(code->prologue, node->offset) ||
           (code->line_table_size == 0 && code->file == code->name && code->file != 0);
}

/* The innermost frames of a node, at out->path[path_length]; their number, or NONE. */
static uint32_t put_path(struct resolving *r, uint32_t at)
{
    struct hk_traces *t = r->out;
    uint32_t length = 0;
    for (; at != 0 && length < r->options->frames; at = r->look.nodes[at].parent) {
        const struct hk_capture_node *node = &r->look.nodes[at];
        if (is_hidden(r, node))
            continue;
        uint32_t frame = frame_of(r, node);
        if (frame == NONE || !make_room(&t->path, &t->path_room, t->path_length + length + 1, sizeof *t->path))
            return NONE;
        t->path[t->path_length + length++] = frame;
    }
    if (length == 0) {
        uint32_t unknown = add_frame(r, (struct hk_trace_frame){0}, 0);
        if (unknown == NONE || !make_room(&t->path, &t->path_room, t->path_length + 1, sizeof *t->path))
            return NONE;
        t->path[t->path_length] = unknown;
        length = 1;
    }
    return length;
}

/* Of the frames that are shown. A node's callers have lower numbers. */
static void find_depths(struct resolving *r)
{
    for (uint64_t i = 1; i < r->look.node_count; i++)
        r->depths[i] = r->depths[r->look.nodes[i].parent] + !is_hidden(r, &r->look.nodes[i]);
}

static bool same_trace(const struct hk_traces *t, const struct hk_trace *a, const struct hk_trace *b)
{
    return a->length == b->length && a->depth == b->depth &&
           memcmp(&t->path[a->first], &t->path[b->first], a->length * sizeof *t->path) == 0;
}

/* The trace whose path lies behind the last one, new or old. */
static uint32_t add_trace(struct resolving *r, uint32_t length, uint32_t depth)
{
    struct hk_traces *t = r->out;
    struct hk_trace trace = {.first = (uint32_t)t->path_length, .length = length, .depth = depth};
    uint64_t hash = depth;
    for (uint32_t i = 0; i < length; i++)
        hash = (hash + t->path[trace.first + i] + 1) * 0x9e3779b97f4a7c15u ^ hash >> 31;
    for (;; hash++) { /* another trace with this hash: the next one */
        uint32_t *number = number_of(&r->traces, hash);
        if (number == NULL)
            return NONE;
        if (*number != 0 && same_trace(t, &t->traces[*number - 1], &trace))
            return *number - 1;
        if (*number != 0)
            continue;
        if (!make_room(&t->traces, &t->trace_room, t->trace_count + 1, sizeof *t->traces))
            return NONE;
        t->traces[t->trace_count] = trace;
        t->path_length += length;
        *number = (uint32_t)++t->trace_count;
        return *number - 1;
    }
}

static uint32_t trace_of(struct resolving *r, uint32_t site)
{
    uint32_t *known = &r->trace_of_site[site];
    if (*known == 0) {
        uint32_t node = r->look.sites[site].node, length = put_path(r, node);
        uint32_t depth = r->depths != NULL && r->depths[node] > 0 ? r->depths[node] : length;
        if (length == NONE)
            return NONE;
        *known = add_trace(r, length, depth) + 1;
    }
    return *known - 1;
}

/* Every frame of the stack has what the group has; the path is not kept. */
static bool count_frames(struct resolving *r, const struct hk_group *group, uint32_t serial)
{
    struct hk_traces *t = r->out;
    uint32_t length = put_path(r, r->look.sites[group->site].node);
    if (length == NONE || !make_room(&r->seen, &r->seen_room, t->frame_count, sizeof *r->seen))
        return false;
    while (t->trace_count < t->frame_count) { /* trace i is frame i */
        if (!make_room(&t->traces, &t->trace_room, t->trace_count + 1, sizeof *t->traces))
            return false;
        t->traces[t->trace_count++] = (struct hk_trace){.length = 1, .depth = 1};
    }
    for (uint32_t i = 0; i < length; i++) {
        uint32_t frame = t->path[t->path_length + i];
        if (!r->options->as_cpython && r->seen[frame] == serial)
            continue;
        r->seen[frame] = serial;
        t->traces[frame].bytes += group->bytes;
        t->traces[frame].blocks += group->blocks;
    }
    return true;
}

/* As paths of their own. */
static bool finish_cumulative(struct hk_traces *t)
{
    if (!make_room(&t->path, &t->path_room, t->trace_count, sizeof *t->path))
        return false;
    for (uint32_t i = 0; i < t->trace_count; i++)
        t->path[t->traces[i].first = i] = i;
    t->path_length = t->trace_count;
    return true;
}

static bool resolve(struct resolving *r, const struct hk_group *groups, size_t count)
{
    struct hk_traces *t = r->out;
    for (size_t i = 0; i < count; i++) {
        if (groups[i].site >= r->look.site_count)
            return false;
        if (r->options->cumulative) {
            if (!count_frames(r, &groups[i], (uint32_t)i + 1))
                return false;
            continue;
        }
        uint32_t trace = trace_of(r, groups[i].site);
        if (trace == NONE)
            return false;
        t->trace_of_group[i] = trace;
        t->traces[trace].bytes += groups[i].bytes;
        t->traces[trace].blocks += groups[i].blocks;
    }
    return !r->options->cumulative || finish_cumulative(t);
}

bool hk_traces_resolve(const struct hk_group *groups, size_t count, const struct hk_traces_options *options, struct hk_traces *out)
{
    struct resolving r = {.options = options, .out = out};
    memset(out, 0, sizeof *out);
    if (!hk_look(&r.look))
        return false;
    size_t sites = r.look.site_count * sizeof(uint32_t), depths = r.look.node_count * sizeof(uint32_t);
    r.trace_of_site = hk_os_map(sites + 1);
    r.depths = options->depths ? hk_os_map(depths + 1) : NULL;
    out->trace_of_group = hk_os_map(count * sizeof(uint32_t) + 1);
    out->group_count = count;
    bool good = r.trace_of_site != NULL && out->trace_of_group != NULL && (!options->depths || r.depths != NULL);
    if (good && options->depths)
        find_depths(&r);
    good = good && resolve(&r, groups, count);
    numbers_end(&r.places);
    numbers_end(&r.frames);
    numbers_end(&r.traces);
    hk_traces_free(r.trace_of_site, sites + 1);
    hk_traces_free(r.depths, depths + 1);
    hk_traces_free(r.seen, r.seen_room * sizeof *r.seen);
    return good;
}

void hk_traces_end(struct hk_traces *t)
{
    hk_traces_free(t->traces, t->trace_room * sizeof *t->traces);
    hk_traces_free(t->frames, t->frame_room * sizeof *t->frames);
    hk_traces_free(t->path, t->path_room * sizeof *t->path);
    hk_traces_free(t->trace_of_group, t->group_count * sizeof(uint32_t) + 1);
}

size_t hk_traces_string(uint32_t string, char *buffer, size_t capacity)
{
    struct hk_look look;
    if (string == 0 || !hk_look(&look) || string >= look.string_bytes)
        return 0;
    size_t size = strnlen(look.strings + string, look.string_bytes - string);
    if (size > capacity)
        size = capacity;
    memcpy(buffer, look.strings + string, size);
    return size;
}
