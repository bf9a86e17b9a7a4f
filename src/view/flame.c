/* The page's data are a JSON object whose large parts are packed: numbers of seven bits a byte, the lowest first, a set eighth
 * bit meaning that more follow (LEB128), and the bytes in base 64. A difference that may be negative is packed as its double,
 * or minus its double less one. src/view/page/flame_tree.js unpacks:
 *
 *      frames  name, file, group (indices of strings), line
 *      near    frames whose lines may be off (JIT)
 *      nodes   how far up the list its caller is, frame; without the root
 *      leaves  node, less the one before; live bytes and blocks, those at the peak, those in total; then the live KiB at each
 *              mark but the last, less the ones before; then, if two captures are compared, live bytes, those at the peak and
 *              those in total of the other
 *
 * Names are cut at NAME bytes and without control characters. Sums are worked out by the page.
 */
#include "view/flame.h"

#include <stdlib.h>
#include <string.h>

#include "read/index.h"
#include "read/moments.h"
#include "view/head.h"
#include "view/json.h"
#include "view/page.h"
#include "view/report.h"
#include "view/text.h"

#define NAME         1024
#define POINTS_SHOWN 800 /* of the timeline; there are more columns than that on few screens */

/* ---- moments ---- */

/* Those of moments.h without the start, at which nothing is live; the last is the end. Returns how many. */
static unsigned later_moments(const struct hk_capture *c, struct hk_moment moments[HK_MOMENTS_MAX])
{
    unsigned count = (unsigned)hk_moments(c, moments) - 1;
    memmove(moments, moments + 1, count * sizeof *moments);
    return count;
}

static void put_moments(struct hk_json *j, const struct hk_capture *c)
{
    struct hk_moment moments[HK_MOMENTS_MAX];
    unsigned count = later_moments(c, moments);
    hk_json_array(j, "moments_ns", true);
    for (unsigned i = 0; i < count; i++)
        hk_json_unsigned(j, NULL, moments[i].time_ns);
    hk_json_end_array(j);
}

static void put_amounts(struct hk_json *j, const struct hk_amounts *a)
{
    hk_json_unsigned(j, "live_bytes", a->live_bytes);
    hk_json_unsigned(j, "live_blocks", a->live_blocks);
    hk_json_unsigned(j, "peak_bytes", a->peak_bytes);
    hk_json_unsigned(j, "peak_blocks", a->peak_blocks);
    hk_json_unsigned(j, "total_bytes", a->total_bytes);
    hk_json_unsigned(j, "total_blocks", a->total_blocks);
}

/* What both documents begin with. */
static void put_head(struct hk_json *j, const struct hk_flame *f)
{
    const struct hk_capture *c = f->capture;
    hk_json_string(j, "format", "heapkeeper-flame-1");
    hk_head_json(j, c);
    hk_json_unsigned(j, "duration_ns", c->duration_ns);
    hk_json_unsigned(j, "peak_ns", c->status.peak_ns);
    put_moments(j, c);
    if (f->before) {
        hk_json_object(j, "before", true);
        hk_head_json(j, f->before);
        put_amounts(j, &f->tree->before);
        hk_json_end_object(j);
    }
}

/* ---- JSON ---- */

static void put_live_at(struct hk_json *j, const struct hk_capture *c, const uint64_t *at_mark, uint64_t live_bytes)
{
    struct hk_moment moments[HK_MOMENTS_MAX];
    unsigned count = later_moments(c, moments);
    hk_json_array(j, "live_bytes_at", true);
    for (unsigned i = 0; i < count; i++)
        hk_json_unsigned(j, NULL, hk_live_at(live_bytes, at_mark, &moments[i]));
    hk_json_end_array(j);
}

struct sums {
    struct hk_amounts amounts, before;
    uint64_t at_mark[HK_MARKS];
};

