"""Programs that confine themselves by seccomp are not ended for a system call of ours, and go on being recorded."""

import shutil

import pytest

from conftest import check_sums, execute, COMMAND

FILTER = r"""
    #define _GNU_SOURCE
    #include <linux/filter.h>
    #include <linux/seccomp.h>
    #include <stddef.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #define ALLOW(n) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, n, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
    int main(int argc, char **argv)
    {
        /* What glibc's malloc asks for, and the end. */
        struct sock_filter filter[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
            ALLOW(SYS_brk), ALLOW(SYS_mmap), ALLOW(SYS_munmap), ALLOW(SYS_mremap), ALLOW(SYS_madvise), ALLOW(SYS_mprotect),
            ALLOW(SYS_futex), ALLOW(SYS_write), ALLOW(SYS_exit_group), ALLOW(SYS_getpid), ALLOW(SYS_clock_gettime),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)};
        struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
        void *blocks[100] = {0};
        unsigned random = 1;
        void *volatile first = malloc(10); /* glibc asks for more then, too */
        free(first);
        if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, NULL) == 0) return 1; /* as libseccomp asks what there is */
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if (strcmp(argv[1], "prctl") == 0 ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)
                                          : syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
            return 2;
        for (int i = 0; i < 200000; i++) {
            random = random * 1103515245 + 12345;
            int k = (random >> 8) % 100;
            free(blocks[k]);
            blocks[k] = malloc((random >> 12) % 20000);
            if (!blocks[k]) return 3;
            memset(blocks[k], 1, 1);
        }
        return write(1, "done\n", 5) == 5 ? 7 : 4;
    }
"""


@pytest.mark.parametrize("way", ["prctl", "syscall"])
@pytest.mark.parametrize("options", [["--no-record"], ["--sample=4K"], ["--sample=4K", "--native-stacks"],
                                     ["--sample=4K", "--geometry", "guide"]], ids=" ".join)
def test_program_that_may_open_nothing_any_more_runs_to_its_end(heapkeeper, compile_c, way, options, tmp_path):
    program = compile_c(FILTER)
    stock = execute([program, way])
    if stock.status == 2:
        pytest.skip("no seccomp here")
    assert stock.said == (7, b"done\n", b"")
    capture = str(tmp_path / "capture")
    assert execute([COMMAND, "run", "-o", capture, *options, program, way]).said == stock.said
    report = heapkeeper.report(capture)
    assert report["state"] == "ended"
    check_sums(report)
    if "--no-record" not in options:
        assert sum(site["samples"] for site in report["sites"]) > 1000


def test_syscall_and_prctl_are_libcs_otherwise(heapkeeper, compile_c):
    program = compile_c(r"""
        #define _GNU_SOURCE
        #include <errno.h>
        #include <stdio.h>
        #include <string.h>
        #include <sys/mman.h>
        #include <sys/prctl.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        int main(void)
        {
            char name[16] = "", here[4] = "abc", there[4] = "";
            if (prctl(PR_SET_NAME, "a name") || prctl(PR_GET_NAME, name)) return 1;
            if (syscall(SYS_getpid) != getpid() || prctl(PR_GET_SECCOMP) != 0) return 2;
            errno = 0;
            if (syscall(SYS_close, 12345) != -1 || errno != EBADF) return 3;
            void *page = (void *)syscall(SYS_mmap, NULL, 4096L, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L); /* six arguments */
            if (page == MAP_FAILED) return 4;
            printf("%s\n", name);
            return 0;
        }
    """)
    assert execute([program]).said == execute([COMMAND, "run", "-o", "/dev/null", program]).said == (0, b"a name\n", b"")


def test_python_that_may_open_nothing_any_more_runs_to_its_end(heapkeeper):
    """Its own ways of opening are shut, too: of what it runs, all is loaded."""
    code = """
        import ctypes, os, platform, struct, threading
        if platform.machine() != "x86_64": raise SystemExit("skip")
        libc = ctypes.CDLL(None, use_errno=True)
        def op(code, jt, jf, k): return struct.pack("HBBI", code, jt, jf, k)
        # openat, readlink, process_vm_readv: the process is killed
        rules = op(0x20, 0, 0, 0) + b"".join(op(0x15, 0, 1, n) + op(0x06, 0, 0, 0x80000000) for n in (257, 89, 310)) + op(0x06, 0, 0, 0x7fff0000)
        buffer = ctypes.create_string_buffer(rules)
        program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rules) // 8, ctypes.addressof(buffer)))
        def work(n, most=3000): return [bytearray(i % most) for i in range(n)]
        work(1000)
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0
        kept = work(40000)
        thread = threading.Thread(target=work, args=(20000, 400)) # of larger ones glibc, too, opens a file
        thread.start()
        thread.join()
        pid = os.fork()
        if pid == 0:
            kept = work(30000)
            os._exit(3)
        print(len(kept), os.waitpid(pid, 0)[1] >> 8)
    """
    stock = heapkeeper.stock(code)
    if stock.status != 0:
        pytest.skip("no seccomp here")
    for options in ["--sample=16K"], ["--exact"], ["--native"], ["--no-record"]:
        ours = heapkeeper.run(code, options=options)
        assert ours.said == stock.said == (0, b"40000 3\n", b"")
        shutil.move(heapkeeper.output, heapkeeper.output + ".done")
