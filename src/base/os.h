/* The platform layer: all that the in-process half asks of Linux and glibc, about fifteen functions.
 *
 * Addresses and sizes are in bytes; a mapping's size is rounded up to the page. Functions that can fail return
 * NULL or false and set no errno of their own: errno is kept for the program, on success and on failure.
 * Everything may be called inside an allocation hook, and in a signal handler unless it says otherwise. */
#ifndef HK_BASE_OS_H
#define HK_BASE_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

size_t hk_os_page_size(void);

/* Address space without memory: reads and writes fault until it is committed. */
void *hk_os_reserve(size_t size, size_t alignment);
void *hk_os_reserve_zero(size_t size); /* the same, but reads find zeros */
bool hk_os_commit(void *start, size_t size);  /* zero pages, on first touch */
void hk_os_unmap(void *start, size_t size);   /* gives address space back; of a reservation: a tail */
void *hk_os_map(size_t size);                 /* reserve and commit in one */
bool hk_os_discard(void *start, size_t size); /* gives pages back; they read as zero again */
void hk_os_huge_pages(void *start, size_t size, bool wanted);

/* Other pages in a committed part of a reservation: the file's from `offset` on (shared), or explicit huge pages (size
 * and start: multiples of 2 MiB), or plain ones again. False: it is as it was; or, `*lost`, it must not be used any
 * more. */
bool hk_os_place_file(void *start, size_t size, int file, uint64_t offset, bool *lost);
bool hk_os_place_huge_pages(void *start, size_t size, bool *lost);
bool hk_os_place_plain(void *start, size_t size);
bool hk_os_file_allocate(int file, uint64_t offset, size_t size); /* room on the disk; false: it is full */
bool hk_os_file_discard(void *start, size_t size);                /* gives it back; reads as zero again */

/* Copies memory of this process that may not be there (any more) without risking a fault; false: it is not. Where the
 * kernel forbids process_vm_readv, the pages are asked for first, which leaves a race with an unmapping. errno is lost. */
bool hk_os_read_memory(const void *from, void *to, size_t size);

uint64_t hk_os_clock_ns(void);     /* CLOCK_MONOTONIC */
uint64_t hk_os_physical_memory(void); /* bytes */
uint64_t hk_os_address_limit(void);   /* RLIMIT_AS, bytes; UINT64_MAX: none */

/* A lock of 4 bytes: zero is unlocked; waits in the kernel; not recursive; no thread owns it, so the child of a
 * fork may unlock what the parent's thread locked. Not to be taken in a signal handler. */
typedef struct {
    uint32_t word; /* 0 free, 1 taken, 2 taken and waited for */
} hk_lock;

void hk_lock_wait(hk_lock *lock); /* the slow half of hk_lock_take */
void hk_lock_wake(hk_lock *lock);

static inline bool hk_lock_try(hk_lock *lock)
{
    uint32_t expected = 0;
    return __atomic_compare_exchange_n(&lock->word, &expected, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

static inline void hk_lock_take(hk_lock *lock)
{
    if (!hk_lock_try(lock))
        hk_lock_wait(lock);
}

static inline void hk_lock_release(hk_lock *lock)
{
    if (__atomic_exchange_n(&lock->word, 0, __ATOMIC_RELEASE) == 2)
        hk_lock_wake(lock);
}

#endif
