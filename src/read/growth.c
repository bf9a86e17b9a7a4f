/* The growth rule of growth.h, in its order. */
#include "read/growth.h"

#include <math.h>
#include <string.h>

#define KIB             1024.0
#define SIGNIFICANT     4.0     /* standard errors of the rise over the last half */
#define LEAST_BYTES     65536.0 /* a smaller rise is no news */
#define LEAST_SHARE     0.005   /* of the peak */
#define SPANS_LEAST     6u
#define SURVIVING_SPANS 3u
#define PACE_BY_BYTES   0.5     /* of the quarter before, at least */
#define PACE_BY_TIME    0.125

static void fill_unseen_spans(uint64_t *at_mark, uint64_t *born_in, unsigned from, unsigned to,
                              uint64_t live_kib)
{
    for (unsigned i = from; i < to; i++) {
        at_mark[i] = live_kib;
        born_in[i] = 0;
    }
}

void hk_growth_update(const struct hk_capture_site *site, uint64_t generation, unsigned spans,
                      uint64_t at_mark[HK_MARKS], uint64_t born_in[HK_MARKS])
{
    uint64_t live_kib = site->live_bytes >> 10;
    unsigned mark = site->mark < HK_MARKS ? site->mark : HK_MARKS - 1;
    /* Generations count modulo 2^16 in a site. A site may be newer than a status that was copied
     * before it. */
    int16_t behind = (int16_t)((uint16_t)generation - site->mark_generation);

    for (unsigned i = 0; i < HK_MARKS; i++) {
        at_mark[i] = site->at_mark[i];
        born_in[i] = site->born_in[i];
    }
    for (int merges = 0; merges < behind && merges < 5; merges++) {
        fill_unseen_spans(at_mark, born_in, mark + 1, HK_MARKS, live_kib);
        for (unsigned i = 0; i < HK_MARKS / 2; i++) {
            at_mark[i] = at_mark[2 * i + 1];
            born_in[i] = born_in[2 * i] + born_in[2 * i + 1];
        }
        mark /= 2;
    }
    fill_unseen_spans(at_mark, born_in, mark + 1, HK_MARKS, live_kib);
    fill_unseen_spans(at_mark, born_in, spans, HK_MARKS, live_kib);
    if (spans)
        at_mark[spans - 1] = live_kib;
}

/* The start of a span nearest to `part` of the run by one clock; 0 if none lies between the
 * bounds. */
static unsigned nearest(const double *starts, unsigned count, double end, double part, double least,
                        double most)
{
    unsigned best = 0;
    for (unsigned i = 1; i < count; i++) {
        double at = starts[i] / end;
        if (at < least || at > most)
            continue;
        if (!best || fabs(at - part) < fabs(starts[best] / end - part))
            best = i;
    }
    return best;
}

static bool cut_run(const double *starts, unsigned count, double end, struct hk_growth_cut *cut)
{
    if (!(end > 0))
        return false;
    cut->half = nearest(starts, count, end, 0.5, 0.25, 0.75);
    if (!cut->half)
        return false;
    double half = starts[cut->half] / end;
    cut->quarter = nearest(starts, count, end, (1.0 + half) / 2.0, half + 0.05, 0.95);
    if (cut->quarter <= cut->half)
        return false;
    double quarter = starts[cut->quarter] / end;
    cut->pace = (1.0 - quarter) / (quarter - half);
    return true;
}

struct hk_growth_run hk_growth_prepare(const struct hk_capture_mark *marks, unsigned count,
                                       uint64_t end_ns, uint64_t end_allocated, uint64_t peak)
{
    struct hk_growth_run run = {.spans = count < HK_MARKS ? count : HK_MARKS};
    double starts[HK_MARKS];

    run.least = fmax(LEAST_BYTES, LEAST_SHARE * (double)peak);
    run.cuts[0].share = PACE_BY_TIME;
    run.cuts[1].share = PACE_BY_BYTES;
    if (run.spans < SPANS_LEAST)
        return run;
    for (unsigned i = 0; i < run.spans; i++)
        starts[i] = (double)marks[i].time_ns;
    run.usable = cut_run(starts, run.spans, (double)end_ns, &run.cuts[0]);
    for (unsigned i = 0; i < run.spans; i++)
        starts[i] = (double)marks[i].allocated_bytes;
    run.usable = cut_run(starts, run.spans, (double)end_allocated, &run.cuts[1]) && run.usable;
    return run;
}

static double sum(const uint64_t *kib, unsigned from, unsigned to)
{
    double total = 0;
    for (unsigned i = from; i < to; i++)
        total += (double)kib[i] * KIB;
    return total;
}

