/* Growing or merely large: the rule.
 *
 * A site (or a line, or a function) is judged from what it keeps at the marks (capture/format.h):
 * at_mark[i], its live bytes at the end of span i, and born_in[i], the bytes live now that were
 * allocated in span i. The run is cut at the mark nearest to its half and the one nearest to its
 * last quarter. Because an idle server passes much time without allocating, and a start-up
 * allocates much in no time, this is done by two clocks, time and allocated bytes, and both must
 * say yes:
 *
 *  1. It rose over the last half.
 *         S = survivors, live now and born after the half:  sum of born_in after it
 *         F = live at the half and freed since:             at_mark there - sum of born_in up to it
 *         rise = S - F
 *     What lived through both moments was sampled once, so it cancels; what is left are two
 *     independent sampled sums with variance mean * bytes each, where mean is the distance between
 *     samples. The rise must be more than 4 times sqrt(mean * (S + F)): a program has thousands of
 *     sites, each a chance to be wrong, and 4 leaves about 3 in 100 000 of them. When every block
 *     was recorded there is no such noise.
 *  2. It matters: the rise is 64 KiB or more, and a two-hundredth of the peak or more.
 *  3. It still rises in the last quarter, at half the pace of the quarter before or more (a cache
 *     that is nearly full does not), with half a standard error in its favour: condition 1 carries
 *     the significance. By time an eighth will do: on a busy machine a program that does the same
 *     all along is given less of the processor for a while.
 *  4. It is made of survivors: what the third quarter allocated is still there. A cache or batch
 *     that is emptied and filled again has only young blocks, whatever its phase at the end of the
 *     run; so what survives from the third quarter must be a quarter of the rise or more. And
 *     survivors must come from three spans at least: two large tables that were built once are two
 *     events, not a trend.
 *
 * Programs let go of everything when they end: main() returns, modules are torn down, and what leaked
 * is gone with the rest (hk_growth_fell). Such a run is judged at its last mark before the fall. What
 * was born when is no longer known there, only the levels at_mark, whose common survivors do not
 * cancel; so instead of 1 and 4 a site must have risen
 *   - by more than 4 errors if nothing was freed, error = sqrt(mean * rise),
 *   - by more than 2.5 errors in the worst case, error = sqrt(mean * (level then + level at the half)),
 *   - to a third more than its level at the half, at least,
 *   - and never have fallen from mark to mark by more than one sample or a tenth of the rise: a cache
 *     that is full goes up and down.
 *
 * An exact capture does not know what was born when either (nor has it errors): it is judged by its levels at any time, as above.
 *
 * A cache that was filled early fails 1; one that is being filled slowly up to the end looks
 * exactly like a leak, and within that run is one.
 */
#ifndef HK_READ_GROWTH_H
#define HK_READ_GROWTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "capture/format.h"

/* Where one clock cuts the run. Numbers of spans: those below `half` are the first half. */
struct hk_growth_cut {
    unsigned half, quarter;
    double pace;  /* length of the last quarter as a part of the one before it */
    double share; /* of the pace of the quarter before that is to be kept, at least */
};

/* What is the same for all sites of a capture. */
struct hk_growth_run {
    unsigned spans;
    bool usable; /* false: too short, or too uneven, to tell; nothing is growing then */
    bool by_levels; /* judged before the fall, without born_in */
    bool births_unknown; /* exact captures: judged without born_in, too */
    struct hk_growth_cut cuts[2]; /* by time, by allocated bytes */
    double least;                 /* bytes; a smaller rise is no news */
};

struct hk_growth {
    bool growing;
    double rise;  /* bytes over the last half by the clock that shows less; may be negative */
    double error; /* its standard error, bytes */
};

/* `end_*` is where the last span ends; `peak` in bytes. For a run that fell: leave out the last span,
 * which ends where it began, and set by_levels. */
struct hk_growth_run hk_growth_prepare(const struct hk_capture_mark *marks, unsigned count,
                                       uint64_t end_ns, uint64_t end_allocated, uint64_t peak);

/* True if the program let go of most of its memory at its very end: `live` falls below 0.6 of what it
 * was, in the last twentieth of the run or its last quarter of a second. `times` in ns, ascending. */
bool hk_growth_fell(const uint64_t *times, const uint64_t *live, size_t count);

/* `mean`: bytes a sample stands for, at most (0: exact). `at_mark` and `born_in` in KiB,
 * `run->spans` of them, already brought up to date. */
struct hk_growth hk_growth_judge(const struct hk_growth_run *run, double mean,
                                 const uint64_t *at_mark, const uint64_t *born_in);

/* Brings a site's values up to date with the capture's marks, as the format says: spans it has not
 * seen yet, then thinnings it has not seen yet. `generation` is the status', `spans` the number of
 * marks. */
void hk_growth_update(const struct hk_capture_site *site, uint64_t generation, unsigned spans,
                      uint64_t at_mark[HK_MARKS], uint64_t born_in[HK_MARKS]);

#endif
