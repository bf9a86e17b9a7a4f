/* Programs that confine themselves (seccomp): one that opens no file any more may be ended for a call of ours that does.
 *
 *      prctl(PR_SET_SECCOMP, ...), syscall(SYS_seccomp, ...)    which libseccomp makes, too, are seen by their names
 *      a filter        from then on the library opens no file (hk_os_is_confined): what a capture says of the process's own
 *                      memory and modules stays as it was, and the capture is neither cut nor packed at exit
 *      strict mode     nothing but read, write and exit is left: the record ends here
 *
 * A filter that the process has from its start lets the loader open files. One that code sets without libc is not seen. */
#include <asm/unistd.h>
#include <errno.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/os.h"
#include "heapkeeper/heap.h"
#include "hosts/malloc/interpose.h"
#include "record/record.h"

/* Their prototypes have no fixed number of arguments, and this file includes none of them. */
HK_API int hk_confine_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d) __asm__("prctl");
HK_API long hk_confine_syscall(long number, long a, long b, long c, long d, long e, long f) __asm__("syscall");

/* Before it is; false: it was so already. */
static bool confine(bool is_strict)
{
    bool was = hk_os_is_confined;
    if (is_strict)
        hk_record_freeze();
    hk_os_is_confined = true;
    return !was;
}

HK_API int hk_confine_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
    hk_next_find();
    if (option != PR_SET_SECCOMP)
        return hk_next.prctl(option, a, b, c, d);
    bool began = confine(a == SECCOMP_MODE_STRICT);
    int status = hk_next.prctl(option, a, b, c, d);
    if (status != 0 && began)
        hk_os_is_confined = false;
    return status;
}

static __attribute__((noinline)) long confining_syscall(long number, long operation, long flags, long program)
{
    bool began = confine(operation == SECCOMP_SET_MODE_STRICT);
    long status = hk_next.syscall(number, operation, flags, program, 0, 0, 0);
    if (status < 0 && began)
        hk_os_is_confined = false;
    return status;
}

/* The last call is a jump, as vfork may be what is asked for. */
HK_API long hk_confine_syscall(long number, long a, long b, long c, long d, long e, long f)
{
    if (__builtin_expect(hk_next.syscall == NULL, 0))
        hk_next_find();
    if (__builtin_expect(hk_next.syscall == NULL, 0)) { /* while it is looked up */
        errno = ENOSYS;
        return -1;
    }
    if (number == __NR_seccomp && ((a == SECCOMP_SET_MODE_STRICT && b == 0) || (a == SECCOMP_SET_MODE_FILTER && c != 0)))
        return confining_syscall(number, a, b, c);
    return hk_next.syscall(number, a, b, c, d, e, f);
}
