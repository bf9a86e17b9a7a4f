/* Feeds bytes to the capture reader, both reports, the tables and the exports, as if they were a file.
 *
 * With clang's libFuzzer (`make FUZZ=1`) the bytes are invented; compiled without it, this is a
 * plain program that replays the files and directories it is given, so that the corpus is a
 * regression test everywhere.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "view/export.h"
#include "view/report.h"
#include "view/table.h"

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
    for (int by = 0; by < HK_GROUP_CHOICES; by++) {
        struct hk_table_view table = {capture, sites, (enum hk_group_by)by, (enum hk_sort)(by % HK_SORT_CHOICES), "*a?", 3};
        hk_table_text(&table, &wide);
        hk_table_text(&table, &narrow);
        hk_table_json(&table, sink);
    }
    for (int format = 0; format < HK_EXPORT_FORMATS; format++)
        hk_export(capture, sites, (enum hk_export_format)format, HK_EXPORT_TOTAL, sink);
    hk_sites_free(sites);
    hk_capture_close(capture);
    return 0;
}

#include "replay.h"