/* By node: what is asked for there and in what is called from there. */
static struct sums *add_up(const struct hk_call_tree *t)
{
    struct sums *sums = hk_must_calloc(t->node_count, sizeof *sums);
    for (size_t i = 0; i < t->leaf_count; i++) {
        sums[t->leaves[i].node].amounts = t->leaves[i].amounts;
        sums[t->leaves[i].node].before = t->leaves[i].before;
        memcpy(sums[t->leaves[i].node].at_mark, t->leaves[i].at_mark, sizeof sums->at_mark);
    }
    for (size_t i = t->node_count; i-- > 1;) {
        struct sums *caller = &sums[t->nodes[i].parent];
        hk_amounts_add(&caller->amounts, &sums[i].amounts);
        hk_amounts_add(&caller->before, &sums[i].before);
        for (unsigned m = 0; m < HK_MARKS; m++)
            caller->at_mark[m] += sums[i].at_mark[m];
    }
    return sums;
}

static void put_before(struct hk_json *j, const struct hk_flame *f, const struct hk_amounts *before)
{
    if (!f->before)
        return;
    hk_json_object(j, "before", true);
    put_amounts(j, before);
    hk_json_end_object(j);
}

static void put_node(struct hk_json *j, const struct hk_flame *f, size_t index, const struct sums *sums)
{
    const struct hk_tree_node *node = &f->tree->nodes[index];
    hk_json_object(j, NULL, true);
    hk_json_unsigned(j, "parent", node->parent);
    hk_json_unsigned(j, "frame", node->frame);
    put_amounts(j, &sums->amounts);
    put_live_at(j, f->capture, sums->at_mark, sums->amounts.live_bytes);
    put_before(j, f, &sums->before);
    if (node->leaf) {
        const struct hk_tree_leaf *leaf = &f->tree->leaves[node->leaf - 1];
        hk_json_object(j, "own", true);
        put_amounts(j, &leaf->amounts);
        put_live_at(j, f->capture, leaf->at_mark, leaf->amounts.live_bytes);
        put_before(j, f, &leaf->before);
        hk_json_end_object(j);
    }
    hk_json_end_object(j);
}

void hk_flame_json(const struct hk_flame *f, FILE *out)
{
    struct hk_json json, *j = &json;
    struct sums *sums = add_up(f->tree);
    hk_json_start(j, out);
    hk_json_object(j, NULL, false);
    put_head(j, f);
    hk_json_object(j, "totals", true);
    put_amounts(j, &f->tree->totals);
    put_live_at(j, f->capture, f->tree->at_mark, f->tree->totals.live_bytes);
    hk_json_end_object(j);
    hk_json_array(j, "frames", false);
    for (size_t i = 0; i < f->tree->frame_count; i++) {
        hk_json_object(j, NULL, true);
        hk_report_json_frame(j, &f->tree->frames[i]);
        hk_json_bool(j, "jit", f->tree->frames[i].is_near);
        hk_json_end_object(j);
    }
    hk_json_end_array(j);
    hk_json_array(j, "nodes", false);
    for (size_t i = 0; i < f->tree->node_count; i++)
        put_node(j, f, i, &sums[i]);
    hk_json_end_array(j);
    hk_json_end_object(j);
    free(sums);
}

/* ---- packed ---- */

struct packed {
    uint8_t *bytes;
    size_t count, room;
};

static void pack(struct packed *p, uint64_t value)
{
    p->bytes = hk_array_room(p->bytes, p->count + 9, &p->room, 1);
    for (; value > 0x7f; value >>= 7)
        p->bytes[p->count++] = (uint8_t)(value | 0x80);
    p->bytes[p->count++] = (uint8_t)value;
}

static void pack_difference(struct packed *p, uint64_t value, uint64_t before)
{
    pack(p, value >= before ? (value - before) << 1 : ((before - value) << 1) - 1);
}

/* Writes it as the string `key`, and frees it. */
static void put_packed(struct hk_json *j, const char *key, struct packed *p)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *text = hk_must_calloc(p->count / 3 + 2, 4), *at = text;
    for (size_t i = 0; i < p->count; i += 3) {
        size_t left = p->count - i;
        uint32_t three =
            (uint32_t)p->bytes[i] << 16 | (left > 1 ? (uint32_t)p->bytes[i + 1] << 8 : 0) | (left > 2 ? p->bytes[i + 2] : 0);
        *at++ = digits[three >> 18];
        *at++ = digits[three >> 12 & 63];
        *at++ = left > 1 ? digits[three >> 6 & 63] : '=';
        *at++ = left > 2 ? digits[three & 63] : '=';
    }
    hk_json_string(j, key, text);
    free(text);
    free(p->bytes);
}

