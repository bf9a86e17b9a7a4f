/* A plot as PNG, with the flame of its spans below: drawn at three times its size in a palette's colours, then made smaller, which smooths the edges. Letters are five by
 * seven dots: ASCII's; what has an accent loses it, and what is no Latin letter is a box. White behind it: PNG has no style sheet to turn with.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "view/deflate.h"
#include "view/plot.h"

#define WIDTH  1200
#define HEIGHT 520
#define SMOOTH 3 /* drawn so many times larger */
#define LEFT   100
#define RIGHT  280
#define TOP    52
#define BOTTOM 44
#define ROW    22 /* of the flame */
#define DOT    2 /* pixels of a letter's dot */
#define LETTER (6 * DOT)

enum { WHITE, INK, GREY, GRID, FIRST_LINE, FIRST_HUE = FIRST_LINE + 8, FIRST_TINT = FIRST_HUE + HK_PLOT_HUES }; /* of the palette */
static const uint8_t palette[][3] = {{255, 255, 255}, {36, 41, 47},   {110, 119, 129}, {216, 222, 228}, {140, 149, 159}, {191, 135, 0},
                                     {9, 105, 218},   {26, 127, 55}, {207, 34, 46},   {130, 80, 223},  {188, 76, 0},    {36, 41, 47},
                                     {9, 105, 218},   {26, 127, 55}, {130, 80, 223}, {188, 76, 0},    {207, 34, 46},   {10, 125, 145},
                                     {201, 222, 247}, {205, 227, 211}, {228, 217, 248}, {240, 216, 201}, {244, 206, 209}, {201, 227, 231}};

