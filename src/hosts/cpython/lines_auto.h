/* `heapkeeper run --lines`: see lines_auto.c. */
#ifndef HK_HOSTS_CPYTHON_LINES_AUTO_H
#define HK_HOSTS_CPYTHON_LINES_AUTO_H

#include <stdbool.h>

/* The environment asks for it. */
bool hk_cpython_lines_wanted(void);

/* While Python begins, once it is settled who serves its memory: it is to tell of the code that it executes. */
void hk_cpython_lines_watch(void);

/* When the process ends: says so on stderr if nothing came of it, because Python does not run on our heap. */
void hk_cpython_lines_at_exit(void);

#endif
