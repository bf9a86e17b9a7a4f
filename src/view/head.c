/* See head.h. */
#include "view/head.h"

#include "view/report.h"

const char *hk_dot(const struct hk_terminal *t)
{
    return t->utf8 ? " · " : " - ";
}

void hk_head_text(const struct hk_terminal *t, const struct hk_capture *c)
{
    char program[256], name[512], version[32];
    const char *dot = hk_dot(t);
    hk_text_clean(t, name, sizeof name, hk_capture_program(c, program, sizeof program));
    fprintf(t->out, "%s%s%s", hk_style(t, HK_BOLD), name, hk_style(t, HK_PLAIN));
    if (c->header.python_version)
        fprintf(t->out, "%sPython %s", dot, hk_python_version(c->header.python_version, version));
    fprintf(t->out, "%spid %u%s%s\n", dot, c->header.pid, dot, hk_life_name(c->life));
}

void hk_head_mode(const struct hk_terminal *t, const struct hk_capture *c)
{
    char a[32], b[32];
    if (c->header.mode == HK_MODE_EXACT)
        fputs("every block was recorded", t->out);
    else if (c->header.mode == HK_MODE_SAMPLE)
        fprintf(t->out, "estimates from %s samples, one per %s", hk_text_count(a, c->now.samples),
                hk_text_bytes(b, (double)c->header.sample_bytes));
    else
        fputs("recording was off", t->out);
    if (c->header.limits & HK_LIMIT_DISK)
        fprintf(t->out, " until %s, when the file system was full", hk_text_duration(a, hk_capture_limit_ns(c, HK_LIMIT_DISK)));
}

void hk_head_json(struct hk_json *j, const struct hk_capture *c)
{
    char program[256], version[32];
    hk_json_string(j, "capture", c->path);
    hk_json_string(j, "state", hk_state_word(c->life));
    hk_json_string(j, "program", hk_capture_program(c, program, sizeof program));
    hk_json_unsigned(j, "pid", c->header.pid);
    hk_json_string(j, "python", hk_python_version(c->header.python_version, version));
    hk_json_string(j, "mode", hk_mode_word(c->header.mode));
    hk_json_unsigned(j, "sample_bytes", c->header.mode == HK_MODE_SAMPLE ? c->header.sample_bytes : 0);
}
