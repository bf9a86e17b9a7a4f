/* heapkeeper diff: two captures, or two moments of one, side by side. */
#include "cli/cli.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"
#include "view/diff.h"

#define ROWS 20 /* of a text, unless asked for more */

struct options {
    bool json;
    int by, sort;
    size_t limit;
    const char *filter, *colour, *from, *to, *targets[2];
};

static int parse(int argc, char **argv, struct options *o)
{
    const struct hk_option options[] = {
        HK_FLAG("json", 'j', &o->json),
        HK_WORD("by", &o->by, hk_group_words),
        HK_WORD("sort", &o->sort, hk_cli_sort_words),
        HK_TEXT("filter", 0, &o->filter),
        HK_VALUE("limit", 'n', &o->limit, hk_cli_number, "needs a number of rows"),
        HK_TEXT("from", 0, &o->from),
        HK_TEXT("to", 0, &o->to),
        HK_COLOUR(&o->colour),
        HK_NO_OPTION,
    };
    int status = hk_cli_options(argc, argv, options);
    if (status)
        return status;
    int words = argc - optind;
    bool moments = o->from || o->to;
    if (words > 2)
        return hk_cli_fail(HK_EXIT_USAGE, "diff: two captures at most, not \"%s\" too", argv[optind + 2]);
    if (words == 2 && moments)
        return hk_cli_fail(HK_EXIT_USAGE, "diff: --from and --to are moments of one capture; \"%s\" is a second one", argv[optind + 1]);
    if (words < 2 && !moments)
        return hk_cli_fail(HK_EXIT_USAGE, "diff: needs two captures, or one and its moments: --from 30%% --to end");
    if (moments && o->sort != HK_SORT_LIVE)
        return hk_cli_fail(HK_EXIT_USAGE, "diff: of a moment only what was live is known, not %s", hk_cli_sort_words[o->sort]);
    for (int i = optind; i < argc; i++)
        if (!*argv[i])
            return hk_cli_fail(HK_EXIT_USAGE, "diff: the name of a capture is empty");
    o->targets[0] = words > 0 ? argv[optind] : NULL;
    o->targets[1] = words > 1 ? argv[optind + 1] : NULL;
    return 0;
}

static int show(const struct options *o, struct hk_diff_view *v)
{
    struct hk_terminal terminal;
    hk_cli_terminal(&terminal, o->colour);
    if (o->json)
        hk_diff_json(v, stdout);
    else
        hk_diff_text(v, &terminal);
    return hk_cli_written("difference");
}

/* Its rows would be nothing but zeros. NULL: a line on stderr has said why. */
static struct hk_capture *open_recorded(const char *target)
{
    struct hk_capture *capture = hk_cli_open(target);
    if (!capture || capture->header.mode != HK_MODE_NONE)
        return capture;
    hk_cli_fail(HK_EXIT_FAILURE, "diff: %s has no record of who allocated what: it was run with --no-record", capture->path);
    hk_capture_close(capture);
    return NULL;
}

/* False: a line on stderr has said why. */
static bool has_rows(const struct hk_sites *sites, enum hk_group_by by)
{
    bool good = by != HK_BY_THREAD || hk_sites_have_threads(sites);
    if (!good)
        hk_cli_fail(HK_EXIT_FAILURE, "diff: %s does not tell threads apart; a record of every block does (run without --sample)",
                    sites->capture->path);
    return good;
}

static bool is_same_process(const struct hk_capture *a, const struct hk_capture *b)
{
    return a->header.pid == b->header.pid && a->header.start_ticks == b->header.start_ticks &&
           memcmp(a->header.boot_id, b->header.boot_id, sizeof a->header.boot_id) == 0;
}

static int show_captures(const struct options *o, struct hk_diff_view *v)
{
    struct hk_capture *before = open_recorded(o->targets[0]), *after = before ? open_recorded(o->targets[1]) : NULL;
    struct hk_sites *sites[] = {before ? hk_sites_read(before) : NULL, after ? hk_sites_read(after) : NULL};
    int status = HK_EXIT_FAILURE;
    if (after && has_rows(sites[0], v->by) && has_rows(sites[1], v->by)) {
        struct hk_groups *groups[] = {hk_groups_make(sites[0], v->by), hk_groups_make(sites[1], v->by)};
        for (int i = 0; i < 2 && v->by == HK_BY_THREAD && !is_same_process(before, after); i++)
            hk_diff_forget_numbers(groups[i]);
        struct hk_diff *diff = hk_diff_captures(sites[0], groups[0], sites[1], groups[1]);
        v->before = before;
        v->after = after;
        v->diff = diff;
        status = show(o, v);
        hk_diff_free(diff);
        for (int i = 0; i < 2; i++)
            hk_groups_free(groups[i]);
    }
    for (int i = 0; i < 2; i++)
        hk_sites_free(sites[i]);
    hk_capture_close(before);
    hk_capture_close(after);
    return status;
}

static int show_moments(const struct options *o, struct hk_diff_view *v)
{
    struct hk_moment from, to;
    struct hk_error error;
    struct hk_capture *capture = open_recorded(o->targets[0]);
    struct hk_sites *sites = capture ? hk_sites_read(capture) : NULL;
    int status = HK_EXIT_FAILURE;
    if (!capture || !has_rows(sites, v->by)) {
        /* said already */
    } else if (!hk_moment_find(capture, o->from ? o->from : "start", &from, &error) ||
        !hk_moment_find(capture, o->to ? o->to : "end", &to, &error)) {
        status = hk_cli_fail(HK_EXIT_USAGE, "diff: %s", error.text);
    } else if (from.time_ns > to.time_ns) {
        status = hk_cli_fail(HK_EXIT_USAGE, "diff: --from %s is later than --to %s", o->from, o->to ? o->to : "end");
    } else {
        struct hk_groups *groups = hk_groups_make(sites, v->by);
        struct hk_diff *diff = hk_diff_moments(sites, groups, &from, &to);
        v->before = v->after = capture;
        v->from = &from;
        v->to = &to;
        v->diff = diff;
        status = show(o, v);
        hk_diff_free(diff);
        hk_groups_free(groups);
    }
    hk_sites_free(sites);
    hk_capture_close(capture);
    return status;
}

int hk_cli_diff(int argc, char **argv)
{
    struct options o = {.limit = HK_NOT_GIVEN};
    int status = parse(argc, argv, &o);
    if (status)
        return status;
    struct hk_diff_view view = {.by = (enum hk_group_by)o.by,
                                .sort = (enum hk_sort)o.sort,
                                .filter = o.filter,
                                .limit = hk_cli_limit(o.limit, o.json, ROWS)};
    return o.from || o.to ? show_moments(&o, &view) : show_captures(&o, &view);
}
