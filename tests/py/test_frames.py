"""The stack walk inside the allocation hooks, on the Python that runs these tests (`make test-pythons`: on all).

A probe library (tests/c/frames_probe.c) is preloaded into a child, which compares what the walk saw with tracemalloc,
sys._getframe and the interpreter's own line numbers (frames_program.py).
"""

import json
import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BUILD = Path(os.environ.get("HEAPKEEPER_BUILD", HERE.parent.parent / "build"))
PROBE = BUILD / "tests" / "c" / "libframes_probe.so"
VERSION = sys.version_info[:2]

pytestmark = [
    pytest.mark.skipif(not PROBE.exists(), reason=f"{PROBE} is not built"),
    pytest.mark.skipif(PROBE.exists() and any(tool in PROBE.read_bytes() for tool in (b"libasan", b"libtsan", b"libubsan")),
                       reason="a sanitizer's library cannot be preloaded into a plain Python"),
    pytest.mark.skipif(platform.python_implementation() != "CPython" or not (3, 9) <= VERSION <= (3, 15),
                       reason="CPython 3.9 to 3.15 only"),
    pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="not on a free-threaded build"),
]

# Environment of the child -> what it is called in the tests' names.
WAYS = {"plain": {}}
if VERSION >= (3, 14):
    WAYS["jit"] = {"PYTHON_JIT": "1"}  # without effect on builds that have none


def run(arguments, extra=(), every=1):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "HEAPKEEPER"))}
    environment.update(extra, LD_PRELOAD=str(PROBE), HK_PROBE_EVERY=str(every))
    child = subprocess.run([sys.executable, str(HERE / "frames_program.py"), *arguments], env=environment,
                           capture_output=True, text=True, timeout=600)
    assert child.returncode == 0, child.stderr[-2000:]
    return json.loads(child.stdout)


@pytest.fixture(scope="module", params=WAYS)
def seen(request):
    return run(["stacks"], WAYS[request.param])


def test_layout_of_this_version_is_known(seen):
    facts = seen["facts"]
    assert facts["stacks"] == 1 and facts["why"] == ""
    assert facts["version"] >> 8 == sys.hexversion >> 8
    assert facts["source"] == (2 if VERSION >= (3, 13) else 1)


def test_self_test_passes_in_the_first_allocation_that_has_a_frame(seen):
    assert seen["stats"]["self_tests"] == 1
    assert (seen["stats"]["self_test_passed"], seen["stats"]["self_test_why"]) == (1, "")
    assert seen["self_test"] == ""


def test_walk_agrees_with_the_public_interface(seen):
    assert seen["public_check"] == ""


def test_walk_agrees_with_getframe_to_any_depth(seen):
    assert seen["getframe"]["wrong"] == []
    assert seen["getframe"]["seen"] >= 70
    assert seen["stats"]["max_depth"] >= 3000


def test_stacks_in_the_hook_are_those_of_tracemalloc(seen):
    result = seen["tracemalloc"]
    assert result["wrong"] == []
    assert result["lacking"] == 0
    assert result["same"] >= 350
    for kind in ("recursion", "generator", "yield from, after", "closure", "__init__", "metaclass __call__",
                 "metaclass __new__", "class body", "__del__", "list comprehension", "generator expression", "exec",
                 "eval", "coroutine", "async generator", "thread", "except", "re.sub", "json hook",
                 "a file name that is not ASCII", "a surrogate in the file name"):
        assert kind in result["kinds"]


def test_every_frame_in_every_allocation_runs_code_at_an_instruction_inside_it(seen):
    stats = seen["stats"]
    assert stats["walks"] > 300000 and stats["frames"] > 10 * stats["walks"]
    assert (stats["bad_code"], stats["bad_offset"], stats["truncated"]) == (0, 0, 0)


def test_mem_and_object_allocations_have_a_thread_state(seen):
    assert seen["stats"]["no_state"][1:] == [0, 0]
    assert seen["stats"]["state_differs"] == 0


def test_code_objects_and_strings_are_read_as_python_sees_them(seen):
    assert seen["code"]["wrong"] == []
    assert seen["code"]["seen"] > 20


def test_interpreters_are_told_apart_and_their_locks_too(seen):
    assert (seen["facts"]["interpreter_id"], seen["facts"]["own_gil"]) == (0, 1)
    made = seen["sub_interpreters"]
    if not made:
        pytest.skip("this Python cannot make interpreters")
    own = 2 if VERSION >= (3, 12) else 1
    assert made["legacy"][0] > 0 and made["legacy"][1] == 1
    assert made["isolated"][0] > made["legacy"][0] and made["isolated"][1] == own


def test_making_an_interpreter_is_seen_by_its_size(seen):
    if VERSION < (3, 12) or not seen["sub_interpreters"]:
        pytest.skip("no interpreter has a lock of its own")
    assert seen["interpreters_announced"] == len(seen["sub_interpreters"])


def test_lines_are_those_of_the_interpreter_for_the_standard_library():
    """Every 10th file; HEAPKEEPER_TEST_FULL=1: all."""
    step = 1 if os.environ.get("HEAPKEEPER_TEST_FULL") else 10
    result = run(["lines", str(step)], every=1000)
    assert result["examples"] == [] and result["wrong"] == 0
    assert result["objects"] > 1000
