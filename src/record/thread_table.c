/* The threads of an exact record: who is who, and which number a thread's sites have.
 *
 * A thread gets its number when it first allocates where a stack can be asked for, and keeps it. Numbers are entries of the section + 1,
 * and are not used again: a thread that has ended keeps its sites. The last number is that of all threads that come when the
 * others are taken, so a program that starts a thread for each request has so many sites for each stack at most.
 *
 * The name is what the kernel has (pthread_setname_np, Python 3.14's threading). A thread gets it after its first allocation, so it is read
 * again with its next new sites. */
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "record/exact.h"
#include "record/internal.h"

#define LOOKS 200 /* at a name */

__thread uint16_t hk_exact_thread;

static uint8_t looks[HK_CAPTURE_THREADS + 1];

static struct hk_capture_thread *entry_of(uint16_t number)
{
    return (struct hk_capture_thread *)hk_rec.section[HK_SECTION_THREADS].data + (number - 1);
}

static void read_name(struct hk_capture_thread *entry)
{
    char name[16] = "";
    if (prctl(PR_GET_NAME, name) != 0)
        return;
    name[sizeof name - 1] = '\0';
    uint32_t text = hk_rec_text(name); /* the same for the same */
    if (text != 0)
        __atomic_store_n(&entry->name, text, __ATOMIC_RELEASE);
}

static uint16_t make(void)
{
    const struct hk_rec_section *section = &hk_rec.section[HK_SECTION_THREADS];
    if (section->count == HK_CAPTURE_THREADS)
        return HK_CAPTURE_THREADS;
    struct hk_capture_thread *entry = hk_rec_append(HK_SECTION_THREADS, 1);
    if (entry == NULL)
        return 0;
    memset(entry, 0, sizeof *entry);
    entry->first_ns = hk_rec_clock() - hk_rec.start_ns;
    if (section->count < HK_CAPTURE_THREADS - 1) {
        entry->id = hk_os_is_confined ? 0 : (uint32_t)syscall(SYS_gettid);
        read_name(entry);
    }
    hk_rec_publish(HK_SECTION_THREADS, 1);
    return (uint16_t)section->count;
}

void hk_rec_meet_thread(void)
{
    if (hk_exact_thread > hk_rec.section[HK_SECTION_THREADS].count)
        hk_exact_thread = 0; /* a forked child's that could not take over its parent's */
    if (hk_exact_thread == 0)
        hk_exact_thread = make();
}

void hk_rec_look_at_thread(void)
{
    uint16_t number = hk_exact_thread;
    if (number == 0 || number == HK_CAPTURE_THREADS || number > hk_rec.section[HK_SECTION_THREADS].count || looks[number] >= LOOKS)
        return;
    looks[number]++;
    read_name(entry_of(number));
}

/* In the child of a fork: its one thread has another number for the kernel. */
void hk_rec_thread_forked(void)
{
    if (hk_exact_thread != 0 && hk_exact_thread < HK_CAPTURE_THREADS && hk_exact_thread <= hk_rec.section[HK_SECTION_THREADS].count)
        entry_of(hk_exact_thread)->id = (uint32_t)getpid();
}
