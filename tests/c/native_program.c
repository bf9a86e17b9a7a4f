/* A program to be recorded: functions that ask for memory, one of them in a library that is loaded at run time. Compiled with and without frame pointers. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOT_INLINED __attribute__((noinline, noclone))

static void *volatile keep[64];

NOT_INLINED static void *take(size_t size)
{
    void *block = malloc(size); /* the line of every block that is asked for through take() */
    __asm__ volatile("" : : "r"(block) : "memory");
    return block;
}

NOT_INLINED static int remember(int count)
{
    for (int i = 0; i < count; i++)
        keep[i] = take(1000); /* called from here */
    return count;
}

NOT_INLINED static int forget(int count)
{
    int sum = 0;
    for (int i = 0; i < count; i++) {
        void *block = malloc(500);
        sum += block != NULL;
        __asm__ volatile("" : : "r"(block) : "memory");
        free(block);
    }
    return sum;
}

static inline __attribute__((always_inline)) void *grab(size_t size)
{
    void *block = malloc(size); /* in grab, which is a part of hoard */
    __asm__ volatile("" : : "r"(block) : "memory");
    return block;
}

NOT_INLINED static int hoard(void)
{
    keep[50] = grab(3000); /* the call of grab */
    return keep[50] != NULL;
}

NOT_INLINED static void *xmalloc(size_t size)
{
    void *block = malloc(size);
    __asm__ volatile("" : : "r"(block) : "memory");
    return block;
}

NOT_INLINED static int serve(void)
{
    keep[51] = xmalloc(4000); /* the line to be named */
    return keep[51] != NULL;
}

/* `name` of the library at `path`. */
NOT_INLINED static int from_library(const char *path, const char *name, size_t size, int slot)
{
    void *library = dlopen(path, RTLD_NOW);
    void *(*make)(size_t) = library != NULL ? (void *(*)(size_t))dlsym(library, name) : NULL;
    if (make == NULL)
        return 0;
    keep[slot] = make(size);
    dlclose(library);
    return 1;
}

/* Machine code that this program makes: calls its second argument with its first. */
NOT_INLINED static int made_at_run_time(void)
{
#if defined(__x86_64__)
    static const unsigned char code[] = {0x48, 0x83, 0xec, 0x08, 0xff, 0xd6, 0x48, 0x83, 0xc4, 0x08, 0xc3};
    void *place = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (place == MAP_FAILED)
        return 0;
    memcpy(place, code, sizeof(code));
    if (mprotect(place, 4096, PROT_READ | PROT_EXEC) != 0)
        return 0;
    keep[60] = ((void *(*)(size_t, void *(*)(size_t)))place)(6000, malloc);
#endif
    return 1;
}

NOT_INLINED static int in_a_child(void)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        keep[61] = take(9000);
        exit(keep[61] == NULL);
    }
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

int main(int argc, char **argv)
{
    int good = remember(20) == 20 && forget(30) == 30 && hoard() && serve() && made_at_run_time();
    if (argc > 1)
        good = good && from_library(argv[1], "plugin_make", 7000, 40);
    if (argc > 2) /* where the first one lay */
        good = good && from_library(argv[2], "other_make", 8000, 41);
    return good && in_a_child() ? 0 : 1;
}
