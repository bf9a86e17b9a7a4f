/* A tree of calls.
 *
 *      shop.py · Python 3.13.0 · pid 4242 · ended
 *      every block was recorded · live, callers first, 1% or more
 *
 *           live  share   blocks  itself
 *       61.0 MiB   100%  420 000     0 B  all
 *       61.0 MiB   100%  420 000     0 B  └ <module>  shop.py:190
 *       60.0 MiB    98%  410 000  60.0 MiB    ├ remember_order  shop.py:88
 *       1.00 MiB     2%   10 000     0 B      └ 12 others
 *
 * Below each frame its children and the others add up to it, less what it asked for itself.
 *
 * Inverted, each stack that asked for something is put in from its inner end out; frames that several begin with are one. A hostile
 * capture can have a million stacks of a million frames: beyond FRAMES_MAX steps they are cut.
 */
#include "view/tree.h"

#include <stdlib.h>
#include <string.h>

#include "read/index.h"
#include "view/head.h"
#include "view/rows.h"
#include "view/where.h"

#define FRAMES_MAX  (1u << 24) /* steps of all stacks together */
#define STACK_SHORT 8u
#define INDENT_MOST 40 /* levels that are indented, where there is no terminal to say */
#define NAME        1100
#define NAME_LEAST  30

enum column { BYTES, SHARE, BLOCKS, OWN, COLUMNS };

/* ---- the outline ---- */

static uint64_t bytes_of(const struct hk_amounts *a, enum hk_sort of)
{
    return of == HK_SORT_PEAK ? a->peak_bytes : of == HK_SORT_TOTAL ? a->total_bytes : a->live_bytes;
}

static uint64_t blocks_of(const struct hk_amounts *a, enum hk_sort of)
{
    return of == HK_SORT_PEAK ? a->peak_blocks : of == HK_SORT_TOTAL ? a->total_blocks : a->live_blocks;
}

uint64_t hk_tree_figure(const struct hk_tree_row *row, enum hk_sort of)
{
    return of == HK_SORT_BLOCKS ? row->blocks : row->bytes;
}

static void add(struct hk_tree_row *row, const struct hk_amounts *a, enum hk_sort of)
{
    row->bytes += bytes_of(a, of);
    row->blocks += blocks_of(a, of);
}

/* Rows are the tree's nodes. */
static void from_callers(struct hk_outline *o, const struct hk_call_tree *tree, enum hk_sort of)
{
    o->count = tree->node_count;
    o->rows = hk_must_calloc(o->count, sizeof *o->rows);
    for (size_t i = 0; i < o->count; i++) {
        const struct hk_tree_node *node = &tree->nodes[i];
        o->rows[i].parent = node->parent;
        o->rows[i].frame = node->frame;
        if (node->leaf) {
            add(&o->rows[i], &tree->leaves[node->leaf - 1].amounts, of);
            o->rows[i].own_bytes = o->rows[i].bytes;
        }
    }
    for (size_t i = o->count; i-- > 1;) { /* parents have lower numbers */
        o->rows[o->rows[i].parent].bytes += o->rows[i].bytes;
        o->rows[o->rows[i].parent].blocks += o->rows[i].blocks;
    }
}

/* Children by (parent, frame). */
struct children {
    struct hk_index index;
    size_t room;
};

static uint32_t child_of(struct hk_outline *o, struct children *c, uint32_t parent, uint32_t frame)
{
    struct hk_probe probe = hk_index_probe(&c->index, (uint64_t)parent << 32 | frame);
    while (hk_index_next(&probe))
        if (o->rows[probe.number].parent == parent && o->rows[probe.number].frame == frame)
            return probe.number;
    hk_index_put(&probe, o->count);
    o->rows = hk_array_room(o->rows, o->count, &c->room, sizeof *o->rows);
    o->rows[o->count] = (struct hk_tree_row){.parent = parent, .frame = frame};
    return (uint32_t)o->count++;
}

static void from_callees(struct hk_outline *o, const struct hk_call_tree *tree, enum hk_sort of)
{
    struct children c = {.room = 256};
    size_t steps = 0;
    o->rows = hk_must_calloc(c.room, sizeof *o->rows);
    o->count = 1;
    for (size_t i = 0; i < tree->leaf_count; i++) {
        const struct hk_tree_leaf *leaf = &tree->leaves[i];
        uint32_t row = 0;
        add(&o->rows[0], &leaf->amounts, of);
        if (!bytes_of(&leaf->amounts, of) && !blocks_of(&leaf->amounts, of))
            continue;
        size_t left = steps < FRAMES_MAX ? FRAMES_MAX - steps : STACK_SHORT;
        for (uint32_t node = leaf->node; node; node = tree->nodes[node].parent) {
            if (left-- == 0) {
                o->whole = false;
                break;
            }
            row = child_of(o, &c, row, tree->nodes[node].frame);
            add(&o->rows[row], &leaf->amounts, of);
            steps++;
        }
        o->rows[row].own_bytes += bytes_of(&leaf->amounts, of);
    }
    hk_index_free(&c.index);
}

