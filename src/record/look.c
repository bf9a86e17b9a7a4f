/* The sections of the file, as this process has them. */
#include "record/look.h"

#include <string.h>

#include "record/internal.h"

bool hk_look(struct hk_look *look)
{
    int error = errno;
    bool good = false;

    memset(look, 0, sizeof *look);
    if (!hk_rec_enter())
        return false;
    if (hk_rec_wake() && hk_rec.exact) {
        const struct hk_rec_section *section = hk_rec.section;
        *look = (struct hk_look){
            .sites = (const void *)section[HK_SECTION_EXACT_SITES].data,
            .counters = (const void *)section[HK_SECTION_COUNTERS].data,
            .nodes = (const void *)section[HK_SECTION_NODES].data,
            .codes = (const void *)section[HK_SECTION_CODES].data,
            .strings = (const void *)section[HK_SECTION_STRINGS].data,
            .site_count = section[HK_SECTION_EXACT_SITES].count,
            .node_count = section[HK_SECTION_NODES].count,
            .code_count = section[HK_SECTION_CODES].count,
            .string_bytes = section[HK_SECTION_STRINGS].count,
        };
        good = true;
    }
    hk_exact_refresh();
    hk_rec_leave();
    errno = error;
    return good;
}

uint64_t hk_look_own_bytes(void)
{
    return hk_rec.private_bytes + hk_rec.file_bytes;
}