/* Columns of the letters from ' ' to '~', lowest bit at the top. */
static const uint8_t letters[95][5] = {
    {0x00, 0x00, 0x00, 0x00, 0x00}, {0x00, 0x00, 0x5f, 0x00, 0x00}, {0x00, 0x07, 0x00, 0x07, 0x00}, {0x14, 0x7f, 0x14, 0x7f, 0x14},
    {0x24, 0x2a, 0x7f, 0x2a, 0x12}, {0x23, 0x13, 0x08, 0x64, 0x62}, {0x36, 0x49, 0x56, 0x20, 0x50}, {0x00, 0x00, 0x07, 0x00, 0x00},
    {0x00, 0x1c, 0x22, 0x41, 0x00}, {0x00, 0x41, 0x22, 0x1c, 0x00}, {0x2a, 0x1c, 0x7f, 0x1c, 0x2a}, {0x08, 0x08, 0x3e, 0x08, 0x08},
    {0x00, 0x40, 0x30, 0x00, 0x00}, {0x08, 0x08, 0x08, 0x08, 0x08}, {0x00, 0x60, 0x60, 0x00, 0x00}, {0x20, 0x10, 0x08, 0x04, 0x02},
    {0x3e, 0x51, 0x49, 0x45, 0x3e}, {0x00, 0x42, 0x7f, 0x40, 0x00}, {0x72, 0x49, 0x49, 0x49, 0x46}, {0x21, 0x41, 0x49, 0x4d, 0x33},
    {0x18, 0x14, 0x12, 0x7f, 0x10}, {0x27, 0x45, 0x45, 0x45, 0x39}, {0x3c, 0x4a, 0x49, 0x49, 0x31}, {0x41, 0x21, 0x11, 0x09, 0x07},
    {0x36, 0x49, 0x49, 0x49, 0x36}, {0x46, 0x49, 0x49, 0x29, 0x1e}, {0x00, 0x36, 0x36, 0x00, 0x00}, {0x00, 0x56, 0x36, 0x00, 0x00},
    {0x08, 0x14, 0x22, 0x41, 0x00}, {0x14, 0x14, 0x14, 0x14, 0x14}, {0x00, 0x41, 0x22, 0x14, 0x08}, {0x02, 0x01, 0x59, 0x09, 0x06},
    {0x3e, 0x41, 0x5d, 0x59, 0x4e}, {0x7c, 0x12, 0x11, 0x12, 0x7c}, {0x7f, 0x49, 0x49, 0x49, 0x36}, {0x3e, 0x41, 0x41, 0x41, 0x22},
    {0x7f, 0x41, 0x41, 0x41, 0x3e}, {0x7f, 0x49, 0x49, 0x49, 0x41}, {0x7f, 0x09, 0x09, 0x09, 0x01}, {0x3e, 0x41, 0x41, 0x51, 0x73},
    {0x7f, 0x08, 0x08, 0x08, 0x7f}, {0x00, 0x41, 0x7f, 0x41, 0x00}, {0x20, 0x40, 0x41, 0x3f, 0x01}, {0x7f, 0x08, 0x14, 0x22, 0x41},
    {0x7f, 0x40, 0x40, 0x40, 0x40}, {0x7f, 0x02, 0x1c, 0x02, 0x7f}, {0x7f, 0x04, 0x08, 0x10, 0x7f}, {0x3e, 0x41, 0x41, 0x41, 0x3e},
    {0x7f, 0x09, 0x09, 0x09, 0x06}, {0x3e, 0x41, 0x51, 0x21, 0x5e}, {0x7f, 0x09, 0x19, 0x29, 0x46}, {0x26, 0x49, 0x49, 0x49, 0x32},
    {0x01, 0x01, 0x7f, 0x01, 0x01}, {0x3f, 0x40, 0x40, 0x40, 0x3f}, {0x1f, 0x20, 0x40, 0x20, 0x1f}, {0x3f, 0x40, 0x38, 0x40, 0x3f},
    {0x63, 0x14, 0x08, 0x14, 0x63}, {0x03, 0x04, 0x78, 0x04, 0x03}, {0x61, 0x51, 0x49, 0x45, 0x43}, {0x00, 0x7f, 0x41, 0x41, 0x00},
    {0x02, 0x04, 0x08, 0x10, 0x20}, {0x00, 0x41, 0x41, 0x7f, 0x00}, {0x04, 0x02, 0x01, 0x02, 0x04}, {0x40, 0x40, 0x40, 0x40, 0x40},
    {0x00, 0x01, 0x02, 0x04, 0x00}, {0x20, 0x54, 0x54, 0x54, 0x78}, {0x7f, 0x48, 0x44, 0x44, 0x38}, {0x38, 0x44, 0x44, 0x44, 0x20},
    {0x38, 0x44, 0x44, 0x48, 0x7f}, {0x38, 0x54, 0x54, 0x54, 0x18}, {0x08, 0x7e, 0x09, 0x01, 0x02}, {0x0c, 0x52, 0x52, 0x52, 0x3e},
    {0x7f, 0x08, 0x04, 0x04, 0x78}, {0x00, 0x44, 0x7d, 0x40, 0x00}, {0x20, 0x40, 0x44, 0x3d, 0x00}, {0x7f, 0x10, 0x28, 0x44, 0x00},
    {0x00, 0x41, 0x7f, 0x40, 0x00}, {0x7c, 0x04, 0x18, 0x04, 0x78}, {0x7c, 0x08, 0x04, 0x04, 0x78}, {0x38, 0x44, 0x44, 0x44, 0x38},
    {0x7c, 0x14, 0x14, 0x14, 0x08}, {0x08, 0x14, 0x14, 0x18, 0x7c}, {0x7c, 0x08, 0x04, 0x04, 0x08}, {0x48, 0x54, 0x54, 0x54, 0x20},
    {0x04, 0x3f, 0x44, 0x40, 0x20}, {0x3c, 0x40, 0x40, 0x20, 0x7c}, {0x1c, 0x20, 0x40, 0x20, 0x1c}, {0x3c, 0x40, 0x30, 0x40, 0x3c},
    {0x44, 0x28, 0x10, 0x28, 0x44}, {0x0c, 0x50, 0x50, 0x50, 0x3c}, {0x44, 0x64, 0x54, 0x4c, 0x44}, {0x00, 0x08, 0x36, 0x41, 0x00},
    {0x00, 0x00, 0x7f, 0x00, 0x00}, {0x00, 0x41, 0x36, 0x08, 0x00}, {0x08, 0x04, 0x08, 0x10, 0x08},
};

/* Of U+00C0 to U+017F. */
static const char without_accent[] = "AAAAAAACEEEEIIIIDNOOOOOxOUUUUYTsaaaaaaaceeeeiiiidnooooo/ouuuuyty"
                                     "AaAaAaCcCcCcCcDdDdEeEeEeEeEeGgGgGgGgHhHhIiIiIiIiIiIiJjKkkLlLlLlL"
                                     "lLlNnNnNnnNnOoOoOoOoRrRrRrSsSsSsSsTtTtTtUuUuUuUuUuUuWwYyYZzZzZzs";