/* Rise from the end of span `from - 1` to now, and its standard error. */
static void rise_since(unsigned spans, double mean, const uint64_t *at_mark,
                       const uint64_t *born_in, unsigned from, double *rise, double *error)
{
    double survivors = sum(born_in, from, spans);
    double freed = (double)at_mark[from - 1] * KIB - sum(born_in, 0, from);
    if (freed < 0) /* rounding to KiB, or a site copied while it changed */
        freed = 0;
    *rise = survivors - freed;
    *error = sqrt(mean * (survivors + freed));
}

static struct hk_growth judge_by(const struct hk_growth_run *run, const struct hk_growth_cut *cut,
                                 double mean, const uint64_t *at_mark, const uint64_t *born_in)
{
    struct hk_growth g;
    double last, last_error;

    rise_since(run->spans, mean, at_mark, born_in, cut->half, &g.rise, &g.error);
    rise_since(run->spans, mean, at_mark, born_in, cut->quarter, &last, &last_error);

    double before = g.rise - last; /* rise of the third quarter */
    double before_error = sqrt(fmax(0.0, g.error * g.error - last_error * last_error));
    double survived = sum(born_in, cut->half, cut->quarter);
    double survived_error = sqrt(mean * fmax(survived, mean));

    bool rose = g.rise > SIGNIFICANT * g.error && g.rise >= run->least;
    double share = cut->share * cut->pace;
    bool still = last > 0 && last + 0.5 * hypot(last_error, share * before_error) >= share * before;
    unsigned alive = 0;
    for (unsigned i = cut->half; i < run->spans; i++)
        alive += born_in[i] > 0;
    bool stayed = alive >= SURVIVING_SPANS && survived + 2.0 * survived_error >= 0.25 * g.rise;
    g.growing = rose && still && stayed;
    return g;
}

static struct hk_growth judge_levels(const struct hk_growth_run *run,
                                     const struct hk_growth_cut *cut, double mean,
                                     const uint64_t *at_mark)
{
    struct hk_growth g;
    unsigned end = run->spans - 1;
    double now = (double)at_mark[end] * KIB, half = (double)at_mark[cut->half - 1] * KIB;
    double quarter = (double)at_mark[cut->quarter - 1] * KIB;
    double deepest = 0;

    g.rise = now - half;
    g.error = sqrt(mean * fmax(g.rise, 0.0));
    g.growing = false;
    if (g.rise < run->least) /* nearly all: there may be hundreds of thousands */
        return g;
    for (unsigned i = 1; i <= end; i++)
        deepest = fmax(deepest, ((double)at_mark[i - 1] - (double)at_mark[i]) * KIB);
    bool rose = g.rise > SIGNIFICANT * g.error && g.rise >= run->least &&
                g.rise > 2.5 * sqrt(mean * (now + half)) && g.rise > half / 3.0;
    double share = cut->share * cut->pace, last = now - quarter, before = quarter - half;
    bool still =
        last > 0 && last + 0.5 * sqrt(mean * (fmax(last, 0) + share * share * fmax(before, 0))) >=
                        share * before;
    bool steady = deepest <= fmax(1.01 * mean, 0.1 * g.rise);
    g.growing = rose && still && steady;
    return g;
}

bool hk_growth_fell(const uint64_t *times, const uint64_t *live, size_t count)
{
    size_t last_high = 0;
    uint64_t most = 0;
    if (count < 3)
        return false;
    uint64_t end = times[count - 1];
    uint64_t window = end / 20 > 250000000u ? end / 20 : 250000000u;
    for (size_t i = 0; i < count; i++) {
        if (end - times[i] <= 2 * window && live[i] > most)
            most = live[i];
    }
    for (size_t i = 0; i < count; i++) {
        if ((double)live[i] >= 0.6 * (double)most)
            last_high = i;
    }
    return last_high + 1 < count && end - times[last_high] <= window;
}

static struct hk_growth judge_one(const struct hk_growth_run *run, unsigned clock, double mean,
                                  const uint64_t *at_mark, const uint64_t *born_in)
{
    const struct hk_growth_cut *cut = &run->cuts[clock];
    return run->by_levels || run->births_unknown ? judge_levels(run, cut, mean, at_mark)
                          : judge_by(run, cut, mean, at_mark, born_in);
}

struct hk_growth hk_growth_judge(const struct hk_growth_run *run, double mean,
                                 const uint64_t *at_mark, const uint64_t *born_in)
{
    struct hk_growth none = {false, 0.0, 0.0};
    if (!run->usable)
        return none;
    struct hk_growth by_time = judge_one(run, 0, mean, at_mark, born_in);
    struct hk_growth by_bytes = judge_one(run, 1, mean, at_mark, born_in);
    struct hk_growth result = by_time.rise <= by_bytes.rise ? by_time : by_bytes;
    result.growing = by_time.growing && by_bytes.growing;
    return result;
}
