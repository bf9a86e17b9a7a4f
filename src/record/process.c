/* Facts about the process, from /proc: for the header, and its memory.
 *
 * Files are read through a small buffer of the recorder, opened and closed at once. A fact that
 * cannot be read (no /proc in a chroot, no descriptors left) stays 0.
 */
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "record/internal.h"

HK_HOT static uint64_t read_clock(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

HK_HOT uint64_t hk_rec_clock(void)
{
    return hk_os_clock_ns();
}

HK_HOT uint64_t hk_rec_coarse_clock(void)
{
    return read_clock(CLOCK_MONOTONIC_COARSE);
}

/* Reads at most capacity - 1 bytes and puts a NUL behind them; returns their number. */
HK_HOT static size_t read_file(const char *path, char *buffer, size_t capacity)
{
    size_t size = 0;
    int fd = hk_rec_open(path, O_RDONLY, 0);

    if (fd >= 0) {
        while (size + 1 < capacity) {
            long got = hk_rec_read(fd, buffer + size, capacity - 1 - size);
            if (got <= 0)
                break;
            size += (size_t)got;
        }
        hk_rec_close(fd);
    }
    buffer[size] = '\0';
    return size;
}

HK_HOT uint64_t hk_rec_parse_number(const char **at, int base)
{
    uint64_t value = 0;

    for (;; ++*at) {
        char c = **at;
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
        if (digit >= base)
            return value;
        value = value * (uint64_t)base + (uint64_t)digit;
    }
}

static void read_boot_id(uint8_t id[16])
{
    char text[64];
    const char *at = text;

    read_file("/proc/sys/kernel/random/boot_id", text, sizeof text);
    for (int i = 0; i < 16; i++) {
        char pair[3] = {0};
        while (*at == '-')
            at++;
        if (!at[0] || !at[1])
            return;
        memcpy(pair, at, 2);
        at += 2;
        const char *digits = pair;
        id[i] = (uint8_t)hk_rec_parse_number(&digits, 16);
    }
}

/* Field 22 of /proc/self/stat; the second field may hold anything, spaces and parentheses too. */
static uint64_t read_start_ticks(void)
{
    char text[1024];
    const char *at;

    read_file("/proc/self/stat", text, sizeof text);
    at = strrchr(text, ')');
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (!at)
        return 0;
    at++;
    return hk_rec_parse_number(&at, 10);
}

static uint32_t read_command_line(void)
{
    size_t size = read_file("/proc/self/cmdline", hk_rec.buffer, 8192);

    for (size_t i = 0; i < size; i++)
        if (hk_rec.buffer[i] == '\0')
            hk_rec.buffer[i] = '\x1f';
    return hk_rec_string(hk_rec.buffer, size);
}

void hk_rec_describe_process(void)
{
    struct hk_capture_header *header = hk_rec_header();
    ssize_t size;

    header->pid = (uint32_t)getpid();
    header->parent_pid = hk_rec.forked_from ? hk_rec.forked_from : (uint32_t)getppid();
    read_boot_id(header->boot_id);
    header->start_realtime_ns = read_clock(CLOCK_REALTIME) - (hk_rec_clock() - hk_rec.start_ns);
    header->start_ticks = read_start_ticks();
    header->command_line = read_command_line();
    size = hk_os_is_confined ? -1 : readlink("/proc/self/exe", hk_rec.buffer, 4096);
    header->executable = hk_rec_string(hk_rec.buffer, size > 0 ? (size_t)size : 0);
    header->working_directory = !hk_os_is_confined && getcwd(hk_rec.buffer, 4096) ? hk_rec_text(hk_rec.buffer) : 0;
}

/* The line that begins so, which is not the first; NULL: there is none. */
static const char *find_line(const char *text, const char *beginning)
{
    while ((text = strchr(text, '\n')))
        if (strncmp(++text, beginning, strlen(beginning)) == 0)
            return text;
    return NULL;
}

HK_HOT uint64_t hk_record_resident(void)
{
    HK_HOT_TABLE static const char statm[] = "/proc/self/statm";
    char text[256];

    read_file(statm, text, sizeof text);
    const char *at = strchr(text, ' ');
    if (!at)
        return 0;
    at++;
    return hk_rec_parse_number(&at, 10) * hk_os_page_size();
}

/* Resident memory now; its peak (a larger file, so rarely) from the kernel's own count. */
HK_HOT void hk_rec_read_rss(bool peak_too)
{
    HK_HOT_TABLE static const char status[] = "/proc/self/status", peak_is[] = "VmHWM:";
    char text[2048];
    const char *at;
    uint64_t now = hk_record_resident();

    if (now != 0)
        hk_rec.rss = now;
    if (peak_too && read_file(status, text, sizeof text) > 0 &&
        (at = find_line(text, peak_is))) {
        at += sizeof(peak_is) - 1;
        while (*at == ' ' || *at == '\t')
            at++;
        uint64_t peak = hk_rec_parse_number(&at, 10) << 10;
        if (peak > hk_rec.peak_rss)
            hk_rec.peak_rss = peak;
    }
    if (hk_rec.rss > hk_rec.peak_rss)
        hk_rec.peak_rss = hk_rec.rss;
}
