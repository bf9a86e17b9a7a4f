/* heapkeeper run: sets the stage and execs.
 *
 *      1. what is to run?     target.c       refused here if it cannot be run
 *      2. where to record?    place.c        the file is made, empty, before anything starts
 *      3. what must it know?  environment.c
 *      4. exec                same pid, terminal, signals and exit status; nobody supervises
 *
 * On a terminal it says in one line where the record goes, and what it knows that stands in the
 * way. That --debug watches nothing in this program is said always: its silence would pass for a
 * clean bill of health.
 */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "capture/format.h"
#include "cli/environment.h"
#include "cli/options.h"
#include "cli/target.h"

#define TMPFS 0x01021994
#define SMALLEST_BOUND (1u << 20)
#define SMALLEST_DATA (20u << 20)
#define SMALLEST_DEBUG_DATA (192u << 20)

struct options {
    struct hk_settings settings;
    bool sample_given, exact_given, off_given, force, quiet;
    const char *output, *python;
};

enum { SAMPLE = 256, EXACT, NO_RECORD, PYTHON, NATIVE, NATIVE_STACKS, DEBUG, GEOMETRY, TRACEMALLOC, MEMORY_PROFILER, LINES, LINES_OUTPUT, RSS, BOUND, KEEP_CHILDREN, EXACT_LINES };

/* NAME or NAME,align=8 or NAME,align=16. The default geometry aligns to 16 and knows nothing else. */
static bool parse_geometry(const char *text, struct hk_settings *settings)
{
    size_t length = strcspn(text, ",");
    const char *rest = text + length;
    settings->guide = length == 5 && strncmp(text, "guide", length) == 0;
    settings->align16 = strcmp(rest, ",align=16") == 0;
    if (!settings->guide && (length != 7 || strncmp(text, "default", length) != 0))
        return false;
    return !*rest || settings->align16 || (settings->guide && strcmp(rest, ",align=8") == 0);
}

/* A further pattern, or none: then it is the main script's functions. */
static void add_lines(struct hk_settings *settings, const char *pattern)
{
    char *before = settings->lines;
    if (asprintf(&settings->lines, "%s%s%s", before ? before : "", before && *before && pattern && *pattern ? "," : "",
                 pattern ? pattern : "") < 0)
        abort();
    free(before);
}

/* The program may go elsewhere before it writes there. */
static int take_lines_output(struct hk_settings *settings, const char *path)
{
    char here[4096];
    if (!*path)
        return hk_cli_fail(HK_EXIT_USAGE, "run: --lines-output needs the name of a file");
    free(settings->lines_output);
    bool absolute = *path == '/' || strcmp(path, "-") == 0 || !getcwd(here, sizeof here);
    if (asprintf(&settings->lines_output, "%s%s%s", absolute ? "" : here, absolute ? "" : "/", path) < 0)
        abort();
    return 0;
}

/* As far as its directory tells. */
static bool may_be_made(const char *path)
{
    struct stat st;
    if (stat(path, &st) == 0) {
        errno = S_ISDIR(st.st_mode) ? EISDIR : errno;
        return !S_ISDIR(st.st_mode) && access(path, W_OK) == 0;
    }
    char *directory = strdup(path);
    if (!directory)
        abort();
    strrchr(directory, '/')[1] = '\0';
    bool may = access(directory, W_OK) == 0;
    free(directory);
    return may;
}

/* Where the table goes to. A device, a pipe and the program's own streams, which the Python half writes to, are there already. */
static int check_lines_output(const struct options *o)
{
    const char *path = o->settings.lines_output;
    struct stat st;
    if (strcmp(path, "-") == 0 || strcmp(path, "/dev/stdout") == 0 || strcmp(path, "/dev/stderr") == 0)
        return 0;
    if (!o->force && stat(path, &st) == 0 && S_ISREG(st.st_mode))
        return hk_cli_fail(HK_EXIT_USAGE, "run: --lines-output: %s exists already; --force writes over it", path);
    return may_be_made(path) ? 0 : hk_cli_fail(HK_EXIT_USAGE, "run: --lines-output: %s cannot be made: %s", path, strerror(errno));
}

