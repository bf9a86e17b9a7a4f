"""What LineProfile says of generated functions is what a brute-force oracle says, to the byte."""

import json
import os

from conftest import ENVIRONMENT, TREE
from lines_oracle import SOURCE

PROGRAM = os.path.join(TREE, "tests", "py", "lines_program.py")


def test_two_hundred_generated_functions_have_the_oracles_figures_on_each_line(heapkeeper, compile_c, every_python, tmp_path):
    """Net, allocated, freed and blocks; plain and recursive functions, generators, coroutines, comprehensions, threads."""
    oracle = compile_c(SOURCE, "-Wno-unused-parameter", shared=True)
    done = heapkeeper.run([PROGRAM, oracle, "200", "7"], python=every_python, options=("--exact",), env=ENVIRONMENT, cwd=str(tmp_path), timeout=300)
    assert done.status == 0, done.err.decode(errors="replace")[-3000:]
    found = json.loads(done.out)
    assert found["differences"] == []
    assert found["compared"] > 1000 and found["compared_in_threads"] > 200
