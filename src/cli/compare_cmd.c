/* heapkeeper compare: runs two programs in turn, without recording for their time and with it for their memory.
 *
 *      for each run    A, B, A recorded, B recorded    (the next run: B before A)
 *      then            medians; the captures of the runs in the middle side by side
 *
 * Captures lie in a directory of our own while it works. What the programs write on standard output is dropped. A program that
 * fails ends the comparison: figures of a program that did not do its work mean nothing.
 */
#include "cli/cli.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/options.h"
#include "cli/target.h"
#include "view/compare.h"

#define RUNS 5
#define ROWS 10

struct options {
    bool json;
    int by;
    size_t runs, limit;
    const char *colour, *python, *sample;
    char **words[2]; /* NULL-terminated */
};

static const char *const by_words[] = {"line", "function", "file", "module", "domain", "size", NULL};

/* ---- the command line ---- */

/* How many words a program without arguments has. */
static int length_of(const char *word)
{
    return strcmp(word, "-c") == 0 || strcmp(word, "-m") == 0 ? 2 : 1;
}

/* "A B", each one word, -c CODE or -m MODULE; or the words of A, --, and those of B. */
static int split(struct options *o, char **words, int count)
{
    int between = 0;
    while (between < count && strcmp(words[between], "--") != 0)
        between++;
    bool marked = between < count;
    if (marked && (between == 0 || between == count - 1))
        return hk_cli_fail(HK_EXIT_USAGE, "compare: there is no program %s \"--\"", between ? "behind" : "before");
    int a = marked ? between : count ? length_of(words[0]) : 0, b = a + marked;
    if (!marked && (a >= count || b + length_of(words[b]) != count))
        return hk_cli_fail(HK_EXIT_USAGE, "compare: needs two programs, each a script, -c CODE or -m MODULE; with arguments, A ... -- B ...");
    for (int k = 0; k < 2; k++)
        o->words[k] = hk_must_calloc((size_t)count + 1, sizeof(char *));
    memcpy(o->words[0], words, (size_t)a * sizeof *words);
    memcpy(o->words[1], words + b, (size_t)(count - b) * sizeof *words);
    for (int k = 0; k < 2; k++) {
        if (!*o->words[k][0])
            return hk_cli_fail(HK_EXIT_USAGE, "compare: the name of program %c is empty", "AB"[k]);
        const char *missing = hk_target_lacks(o->words[k]);
        if (missing)
            return hk_cli_fail(HK_EXIT_USAGE, "compare: %s needs %s", o->words[k][0], missing);
    }
    return 0;
}

static bool parse_runs(const char *text, void *runs)
{
    return hk_cli_count(text, runs) && *(size_t *)runs <= 1000;
}

static int parse(int argc, char **argv, struct options *o)
{
    const struct hk_option options[] = {
        HK_FLAG("json", 'j', &o->json),
        HK_WORD("by", &o->by, by_words),
        HK_VALUE("runs", 'r', &o->runs, parse_runs, "is 1 to 1000"),
        HK_VALUE("limit", 'n', &o->limit, hk_cli_number, "needs a number of rows"),
        HK_MAYBE("sample", &o->sample),
        HK_TEXT("python", 0, &o->python),
        HK_COLOUR(&o->colour),
        HK_STOP_AT_WORD,
    };
    int status = hk_cli_options(argc, argv, options);
    uint64_t unused;
    if (status)
        return status;
    if (o->sample && *o->sample && !hk_cli_bytes(o->sample, &unused))
        return hk_cli_fail(HK_EXIT_USAGE, "compare: --sample=%s is no number of bytes; write 64K, 1M or 524288", o->sample);
    if (optind < argc && optind > 1 && strcmp(argv[optind - 1], "--") == 0)
        optind--; /* it stands before nothing: said below */
    return split(o, argv + optind, argc - optind);
}

/* ---- running ---- */

static volatile sig_atomic_t interrupted;

static void note(int number)
{
    interrupted = number;
}