static int take_option(int argc, char **argv, int option, struct options *o)
{
    switch (option) {
    case SAMPLE:
        o->sample_given = true;
        o->settings.mode = "sample";
        if (optarg && !hk_cli_bytes(optarg, &o->settings.sample_bytes))
            return hk_cli_fail(HK_EXIT_USAGE,
                               "run: --sample=%s is no number of bytes; write 64K, 1M or 524288",
                               optarg);
        return 0;
    case EXACT:
        o->exact_given = true;
        o->settings.mode = "exact";
        return 0;
    case TRACEMALLOC:
        o->exact_given = true;
        o->settings.tracemalloc = true;
        o->settings.mode = "exact";
        return 0;
    case BOUND:
        if (!hk_cli_bytes(optarg, &o->settings.bound) || o->settings.bound < SMALLEST_BOUND || o->settings.bound > HK_CAPTURE_LARGEST_BOUND)
            return hk_cli_fail(HK_EXIT_USAGE, "run: --bound=%s is not 1M to 512M, bytes of a capture at most", optarg);
        return 0;
    case MEMORY_PROFILER:
        o->settings.memory_profiler = true;
        return 0;
    case LINES:
        add_lines(&o->settings, optarg);
        return 0;
    case LINES_OUTPUT:
        return take_lines_output(&o->settings, optarg);
    case RSS:
        o->settings.lines_rss = true;
        return 0;
    case EXACT_LINES:
        o->settings.exact_lines = true;
        return 0;
    case KEEP_CHILDREN:
        o->settings.keep_children = true;
        return 0;
    case NATIVE:
        o->settings.native = true;
        return 0;
    case NATIVE_STACKS:
        o->settings.native_stacks = true;
        return 0;
    case GEOMETRY:
        if (!parse_geometry(optarg, &o->settings))
            return hk_cli_fail(HK_EXIT_USAGE,
                               "run: --geometry=%s is none; there are default, guide, and "
                               "guide,align=16 (blocks aligned to 16 bytes throughout)",
                               optarg);
        return 0;
    case DEBUG:
        o->settings.debug = true;
        return 0;
    case NO_RECORD:
        o->off_given = true;
        o->settings.mode = "none";
        return 0;
    case PYTHON:
        o->python = optarg;
        return 0;
    case 'o':
        o->output = optarg;
        if (!*optarg)
            return hk_cli_fail(HK_EXIT_USAGE, "run: -o needs the name of a file");
        return 0;
    case 'f':
        o->force = true;
        return 0;
    case 'q':
        o->quiet = true;
        return 0;
    default:
        return hk_cli_bad_option(argc, argv, option);
    }
}

static const char *exact_option(const struct options *o)
{
    return o->settings.tracemalloc ? "--tracemalloc" : "--exact";
}

