"""The command line: what `heapkeeper run` starts and where it records, and how each wrong word is refused."""

import json
import os
import pty
import re
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys

import pytest

import capture_writer as cw
from conftest import COMMAND, PRELOAD, clean_environment, execute, library_for, read_terminal

PYTHON = os.environ.get("HEAPKEEPER_TEST_PYTHON") or sys.executable
SHOW = ("import os, sys, json; print(json.dumps({'env': dict(os.environ), 'argv': sys.argv, 'pid': os.getpid(), "
        "'executable': sys.executable, 'prefix': sys.prefix}))")


def heapkeeper(*words, **options):
    options.setdefault("env", {})
    return execute([COMMAND, *map(str, words)], **options)


def refused(status, pattern, *words, **options):
    """One clear line on stderr, nothing on stdout."""
    done = heapkeeper(*words, **options)
    error = done.err.decode()
    assert re.fullmatch(r"heapkeeper: [^\n]+\n", error), error
    assert re.search(pattern, error), error
    assert (done.status, done.out) == (status, b"")
    return error


def shown(*words, **options):
    """Runs a program that tells what it got."""
    done = heapkeeper("run", *words, **options)
    assert (done.status, done.err) == (0, b"")
    return done.json


@pytest.fixture
def place(tmp_path):
    """A private directory for captures, and the environment that names it."""
    directory = tmp_path / "captures"
    return directory, {"HEAPKEEPER_DIR": str(directory)}


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "show.py"
    path.write_text(SHOW)
    return path


# ---- words ----


def test_without_words_the_usage_is_shown_and_nothing_done():
    done = heapkeeper()
    assert done.status == 2 and done.out == b"" and done.err.startswith(b"usage: heapkeeper run")


def test_help_and_version_are_on_stdout():
    for words in (["help"], ["--help"], ["-h"], ["help", "run"], ["run", "--help"], ["report", "--help"], ["table", "--help"],
                  ["help", "export"]):
        done = heapkeeper(*words)
        assert (done.status, done.err) == (0, b"") and b"usage: heapkeeper" in done.out
    for words in (["version"], ["--version"], ["-V"]):
        assert re.fullmatch(rb"heapkeeper \d+\.\d+\.\d+\n", heapkeeper(*words).out)


def test_what_cannot_be_written_to_standard_output_is_said_by_every_command(tmp_path):
    path = cw.shop().write(tmp_path / "shop.hkc")
    after = cw.shop().write(tmp_path / "after.hkc")
    words = [["help"], ["help", "run"], ["report", "--help"], ["version"], ["diff", path, after], ["diff", "--json", path, after],
             ["lines", "shop.py", path], ["lines", "--json", "shop.py", path], ["flame", "-o", "-", path], ["report", "--html", "-o", "-", path],
             ["plot", "--format", "png", path], ["compare", "--python", PYTHON, "-r", "1", "-c", "", "-c", ""], ["flame", "-f", "-o", tmp_path / "f", path]]
    words += [["export", "--format", format, path] for format in ("collapsed", "speedscope", "pprof", "chrome", "csv", "json")]
    words += [[command, *json, path] for command in ("table", "tree", "report", "plot", "live") for json in ([], ["--json"])]
    assert heapkeeper("run", "-o", tmp_path / "recorded", PYTHON, "-c", "pass").said == (0, b"", b"")
    words += [["blocks", tmp_path / "recorded"], ["blocks", "--json", tmp_path / "recorded"]]
    with open("/dev/full", "w") as full:
        for command in words:
            done = subprocess.run([COMMAND, *map(str, command)], stdout=full, stderr=subprocess.PIPE, env=clean_environment(), timeout=60)
            assert done.returncode == 1, command
            assert re.fullmatch(rb"heapkeeper: [^\n]+ could not be (written|shown): No space left on device\n", done.stderr), (command, done.stderr)


def test_help_may_stand_anywhere_among_the_options_and_is_the_programs_behind_it(tmp_path):
    for words in (["table", "x", "--help"], ["table", "--json", "-h"], ["table", "-jh"], ["run", "--quiet", "--help"], ["compare", "-r", "2", "-h"]):
        assert heapkeeper(*words).said == (0, heapkeeper("help", words[0]).out, b"")
    done = heapkeeper("run", "-o", "/dev/null", "--python", PYTHON, "-c", "import sys; print(sys.argv)", "--help")
    assert done.said == (0, b"['-c', '--help']\n", b"")


