/* The tree of calls to move in.
 *
 * What is open is a list of rows in the order of the screen, made anew whenever something opens or closes. State: the outline, which
 * of its rows are open, the list, the row under the cursor and the first one on the screen, the words searched for.
 */
#include <stdlib.h>
#include <string.h>

#include "view/head.h"
#include "view/rows.h"
#include "view/screen.h"
#include "view/tree.h"

#define NAME   1100
#define SEARCH 120
#define COLUMNS 4 /* as in tree.c */

struct browser {
    struct hk_tree_view view;
    struct hk_terminal t;
    struct hk_outline outline;
    bool *open;
    uint32_t *list; /* rows of the outline */
    uint32_t *depths;
    size_t count, cursor, top;
    char search[SEARCH];
    const char *said; /* in the last row, until the next key */
};

static void list_rows(struct browser *b)
{
    uint32_t at = 0, depth = 0;
    b->count = 0;
    for (;;) {
        b->list[b->count] = at;
        b->depths[b->count++] = depth;
        if (b->open[at] && b->outline.rows[at].first) {
            at = b->outline.rows[at].first;
            depth++;
            continue;
        }
        while (at && !b->outline.rows[at].next) {
            at = b->outline.rows[at].parent;
            depth--;
        }
        if (!at)
            return;
        at = b->outline.rows[at].next;
    }
}

/* Opens `at`, and from its heaviest child on as long as one has most of its caller's. */
static void open_heavy(struct browser *b, uint32_t at)
{
    const struct hk_tree_row *rows = b->outline.rows;
    b->open[at] = true;
    for (uint32_t child = rows[at].first; child; at = child, child = rows[at].first) {
        if (at && hk_tree_figure(&rows[child], b->view.of) * 2 < hk_tree_figure(&rows[at], b->view.of))
            return;
        b->open[child] = true;
    }
}

static void make(struct browser *b)
{
    hk_outline_free(&b->outline);
    free(b->open);
    free(b->list);
    free(b->depths);
    b->outline = hk_outline_make(b->view.tree, b->view.of, b->view.inverted);
    b->open = hk_must_calloc(b->outline.count, sizeof *b->open);
    b->list = hk_must_calloc(b->outline.count, sizeof *b->list);
    b->depths = hk_must_calloc(b->outline.count, sizeof *b->depths);
    b->cursor = b->top = 0;
    b->open[0] = true;
    list_rows(b);
}

/* ---- drawing ---- */

static void put_row(struct browser *b, const struct hk_rows *rows, size_t index, size_t at)
{
    const struct hk_tree_row *row = &b->outline.rows[b->list[at]];
    char text[NAME], whole[NAME + 300], branches[256];
    size_t depth = b->depths[at], indent = depth * 2, most = rows->name_columns / 3;
    const char *mark = !row->first ? " " : b->open[b->list[at]] ? b->t.utf8 ? "▾" : "-" : b->t.utf8 ? "▸" : "+";
    if (indent > most)
        snprintf(branches, sizeof branches, "%*zu ", (int)(most < 200 ? most : 200), depth);
    else
        snprintf(branches, sizeof branches, "%*s", (int)indent, "");
    size_t taken = hk_text_columns(branches) + 2, room = rows->name_columns > taken + 10 ? rows->name_columns - taken : 10;
    hk_tree_name(&b->view, &b->t, row, text, sizeof text, room);
    snprintf(whole, sizeof whole, "%s%s %s", branches, mark, text);
    if (at == b->cursor)
        fputs("\033[7m", b->t.out);
    hk_rows_put(rows, &b->t, index, whole, HK_PLAIN);
}

static void draw(struct browser *b)
{
    char heads[COLUMNS][HK_CELL] = {"", "share", "blocks", "itself"}, status[400], *text = NULL;
    unsigned rows, columns;
    size_t size = 0;
    hk_screen_size(&rows, &columns);
    size_t room = rows > 4 ? rows - 4 : 1; /* head, empty line, heads; status */
    if (b->cursor < b->top)
        b->top = b->cursor;
    if (b->cursor >= b->top + room)
        b->top = b->cursor - room + 1;
    b->t.out = open_memstream(&text, &size);
    if (!b->t.out)
        return;
    b->t.width = columns;
    struct hk_rows cells = {.columns = COLUMNS};
    strcpy(heads[0], hk_sort_word(b->view.of == HK_SORT_BLOCKS ? HK_SORT_LIVE : b->view.of));
    memcpy(hk_rows_add(&cells), heads, sizeof heads);
    hk_tree_cells(&b->view, &b->outline, &b->outline.rows[0], hk_rows_add(&cells)); /* the widest: columns do not jump about */
    for (size_t i = b->top; i < b->count && i < b->top + room; i++)
        hk_tree_cells(&b->view, &b->outline, &b->outline.rows[b->list[i]], hk_rows_add(&cells));
    cells.optional[2] = cells.optional[3] = true;
    cells.left_out[3] = b->view.inverted;
    hk_rows_lay_out(&cells, &b->t, 30);
    hk_head_text(&b->t, b->view.capture);
    fputc('\n', b->t.out);
    hk_rows_put(&cells, &b->t, 0, b->view.inverted ? "callees first" : "callers first", HK_BOLD);
    for (size_t i = b->top; i < b->count && i < b->top + room; i++)
        put_row(b, &cells, i - b->top + 2, i);
    fclose(b->t.out);
    hk_rows_free(&cells);
    snprintf(status, sizeof status, " %s", b->said ? b->said : "arrows move and open  e opens the heavy path  c closes  / searches  n next  i inverts  s of what  q quits");
    hk_screen_show(text, 0, status);
    free(text);
}

