/* heapkeeper live: the report of a running process, again and again.
 *
 * On a terminal it takes the whole of it, and lets one scroll; else it prints a report every interval until the process ends. The
 * process is not asked: its capture is read anew each time.
 */
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/options.h"
#include "read/attach.h"
#include "read/find.h"
#include "view/report.h"
#include "view/screen.h"

struct options {
    bool json;
    double interval;
    size_t top, count; /* reports; 0: until it ends */
    const char *colour, *target;
};

static bool parse_interval(const char *text, void *to)
{
    char *end;
    double seconds = *(double *)to = strtod(text, &end);
    return end != text && !*end && seconds >= 0.05 && seconds <= 3600;
}

static int parse(int argc, char **argv, struct options *o)
{
    const struct hk_option options[] = {
        HK_FLAG("json", 'j', &o->json),
        HK_VALUE("interval", 'i', &o->interval, parse_interval, "is 0.05 to 3600 seconds"),
        HK_VALUE("top", 'n', &o->top, hk_cli_count, "needs a number"),
        HK_VALUE("count", 0, &o->count, hk_cli_count, "needs a number of reports"),
        HK_COLOUR(&o->colour),
        HK_NO_OPTION,
    };
    int status = hk_cli_options(argc, argv, options);
    return status ? status : hk_cli_target(argc, argv, "process", &o->target);
}

/* The capture as it is now. One that has no file is gone with its process: NULL. */
static struct hk_capture *again(const struct hk_capture *last)
{
    struct hk_error error;
    struct hk_capture *now = hk_capture_open(last->path, HK_OPEN_WHOLE, &error);
    if (now && now->header.pid == last->header.pid && now->header.start_realtime_ns == last->header.start_realtime_ns)
        return now;
    hk_capture_close(now);
    return hk_capture_of_process((int)last->header.pid, HK_OPEN_WHOLE, &error);
}

static void put_report(const struct options *o, struct hk_capture *capture, struct hk_terminal *t)
{
    struct hk_family *family = hk_family_find(capture->path);
    struct hk_sites *sites = hk_sites_read(capture);
    struct hk_report report = {capture, sites, family, (unsigned)o->top};
    if (o->json)
        hk_report_json(&report, t->out);
    else
        hk_report_text(&report, t);
    hk_sites_free(sites);
    hk_family_free(family);
}

static void pause_for(double seconds)
{
    struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&time, &time) != 0)
        ;
}

/* Until it ends, or as often as was asked for. */
static int print_reports(const struct options *o, struct hk_capture *capture)
{
    struct hk_terminal terminal;
    hk_cli_terminal(&terminal, o->colour);
    for (size_t number = 1;; number++) {
        if (number > 1 && !o->json)
            fputc('\n', stdout);
        put_report(o, capture, &terminal);
        if (fflush(stdout) != 0 || ferror(stdout) || capture->life != HK_LIFE_RUNNING || number == o->count)
            break;
        pause_for(o->interval);
        struct hk_capture *now = again(capture);
        if (!now)
            break;
        hk_capture_close(capture);
        capture = now;
    }
    hk_capture_close(capture);
    return hk_cli_written("report");
}

static char *report_as_text(const struct options *o, struct hk_capture *capture)
{
    char *text = NULL;
    size_t size = 0;
    unsigned rows, columns;
    struct hk_terminal t;
    hk_cli_terminal(&t, o->colour);
    hk_screen_size(&rows, &columns);
    t.width = columns < 60 ? 60 : columns;
    t.out = open_memstream(&text, &size);
    if (!t.out)
        return NULL;
    put_report(o, capture, &t);
    fclose(t.out);
    return text;
}

static size_t scrolled(size_t first, int key, size_t lines)
{
    unsigned rows, columns;
    hk_screen_size(&rows, &columns);
    size_t page = rows > 2 ? rows - 2 : 1, last = lines + 1 > rows ? lines + 1 - rows : 0;
    switch (key) {
    case HK_KEY_UP:
    case 'k':
        first = first ? first - 1 : 0;
        break;
    case HK_KEY_DOWN:
    case 'j':
        first++;
        break;
    case HK_KEY_PAGE_UP:
        first = first > page ? first - page : 0;
        break;
    case HK_KEY_PAGE_DOWN:
    case ' ':
        first += page;
        break;
    case HK_KEY_HOME:
        first = 0;
        break;
    case HK_KEY_END:
        first = last;
        break;
    default:
        break;
    }
    return first < last ? first : last;
}

static uint64_t now_ms(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

static int take_screen(const struct options *o, struct hk_capture *capture)
{
    char status[160];
    size_t first = 0, lines = 0, shown = 1;
    uint64_t step = (uint64_t)(o->interval * 1000), next = now_ms() + step;
    bool gone = false;
    if (!hk_screen_open()) {
        hk_capture_close(capture);
        return hk_cli_fail(HK_EXIT_FAILURE, "live: the terminal cannot be taken over");
    }
    for (int key = HK_KEY_NONE; key != 'q' && key != HK_KEY_QUIT && key != 27;) {
        bool running = !gone && capture->life == HK_LIFE_RUNNING;
        char *text = report_as_text(o, capture);
        snprintf(status, sizeof status, " %s   %s   arrows scroll   q quits", running ? "running" : "has ended",
                 running ? "r reads anew" : "");
        lines = hk_screen_show(text ? text : "", first, status);
        free(text);
        if (!running && o->count && shown >= o->count)
            break;
        uint64_t now = now_ms();
        key = hk_screen_key(!running ? -1 : now < next ? (int)(next - now) : 0);
        first = scrolled(first, key, lines);
        if (running && (now_ms() >= next || key == 'r')) {
            if (o->count && shown >= o->count)
                break;
            struct hk_capture *fresh = again(capture);
            gone = !fresh;
            if (fresh) {
                hk_capture_close(capture);
                capture = fresh;
            }
            shown++;
            next = now_ms() + step;
        }
    }
    hk_screen_close();
    hk_capture_close(capture);
    return 0;
}

int hk_cli_live(int argc, char **argv)
{
    struct options o = {.interval = 1, .top = 10};
    int status = parse(argc, argv, &o);
    if (status)
        return status;
    struct hk_capture *capture = hk_cli_open(o.target);
    if (!capture)
        return HK_EXIT_FAILURE;
    return o.json || !hk_screen_possible() ? print_reports(&o, capture) : take_screen(&o, capture);
}
