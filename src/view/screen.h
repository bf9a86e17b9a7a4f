/* The whole terminal, for views that a person moves in: the alternate screen, keys as they are pressed, and the terminal as it was
 * before on every way out: hk_screen_close, exit(), signals that end the program; ^Z and SIGTSTP leave it while stopped.
 *
 * One a process; not thread-safe.
 */
#ifndef HK_VIEW_SCREEN_H
#define HK_VIEW_SCREEN_H

#include <stdbool.h>
#include <stddef.h>

enum hk_key {
    HK_KEY_NONE = 0, /* the time is over, or something changed that asks for drawing anew */
    /* others below 256: that byte */
    HK_KEY_UP = 256,
    HK_KEY_DOWN,
    HK_KEY_LEFT,
    HK_KEY_RIGHT,
    HK_KEY_PAGE_UP,
    HK_KEY_PAGE_DOWN,
    HK_KEY_HOME,
    HK_KEY_END,
    HK_KEY_QUIT, /* q is the caller's; this is ^C, ^D or a terminal that is gone */
};

/* True if standard input and output are a terminal that can do this. */
bool hk_screen_possible(void);

/* False: the terminal refused. */
bool hk_screen_open(void);
void hk_screen_close(void);

void hk_screen_size(unsigned *rows, unsigned *columns);

/* Waits for a key at most `milliseconds` (-1: for ever). */
int hk_screen_key(int milliseconds);

/* Draws the lines of `text` from line `first` on, and `status` in reverse in the last row. Returns how many lines it has. */
size_t hk_screen_show(const char *text, size_t first, const char *status);

#endif
