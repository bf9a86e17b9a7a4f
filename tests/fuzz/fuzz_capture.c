/* Feeds bytes to the capture reader and both reports, as if they were a file.
 *
 * With clang's libFuzzer (`make FUZZ=1`) the bytes are invented; compiled without it, this is a
 * plain program that replays the files and directories it is given, so that the corpus is a
 * regression test everywhere.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "view/report.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static FILE *sink;

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
    hk_sites_free(sites);
    hk_capture_close(capture);
    return 0;
}

#ifndef HK_LIBFUZZER
static int replay(const char *path);

static int replay_directory(const char *path)
{
    DIR *directory = opendir(path);
    int count = 0;
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        char name[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        count += replay(name);
    }
    if (directory)
        closedir(directory);
    return count;
}

static int replay(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        perror(path);
        exit(1);
    }
    if (S_ISDIR(st.st_mode))
        return replay_directory(path);
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = malloc((size_t)st.st_size + 1);
    if (!file || !bytes || fread(bytes, 1, (size_t)st.st_size, file) != (size_t)st.st_size) {
        perror(path);
        exit(1);
    }
    fclose(file);
    LLVMFuzzerTestOneInput(bytes, (size_t)st.st_size);
    free(bytes);
    return 1;
}

int main(int argc, char **argv)
{
    int count = 0;
    for (int i = 1; i < argc; i++)
        count += replay(argv[i]);
    printf("%d inputs replayed\n", count);
    return count > 0 ? 0 : 1;
}
#endif
