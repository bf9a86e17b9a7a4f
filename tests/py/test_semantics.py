"""docs/semantics.md against the tests that it names: ours, one by one, and CPython's, where a CPython with its tests is at hand."""

import ast
import glob
import os
import re

import pytest

from conftest import TREE

pytestmark = pytest.mark.once

PAGE = os.path.join(TREE, "docs", "semantics.md")
OURS = ["test_semantics.c", "test_semantics_dying.c"]
ROOTS = [os.path.expanduser("~/.pyenv/versions/3.13.*/lib/python3.13/test"),
         "/usr/lib/python3.13/test"]


# The page follows 3.13.0; these came with its later releases.
ADDED_LATER = {"test_deferred_refcount_frozen", "test_get_objects_during_gc", "test_something", "test_threshold_zero",
               "test_traverse_frozen_objects"}


def sections():
    """{module: [rows, each a list of cells]}"""
    with open(PAGE) as file:
        parts = re.split(r"^## (test_\w+)\.py$", file.read(), flags=re.M)[1:]
    return {module: [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines()
                     if line.startswith("| `")] for module, text in zip(parts[::2], parts[1::2])}


def test_every_test_that_the_page_names_exists_and_runs_and_every_test_is_on_the_page():
    named = [name for rows in sections().values() for row in rows for name in re.findall(r"`(test_\w+)`", row[3])]
    defined, run = [], []
    for source in OURS:
        with open(os.path.join(TREE, "tests", "c", source)) as file:
            text = file.read()
        defined += re.findall(r"^static void (test_\w+)\(void \*\*state\)", text, re.M)
        run += re.findall(r"^ +QUIET\((test_\w+)\)", text, re.M)
    assert len(defined) > 60 and sorted(defined) == sorted(run)
    assert sorted(set(named)) == sorted(defined)


def test_a_row_says_what_is_ours_and_has_a_test_or_says_that_there_is_none():
    for rows in sections().values():
        for row in rows:
            assert len(row) == 4, row
            assert re.match(r"same|differs: |–", row[2]), row
            assert bool(row[3]) != row[2].startswith("–"), row


@pytest.mark.parametrize("module", ["test_gc", "test_finalization", "test_weakref"])
def test_page_goes_through_all_of_cpythons_tests(module):
    sources = [path for root in ROOTS for path in glob.glob(os.path.join(root, module + ".py"))]
    if not sources:
        pytest.skip("no CPython 3.13 with its tests")
    with open(sources[0]) as file:
        tree = ast.parse(file.read())
    theirs = [(part.name, item.name) for part in tree.body if isinstance(part, ast.ClassDef) for item in part.body
              if isinstance(item, ast.FunctionDef) and item.name.startswith("test_")]
    named = [name for row in sections()[module] for name in re.findall(r"`(?:\w+\.)?(test_\w+)`", row[0])]
    assert len(theirs) > 15
    names = {name for _, name in theirs}
    assert set(named) <= names
    assert names - set(named) <= ADDED_LATER