static const struct hk_outline *sorting;
static enum hk_sort sorting_of;

static int by_parent_and_figure(const void *a, const void *b)
{
    uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    const struct hk_tree_row *x = &sorting->rows[i], *y = &sorting->rows[k];
    if (x->parent != y->parent)
        return x->parent < y->parent ? -1 : 1;
    uint64_t p = hk_tree_figure(x, sorting_of), q = hk_tree_figure(y, sorting_of);
    return p > q ? -1 : p < q ? 1 : i < k ? -1 : i > k;
}

struct hk_outline hk_outline_make(const struct hk_call_tree *tree, enum hk_sort of, bool inverted)
{
    struct hk_outline o = {.whole = true};
    if (inverted)
        from_callees(&o, tree, of);
    else
        from_callers(&o, tree, of);
    uint32_t *order = hk_must_calloc(o.count, sizeof *order);
    for (uint32_t i = 1; i < o.count; i++)
        order[i - 1] = i;
    sorting = &o;
    sorting_of = of;
    qsort(order, o.count - 1, sizeof *order, by_parent_and_figure);
    for (size_t i = o.count - 1; i-- > 0;) { /* the last of a parent first: each goes in front */
        struct hk_tree_row *row = &o.rows[order[i]];
        row->next = o.rows[row->parent].first;
        o.rows[row->parent].first = order[i];
    }
    free(order);
    return o;
}

void hk_outline_free(struct hk_outline *o)
{
    free(o->rows);
}

/* ---- a row ---- */

void hk_tree_cells(const struct hk_tree_view *v, const struct hk_outline *o, const struct hk_tree_row *row, char (*cells)[40])
{
    hk_text_bytes(cells[BYTES], (double)row->bytes);
    hk_text_percent(cells[SHARE], (double)hk_tree_figure(row, v->of), (double)hk_tree_figure(&o->rows[0], v->of));
    hk_text_count(cells[BLOCKS], row->blocks);
    hk_text_bytes(cells[OWN], (double)row->own_bytes);
}

void hk_tree_name(const struct hk_tree_view *v, const struct hk_terminal *t, const struct hk_tree_row *row, char *to, size_t size,
                  size_t columns)
{
    const struct hk_source_frame *f = &v->tree->frames[row->frame];
    char place[512], line[16] = "", name[512];
    hk_text_clean(t, name, sizeof name, *f->qualified_name ? f->qualified_name : f->function);
    if (row->frame == 0)
        strcpy(name, "all");
    hk_text_clean(t, place, sizeof place, f->file);
    hk_text_shorten_path(place, hk_capture_string(v->capture, v->capture->header.working_directory));
    if (f->line > 0 && *place)
        snprintf(line, sizeof line, f->is_near ? ":~%d" : ":%d", f->line);
    if (!*place && f->module && *f->module && strncmp(f->function, f->module, strlen(f->module)) != 0) {
        char module[200];
        snprintf(place, sizeof place, "[%s]", hk_text_clean(t, module, sizeof module, f->module));
    }
    size_t taken = hk_text_columns(name) + strlen(line) + 2;
    hk_text_keep_end(t, place, taken + 12 < columns ? columns - taken : 12);
    snprintf(to, size, "%s%s%s%s", name, *place ? "  " : "", place, line);
    hk_text_keep_start(t, to, size, columns);
}

/* ---- text ---- */

struct page {
    const struct hk_tree_view *v;
    const struct hk_terminal *t;
    struct hk_outline outline;
    struct hk_rows rows;
    size_t row; /* of `rows`: the next to print */
    bool printing;
    bool *last; /* of each level: no sibling follows */
    size_t levels;
};

static bool is_shown(const struct page *p, const struct hk_tree_row *row)
{
    double whole = (double)hk_tree_figure(&p->outline.rows[0], p->v->of), here = (double)hk_tree_figure(row, p->v->of);
    return here > 0 && here >= p->v->least * whole;
}

