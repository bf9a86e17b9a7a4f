/* What happens when the library is preloaded: the constructor of `heapkeeper run`.
 *
 *      1. malloc: is it to be ours in this process? (family_start.c; in the product without the family: no)
 *      2. is there a CPython? Then the heap is installed as its three domains (hosts/cpython)
 *      3. if either: the recorder is started, as the environment says, and connected to the heaps. If neither: nothing,
 *         no reservation, no file, no thread
 *
 * The environment, set by the command (src/cli/run.c):
 *   HEAPKEEPER_MODE        none, sample, exact (where that is not possible: sample); unset: the heap alone, nothing is recorded
 *   HEAPKEEPER_SAMPLE      mean distance in bytes, 0: automatic
 *   HEAPKEEPER_RUN         run id, 32 hexadecimal digits
 *   HEAPKEEPER_CAPTURE     the file that the command made for its own process, and
 *   HEAPKEEPER_CAPTURE_ID  its "device:inode:pid"; only that pid may take it, and only once
 *   HEAPKEEPER_OUTPUT      -o's argument: further processes write OUTPUT.PID; /dev/null: all record into memory
 *   HEAPKEEPER_CAPTURE_DIR else: further processes write DIR/NAME.PID.SECONDS.N.hkc
 *   HEAPKEEPER_ALIGN       16: mem's and object's blocks are aligned to 16 in the guide's geometry, too
 *   HEAPKEEPER_DEBUG       1: heaps are in debug mode
 *   HEAPKEEPER_NATIVE      who has the malloc family: all, or one pid
 *   HEAPKEEPER_NATIVE_STACKS  1: with the callers of those who call malloc
 *   HEAPKEEPER_CHILDREN    keep: small children are not folded into the run's summary
 *   HEAPKEEPER_TRACEMALLOC 1: with exact recording, Python's _tracemalloc is ours
 *   HEAPKEEPER_SEED        of the sampler, for tests
 *
 * Nothing is printed: what there is to say goes into the capture. Except in debug mode, which was asked for. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "heap/debug.h"
#include "hosts/cpython/domains.h"
#include "hosts/cpython/exact.h"
#include "hosts/cpython/lines_auto.h"
#include "hosts/cpython/tracemalloc.h"
#include "hosts/malloc/family.h"
#include "hosts/malloc/interpose.h"
#include "hosts/native/stack.h"
#include "record/record.h"

static struct {
    const char *directory, *output, *children, *main; /* "" where there is none */
    bool keep_nothing;
    bool first; /* the process that the command became, whatever it has exec'd since */
} naming = {"", "", "", "", false, false};

enum { LONGEST_PATH = 3072, CHILDREN_NAME = 64 };

/* A copy, behind the others, so that they take a page and not one each. Too long: "". */
static const char *keep(const char *text, size_t limit)
{
    static char kept[3 * LONGEST_PATH + LONGEST_PATH + CHILDREN_NAME];
    static size_t used;
    size_t size = text != NULL ? strlen(text) + 1 : 0;
    if (size == 0 || size > limit || size > sizeof(kept) - used)
        return "";
    used += size;
    return memcpy(kept + used - size, text, size);
}

static bool parse_run_id(const char *text, uint8_t id[16])
{
    if (text == NULL || strlen(text) != 32)
        return false;
    for (int i = 0; i < 16; i++) {
        char pair[] = {text[2 * i], text[2 * i + 1], '\0'}, *end;
        id[i] = (uint8_t)strtoull(pair, &end, 16);
        if (*end != '\0')
            return false;
    }
    return true;
}

/* The path for a further process (a child, or this one after an exec); attempt counts names that were taken. */
static bool child_path(char *buffer, size_t capacity, uint32_t attempt)
{
    int length;
    if (naming.keep_nothing)
        return false;
    if (naming.output[0] != '\0') {
        if (attempt == 0)
            length = snprintf(buffer, capacity, "%s.%d", naming.output, (int)getpid());
        else
            length = snprintf(buffer, capacity, "%s.%d.%u", naming.output, (int)getpid(), attempt);
    } else if (naming.directory[0] != '\0') {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        length = snprintf(buffer, capacity, "%s/%.64s.%d.%lld.%u.hkc", naming.directory, program_invocation_short_name,
                          (int)getpid(), (long long)now.tv_sec, attempt);
    } else {
        return false;
    }
    return length > 0 && (size_t)length < capacity;
}

