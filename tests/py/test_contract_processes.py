"""Contract 5: all the ways in which a program starts another, or itself anew. docs/processes.md has the table; its rows
name these tests, which the last test here checks.
"""

import glob
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import textwrap

import pytest

from conftest import (COMMAND, MALLOC_PRELOAD, PRELOAD, TREE, all_interpreters, check_real_path, check_sums, clean_environment, execute,
                      interpreter, live_in)

# Over 64 MiB: a child that ended well keeps its capture then.
BIG = "def remember(): return [bytearray(1000) for _ in range(70000)]\nkeep = remember()\n"
CHILD = [sys.executable, "-c", BIG]


def family(heapkeeper):
    reports = {}
    for path in heapkeeper.captures:
        report = heapkeeper.report(path)
        check_sums(report)
        reports.setdefault(report["pid"], []).append(report)
    return reports


def parent_of(heapkeeper, code, python=None, **rest):
    """Runs code, which prints the pids of its children; their reports."""
    prelude = "import os, subprocess, sys\nchild = [sys.executable, '-c', %r]\n" % BIG
    done = heapkeeper.good(["-c", prelude + textwrap.dedent(code)], python=python, **rest)
    reports = family(heapkeeper)
    pids = [int(word) for word in done.out.split()]
    return [reports.pop(pid) for pid in pids], reports


# --- Python starts Python ---


def test_python_that_is_exec_d_gets_a_capture_of_its_own(heapkeeper, every_python):
    code = BIG + "import os, sys; os.execv(sys.executable, [sys.executable, '-c', %r])" % BIG
    heapkeeper.good(["-c", code], python=every_python)
    (first, second), = family(heapkeeper).values()
    assert {first["state"], second["state"]} == {"execed", "ended"}
    for report in (first, second):
        check_real_path(report, report["state"], every_python)
        assert live_in(report, "remember") > 50e6


def test_a_small_program_that_execs_itself_is_shown_as_what_it_became(heapkeeper):
    heapkeeper.good(["-c", "import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'import os; print(os.getpid())'])"])
    said = execute([COMMAND, "report", "--json", heapkeeper.output])
    processes = json.loads(said.out)["processes"]
    assert [process["state"] for process in processes] == ["execed", "ended"], processes


def test_a_run_is_of_the_program_that_a_shell_became_and_not_of_what_it_called_before(heapkeeper, tmp_path):
    places = {"HEAPKEEPER_DIR": str(tmp_path / "captures")}
    script = "readlink /proc/self/exe >/dev/null; exec '%s' -c 'import os; kept = bytearray(3 << 20); print(os.getpid())'" % sys.executable
    done = execute([COMMAND, "run", "--native", "sh", "-c", script], env=places)
    report = json.loads(execute([COMMAND, "report", "--json"], env=places).out)
    assert done.status == 0 and report["pid"] == int(done.out)
    assert {process["program"] for process in report["processes"]} == {"readlink", "-c"}, "then this would show nothing"


STARTS = {
    "subprocess": "p = subprocess.Popen(child); p.wait(); print(p.pid)",
    "posix_spawn": "pid = os.posix_spawn(child[0], child, os.environ); os.waitpid(pid, 0); print(pid)",
    "fork and exec": "pid = os.fork() or os.execv(child[0], child); os.waitpid(pid, 0); print(pid)",
    "preexec_fn": "p = subprocess.Popen(child, preexec_fn=os.getpid); p.wait(); print(p.pid)",
    "new session, descriptors closed": "p = subprocess.Popen(child, start_new_session=True, close_fds=True); "
                                       "p.wait(); print(p.pid)",
    "asyncio": """
        import asyncio
        async def main():
            process = await asyncio.create_subprocess_exec(*child)
            await process.wait()
            print(process.pid)
        asyncio.run(main())""",
    "os.spawnv": "pid = os.spawnv(os.P_NOWAIT, child[0], child); os.waitpid(pid, 0); print(pid)",
}


