"""The pages in a real browser: Chromium, driven by Playwright. Pictures of them are kept in BUILD/artefacts.

tools/browser.sh installs both; without them these tests are skipped, and each says so.
"""

import contextlib
import glob
import os
import shutil
import site
import subprocess
import sys

import pytest

import capture_writer as cw
import pages
from conftest import BUILD, COMMAND, TREE

pytestmark = pytest.mark.once

ARTEFACTS = os.path.join(BUILD, "artefacts")
MIB = 1 << 20


def browser():
    """(chromium's path, playwright's entry, None) or why there is none."""
    for directory in glob.glob(os.path.join(TREE, "build/browser/lib/python%d.%d/site-packages" % sys.version_info[:2])):
        site.addsitedir(directory)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None, None, "no Playwright: tools/browser.sh installs it"
    names = (os.environ.get("HEAPKEEPER_CHROMIUM") or "", "chromium", "chromium-browser", "google-chrome")
    path = next((found for found in map(shutil.which, filter(None, names)) if found), None)
    return path, sync_playwright, None if path else "no Chromium: tools/browser.sh installs it"


@contextlib.contextmanager
def launched(*arguments):
    path, playwright, reason = browser()
    if reason:
        pytest.skip(reason)
    with playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox", *arguments], timeout=300_000)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def chromium():
    with launched() as opened:
        yield opened


@pytest.fixture
def visit(chromium, request):
    """Opens a page of the command's. Whatever it would load or complain of fails the test when it ends."""
    faults, contexts = [], []

    def open_page(path, **options):
        context = chromium.new_context(viewport={"width": 1400, "height": 850}, **options)
        context.set_default_timeout(300_000)  # milliseconds: a busy machine is no fault
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append("error: %s" % error))
        page.on("console", lambda line: line.type in ("error", "warning") and faults.append("console: %s" % line.text))
        page.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or faults.append("loads " + asked.url))
        page.on("dialog", lambda dialog: faults.append("a dialog: " + dialog.message))
        page.goto("file://" + str(path))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def picture(page, name):
    os.makedirs(ARTEFACTS, exist_ok=True)
    page.screenshot(path=os.path.join(ARTEFACTS, name + ".png"))


def make(capture, tmp_path, *words):
    path = tmp_path / "page.html"
    subprocess.run([COMMAND, *words, str(capture.write(tmp_path / "c.hkc"))], check=True, stdout=subprocess.DEVNULL,
                   env=dict(os.environ, COLUMNS="100"), cwd=str(tmp_path))
    return path


def flame(capture, tmp_path):
    return make(capture, tmp_path, "flame", "-f", "-o", str(tmp_path / "page.html"))


def boxes(page):
    return page.evaluate("heapkeeperFlame.boxes()")


def box(page, name):
    return max((each for each in boxes(page) if each["name"] == name), key=lambda each: each["width"])


def click(page, name):
    at = box(page, name)
    page.mouse.click(at["x"], at["y"])


def path_of(page):
    return page.locator("#flame-path button:not(.reset)").all_inner_texts()


def pressed(page, group):
    return page.locator("#flame-%s [aria-pressed=true]" % group).all_inner_texts()


# ---- the flame graph ----


def test_boxes_are_as_wide_as_their_bytes_and_lie_in_their_callers(visit, tmp_path):
    page = visit(flame(cw.shop(), tmp_path))
    found = {(each["name"], each["where"]): each for each in boxes(page)}
    whole = found[("all", "")]
    assert whole["bytes"] == sum(site.live_bytes for site in cw.shop().sites)
    for each in found.values():
        assert each["width"] == pytest.approx(whole["width"] * each["bytes"] / whole["bytes"], abs=0.01)
    put, handle = found[("cache_put", "shop.py:52")], found[("handle", "shop.py:55")]
    assert put["row"] == handle["row"] + 1 and put["bytes"] == handle["bytes"] == 64 * MIB
    assert put["x"] == pytest.approx(handle["x"])


def test_click_zooms_the_path_leads_back_and_so_does_escape(visit, tmp_path):
    page = visit(flame(cw.shop(), tmp_path))
    click(page, "Shop.remember_order")
    assert path_of(page) == ["all", "<module>", "main", "handle", "Shop.remember_order"]
    assert box(page, "Shop.remember_order")["width"] == pytest.approx(box(page, "all")["width"])
    assert "cache_put" not in {each["name"] for each in boxes(page)}
    page.locator("#flame-path button", has_text="main").click()
    assert path_of(page) == ["all", "<module>", "main"]
    page.keyboard.press("Escape")
    assert path_of(page) == ["all", "<module>"]
    page.locator("#flame-path .reset").click()
    assert path_of(page) == ["all"] and "cache_put" in {each["name"] for each in boxes(page)}