/* Options end at the program. -m and -c are the program's, and stay where they are. */
static int parse(int argc, char **argv, struct options *o, int *program)
{
    static const struct option known[] = {
        {"sample", optional_argument, NULL, SAMPLE},
        {"exact", no_argument, NULL, EXACT},
        {"exact-lines", no_argument, NULL, EXACT_LINES},
        {"no-record", no_argument, NULL, NO_RECORD},
        {"output", required_argument, NULL, 'o'},
        {"force", no_argument, NULL, 'f'},
        {"quiet", no_argument, NULL, 'q'},
        {"python", required_argument, NULL, PYTHON},
        {"geometry", required_argument, NULL, GEOMETRY},
        {"debug", no_argument, NULL, DEBUG},
        {"tracemalloc", no_argument, NULL, TRACEMALLOC},
        {"memory-profiler", no_argument, NULL, MEMORY_PROFILER},
        {"lines", optional_argument, NULL, LINES},
        {"lines-output", required_argument, NULL, LINES_OUTPUT},
        {"rss", no_argument, NULL, RSS},
        {"keep-children", no_argument, NULL, KEEP_CHILDREN},
        {"bound", required_argument, NULL, BOUND},
        {"native", no_argument, NULL, NATIVE},
        {"native-stacks", no_argument, NULL, NATIVE_STACKS},
        {NULL, 0, NULL, 0},
    };
    opterr = 0;
    for (;;) {
        int at = optind;
        int option = getopt_long(argc, argv, "+:o:fqmc", known, NULL);
        if ((option == 'm' || option == 'c') && argv[at][0] == '-' && argv[at][1] == option) {
            *program = at;
            break;
        }
        if (option == -1) {
            *program = optind;
            break;
        }
        int status = take_option(argc, argv, option, o);
        if (status)
            return status;
    }
    if (o->sample_given && o->off_given)
        return hk_cli_fail(HK_EXIT_USAGE, "run: --sample and --no-record exclude each other");
    if (o->exact_given && (o->sample_given || o->off_given))
        return hk_cli_fail(HK_EXIT_USAGE, "run: %s and %s exclude each other", exact_option(o),
                           o->sample_given ? "--sample" : "--no-record");
    if (o->exact_given && o->settings.debug)
        return hk_cli_fail(HK_EXIT_USAGE, "run: %s and --debug exclude each other", exact_option(o));
    if (o->settings.debug && o->settings.native)
        return hk_cli_fail(HK_EXIT_USAGE, "run: --debug and --native exclude each other: malloc's blocks "
                                          "have no debug mode");
    if ((o->settings.lines_output || o->settings.lines_rss) && !o->settings.lines)
        add_lines(&o->settings, NULL);
    if (o->settings.lines && o->settings.debug)
        return hk_cli_fail(HK_EXIT_USAGE, "run: --lines and --debug exclude each other");
    if (o->settings.lines_output && check_lines_output(o) != 0)
        return HK_EXIT_USAGE;
    if (*program + 1 < argc && *program > 1 && strcmp(argv[*program - 1], "--lines") == 0 && access(argv[*program], F_OK) != 0 &&
        (strchr(argv[*program], '.') || strchr(argv[*program], '*')))
        return hk_cli_fail(HK_EXIT_USAGE, "run: write --lines=%s, in one word", argv[*program]);
    uint64_t unused;
    if (*program < argc && *program > 1 && strcmp(argv[*program - 1], "--sample") == 0 &&
        hk_cli_bytes(argv[*program], &unused))
        return hk_cli_fail(HK_EXIT_USAGE, "run: write --sample=%s, in one word", argv[*program]);
    if (*program >= argc)
        return hk_cli_fail(HK_EXIT_USAGE, "run: nothing to run; see \"heapkeeper help run\"");
    if (!*argv[*program])
        return hk_cli_fail(HK_EXIT_USAGE, "run: the name of the program is empty");
    const char *missing = hk_target_lacks(argv + *program);
    return missing ? hk_cli_fail(HK_EXIT_USAGE, "run: %s needs %s", argv[*program], missing) : 0;
}

/* Where nothing was asked for: every block, unless what was asked for goes with samples only. A program or a Python that
 * cannot be recorded so is sampled, too; the library finds that out. */
static void choose_mode(struct options *o)
{
    if (!o->sample_given && !o->off_given && !o->exact_given && o->settings.debug)
        o->settings.mode = "sample";
}

static bool in_container(void)
{
    const char *told = getenv("container");
    return access("/.dockerenv", F_OK) == 0 || access("/run/.containerenv", F_OK) == 0 ||
           (told && *told);
}

static bool is_memory(const char *path)
{
    struct statfs fs;
    return statfs(path, &fs) == 0 && fs.f_type == TMPFS;
}