@pytest.mark.parametrize("way", STARTS)
def test_python_child_gets_a_capture_of_its_own_when_started_by(heapkeeper, way):
    # Between fork and exec the child may have recorded something, and has a capture of that, too.
    (captures,), rest = parent_of(heapkeeper, STARTS[way])
    child = captures[-1]
    check_real_path(child)
    assert live_in(child, "remember") > 50e6
    assert child["parent_pid"] in rest
    assert [row["pid"] for row in heapkeeper.report()["processes"]].count(child["pid"]) == len(captures)
    assert [report["state"] for report in captures[:-1]] == ["execed"] * (len(captures) - 1)


def test_daemon_that_forks_twice_closes_everything_and_leaves_its_directory_is_recorded(heapkeeper, tmp_path):
    code = """
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.chdir("/")
                os.umask(0)
                for fd in range(1024):
                    if fd != writer:
                        try: os.close(fd)
                        except OSError: pass
                for _ in range(3):
                    os.open(os.devnull, os.O_RDWR)
                exec(child[2])
                os.write(writer, b"%d" % os.getpid())
            os._exit(0)
        os.close(writer)
        print(int(os.read(reader, 100)))
        os.read(reader, 1)   # until the daemon has ended
    """
    ((daemon,),), _ = parent_of(heapkeeper, code, cwd=str(tmp_path))
    check_real_path(daemon, state=daemon["state"])
    assert daemon["state"] == "ended" and live_in(daemon, "remember") > 50e6


def test_virtual_environments_python_is_recorded_and_stays_one(heapkeeper, tmp_path):
    venv = tmp_path / "venv"
    execute([heapkeeper.python.path, "-m", "venv", "--without-pip", str(venv)])
    python = str(venv / "bin" / "python")
    code = BIG + "import sys; print(sys.prefix); sys.prefix == sys.base_prefix and sys.exit(3)"
    assert heapkeeper.good(["-c", code], python=python).out.decode().strip() == str(venv)
    check_real_path(heapkeeper.report())
    script = venv / "bin" / "tool"
    script.write_text("#!%s\n%s" % (python, code))
    script.chmod(0o755)
    assert heapkeeper.good([], python=str(script)).out.decode().strip() == str(venv)
    heapkeeper.recorded()


def test_virtual_environment_can_be_made_under_us(heapkeeper, tmp_path):
    heapkeeper.good(["-m", "venv", "--without-pip", str(tmp_path / "venv")])
    assert (tmp_path / "venv" / "pyvenv.cfg").exists()
    check_real_path(heapkeeper.report())


def test_program_that_starts_itself_anew_by_sys_executable_keeps_being_recorded(heapkeeper):
    code = "if len(sys.argv) > 1: exec(child[2])\nelse:\n    p = subprocess.Popen([sys.executable, '-c', child[2]])\n" \
           "    p.wait(); print(p.pid)"
    ((child,),), _ = parent_of(heapkeeper, code)
    check_real_path(child)


# --- another program starts Python ---

