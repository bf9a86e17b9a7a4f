/* heapkeeper plot: memory over time, drawn in a terminal, as SVG, as PNG, and as JSON. */
#ifndef HK_VIEW_PLOT_H
#define HK_VIEW_PLOT_H

#include "read/capture.h"
#include "read/find.h"
#include "view/text.h"

#define HK_PLOT_LINES 8
#define HK_PLOT_NOTES 16

struct hk_plot_line {
    char name[96];      /* clean UTF-8 */
    double *at, *bytes; /* seconds since the plot's start, in order */
    size_t count;
    double most; /* of bytes */
    bool has_trend; /* hk_plot_trends found one: */
    double slope, slope_error, trend_middle; /* bytes a second, half its 95 % interval; bytes in the middle of its time */
};

#define HK_PLOT_THREADS 8
#define HK_PLOT_ROWS    24
#define HK_PLOT_HUES    6

/* A stretch with a name, in a row of the flame below the lines. */
struct hk_plot_span {
    char name[64], file[192]; /* clean UTF-8; the file of a function, shortened, else "" */
    int line;
    unsigned row, hue; /* spans of one name have one */
    double begin, end; /* seconds; of one that has not ended the end of the record */
    bool has_ended;
    bool has_brackets; /* on the last line: it is one of the longest */
    double begin_bytes, end_bytes;         /* live */
    double begin_rss_bytes, end_rss_bytes; /* 0: not known */
};

/* Owns its lines' and spans' memory. */
struct hk_plot {
    struct hk_plot_line lines[HK_PLOT_LINES]; /* the last is drawn over the others */
    size_t line_count, left_out;              /* processes for which there was no line */
    double seconds, most;                     /* the axes' ends */
    char title[512];                          /* clean UTF-8 */
    struct {
        double at;
        char name[64];
    } notes[HK_PLOT_NOTES]; /* moments that the program named */
    size_t note_count;
    const struct hk_capture_collection *collections; /* of cycles; borrowed */
    size_t collection_count;
    struct hk_plot_span *spans; /* as they began */
    size_t span_count;
    uint64_t spans_left_out; /* in the capture, or here */
    unsigned row_count;
    struct {
        char name[48]; /* clean UTF-8 */
        unsigned row, rows;
    } threads[HK_PLOT_THREADS]; /* whose rows these are */
    size_t thread_count;
    const struct hk_capture *capture; /* the first one, for the head; borrowed */
    bool of_run;
    const struct hk_family *family; /* of a run; borrowed */
};

/* Resident size, mapped by the heap, live: of one process. */
void hk_plot_of(struct hk_plot *plot, const struct hk_capture *capture);

/* What is live in each process of a run, the largest, and, if it is not one alone, in all together; of `family` what it says of small
 * children, which have no timeline. Both are borrowed. */
void hk_plot_of_run(struct hk_plot *plot, struct hk_capture *const *captures, size_t count, const struct hk_family *family);
void hk_plot_free(struct hk_plot *plot);

/* Those of the capture, for hk_plot_of. */
void hk_plot_add_spans(struct hk_plot *plot);

/* Adds to each line of more than one moment the straight line nearest to it. */
void hk_plot_trends(struct hk_plot *plot);

void hk_plot_text(const struct hk_plot *plot, const struct hk_terminal *terminal, unsigned rows);
void hk_plot_svg(const struct hk_plot *plot, FILE *out); /* readable on light and on dark */
void hk_plot_svg_inline(const struct hk_plot *plot, FILE *out); /* for a page, whose style sheet has its colours (page/report.css) */
void hk_plot_png(const struct hk_plot *plot, FILE *out);
void hk_plot_json(const struct hk_plot *plot, FILE *out);

/* ---- shared by the pictures ---- */

/* The distance of ticks on an axis of bytes, a power of two, and of seconds, so that there are at most `ticks`. */
double hk_plot_byte_step(double most, unsigned ticks);
double hk_plot_time_step(double seconds, unsigned ticks);
/* "128 MiB"; "2.5 s", "10 min", in the unit that `step` is told in. */
char *hk_plot_byte_label(char to[32], double bytes);
char *hk_plot_time_label(char to[32], double seconds, double step);

/* "shop.py 4242 12.3 MiB": a line's name and what it ends with, in at most `columns`, unless the name is its number alone. What is cut is
 * the program's name, not the number behind it. In UTF-8, or ASCII. */
char *hk_plot_line_label(char to[160], const struct hk_plot_line *line, size_t columns, bool utf8);

/* "+1.2 MiB/s ± 300 KiB/s", in UTF-8. */
char *hk_plot_slope_label(char to[96], const struct hk_plot_line *line);

/* "load (shop.py:12): 2.1 s, live 12 MiB to 80 MiB, RSS ...", in UTF-8. */
char *hk_plot_span_label(char to[400], const struct hk_plot_span *span);

/* Index of the thread with this row. */
size_t hk_plot_thread_of(const struct hk_plot *plot, unsigned row);

/* Spans of one name as one: what the text lists. Those that took longest in all; at most `max`. Returns how many there are. The time of a
 * span inside of one of its own name, as in a recursion, is that one's. */
struct hk_plot_calls {
    const struct hk_plot_span *first, *last; /* to end */
    size_t count;
    double seconds;
    bool has_open;
};
size_t hk_plot_calls(const struct hk_plot *plot, struct hk_plot_calls *calls, size_t max);

/* Rows of the flame and a list of its names, for hk_plot_text. */
void hk_plot_spans_text(const struct hk_plot *plot, const struct hk_terminal *terminal, unsigned margin, unsigned columns);

/* A collection that is worth a mark: of everything, or one that took a millisecond. */
bool hk_plot_marks(const struct hk_capture_collection *collection);

/* Where to write the names of lines: the height, from `bottom` (0 bytes) to `above` (`top` bytes), at which each ends, but `apart`
 * from one another. */
void hk_plot_name_places(const struct hk_plot *plot, double bottom, double above, double top, double apart,
                         double places[HK_PLOT_LINES]);

#endif