_Static_assert(sizeof without_accent == 0x180 - 0xc0 + 1, "a letter for each");

static const uint8_t *letter_of(uint32_t point)
{
    static const uint8_t box[5] = {0x7f, 0x41, 0x41, 0x41, 0x7f}, dots[5] = {0x40, 0x00, 0x40, 0x00, 0x40};
    if (point >= 0xc0 && point < 0x180)
        point = (uint8_t)without_accent[point - 0xc0];
    return point >= ' ' && point <= '~' ? letters[point - ' '] : point == 0x2026 ? dots : box;
}

struct picture {
    uint8_t *dots; /* WIDTH * SMOOTH by height * SMOOTH, indices of the palette */
    unsigned height;
};

/* In the picture's own dots. */
static void fill(struct picture *pic, double left, double top, double right, double bottom, uint8_t colour)
{
    long x0 = lround(fmax(0, left)), x1 = lround(fmin(WIDTH * SMOOTH, right)), y0 = lround(fmax(0, top)),
         y1 = lround(fmin(pic->height * SMOOTH, bottom));
    for (long y = y0; y < y1; y++)
        for (long x = x0; x < x1; x++)
            pic->dots[y * WIDTH * SMOOTH + x] = colour;
}

static void rectangle(struct picture *pic, double left, double top, double width, double height, uint8_t colour)
{
    fill(pic, left * SMOOTH, top * SMOOTH, (left + width) * SMOOTH, (top + height) * SMOOTH, colour);
}

/* Squares along the way. */
static void stroke(struct picture *pic, double x0, double y0, double x1, double y1, uint8_t colour)
{
    double length = fmax(fabs(x1 - x0), fabs(y1 - y0)) * SMOOTH;
    for (double at = 0; at <= length; at++) {
        double part = length > 0 ? at / length : 0, x = (x0 + (x1 - x0) * part) * SMOOTH, y = (y0 + (y1 - y0) * part) * SMOOTH;
        fill(pic, x - SMOOTH, y - SMOOTH, x + SMOOTH, y + SMOOTH, colour);
    }
}

static void text(struct picture *pic, double x, double y, const char *from, uint8_t colour)
{
    while (*from) {
        uint32_t point = 0;
        unsigned length = hk_utf8_next(from, &point);
        from += length ? length : 1;
        if (point >= 0x300 && point < 0x370)
            continue; /* an accent for the letter before it */
        const uint8_t *letter = letter_of(point);
        for (int column = 0; column < 5; column++)
            for (int row = 0; row < 7; row++)
                if (letter[column] >> row & 1)
                    rectangle(pic, x + column * DOT, y + row * DOT, DOT, DOT, colour);
        x += LETTER;
    }
}

static double x_of(const struct hk_plot *p, double at)
{
    return LEFT + (p->seconds > 0 ? at / p->seconds : 0) * (WIDTH - LEFT - RIGHT);
}

static double y_of(double top, double bytes)
{
    return HEIGHT - BOTTOM - (top > 0 ? bytes / top : 0) * (HEIGHT - TOP - BOTTOM);
}

static void draw_axes(const struct hk_plot *p, struct picture *pic, double top)
{
    double step = hk_plot_byte_step(p->most, 6);
    char label[32];
    for (double bytes = 0; bytes <= top; bytes += step) {
        rectangle(pic, LEFT, y_of(top, bytes), WIDTH - LEFT - RIGHT, 1, bytes > 0 ? GRID : GREY);
        hk_plot_byte_label(label, bytes);
        text(pic, LEFT - 10 - (double)strlen(label) * LETTER, y_of(top, bytes) - 7, label, GREY);
    }
    step = hk_plot_time_step(p->seconds, 8);
    for (unsigned i = 0; i <= 8 && i * step <= p->seconds; i++) {
        rectangle(pic, x_of(p, i * step), HEIGHT - BOTTOM, 1, 6, GREY);
        hk_plot_time_label(label, i * step, step);
        text(pic, x_of(p, i * step) - (double)strlen(label) * LETTER / 2, HEIGHT - BOTTOM + 14, label, GREY);
    }
}

