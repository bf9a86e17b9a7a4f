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

/* Runs at all times in a small program: all of these lie together, so that few pages of our code stay in memory. */
#define HK_HOT __attribute__((hot))
/* The same for constants: beside what the loader writes to at the start, which stays in memory anyway. */
#define HK_HOT_TABLE __attribute__((section(".data.rel.ro")))

size_t hk_os_page_size(void);

/* Address space without memory: reads and writes fault until it is committed. */
void *hk_os_reserve(size_t size, size_t alignment);
void *hk_os_reserve_zero(size_t size, size_t alignment); /* the same, but reads find zeros */
bool hk_os_commit(void *start, size_t size);  /* zero pages, on first touch */
void hk_os_unmap(void *start, size_t size);   /* gives address space back; of a reservation: a tail */
void *hk_os_map(size_t size);                 /* reserve and commit in one */
bool hk_os_discard(void *start, size_t size); /* gives pages back; they read as zero again */
void hk_os_rest_code(void); /* our own code and constants leave memory; what runs again is mapped again */
/* The same for the 64 KiB of code, anybody's, around a function that runs only once. Takes the loader's lock. */
void hk_os_rest_code_around(const void *function);
/* Our code from this function on gets a mapping of its own: where a page of code is missed, the kernel maps 64 KiB around it and
 * more, but nothing of another mapping. */
void hk_os_part_code(void (*seldom)(void));
void hk_os_huge_pages(void *start, size_t size, bool wanted);

/* Other pages in a committed part of a reservation: the file's from `offset` on (shared), or explicit huge pages (size
 * and start: multiples of 2 MiB), or plain ones again. False: it is as it was; or, `*lost`, it must not be used any
 * more. */
bool hk_os_place_file(void *start, size_t size, int file, uint64_t offset, bool *lost);
bool hk_os_place_huge_pages(void *start, size_t size, bool *lost);
bool hk_os_place_plain(void *start, size_t size);
bool hk_os_file_allocate(int file, uint64_t offset, size_t size); /* room on the disk; false: it is full, or a limit reached */
bool hk_os_file_discard(void *start, size_t size);                /* gives it back; reads as zero again */

/* Copies memory of this process that may not be there (any more) without risking a fault; false: it is not. Where the
 * kernel forbids process_vm_readv, the pages are asked for first, which leaves a race with an unmapping. errno is lost. */
bool hk_os_read_memory(const void *from, void *to, size_t size);

/* The program has confined itself (seccomp): a system call that it does not make itself may end it. Of those that the C allocator
 * makes, and can be taken to be allowed, the heap needs no others; files are not opened any more. */
extern bool hk_os_is_confined;

uint64_t hk_os_clock_ns(void);     /* CLOCK_MONOTONIC */
uint64_t hk_os_physical_memory(void); /* bytes */
uint64_t hk_os_address_limit(void);   /* RLIMIT_AS, bytes; UINT64_MAX: none */

/* A lock of one word: zero is unlocked; waits in the kernel; not recursive. It tells whether the calling thread has it, but
 * anybody may unlock it, as the child of a fork does for its parent's thread. A signal handler that takes one waits for
 * ever if the thread that it interrupted has it.
 *
 *      the word   0, or the thread that has it: its address of what is local to threads, a multiple of 16; with
 *      lowest bit others wait for it
 *      high byte  how many forks are under way in signal handlers that interrupted the one who has it */
typedef struct {
    uintptr_t word;
} hk_lock;

void hk_lock_wait(hk_lock *lock); /* the slow half of hk_lock_take */
void hk_lock_wake(hk_lock *lock);

/* Around a fork. If the thread had the lock already, as a signal handler may find it, it has it still after the
 * fork, in both processes, and goes on under it. */
void hk_lock_take_to_fork(hk_lock *lock);
void hk_lock_release_forked(hk_lock *lock);

static inline uintptr_t hk_os_this_thread(void)
{
#if defined(__x86_64__)
    uintptr_t thread;
    __asm__("movq %%fs:0, %0" : "=r"(thread));
    return thread;
#else
    return (uintptr_t)__builtin_thread_pointer();
#endif
}

static inline bool hk_lock_is_mine(const hk_lock *lock)
{
    uintptr_t word = __atomic_load_n(&lock->word, __ATOMIC_RELAXED);
    return (word << 8 >> 8 & ~(uintptr_t)1) == hk_os_this_thread();
}

static inline bool hk_lock_try(hk_lock *lock)
{
    uintptr_t expected = 0;
    return __atomic_compare_exchange_n(&lock->word, &expected, hk_os_this_thread(), false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

static inline void hk_lock_take(hk_lock *lock)
{
    if (!hk_lock_try(lock))
        hk_lock_wait(lock);
}

static inline void hk_lock_release(hk_lock *lock)
{
    if (__atomic_exchange_n(&lock->word, 0, __ATOMIC_RELEASE) & 1)
        hk_lock_wake(lock);
}

#endif
