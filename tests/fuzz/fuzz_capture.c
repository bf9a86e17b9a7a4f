/* Feeds bytes to the capture reader, both reports, the tables, the exports and the other views, as if they were a file.
 *
 * With clang's libFuzzer (`make FUZZ=1`) the bytes are invented; compiled without it, this is a
 * plain program that replays the files and directories it is given, so that the corpus is a
 * regression test everywhere.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "view/diff.h"
#include "view/export.h"
#include "view/lines.h"
#include "view/flame.h"
#include "view/plot.h"
#include "view/report_html.h"
#include "view/table.h"
#include "view/tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static FILE *sink;

static void show_diffs(const struct hk_capture *capture, const struct hk_sites *sites, const struct hk_terminal *t)
{
    struct hk_moment moments[HK_MOMENTS_MAX];
    size_t count = hk_moments(capture, moments);
    struct hk_groups *groups = hk_groups_make(sites, HK_BY_FUNCTION);
    struct hk_diff_view view = {.before = capture, .after = capture, .by = HK_BY_FUNCTION, .limit = 3};
    for (size_t i = 0; i < count; i++) {
        struct hk_diff *diff = hk_diff_moments(sites, groups, &moments[i], &moments[count - 1]);
        view.from = &moments[i];
        view.to = &moments[count - 1];
        view.diff = diff;
        hk_diff_text(&view, t);
        hk_diff_json(&view, sink);
        hk_diff_free(diff);
    }
    struct hk_diff *diff = hk_diff_captures(sites, groups, sites, groups);
    view = (struct hk_diff_view){.before = capture, .after = capture, .diff = diff, .by = HK_BY_FUNCTION, .filter = "*a?"};
    hk_diff_text(&view, t);
    hk_diff_json(&view, sink);
    hk_diff_free(diff);
    hk_groups_free(groups);
}

static void show_lines(const struct hk_capture *capture, const struct hk_sites *sites, const struct hk_terminal *t)
{
    const char **paths;
    size_t count = hk_source_all(sites, &paths);
    for (size_t i = 0; i < count && i < 3; i++) {
        struct hk_lines_view view = {capture, sites, paths[i], i == 1, 2};
        hk_lines_text(&view, t);
        hk_lines_json(&view, sink);
    }
    free(paths);
}

static void show_plots(struct hk_capture *capture, const struct hk_terminal *t)
{
    static const struct hk_family family = {.folded = 3, .folded_heaviest = "a child"};
    struct hk_capture *two[] = {capture, capture};
    struct hk_plot plot;
    hk_plot_of(&plot, capture);
    hk_plot_text(&plot, t, 7);
    hk_plot_svg(&plot, sink);
    hk_plot_json(&plot, sink);
    hk_plot_free(&plot);
    hk_plot_of_run(&plot, two, 2, &family);
    hk_plot_text(&plot, t, 7);
    hk_plot_svg(&plot, sink);
    hk_plot_free(&plot);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hk_error error;
    struct hk_capture *capture = hk_capture_from_memory(data, size, "fuzz", &error);

    if (!sink)
        sink = fopen("/dev/null", "w");
    if (!capture || !sink)
        return 0;
    struct hk_sites *sites = hk_sites_read(capture);
    struct hk_report report = {capture, sites, NULL, 10};
    struct hk_terminal wide = {sink, true, true, 0}, narrow = {sink, false, false, 60};
    hk_report_text(&report, &wide);
    hk_report_text(&report, &narrow);
    hk_report_json(&report, sink);
    for (int by = 0; by < HK_GROUP_CHOICES; by++) {
        struct hk_table_view table = {capture, sites, (enum hk_group_by)by, (enum hk_sort)(by % HK_SORT_CHOICES), "*a?", 3};
        hk_table_text(&table, &wide);
        hk_table_text(&table, &narrow);
        hk_table_json(&table, sink);
    }
    for (int format = 0; format < HK_EXPORT_FORMATS; format++)
        hk_export(capture, sites, (enum hk_export_format)format, HK_EXPORT_TOTAL, sink);
    show_diffs(capture, sites, &narrow);
    show_lines(capture, sites, &narrow);
    struct hk_call_tree *tree = hk_call_tree_compare(sites, sites);
    struct hk_flame flame = {capture, sites, tree, capture};
    hk_flame_html(&flame, sink);
    hk_flame_json(&flame, sink);
    for (int inverted = 0; inverted < 2; inverted++) {
        struct hk_tree_view view = {capture, tree, (enum hk_sort)(inverted * 2), inverted != 0, inverted ? 3 : 0, inverted ? 0 : 0.01};
        hk_tree_text(&view, inverted ? &narrow : &wide);
        hk_tree_json(&view, sink);
    }
    hk_report_html(&report, tree, sink);
    hk_call_tree_free(tree);
    show_plots(capture, &wide);
    hk_sites_free(sites);
    hk_capture_close(capture);
    return 0;
}

#include "replay.h"
