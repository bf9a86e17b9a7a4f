/* Preloaded into native_program by test_native: malloc and free, recorded exactly, with nothing else of
 * heapkeeper around. NATIVE_CAPTURE names the capture, NATIVE_WHOLE asks for whole stacks, NATIVE_NO_TABLES makes
 * as if there were no unwinder. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "hosts/native/stack.h"
#include "record/record.h"

#define EXPORT __attribute__((visibility("default")))

extern void *__libc_malloc(size_t size);
extern void __libc_free(void *block);

static bool ready;
static uint64_t allocated;

static void fill_point(struct hk_capture_point *point)
{
    point->allocated_bytes = point->domain_allocated_bytes[3] = allocated;
}

EXPORT void *malloc(size_t size)
{
    void *block = __libc_malloc(size);
    if (ready) {
        allocated += size;
        hk_record_allocation(block, size, 0, 3);
        hk_record_tick(allocated);
    }
    return block;
}

EXPORT void free(void *block)
{
    if (ready && block != NULL)
        hk_record_free(block);
    __libc_free(block);
}

static bool child_path(char *buffer, size_t capacity, uint32_t attempt)
{
    snprintf(buffer, capacity, "%s.child", getenv("NATIVE_CAPTURE"));
    return attempt == 0;
}

static void finish(void)
{
    ready = false;
    hk_record_exit(NULL);
}

__attribute__((constructor)) static void start(void)
{
    const char *why = NULL, *path = getenv("NATIVE_CAPTURE");
    struct hk_record_options options = {.mode = HK_MODE_EXACT, .path = path, .path_is_new = true, .fill_point = fill_point,
                                        .child_path = child_path};
    if (path == NULL || !hk_record_start(&options, &why))
        return;
    hk_native_no_unwinder = getenv("NATIVE_NO_TABLES") != NULL;
    why = hk_native_init(getenv("NATIVE_WHOLE") != NULL, NULL);
    if (why != NULL)
        hk_record_event(HK_EVENT_NOTE, 0, why);
    hk_record_set_source(&hk_native_source);
    unsetenv("LD_PRELOAD");
    pthread_atfork(hk_record_fork_prepare, hk_record_fork_parent, hk_record_fork_child);
    atexit(finish);
    ready = true;
}
