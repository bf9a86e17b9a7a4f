/* The call tree and its sites.
 *
 * A stack becomes a path of nodes (parent, code, offset), outermost first, and a path and a
 * domain become a site. The levels of the stack seen last are kept with their nodes (0: it has none): the outer
 * part of the next is mostly the same and needs no probe; where the host says when code objects die, not even a look at its code
 * objects. Where nothing new can be made, frames inside of one without a node need no names. Nodes found of late are kept by their
 * hash, since those of a program with a million stacks are in no cache.
 * The table of all nodes has four bytes for each: its number, and of its hash as many bits as there is room for, so that a probe looks at a
 * node only if it is most likely the one. Growing works the hashes out anew.
 *
 * Both sections are bounded. What is known is always found; what is new is tried in turn as
 *
 *      the whole stack           while nodes and sites are less than 3/4 full
 *      the innermost 4 frames    ... 7/8
 *      the innermost frame       until they are full: the program has so many allocating lines
 *      "(other)" of the domain   made at the start
 *
 * so a program with ever new stacks loses callers first and lines last, and no byte is lost.
 * Shorter paths hang from the root like any other; their sites have HK_SITE_CUT and are thereby
 * apart from whole stacks.
 */
#include <string.h>

#include "record/exact.h"
#include "record/internal.h"

#define CUT_DEPTH 4u
#define FIRST_LINKS 512u /* of the larger table one page */
#define ENDLESS_DEPTH 256u /* innermost frames of a stack that is longer than HK_REC_FRAMES: each further call shifts all levels */
#define KEY_FLAGS (HK_SITE_OTHER | HK_SITE_CUT | HK_SITE_BLIND | HK_SITE_APART) /* part of a site's key */

static uint32_t node_hash(uint32_t parent, uint32_t code, int32_t offset)
{
    return hk_rec_hash((uint64_t)parent << 32 | code, (uint32_t)offset);
}

static bool is_node(uint32_t number, uint32_t parent, uint32_t code, int32_t offset)
{
    const struct hk_capture_node *node = hk_rec_node(number);
    return node->parent == parent && node->code == code && node->offset == offset;
}

#define NUMBER_BITS 23u /* of a node: more than the largest file has room for */
#define NUMBER(slot) ((slot) & ((1u << NUMBER_BITS) - 1)) /* 0: the slot is empty */
#define SAME_TAG(slot, hash) ((((slot) ^ (hash)) >> NUMBER_BITS) == 0)
#define FIRST_NODES 1024u /* one page */
_Static_assert(HK_CAPTURE_LARGEST_BOUND / 32 * 7 / sizeof(struct hk_capture_node) < 1u << NUMBER_BITS, "numbers fit");

static void place_node(uint32_t *slots, uint32_t capacity, uint32_t hash, uint32_t number)
{
    uint32_t at = hash & (capacity - 1);

    while (slots[at] != 0)
        at = (at + 1) & (capacity - 1);
    slots[at] = (hash >> NUMBER_BITS << NUMBER_BITS) | number;
}

/* Nodes 1 to used are in it. */
static bool grow_nodes(void)
{
    struct hk_rec_nodes *table = &hk_rec.nodes;
    uint32_t capacity = table->capacity ? table->capacity * 2 : FIRST_NODES;
    uint32_t *slots = hk_rec_map(capacity * sizeof *slots);

    if (!slots) {
        hk_rec_limit(HK_LIMIT_MEMORY);
        return false;
    }
    if (capacity * sizeof *slots >= HK_REC_HUGE_BYTES)
        hk_os_huge_pages(slots, capacity * sizeof *slots, true);
    for (uint32_t i = 1; i <= table->used; i++)
        place_node(slots, capacity, node_hash(hk_rec_node(i)->parent, hk_rec_node(i)->code, hk_rec_node(i)->offset), i);
    hk_rec_unmap(table->slots, table->capacity * sizeof *slots);
    table->slots = slots;
    table->capacity = capacity;
    return true;
}

static bool add_node(uint32_t hash, uint32_t number)
{
    struct hk_rec_nodes *table = &hk_rec.nodes;

    if (table->used >= table->capacity / 4 * 3 && !grow_nodes() && table->used + 1 >= table->capacity)
        return false;
    place_node(table->slots, table->capacity, hash, number);
    table->used++;
    return true;
}