static uint8_t colour_of(const struct hk_plot *p, size_t line)
{
    return (uint8_t)(p->of_run && line + 1 == p->line_count ? FIRST_LINE + 7 : FIRST_LINE + line % 7);
}

static void draw_line(const struct hk_plot *p, struct picture *pic, size_t index, double top)
{
    const struct hk_plot_line *line = &p->lines[index];
    uint8_t colour = colour_of(p, index);
    for (size_t i = 0; i < line->count; i++) {
        size_t k = i ? i - 1 : 0;
        stroke(pic, x_of(p, line->at[k]), y_of(top, line->bytes[k]), x_of(p, line->at[i]), y_of(top, line->bytes[i]), colour);
    }
}

/* Names at the right, where their lines end, but not over one another. */
static void draw_names(const struct hk_plot *p, struct picture *pic, double top)
{
    double places[HK_PLOT_LINES];
    char label[160];
    hk_plot_name_places(p, HEIGHT - BOTTOM, TOP, top, 20, places);
    for (size_t i = 0; i < p->line_count; i++) {
        const struct hk_plot_line *line = &p->lines[i];
        if (line->count == 0)
            continue;
        hk_plot_line_label(label, line, (RIGHT - 10) / LETTER, true);
        text(pic, WIDTH - RIGHT + 10, places[i] - 7, label, colour_of(p, i));
    }
}

static void draw_brackets(const struct hk_plot *p, struct picture *pic, const struct hk_plot_span *span, double top)
{
    for (int end = 0; end <= span->has_ended; end++) {
        double x = x_of(p, end ? span->end : span->begin), y = y_of(top, end ? span->end_bytes : span->begin_bytes);
        rectangle(pic, x - 1, y - 11, 2, 22, (uint8_t)(FIRST_HUE + span->hue));
        for (int side = -1; side <= 1; side += 2)
            rectangle(pic, end ? x - 5 : x - 1, y + side * 11 - 1, 6, 2, (uint8_t)(FIRST_HUE + span->hue));
    }
}

/* One that has not ended has no right edge. */
static void draw_span(const struct hk_plot *p, struct picture *pic, const struct hk_plot_span *span)
{
    static const struct hk_terminal ascii = {.utf8 = false};
    double x = x_of(p, span->begin), wide = fmax(1, x_of(p, span->end) - x), y = HEIGHT + (double)span->row * ROW;
    uint8_t hue = (uint8_t)(FIRST_HUE + span->hue);
    char name[sizeof span->name + 16];
    rectangle(pic, x, y, wide, ROW - 3, hue);
    rectangle(pic, x + 1, y + 1, fmax(0, wide - 1 - span->has_ended), ROW - 5, (uint8_t)(FIRST_TINT + span->hue));
    if (wide < 4 * LETTER)
        return;
    snprintf(name, sizeof name, "%s%s", span->name, span->has_ended ? "" : " (not ended)");
    hk_text_keep_start(&ascii, name, sizeof name, (size_t)((wide - 8) / LETTER));
    text(pic, x + 5, y + 3, name, INK);
}

static void draw_flame(const struct hk_plot *p, struct picture *pic)
{
    char label[64];
    for (size_t i = 0; i < p->span_count; i++)
        draw_span(p, pic, &p->spans[i]);
    for (size_t i = 0; i < p->thread_count; i++) {
        snprintf(label, sizeof label, "%s", p->threads[i].name);
        label[(RIGHT - 10) / LETTER] = 0;
        text(pic, WIDTH - RIGHT + 10, HEIGHT + p->threads[i].row * (double)ROW + 3, label, GREY);
    }
    snprintf(label, sizeof label, "%llu short ones are left out", (unsigned long long)p->spans_left_out);
    if (p->spans_left_out && p->row_count)
        text(pic, LEFT, HEIGHT + p->row_count * (double)ROW + 4, label, GREY);
}

