/* What the commands that show a capture share: the capture that is meant, and a word out of a list. */
#include "cli/cli.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "read/attach.h"
#include "read/find.h"
#include "view/text.h"

int hk_cli_choice(const char *command, const char *option, const char *word, const char *const *words)
{
    char list[256] = "";
    size_t at = 0;
    for (int i = 0; words[i]; i++) {
        if (strcmp(word, words[i]) == 0)
            return i;
        const char *between = i == 0 ? "" : words[i + 1] ? ", " : " or ";
        int put = snprintf(list + at, sizeof list - at, "%s%s", between, words[i]);
        at += put > 0 && at + (size_t)put < sizeof list ? (size_t)put : 0;
    }
    hk_cli_fail(HK_EXIT_USAGE, "%s: %s is %s, not \"%s\"", command, option, list, word);
    return -1;
}

const char *const hk_cli_colour_words[] = {"auto", "always", "never", NULL};
const char *const hk_cli_sort_words[] = {"live", "peak", "total", "blocks", NULL};

void hk_cli_terminal(struct hk_terminal *terminal, const char *colour)
{
    hk_terminal_for(terminal, stdout);
    if (colour && strcmp(colour, "auto") != 0)
        terminal->colour = strcmp(colour, "always") == 0;
}

int hk_cli_written(const char *what)
{
    if (fflush(stdout) != 0 || ferror(stdout))
        return hk_cli_fail(HK_EXIT_FAILURE, "the %s could not be written: %s", what, strerror(errno));
    return 0;
}

int hk_cli_pid(const char *target)
{
    char *end;
    if (!target)
        return 0;
    errno = 0;
    long value = strtol(target, &end, 10);
    bool is_number = *target && !*end && errno == 0 && value > 0 && value <= INT_MAX;
    return is_number && access(target, F_OK) != 0 ? (int)value : 0;
}

/* The capture of `path`; of the newest run, or of a file that nothing was recorded to, its main process's. */
static struct hk_capture *open_file(const char *path, bool named, struct hk_error *error)
{
    struct hk_family *family = hk_family_find(path);
    struct stat st;
    bool itself = (named && !(stat(path, &st) == 0 && st.st_size == 0)) || family->count == 0;
    const char *chosen = itself ? path : family->processes[hk_family_main(family)].path;
    struct hk_capture *capture = hk_capture_open(chosen, HK_OPEN_WHOLE, error);
    const struct hk_process *process = capture ? hk_family_member(family, capture) : NULL;
    if (process)
        capture->life = process->life; /* what became of it, as its later captures tell */
    hk_family_free(family);
    return capture;
}

struct hk_capture *hk_cli_open(const char *target)
{
    struct hk_capture *capture = NULL;
    struct hk_error error;
    int pid = hk_cli_pid(target);
    if (pid) {
        capture = hk_capture_of_process(pid, HK_OPEN_WHOLE, &error);
    } else {
        char *path = target ? hk_must_strdup(target) : hk_find_newest(&error);
        capture = path ? open_file(path, target != NULL, &error) : NULL;
        free(path);
    }
    if (!capture) {
        hk_cli_fail(HK_EXIT_FAILURE, "%s", error.text);
    } else if (capture->life == HK_LIFE_EMPTY) {
        hk_cli_fail(HK_EXIT_FAILURE, "%s: nothing recorded: the library was not loaded into the program", capture->path);
        hk_capture_close(capture);
        capture = NULL;
    }
    return capture;
}
