/* What the reader asks the running system about a recorded process. Linux's /proc only. */
#ifndef HK_READ_PROCESS_H
#define HK_READ_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

/* True if `pid` lives, is not a zombie, started at `start_ticks` (field 22 of /proc/PID/stat) and
 * this is the boot it started in. */
bool hk_process_is(uint32_t pid, uint64_t start_ticks, const uint8_t boot_id[16]);

/* True if `pid` has ended, and its parent has not asked how. */
bool hk_process_is_zombie(uint32_t pid);

/* This boot's id; false if the system does not tell. */
bool hk_boot_id(uint8_t boot_id[16]);

/* Nanoseconds since 1970. */
uint64_t hk_realtime_ns(void);

#endif
