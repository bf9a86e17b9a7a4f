"""Where the command finds its library: in the build directory, installed, in a wheel's layout, in awkward places."""

import os
import shutil
import subprocess
import sys

import pytest

from conftest import is_at_a_fixed_address, library_for

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("HEAPKEEPER_BUILD") or os.path.join(TREE, "build")
PYTHON = os.environ.get("HEAPKEEPER_TEST_PYTHON") or sys.executable
PRELOAD = "libheapkeeper-preload.so"
WHICH = "print([line for line in open('/proc/self/maps') if 'preload.so' in line][0])"


def mapping_of_a_run(command, python=PYTHON, **options):
    """(address, path) of the library in a Python that the command runs."""
    done = subprocess.run([command, "run", "-o", "/dev/null", python, "-c", WHICH], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True, timeout=60, **options)
    assert done.returncode == 0, done.stderr
    words = done.stdout.rstrip("\n").split(None, 5)
    return int(words[0].split("-")[0], 16), os.path.realpath(words[5])


def library_of_a_run(command, **options):
    return mapping_of_a_run(command, **options)[1]


def lay_out(root, library_directory):
    command = os.path.join(root, "bin", "heapkeeper")
    library = os.path.join(root, library_directory, PRELOAD)
    for target in (command, library):
        os.makedirs(os.path.dirname(target))
        shutil.copy(os.path.join(BUILD, os.path.basename(target)), target)
    return command, os.path.realpath(library)


def test_command_in_the_build_directory_uses_the_library_beside_it():
    assert library_of_a_run(os.path.join(BUILD, "heapkeeper")) == library_for(PYTHON)


def test_interpreter_at_a_fixed_address_gets_a_library_below_4_gib_and_others_do_not(tmp_path):
    pythons = [path for path in ("/usr/bin/python3", PYTHON) if os.path.exists(path)]
    command = os.path.join(BUILD, "heapkeeper")
    for python in pythons:
        script = tmp_path / "script"
        script.write_text("#!%s\n%s\n" % (python, WHICH))
        script.chmod(0o755)
        done = subprocess.run([command, "run", "-o", "/dev/null", str(script)], stdout=subprocess.PIPE, check=True,
                              universal_newlines=True, timeout=60)
        by_script = int(done.stdout.split("-")[0], 16)
        for address in (mapping_of_a_run(command, python)[0], by_script):
            assert (address < 1 << 32) == is_at_a_fixed_address(python), python


@pytest.mark.parametrize("directory", ["lib/heapkeeper", "lib/python3.9/site-packages/heapkeeper",
                                       "lib/python3.13/dist-packages/heapkeeper"])
def test_installed_command_finds_the_library_from_its_own_place(tmp_path, directory):
    command, library = lay_out(str(tmp_path), directory)
    assert library_of_a_run(command) == library


def test_command_that_is_reached_by_a_symbolic_link_finds_its_library(tmp_path):
    command, library = lay_out(str(tmp_path / "real"), "lib/heapkeeper")
    link = tmp_path / "heapkeeper"
    link.symlink_to(command)
    assert library_of_a_run(str(link)) == library


def test_command_that_is_found_on_path_finds_its_library(tmp_path):
    command, library = lay_out(str(tmp_path), "lib/heapkeeper")
    path = os.path.dirname(command) + os.pathsep + os.environ["PATH"]
    assert library_of_a_run("heapkeeper", env=dict(os.environ, PATH=path)) == library


def test_command_without_its_library_says_so_in_one_line(tmp_path):
    command = str(tmp_path / "heapkeeper")
    shutil.copy(os.path.join(BUILD, "heapkeeper"), command)
    done = subprocess.run([command, "run", PYTHON, "-c", "pass"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, timeout=60)
    assert done.returncode in (1, 2)
    assert PRELOAD in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["with space", "with:colon"])
def test_a_library_whose_path_the_loader_would_split_still_works(tmp_path, name):
    command, _ = lay_out(str(tmp_path / name), "lib/heapkeeper")
    assert library_of_a_run(command).endswith(PRELOAD)
