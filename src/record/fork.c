/* Fork: the child must not write into its parent's file, and gets its own only if it records
 * something.
 *
 *   fork()      handlers take the lock around it, so the child's private memory is consistent.
 *               The child is "detached": it knows its parent's entries (in private memory, and
 *               in the mapping, which it may still read: they are append-only) and blocks, but
 *               writes nothing.
 *   clone()     without handlers: a page that the kernel wipes in the child (MADV_WIPEONFORK)
 *               tells. If another thread was inside the recorder at that moment, private memory
 *               cannot be trusted: start empty.
 *
 * At its first recorded event a detached child makes its own file, copies strings, modules, codes and
 * nodes as far as they were complete at the fork, and those sites that have live blocks; these
 * get new numbers, and are the child's inheritance. Totals start at 0. The parent's mapping is
 * left then.
 *
 * In exact mode every allocation and free is an event, and os.fork() has hundreds of them before
 * the child can exec. So its record is made in unnamed memory, and becomes a file at the child's
 * second tick (128 KiB of allocation apart), if it comes to that. Sites keep their numbers there,
 * since blocks remember them; what is inherited is the sum over the child's own blocks: the
 * parent's counters have moved on.
 */
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "record/internal.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { WIPED = 0, SAME_PROCESS = 1, BEING_DETACHED = 2 };

/* Leaves the parent's file, whose counts in `section` are from now on the parent's. */
void hk_rec_detach(bool trusted)
{
    uint32_t stage = hk_rec.stage;

    if (!trusted) {
        hk_rec_samples_clear(false);
        hk_rec_living_clear(false);
        if (hk_rec.exact && hk_rec.options.forget_blocks)
            hk_rec.options.forget_blocks();
        hk_rec_forget(false);
    }
    if (stage == HK_REC_ON || stage == HK_REC_DETACHED) {
        stage = HK_REC_DETACHED;
        memset(&hk_rec.base, 0, sizeof hk_rec.base);
        if (hk_rec.options.fill_point)
            hk_rec.options.fill_point(&hk_rec.base);
        hk_rec.random += (uint64_t)getpid() * 0x2545f4914f6cdd1du;
        hk_rec.next_tick_ns = 0;
        hk_rec.ticked = hk_rec.naming_tried = false;
        hk_rec.start_ns = hk_rec_clock();
    } else {
        hk_rec_file_close();
        stage = HK_REC_OFF;
    }
    __atomic_store_n(&hk_rec.stage, stage, __ATOMIC_RELEASE);
}

/* Called before the lock is taken, by any thread: in a new process the lock is the parent's. */
void hk_rec_check_wiped(void)
{
    uint32_t seen = WIPED;

    while (!__atomic_compare_exchange_n(hk_rec.wiped, &seen, BEING_DETACHED, false,
                                        __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)) {
        if (seen == SAME_PROCESS)
            return;
        sched_yield();
        seen = WIPED;
    }
    hk_rec_detach(__atomic_load_n(&hk_rec.lock.word, __ATOMIC_RELAXED) == 0);
    __atomic_store_n(&hk_rec.lock.word, 0, __ATOMIC_RELEASE);
    __atomic_store_n(hk_rec.wiped, SAME_PROCESS, __ATOMIC_RELEASE);
}

static bool open_named(void)
{
    char *path = hk_rec.buffer; /* not on the stack: a hook's thread may have little of it */
    const char *why;

    for (uint32_t attempt = 0; hk_rec.options.child_path && attempt < 8; attempt++) {
        if (!hk_rec.options.child_path(path, PATH_MAX, attempt))
            break;
        if (hk_rec_file_open(path, true, 0, 0, hk_rec.options.bound, &why))
            return true;
    }
    return false;
}

static bool open_child_file(void)
{
    const char *why;

    return (!hk_rec.exact && open_named()) || hk_rec_file_unnamed(hk_rec.options.bound, &why);
}

/* The same addresses show the file afterwards, so whoever holds a pointer to a counter may go on. */
void hk_rec_name(void)
{
    uint8_t *memory = hk_rec.map;
    uint64_t bound = hk_rec.bound, file_bytes = hk_rec.file_bytes;
    bool good;

    hk_rec.naming_tried = true;
    if (hk_rec.named || !open_named())
        return;
    uint8_t *file = hk_rec.map;
    good = hk_rec.bound == bound;
    hk_rec.map = memory;
    for (int kind = 1; good && kind < HK_SECTION_KINDS; kind++) {
        const struct hk_rec_section *section = &hk_rec.section[kind];
        uint8_t *place = file + (section->data - memory);
        if (section->ready > 0 && !hk_rec.preallocated)
            good = madvise(place, section->ready, MADV_POPULATE_WRITE) == 0;
        if (good && section->count > 0)
            memcpy(place, section->data, section->count * section->entry_size);
    }
    if (good) {
        memcpy(file, memory, HK_CAPTURE_STATUS_OFFSET + sizeof(struct hk_capture_status));
        good = mremap(file, bound, bound, MREMAP_MAYMOVE | MREMAP_FIXED, memory) == memory;
    }
    hk_rec.file_bytes = file_bytes;
    if (good)
        return;
    munmap(file, bound);
    unlink(hk_rec.path);
    hk_rec.named = false;
    hk_rec.bound = bound;
}