static void read_naming(void)
{
    const char *output = secure_getenv("HEAPKEEPER_OUTPUT"), *directory = secure_getenv("HEAPKEEPER_CAPTURE_DIR");
    const char *run = secure_getenv("HEAPKEEPER_RUN"), *first = secure_getenv("HEAPKEEPER_CAPTURE");
    char children[LONGEST_PATH + CHILDREN_NAME] = "";
    naming.output = keep(output, LONGEST_PATH);
    naming.directory = keep(directory, LONGEST_PATH);
    naming.main = keep(first, LONGEST_PATH);
    naming.keep_nothing = strcmp(naming.output, "/dev/null") == 0;
    const char *slash = strrchr(naming.output, '/');
    if (run == NULL || naming.keep_nothing || secure_getenv("HEAPKEEPER_CHILDREN") != NULL)
        return;
    if (slash != NULL)
        snprintf(children, sizeof(children), "%.*s/%.32s.children", (int)(slash - naming.output), naming.output, run);
    else if (naming.directory[0] != '\0')
        snprintf(children, sizeof(children), "%s/%.32s.children", naming.directory, run);
    naming.children = keep(children, sizeof(children));
}

/* The file that the command made for us, if it did and nobody has used it. */
static bool take_handed_file(struct hk_record_options *options)
{
    const char *path = secure_getenv("HEAPKEEPER_CAPTURE"), *id = secure_getenv("HEAPKEEPER_CAPTURE_ID");
    unsigned long long number[3] = {0}; /* device, inode, process; strtoull, as sscanf is 64 KiB more of the C library */
    struct stat status;
    for (int i = 0; i < 3; i++) {
        char *end;
        number[i] = id != NULL ? strtoull(id, &end, 10) : 0;
        if (id == NULL || end == id || *end != (i < 2 ? ':' : '\0'))
            return false;
        id = end + 1;
    }
    naming.first = number[2] == (unsigned long long)getpid();
    if (path == NULL || !naming.first)
        return false;
    if (lstat(path, &status) != 0 || status.st_dev != number[0] || status.st_ino != number[1] || status.st_size != 0)
        return false;
    options->path = path;
    options->path_is_new = false;
    options->device = number[0];
    options->inode = number[1];
    return true;
}

/* What the blocks of the mem and object domains are aligned to, as in hk_heap_options. */
static size_t alignment(void)
{
    const char *text = secure_getenv("HEAPKEEPER_ALIGN");
    return text != NULL && strcmp(text, "16") == 0 ? 16 : 8;
}

static void tick(hk_heap *heap, uint64_t allocated_bytes)
{
    hk_record_tick(allocated_bytes);
}

/* A tick of either side may be the one that sees a reader's request. */
static int32_t trim(void)
{
    int32_t python = hk_cpython_trim(), native = hk_family_trim();
    return python < 0 ? native : native < 0 ? python : python + native;
}

/* Stacks, and heaps whose blocks are recorded. */
static void attach(bool samples)
{
    const char *why = NULL;
    if (hk_family_heap() != NULL) {
        why = hk_native_init(secure_getenv("HEAPKEEPER_NATIVE_STACKS") != NULL, hk_cpython_address());
        hk_record_set_source(&hk_native_source);
        hk_recorder = (struct hk_heap_recorder){
            .draw = samples ? hk_record_draw : NULL,
            .allocation = hk_record_allocation,
            .free = hk_record_free,
            .rename = hk_record_rename,
            .table_size = hk_record_table_size,
            .foreign = NULL, /* blocks from before we served */
            .tick = tick,
            .collection = hk_record_collection,
        };
    }
    if (why != NULL)
        hk_record_event(HK_EVENT_NOTE, 0, why);
    hk_cpython_attach_recorder(samples);
    hk_family_attach_recorder(samples);
    if (hk_cpython_is_exact())
        hk_family_record((struct hk_family_recorder){hk_cpython_exact_native_born, hk_cpython_exact_native_dies, hk_cpython_exact_native_moves});
}

static void note_sampled(const char *why)
{
    char text[160];
    snprintf(text, sizeof text, "recorded by samples, not every block: %s", why);
    hk_record_event(HK_EVENT_NOTE, 0, text);
}