/* Only a person at a terminal is told. */
static void announce(const struct options *o, const struct hk_target *target,
                     const struct hk_place *place)
{
    char *doubts[8];
    size_t count;
    if (o->quiet || !isatty(STDERR_FILENO))
        return;
    count = hk_target_doubts(target, doubts, 8);
    for (size_t i = 0; i < count; i++) {
        if (!o->settings.tracemalloc || strncmp(doubts[i], "tracemalloc ", 12) != 0) /* it makes way for ours */
            hk_cli_fail(0, "%s", doubts[i]);
        free(doubts[i]);
    }
    if (!place->file)
        return;
    bool charged = place->directory && in_container() && is_memory(place->directory);
    hk_cli_fail(
        0, "recording to %s; read it with: %s report%s%s%s", place->file, program_invocation_name,
        o->output ? " " : "", o->output ? o->output : "",
        charged
            ? " (in this container's memory, and gone with it; HEAPKEEPER_DIR names another place)"
            : "");
}

/* Our library takes some 7 MiB of RLIMIT_DATA (ulimit -d) to begin with, debug mode 130: what a small limit has is the program's. Said always. */
static bool has_room(const struct options *o)
{
    unsigned smallest = o->settings.debug ? SMALLEST_DEBUG_DATA : SMALLEST_DATA;
    struct rlimit limit;
    if (getrlimit(RLIMIT_DATA, &limit) != 0 || limit.rlim_cur >= smallest)
        return true;
    hk_cli_fail(0, "run: RLIMIT_DATA (ulimit -d) is %llu KiB, and heapkeeper takes part from %u KiB on only: the program runs unrecorded",
                (unsigned long long)limit.rlim_cur / 1024, smallest / 1024);
    return false;
}

/* Comes back only if the program could not be started. */
static void start(const struct options *o, const struct hk_target *target, struct hk_place *place,
                  const char *library, struct hk_error *error)
{
    if (!(o->output ? hk_place_output(place, o->output, o->force, error)
                    : hk_place_default(place, target->name, error)))
        return;
    char *low = NULL;
    if (!hk_target_takes_library(target) || !has_room(o))
        library = NULL;
    else if (hk_target_lies_low(target) && (low = hk_library_low(library)) != NULL)
        library = low;
    bool set = hk_environment_set(&o->settings, place, library, error);
    free(low);
    if (set) {
        announce(o, target, place);
        execv(target->path, target->argv);
        hk_error_set(error, "%s: cannot be started: %s", target->path, strerror(errno));
    }
    hk_place_undo(place);
}

int hk_cli_run(int argc, char **argv)
{
    struct options o = {.settings = {.mode = "exact"}};
    struct hk_target target;
    struct hk_error error;
    int program, status = parse(argc, argv, &o, &program);
    if (status)
        return status;
    if (o.python && !*o.python)
        return hk_cli_fail(HK_EXIT_USAGE, "run: --python needs a program");
    struct hk_place place = {0};
    char *library = NULL;
    bool found = hk_target_find(&target, argv + program, o.python, &error);
    if (found && o.settings.lines && !hk_target_has_python(&target))
        hk_cli_fail(0, "run: --lines: %s has no Python inside; only Pythons that it starts are profiled, and only to --lines-output",
                    target.path);
    if (found && o.settings.native_stacks && !o.settings.debug && hk_target_has_python(&target))
        o.settings.native = true; /* it would change nothing without */
    o.settings.family = o.settings.native || (found && !o.settings.debug && !hk_target_has_python(&target));
    choose_mode(&o);
    if (found && o.exact_given && !hk_target_has_python(&target))
        hk_cli_fail(0, "run: --exact: %s has no Python inside; its malloc is recorded by samples, and Pythons "
                       "that it starts exactly", target.path);
    if (found && o.settings.debug && !hk_target_has_python(&target))
        hk_cli_fail(0, "run: --debug: %s has no Python inside, and C's malloc has no debug mode: only "
                       "Pythons that it starts are watched", target.path);
    if (found && (library = hk_library_find(&o.settings, &error)))
        start(&o, &target, &place, library, &error);
    free(library);
    hk_place_free(&place);
    hk_target_free(&target);
    free(o.settings.lines);
    free(o.settings.lines_output);
    return hk_cli_fail(HK_EXIT_FAILURE, "%s", error.text);
}