static bool copy_section(int kind, const struct hk_rec_section *parent)
{
    if (parent->count == 0)
        return true;
    void *place = hk_rec_append(kind, parent->count);
    if (!place)
        return false;
    memcpy(place, parent->data, parent->count * parent->entry_size);
    hk_rec_publish(kind, parent->count);
    return true;
}

/* Sites with live blocks follow the table; `numbers` maps the parent's to the child's. */
static bool copy_sites(const struct hk_rec_section *parent)
{
    size_t bytes = (parent->count + 1) * sizeof(uint32_t);
    uint32_t *numbers = hk_rec_map(bytes);
    const struct hk_capture_site *sites = (const struct hk_capture_site *)parent->data;
    struct hk_rec_section *own = &hk_rec.section[HK_SECTION_SITES];
    bool good = numbers != NULL;

    if (good)
        memset(numbers, 0xff, bytes);
    for (uint32_t i = 0; good && i < hk_rec.sample_capacity; i++) {
        struct hk_rec_sample *sample = &hk_rec.samples[i];
        if (sample->block == 0)
            continue;
        const struct hk_capture_site *from = &sites[sample->site];
        if (numbers[sample->site] == HK_REC_NONE) {
            struct hk_capture_site *site;
            if (from->flags & HK_SITE_OTHER) {
                numbers[sample->site] = from->domain;
            } else if ((site = hk_rec_append(HK_SECTION_SITES, 1)) != NULL) {
                memset(site, 0, sizeof *site);
                site->node = from->node;
                site->domain = from->domain;
                site->flags = from->flags;
                numbers[sample->site] = (uint32_t)own->count;
                hk_rec_publish(HK_SECTION_SITES, 1);
            } else {
                good = false;
                break;
            }
        }
        sample->site = numbers[sample->site];
        sample->birth_mark = sample->birth_generation = 0;
        sample->inherited = 1;
        hk_rec_count_birth(hk_rec_site(sample->site), sample);
    }
    hk_rec_unmap(numbers, bytes);
    return good && hk_rec_link_sites();
}

/* Makes the child's own capture. False: nothing can be recorded, the recorder is off. */
bool hk_rec_adopt(void)
{
    struct hk_rec_section parent[HK_SECTION_KINDS];
    uint8_t *parent_map = hk_rec.map;
    uint64_t parent_bound = hk_rec.bound;
    static const int copied[] = {HK_SECTION_STRINGS, HK_SECTION_MODULES, HK_SECTION_CODES, HK_SECTION_NODES,
                                 HK_SECTION_THREADS};
    bool good;

    memcpy(parent, hk_rec.section, sizeof parent);
    hk_rec.forked_from = hk_rec_header()->pid; /* which may have ended by now, so that init is the parent */
    hk_rec.options.forked = 1;
    hk_rec.options.is_first = 0;
    hk_rec.map = NULL;
    good = open_child_file();
    if (good) {
        hk_rec_layout();
        __atomic_store_n(&hk_rec.stage, HK_REC_ON, __ATOMIC_RELEASE);
        for (size_t i = 0; good && i < sizeof copied / sizeof copied[0]; i++)
            good = copy_section(copied[i], &parent[copied[i]]);
        if (hk_rec.exact) {
            hk_rec_thread_forked();
            good = good && hk_exact_adopt(parent) && hk_rec_begin() && hk_rec_living_adopt();
            if (good)
                hk_exact_inherit();
        } else {
            good = good && hk_rec_begin() && copy_sites(&parent[HK_SECTION_SITES]);
        }
        if (good)
            hk_rec_point(true, 0, false);
    }
    hk_exact_refresh();
    munmap(parent_map, parent_bound);
    if (!good) {
        hk_rec_samples_clear(true);
        hk_rec_living_clear(true);
        if (hk_rec.stage != HK_REC_DISK_FULL)
            __atomic_store_n(&hk_rec.stage, HK_REC_OFF, __ATOMIC_RELEASE);
    }
    return good;
}

static void arm_wiped(void)
{
    if (hk_rec.wiped)
        __atomic_store_n(hk_rec.wiped, SAME_PROCESS, __ATOMIC_RELEASE);
}

void hk_record_fork_prepare(void)
{
    if (hk_rec_inside) {
        hk_rec.fork_interrupted = true; /* a signal handler forks that interrupted us */
        return;
    }
    hk_rec_enter();
}

void hk_record_fork_parent(void)
{
    if (hk_rec.fork_interrupted)
        hk_rec.fork_interrupted = false;
    else
        hk_rec_leave();
}

void hk_record_fork_child(void)
{
    int error = errno;

    if (hk_rec.fork_interrupted) {
        /* The interrupted hook will go on in this process, with pointers into the file: nothing
         * is there now. */
        hk_rec.fork_interrupted = false;
        if (hk_rec.map)
            mmap(hk_rec.map, hk_rec.bound, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0); /* shared: else RLIMIT_DATA may refuse it */
        __atomic_store_n(&hk_rec.stage, HK_REC_OFF, __ATOMIC_RELEASE);
        hk_exact_refresh();
        arm_wiped();
        errno = error;
        return;
    }
    hk_rec_detach(true);
    hk_exact_refresh();
    arm_wiped();
    __atomic_store_n(&hk_rec.lock.word, 0, __ATOMIC_RELEASE);
    hk_rec_inside = 0;
    errno = error;
}