static uint32_t find_node(uint32_t parent, uint32_t code, int32_t offset, uint32_t hash)
{
    const struct hk_rec_nodes *index = &hk_rec.nodes;
    uint32_t mask = index->capacity - 1;
    struct hk_rec_slot *late = &hk_rec.late_nodes[hash % HK_REC_LATE_NODES];

    if (index->capacity == 0)
        return 0;
    if (late->hash == hash && late->entry != 0 && late->entry < hk_rec.section[HK_SECTION_NODES].count &&
        is_node(late->entry, parent, code, offset))
        return late->entry;
    for (uint32_t at = hash & mask; index->slots[at] != 0; at = (at + 1) & mask)
        if (SAME_TAG(index->slots[at], hash) && is_node(NUMBER(index->slots[at]), parent, code, offset))
            return (*late = (struct hk_rec_slot){hash, NUMBER(index->slots[at])}).entry;
    return 0;
}

static uint32_t make_node(uint32_t parent, uint32_t code, int32_t offset, uint32_t hash)
{
    uint32_t number = (uint32_t)hk_rec.section[HK_SECTION_NODES].count;
    struct hk_capture_node *node = hk_rec_append(HK_SECTION_NODES, 1);

    if (!node || !add_node(hash, number))
        return 0;
    node->parent = parent;
    node->code = code;
    node->offset = offset;
    node->depth = parent ? hk_rec_node(parent)->depth + 1 : 1;
    hk_rec_publish(HK_SECTION_NODES, 1);
    hk_rec.late_nodes[hash % HK_REC_LATE_NODES] = (struct hk_rec_slot){hash, number};
    return number;
}

/* The code of a frame of the stack that was walked last; 0: no room. */
static inline uint32_t code_of(uint32_t frame)
{
    struct hk_frame *at = &hk_rec.frames[frame];
    uint32_t *code = &hk_rec.frame_codes[frame];

    if (*code != 0)
        return *code;
    return *code = at->offset == HK_FRAME_NATIVE ? hk_rec_native_code((uintptr_t)at->code, &at->offset) : hk_rec_code(at->code);
}

/* So many of the innermost `count` frames have codes; the callers of one that has none cannot be shown. */
static uint32_t name_frames(uint32_t count)
{
    uint32_t named = 0;

    while (named < count && code_of(named) != 0)
        named++;
    return named;
}

static uint32_t child_of(uint32_t parent, uint32_t code, int32_t offset, bool may_make)
{
    uint32_t hash = node_hash(parent, code, offset);
    uint32_t node = find_node(parent, code, offset, hash);

    return node == 0 && may_make ? make_node(parent, code, offset, hash) : node;
}

/* The node of the innermost `depth` frames, which are named; makes what is missing while there is room. 0: not there. */
static uint32_t find_path(uint32_t depth, bool room)
{
    uint64_t most = room ? hk_rec.section[HK_SECTION_NODES].capacity : 0;
    uint32_t node = 0;

    for (uint32_t frame = depth; frame-- > 0;) {
        bool may_make = hk_rec.section[HK_SECTION_NODES].count < most;
        node = child_of(node, hk_rec.frame_codes[frame], hk_rec.frames[frame].offset, may_make);
        if (node == 0)
            return 0;
    }
    return node;
}

/* The outermost levels of this stack that are those of the last one, by the addresses of their code objects; `level` of them are known
 * to be. Only where these live. */
static uint32_t known_levels(uint32_t depth, uint32_t level)
{
    uint32_t most = depth < hk_rec.last_depth ? depth : hk_rec.last_depth;

    for (; hk_rec.exact && level < most; level++) {
        const struct hk_frame *frame = &hk_rec.frames[depth - 1 - level];
        const struct hk_rec_level *last = &hk_rec.last[level];
        if (frame->code != last->address || frame->offset != last->offset)
            break;
    }
    return level;
}

/* The code of the frame at a level, where those outside of it have been looked at: a recursion of one function or two needs no
 * look-up. */
