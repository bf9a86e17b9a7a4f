/* Windows of time, for who asks in the process: of the blocks that were allocated since a window was opened, how many bytes live,
 * and how many at most lived at once. heapkeeper.Tracker opens one, and tracemalloc's face.
 *
 * A block remembers its age, a byte beside its word (heap/slots.h) or in the table of large blocks: the number of windows
 * opened before it was allocated. It belongs to a window if its age is at least the window's. When the numbers are
 * used up, those that no open window needs are taken out.
 *
 *      age 0     from before the first window that is open, or allocated by ourselves to answer
 *      age 1     from before a window to which everything belongs that was recorded
 *
 * While a window is open exact.c takes its long ways, and reports each birth and each death. With none this costs nothing.
 *
 * Who opens, closes, or asks holds the main interpreter's lock; so does who says `main`. Others add to a sum of their own, which
 * the next event under the lock takes over: the peak is exact but for these bytes in flight. */
#ifndef HK_HOSTS_CPYTHON_WINDOWS_H
#define HK_HOSTS_CPYTHON_WINDOWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HK_WINDOWS 32

struct hk_window {
    uint32_t first; /* the age of its first blocks; 0: closed */
    int64_t live, peak; /* bytes */
    int64_t apart;      /* of live: not handed over yet; atomic */
};

struct hk_windows {
    uint32_t end;    /* no window from here on is open; 0: none at all */
    uint32_t paused; /* what is allocated belongs to no window */
    uint32_t age;    /* of the newest */
    struct hk_window at[HK_WINDOWS];
};
extern struct hk_windows hk_windows;

/* everything: what was recorded before belongs to it, too. -1: there are too many, or no memory. */
int hk_window_open(bool everything);
bool hk_window_restart(int window); /* as if it were opened now; false: no memory */
void hk_window_close(int window);
void hk_window_figures(int window, uint64_t *live, uint64_t *peak);
void hk_window_reset_peak(int window);
void hk_window_add(int window, int64_t bytes); /* that no allocator has seen */

/* For exact.c, where hk_windows.end is not 0. */
void hk_window_birth(size_t bytes, bool main);
void hk_window_death(uint8_t age, size_t bytes, bool main);

static inline bool hk_windows_are_open(void)
{
    return __builtin_expect(__atomic_load_n(&hk_windows.end, __ATOMIC_ACQUIRE) != 0, 0);
}

/* Of a block that is allocated now. */
static inline uint8_t hk_window_age(void)
{
    return hk_windows.paused ? 0 : (uint8_t)hk_windows.age;
}

#endif