WRAPPERS = {
    "nice": ["nice", "-n", "0"],
    "env": ["env", "A=b"],
    "timeout": ["timeout", "60"],
    "shell that execs": ["sh", "-c", 'exec "$0" "$@"'],
    "shell that waits": ["sh", "-c", '"$0" "$@"; exit $?'],
    "xargs": ["xargs", "-n", "100", sys.executable],
    "setsid": ["setsid", "--wait"],
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_python_behind_a_wrapper_is_recorded(heapkeeper, tmp_path, name):
    words = WRAPPERS[name]
    if not shutil.which(words[0]):
        pytest.skip("no " + words[0])
    script = tmp_path / "script.py"
    script.write_text(BIG)
    line = ("%s\n" % script).encode()
    behind = [] if name == "xargs" else [heapkeeper.python.path, str(script)]
    done = heapkeeper.run(words[1:] + behind, python=shutil.which(words[0]), input=line if name == "xargs" else None)
    assert (done.status, done.out, done.err) == (0, b"", b"")
    recorded = [path for path in heapkeeper.captures if os.path.getsize(path)]
    assert len(recorded) == 1, "the wrapper itself has none"
    report = heapkeeper.recorded(recorded[0])
    assert live_in(report, "remember") > 50e6
    assert heapkeeper.report()["pid"] == report["pid"], "and it is found by the name that the user gave"


@pytest.mark.parametrize("output", [True, False])
def test_small_python_behind_a_wrapper_stands_for_the_run(heapkeeper, tmp_path, output):
    """Of many small children only a summary is kept, but not if that were all that there is of the run."""
    script = '"$0" -c "$1"; "$0" -c "$1"; "$0" -c "$1"'
    code = "def remember(): return [bytearray(1000) for _ in range(5000)]\nkeep = remember()"
    words = ["sh", "-c", script, heapkeeper.python.path, code]
    heapkeeper.output = str(tmp_path / "capture")
    environment = {"HEAPKEEPER_DIR": str(tmp_path / "place")}
    options = ["-o", heapkeeper.output] if output else []
    done = execute([COMMAND, "run", "--sample=16K", *options, *words], env=environment)
    assert (done.status, done.out, done.err) == (0, b"", b"")
    said = execute([COMMAND, "report", "--json"] + ([heapkeeper.output] if output else []), env=environment)
    report = said.json
    check_real_path(report)
    assert live_in(report, "remember") > 3e6
    assert report["small_children"]["count"] == 2


def test_pipeline_of_several_pythons_in_a_shell_is_one_run(heapkeeper):
    script = 'for i in 1 2 3; do "$0" -c "$1" & done; wait; cat /dev/null | "$0" -c "$1"'
    done = heapkeeper.run(["-c", script, heapkeeper.python.path, BIG], python=shutil.which("sh"))
    assert (done.status, done.err) == (0, b"")
    recorded = [path for path in heapkeeper.captures if os.path.getsize(path)]
    assert len(recorded) == 4
    report = heapkeeper.recorded(recorded[0])
    assert len(report["processes"]) == 4


# --- where we cannot be ---


def test_child_with_a_cleared_environment_runs_unrecorded(heapkeeper):
    code = """
        keep = [bytearray(1000) for _ in range(70000)]
        done = subprocess.run([sys.executable, "-c", "print(sum(1 for k in __import__('os').environ if 'HEAPK' in k))"],
                              env={}, stdout=subprocess.PIPE, check=True)
        assert done.stdout == b"0\\n", done
    """
    _, rest = parent_of(heapkeeper, code)
    (report,), = rest.values()
    check_real_path(report)


def test_command_in_front_of_env_i_says_afterwards_that_nothing_was_recorded(heapkeeper):
    done = heapkeeper.run(["-i", heapkeeper.python.path, "-c", "print('hello')"], python=shutil.which("env"))
    assert (done.status, done.out, done.err) == (0, b"hello\n", b"")
    said = execute([COMMAND, "report", heapkeeper.output])
    assert said.status == 1 and b"nothing recorded" in said.err and said.err.count(b"\n") == 1


@pytest.mark.parametrize("left", ["LD_PRELOAD", "HEAPKEEPER_"])
def test_child_that_keeps_a_part_of_the_environment_runs_and_disturbs_no_file(heapkeeper, left):
    """sudo's env_keep, a container's list of variables: only the library, or only what it is told."""
    code = """
        keep = [bytearray(1000) for _ in range(20000)]
        part = {k: v for k, v in os.environ.items() if k.startswith(%r)}
        out = subprocess.run(child[:2] + [child[2] + "print(len(keep))"], env=part, stdout=subprocess.PIPE, check=True)
        assert out.stdout == b"70000\\n", out
    """ % left
    _, rest = parent_of(heapkeeper, code)
    (report,), = rest.values()
    check_real_path(report)


def readable_copy(name):
    """The build's products where everybody may read them."""
    directory = "/tmp/heapkeeper-test-%d-%s" % (os.getpid(), name)
    os.makedirs(directory)
    for path in (COMMAND, PRELOAD, MALLOC_PRELOAD):
        shutil.copy(path, directory)
    os.chmod(directory, 0o755)
    return directory


@pytest.mark.parametrize("name", ["a b:c", "with space", "colon:", "$ORIGIN", "quote'\"", "t\u00fcr", "per%cent"])
def test_library_path_that_the_loader_would_split_or_expand_works(heapkeeper, tmp_path, name):
    """The loader splits LD_PRELOAD at spaces and colons, and replaces $ORIGIN."""
    directory = tmp_path / name
    directory.mkdir()
    for path in (COMMAND, PRELOAD):
        shutil.copy(path, str(directory))
    output = str(directory / "capture")
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', %r], check=True)" % BIG
    done = execute([str(directory / "heapkeeper"), "run", "--sample=16K", "-o", output, heapkeeper.python.path, "-c",
                    BIG + child], env={"HEAPKEEPER_DIR": str(directory / "place")})
    assert (done.status, done.err) == (0, b"")
    found = glob.glob(glob.escape(output) + "*")
    assert len(found) == 2
    for path in found:
        heapkeeper.recorded(path)


def test_set_user_id_program_runs_as_ever_and_trusts_nothing_of_us(heapkeeper, compile_c):
    if os.geteuid() != 0:
        pytest.skip("only root can make a program set-user-id and run it as another")
    source = r"""
        #include <stdio.h>
        #include <stdlib.h>
        #include <sys/auxv.h>
        #include <unistd.h>
        int main(void)
        {
            /* LD_PRELOAD is dropped by the loader; HEAPKEEPER_* are still there, for secure_getenv to refuse. */
            printf("%d %lu %d\n", (int)geteuid(), getauxval(AT_SECURE), getenv("LD_PRELOAD") == NULL);
            FILE *maps = fopen("/proc/self/maps", "r");
            char line[1000];
            while (maps && fgets(line, sizeof line, maps))
                if (__builtin_strstr(line, "libheapkeeper")) puts(line);
            return 4;
        }
    """
    directory = readable_copy("suid")
    try:
        program = os.path.join(directory, "program")
        shutil.copy(compile_c(source), program)
        os.chown(program, 0, 0)
        os.chmod(program, 0o4755)
        place = os.path.join(directory, "place")
        os.mkdir(place)
        os.chown(place, 65534, 65534)

        def drop():
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)

        ours = execute([os.path.join(directory, "heapkeeper"), "run", "-o", place + "/capture", program],
                       preexec_fn=drop, cwd="/")
        if ours.out.startswith(b"65534"):
            pytest.skip("this file system ignores set-user-id")
        assert (ours.status, ours.out, ours.err) == (4, b"0 1 1\n", b"")
        assert os.path.getsize(place + "/capture") == 0 and os.listdir(place) == ["capture"]
        said = execute([COMMAND, "report", place + "/capture"])
        assert said.status == 1 and b"nothing recorded" in said.err
    finally:
        shutil.rmtree(directory)


