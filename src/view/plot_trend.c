/* The straight line nearest to a plot's line, by least squares at even steps of time: a capture has its points where memory was
 * allocated, and those would count for more. What lives was mostly there a step ago, too, so the steps count for fewer than they
 * are when the interval is worked out: by the correlation of each deviation with the one before. */
#include "view/plot.h"

#include <math.h>
#include <stdlib.h>

#define STEPS 256

/* The line's values at even steps between its first point and its last; false: it has no two moments. */
static bool resample(const struct hk_plot_line *line, double values[STEPS])
{
    size_t next = 0;
    if (line->count < 2 || !(line->at[line->count - 1] > line->at[0]))
        return false;
    double from = line->at[0], each = (line->at[line->count - 1] - from) / (STEPS - 1);
    for (size_t i = 0; i < STEPS; i++) {
        while (next + 1 < line->count && line->at[next + 1] <= from + each * (double)i)
            next++;
        values[i] = line->bytes[next];
    }
    return true;
}

static void find_trend(struct hk_plot_line *line)
{
    double values[STEPS], off[STEPS], middle = 0, together = 0, spread = 0, squares = 0, again = 0;
    if (!resample(line, values))
        return;
    for (size_t i = 0; i < STEPS; i++)
        middle += values[i] / STEPS;
    for (size_t i = 0; i < STEPS; i++) {
        double x = (double)i - (STEPS - 1) / 2.0;
        together += x * (values[i] - middle);
        spread += x * x;
    }
    double slope = together / spread, each = (line->at[line->count - 1] - line->at[0]) / (STEPS - 1);
    for (size_t i = 0; i < STEPS; i++) {
        off[i] = values[i] - middle - slope * ((double)i - (STEPS - 1) / 2.0);
        squares += off[i] * off[i];
        again += i ? off[i] * off[i - 1] : 0;
    }
    again = squares > 0 ? fmin(fmax(again / squares, 0), 0.98) : 0;
    double free_steps = fmax(3, STEPS * (1 - again) / (1 + again) - 2);
    double student = 1.96 + 2.37 / free_steps + 2.8 / (free_steps * free_steps); /* Student's t at 97.5 % */
    line->has_trend = true;
    line->slope = slope / each;
    line->slope_error = student * sqrt(squares / (STEPS - 2) / spread * (1 + again) / (1 - again)) / each;
    line->trend_middle = middle;
}

void hk_plot_trends(struct hk_plot *plot)
{
    for (size_t i = 0; i < plot->line_count; i++)
        find_trend(&plot->lines[i]);
}

char *hk_plot_slope_label(char to[96], const struct hk_plot_line *line)
{
    char slope[32], error[32];
    snprintf(to, 96, "%c%s/s \xc2\xb1 %s/s", line->slope < 0 ? '-' : '+', hk_text_bytes(slope, fabs(line->slope)),
             hk_text_bytes(error, line->slope_error));
    return to;
}