def test_values_are_live_at_the_peak_and_in_total(visit, tmp_path):
    c = cw.shop()
    c.site(c.stack((c.code("gone"), 7)), total_bytes=90 * MIB, total_blocks=9, peak_bytes=30 * MIB, peak_blocks=3, peak_serial=9)
    page = visit(flame(c, tmp_path))
    assert "gone" not in {each["name"] for each in boxes(page)}
    page.get_by_role("button", name="At the peak").click()
    assert box(page, "gone")["bytes"] == 30 * MIB and pressed(page, "value") == ["At the peak"]
    page.get_by_role("button", name="Allocated").click()
    assert box(page, "gone")["bytes"] == 90 * MIB
    assert page.evaluate("heapkeeperFlame.total()") == sum(site.total_bytes for site in c.sites)


def test_inverted_picture_begins_with_who_asked(visit, tmp_path):
    page = visit(flame(cw.shop(), tmp_path))
    page.get_by_role("button", name="From callees").click()
    rows = {}
    for each in boxes(page):
        rows.setdefault(each["row"], []).append(each["name"])
    assert set(rows[1]) == {"Shop.remember_order", "cache_put", "(native code)"} and set(rows[2]) == {"handle"}
    assert page.evaluate("heapkeeperFlame.total()") == sum(site.live_bytes for site in cw.shop().sites)


def test_slider_shows_what_was_live_at_each_moment(visit, tmp_path):
    c = cw.shop()
    page = visit(flame(c, tmp_path))
    slider = page.locator("#flame-slider")
    assert slider.get_attribute("max") == "11"
    for moment in (0, 5, 10, 11):
        slider.fill(str(moment))
        last = moment == 11
        wanted = sum(site.live_bytes if last or site.mark < moment else site.at_mark[moment] << 10 for site in c.sites)
        assert page.evaluate("heapkeeperFlame.total()") == wanted
        assert box(page, "Shop.remember_order")["bytes"] == c.sites[0].live_bytes if last else c.sites[0].at_mark[moment] << 10
    slider.fill("3")
    assert "live after" in page.locator("#flame-status").inner_text() or "live" in page.locator("#flame-when").inner_text()
    picture(page, "flame-moment")
    page.locator("#flame-plot").click(position={"x": 2, "y": 20})
    assert slider.input_value() == "0"
    page.keyboard.press("]")
    assert slider.input_value() == "1"


def test_search_tells_the_share_of_stacks_once_each(visit, tmp_path):
    page = visit(flame(cw.shop(), tmp_path))
    live = [site.live_bytes for site in cw.shop().sites]
    search, found = page.locator("#flame-search"), page.locator("#flame-found")
    page.keyboard.press("/")
    page.keyboard.type("remember")
    page.keyboard.press("Enter")
    assert "%.0f%% of all" % (100 * live[0] / sum(live)) in found.inner_text() and "1 line" in found.inner_text()
    picture(page, "flame-search")
    search.fill("shop.py")  # every frame of two stacks
    page.keyboard.press("Enter")
    assert "%.0f%% of all" % (100 * sum(live[:2]) / sum(live)) in found.inner_text()
    search.fill("/^cache_|:88$/")
    page.keyboard.press("Enter")
    assert "2 lines" in found.inner_text()
    search.fill("/(/")
    page.keyboard.press("Enter")
    assert found.inner_text() == "not a regular expression"
    page.keyboard.press("Escape")
    assert found.inner_text() == "" and search.input_value() == ""


def test_keys_move_zoom_and_switch(visit, tmp_path):
    page = visit(flame(cw.shop(), tmp_path))
    page.locator("#flame-scroll").focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    assert page.locator("#flame-status").inner_text().startswith("handle")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    name = page.locator("#flame-status").inner_text().split(" ")[0]
    assert name in ("Shop.remember_order", "cache_put")
    page.keyboard.press("Enter")
    assert path_of(page)[-1] == name
    page.keyboard.press("0")
    assert path_of(page) == ["all"]
    page.keyboard.press("f")
    assert pressed(page, "shape") == ["Flame"] and box(page, "all")["y"] > box(page, "main")["y"]
    page.keyboard.press("2")
    page.keyboard.press("i")
    assert pressed(page, "value") == ["At the peak"] and pressed(page, "order") == ["From callees"]
    page.keyboard.press("?")
    assert page.locator("#flame-keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#flame-keys").is_visible()


