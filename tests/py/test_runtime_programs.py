"""Programs on the native runtime under `heapkeeper run`: their own frames are the stacks, every block is explained, and the
program behaves as without it."""

import json
import os
import subprocess

import pytest

from conftest import BUILD, COMMAND, TREE, build_is_usable, check_sums, execute

pytestmark = pytest.mark.once

FLAGS = ["-I" + os.path.join(TREE, "include"), "-L" + BUILD, "-Wl,-rpath," + BUILD, "-lheapkeeper"]

PROGRAM = r"""
    #include <heapkeeper/frame.h>
    #include <heapkeeper/gc.h>
    #include <heapkeeper/values.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>

    static hk_object *leaf(hk_runtime *runtime, int count)
    {
        HK_FRAME(runtime, frame, 1); // line 11
        frame->locals[0] = hk_list(runtime);
        for (int i = 0; i < count; i++) {
            hk_object *item = hk_dict(runtime);
            HK_FRAME_HERE(frame); // line 15
            hk_object *text = hk_str_format(runtime, "%0300d", i);
            hk_object *pair = hk_tuple(runtime, 2);
            if (!item || !text || !pair || !hk_list_append(runtime, frame->locals[0], item))
                return NULL;
            hk_tuple_init(pair, 0, text);
            hk_tuple_init(pair, 1, item);
            if (i % 2) { // half of them in a cycle
                hk_object *key = hk_str_intern(runtime, "pair");
                hk_dict_set(runtime, item, key, pair);
                hk_decref(runtime, key);
            }
            hk_decref(runtime, pair);
        }
        return hk_incref(frame->locals[0]);
    }

    static int branch(hk_runtime *runtime, int depth, int count)
    {
        HK_FRAME(runtime, frame, 1); // line 34
        if (frame == NULL)
            return -1;
        if (depth > 0)
            return branch(runtime, depth - 1, count) + 1;
        frame->locals[0] = leaf(runtime, count);
        printf("%zu %zu\n", hk_list_count(frame->locals[0]), (size_t)hk_gc_get_count(runtime, 0) * 0);
        free(strdup("native")); // malloc's family works beside it
        return 0;
    }

    int main(int argc, char **argv)
    {
        int rounds = atoi(argv[1]), kept = argc > 2;
        for (int round = 0; round < rounds; round++) {
            hk_runtime *runtime = hk_runtime_create(NULL);
            if (runtime == NULL)
                return 1;
            hk_object *kept_list = kept ? leaf(runtime, 2000) : NULL;
            hk_gc_collect(runtime, 2);
            printf("%d\n", branch(runtime, 3, 3000));
            printf("%d\n", (int)hk_gc_collect(runtime, 2));
            if (hk_heap_check(NULL) != 0)
                return 2;
            if (kept_list == NULL)
                hk_runtime_destroy(runtime);
        }
        return 0;
    }
"""


@pytest.fixture(scope="module")
def program(compile_c):
    if build_is_usable():
        pytest.skip(build_is_usable())
    return compile_c(PROGRAM, *FLAGS)


def record(program, tmp_path, *words, options=("--sample=2K",)):
    capture = str(tmp_path / "capture")
    done = execute([COMMAND, "run", *options, "-o", capture, program, *words])
    assert (done.status, done.err) == (0, b""), done.err.decode()
    report = execute([COMMAND, "report", "--json", capture])
    assert report.status == 0, report.err.decode()
    return done, json.loads(report.out)


def frames_of(site):
    """Outermost first."""
    return [(frame["function"], os.path.basename(frame["file"]), frame["line"]) for frame in site["stack"]]


def test_frames_of_a_program_on_the_runtime_are_its_stacks(program, tmp_path):
    stock = execute([program, "2"])
    assert stock.status == 0
    done, report = record(program, tmp_path, "2")
    assert done.out == stock.out
    check_sums(report)
    branches = [("branch", "source.c", 34)] * 4
    stacks = {tuple(frames_of(site)) for site in report["sites"] if site["domain"] in ("object", "mem") and site["samples"]}
    assert stacks - {tuple(branches)} == {tuple(branches + [("leaf", "source.c", 15)])}


def test_what_the_program_keeps_is_live_at_its_site_and_what_it_frees_is_not(program, tmp_path):
    report = record(program, tmp_path, "1", "keep")[1]
    check_sums(report)
    kept = sum(site["live_bytes"] for site in report["sites"] if frames_of(site) == [("leaf", "source.c", 15)])
    gone = sum(site["live_bytes"] for site in report["sites"] if len(site["stack"]) == 5)
    total = sum(site["total_bytes"] for site in report["sites"] if len(site["stack"]) == 5)
    assert kept > 1000 * 300 and total > 3000 * 300  # the strings alone
    allocated = [point["allocated_bytes"] for point in report["timeline"]]
    assert allocated == sorted(allocated)
    assert gone == 0


