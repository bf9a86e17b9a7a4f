/* What every view of a capture says first: whose it is, and how it was recorded. */
#ifndef HK_VIEW_HEAD_H
#define HK_VIEW_HEAD_H

#include "read/capture.h"
#include "view/json.h"
#include "view/text.h"

/* "shop.py · Python 3.13.0 · pid 4242 · ended" and a newline. */
void hk_head_text(const struct hk_terminal *terminal, const struct hk_capture *capture);

/* "every block was recorded", without a newline. */
void hk_head_mode(const struct hk_terminal *terminal, const struct hk_capture *capture);

/* " · ", or what stands for it in ASCII. */
const char *hk_dot(const struct hk_terminal *terminal);

/* capture, state, program, pid, python, mode, sample_bytes: into the object that is open. */
void hk_head_json(struct hk_json *json, const struct hk_capture *capture);

#endif