/* In the child. */
static void become(const struct options *o, char **words, const char *capture)
{
    struct hk_error error;
    struct hk_target target;
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (nothing >= 0) {
        dup2(nothing, STDIN_FILENO);
        dup2(nothing, STDOUT_FILENO);
    }
    if (!capture) {
        if (hk_target_find(&target, words, o->python, &error)) {
            execv(target.path, target.argv);
            hk_error_set(&error, "%s: cannot be started: %s", target.path, strerror(errno));
        }
        _exit(hk_cli_fail(127, "%s", error.text));
    }
    size_t count = 0, at = 0;
    while (words[count])
        count++;
    char **argv = hk_must_calloc(count + 8, sizeof *argv), sample[64];
    snprintf(sample, sizeof sample, "--sample%s%s", o->sample && *o->sample ? "=" : "", o->sample ? o->sample : "");
    argv[at++] = hk_must_strdup("run");
    argv[at++] = hk_must_strdup("--quiet");
    if (o->sample)
        argv[at++] = sample;
    argv[at++] = hk_must_strdup("-o");
    argv[at++] = hk_must_strdup(capture);
    if (o->python) {
        argv[at++] = hk_must_strdup("--python");
        argv[at++] = hk_must_strdup(o->python);
    }
    for (size_t i = 0; i < count; i++)
        argv[at++] = words[i];
    optind = 0; /* getopt begins anew */
    _exit(hk_cli_run((int)at, argv));
}

/* Runs it once. False: it failed, and a line has said so. */
static bool run(const struct options *o, int which, const char *capture, double *time_ns, double *rss)
{
    struct timespec start, end;
    struct rusage usage;
    int status = 0;
    fflush(stdout);
    clock_gettime(CLOCK_MONOTONIC, &start);
    pid_t child = fork();
    if (child == 0)
        become(o, o->words[which], capture);
    if (child < 0) {
        hk_cli_fail(HK_EXIT_FAILURE, "compare: no process could be made: %s", strerror(errno));
        return false;
    }
    while (wait4(child, &status, 0, &usage) < 0 && errno == EINTR)
        if (interrupted)
            kill(child, interrupted);
    clock_gettime(CLOCK_MONOTONIC, &end);
    *time_ns = (double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec);
    *rss = (double)usage.ru_maxrss * 1024;
    if (interrupted)
        return false;
    const char *when = capture ? ", while it was recorded" : "", *word = o->words[which][0];
    bool module = strcmp(word, "-m") == 0;
    const char *name = module ? o->words[which][1] : "";
    if (WIFSIGNALED(status))
        hk_cli_fail(HK_EXIT_FAILURE, "compare: %c (%s%s%s) was ended by signal %d%s", "AB"[which], word, module ? " " : "", name, WTERMSIG(status), when);
    else if (WEXITSTATUS(status) != 0)
        hk_cli_fail(HK_EXIT_FAILURE, "compare: %c (%s%s%s) ended with status %d%s", "AB"[which], word, module ? " " : "", name, WEXITSTATUS(status), when);
    return status == 0;
}

static char *capture_path(const char *directory, int which, size_t number)
{
    char *path = NULL;
    return asprintf(&path, "%s/%c-%zu", directory, "ab"[which], number) < 0 ? hk_must_strdup("") : path;
}

/* Fills in what the capture of one run says. */
static void read_figures(struct hk_compared *c, size_t number, const char *path)
{
    struct hk_error error;
    struct hk_capture *capture = hk_capture_open(path, HK_OPEN_WHOLE, &error);
    struct hk_sites *sites = capture && capture->life != HK_LIFE_EMPTY ? hk_sites_read(capture) : NULL;
    double blocks = 0;
    for (size_t i = 0; sites && i < sites->site_count; i++)
        blocks += (double)sites->sites[i].total_blocks;
    c->values[HK_MEASURE_PEAK][number] = sites ? (double)sites->peak_bytes : 0;
    c->values[HK_MEASURE_ALLOCATED][number] = sites ? (double)sites->total_bytes : 0;
    c->values[HK_MEASURE_BLOCKS][number] = blocks;
    hk_sites_free(sites);
    hk_capture_close(capture);
}

static bool run_all(const struct options *o, struct hk_compared both[2], const char *directory)
{
    double unused;
    for (size_t number = 0; number < o->runs; number++) {
        for (int turn = 0; turn < 4; turn++) {
            int which = (turn + (int)number) % 2;
            double *time = &both[which].values[HK_MEASURE_TIME][number], *rss = &both[which].values[HK_MEASURE_RSS][number];
            char *path = turn >= 2 ? capture_path(directory, which, number) : NULL;
            bool good = run(o, which, path, path ? &unused : time, path ? &unused : rss);
            if (good && path)
                read_figures(&both[which], number, path);
            free(path);
            if (!good)
                return false;
        }
    }
    return true;
}