static inline uint32_t code_at(uint32_t level, uint32_t frame)
{
    for (uint32_t back = 1; back <= 2 && back <= level && hk_rec.frames[frame].offset != HK_FRAME_NATIVE; back++)
        if (hk_rec.last[level - back].address == hk_rec.frames[frame].code)
            return hk_rec.frame_codes[frame] = hk_rec.last[level - back].code;
    return code_of(frame);
}

/* The node of all frames, of which `known` levels are not told. They need no names where they are known from the stack before, or one
 * outside of them has no node. *unnamed: a frame cannot be named. */
static uint32_t find_whole(uint32_t depth, uint32_t known, bool room, bool *unnamed)
{
    const struct hk_rec_section *nodes = &hk_rec.section[HK_SECTION_NODES];
    uint32_t level = known_levels(depth, known), node = level > 0 ? hk_rec.last[level - 1].node : 0;
    bool same = true; /* as in the stack seen last, so far */

    if (level > 0 && node == 0) {
        if (!room)
            return 0;
        level--;
        node = level > 0 ? hk_rec.last[level - 1].node : 0;
    }
    for (; level < depth; level++) {
        uint32_t frame = depth - 1 - level, code = code_at(level, frame);
        int32_t offset = hk_rec.frames[frame].offset;
        struct hk_rec_level *last = &hk_rec.last[level];
        if (HK_UNLIKELY(code == 0)) {
            hk_rec.last_depth = level;
            *unnamed = true;
            return 0;
        }
        if (same && level < hk_rec.last_depth && last->code == code && last->offset == offset && last->node != 0) {
            node = last->node;
            last->address = hk_rec.frames[frame].code;
            continue;
        }
        same = false;
        node = child_of(node, code, offset, room && nodes->count < nodes->capacity);
        *last = (struct hk_rec_level){hk_rec.frames[frame].code, code, offset, node};
        hk_rec.last_depth = level + 1;
        if (node == 0)
            return 0;
    }
    return node;
}

/* Whose the sites are that are looked for; 0 where threads are not told apart. */
static uint16_t thread_here(uint8_t flags)
{
    return hk_rec.exact && !(flags & HK_SITE_OTHER) ? hk_exact_thread : 0;
}

static uint32_t find_site(uint32_t node, int domain, uint8_t flags)
{
    uint16_t thread = thread_here(flags);
    uint32_t at = node < hk_rec.node_links ? hk_rec.first_site[node] : 0;

    for (; at != 0; at = hk_rec.next_site[at - 1].next) {
        const struct hk_rec_site_link *site = &hk_rec.next_site[at - 1];
        if (site->domain == domain && site->thread == thread && (site->flags & KEY_FLAGS) == (flags & KEY_FLAGS))
            return at - 1;
    }
    return HK_REC_NONE;
}

/* A table of `room` entries has more than `need` from now on. */
static bool make_room(void **table, uint32_t *room, uint32_t need, size_t entry)
{
    uint32_t more = *room ? *room : FIRST_LINKS;

    while (more <= need)
        more *= 2;
    if (more == *room)
        return true;
    void *larger = hk_rec_map(more * entry);
    if (!larger) {
        hk_rec_limit(HK_LIMIT_MEMORY);
        return false;
    }
    if (*room)
        memcpy(larger, *table, *room * entry);
    hk_rec_unmap(*table, *room * entry);
    *table = larger;
    *room = more;
    return true;
}

/* Sites of one node are few: several domains, several threads. */
static bool link_site(uint32_t node, uint32_t number, const struct hk_rec_site_key *key)
{
    void *first = hk_rec.first_site, *next = hk_rec.next_site;
    bool room = make_room(&first, &hk_rec.node_links, node, sizeof *hk_rec.first_site) &&
                make_room(&next, &hk_rec.site_links, number, sizeof *hk_rec.next_site);

    hk_rec.first_site = first;
    hk_rec.next_site = next;
    if (!room)
        return false;
    hk_rec.next_site[number] = (struct hk_rec_site_link){hk_rec.first_site[node], key->domain, key->flags, key->thread};
    hk_rec.first_site[node] = number + 1;
    hk_rec.linked++;
    return true;
}

