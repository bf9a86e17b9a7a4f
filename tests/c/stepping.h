/* A signal at every instruction of a piece of code: the processor's trap flag, and a handler for the traps. What it does at
 * one of them happens in a child, so that a handler can be tried at each place that it could interrupt. x86-64; elsewhere nothing
 * is stepped. */
#ifndef HK_TESTS_STEPPING_H
#define HK_TESTS_STEPPING_H

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define CAN_STEP true
#else
#define CAN_STEP false
#endif

enum { TRAP_FLAG = 0x100, CHILD_SECONDS = 20, MOST_CHILDREN = 2000 };

enum step_child { STEP_ENDS, STEP_WORKS, STEP_GOES_ON, STEP_CHILDREN };

static struct {
    long step, stride; /* traps so far; a child at every so many of them; 0: they are only counted */
    long children, failed_at;
    int failed_status;
    bool is_child;             /* that goes on where the handler interrupted it */
    void (*work)(void);        /* of a child in the handler */
} stepping;

/* Forks, as a handler may. What the children do takes turns: end at once, work and end, or go on. */
static inline bool fork_in_handler(void)
{
    enum step_child kind = (enum step_child)(stepping.children++ % STEP_CHILDREN);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(CHILD_SECONDS);
        if (kind == STEP_WORKS)
            stepping.work();
        if (kind != STEP_GOES_ON)
            _exit(0);
        return stepping.is_child = true;
    }
    int status = -1;
    while (waitpid(pid, &status, 0) < 0)
        ;
    if (status != 0 && stepping.failed_at == 0) {
        stepping.failed_at = stepping.step;
        stepping.failed_status = status;
    }
    return false;
}

#if defined(__x86_64__)
static inline void step_handler(int number, siginfo_t *info, void *context)
{
    ucontext_t *interrupted = context;
    (void)number;
    (void)info;
    stepping.step++;
    if (stepping.stride != 0 && stepping.step % stepping.stride == 0 && stepping.children < MOST_CHILDREN && fork_in_handler())
        interrupted->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
}

static inline void step_begin(void)
{
    __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() | TRAP_FLAG);
}

static inline void step_end(void)
{
    __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() & ~(unsigned long long)TRAP_FLAG);
}

static inline void step_prepare(long stride, void (*work)(void))
{
    struct sigaction action = {.sa_sigaction = step_handler, .sa_flags = SA_SIGINFO | SA_RESTART};
    memset(&stepping, 0, sizeof(stepping));
    stepping.stride = stride;
    stepping.work = work;
    sigaction(SIGTRAP, &action, NULL);
}
#else
static inline void step_begin(void) { }
static inline void step_end(void) { }
static inline void step_prepare(long stride, void (*work)(void)) { }
#endif

/* That so many children were made, and all ended well; if not, says so. */
static inline bool step_went_well(long least)
{
    if (stepping.failed_at != 0)
        fprintf(stderr, "at instruction %ld of %ld: status %#x\n", stepping.failed_at, stepping.step, stepping.failed_status);
    return stepping.failed_at == 0 && stepping.children >= least;
}

/* Runs `body` in a process of its own, under a timer; it ends itself well with status 0. Returns its status. */
static inline int in_process(void (*body)(void), unsigned seconds)
{
    int status = -1;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(seconds);
        body();
        _exit(0);
    }
    return waitpid(pid, &status, 0) == pid ? status : -1;
}

#endif