static bool record_start(void)
{
    static char path[4096];
    const char *mode = secure_getenv("HEAPKEEPER_MODE"), *sample = secure_getenv("HEAPKEEPER_SAMPLE"), *bound = secure_getenv("HEAPKEEPER_BOUND");
    const char *why = NULL;
    if (mode == NULL)
        return false;
    struct hk_record_options options = {
        .mode = strcmp(mode, "none") == 0 ? HK_MODE_NONE : HK_MODE_SAMPLE,
        .sample_bytes = sample != NULL ? strtoull(sample, NULL, 10) : 0,
        .alignment = (uint32_t)alignment(),
        .child_path = child_path,
        .fill_point = hk_cpython_fill_point,
        .trim = trim,
    };
    const char *why_sampled = strcmp(mode, "exact") == 0 ? hk_cpython_exact_prepare(hk_family_heap() != NULL) : "";
    if (why_sampled == NULL) {
        options.mode = HK_MODE_EXACT;
        options.host_counts = true;
        options.bound = HK_CAPTURE_EXACT_BOUND;
        options.visit_blocks = hk_cpython_exact_visit;
        options.forget_blocks = hk_cpython_exact_forget_all;
    }
    if (bound != NULL)
        options.bound = strtoull(bound, NULL, 10);
    read_naming();
    parse_run_id(secure_getenv("HEAPKEEPER_RUN"), options.run_id);
    options.python_version = hk_cpython_version(&options.python_flags);
    bool handed = take_handed_file(&options);
    options.is_first = naming.first;
    bool started = handed && hk_record_start(&options, &why);
    for (uint32_t attempt = 0; !started && attempt < 16 && child_path(path, sizeof(path), attempt); attempt++) {
        options.path = path;
        options.path_is_new = true;
        options.exec_count = attempt;
        started = hk_record_start(&options, &why);
    }
    if (!started) {
        options.path = NULL;
        started = hk_record_start(&options, &why);
    }
    if (started && why_sampled != NULL && *why_sampled != '\0')
        note_sampled(why_sampled);
    if (started)
        attach(options.mode == HK_MODE_SAMPLE);
    if (started && options.mode == HK_MODE_EXACT && secure_getenv("HEAPKEEPER_TRACEMALLOC") != NULL)
        hk_cpython_tracemalloc_prepare();
    return started;
}

static void fork_prepare(void)
{
    hk_threads_fork_prepare();
    hk_family_fork_prepare();
    hk_cpython_fork_prepare();
    hk_record_fork_prepare();
}

static void fork_parent(void)
{
    hk_record_fork_parent();
    hk_cpython_fork_release(false);
    hk_family_fork_release();
    hk_threads_fork_parent();
}

static void fork_child(void)
{
    naming.first = false;
    hk_record_fork_child();
    hk_cpython_fork_release(true);
    hk_family_fork_release();
    hk_threads_fork_child();
}

void hk_preload_watch_forks(void)
{
    static bool done;
    if (!done)
        pthread_atfork(fork_prepare, fork_parent, fork_child);
    done = true;
}

/* True for one process of a run whose own has recorded nothing (a shell, timeout, make): it stands for the run. */
static bool stands_for_the_run(void)
{
    struct stat status;
    if (naming.main[0] == '\0' || hk_os_is_confined || stat(naming.main, &status) != 0 || status.st_size != 0)
        return false;
    int fd = open(naming.children, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static void at_exit(void)
{
    hk_debug_check_at_exit();
    hk_cpython_watch_at_exit();
    bool is_child = !naming.first && naming.children[0] != '\0';
    hk_record_exit(is_child && !stands_for_the_run() ? naming.children : NULL);
}

__attribute__((constructor)) static void preload(void)
{
    const char *why = NULL;
    int saved = errno;
    hk_os_part_code((void (*)(void))hk_interrupted_malloc); /* src/heap/meson.build: what runs in every program comes before */
    hk_threads_host_forks = true; /* see fork_prepare */
    hk_interpose_init();
    hk_family_start();
    enum hk_capture_watch watch = hk_cpython_install(alignment(), &why);
    if (hk_debug_on)
        hk_interpose_debug();
    if (watch == HK_WATCH_OURS && hk_family_heap() == NULL)
        hk_large_expect();
    bool any = watch != HK_WATCH_NOT_PYTHON || hk_family_heap() != NULL;
    if (any && record_start()) {
        hk_interpose_at_exit = at_exit;
        if (watch != HK_WATCH_OURS)
            hk_record_set_watch(watch, why);
    }
    if (watch == HK_WATCH_OURS)
        hk_preload_watch_forks();
    while (dlerror() != NULL)
        ; /* what we did not find is not the program's error */
    hk_os_rest_code(); /* most of it was for the start */
    errno = saved;
}

__attribute__((destructor)) static void unload(void)
{
    if (hk_interpose_at_exit != NULL)
        at_exit();
    hk_cpython_lines_at_exit();
}
