/* See where.h. */
#include "view/where.h"

#include <string.h>

#define NAME 512 /* bytes of a cleaned name */

void hk_where_text(const struct hk_terminal *t, const char *directory, char *to, size_t size,
                   const struct hk_source_frame *f, size_t columns)
{
    char file[NAME], name[NAME], line[16] = "", through[140] = "";
    const char *asked = f->through ? f->through : f->module && !*f->file ? f->module : NULL;
    hk_text_clean(t, name, sizeof name, f->qualified_name);
    if (asked && strncmp(f->function, asked, strlen(asked)) != 0) { /* else the name is "libshop.so.1+0x1234" */
        char module[128];
        snprintf(through, sizeof through, " [%s]", hk_text_clean(t, module, sizeof module, asked));
    }
    if (!*f->file) {
        snprintf(to, size, "%s%s", name, through);
        hk_text_keep_end(t, to, columns);
        return;
    }
    if (f->line)
        snprintf(line, sizeof line, ":%s%d", f->is_near ? "~" : "", f->line);
    size_t rest = hk_text_columns(name) + strlen(line) + hk_text_columns(through) + 4;
    hk_text_clean(t, file, sizeof file, f->file);
    hk_text_shorten_path(file, directory);
    hk_text_keep_end(t, file, rest + 16 < columns ? columns - rest : 16);
    snprintf(to, size, "%s%s in %s%s", file, line, name, through);
    hk_text_keep_start(t, to, size, columns);
}
