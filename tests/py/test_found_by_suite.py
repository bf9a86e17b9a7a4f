"""What CPython's own test suite (tools/regrtest.py) found, each as a small program of its own."""

import pytest

NEARLY_UNLIMITED = """
import ctypes, resource
class A: pass
def some(n):
    made = [A() for _ in range(n)]
    for i, a in enumerate(made):
        a.number, a.list = i, [i]
    return made
before = some(1000)
limit = (ctypes.c_uint64 * 2)(2 ** 64 - 2, 2 ** 64 - 2)
if ctypes.CDLL(None).prlimit64(0, resource.RLIMIT_AS, limit, None) != 0:
    raise SystemExit("refused")
after = some(100000)
assert [a.list for a in before + after] == [[a.number] for a in before + after]
del before, after
print("fine")
"""

NO_MEMORY = """
import _testcapi
class C: pass
_testcapi.set_nomemory(0, %d)
C()
"""


def test_an_address_limit_just_below_unlimited_takes_nothing_in_use(heapkeeper):
    assert heapkeeper.good(NEARLY_UNLIMITED).out == b"fine\n"


@pytest.mark.parametrize("variable", ["PYTHONMALLOC=debug", "PYTHONMALLOC=malloc", "PYTHONMALLOC=pymalloc",
                                      "PYTHONDEVMODE=1", "PYTHONTRACEMALLOC=3"])
def test_a_program_with_another_allocator_ends_as_without_us(heapkeeper, every_python, variable):
    env = dict([variable.split("=")])
    program = "import json; print(json.dumps([1]))"
    stock = heapkeeper.stock(program, python=every_python, env=env)
    done = heapkeeper.run(program, python=every_python, env=env)
    assert (done.status, done.out) == (0, b"[1]\n") == (stock.status, stock.out)


def test_a_program_that_runs_out_of_memory_at_once_ends_as_without_us(heapkeeper, python):
    if heapkeeper.stock("import _testcapi").status != 0:
        pytest.skip("this interpreter has no _testcapi")
    for allocations in range(1, 20):
        assert heapkeeper.run(NO_MEMORY % allocations).status in (1, 120), allocations
