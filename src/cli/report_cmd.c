/* heapkeeper report: finds the capture, reads it, shows it or writes it as a page. */
#include "cli/cli.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/options.h"
#include "cli/output.h"
#include "read/attach.h"
#include "view/report_html.h"

#define PROCESSES_JUDGED 16 /* those with the largest peaks */

struct options {
    bool json, html, force;
    size_t top;
    long pid; /* 0: the main process */
    const char *colour;
    const char *output;
    const char *file; /* NULL: the newest run */
};

static bool parse_pid(const char *text, void *to)
{
    size_t pid;
    bool good = hk_cli_count(text, &pid) && pid <= INT_MAX;
    *(long *)to = good ? (long)pid : 0;
    return good;
}

static int parse(int argc, char **argv, struct options *o)
{
    const struct hk_option options[] = {
        HK_FLAG("json", 'j', &o->json),
        HK_FLAG("html", 0, &o->html),
        HK_VALUE("pid", 'p', &o->pid, parse_pid, "needs a process id"),
        HK_VALUE("top", 'n', &o->top, hk_cli_count, "needs a number"),
        HK_FILE("output", 'o', &o->output),
        HK_FLAG("force", 'f', &o->force),
        HK_COLOUR(&o->colour),
        HK_NO_OPTION,
    };
    int status = hk_cli_options(argc, argv, options);
    if (status)
        return status;
    if (o->json && o->html)
        return hk_cli_fail(HK_EXIT_USAGE, "report: one of --json and --html, not both");
    return hk_cli_target(argc, argv, "capture or process", &o->file);
}

/* Which process of the run to show: the one named by --pid, the file named, or the main one; that also if the file named is
 * empty. The path is borrowed from `family` or `path`; NULL: no such pid. */
static const char *choose(const struct hk_family *family, const struct options *o, const char *path)
{
    const char *found = NULL;
    if (o->pid) {
        for (size_t i = 0; i < family->count; i++) { /* the last of its captures, if it exec'd */
            if (family->processes[i].pid == (uint32_t)o->pid)
                found = family->processes[i].path;
        }
        return found;
    }
    struct stat st;
    bool named = o->file && !(stat(path, &st) == 0 && st.st_size == 0);
    return named || family->count == 0 ? path : family->processes[hk_family_main(family)].path;
}

static void write_html(const struct hk_report *report, FILE *out)
{
    struct hk_call_tree *tree = hk_call_tree_make(report->sites);
    hk_report_html(report, tree, out);
    hk_call_tree_free(tree);
}

static int show(const struct options *o, struct hk_capture *capture, const struct hk_family *family)
{
    struct hk_terminal terminal;
    struct hk_output output;
    char name[HK_OUTPUT_NAME];
    const char *path = o->output ? o->output : o->html ? hk_output_name(name, capture, "report.html") : NULL;
    const struct hk_process *process = hk_family_member(family, capture);
    if (process)
        capture->life = process->life; /* what became of it, as its later captures tell */
    if (!hk_output_open(&output, path, o->force, capture))
        return HK_EXIT_FAILURE;
    struct hk_sites *sites = hk_sites_read(capture);
    struct hk_report report = {capture, sites, family, (unsigned)o->top};

    hk_terminal_for(&terminal, output.file);
    if (o->colour && strcmp(o->colour, "auto") != 0)
        terminal.colour = strcmp(o->colour, "always") == 0;
    if (o->json)
        hk_report_json(&report, output.file);
    else if (o->html)
        write_html(&report, output.file);
    else
        hk_report_text(&report, &terminal);
    hk_sites_free(sites);
    bool to_file = output.path != NULL;
    int status = hk_output_close(&output, "the report");
    return !status && to_file && o->html ? hk_output_say(path) : status;
}

int hk_cli_report(int argc, char **argv)
{
    struct options o = {.top = 10};
    struct hk_error error;
    int status = parse(argc, argv, &o);
    if (status)
        return status;

    int pid = hk_cli_pid(o.file);
    struct hk_capture *capture = pid ? hk_capture_of_process(pid, HK_OPEN_WHOLE, &error) : NULL;
    char *path = capture ? hk_must_strdup(capture->path) : pid ? NULL : o.file ? hk_must_strdup(o.file) : hk_find_newest(&error);
    if (!path)
        return hk_cli_fail(HK_EXIT_FAILURE, "%s", error.text);
    struct hk_family *family = hk_family_find(path);
    if (family->count > 1)
        hk_family_judge(family, PROCESSES_JUDGED);
    const char *chosen = choose(family, &o, path);
    if (!pid || o.pid) { /* the process named is not the one, or there is a file to read */
        hk_capture_close(capture);
        capture = chosen ? hk_capture_open(chosen, HK_OPEN_WHOLE, &error) : NULL;
    }
    if (!chosen)
        status = hk_cli_fail(HK_EXIT_FAILURE, "no process %ld in the run of %s", o.pid, path);
    else if (!capture)
        status = hk_cli_fail(HK_EXIT_FAILURE, "%s", error.text);
    else if (capture->life == HK_LIFE_EMPTY)
        status = hk_cli_fail(
            HK_EXIT_FAILURE,
            "%s: nothing recorded: the library was not loaded into the program "
            "(static, set-uid, another architecture, not Python, or it has not got that far)",
            chosen);
    else
        status = show(&o, capture, family);
    hk_capture_close(capture);
    hk_family_free(family);
    free(path);
    return status;
}
