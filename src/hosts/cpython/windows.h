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
 * Of the C library's malloc, where its blocks are recorded (run --native), are only windows that ask for it; they are of Python's blocks, too.
 * A window may be of one thread: of what that thread allocates, whoever frees it. And it may keep what each site has at its peak,
 * as exact.h does for the whole record: at a new peak the values are the live ones, and a site that changes afterwards saves first
 * what it had. Then it takes 24 bytes of address space for each site that could be.
 *
 * While a window is open exact.c takes its long ways, and reports each birth and each death. With none this costs nothing.
 *
 * Who opens, closes, or asks holds the main interpreter's lock; so does who says `main`. Others add to a sum of their own, which the next event under the lock takes over, with the most that it was: the peak is exact as long as threads take turns.
 * What sites have at it is from when it is taken over. */
#ifndef HK_HOSTS_CPYTHON_WINDOWS_H
#define HK_HOSTS_CPYTHON_WINDOWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HK_WINDOWS 32

struct hk_window {
    uint32_t first; /* the age of its first blocks; 0: closed */
    uint32_t end;   /* the age of the first blocks that do not belong to it any more; 0: it takes them still */
    int64_t live, peak; /* bytes */
    int64_t apart;      /* of live: not handed over yet; atomic */
    int64_t apart_high; /* and the most that it was; atomic */
    uint64_t born_bytes, born_blocks; /* allocated since it was opened; atomic */
    uint32_t thread;    /* the number of the only one, or 0 */
    bool native;        /* with malloc's blocks */
    uint32_t serial;    /* of the peak */
    struct hk_window_site *sites; /* NULL: they are not kept */
};

struct hk_window_site {
    int64_t live, at_peak; /* bytes; all is atomic */
    uint32_t serial; /* not the window's: it has not changed since the peak, at_peak is live */
};

struct hk_windows {
    uint32_t end;    /* no window from here on is open; 0: none at all */
    uint32_t paused; /* what is allocated belongs to no window */
    uint32_t age;    /* of the newest */
    struct hk_window at[HK_WINDOWS];
};
extern struct hk_windows hk_windows;

/* everything: what was recorded before belongs to it, too. at_peak: what each site has then is kept. -1: there are too many, or no
 * memory. */
struct hk_window_options {
    bool everything, at_peak, this_thread, native; /* not everything and native */
};
int hk_window_open(struct hk_window_options options);
bool hk_window_restart(int window); /* as if it were opened now; false: no memory */
void hk_window_freeze(int window);  /* what is allocated from now on does not belong to it; that its blocks die is seen */
void hk_window_close(int window);
bool hk_window_takes(const struct hk_window *window, uint32_t site); /* it is open, and blocks of the site may belong to it */
bool hk_window_has_age(const struct hk_window *window, uint8_t age);
void hk_window_figures(int window, uint64_t *live, uint64_t *peak);
void hk_window_reset_peak(int window);
void hk_window_add(int window, int64_t bytes); /* that no allocator has seen */
/* Bytes of the site at the window's peak; 0 where that is not kept. */
uint64_t hk_window_at_peak(int window, uint32_t site);

/* For exact.c, where hk_windows.end is not 0. */
void hk_window_birth(uint32_t site, size_t bytes, bool main);
void hk_window_death(uint32_t site, uint8_t age, size_t bytes, bool main);
void hk_window_move(uint32_t from, uint32_t to, uint8_t age, size_t bytes); /* a block is charged to another site. Main lane */

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
