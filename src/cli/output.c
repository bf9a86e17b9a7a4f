/* See output.h. */
#include "cli/output.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "view/text.h"

static bool is_file(const char *path, const char *other)
{
    struct stat a, b;
    return stat(path, &a) == 0 && stat(other, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

bool hk_output_spares(const char *path, const struct hk_capture *capture)
{
    bool spares = !path || !is_file(path, capture->path);
    if (!spares)
        hk_cli_fail(HK_EXIT_FAILURE, "%s: is the capture itself", path);
    return spares;
}

bool hk_output_open(struct hk_output *o, const char *path, bool force, const struct hk_capture *capture)
{
    struct stat st;
    *o = (struct hk_output){.file = stdout};
    if (!path || strcmp(path, "-") == 0)
        return true;
    bool there = stat(path, &st) == 0, regular = there && S_ISREG(st.st_mode);
    o->path = path;
    o->made = !there;
    if (capture && !hk_output_spares(path, capture))
        return false;
    if (regular && !force) {
        hk_cli_fail(HK_EXIT_FAILURE, "%s: exists already; --force writes over it", path);
        return false;
    }
    int fd = open(path, O_WRONLY | O_CLOEXEC | (there ? regular ? O_TRUNC : 0 : O_CREAT | O_EXCL), 0666);
    o->file = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (!o->file)
        hk_cli_fail(HK_EXIT_FAILURE, "%s: cannot be written: %s", path, strerror(errno));
    return o->file != NULL;
}

int hk_output_close(struct hk_output *o, const char *what)
{
    bool bad = fflush(o->file) != 0 || ferror(o->file);
    int why = errno;
    if (o->path && fclose(o->file) != 0 && !bad) {
        bad = true;
        why = errno;
    }
    o->file = NULL;
    if (!bad)
        return 0;
    if (o->made)
        unlink(o->path);
    return hk_cli_fail(HK_EXIT_FAILURE, "%s could not be written: %s", o->path ? o->path : what, strerror(why));
}

char *hk_output_name(char name[HK_OUTPUT_NAME], const struct hk_capture *capture, const char *ending)
{
    char program[256];
    hk_capture_program(capture, program, sizeof program);
    for (char *at = program; *at; at++) {
        bool plain = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') || (*at >= '0' && *at <= '9') ||
                     (at > program && (*at == '.' || *at == '-')) || *at == '_';
        if (!plain)
            *at = '_';
    }
    program[200] = 0; /* the file system's bound is 255 */
    snprintf(name, HK_OUTPUT_NAME, "%s-%u.%s", *program ? program : "program", capture->header.pid, ending);
    return name;
}

int hk_output_say(const char *path)
{
    struct hk_terminal terminal;
    char clean[4200];
    hk_terminal_for(&terminal, stdout);
    printf("%s\n", hk_text_clean(&terminal, clean, sizeof clean, path));
    if (fflush(stdout) != 0 || ferror(stdout))
        return hk_cli_fail(HK_EXIT_FAILURE, "standard output could not be written: %s", strerror(errno));
    return 0;
}
