/* What all pages share: see page.h. */
#include "view/page.h"

#include "view/text.h"

void hk_page_text(FILE *out, const char *text)
{
    while (*text) {
        uint32_t point;
        unsigned length = hk_utf8_next(text, &point);
        if (length == 0 || hk_is_control(point))
            fputs("&#xfffd;", out);
        else if (point == '<' || point == '>' || point == '&' || point == '"' || point == '\'')
            fprintf(out, "&#%u;", point);
        else
            fwrite(text, 1, length, out);
        text += length ? length : 1;
    }
}

void hk_page_start(FILE *out, const char *title, const char *const *styles)
{
    fputs("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
          "script-src 'unsafe-inline'; img-src data:\">\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
          "<meta name=\"color-scheme\" content=\"light dark\">\n"
          "<meta name=\"generator\" content=\"heapkeeper " HK_VERSION "\">\n"
          "<link rel=\"icon\" href=\"data:,\">\n<title>",
          out);
    hk_page_text(out, title);
    fputs("</title>\n<style>\n", out);
    for (; *styles; styles++)
        fputs(*styles, out);
    fputs("</style>\n</head>\n<body>\n", out);
}

void hk_page_end(FILE *out, const char *const *scripts)
{
    for (; *scripts; scripts++)
        fprintf(out, "<script>\n%s</script>\n", *scripts);
    fputs("</body>\n</html>\n", out);
}