/* On the axis of time; at its end it says what the marks are. */
static void draw_collections(const struct hk_plot *p, struct picture *pic)
{
    bool any = false;
    for (size_t i = 0; i < p->collection_count; i++) {
        double x = x_of(p, (double)p->collections[i].longest_at_ns / 1e9);
        if (!hk_plot_marks(&p->collections[i]) || !(x <= WIDTH - RIGHT))
            continue;
        any = true;
        rectangle(pic, x, HEIGHT - BOTTOM - 8, 2, 8, FIRST_LINE + 3);
    }
    if (any) {
        rectangle(pic, WIDTH - RIGHT + 42, HEIGHT - BOTTOM + 17, 2, 8, FIRST_LINE + 3);
        text(pic, WIDTH - RIGHT + 50, HEIGHT - BOTTOM + 14, "collections", GREY);
    }
}

/* The average of SMOOTH by SMOOTH dots. */
static void put_pixel(const struct picture *pic, unsigned x, unsigned y, uint8_t rgb[3])
{
    unsigned sums[3] = {0, 0, 0};
    for (unsigned i = 0; i < SMOOTH * SMOOTH; i++) {
        size_t at = (size_t)(y * SMOOTH + i / SMOOTH) * WIDTH * SMOOTH + x * SMOOTH + i % SMOOTH;
        for (int c = 0; c < 3; c++)
            sums[c] += palette[pic->dots[at]][c];
    }
    for (int c = 0; c < 3; c++)
        rgb[c] = (uint8_t)(sums[c] / (SMOOTH * SMOOTH));
}

static void put_chunk(FILE *out, const char kind[5], const uint8_t *data, size_t size)
{
    uint32_t crc = hk_crc32(hk_crc32(0, (const uint8_t *)kind, 4), data, size);
    const uint32_t numbers[2] = {(uint32_t)size, crc};
    for (int n = 0; n < 2; n++) {
        for (int shift = 24; shift >= 0; shift -= 8)
            fputc((int)(numbers[n] >> shift & 0xff), out);
        if (n == 0) {
            fwrite(kind, 1, 4, out);
            fwrite(data, 1, size, out);
        }
    }
}

static void put_png(const struct picture *pic, FILE *out)
{
    const uint8_t head[13] = {0, 0, WIDTH >> 8, WIDTH & 0xff, 0, 0, (uint8_t)(pic->height >> 8), (uint8_t)pic->height, 8, 2, 0, 0, 0};
    size_t row = 1 + 3 * WIDTH, size;
    uint8_t *rows = hk_must_calloc(pic->height, row); /* each behind the number of its filter: none */
    for (unsigned y = 0; y < pic->height; y++)
        for (unsigned x = 0; x < WIDTH; x++)
            put_pixel(pic, x, y, rows + y * row + 1 + 3 * x);
    uint8_t *packed = hk_zlib(rows, pic->height * row, &size);
    fwrite("\x89PNG\r\n\x1a\n", 1, 8, out);
    put_chunk(out, "IHDR", head, sizeof head);
    put_chunk(out, "IDAT", packed, size);
    put_chunk(out, "IEND", head, 0);
    free(packed);
    free(rows);
}

void hk_plot_png(const struct hk_plot *p, FILE *out)
{
    double step = hk_plot_byte_step(p->most, 6), top = fmax(step, ceil(p->most / step) * step);
    struct picture pic = {.height = HEIGHT + (p->row_count ? p->row_count * ROW + (p->spans_left_out ? 28 : 10) : 0)};
    pic.dots = hk_must_calloc((size_t)WIDTH * SMOOTH, (size_t)pic.height * SMOOTH);
    text(&pic, LEFT, 18, p->title, INK);
    draw_axes(p, &pic, top);
    draw_collections(p, &pic);
    for (size_t i = 0; i < p->note_count; i++) {
        rectangle(&pic, x_of(p, p->notes[i].at), TOP, 1, HEIGHT - TOP - BOTTOM, FIRST_LINE + 5);
        text(&pic, x_of(p, p->notes[i].at) + 4, TOP + 18.0 * (double)(i % 4), p->notes[i].name, GREY);
    }
    for (size_t i = 0; i < p->line_count; i++)
        draw_line(p, &pic, i, top);
    for (size_t i = 0; i < p->span_count; i++)
        if (p->spans[i].has_brackets)
            draw_brackets(p, &pic, &p->spans[i], top);
    draw_names(p, &pic, top);
    draw_flame(p, &pic);
    put_png(&pic, out);
    free(pic.dots);
}
