/* What is interposed by name in a program under `heapkeeper run`. */
#ifndef HK_HOSTS_MALLOC_INTERPOSE_H
#define HK_HOSTS_MALLOC_INTERPOSE_H

/* Finds the next definitions (libc's, or those of a library that was preloaded before) and makes the heap use
 * them for large blocks. In the constructor. */
void hk_interpose_init(void);

/* In debug mode: a block of ours that arrives by a name of libc is reported. After the heaps were made. */
void hk_interpose_debug(void);

/* Called by the interposed _exit and _Exit before the process ends. */
extern void (*hk_interpose_at_exit)(void);

#endif