STATIC = r"""
    #include <stdio.h>
    #include <stdlib.h>
    int main(int count, char **words) { free(malloc(1000)); printf("%d static\n", count); return 6; }
"""


@pytest.mark.parametrize("libc", ["glibc, static", "musl, static", "musl, dynamic"])
def test_program_that_no_glibc_library_can_be_preloaded_into(heapkeeper, compile_c, tmp_path, libc):
    """Static: it just runs. Dynamic musl: its loader would end it at our library, so it is not given to it."""
    source = tmp_path / "program.c"
    source.write_text(textwrap.dedent(STATIC))
    program = str(tmp_path / "program")
    compiler = shutil.which("musl-gcc" if "musl" in libc else "cc")
    if not compiler:
        pytest.skip("no compiler for " + libc)
    flags = ["-static"] if "static" in libc else []
    if subprocess.run([compiler, *flags, "-o", program, str(source)], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("nothing to link with for " + libc)
    stock = execute([program, "x"])
    assert (stock.status, stock.out) == (6, b"2 static\n")
    assert heapkeeper.run(["x"], python=program).said == stock.said
    said = execute([COMMAND, "report", heapkeeper.output])
    assert said.status == 1 and b"nothing recorded" in said.err


def test_static_program_as_a_child_harms_nobody(heapkeeper, compile_c):
    program = compile_c(STATIC, "-static")
    code = """
        keep = [bytearray(1000) for _ in range(20000)]
        done = subprocess.run([%r], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert (done.returncode, done.stdout, done.stderr) == (6, b"1 static\\n", b""), done
    """ % program
    _, rest = parent_of(heapkeeper, code)
    (report,), = rest.values()
    check_real_path(report)


def test_any_other_program_has_no_reservation_thread_or_file(heapkeeper):
    done = heapkeeper.good("""
        import subprocess
        keep = [bytearray(1000) for _ in range(20000)]
        out = subprocess.run(["cat", "/proc/self/status"], stdout=subprocess.PIPE, check=True).stdout.decode()
        maps = subprocess.run(["cat", "/proc/self/maps"], stdout=subprocess.PIPE, check=True).stdout.decode()
        fields = dict(line.split(":\\t", 1) for line in out.splitlines() if ":\\t" in line)
        print(fields["Threads"], int(fields["VmSize"].split()[0]) < 65536, "preload.so" in maps, "capture" in maps)
    """)
    assert done.out.split() == [b"1", b"True", b"True", b"False"]
    assert heapkeeper.captures == [heapkeeper.output]


def test_pythons_of_other_distributions_are_recorded(heapkeeper):
    """uv's (python-build-standalone) and conda's, where there are any."""
    home = os.path.expanduser("~")
    patterns = [home + "/.local/share/uv/python/*/bin/python3", home + "/*conda*/bin/python3", "/opt/*conda*/bin/python3",
                os.environ.get("CONDA_PREFIX", "/nonexistent") + "/bin/python3"]
    found = [python for pattern in patterns for path in glob.glob(pattern)
             for python in [interpreter(path)] if python and python.can_be_replaced]
    if not found:
        pytest.skip("neither uv's nor conda's Python is here")
    for python in found:
        heapkeeper.good(["-c", BIG], python=python)
        heapkeeper.recorded(python=python)


def test_interpreter_with_symbols_in_the_program_and_one_with_a_shared_library_are_both_recorded(heapkeeper):
    """What tells uv's and Debian's builds from pyenv's: where PyMem_SetAllocator lies."""
    kinds = {python.is_shared: python for python in all_interpreters()}
    if len(kinds) < 2:
        pytest.skip("only one kind is here")
    for python in kinds.values():
        heapkeeper.good(["-c", BIG], python=python)
        heapkeeper.recorded(python=python)


# --- what is recorded ---


def test_without_recording_there_are_counters_and_no_samples(heapkeeper):
    heapkeeper.good(BIG, options=("--no-record",))
    report = heapkeeper.report()
    assert (report["watch"], report["mode"], report["samples"], report["state"]) == ("ours", "none", 0, "ended")
    assert report["allocated_bytes"] > 70000 * 1057 and report["heap"]["live_bytes"] > 70000 * 1000
    assert report["sites"] == [] or sum(site["total_bytes"] for site in report["sites"]) == 0


def test_sampling_chooses_its_distance(heapkeeper):
    heapkeeper.good(BIG, options=("--sample",))
    report = heapkeeper.recorded()
    assert report["recorder"]["sample_bytes"] > 0


def test_table_in_the_docs_has_a_test_for_each_row(heapkeeper):
    with open(os.path.join(TREE, "docs", "processes.md")) as file:
        rows = [line for line in file if line.startswith("| ") and not line.startswith("| how")]
    here = os.path.dirname(os.path.abspath(__file__))
    names = set()
    for path in glob.glob(os.path.join(here, "*.py")) + glob.glob(os.path.join(here, "..", "c", "*.c")):
        with open(path) as file:
            names |= set(re.findall(r"^(?:def|static void) (test_\w+)", file.read(), re.M))
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named or "stated" in row.rsplit("|", 2)[1], row
        assert set(named) <= names, row
    assert clean_environment() and stat.S_ISREG(os.stat(COMMAND).st_mode)
