/* See rows.h. */
#include "view/rows.h"

#include <stdlib.h>

#include "read/index.h"

#define NO_TERMINAL 400 /* columns of a name where there is no terminal to say */

char (*hk_rows_add(struct hk_rows *r))[HK_CELL]
{
    r->cells = hk_array_room(r->cells, r->count, &r->room, r->columns * sizeof *r->cells);
    char(*cells)[HK_CELL] = r->cells + r->count++ * r->columns;
    for (unsigned c = 0; c < r->columns; c++)
        cells[c][0] = 0;
    return cells;
}

void hk_rows_lay_out(struct hk_rows *r, const struct hk_terminal *t, unsigned name_least)
{
    unsigned taken = 0, optional = 0;
    for (unsigned c = 0; c < r->columns; c++) {
        for (size_t i = 0; i < r->count; i++) {
            unsigned columns = (unsigned)hk_text_columns(r->cells[i * r->columns + c]);
            r->widths[c] = columns > r->widths[c] ? columns : r->widths[c];
        }
        taken += r->left_out[c] ? 0 : r->widths[c] + 2;
        optional += r->optional[c] && !r->left_out[c] ? r->widths[c] + 2 : 0;
    }
    r->name_columns = NO_TERMINAL;
    if (!t->width)
        return;
    if (t->width < taken + 2 + name_least) {
        for (unsigned c = 0; c < r->columns; c++)
            r->left_out[c] |= r->optional[c];
        taken -= optional;
    }
    r->name_columns = t->width > taken + 2 + 10 ? t->width - taken - 2 : 10;
}

void hk_rows_put(const struct hk_rows *r, const struct hk_terminal *t, size_t index, const char *name, enum hk_style style)
{
    char(*cells)[HK_CELL] = r->cells + index * r->columns;
    fputs(hk_style(t, style), t->out);
    for (unsigned c = 0; c < r->columns; c++) {
        if (!r->left_out[c])
            fprintf(t->out, "  %*s%s", (int)(r->widths[c] - hk_text_columns(cells[c])), "", cells[c]);
    }
    fprintf(t->out, "  %s%s\n", name, style == HK_PLAIN ? "" : hk_style(t, HK_PLAIN));
}

void hk_rows_free(struct hk_rows *r)
{
    free(r->cells);
}