static uint32_t make_site(uint32_t node, int domain, uint8_t flags)
{
    int kind = hk_rec_site_kind();
    uint32_t number = (uint32_t)hk_rec.section[kind].count;
    struct hk_capture_counters *counters = hk_rec.exact ? hk_rec_append(HK_SECTION_COUNTERS, 1) : NULL;
    struct hk_rec_site_key *site = hk_rec_append(kind, 1);

    if (!site || (hk_rec.exact && !counters))
        return HK_REC_NONE;
    memset(site, 0, hk_rec.section[kind].entry_size);
    *site = (struct hk_rec_site_key){node, (uint8_t)domain, flags, thread_here(flags)};
    if (!link_site(node, number, site))
        return HK_REC_NONE;
    if (counters) {
        *counters = (struct hk_capture_counters){.mark = (uint16_t)hk_rec.mark,
                                                 .mark_generation = (uint16_t)hk_rec.generation};
        hk_rec_publish(HK_SECTION_COUNTERS, 1);
    } else {
        hk_rec_site(number)->mark = (uint16_t)hk_rec.mark;
        hk_rec_site(number)->mark_generation = (uint16_t)hk_rec.generation;
    }
    hk_rec_publish(kind, 1);
    return number;
}

bool hk_rec_make_other_sites(void)
{
    for (int domain = 0; domain < HK_REC_DOMAINS; domain++)
        if (make_site(0, domain, HK_SITE_OTHER) == HK_REC_NONE)
            return false;
    return true;
}

/* Links the file's sites anew: a forked child numbers them anew. */
bool hk_rec_link_sites(void)
{
    if (hk_rec.node_links)
        memset(hk_rec.first_site, 0, hk_rec.node_links * sizeof *hk_rec.first_site);
    hk_rec.linked = 0;
    for (uint32_t i = 0; i < hk_rec.section[hk_rec_site_kind()].count; i++)
        if (!link_site(hk_rec_site_key(i)->node, i, hk_rec_site_key(i)))
            return false;
    return true;
}

/* New nodes and sites only in the first `eighths` of their sections. */
static bool has_room(uint32_t depth, uint32_t eighths)
{
    const struct hk_rec_section *nodes = &hk_rec.section[HK_SECTION_NODES];
    const struct hk_rec_section *sites = &hk_rec.section[hk_rec_site_kind()];

    return sites->count < sites->capacity / 8 * eighths && nodes->count + depth <= nodes->capacity / 8 * eighths;
}

/* The site of a node. `had`: so many nodes there were before its path was looked for. */
static uint32_t site_of_node(uint32_t node, uint64_t had, int domain, uint8_t flags, bool room)
{
    uint32_t site = hk_rec.section[HK_SECTION_NODES].count > had ? HK_REC_NONE /* the path is new */ : find_site(node, domain, flags);

    return site == HK_REC_NONE && room ? make_site(node, domain, flags) : site;
}

/* The site of the whole stack; see find_whole. */
static uint32_t try_whole(uint32_t depth, uint32_t known, int domain, uint8_t flags, bool *unnamed)
{
    uint64_t had = hk_rec.section[HK_SECTION_NODES].count;
    bool room = has_room(depth, 6);
    uint32_t node = depth > 0 ? find_whole(depth, known, room, unnamed) : 0;

    return depth > 0 && node == 0 ? HK_REC_NONE : site_of_node(node, had, domain, flags, room);
}

/* The site of the innermost `depth` frames of a stack of which `whole` have names. */
static uint32_t try_depth(uint32_t depth, uint32_t whole, int domain, uint8_t flags, uint32_t eighths)
{
    uint64_t had = hk_rec.section[HK_SECTION_NODES].count;
    bool room = has_room(depth, eighths);
    uint32_t node = find_path(depth, room);

    if (depth < whole)
        flags |= HK_SITE_CUT;
    return depth > 0 && node == 0 ? HK_REC_NONE : site_of_node(node, had, domain, flags, room);
}