@pytest.mark.parametrize("command", ["report", "table", "tree", "blocks", "plot", "flame", "live"])
def test_empty_name_of_a_capture_is_refused(command):
    refused(2, "the name of the (capture or )?process is empty", command, "")


@pytest.mark.parametrize("words, pattern", [
    (["help", "reprot"], 'help: unknown command "reprot"'),
    (["reprot", "--help"], 'unknown command "reprot"'),
    (["reprot"], 'unknown command "reprot"'),
    (["--frob"], 'unknown option "--frob"'),
    (["bad\x1b[31m"], r'unknown command "bad\?\[31m"'),
    (["run"], "nothing to run"),
    (["run", "--frob", "x.py"], "unknown option --frob"),
    (["run", "-z", "x.py"], "unknown option -z"),
    (["run", "-o"], "option -o needs a value"),
    (["run", "--python"], "option --python needs a value"),
    (["run", "-o", "", "x.py"], "needs the name of a file"),
    (["run", "--force=yes", "x.py"], "--force"),
    (["run", "--sample=lots", "x.py"], "--sample=lots is no number of bytes"),
    (["run", "--sample=0", "x.py"], "no number of bytes"),
    (["run", "--sample=-5", "x.py"], "no number of bytes"),
    (["run", "--sample=99999999999999999999", "x.py"], "no number of bytes"),
    (["run", "--sample=9999999999999G", "x.py"], "no number of bytes"),
    (["run", "--sample=64K", "--no-record", "x.py"], "exclude each other"),
    (["run", "--sample", "64K", "x.py"], "write --sample=64K, in one word"),
    (["run", "--exact", "--sample", "x.py"], "exclude each other"),
    (["run", "--exact", "--no-record", "x.py"], "exclude each other"),
    (["run", "--exact", "--debug", "x.py"], "exclude each other"),
    (["run", "-m"], "-m needs a module"),
    (["run", "--quiet", "-c"], "-c needs code"),
    (["report", "--frob"], "unknown option --frob"),
    (["report", "a", "b"], "one capture or process at a time"),
    (["run", ""], "the name of the program is empty"),
    (["run", "--quiet=1", "x.py"], "option --quiet takes no value"),
    (["table", "--json=", "x"], "table: option --json takes no value"),
    (["report", "-o", "", "x"], "--output needs the name of a file"),
    (["flame", "--before=", "x"], "--before needs the name of a file"),
    (["lines", ""], "the name of the source file is empty"),
    (["lines", "x.py", ""], "the name of the capture or process is empty"),
    (["diff", "x", ""], "the name of a capture is empty"),
    (["compare", "", "x.py"], "the name of program A is empty"),
    (["compare", "--sample=", "x.py", "y.py"], "--sample= needs a value"),
    (["plot", "--json", "--format", "svg", "x"], "--json and --format svg exclude each other"),
    (["report", "--pid", "x"], "needs a process id"),
    (["report", "--top", "x"], "needs a number"),
    (["report", "--color", "maybe"], "auto, always or never"),
    (["table", "--frob"], "unknown option --frob"),
    (["table", "a", "b"], "one capture or process at a time"),
    (["table", "--by"], "needs a value"),
    (["table", "--by", "colour"], "--by is line, function, file, module, domain, size or thread, not"),
    (["table", "--sort", "size"], "--sort is live, peak, total, blocks, temporary, largest or age, not"),
    (["table", "--limit", "-1"], "needs a number"),
    (["table", "--limit", "x"], "needs a number"),
    (["table", "--color", "maybe"], "auto, always or never"),
    (["export"], "--format is needed: collapsed, speedscope, pprof, chrome, csv or json"),
    (["export", "--format", "xml"], "--format is collapsed, speedscope, pprof, chrome, csv or json, not"),
    (["export", "--format", "csv", "--of", "blocks"], "--of is live, peak or total, not"),
    (["export", "--format", "csv", "a", "b"], "one capture or process at a time"),
    (["export", "--format", "csv", "--frob"], "unknown option --frob"),
])
def test_wrong_words_are_refused_in_one_line_with_status_2(words, pattern):
    refused(2, pattern, *words)


