/* The platform layer for Linux and glibc. See os.h for the contract. */
#include "base/os.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static size_t round_up(size_t size)
{
    size_t page = hk_os_page_size();
    return (size + page - 1) & ~(page - 1);
}

size_t hk_os_page_size(void)
{
    static size_t page;
    if (page == 0)
        page = (size_t)sysconf(_SC_PAGESIZE);
    return page;
}

void *hk_os_reserve(size_t size, size_t alignment)
{
    int saved = errno;
    size_t padded = size + alignment;
    char *start = padded < size ? MAP_FAILED
                                : mmap(NULL, padded, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    errno = saved;
    if (start == MAP_FAILED)
        return NULL;
    char *aligned = (char *)(((uintptr_t)start + alignment - 1) & ~(uintptr_t)(alignment - 1));
    if (aligned > start)
        hk_os_unmap(start, (size_t)(aligned - start));
    size_t tail = padded - (size_t)(aligned - start) - size;
    if (tail > 0)
        hk_os_unmap(aligned + size, tail);
    return aligned;
}

void *hk_os_reserve_zero(size_t size, size_t alignment)
{
    size = round_up(size);
    int saved = errno;
    void *start = hk_os_reserve(size, alignment);
    if (start != NULL && mprotect(start, size, PROT_READ) != 0) {
        hk_os_unmap(start, size);
        start = NULL;
    }
    errno = saved;
    return start;
}

bool hk_os_commit(void *start, size_t size)
{
    int saved = errno;
    bool good = mprotect(start, round_up(size), PROT_READ | PROT_WRITE) == 0;
    errno = saved;
    return good;
}

void hk_os_unmap(void *start, size_t size)
{
    int saved = errno;
    munmap(start, round_up(size));
    errno = saved;
}

void *hk_os_map(size_t size)
{
    int saved = errno;
    void *start = mmap(NULL, round_up(size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    errno = saved;
    return start == MAP_FAILED ? NULL : start;
}

bool hk_os_discard(void *start, size_t size)
{
    int saved = errno;
    bool good = madvise(start, size, MADV_DONTNEED) == 0;
    errno = saved;
    return good;
}

extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden")));

struct code {
    const ElfW(Phdr) *segments;
    uintptr_t shift; /* from where they were linked to where they are */
};

static struct code code_of(const ElfW(Ehdr) *header)
{
    const char *base = (const char *)header;
    const ElfW(Phdr) *segments = (const ElfW(Phdr) *)(base + header->e_phoff), *first = segments;
    while (first->p_type != PT_LOAD)
        first++;
    return (struct code){segments, (uintptr_t)base - first->p_vaddr};
}

static struct code own_code(void)
{
    return code_of(&__ehdr_start);
}

void hk_os_rest_code(void)
{
    int saved = errno;
    struct code code = own_code();
    uintptr_t page = hk_os_page_size();
    for (int i = __ehdr_start.e_phnum - 1; i >= 0; i--) { /* the first to be loaded has this table: it goes last */
        const ElfW(Phdr) *segment = &code.segments[i];
        if (segment->p_type != PT_LOAD || (segment->p_flags & PF_W) != 0)
            continue;
        uintptr_t start = code.shift + segment->p_vaddr, end = start + segment->p_filesz;
        madvise((void *)(start & ~(page - 1)), end - (start & ~(page - 1)), MADV_DONTNEED);
    }
    errno = saved;
}

void hk_os_rest_code_around(const void *function)
{
    enum { AROUND = 64 << 10 }; /* what the kernel maps where a page of code is missed */
    int saved = errno;
    Dl_info info;
    uintptr_t page = hk_os_page_size(), window = (uintptr_t)function & ~(uintptr_t)(AROUND - 1);
    if (dladdr(function, &info) != 0 && memcmp(info.dli_fbase, ELFMAG, SELFMAG) == 0) {
        const ElfW(Ehdr) *header = info.dli_fbase;
        struct code code = code_of(header);
        for (int i = 0; i < header->e_phnum; i++) {
            const ElfW(Phdr) *segment = &code.segments[i];
            uintptr_t start = (code.shift + segment->p_vaddr) & ~(page - 1), end = code.shift + segment->p_vaddr + segment->p_filesz;
            if (segment->p_type != PT_LOAD || (segment->p_flags & PF_W) != 0 || (uintptr_t)function - start >= end - start)
                continue;
            start = window > start ? window : start;
            end = window + AROUND < end ? window + AROUND : end;
            madvise((void *)start, end - start, MADV_DONTNEED);
        }
    }
    errno = saved;
}

void hk_os_part_code(void (*seldom)(void))
{
    struct code code = own_code();
    uintptr_t page = hk_os_page_size(), from = ((uintptr_t)seldom + page - 1) & ~(page - 1);
    for (int i = 0; i < __ehdr_start.e_phnum; i++) {
        uintptr_t start = code.shift + code.segments[i].p_vaddr, end = start + code.segments[i].p_filesz;
        if (code.segments[i].p_type == PT_LOAD && from > start && from < end)
            hk_os_huge_pages((void *)from, end - from, false); /* any flag would do */
    }
}

/* Moves a mapping of its own to where it is wanted. A mapping made there at once would, where it fails, leave a hole
 * in the reservation on most kernels, for any other thread's mmap to fall into; moving one fails hardly ever, and the
 * hole is filled again. */
static bool place(void *made, void *start, size_t size, bool *lost)
{
    if (made == MAP_FAILED)
        return false;
    if (mremap(made, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, start) != MAP_FAILED)
        return true;
    munmap(made, size);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    void *filled = mmap(start, size, PROT_READ | PROT_WRITE, flags, -1, 0);
    *lost = filled != start && (filled != MAP_FAILED || errno != EEXIST); /* EEXIST: there was no hole */
    return false;
}

bool hk_os_place_file(void *start, size_t size, int file, uint64_t offset, bool *lost)
{
    int saved = errno;
    void *made = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, (off_t)offset);
    bool good = place(made, start, size, lost);
    errno = saved;
    return good;
}

bool hk_os_place_huge_pages(void *start, size_t size, bool *lost)
{
    int saved = errno, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 21 << MAP_HUGE_SHIFT;
    bool good = place(mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0), start, size, lost);
    errno = saved;
    return good;
}

bool hk_os_place_plain(void *start, size_t size)
{
    int saved = errno;
    bool good = mmap(start, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == start;
    errno = saved;
    return good;
}

bool hk_os_file_allocate(int file, uint64_t offset, size_t size)
{
    int saved = errno, status = EFBIG;
    struct rlimit limit; /* beyond it the answer is a signal */
    if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || (offset <= limit.rlim_cur && size <= limit.rlim_cur - offset))
        do
            status = posix_fallocate(file, (off_t)offset, (off_t)size);
        while (status == EINTR);
    errno = saved;
    return status == 0;
}

bool hk_os_file_discard(void *start, size_t size)
{
    int saved = errno;
    bool good = madvise(start, size, MADV_REMOVE) == 0;
    errno = saved;
    return good;
}

bool hk_os_is_confined;

void hk_os_huge_pages(void *start, size_t size, bool wanted)
{
    if (hk_os_is_confined)
        return;
    int saved = errno;
    madvise(start, size, wanted ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    errno = saved;
}

uint64_t hk_os_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t hk_os_physical_memory(void)
{
    struct sysinfo info;
    if (sysinfo(&info) != 0)
        return 0;
    return (uint64_t)info.totalram * info.mem_unit;
}

uint64_t hk_os_address_limit(void)
{
    int saved = errno;
    struct rlimit limit;
    bool known = getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
    errno = saved;
    return known ? limit.rlim_cur : UINT64_MAX;
}

#define ONE_FORK ((uintptr_t)1 << 56)
_Static_assert(sizeof(uintptr_t) == 8 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the lowest bit is in the first four bytes");

/* What the kernel looks at: half of the word. Where others wait it differs from any word without that bit. */
static uint32_t *futex_of(hk_lock *lock)
{
    return (uint32_t *)&lock->word;
}

void hk_lock_wait(hk_lock *lock)
{
    int saved = errno;
    for (int spin = 0; spin < 64; spin++) {
        if (hk_lock_try(lock)) {
            errno = saved;
            return;
        }
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    uintptr_t me = hk_os_this_thread();
    for (;;) {
        uintptr_t word = __atomic_load_n(&lock->word, __ATOMIC_RELAXED);
        if (word == 0) { /* taken as one that others wait for: they may */
            if (__atomic_compare_exchange_n(&lock->word, &word, me | 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
                break;
        } else if ((word & 1) || __atomic_compare_exchange_n(&lock->word, &word, word | 1, false, __ATOMIC_RELAXED,
                                                             __ATOMIC_RELAXED)) {
            syscall(SYS_futex, futex_of(lock), FUTEX_WAIT_PRIVATE, (uint32_t)word | 1, NULL, NULL, 0);
        }
    }
    errno = saved;
}

void hk_lock_wake(hk_lock *lock)
{
    int saved = errno;
    syscall(SYS_futex, futex_of(lock), FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    errno = saved;
}

void hk_lock_take_to_fork(hk_lock *lock)
{
    if (hk_lock_is_mine(lock))
        __atomic_add_fetch(&lock->word, ONE_FORK, __ATOMIC_RELAXED);
    else
        hk_lock_take(lock);
}

void hk_lock_release_forked(hk_lock *lock)
{
    if (__atomic_load_n(&lock->word, __ATOMIC_RELAXED) >= ONE_FORK)
        __atomic_sub_fetch(&lock->word, ONE_FORK, __ATOMIC_RELAXED);
    else
        hk_lock_release(lock);
}

bool hk_os_read_memory(const void *from, void *to, size_t size)
{
    if (hk_os_is_confined)
        return false;
    struct iovec here = {to, size}, there = {(void *)(uintptr_t)from, size};
    ssize_t got = process_vm_readv(getpid(), &here, 1, &there, 1, 0);
    if (got == (ssize_t)size)
        return true;
    if (got >= 0 || errno == EFAULT)
        return false;
    uintptr_t page = hk_os_page_size(), start = (uintptr_t)from & ~(page - 1);
    size_t span = ((uintptr_t)from + size - start + page - 1) / page * page;
    unsigned char resident[8];
    if (span / page > sizeof(resident) || mincore((void *)start, span, resident) != 0)
        return false;
    memcpy(to, from, size);
    return true;
}
