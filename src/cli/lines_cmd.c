/* heapkeeper lines: finds the file that is meant among those of the capture, and shows its lines. */
#include "cli/cli.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"
#include "read/groups.h"
#include "view/lines.h"

#define NAMED 6 /* candidates that an error names */

struct options {
    bool json, all;
    size_t context;
    const char *colour, *file, *target;
};

static int parse(int argc, char **argv, struct options *o)
{
    const struct hk_option options[] = {
        HK_FLAG("json", 'j', &o->json),
        HK_FLAG("all", 'a', &o->all),
        HK_VALUE("context", 'C', &o->context, hk_cli_number, "needs a number of lines"),
        HK_COLOUR(&o->colour),
        HK_NO_OPTION,
    };
    int status = hk_cli_options(argc, argv, options);
    if (status)
        return status;
    if (argc - optind < 1)
        return hk_cli_fail(HK_EXIT_USAGE, "lines: needs a source file of the program's, or the end of its path: shop.py, web/views.py");
    if (argc - optind > 2)
        return hk_cli_fail(HK_EXIT_USAGE, "lines: one file and one capture at a time, not \"%s\" too", argv[optind + 2]);
    for (int i = optind; i < argc; i++)
        if (!*argv[i])
            return hk_cli_fail(HK_EXIT_USAGE, "lines: the name of the %s is empty", i == optind ? "source file" : "capture or process");
    o->file = argv[optind];
    o->target = argv[optind + 1]; /* NULL if there is none */
    return 0;
}

/* "a.py, b.py and 3 others" */
static const char *list_of(const char *const *paths, size_t count, char *to, size_t size)
{
    size_t at = 0;
    to[0] = 0;
    for (size_t i = 0; i < count && i < NAMED; i++) {
        int put = snprintf(to + at, size - at, "%s%s", i ? ", " : "", paths[i]);
        if (put < 0 || at + (size_t)put >= size)
            break;
        at += (size_t)put;
    }
    if (count > NAMED)
        snprintf(to + at, size - at, " and %zu others", count - NAMED);
    return to;
}

static const struct hk_groups *sorting;

static int by_total(const void *a, const void *b)
{
    const struct hk_group *x = &sorting->groups[*(const size_t *)a], *y = &sorting->groups[*(const size_t *)b];
    if (x->amounts.total_bytes != y->amounts.total_bytes)
        return x->amounts.total_bytes > y->amounts.total_bytes ? -1 : 1;
    return strcmp(x->frame.file, y->frame.file);
}

static int fail_none(const struct options *o, const struct hk_sites *sites)
{
    struct hk_groups *groups = hk_groups_make(sites, HK_BY_FILE);
    size_t *order = hk_must_calloc(groups->count, sizeof *order), count = 0;
    const char **paths = hk_must_calloc(groups->count, sizeof *paths);
    char list[1200];
    for (size_t i = 0; i < groups->count; i++)
        if (*groups->groups[i].frame.file)
            order[count++] = i;
    sorting = groups;
    qsort(order, count, sizeof *order, by_total);
    for (size_t i = 0; i < count; i++)
        paths[i] = groups->groups[order[i]].frame.file;
    int status = count ? hk_cli_fail(HK_EXIT_FAILURE, "lines: no code of \"%s\" was recorded; there is %s", o->file,
                                     list_of(paths, count, list, sizeof list))
                       : hk_cli_fail(HK_EXIT_FAILURE, "lines: no code of \"%s\" was recorded, nor of any other file", o->file);
    free(order);
    free(paths);
    hk_groups_free(groups);
    return status;
}

/* The one path that is meant; NULL: a line on stderr has said why. */
static const char *choose(const struct options *o, const struct hk_sites *sites, int *status)
{
    const char **paths, *found = NULL;
    char list[1200];
    size_t count = hk_source_find(sites, o->file, &paths);
    if (count == 1) {
        found = paths[0];
    } else if (count > 1) {
        *status = hk_cli_fail(HK_EXIT_USAGE, "lines: \"%s\" may be %s; write more of the path", o->file,
                              list_of(paths, count, list, sizeof list));
    } else {
        *status = fail_none(o, sites);
    }
    free(paths);
    return found;
}

int hk_cli_lines(int argc, char **argv)
{
    struct options o = {.context = 2};
    struct hk_terminal terminal;
    int status = parse(argc, argv, &o);
    if (status)
        return status;
    struct hk_capture *capture = hk_cli_open(o.target);
    if (!capture)
        return HK_EXIT_FAILURE;
    struct hk_sites *sites = hk_sites_read(capture);
    struct hk_lines_view view = {capture, sites, choose(&o, sites, &status), o.all, o.context};
    hk_cli_terminal(&terminal, o.colour);
    if (view.file && o.json)
        hk_lines_json(&view, stdout);
    else if (view.file)
        hk_lines_text(&view, &terminal);
    hk_sites_free(sites);
    hk_capture_close(capture);
    return view.file ? hk_cli_written("source") : status;
}