/* *known: so many levels, outermost, are those of the stack seen last, and not among the frames; NULL: none may be. */
static uint32_t walk(int domain, uint8_t *flags, uint32_t *known)
{
    uint32_t codes = hk_exact_codes();
    struct hk_stack_known told = {.enough = HK_REC_FRAMES};

    if (hk_rec.exact && hk_rec.last_codes != codes) { /* what lies at these addresses may be another code by now */
        hk_rec.last_depth = 0;
        hk_rec.last_codes = codes;
    }
    if (known && hk_rec.last_told)
        told.levels = hk_rec.last_depth;
    if (told.levels > 0 && hk_rec.last[told.levels - 1].node == 0 && !has_room(1, 6))
        told.enough = CUT_DEPTH; /* with so many of its levels it has no node, and gets none */
    int found = hk_rec.source.stack ? hk_rec.source.stack(domain, hk_rec.frames, HK_REC_FRAMES, flags, known ? &told : NULL) : 0;
    uint32_t count = found > 0 ? (uint32_t)found : 0;
    if (count > HK_REC_FRAMES)
        count = HK_REC_FRAMES;
    hk_rec.last_told = told.told;
    if (known)
        *known = told.told ? told.levels : 0;
    memset(hk_rec.frame_codes, 0, count * sizeof *hk_rec.frame_codes);
    return count + (known ? *known : 0);
}

/* What there is room for of a stack that is not to be had whole. */
static uint32_t site_of_less(uint32_t depth, uint32_t known, int domain, uint8_t flags)
{
    uint32_t named = depth < CUT_DEPTH ? depth : CUT_DEPTH, site = HK_REC_NONE;

    for (uint32_t frame = depth - known; frame < named; frame++) { /* not told */
        const struct hk_rec_level *last = &hk_rec.last[depth - 1 - frame];
        hk_rec.frames[frame] = (struct hk_frame){last->address, last->offset};
        hk_rec.frame_codes[frame] = last->code;
    }
    named = name_frames(named);
    if (depth > 1)
        hk_rec_limit(HK_LIMIT_NODES);
    if (named > 0)
        site = try_depth(named, depth, domain, flags, 7);
    if (site == HK_REC_NONE && (named > 0 || depth == 0))
        site = try_depth(named > 0 ? 1 : 0, depth, domain, flags, 8);
    return site;
}

/* Under the main interpreter's lock, where stacks come in turn. */
static bool is_main_lane(int domain, uint8_t flags)
{
    return hk_rec.exact && domain != 0 && domain != HK_DOMAIN_NATIVE && !(flags & HK_SITE_APART);
}

uint32_t hk_rec_site_here(int domain, uint8_t extra)
{
    uint8_t flags = 0, again = 0;
    uint32_t known = 0, depth = walk(domain, &flags, is_main_lane(domain, extra) ? &known : NULL), site = HK_REC_NONE;
    bool unnamed = false, lost = depth == 0 && (flags & HK_SITE_CUT); /* there is a stack, but not even its innermost frame fits */

    if (depth == HK_REC_FRAMES && (flags & HK_SITE_CUT))
        depth = ENDLESS_DEPTH;
    flags = (flags & (HK_SITE_CUT | HK_SITE_JIT | HK_SITE_BLIND)) | extra;
    if (hk_rec.stage != HK_REC_ON || lost)
        hk_rec.last_told = false;
    if (hk_rec.stage != HK_REC_ON)
        return HK_REC_NONE;
    if (!lost)
        site = try_whole(depth, known, domain, flags, &unnamed);
    if (HK_UNLIKELY(unnamed)) {
        if (known > 0)
            depth = walk(domain, &again, NULL);
        known = 0;
        depth = name_frames(depth);
        lost = depth == 0;
        flags |= HK_SITE_CUT;
        if (!lost)
            site = try_depth(depth, depth, domain, flags, 6);
    }
    if (HK_UNLIKELY(site == HK_REC_NONE) && !lost)
        site = site_of_less(depth, known, domain, flags);
    if (hk_rec.stage != HK_REC_ON)
        return HK_REC_NONE;
    if (HK_UNLIKELY(site == HK_REC_NONE)) {
        hk_rec_limit(HK_LIMIT_SITES);
        return (uint32_t)domain;
    }
    if (HK_UNLIKELY(flags & HK_SITE_JIT))
        hk_rec_site_key(site)->flags |= HK_SITE_JIT;
    return site;
}