/* "│ ├ " in front of a frame at `depth`; where that is too deep, its number instead of the lines. */
static void put_branches(const struct page *p, size_t depth, char *to, size_t size)
{
    static const char *const utf8[] = {"│ ", "  ", "├ ", "└ "}, *const ascii[] = {"| ", "  ", "|-", "`-"};
    const char *const *lines = p->t->utf8 ? utf8 : ascii;
    size_t most = p->t->width ? p->rows.name_columns / 4 : INDENT_MOST, at = 0;
    to[0] = 0;
    if (depth > most) {
        snprintf(to, size, "%s%zu ", p->t->utf8 ? "…" : "...", depth);
        return;
    }
    for (size_t i = 0; i + 1 < depth && at + 8 < size; i++)
        at += (size_t)snprintf(to + at, size - at, "%s", lines[p->last[i] ? 1 : 0]);
    if (depth)
        snprintf(to + at, size - at, "%s", lines[p->last[depth - 1] ? 3 : 2]);
}

/* The first pass makes the cells, the second prints them. */
static void put_row(struct page *p, const struct hk_tree_row *row, size_t depth, const char *name, enum hk_style style)
{
    char branches[512], text[NAME], whole[NAME + 512];
    if (!p->printing) {
        hk_tree_cells(p->v, &p->outline, row, hk_rows_add(&p->rows));
        return;
    }
    put_branches(p, depth, branches, sizeof branches);
    size_t taken = hk_text_columns(branches), room = p->rows.name_columns > taken + 10 ? p->rows.name_columns - taken : 10;
    if (name)
        snprintf(text, sizeof text, "%s", name);
    else
        hk_tree_name(p->v, p->t, row, text, sizeof text, room);
    snprintf(whole, sizeof whole, "%s%s", branches, text);
    hk_rows_put(&p->rows, p->t, p->row++, whole, style);
}

static void set_last(struct page *p, size_t level, bool last)
{
    if (level >= p->levels) {
        p->levels = level * 2 + 64;
        p->last = hk_must_realloc(p->last, p->levels, sizeof *p->last);
    }
    p->last[level] = last;
}

/* Sums up a sibling and those that follow; how many of them have something. */
static size_t add_others(const struct hk_outline *o, uint32_t from, struct hk_tree_row *sum)
{
    size_t others = 0;
    for (; from; from = o->rows[from].next) {
        sum->bytes += o->rows[from].bytes;
        sum->blocks += o->rows[from].blocks;
        sum->own_bytes += o->rows[from].own_bytes;
        others += o->rows[from].bytes || o->rows[from].blocks;
    }
    return others;
}

static void put_others(struct page *p, uint32_t from, size_t depth)
{
    struct hk_tree_row sum = {0};
    char count[32], name[64];
    size_t others = add_others(&p->outline, from, &sum);
    if (!others)
        return;
    set_last(p, depth - 1, true);
    snprintf(name, sizeof name, "%s other%s", hk_text_count(count, others), others == 1 ? "" : "s");
    put_row(p, &sum, depth, name, HK_DIM);
}

static bool has_others(const struct page *p, uint32_t from)
{
    for (; from; from = p->outline.rows[from].next)
        if (p->outline.rows[from].bytes || p->outline.rows[from].blocks)
            return true;
    return false;
}

/* Without recursion: stacks of a capture may be as deep as it likes. */
static void put_tree(struct page *p)
{
    uint32_t at = 0;
    size_t depth = 0;
    put_row(p, &p->outline.rows[0], 0, NULL, HK_BOLD);
    for (;;) {
        uint32_t child = p->outline.rows[at].first;
        bool deeper = child && (p->v->depth == 0 || depth < p->v->depth);
        if (deeper && is_shown(p, &p->outline.rows[child])) {
            at = child;
            depth++;
        } else {
            if (deeper)
                put_others(p, child, depth + 1);
            for (;;) { /* to the next sibling, of a caller if need be */
                if (at == 0)
                    return;
                uint32_t next = p->outline.rows[at].next;
                if (next && is_shown(p, &p->outline.rows[next])) {
                    at = next;
                    break;
                }
                put_others(p, next, depth);
                at = p->outline.rows[at].parent;
                depth--;
            }
        }
        const struct hk_tree_row *row = &p->outline.rows[at];
        set_last(p, depth - 1, !has_others(p, row->next));
        put_row(p, row, depth, NULL, HK_PLAIN);
    }
}