def test_tooltip_has_function_place_bytes_blocks_and_share(visit, tmp_path):
    page = visit(flame(cw.shop(), tmp_path))
    at = box(page, "Shop.remember_order")
    page.mouse.move(at["x"], at["y"])
    text = page.locator("#flame-tip").inner_text()
    for part in ("Shop.remember_order", "shop.py:88", "61.0 MiB", "420 000 blocks", "48% of all", "100% of handle"):
        assert part in text
    picture(page, "flame-tooltip")


def test_legend_names_who_asked_and_shows_the_boxes_of_one(visit, tmp_path):
    page = visit(flame(cw.database(), tmp_path))
    chip = page.locator("#flame-legend button", has_text="libsqlite3.so.0")
    assert chip.count() == 1 and page.locator("#flame-legend button", has_text="shop").count() == 1
    chip.click()
    assert page.locator("#flame-legend [aria-pressed=true]").inner_text().startswith("libsqlite3")
    assert "65.0 MiB" in page.locator("#flame-found").inner_text()
    page.locator("#flame-colours").select_option("share")
    assert page.locator("#flame-legend button").count() == 0


def test_colours_tell_the_change_between_two_moments(visit, tmp_path):
    c = cw.shop()
    page = visit(flame(c, tmp_path))
    page.locator("#flame-colours").select_option("change")
    before = [sum(site.at_mark[i] << 10 for site in c.sites[:2]) for i in range(12)]
    page.locator("#flame-since").select_option("4")
    page.locator("#flame-slider").fill("8")
    at = box(page, "main")
    page.mouse.move(at["x"], at["y"])
    grown = (before[8] - before[4]) / MIB
    assert "+%.1f MiB since" % grown in page.locator("#flame-tip").inner_text()
    assert page.locator("#flame-since").input_value() == "4"
    picture(page, "flame-change")
    page.locator("#flame-slider").fill("0")
    page.mouse.move(at["x"] + 1, at["y"])
    assert "−" in page.locator("#flame-tip").inner_text()
    page.keyboard.press("3")
    assert page.locator("#flame-since").count() == 0


def test_two_captures_are_compared_in_colours_and_words(visit, tmp_path):
    before, after = cw.shop(), cw.shop()
    before.sites[0].live_bytes = 10 * MIB
    before.write(tmp_path / "before.hkc")
    page = visit(make(after, tmp_path, "flame", "-f", "-o", str(tmp_path / "page.html"), "--before", str(tmp_path / "before.hkc")))
    assert "+%.1f MiB" % ((after.sites[0].live_bytes - 10 * MIB) / MIB) in page.locator("#flame-legend").inner_text()
    for name, words in (("Shop.remember_order", "+51.0 MiB since the capture before"), ("cache_put", "+0 B since")):
        at = box(page, name)
        page.mouse.move(at["x"], at["y"])
        assert words in page.locator("#flame-tip").inner_text()
    page.get_by_role("button", name="Allocated").click()
    assert "+0 B" in page.locator("#flame-legend").inner_text()
    picture(page, "flame-before")


def test_imports_can_be_hidden_and_nothing_is_lost(visit, tmp_path):
    c = cw.shop()
    module, load = c.code("<module>"), c.code("_find_and_load", file="<frozen importlib._bootstrap>")
    c.site(c.stack((module, 2), (load, 3), (c.code("inner"), 4)), live_bytes=20 * MIB, total_bytes=20 * MIB)
    page = visit(flame(c, tmp_path))
    assert box(page, "inner")["row"] == 3
    page.locator("#flame-machinery").check()
    assert box(page, "inner")["row"] == 2 and "_find_and_load" not in {each["name"] for each in boxes(page)}
    assert page.evaluate("heapkeeperFlame.total()") == sum(site.live_bytes for site in c.sites)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_flame_graph_follows_the_system_and_the_switch(visit, tmp_path, scheme):
    page = visit(flame(cw.shop(), tmp_path), color_scheme=scheme)
    ground = "getComputedStyle(document.body).backgroundColor"
    first = page.evaluate(ground)
    assert (int(first.strip("rgb()").split(",")[0]) > 128) == (scheme == "light")
    picture(page, "flame-" + scheme)
    page.locator("[data-theme-switch]").click()
    assert page.evaluate(ground) != first
    page.keyboard.press("t")
    assert page.evaluate(ground) == first