# ---- what is run ----


def test_program_keeps_pid_status_output_and_arguments(script, place):
    directory, environment = place
    process = subprocess.Popen([COMMAND, "run", PYTHON, "-c", SHOW + "; sys.exit(7)", "-o", "x", "--force"],
                               env=clean_environment(**environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    got = json.loads(out)
    assert (process.returncode, err) == (7, b"")
    assert got["pid"] == process.pid
    assert got["argv"] == ["-c", "-o", "x", "--force"]


def test_signal_that_ends_the_program_is_seen_by_its_parent(place):
    done = heapkeeper("run", PYTHON, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)", env=place[1])
    assert done.status == -signal.SIGTERM


def test_script_module_and_code_are_run_by_python(script, place, tmp_path):
    environment = dict(place[1], PYTHONPATH=str(tmp_path))
    assert shown("--python", PYTHON, script, "a", "-m", env=environment)["argv"] == [str(script), "a", "-m"]
    assert shown("--python", PYTHON, "-m", "show", "b", env=environment)["argv"] == [str(script), "b"]
    assert shown("--python", PYTHON, "-c", SHOW, "-c", env=environment)["argv"] == ["-c", "-c"]


def test_directory_with_a_main_file_is_run_by_python(place, tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text(SHOW)
    assert shown("--python", PYTHON, tmp_path / "app", "x", env=place[1])["argv"] == [str(tmp_path / "app"), "x"]


def test_program_is_found_on_path_and_a_shebang_is_followed(place, tmp_path):
    tool = tmp_path / "bin" / "tool"
    tool.parent.mkdir()
    tool.write_text("#!%s\n%s" % (PYTHON, SHOW))
    tool.chmod(0o755)
    got = shown("tool", "x", env=dict(place[1], PATH="/nowhere:%s:/usr/bin:/bin" % tool.parent))
    assert got["argv"] == [str(tool), "x"]
    assert got["env"]["HEAPKEEPER_CAPTURE_ID"].split(":")[2] == str(got["pid"])


def fake_python(directory):
    """A program called python3 that tells who it is."""
    directory.mkdir(parents=True)
    path = directory / "python3"
    path.write_text('#!/bin/sh\necho "$0"\n')
    path.chmod(0o755)
    return path


def which_python(*words, command=COMMAND, **environment):
    done = execute([command, "run", *words, "-c", "pass"], env=environment)
    assert (done.status, done.err) == (0, b"")
    return done.out.decode().strip()


def test_python_is_the_named_one_else_the_active_environment_else_the_one_on_path(place, tmp_path):
    on_path, active, named = (fake_python(tmp_path / name) for name in ("path", "env/bin", "named"))
    environment = dict(place[1], PATH="%s:/usr/bin:/bin" % on_path.parent)
    assert which_python(**environment) == str(on_path)
    environment["VIRTUAL_ENV"] = str(tmp_path / "env")
    assert which_python(**environment) == str(active)
    assert which_python("--python", str(named), **environment) == str(named)
    assert which_python("--python", "python3", **environment) == str(on_path)


def test_python_beside_the_command_comes_first_when_it_is_a_virtual_environment(place, tmp_path):
    beside, active = fake_python(tmp_path / "own/bin"), fake_python(tmp_path / "env/bin")
    command = str(tmp_path / "own/bin/heapkeeper")
    shutil.copy(COMMAND, command)
    shutil.copy(PRELOAD, str(tmp_path / "own/bin"))
    environment = dict(place[1], VIRTUAL_ENV=str(tmp_path / "env"))
    assert which_python(command=command, **environment) == str(active)
    (tmp_path / "own/pyvenv.cfg").write_text("")
    assert which_python(command=command, **environment) == str(beside)


def test_virtual_environment_stays_one(place, tmp_path):
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True, timeout=120)
    got = shown("-c", SHOW, env=dict(place[1], VIRTUAL_ENV=str(tmp_path / "env")))
    assert got["prefix"] == str(tmp_path / "env")


def test_what_cannot_be_run_is_refused(tmp_path, place):
    environment = place[1]
    plain = tmp_path / "plain"
    plain.write_text("text")
    refused(1, r"absent\.py: the script cannot be found: No such file", "run", "absent.py", env=environment)
    (tmp_path / "dir.py").mkdir()
    refused(1, "is a directory, not a script", "run", tmp_path / "dir.py", env=environment)
    refused(1, "is a directory, not a program", "run", tmp_path, env=environment)
    (tmp_path / "folder").mkdir()
    for word in "folder", ".", "..":
        refused(1, "is a directory, not a program", "run", word, env=environment, cwd=str(tmp_path))
    refused(1, 'is not executable; for a Python script write "python3 ', "run", plain, env=environment)
    refused(1, "no-such-program: no such program on PATH", "run", "no-such-program", env=environment)
    refused(1, "the program cannot be found: No such file", "run", "./no-such-program", env=environment)
    refused(1, r"for the file here write \./plain", "run", "plain", env=environment, cwd=str(tmp_path))
    refused(1, "no such Python on PATH", "run", "--python", "python99", "-c", "pass", env=environment)
    refused(1, "is a directory; --python needs the program", "run", "--python", tmp_path, "-c", "pass", env=environment)
    refused(1, "is not executable", "run", "--python", plain, "-c", "pass", env=environment)
    refused(1, "no python3 found", "run", "-c", "pass", env=dict(environment, PATH=str(tmp_path)))
    if os.geteuid() != 0:
        secret = tmp_path / "secret.py"
        secret.write_text("")
        secret.chmod(0)
        refused(1, "the script cannot be read: Permission denied", "run", secret, env=environment)
    assert not place[0].exists() or not os.listdir(str(place[0]))


def test_program_that_cannot_be_started_leaves_no_capture(tmp_path, place):
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF but not really")
    broken.chmod(0o755)
    refused(1, "cannot be started: Exec format error", "run", broken, env=place[1])
    assert os.listdir(str(place[0])) == []


# ---- where it records ----


def test_default_capture_is_private_and_named_after_the_program(script, place):
    directory, environment = place
    got = shown("--no-record", "--python", PYTHON, script, env=environment)
    capture = got["env"]["HEAPKEEPER_CAPTURE"]
    assert re.fullmatch(r"show\.py\.%d\.\d{10}\.0\.hkc" % got["pid"], os.path.basename(capture))
    assert os.path.dirname(capture) == str(directory) == got["env"]["HEAPKEEPER_CAPTURE_DIR"]
    assert stat.S_IMODE(os.stat(str(directory)).st_mode) == 0o700
    info = os.stat(capture)
    assert stat.S_IMODE(info.st_mode) == 0o600
    device, _, pid = got["env"]["HEAPKEEPER_CAPTURE_ID"].split(":")  # the file was another before it was packed
    assert (int(device), int(pid)) == (info.st_dev, got["pid"])


def test_environment_tells_the_library_what_it_must_know(place):
    env = shown(PYTHON, "-c", SHOW, env=place[1])["env"]
    assert env["LD_PRELOAD"] == env["HEAPKEEPER_LIBRARY"] == library_for(PYTHON)
    assert re.fullmatch("[0-9a-f]{32}", env["HEAPKEEPER_RUN"])
    assert (env["HEAPKEEPER_MODE"], env["HEAPKEEPER_SAMPLE"]) == ("exact", "0")
    assert shown("--geometry=guide", PYTHON, "-c", SHOW, env=place[1])["env"]["HEAPKEEPER_MODE"] == "exact"
    for options, mode in ((["--sample"], "sample"), (["--debug"], "sample"), (["--native"], "exact"), (["--native-stacks"], "exact"),
                          (["--sample", "--native"], "sample"), (["--exact", "--native"], "exact")):
        assert shown(*options, PYTHON, "-c", SHOW, env=place[1])["env"]["HEAPKEEPER_MODE"] == mode
    assert "HEAPKEEPER_OUTPUT" not in env
    for text, value in (("4096", 4096), ("64K", 65536), ("1M", 1 << 20), ("2MiB", 2 << 20), ("1g", 1 << 30)):
        env = shown("--sample=" + text, PYTHON, "-c", SHOW, env=place[1])["env"]
        assert env["HEAPKEEPER_SAMPLE"] == str(value)
    assert shown("--no-record", PYTHON, "-c", SHOW, env=place[1])["env"]["HEAPKEEPER_MODE"] == "none"


def test_preload_that_is_already_there_is_kept_and_ours_is_there_once(place, compile_c):
    other = compile_c("int other_library_was_here;", shared=True)
    env = shown(PYTHON, "-c", SHOW, env=dict(place[1], LD_PRELOAD=other))["env"]
    assert env["LD_PRELOAD"] == "%s:%s" % (library_for(PYTHON), other)
    nested = shown(COMMAND, "run", PYTHON, "-c", SHOW, env=dict(place[1], LD_PRELOAD=other))["env"]
    assert nested["LD_PRELOAD"] == env["LD_PRELOAD"]


def test_output_is_made_absolute_and_never_over_a_file(tmp_path):
    cwd = str(tmp_path)
    words = ["run", "-o", "out.hkc", PYTHON, "-c", SHOW]
    env = heapkeeper(*words, cwd=cwd).json["env"]
    assert env["HEAPKEEPER_OUTPUT"] == env["HEAPKEEPER_CAPTURE"] == str(tmp_path / "out.hkc")
    assert env["HEAPKEEPER_CAPTURE_DIR"] == ""
    assert stat.S_IMODE(os.stat(str(tmp_path / "out.hkc")).st_mode) == 0o600
    (tmp_path / "out.hkc").write_text("precious")
    refused(1, "out.hkc: exists already; --force writes over it", *words, cwd=cwd)
    assert (tmp_path / "out.hkc").read_text() == "precious"
    done = heapkeeper("run", "--force", *words[1:], cwd=cwd)
    assert (done.status, done.err) == (0, b"")
    assert (tmp_path / "out.hkc").read_bytes()[:8] in (b"hkcaptur", b"")


def test_runs_that_write_over_one_file_at_once_all_run(tmp_path):
    """One makes its file between another's removing the old one and making its own."""
    words = [COMMAND, "run", "-q", "--force", "-o", str(tmp_path / "out.hkc"), "/bin/true"]
    for _ in range(10):
        runs = [subprocess.Popen(words, env=clean_environment(), stderr=subprocess.PIPE) for _ in range(6)]
        assert [(run.communicate()[1], run.returncode) for run in runs] == [(b"", 0)] * 6


def test_output_that_is_no_file_is_refused(tmp_path, place):
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    program = [PYTHON, "-c", "pass"]
    refused(1, "is a directory", "run", "-o", tmp_path, *program)
    for name in ("link", "dangling"):
        for force in ([], ["--force"]):
            refused(1, "is not a regular file", "run", *force, "-o", tmp_path / name, *program)
    refused(1, "cannot be created: No such file", "run", "-o", tmp_path / "no/dir/x", *program)
    refused(1, "is not a regular file", "run", "--force", "-o", "/dev/zero", *program)
    assert target.read_text() == "precious" and not (tmp_path / "nowhere").exists()
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o500)
        refused(1, "Permission denied", "run", "-o", tmp_path / "closed/x", *program)


def test_output_to_dev_null_keeps_nothing(tmp_path, place):
    env = heapkeeper("run", "-o", "/dev/null", PYTHON, "-c", SHOW, env=place[1]).json["env"]
    assert env["HEAPKEEPER_OUTPUT"] == "/dev/null"
    assert "HEAPKEEPER_CAPTURE" not in env and "HEAPKEEPER_CAPTURE_ID" not in env
    assert not place[0].exists()


def test_runtime_directory_is_used_without_a_directory_of_our_own(tmp_path):
    tmp_path.chmod(0o700)
    env = shown(PYTHON, "-c", SHOW, env={"XDG_RUNTIME_DIR": str(tmp_path)})["env"]
    room = os.statvfs(str(tmp_path))
    if room.f_bavail * room.f_frsize >= 16 << 20:
        assert env["HEAPKEEPER_CAPTURE_DIR"] == str(tmp_path / "heapkeeper")
        assert stat.S_IMODE(os.stat(str(tmp_path / "heapkeeper")).st_mode) == 0o700


def test_directory_that_is_a_trap_is_passed_over(tmp_path):
    """In a runtime directory somebody has put a link, or a file, where ours should be."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "heapkeeper").symlink_to(tmp_path / "elsewhere")
    env = shown(PYTHON, "-c", SHOW, env={"XDG_RUNTIME_DIR": str(tmp_path)})["env"]
    assert not env["HEAPKEEPER_CAPTURE_DIR"].startswith(str(tmp_path))
    os.unlink(env["HEAPKEEPER_CAPTURE"])
    assert os.listdir(str(tmp_path / "elsewhere")) == []


def test_asked_for_directory_that_does_not_do_is_refused(tmp_path):
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    refused(1, "anybody may write there", "run", PYTHON, "-c", "pass", env={"HEAPKEEPER_DIR": str(open_to_all)})
    (tmp_path / "file").write_text("")
    refused(1, "file", "run", PYTHON, "-c", "pass", env={"HEAPKEEPER_DIR": str(tmp_path / "file")})
    refused(1, "cannot be made: Not a directory", "run", PYTHON, "-c", "pass",
            env={"HEAPKEEPER_DIR": str(tmp_path / "file/below")})


@pytest.fixture
def small_file_system(tmp_path):
    """A file system of 256 KiB; needs the right to mount."""
    directory = tmp_path / "small"
    directory.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(directory)],
                      stderr=subprocess.DEVNULL).returncode:
        pytest.skip("may not mount a file system")
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


def test_full_file_system_is_refused_when_asked_for_and_passed_over_when_not(small_file_system):
    program = [PYTHON, "-c", SHOW]
    refused(1, "no space left for a capture", "run", *program, env={"HEAPKEEPER_DIR": str(small_file_system / "d")})
    refused(1, "no space left for a capture", "run", "-o", small_file_system / "x", *program)
    assert not (small_file_system / "x").exists()
    env = shown(*program, env={"XDG_RUNTIME_DIR": str(small_file_system)})["env"]
    assert not env["HEAPKEEPER_CAPTURE_DIR"].startswith(str(small_file_system))
    os.unlink(env["HEAPKEEPER_CAPTURE"])


@pytest.mark.parametrize("name", ["with space", "with:colon", "with$ORIGIN"])
def test_library_whose_path_the_loader_would_split_is_reached_by_a_link(tmp_path, place, name):
    root = tmp_path / name
    root.mkdir()
    shutil.copy(COMMAND, str(root))
    shutil.copy(PRELOAD, str(root))
    done = execute([str(root / "heapkeeper"), "run", PYTHON, "-c", SHOW], env=place[1])
    assert (done.status, done.err) == (0, b"")
    link = done.json["env"]["LD_PRELOAD"]
    assert os.path.dirname(link) == str(place[0])
    assert os.readlink(link) == str(root / os.path.basename(PRELOAD))


def test_command_without_its_library_says_so(tmp_path, place):
    (tmp_path / "bin").mkdir()
    shutil.copy(COMMAND, str(tmp_path / "bin"))
    done = execute([str(tmp_path / "bin/heapkeeper"), "run", PYTHON, "-c", "pass"], env=place[1])
    assert done.status == 1
    assert re.fullmatch(rb"heapkeeper: libheapkeeper-preload\.so was not found beside [^\n]+\n", done.err)


# ---- old runs ----


def old_run(directory, run_id, megabytes, age, files=1, **header):
    for i in range(files):
        c = cw.Capture(run_id=bytes([run_id] * 16), **header)
        path = str(directory / ("run%d.%d.hkc" % (run_id, i)))
        c.write(path)
        with open(path, "r+b") as f:
            os.posix_fallocate(f.fileno(), 0, megabytes << 20)
    for i in range(files):  # the age of a run is its newest change, of which the system keeps the time
        os.utime(str(directory / ("run%d.%d.hkc" % (run_id, i))), (age, age))


def test_oldest_runs_make_room_as_a_whole_and_living_ones_stay(place):
    directory, environment = place
    directory.mkdir(mode=0o700)
    old_run(directory, 1, 70, 1, files=2)
    old_run(directory, 2, 70, 2, state=cw.RUNNING, pid=os.getpid(), start_ticks=cw.start_ticks(os.getpid()))
    old_run(directory, 3, 70, 3)
    (directory / ("03" * 16 + ".children")).write_bytes(cw.child(1, "x"))
    (directory / "notes.txt").write_text("not ours")
    shown(PYTHON, "-c", SHOW, env=environment)
    left = set(os.listdir(str(directory)))
    assert not {"run1.0.hkc", "run1.1.hkc"} & left
    assert {"run2.0.hkc", "run3.0.hkc", "notes.txt", "03" * 16 + ".children"} <= left


# ---- on a terminal ----


def on_a_terminal(*words, **environment):
    """What a person sees who runs the command; the program's own words included."""
    master, slave = pty.openpty()
    child = subprocess.Popen([COMMAND, *map(str, words)], stdin=slave, stdout=slave, stderr=slave,
                             env=clean_environment(LC_ALL="C.UTF-8", **environment))
    os.close(slave)
    output = read_terminal(master)
    child.wait(timeout=60)
    return output


def test_terminal_is_told_in_one_line_where_the_record_goes(place, tmp_path):
    said = on_a_terminal("run", PYTHON, "-c", "print('hello')", **place[1])
    assert re.fullmatch(r"heapkeeper: recording to %s/python[^ ]*\.hkc; read it with: [^ ]*heapkeeper report[^\n]*\nhello\n"
                        % re.escape(str(place[0])), said)
    said = on_a_terminal("run", "-o", tmp_path / "o", PYTHON, "-c", "pass")
    assert said == "heapkeeper: recording to %s; read it with: %s report %s\n" % (tmp_path / "o", COMMAND, tmp_path / "o")
    assert on_a_terminal("run", "-q", "-o", tmp_path / "quiet", PYTHON, "-c", "print('hello')") == "hello\n"


def test_terminal_is_told_what_stands_in_the_way(place, compile_c, tmp_path):
    said = on_a_terminal("run", PYTHON, "-X", "dev", "-c", "pass", **place[1])
    assert "development mode" in said
    said = on_a_terminal("run", PYTHON, "-c", "pass", PYTHONMALLOC="malloc", **place[1])
    assert "PYTHONMALLOC=malloc" in said
    program = compile_c("int main(void) { return 0; }", "-static")
    assert "it is statically linked" in on_a_terminal("run", program, **place[1])
    other = tmp_path / "other"
    data = bytearray(open(program, "rb").read())
    data[18:20] = struct.pack("<H", 243)  # a RISC-V program
    other.write_bytes(data)
    other.chmod(0o755)
    assert "another architecture" in on_a_terminal("run", other, **place[1])
    set_uid = compile_c("int main(void) { return 0; }")
    os.chmod(set_uid, 0o4755)
    assert "set-uid" in on_a_terminal("run", set_uid, **place[1])


def test_nothing_is_said_where_nobody_watches(place):
    done = heapkeeper("run", PYTHON, "-c", "pass", env=dict(place[1], PYTHONMALLOC="malloc"))
    assert (done.status, done.out, done.err) == (0, b"", b"")


# ---- run and report together ----


def test_run_and_report_meet_without_naming_a_file(place):
    code = "keep = ['x%d' % i * 50 for i in range(100000)]"
    done = heapkeeper("run", "--sample=16K", PYTHON, "-c", code, env=place[1])
    assert (done.status, done.err) == (0, b"")
    done = heapkeeper("report", "--json", env=place[1])
    assert (done.status, done.err) == (0, b"")
    assert done.json["state"] == "ended" and done.json["command_line"][1] == "-c"


def test_report_says_when_memory_is_short(tmp_path):
    with open(COMMAND, "rb") as file:
        if b"__asan_init" in file.read():
            pytest.skip("a sanitizer needs more address space than that")
    path = cw.shop().write(str(tmp_path / "x.hkc"))
    os.truncate(path, 60 << 20)

    def little_memory():
        resource.setrlimit(resource.RLIMIT_AS, (40 << 20, 40 << 20))
    done = execute([COMMAND, "report", path], preexec_fn=little_memory)
    assert done.status == 1
    assert re.fullmatch(rb"heapkeeper: [^\n]*no memory[^\n]*\n", done.err), done.err
