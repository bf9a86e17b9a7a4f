/* See report_lists.h. */
#include "view/report_lists.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WATCHED_LEAST 4 /* blocks of a row, or nothing is said of how long they live */

/* ---- lists of lines ---- */

static const struct hk_sites *sorting;
static enum hk_report_list sorting_by;

double hk_list_amount(const struct hk_line *line, enum hk_report_list list)
{
    return list == HK_LIST_GROWING ? line->growth.rise : (double)(list == HK_LIST_LIVE ? line->live_bytes : line->peak_bytes);
}

static int by_amount(const void *a, const void *b)
{
    uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    double x = hk_list_amount(&sorting->lines[i], sorting_by), y = hk_list_amount(&sorting->lines[k], sorting_by);
    return x > y ? -1 : x < y ? 1 : i < k ? -1 : i > k;
}

/* How many of the ranked lines are worth a row: what is less than a hundredth says little. */
static size_t worth_showing(const struct hk_report *r, enum hk_report_list list, const uint32_t *order, size_t count)
{
    const struct hk_sites *s = r->sites;
    double whole = (double)(list == HK_LIST_PEAK ? s->peak_bytes : s->live_bytes);
    size_t shown = 0, top = r->top;
    if (list == HK_LIST_LIVE && s->run.by_levels && top > 3) /* what is left when all was let go */
        top = 3;
    while (shown < count && shown < top &&
           (list == HK_LIST_GROWING || shown < 3 || hk_list_amount(&s->lines[order[shown]], list) >= 0.01 * whole))
        shown++;
    return shown;
}

size_t hk_list_rank(const struct hk_report *r, enum hk_report_list list, uint32_t **order, size_t *shown)
{
    const struct hk_sites *s = r->sites;
    size_t count = 0;
    *order = hk_must_calloc(s->line_count, sizeof **order);
    for (uint32_t i = 0; i < s->line_count; i++) {
        if (list == HK_LIST_GROWING ? s->lines[i].growth.growing : hk_list_amount(&s->lines[i], list) > 0)
            (*order)[count++] = i;
    }
    sorting = s;
    sorting_by = list;
    qsort(*order, count, sizeof **order, by_amount);
    *shown = worth_showing(r, list, *order, count);
    return count;
}

size_t hk_lists_by_size(const struct hk_report *r, enum hk_report_list lists[2])
{
    const struct hk_sites *s = r->sites;
    size_t count = 0;
    if (s->run.by_levels) /* little is left to say of the end */
        lists[count++] = HK_LIST_PEAK;
    lists[count++] = HK_LIST_LIVE;
    /* The list at the peak says nothing new when the peak is the end. */
    if (!s->run.by_levels && (double)s->peak_bytes > 1.1 * (double)s->live_bytes)
        lists[count++] = HK_LIST_PEAK;
    return count;
}

double hk_list_error(const struct hk_report *r, const struct hk_line *line, enum hk_report_list list)
{
    if (list == HK_LIST_GROWING)
        return line->growth.error;
    return sqrt(hk_sites_mean(r->sites, line->total_bytes, line->samples_total) * hk_list_amount(line, list));
}

struct hk_share hk_list_share(const struct hk_report *r, const struct hk_line *line, enum hk_report_list list)
{
    const struct hk_sites *s = r->sites;
    bool of_peak = list == HK_LIST_PEAK || (list == HK_LIST_GROWING && s->run.by_levels);
    return (struct hk_share){(double)(of_peak ? line->peak_bytes : line->live_bytes),
                             (double)(of_peak ? s->peak_bytes : s->live_bytes)};
}

uint32_t hk_list_example(const struct hk_line *line, enum hk_report_list list)
{
    return list == HK_LIST_GROWING ? line->steepest : list == HK_LIST_LIVE ? line->heaviest_live : line->heaviest_peak;
}

/* ---- paths ---- */

/* The import machinery stands between a module and what it imports, and says nothing; what the C library runs before
 * main and before a thread's function neither. */
static bool is_machinery(const struct hk_source_frame *f)
{
    if (f->module)
        return strcmp(f->function, "_start") == 0 || strncmp(f->function, "__libc_start", 12) == 0 ||
               strcmp(f->function, "start_thread") == 0 || strncmp(f->function, "__clone", 7) == 0 ||
               strcmp(f->function, "clone") == 0 || strcmp(f->function, "clone3") == 0;
    return strncmp(f->file, "<frozen importlib", 17) == 0 || strcmp(f->file, "<frozen runpy>") == 0 ||
           strcmp(f->function, "_run_module_as_main") == 0 || strcmp(f->function, "_run_code") == 0;
}

/* Without machinery, except at the end, and without the outermost module. */
static size_t choose_frames(struct hk_source_frame *frames, size_t count, bool cut)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (i + 1 == count || !is_machinery(&frames[i]))
            frames[kept++] = frames[i];
    }
    if (!cut && kept > 2 && strcmp(frames[0].function, "<module>") == 0)
        memmove(frames, frames + 1, --kept * sizeof *frames);
    return kept;
}

/* Of machine code that Python called, where it was entered and where it asked. */
static size_t shorten_native(const char *dots, struct hk_source_frame *frames, size_t count)
{
    size_t native = count;
    while (native > 0 && frames[native - 1].module)
        native--;
    if (native == 0 || count - native <= 3)
        return count;
    frames[native + 1] = (struct hk_source_frame){.function = dots, .file = ""};
    frames[native + 2] = frames[count - 1];
    return native + 3;
}

size_t hk_list_path(const struct hk_report *r, const struct hk_site *site, const char *dots,
                    struct hk_source_frame frames[HK_LIST_FRAMES], bool *cut)
{
    size_t count = hk_sites_stack(r->sites, site->node, frames, HK_LIST_FRAMES, cut);
    if (count > 0)
        frames[count - 1].is_near = (site->flags & HK_SITE_JIT) != 0;
    count = shorten_native(dots, frames, choose_frames(frames, count, *cut));
    *cut |= (site->flags & HK_SITE_CUT) != 0;
    return count;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

void hk_list_piece(const struct hk_terminal *t, char *to, size_t size, const struct hk_source_frame *f)
{
    char name[128];
    bool is_module = strcmp(f->function, "<module>") == 0 && *f->file;
    hk_text_clean(t, name, sizeof name, is_module ? base_name(f->file) : f->function);
    snprintf(to, size, f->line ? f->is_near ? "%s:~%d" : "%s:%d" : "%s", name, f->line);
}

char *hk_list_temporary(char to[32], const struct hk_lives *lives)
{
    if (lives->sampled < WATCHED_LEAST)
        return strcpy(to, "-");
    return hk_text_percent(to, (double)lives->temporary, (double)lives->sampled);
}

char *hk_list_epoch(char to[32], unsigned epoch)
{
    static const char *const units[] = {"s", "min", "h", "days"};
    static const double sizes[] = {1, 60, 3600, 86400};
    unsigned unit = 3;
    double seconds = (double)hk_epoch_ns(epoch) / 1e9;
    if (seconds < 1) {
        snprintf(to, 32, "%.0f ms", seconds * 1000);
        return to;
    }
    while (unit > 0 && seconds < 2 * sizes[unit])
        unit--;
    snprintf(to, 32, "%.0f %s", seconds / sizes[unit], units[unit]);
    return to;
}

char *hk_list_age(char to[32], const struct hk_ages *ages)
{
    unsigned epoch = ages->samples < WATCHED_LEAST ? HK_EPOCHS : hk_ages_epoch(ages, 0.5);
    return epoch == HK_EPOCHS ? strcpy(to, "-") : hk_list_epoch(to, epoch);
}