def test_hostile_names_run_nothing_and_are_shown(visit, tmp_path):
    page = visit(flame(pages.hostile(), tmp_path))
    shown = {each["name"] for each in boxes(page)}
    assert "</script><script>broken()</script>" in shown and "<img src=x onerror=broken()>" in shown
    for name in ("</script><script>broken()</script>", "<img src=x onerror=broken()>"):
        at = box(page, name)
        page.mouse.move(at["x"], at["y"])
        assert name in page.locator("#flame-tip").inner_text()
        click(page, name)
        assert path_of(page)[-1] == name
        page.keyboard.press("0")
    page.locator("#flame-search").fill("onerror")
    page.keyboard.press("Enter")
    assert page.locator("img, .flame script").count() == page.locator("#flame script").count()
    picture(page, "flame-hostile")


def test_empty_record_says_that_there_is_nothing(visit, tmp_path):
    page = visit(flame(cw.Capture(), tmp_path))
    assert page.evaluate("heapkeeperFlame.total()") == 0 and len(boxes(page)) == 1
    for key in ("2", "3", "i", "f", "ArrowDown", "Enter", "]", "["):
        page.keyboard.press(key)
    picture(page, "flame-empty")


def test_a_hundred_thousand_stacks_draw_no_more_boxes_than_fit(visit, tmp_path):
    c = pages.many()
    page = visit(flame(c, tmp_path))
    for key in ("1", "i", "[", "2", "3"):
        page.keyboard.press(key)
        assert len(boxes(page)) < 40 * 1400
    page.keyboard.press("i")
    page.keyboard.press("1")
    page.keyboard.press("]")
    assert page.evaluate("heapkeeperFlame.total()") == sum(site.live_bytes for site in c.sites)
    rows = {}
    for each in boxes(page):
        rows[each["row"]] = rows.get(each["row"], 0) + each["bytes"]
    assert rows[0] == rows[1] and all(rows[i + 1] <= rows[i] for i in range(len(rows) - 1))
    picture(page, "flame-large")


def test_small_window_keeps_everything_within_reach(visit, tmp_path):
    page = visit(flame(cw.shop(), tmp_path))
    page.set_viewport_size({"width": 480, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 480
    page.wait_for_function("Math.max(...heapkeeperFlame.boxes().map((box) => box.x + box.width / 2)) <= 480")
    click(page, "main")
    assert path_of(page)[-1] == "main"
    picture(page, "flame-small")


# ---- the report ----


def report(capture, tmp_path):
    return make(capture, tmp_path, "report", "--html", "-f", "-o", str(tmp_path / "page.html"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report_is_a_page_with_lists_a_curve_and_a_flame_graph_that_works(visit, tmp_path, scheme):
    page = visit(report(cw.shop(), tmp_path), color_scheme=scheme)
    assert page.locator("h2").all_inner_texts()[:3] == ["Memory over time", "Growing", "Largest"]
    assert "shop.py:88 in Shop.remember_order" in page.locator("#growing").inner_text()
    curve = page.locator("svg.plot").bounding_box()
    assert curve["width"] > 600 and curve["height"] > 200
    os.makedirs(ARTEFACTS, exist_ok=True)
    page.screenshot(path=os.path.join(ARTEFACTS, "report-%s.png" % scheme), full_page=True)
    page.locator("#flame-scroll").scroll_into_view_if_needed()
    click(page, "Shop.remember_order")
    assert path_of(page)[-1] == "Shop.remember_order"
    ground, switch = "getComputedStyle(document.body).backgroundColor", page.locator(".report > header [data-theme-switch]")
    before = page.evaluate(ground)
    switch.click()
    assert page.evaluate(ground) != before
    assert page.locator("[data-theme-switch]:visible").count() == 1


def test_report_of_hostile_names_runs_nothing(visit, tmp_path):
    page = visit(report(pages.hostile(), tmp_path))
    assert "</script><script>broken()</script> a note" in page.locator("#notes").inner_text()
    assert page.locator("img").count() == 0
    picture(page, "report-hostile")


def test_report_is_whole_without_scripts_and_in_a_small_window(visit, tmp_path):
    page = visit(report(cw.shop(), tmp_path), java_script_enabled=False)
    page.set_viewport_size({"width": 480, "height": 900})
    assert "+30.5 MiB" in page.locator("#growing").inner_text() and page.locator("svg.plot").is_visible()
    picture(page, "report-small")