/* ---- showing ---- */

static char *words_text(char **words)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    for (size_t i = 0; out && words[i]; i++)
        fprintf(out, "%s%s", i ? " " : "", words[i]);
    if (out)
        fclose(out);
    return text ? text : hk_must_strdup("");
}

static int show(const struct options *o, const struct hk_compared both[2], const char *directory)
{
    struct hk_compare_view view = {&both[0], &both[1], o->runs, NULL};
    struct hk_capture *captures[2] = {NULL, NULL};
    struct hk_sites *sites[2] = {NULL, NULL};
    struct hk_groups *groups[2] = {NULL, NULL};
    struct hk_terminal terminal;
    struct hk_error error;
    for (int k = 0; k < 2; k++) {
        size_t middle;
        hk_median(both[k].values[HK_MEASURE_ALLOCATED], o->runs, &middle);
        char *path = capture_path(directory, k, middle);
        captures[k] = hk_capture_open(path, HK_OPEN_WHOLE, &error);
        if (captures[k] && captures[k]->life != HK_LIFE_EMPTY) {
            sites[k] = hk_sites_read(captures[k]);
            groups[k] = hk_groups_make(sites[k], (enum hk_group_by)o->by);
        }
        free(path);
    }
    struct hk_diff *diff = groups[0] && groups[1] ? hk_diff_captures(sites[0], groups[0], sites[1], groups[1]) : NULL;
    struct hk_diff_view rows = {.before = captures[0], .after = captures[1], .diff = diff, .by = (enum hk_group_by)o->by,
                                .sort = HK_SORT_TOTAL, .limit = o->limit};
    if (diff)
        view.diff = &rows;
    hk_cli_terminal(&terminal, o->colour);
    if (o->json)
        hk_compare_json(&view, stdout);
    else
        hk_compare_text(&view, &terminal);
    hk_diff_free(diff);
    for (int k = 0; k < 2; k++) {
        hk_groups_free(groups[k]);
        hk_sites_free(sites[k]);
        hk_capture_close(captures[k]);
    }
    return hk_cli_written("comparison");
}

static void remove_directory(const char *directory)
{
    DIR *entries = opendir(directory);
    for (struct dirent *entry; entries && (entry = readdir(entries));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlinkat(dirfd(entries), entry->d_name, 0);
    if (entries)
        closedir(entries);
    rmdir(directory);
}

static int compare(const struct options *o)
{
    struct hk_compared both[2];
    const char *place = getenv("TMPDIR");
    char *directory = NULL;
    if (asprintf(&directory, "%s/heapkeeper-compare-XXXXXX", place && *place ? place : "/tmp") < 0 || !mkdtemp(directory)) {
        int status = hk_cli_fail(HK_EXIT_FAILURE, "compare: no directory could be made for its captures (%s): %s",
                                 directory ? directory : "", strerror(errno));
        free(directory);
        return status;
    }
    struct sigaction action = {.sa_handler = note};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    for (int k = 0; k < 2; k++) {
        both[k].name = words_text(o->words[k]);
        for (int m = 0; m < HK_MEASURES; m++)
            both[k].values[m] = hk_must_calloc(o->runs, sizeof(double));
    }
    int status = run_all(o, both, directory) ? show(o, both, directory) : HK_EXIT_FAILURE;
    remove_directory(directory);
    free(directory);
    for (int k = 0; k < 2; k++) {
        free(both[k].name);
        for (int m = 0; m < HK_MEASURES; m++)
            free(both[k].values[m]);
    }
    if (interrupted) {
        signal(interrupted, SIG_DFL);
        raise(interrupted);
    }
    return status;
}

int hk_cli_compare(int argc, char **argv)
{
    struct options o = {.runs = RUNS, .limit = ROWS};
    struct hk_target target;
    struct hk_error error;
    int status = parse(argc, argv, &o);
    for (int k = 0; k < 2 && status == 0; k++) {
        if (hk_target_find(&target, o.words[k], o.python, &error))
            hk_target_free(&target);
        else
            status = hk_cli_fail(HK_EXIT_FAILURE, "%s", error.text);
    }
    if (status == 0)
        status = compare(&o);
    free(o.words[0]);
    free(o.words[1]);
    return status;
}