/* ---- strings, each once ---- */

enum word_kind { WORD_NAME, WORD_FILE, WORD_GROUP };

/* Words are told apart by where their text is: a capture has equal text once. Groups come with their file. */
struct words {
    const struct hk_capture *capture;
    struct hk_json *json;
    struct word {
        const char *text;
        enum word_kind kind;
    } * words;
    size_t count, room;
    struct hk_index index;
};

static void put_word(struct words *w, const char *text)
{
    static const struct hk_terminal any = {.utf8 = true};
    char clean[NAME];
    hk_json_string(w->json, NULL, hk_text_clean(&any, clean, sizeof clean, text));
}

/* What a colour stands for: of Python the first part of the module's name, of machine code its library. */
static void put_group(struct words *w, const struct hk_source_frame *f)
{
    const char *directory = hk_capture_string(w->capture, w->capture->header.working_directory);
    char *name = f->module ? hk_must_strdup(f->module) : *f->file ? hk_module_name(f->file, directory) : hk_must_strdup("");
    if (!f->module && name[0] != '<') /* "<string>" has no parts */
        name[strcspn(name, ".")] = 0;
    put_word(w, name);
    free(name);
}

static void put_file(struct words *w, const char *file)
{
    char path[4200];
    snprintf(path, sizeof path, "%s", file);
    hk_text_shorten_path(path, hk_capture_string(w->capture, w->capture->header.working_directory));
    put_word(w, path);
}

/* Index of a word of a frame; written if it is new. */
static uint32_t word_index(struct words *w, const struct hk_source_frame *f, enum word_kind kind)
{
    const char *text = kind == WORD_NAME ? f->qualified_name : kind == WORD_GROUP && f->module ? f->module : f->file;
    struct hk_probe probe = hk_index_probe(&w->index, (uintptr_t)text << 2 | kind);
    while (hk_index_next(&probe))
        if (w->words[probe.number].text == text && w->words[probe.number].kind == kind)
            return probe.number;
    hk_index_put(&probe, w->count);
    w->words = hk_array_room(w->words, w->count, &w->room, sizeof *w->words);
    w->words[w->count++] = (struct word){text, kind};
    if (kind == WORD_NAME)
        put_word(w, text);
    else if (kind == WORD_FILE)
        put_file(w, text);
    else
        put_group(w, f);
    return (uint32_t)w->count - 1;
}

static void put_frames(struct hk_json *j, const struct hk_flame *f)
{
    struct words words = {.capture = f->capture, .json = j};
    struct packed frames = {NULL, 0, 0}, near = {NULL, 0, 0};
    hk_json_array(j, "strings", true);
    for (size_t i = 0; i < f->tree->frame_count; i++) {
        const struct hk_source_frame *frame = &f->tree->frames[i];
        pack(&frames, word_index(&words, frame, WORD_NAME));
        pack(&frames, word_index(&words, frame, WORD_FILE));
        pack(&frames, word_index(&words, frame, WORD_GROUP));
        pack(&frames, frame->line > 0 ? (uint64_t)frame->line : 0);
        if (frame->is_near)
            pack(&near, i);
    }
    hk_json_end_array(j);
    put_packed(j, "frames", &frames);
    put_packed(j, "near", &near);
    free(words.words);
    hk_index_free(&words.index);
}

/* ---- the page's data ---- */

static void put_nodes(struct hk_json *j, const struct hk_call_tree *t)
{
    struct packed nodes = {NULL, 0, 0};
    for (size_t i = 1; i < t->node_count; i++) {
        pack(&nodes, i - t->nodes[i].parent);
        pack(&nodes, t->nodes[i].frame);
    }
    put_packed(j, "nodes", &nodes);
}

