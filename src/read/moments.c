/* See moments.h. at_mark[i] is what lived at the end of span i, which is where span i + 1 begins; at_mark of the last span is
 * brought up to date with the end.
 *
 * A sampled rise from a mark to the end is judged as growth.h has it: what lived through both was sampled once and cancels.
 * Between two marks only those are known to have lived through both that live to the end, so the variance is too large rather
 * than too small.
 */
#include "read/moments.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define KIB 1024.0

size_t hk_moments(const struct hk_capture *c, struct hk_moment moments[HK_MOMENTS_MAX])
{
    size_t count = 0;
    moments[count++] = (struct hk_moment){.kind = HK_MOMENT_START};
    for (unsigned i = 1; i < c->mark_count && i < HK_MARKS; i++)
        moments[count++] = (struct hk_moment){HK_MOMENT_MARK, i - 1, c->marks[i].time_ns, c->marks[i].allocated_bytes};
    uint64_t end = c->has_now ? c->now.time_ns : c->duration_ns;
    moments[count++] = (struct hk_moment){HK_MOMENT_END, HK_MARKS - 1, end, c->now.allocated_bytes};
    return count;
}

/* Nanoseconds in "2.5s", "@2.5", "300ms", "5min", "1h"; false: it is none. */
static bool parse_time(const char *word, double *ns)
{
    static const struct {
        const char *word;
        double ns;
    } units[] = {{"", 1e9}, {"s", 1e9}, {"ms", 1e6}, {"min", 60e9}, {"m", 60e9}, {"h", 3600e9}};
    bool at = *word == '@';
    char *end;
    word += at;
    double value = strtod(word, &end);
    if (end == word || !((*word >= '0' && *word <= '9') || *word == '.') || (!at && !*end))
        return false;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(end, units[i].word) == 0) {
            *ns = value * units[i].ns;
            return isfinite(*ns);
        }
    }
    return false;
}

static bool parse_share(const char *word, double *share)
{
    char *end;
    *share = strtod(word, &end) / 100.0;
    return end != word && strcmp(end, "%") == 0 && *share >= 0 && *share <= 1;
}

bool hk_moment_find(const struct hk_capture *c, const char *word, struct hk_moment *moment, struct hk_error *error)
{
    struct hk_moment all[HK_MOMENTS_MAX];
    size_t count = hk_moments(c, all), best = 0;
    double end = (double)all[count - 1].time_ns, wanted = 0, share;
    if (strcmp(word, "end") == 0) {
        *moment = all[count - 1];
        return true;
    }
    if (parse_share(word, &share)) {
        wanted = share * end;
    } else if (strcmp(word, "start") != 0 && !parse_time(word, &wanted)) {
        hk_error_set(error,
                     "\"%s\" is no moment of a run; write start, end, a share of its time (30%%), or a time since its start "
                     "(@2.5, 2.5s, 300ms, 5min, 1h)",
                     word);
        return false;
    }
    wanted = fmin(wanted, end); /* or no moment would be nearer than another */
    for (size_t i = 1; i < count; i++)
        if (fabs((double)all[i].time_ns - wanted) < fabs((double)all[best].time_ns - wanted))
            best = i;
    *moment = all[best];
    return true;
}

uint64_t hk_live_at(uint64_t live_bytes, const uint64_t at_mark[HK_MARKS], const struct hk_moment *m)
{
    return m->kind == HK_MOMENT_END ? live_bytes : m->kind == HK_MOMENT_START ? 0 : at_mark[m->span] << 10;
}

void hk_live_between(uint64_t live_bytes, const uint64_t at_mark[HK_MARKS], unsigned spans, const struct hk_moment *from,
                     const struct hk_moment *to, uint64_t *before, uint64_t *after)
{
    if (spans && (from->kind == HK_MOMENT_MARK || to->kind == HK_MOMENT_MARK))
        live_bytes = at_mark[spans - 1] << 10;
    *before = hk_live_at(live_bytes, at_mark, from);
    *after = hk_live_at(live_bytes, at_mark, to);
}

static double sum(const uint64_t *kib, unsigned from, unsigned to)
{
    double total = 0;
    for (unsigned i = from; i < to; i++)
        total += (double)kib[i] * KIB;
    return total;
}

double hk_variance_between(double mean, const uint64_t at_mark[HK_MARKS], const uint64_t born_in[HK_MARKS], unsigned spans,
                           const struct hk_moment *from, const struct hk_moment *to)
{
    const struct hk_moment *early = from, *late = to;
    if (from->kind == to->kind && from->span == to->span)
        return 0;
    if (from->time_ns > to->time_ns) {
        early = to;
        late = from;
    }
    double then = early->kind == HK_MOMENT_MARK ? (double)at_mark[early->span] * KIB : 0;
    double stayed = early->kind == HK_MOMENT_MARK ? sum(born_in, 0, early->span + 1) : 0;
    double now = late->kind == HK_MOMENT_MARK ? (double)at_mark[late->span] * KIB
                 : spans                      ? (double)at_mark[spans - 1] * KIB
                                              : 0;
    return mean * (fmax(0, then - stayed) + fmax(0, now - stayed));
}