void hk_tree_text(const struct hk_tree_view *v, const struct hk_terminal *t)
{
    char heads[COLUMNS][HK_CELL] = {"", "share", "blocks", "itself"};
    struct page p = {.v = v, .t = t, .outline = hk_outline_make(v->tree, v->of, v->inverted), .rows = {.columns = COLUMNS}};
    strcpy(heads[BYTES], hk_sort_word(v->of == HK_SORT_BLOCKS ? HK_SORT_LIVE : v->of));
    memcpy(hk_rows_add(&p.rows), heads, sizeof heads);
    put_tree(&p);
    p.rows.optional[BLOCKS] = v->of != HK_SORT_BLOCKS;
    p.rows.optional[OWN] = true;
    p.rows.left_out[OWN] = v->inverted; /* the first level says it */
    hk_rows_lay_out(&p.rows, t, NAME_LEAST);
    hk_head_text(t, v->capture);
    hk_head_mode(t, v->capture);
    fprintf(t->out, "%s%s, %s first", hk_dot(t), hk_sort_word(v->of), v->inverted ? "callees" : "callers");
    if (v->least > 0)
        fprintf(t->out, ", %.3g%% or more", v->least * 100);
    fputs("\n\n", t->out);
    hk_rows_put(&p.rows, t, p.row++, "", HK_BOLD);
    p.printing = true;
    put_tree(&p);
    if (!p.outline.whole)
        fputs("\ntoo many frames: some stacks have only their innermost ones\n", t->out);
    hk_rows_free(&p.rows);
    hk_outline_free(&p.outline);
    free(p.last);
}

/* ---- JSON ---- */

/* What is below a row and has no row of its own. */
static void put_json_others(struct hk_json *j, const struct page *p, uint32_t at, size_t depth)
{
    struct hk_tree_row sum = {0};
    uint32_t child = p->outline.rows[at].first;
    while (child && (p->v->depth == 0 || depth < p->v->depth) && is_shown(p, &p->outline.rows[child]))
        child = p->outline.rows[child].next;
    size_t others = add_others(&p->outline, child, &sum);
    if (!others)
        return;
    hk_json_object(j, "others", true);
    hk_json_unsigned(j, "branches", others);
    hk_json_unsigned(j, "bytes", sum.bytes);
    hk_json_unsigned(j, "blocks", sum.blocks);
    hk_json_end_object(j);
}

static void put_json_row(struct hk_json *j, const struct page *p, uint32_t at, uint32_t parent, size_t depth)
{
    const struct hk_tree_row *row = &p->outline.rows[at];
    const struct hk_source_frame *f = &p->v->tree->frames[row->frame];
    hk_json_object(j, NULL, true);
    hk_json_unsigned(j, "depth", depth);
    if (at)
        hk_json_unsigned(j, "parent", parent);
    hk_json_string(j, "function", at ? f->function : "all");
    hk_json_string(j, "qualified_name", at ? f->qualified_name : "all");
    hk_json_string(j, "file", f->file);
    hk_json_signed(j, "line", f->line);
    hk_json_bool(j, "jit", f->is_near);
    if (f->module)
        hk_json_string(j, "module", f->module);
    hk_json_unsigned(j, "bytes", row->bytes);
    hk_json_unsigned(j, "blocks", row->blocks);
    hk_json_unsigned(j, "itself_bytes", row->own_bytes);
    put_json_others(j, p, at, depth);
    hk_json_end_object(j);
}

void hk_tree_json(const struct hk_tree_view *v, FILE *out)
{
    struct page p = {.v = v, .outline = hk_outline_make(v->tree, v->of, v->inverted)};
    struct hk_outline *o = &p.outline;
    uint32_t *numbers = hk_must_calloc(o->count, sizeof *numbers), count = 0, at = 0;
    struct hk_json json, *j = &json;
    size_t depth = 0;
    hk_json_start(j, out);
    hk_json_object(j, NULL, false);
    hk_json_string(j, "format", "heapkeeper-tree-1");
    hk_head_json(j, v->capture);
    hk_json_string(j, "of", hk_sort_word(v->of));
    hk_json_bool(j, "inverted", v->inverted);
    hk_json_bool(j, "whole", o->whole);
    hk_json_array(j, "rows", false);
    for (;;) {
        numbers[at] = count++;
        put_json_row(j, &p, at, numbers[o->rows[at].parent], depth);
        uint32_t next = v->depth == 0 || depth < v->depth ? o->rows[at].first : 0;
        if (next && is_shown(&p, &o->rows[next])) {
            at = next;
            depth++;
            continue;
        }
        while (at && !((next = o->rows[at].next) && is_shown(&p, &o->rows[next]))) {
            at = o->rows[at].parent;
            depth--;
        }
        if (!at)
            break;
        at = next;
    }
    hk_json_end_array(j);
    hk_json_end_object(j);
    free(numbers);
    hk_outline_free(o);
}