def test_end_of_a_runtime_leaves_nothing_live_in_the_record(program, tmp_path):
    report = record(program, tmp_path, "3")[1]
    assert sum(site["live_bytes"] for site in report["sites"] if site["domain"] in ("object", "mem")) == 0


@pytest.mark.parametrize("options", [("--no-record",), ("--geometry", "guide"), ("--debug",), ("--native-stacks",)],
                         ids=lambda options: options[-1])
def test_program_on_the_runtime_runs_the_same_in_every_way(program, tmp_path, options):
    stock = execute([program, "2", "keep"])
    done = execute([COMMAND, "run", *options, "-o", "/dev/null", program, "2", "keep"])
    assert (done.status, done.out) == (stock.status, stock.out), done.err.decode()


COLLECTING = r"""
    #include <heapkeeper/gc.h>
    #include <heapkeeper/record.h>
    #include <heapkeeper/values.h>
    #include <stdio.h>
    #include <stdlib.h>

    static bool churn(hk_runtime *runtime, int cycles)
    {
        for (int i = 0; i < cycles; i++) {
            hk_object *list = hk_list(runtime);
            if (list == NULL || !hk_list_append(runtime, list, list))
                return false;
            hk_decref(runtime, list);
        }
        return true;
    }

    int main(int argc, char **argv)
    {
        hk_runtime *runtime = hk_runtime_create(NULL);
        if (runtime == NULL || !churn(runtime, atoi(argv[1])))
            return 1;
        hk_gc_collect(runtime, 1);
        hk_gc_collect(runtime, 2);
        hk_gc_disable(runtime);
        if (!churn(runtime, 50000))
            return 1;
        while (hk_gc_step(runtime, 200) == 0)
            ;
        hk_gc_stats stats[3];
        for (int i = 0; i < 3; i++) {
            hk_gc_get_stats(runtime, i, &stats[i]);
            printf("%d %d %d\n", (int)stats[i].collections, (int)stats[i].candidates, (int)stats[i].collected);
        }
        hk_gc_step_stats steps = {.size = sizeof(steps)};
        hk_gc_get_step_stats(runtime, &steps);
        printf("%d %d %d\n", (int)steps.rounds, (int)steps.checked, (int)steps.freed);
        hk_collection own = {sizeof(own), 1, HK_COLLECTION_OTHER, 3000000, 1000000, 7, 5, 2};
        hk_note_collection(&own);
        hk_runtime_destroy(runtime);
        return 0;
    }
"""


def test_what_was_allocated_from_runtimes_that_have_ended_stays_counted(program, tmp_path):
    report = record(program, tmp_path, "5")[1]
    allocated = [point["allocated_bytes"] for point in report["timeline"]]
    assert allocated == sorted(allocated)
    assert report["allocated_bytes"] == sum(domain["allocated_bytes"] for domain in report["heap"]["domains"].values())
    assert report["allocated_bytes"] > 5 * 3000 * 300 and report["heap"]["allocated_blocks"] > 5 * 3000 * 3
    assert report["live_bytes"] < 100_000  # all runtimes have ended


def test_collections_of_a_runtime_are_on_the_timeline_with_their_causes(compile_c, tmp_path):
    if build_is_usable():
        pytest.skip(build_is_usable())
    done, report = record(compile_c(COLLECTING, *FLAGS), tmp_path, "200000")
    expected = [tuple(map(int, line.split())) for line in done.out.decode().splitlines()]
    sums = {}
    for entry in report["collections"]:
        of = sums.setdefault((entry["generation"], entry["cause"]), [0, 0, 0])
        for i, key in enumerate(("count", "examined", "freed")):
            of[i] += entry[key]
        assert 0 < entry["longest_ns"] <= entry["duration_ns"] and entry["time_ns"] <= entry["longest_at_ns"] <= entry["last_ns"]
    own = [entry for entry in report["collections"] if entry["cause"] == "other"]
    assert [(e["generation"], e["duration_ns"], e["longest_ns"], e["uncollectable"]) for e in own] == [(1, 3000000, 1000000, 2)]
    del sums[1, "other"]
    assert sums[0, "young"][0] > 10  # the threshold is reached again and again
    assert sums[1, "explicit"][0] == 1 and sums[2, "explicit"][0] == 1
    assert sums[2, "steps"][0] == 1 and sums[2, "steps"][2] == expected[3][2] == 50000
    for generation in range(3):
        both = [sums[key] for key in sums if key[0] == generation and key[1] != "steps"]
        assert tuple(map(sum, zip(*both))) == expected[generation]
    times = [entry["time_ns"] for entry in report["collections"]]
    assert times == sorted(times)
    assert report["gc"]["collections"] == sum(entry["count"] for entry in report["collections"])


def test_programs_whose_record_is_off_tell_of_no_collection(compile_c, tmp_path):
    if build_is_usable():
        pytest.skip(build_is_usable())
    done = execute([compile_c(COLLECTING, *FLAGS), "20000"])
    assert (done.status, done.err) == (0, b"")
