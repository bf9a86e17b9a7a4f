/* Is the recorded process still the one that runs under its number? A pid is used again sooner or
 * later, so its start time must match too, and a capture copied from elsewhere must not match a
 * process here. */
#include "read/process.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static ssize_t read_file(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, text, size - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return n;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

bool hk_boot_id(uint8_t boot_id[16])
{
    char text[64];
    unsigned digits = 0;
    memset(boot_id, 0, 16);
    if (read_file("/proc/sys/kernel/random/boot_id", text, sizeof text) <= 0)
        return false;
    for (const char *at = text; *at && digits < 32; at++) {
        int digit = hex_digit((char)tolower((unsigned char)*at));
        if (digit < 0)
            continue;
        boot_id[digits / 2] = (uint8_t)(boot_id[digits / 2] << 4 | digit);
        digits++;
    }
    return digits == 32;
}

/* Field 3 of /proc/PID/stat, the state, and what follows it; NULL: there is no such process. */
static char *read_stat(uint32_t pid, char text[1024])
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    if (read_file(path, text, 1024) <= 0)
        return NULL;
    char *at = strrchr(text, ')'); /* the name may hold anything, spaces and parentheses too */
    return at && at[1] ? at + 2 : NULL;
}

static bool has_ended(char state)
{
    return state == 'Z' || state == 'X';
}

bool hk_process_is_zombie(uint32_t pid)
{
    char text[1024];
    const char *at = read_stat(pid, text);
    return at && has_ended(*at);
}

bool hk_process_is(uint32_t pid, uint64_t start_ticks, const uint8_t boot_id[16])
{
    uint8_t this_boot[16];
    char text[1024];

    if (pid == 0 || !hk_boot_id(this_boot) || memcmp(this_boot, boot_id, 16) != 0)
        return false;
    char *at = read_stat(pid, text);
    if (!at || has_ended(*at))
        return false;
    for (int field = 3; field < 22 && at; field++) {
        at = strchr(at, ' ');
        if (at)
            at++;
    }
    return at && strtoull(at, NULL, 10) == start_ticks;
}

uint64_t hk_realtime_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
