"""tools/amalgamate.py: one C file and one header, which compile without a word and run the examples."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from conftest import TREE

pytestmark = pytest.mark.once

EXAMPLES = os.path.join(TREE, "examples")
LIBRARIES = ["-lpthread", "-ldl", "-lm"]


def compiler():
    found = shutil.which("cc")
    if not found:
        pytest.skip("no C compiler")
    return found


def run(words, directory):
    done = subprocess.run([str(word) for word in words], cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True, timeout=300)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("amalgamation")
    run([sys.executable, os.path.join(TREE, "tools", "amalgamate.py"), directory], directory)
    assert sorted(os.listdir(directory)) == ["heapkeeper.c", "heapkeeper.h"]
    return directory


@pytest.fixture(scope="module")
def object_file(made):
    said = run([compiler(), "-std=c11", "-Wall", "-O2", "-c", "heapkeeper.c"], made)
    assert said == ""
    return made / "heapkeeper.o"


def copy_of(path, made):
    """A source as a program with the two files beside it would have it."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    return re.sub(r"#include <heapkeeper/\w+\.h>", '#include "heapkeeper.h"', text)


def test_two_files_have_all_of_the_public_functions_and_no_other_names(made, object_file):
    if not shutil.which("nm"):
        pytest.skip("no nm")
    defined = [line.split()[-1] for line in run(["nm", "--defined-only", "--extern-only", object_file], made).splitlines()]
    assert [name for name in defined if not name.startswith("hk_")] == []
    wanted = set()
    for name in ("heap", "object", "gc", "frame", "values", "iter", "bounded"):
        with open(os.path.join(TREE, "include", "heapkeeper", name + ".h"), encoding="utf-8") as file:
            wanted |= set(re.findall(r"^HK_API [^;]*?\b(hk_\w+)\(", file.read(), re.M))
    assert len(wanted) > 150 and wanted - set(defined) == set()


def test_file_is_one_unit_with_a_program(made):
    source = made / "unit.c"
    source.write_text('#include "heapkeeper.c"\n' + copy_of(os.path.join(EXAMPLES, "embed.c"), made))
    assert run([compiler(), "-std=c11", "-Wall", "-O2", "unit.c", "-o", "unit"] + LIBRARIES, made) == ""
    out = run(["./unit"], made)
    assert out.startswith("went it of byte every where says that heap a\n") and "1 arenas" in out


def test_scheme_is_built_of_it_and_passes_its_tests(made, object_file):
    folder = made / "scheme"
    folder.mkdir()
    for name in os.listdir(os.path.join(EXAMPLES, "scheme")):
        if name.endswith((".c", ".h")):
            (folder / name).write_text(copy_of(os.path.join(EXAMPLES, "scheme", name), made), encoding="utf-8")
    sources = sorted(str(path) for path in folder.glob("*.c"))
    run([compiler(), "-std=gnu11", "-O2", "-I.", *sources, object_file, "-o", "scheme-program", *LIBRARIES], made)
    out = run(["./scheme-program", os.path.join(EXAMPLES, "scheme", "tests.scm")], made)
    assert re.fullmatch(r"\d+ checks passed\n", out)
