"""docs/embedding.md: each of its programs is compiled and run as the page says, and prints what the page shows."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from conftest import BUILD, TREE, build_is_usable

pytestmark = pytest.mark.once

TOOL = os.path.join(TREE, "tools", "tour.py")
PAGE = os.path.join(TREE, "docs", "embedding.md")
TOOLS = os.path.join(TREE, "build", "tools")


def text():
    with open(PAGE, encoding="utf-8") as file:
        return file.read()


def check(page, status):
    done = subprocess.run([sys.executable, TOOL, "--check", str(page)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True, timeout=600, env=dict(os.environ, PATH=TOOLS + ":" + os.environ["PATH"]))
    assert done.returncode == status, done.stdout
    return done.stdout


@pytest.fixture
def usable():
    if build_is_usable():
        pytest.skip(build_is_usable())
    if not shutil.which("cc") or not shutil.which("pkg-config", path=TOOLS + ":" + os.environ["PATH"]):
        pytest.skip("no C compiler, or no pkg-config")
    if not os.path.exists(os.path.join(BUILD, "meson-uninstalled", "heapkeeper-uninstalled.pc")):
        pytest.skip("the build has no pkg-config file")


def test_every_program_on_the_page_is_a_file_that_a_command_compiles():
    fences = re.findall(r"^```(\S.*)$", text(), re.M)
    files = [fence.split()[1] for fence in fences if fence != "console"]
    assert len(files) >= 5 and all(re.fullmatch(r"c \w+\.[ch]", fence) for fence in fences if fence != "console")
    compiled = re.findall(r"^\$ cc .*?(\w+\.c)\b", text(), re.M)
    included = re.findall(r'(?m)^#include "(\w+\.h)"', text())
    assert sorted(compiled + list(set(included))) == sorted(files)


def test_programs_on_the_page_print_what_it_shows(usable):
    assert check(PAGE, 0) == ""


def test_other_output_would_be_noticed(usable, tmp_path):
    copy = tmp_path / "embedding.md"
    changed = text().replace("found: 2\n", "found: 3\n")
    assert changed != text()
    copy.write_text(changed, encoding="utf-8")
    assert 'chapter "Minute 6: a cycle"' in check(copy, 1)
