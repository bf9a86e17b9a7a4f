"""The Python package and the way to a build: what a newcomer meets first."""

import json
import os
import shutil
import stat
import subprocess
import sys

import pytest

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("HEAPKEEPER_BUILD") or os.path.join(TREE, "build")
PYTHON = os.environ.get("HEAPKEEPER_TEST_PYTHON") or sys.executable
PRELOAD = os.path.join(BUILD, "libheapkeeper-preload.so")


def run_python(code, **extra):
    environment = dict(os.environ, PYTHONPATH=os.path.join(TREE, "python"), HEAPKEEPER_BUILD=BUILD, **extra)
    done = subprocess.run([PYTHON, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_package_says_its_version_and_that_nobody_runs_on_the_heap():
    version, active = run_python("import heapkeeper as h; print(h.version, h.active())").split()
    assert version.count(".") == 2
    assert active == "False"


def test_stats_of_the_package_are_a_dict_whose_classes_add_up():
    code = "import heapkeeper, json; print(json.dumps(heapkeeper.stats()))"
    for stats in (json.loads(run_python(code)), json.loads(run_python(code, LD_PRELOAD=PRELOAD))):
        classes = [stats[name + "_bytes"] for name in ("live", "free", "untouched", "tail", "empty", "metadata")]
        assert sum(classes) == stats["mapped_bytes"]


def test_mark_without_a_record_says_so():
    code = "import heapkeeper; print(heapkeeper.recording(), heapkeeper.mark('here'))"
    assert run_python(code).split() == ["False", "0"]


def test_mark_tells_how_much_was_asked_for_so_far():
    code = "import heapkeeper as h; a = h.mark('a'); block = 'x' * 1000000; print(h.recording(), h.mark('b') - a > 1000000)"
    done = subprocess.run([os.path.join(BUILD, "heapkeeper"), "run", "-o", "/dev/null", PYTHON, "-c", code],
                          env=dict(os.environ, PYTHONPATH=os.path.join(TREE, "python"), HEAPKEEPER_BUILD=BUILD),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=60)
    assert (done.stdout.split(), done.stderr) == (["True", "True"], "")


def test_package_finds_the_library_that_is_already_in_the_process():
    code = "import heapkeeper as h; print(h.active(), h.library_path)"
    assert run_python(code, LD_PRELOAD=PRELOAD).split() == ["True", "None"]


@pytest.fixture
def bare_system(tmp_path):
    """A PATH with a shell's basics and apt-get, for somebody who is not root and has no sudo."""
    for tool in "sh dirname tr awk sed cat env tail mkdir cut".split():
        os.symlink(shutil.which(tool), str(tmp_path / tool))
    for name, body in (("id", "echo 1000"), ("apt-get", "echo apt-get was called; exit 1")):
        path = tmp_path / name
        path.write_text("#!%s\n%s\n" % (shutil.which("sh"), body))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(tmp_path)


def test_bootstrap_without_root_prints_the_exact_command_and_installs_nothing(bare_system):
    done = subprocess.run([os.path.join(bare_system, "sh"), os.path.join(TREE, "tools", "bootstrap.sh")],
                          env={"PATH": bare_system}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, timeout=60)
    assert done.returncode == 2
    assert "sudo apt-get update && sudo apt-get install -y --no-install-recommends gcc libc6-dev" in done.stderr
    assert "was called" not in done.stdout + done.stderr


def test_bootstrap_is_silent_where_everything_is_there():
    done = subprocess.run([os.path.join(TREE, "tools", "bootstrap.sh"), "--check"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, universal_newlines=True, timeout=60)
    if done.returncode == 2:
        pytest.skip("not a machine to build on: " + done.stdout.strip())
    assert done.stdout == ""