/* ---- searching ---- */

static bool matches(struct browser *b, uint32_t row)
{
    char name[NAME];
    hk_tree_name(&b->view, &b->t, &b->outline.rows[row], name, sizeof name, NAME);
    return hk_pattern_found(b->search, name);
}

/* The next row of the outline in the order of the screen, open or not. */
static uint32_t row_after(const struct browser *b, uint32_t at)
{
    if (b->outline.rows[at].first)
        return b->outline.rows[at].first;
    while (at && !b->outline.rows[at].next)
        at = b->outline.rows[at].parent;
    return at ? b->outline.rows[at].next : 0;
}

static void find_next(struct browser *b)
{
    uint32_t start = b->list[b->cursor], at = start;
    if (!b->search[0])
        return;
    do {
        at = row_after(b, at);
        if (!matches(b, at))
            continue;
        for (uint32_t up = at; up; up = b->outline.rows[up].parent)
            b->open[b->outline.rows[up].parent] = true;
        list_rows(b);
        for (b->cursor = 0; b->list[b->cursor] != at; b->cursor++)
            ;
        b->said = at == start ? "no other" : NULL;
        return;
    } while (at != start);
    b->said = "not found";
}

static void ask_search(struct browser *b)
{
    char line[SEARCH + 16];
    size_t length = 0;
    for (;;) {
        snprintf(line, sizeof line, "/%.*s", (int)length, b->search);
        b->said = line;
        draw(b);
        int key = hk_screen_key(-1);
        if (key == '\r' || key == '\n')
            break;
        if (key == 27 || key == HK_KEY_QUIT) {
            length = 0;
            break;
        }
        if ((key == 127 || key == 8) && length > 0)
            length--;
        else if (key >= 32 && key < 256 && key != 127 && length + 1 < SEARCH)
            b->search[length++] = (char)key;
        b->search[length] = 0;
    }
    b->search[length] = 0;
    b->said = NULL;
    find_next(b);
}

/* ---- keys ---- */

static void move(struct browser *b, int64_t rows)
{
    int64_t to = (int64_t)b->cursor + rows;
    b->cursor = to < 0 ? 0 : to >= (int64_t)b->count ? b->count - 1 : (size_t)to;
}

static void close_row(struct browser *b)
{
    uint32_t at = b->list[b->cursor];
    if (b->open[at] && b->outline.rows[at].first) {
        b->open[at] = false;
        list_rows(b);
        return;
    }
    while (b->cursor > 0 && b->list[b->cursor] != b->outline.rows[at].parent)
        b->cursor--;
}

static void open_row(struct browser *b)
{
    uint32_t at = b->list[b->cursor];
    if (!b->outline.rows[at].first)
        return;
    if (b->open[at])
        b->cursor++;
    b->open[at] = true;
    list_rows(b);
}

static void close_all(struct browser *b)
{
    memset(b->open, 0, b->outline.count * sizeof *b->open);
    b->open[0] = true;
    b->cursor = 0;
    list_rows(b);
}

static bool act(struct browser *b, int key)
{
    unsigned rows, columns;
    hk_screen_size(&rows, &columns);
    int64_t page = rows > 6 ? (int64_t)rows - 6 : 1;
    switch (key) {
    case 'q':
    case 27:
    case HK_KEY_QUIT:
        return false;
    case HK_KEY_UP:
    case 'k':
        move(b, -1);
        break;
    case HK_KEY_DOWN:
    case 'j':
        move(b, 1);
        break;
    case HK_KEY_PAGE_UP:
        move(b, -page);
        break;
    case HK_KEY_PAGE_DOWN:
    case ' ':
        move(b, page);
        break;
    case HK_KEY_HOME:
    case 'g':
        b->cursor = 0;
        break;
    case HK_KEY_END:
    case 'G':
        b->cursor = b->count - 1;
        break;
    case HK_KEY_RIGHT:
    case '\r':
    case '\n':
    case 'l':
        open_row(b);
        break;
    case HK_KEY_LEFT:
    case 'h':
        close_row(b);
        break;
    case 'e':
        open_heavy(b, b->list[b->cursor]);
        list_rows(b);
        break;
    case 'c':
        close_all(b);
        break;
    case '/':
        ask_search(b);
        break;
    case 'n':
        find_next(b);
        break;
    case 'i':
        b->view.inverted = !b->view.inverted;
        make(b);
        break;
    case 's':
        b->view.of = (enum hk_sort)((b->view.of + 1) % HK_SORT_CHOICES);
        make(b);
        break;
    default:
        break;
    }
    return true;
}

bool hk_tree_browse(const struct hk_tree_view *v, const struct hk_terminal *t)
{
    struct browser b = {.view = *v, .t = *t};
    int key;
    if (!hk_screen_open())
        return false;
    make(&b);
    do {
        draw(&b);
        key = hk_screen_key(-1);
        if (key != HK_KEY_NONE)
            b.said = NULL;
    } while (act(&b, key));
    hk_screen_close();
    hk_outline_free(&b.outline);
    free(b.open);
    free(b.list);
    free(b.depths);
    return true;
}