static void put_leaves(struct hk_json *j, const struct hk_flame *f)
{
    struct packed leaves = {NULL, 0, 0};
    struct hk_moment moments[HK_MOMENTS_MAX];
    unsigned count = later_moments(f->capture, moments);
    uint32_t node_before = 0;
    for (size_t i = 0; i < f->tree->leaf_count; i++) {
        const struct hk_tree_leaf *leaf = &f->tree->leaves[i];
        const struct hk_amounts *a = &leaf->amounts;
        uint64_t before = 0;
        pack_difference(&leaves, leaf->node, node_before);
        node_before = leaf->node;
        pack(&leaves, a->live_bytes);
        pack(&leaves, a->live_blocks);
        pack(&leaves, a->peak_bytes);
        pack(&leaves, a->peak_blocks);
        pack(&leaves, a->total_bytes);
        pack(&leaves, a->total_blocks);
        for (unsigned m = 0; m + 1 < count; m++) {
            uint64_t kib =
                leaf->at_mark[moments[m].span] & (((uint64_t)1 << 53) - 1); /* a hostile one could overflow the difference */
            pack_difference(&leaves, kib, before);
            before = kib;
        }
        if (f->before) {
            pack(&leaves, leaf->before.live_bytes);
            pack(&leaves, leaf->before.peak_bytes);
            pack(&leaves, leaf->before.total_bytes);
        }
    }
    put_packed(j, "leaves", &leaves);
}

/* [milliseconds, live bytes]; of the points that fall into a column the largest. */
static void put_timeline(struct hk_json *j, const struct hk_capture *c)
{
    hk_json_array(j, "timeline", true);
    size_t stride = (c->point_count + POINTS_SHOWN - 1) / POINTS_SHOWN;
    for (size_t i = 0; i < c->point_count; i += stride) {
        const struct hk_capture_point *largest = &c->points[i];
        for (size_t k = i; k < c->point_count && k < i + stride; k++)
            if (hk_point_live(&c->points[k]) > hk_point_live(largest))
                largest = &c->points[k];
        hk_json_array(j, NULL, true);
        hk_json_number(j, NULL, (double)largest->time_ns / 1e6);
        hk_json_unsigned(j, NULL, hk_point_live(largest));
        hk_json_end_array(j);
    }
    hk_json_end_array(j);
}

void hk_flame_section(const struct hk_flame *f, FILE *out)
{
    struct hk_json json, *j = &json;
    fputs(hk_page_flame_html, out);
    fputs("<script type=\"application/json\" id=\"flame-data\">", out);
    hk_json_start(j, out);
    j->in_html = true;
    hk_json_object(j, NULL, true);
    put_head(j, f);
    put_timeline(j, f->capture);
    put_frames(j, f);
    put_nodes(j, f->tree);
    put_leaves(j, f);
    hk_json_end_object(j);
    fputs("</script>\n", out);
}

static void start_page(const char *title, FILE *out)
{
    static const char *const styles[] = {hk_page_page_css, hk_page_flame_css, NULL};
    hk_page_start(out, title, styles);
    fputs("<main class=\"whole\">\n", out);
}

static void end_page(FILE *out)
{
    static const char *const scripts[] = {hk_page_page_js, hk_page_flame_tree_js, hk_page_flame_js, NULL};
    fputs("</main>\n", out);
    hk_page_end(out, scripts);
}

void hk_flame_html(const struct hk_flame *f, FILE *out)
{
    char program[256], title[300];
    snprintf(title, sizeof title, "%s: heapkeeper flame", hk_capture_program(f->capture, program, sizeof program));
    start_page(title, out);
    hk_flame_section(f, out);
    end_page(out);
}

void hk_flame_html_of_data(const char *data, FILE *out)
{
    start_page("heapkeeper flame", out);
    fputs(hk_page_flame_html, out);
    fputs("<script type=\"application/json\" id=\"flame-data\">", out);
    for (; *data; data++)
        if (*data == '<') /* in JSON only inside strings; in a page the end of the script, perhaps */
            fputs("\\u003c", out);
        else
            fputc(*data, out);
    fputs("</script>\n", out);
    end_page(out);
}
