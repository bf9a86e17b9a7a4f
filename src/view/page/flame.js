/* The flame graph.
 *
 * flame_tree.js has the tree that is to be shown and its sums. From the sums come rows of boxes, those at least a pixel wide,
 * narrower neighbours in one; from the rows what the window shows is drawn on a canvas. So a hundred thousand stacks are no
 * more work to draw than a screen has pixels.
 *
 * Whatever is called after something in the recorded program reaches the page as the text of an element or of the canvas.
 */
"use strict";

(() => {
  const ROW = 20; /* pixels of a row, its border included */
  const NARROW = 1; /* pixels; what is narrower is drawn with its neighbours as one */
  const HUES = [28, 207, 130, 348, 268, 52, 178, 312, 92, 232, 12, 155];

  const $ = (id) => document.getElementById("flame-" + id);
  const data = JSON.parse($("data").textContent);
  const model = new HkFlameModel(data);
  const { last } = model;

  const state = {
    value: "live", moment: last, since: -1, order: "callers", shape: "icicle", colours: "group", hideMachinery: false,
    tree: null, sums: null, zoom: 0, selected: -1, hovered: -1, rows: [], height: 0,
    query: "", group: -1, matches: null, found: [], foundAt: -1,
  };

  /* ---- sums ---- */

  function work() {
    const tree = model.tree(state.order, state.hideMachinery);
    model.sortChildren(tree, state.value);
    const own = new Float64Array(tree.size), bytes = tree.addUp(model.bytes(state.value, state.moment), own);
    state.tree = tree;
    state.sums = { bytes, own, start: tree.starts(bytes), blocks: undefined, before: null };
    const before = showsChange() && model.before(state.value, state.since);
    if (before)
      state.sums.before = tree.addUp(before);
  }

  /** What was allocated in total has no moment that it could be compared with. */
  function showsChange() {
    return state.colours === "change" && (data.before || state.value !== "total");
  }

  /** Bytes that a node has more than at the moment it is compared with: -1 is the start of the run. */
  function changeOf(node) {
    return state.sums.bytes[node] - (state.sums.before?.[node] ?? 0);
  }

  function sinceWord(moment) {
    if (data.before)
      return "the capture before";
    return moment < 0 ? "the start" : hk.duration(data.moments_ns[moment]);
  }

  function blocksOf(node) {
    if (state.sums.blocks === undefined) {
      const ofLeaf = model.blocks(state.value, state.moment);
      state.sums.blocks = ofLeaf && state.tree.addUp(ofLeaf);
    }
    return state.sums.blocks?.[node];
  }

  /** "±9%": one standard error of an estimate from samples; nothing where every block was recorded. */
  function errorOf(bytes) {
    const percent = bytes > 0 ? 100 * Math.sqrt(data.sample_bytes / bytes) : 0;
    return percent >= 0.5 ? ` ±${Math.min(100, percent).toFixed(0)}%` : "";
  }

  /* ---- boxes ---- */

  /** A row a level: boxes {node, x, width}; a node of -1 stands for `count` narrow ones with `bytes` together. */
  function layOut() {
    const { tree, sums, zoom } = state, width = scroll.clientWidth;
    const scale = sums.bytes[zoom] > 0 ? width / sums.bytes[zoom] : 0, origin = sums.start[zoom];
    const rows = tree.path(zoom).map((node) => [{ node, x: 0, width }]);
    for (let row = rows[rows.length - 1]; row.length && scale; row = rows[rows.length - 1]) {
      const next = [];
      for (const box of row)
        if (box.node >= 0)
          placeChildren(box.node, next, scale, origin);
      if (!next.length)
        break;
      rows.push(next);
    }
    state.rows = rows;
    state.height = rows.length * ROW;
  }

  function placeChildren(node, into, scale, origin) {
    const { tree, sums } = state;
    let narrow = null;
    const end = () => {
      if (narrow && narrow.width >= NARROW)
        into.push(narrow);
      narrow = null;
    };
    for (let i = tree.first[node]; i < tree.first[node + 1]; i++) {
      const child = tree.children[i], bytes = sums.bytes[child];
      if (!bytes)
        continue;
      const x = (sums.start[child] - origin) * scale, width = bytes * scale;
      if (width >= NARROW) {
        end();
        into.push({ node: child, x, width });
      } else {
        narrow ??= { node: -1, x, width: 0, count: 0, bytes: 0, parent: node };
        narrow.width += width;
        narrow.bytes += bytes;
        narrow.count++;
      }
    }
    end();
  }

  /** Where a row begins, in pixels from the top of all rows. */
  function rowTop(row) {
    const spare = Math.max(0, scroll.clientHeight - state.height);
    return state.shape === "icicle" ? row * ROW : spare + state.height - (row + 1) * ROW;
  }

  function boxAt(x, y) {
    const row = state.shape === "icicle" ? Math.floor(y / ROW) : Math.floor((rowTop(0) + ROW - y) / ROW);
    const boxes = state.rows[row] ?? [];
    let low = 0, high = boxes.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (boxes[middle].x + boxes[middle].width <= x)
        low = middle + 1;
      else
        high = middle;
    }
    return low < boxes.length && boxes[low].x <= x ? { ...boxes[low], row } : null;
  }

  function boxOf(node) {
    const row = state.tree.depth[node];
    const box = state.rows[row]?.find((each) => each.node === node);
    return box && { ...box, row };
  }

  /* ---- colours ---- */

  const hueOf = { group: new Map(), file: new Map() };

  /** The names with the most bytes at the peak, or in total where there are none, get a hue each; the rest is grey. */
  function chooseHues() {
    const { leaves, frame, frames } = model;
    for (const by of ["group", "file"]) {
      const sums = new Map();
      leaves.node.forEach((node, i) => {
        const name = frames[by][frame[node]];
        sums.set(name, (sums.get(name) ?? 0) + leaves.peak[i] + leaves.live[i] + leaves.total[i] * 1e-6);
      });
      for (const name of frames[by]) /* callers that never ask themselves come last */
        if (!sums.has(name))
          sums.set(name, 0);
      const names = [...sums.keys()].filter((name) => name !== "").sort((a, b) => sums.get(b) - sums.get(a));
      names.slice(0, HUES.length).forEach((name, i) => hueOf[by].set(name, HUES[i]));
    }
  }

  /** Functions of one colour differ a little, -3 to 3, so that neighbours can be told apart. */
  function shadeOf(name) {
    let hash = 0;
    for (let i = 0; i < name.length; i++)
      hash = Math.imul(hash, 31) + name.charCodeAt(i) | 0;
    return (hash >>> 0) % 7 - 3;
  }

  let paint = {};
  function choosePaint() {
    const dark = hk.isDark();
    paint = {
      dark,
      ink: hk.colour("ink"), soft: hk.colour("soft"), ground: hk.colour("ground"), raised: hk.colour("raised"),
      line: hk.colour("line"), accent: hk.colour("accent"),
      found: dark ? "hsl(50 95% 55%)" : "hsl(50 98% 55%)", foundInk: "#1b2027",
      hue: (hue, shade = 0) => dark ? `hsl(${hue} 38% ${33 + 1.3 * shade}%)` : `hsl(${hue} 72% ${80 + 1.3 * shade}%)`,
      grey: dark ? "hsl(215 9% 32%)" : "hsl(215 14% 86%)",
      /* from all of it lost, -1, to all of it gained, 1 */
      change: (part) => dark ? `hsl(${part < 0 ? 212 : 4} ${65 * Math.abs(part)}% ${28 + 10 * Math.abs(part)}%)`
                             : `hsl(${part < 0 ? 212 : 4} ${90 * Math.abs(part)}% ${90 - 22 * Math.abs(part)}%)`,
      share: (part) => dark ? `hsl(${48 - 48 * part} ${25 + 50 * part}% ${27 + 11 * part}%)`
                            : `hsl(${48 - 48 * part} ${55 + 35 * part}% ${90 - 26 * part}%)`,
    };
  }

  function fill(node) {
    const { frames } = model;
    if (node === 0)
      return paint.grey;
    if (state.colours === "share")
      return paint.share(Math.sqrt(state.sums.bytes[node] / (state.sums.bytes[state.zoom] || 1)));
    if (state.colours === "change") {
      const change = showsChange() ? changeOf(node) : 0, most = Math.max(state.sums.bytes[state.zoom], state.sums.before?.[state.zoom] ?? 0, 1);
      return paint.change(Math.sign(change) * Math.sqrt(Math.min(1, Math.abs(change) / most)));
    }
    const frame = state.tree.frame[node], hue = hueOf[state.colours].get(frames[state.colours][frame]);
    return hue === undefined ? paint.grey : paint.hue(hue, shadeOf(frames.name[frame]));
  }

  /* ---- words ---- */

  function valueWord() {
    if (state.value === "peak")
      return "live at the peak";
    if (state.value === "total")
      return "allocated";
    if (state.moment === last)
      return data.state === "running" ? "live now" : "live at the end";
    return "live after " + hk.duration(data.moments_ns[state.moment]);
  }

  function nameOf(node) {
    return node === 0 ? "all" : model.frames.name[state.tree.frame[node]] || "?";
  }

  function whereOf(node) {
    const frame = state.tree.frame[node], file = model.frames.file[frame], line = model.frames.line[frame];
    if (node === 0)
      return "";
    return file ? file + (line ? (model.frames.near[frame] ? ":~" : ":") + line : "") : model.frames.group[frame] && "[" + model.frames.group[frame] + "]";
  }

  function baseName(path) {
    return path.slice(path.lastIndexOf("/") + 1);
  }

  /* ---- drawing ---- */

  const scroll = $("scroll"), canvas = $("canvas"), context = canvas.getContext("2d");
  let letter = 7, pending = false;

  function draw() {
    if (pending)
      return;
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      drawNow();
    });
  }

  function fitCanvas(target, width, height) {
    const ratio = devicePixelRatio || 1;
    if (target.width !== Math.round(width * ratio) || target.height !== Math.round(height * ratio)) {
      target.width = Math.round(width * ratio);
      target.height = Math.round(height * ratio);
    }
    target.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  function drawNow() {
    const width = scroll.clientWidth, height = scroll.clientHeight, top = scroll.scrollTop;
    canvas.style.height = height + "px";
    fitCanvas(canvas, width, height);
    context.clearRect(0, 0, width, height);
    context.font = "12px " + getComputedStyle(scroll).getPropertyValue("--mono");
    context.textBaseline = "middle";
    letter = context.measureText("MMMMMMMMMM").width / 10;
    state.rows.forEach((boxes, row) => {
      const y = rowTop(row) - top;
      if (y > -ROW && y < height)
        for (const box of boxes)
          drawBox(box, y, row < state.tree.depth[state.zoom]);
    });
    if (!state.sums.bytes[state.zoom]) {
      context.fillStyle = paint.soft;
      context.textAlign = "center";
      const what = data.mode === "none" ? "recording was off: there are no stacks" : `nothing of this is ${valueWord()}`;
      context.fillText(what, width / 2, Math.min(height, state.height + 60) - 20);
      context.textAlign = "left";
    }
  }

  function drawBox(box, y, isAbove) {
    const { x, node } = box, width = Math.max(box.width - (box.width > 3 ? 1 : 0), 0.6), height = ROW - 1;
    const matched = node >= 0 && node !== 0 && state.matches?.[state.tree.frame[node]];
    context.globalAlpha = isAbove ? 0.6 : 1;
    if (node < 0) {
      drawNarrow(box, y, width, height);
      return;
    }
    context.fillStyle = matched ? paint.found : fill(node);
    if (state.matches && !matched)
      context.globalAlpha *= 0.45;
    context.fillRect(x, y, width, height);
    context.globalAlpha = isAbove ? 0.75 : 1;
    if (node === state.selected || node === state.hovered) {
      context.strokeStyle = node === state.selected ? paint.accent : paint.soft;
      context.lineWidth = node === state.selected ? 2 : 1;
      context.strokeRect(x + 1, y + 1, Math.max(width - 2, 0), height - 2);
    }
    if (width > 3 * letter)
      drawLabel(node, x + 4, y + height / 2 + 0.5, width - 8, matched);
    context.globalAlpha = 1;
  }

  function drawNarrow(box, y, width, height) {
    context.globalAlpha = state.matches ? 0.45 : 1;
    context.fillStyle = paint.raised;
    context.fillRect(box.x, y, width, height);
    context.fillStyle = paint.line;
    for (let at = 0; at < width; at += 3)
      context.fillRect(box.x + at, y, Math.min(1, width - at), height);
    context.globalAlpha = 1;
  }

  /** The name, then as far as there is room the place and, at the right, the bytes. */
  function drawLabel(node, x, y, room, matched) {
    const fits = Math.floor(room / letter), name = nameOf(node);
    const amount = hk.bytes(state.sums.bytes[node]);
    context.fillStyle = matched ? paint.foundInk : paint.ink;
    if (name.length > fits) {
      context.fillText(name.slice(0, Math.max(1, fits - 1)) + "…", x, y);
      return;
    }
    context.fillText(name, x, y);
    let left = fits - name.length;
    if (left >= amount.length + 3) {
      context.textAlign = "right";
      context.fillText(amount, x + room, y);
      context.textAlign = "left";
      left -= amount.length + 2;
    }
    const where = node === 0 ? valueWord() : baseName(whereOf(node));
    if (where && left >= Math.min(where.length, 14) + 1) {
      context.globalAlpha *= 0.65;
      context.fillText(where.length < left ? where : where.slice(0, left - 2) + "…", x + (name.length + 1) * letter, y);
    }
  }

  /* ---- the moments ---- */

  const plot = $("plot"), slider = $("slider");

  function endNs() {
    return Math.max(data.moments_ns[last], (data.timeline.at(-1)?.[0] ?? 0) * 1e6, 1);
  }

  function drawPlot() {
    const width = plot.clientWidth, height = plot.clientHeight, pen = plot.getContext("2d");
    if (!width)
      return;
    fitCanvas(plot, width, height);
    pen.clearRect(0, 0, width, height);
    const points = data.timeline, most = Math.max(1, ...points.map((p) => p[1]));
    const x = (ns) => 1 + ns / endNs() * (width - 2), y = (bytes) => height - 12 - bytes / most * (height - 16);
    if (points.length) {
      pen.beginPath();
      pen.moveTo(x(points[0][0] * 1e6), y(0));
      for (const [ms, bytes] of points)
        pen.lineTo(x(ms * 1e6), y(bytes));
      const ridge = points.at(-1);
      pen.lineTo(x(ridge[0] * 1e6), y(0));
      pen.closePath();
      pen.fillStyle = paint.dark ? "hsl(212 45% 32%)" : "hsl(212 75% 84%)";
      pen.fill();
    }
    pen.fillStyle = paint.soft;
    pen.fillRect(0, y(0), width, 1);
    for (const ns of data.moments_ns)
      pen.fillRect(x(ns) - 0.5, y(0) + 1, 1, 6);
    if (points.length && data.peak_ns > 0 && data.peak_ns <= endNs()) {
      pen.fillStyle = paint.accent;
      pen.globalAlpha = state.value === "peak" ? 1 : 0.35;
      pen.fillRect(x(data.peak_ns) - 1, 2, 2, y(0) - 2);
      pen.globalAlpha = 1;
    }
    if (state.value === "live") {
      const at = x(data.moments_ns[state.moment]);
      pen.fillStyle = paint.accent;
      pen.fillRect(at - 1, 0, 2, y(0));
      pen.beginPath();
      pen.arc(Math.min(Math.max(at, 5), width - 5), y(0) + 4, 5, 0, 7);
      pen.fill();
    }
    pen.fillStyle = paint.soft;
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "top";
    if (points.length)
      pen.fillText("the whole heap, up to " + hk.bytes(most), 4, 1);
  }

  function nearestMoment(ns) {
    let best = 0;
    data.moments_ns.forEach((at, i) => {
      if (Math.abs(at - ns) < Math.abs(data.moments_ns[best] - ns))
        best = i;
    });
    return best;
  }

  function tellMoment() {
    const total = hk.bytes(state.sums.bytes[0]);
    slider.value = state.moment;
    $("when").textContent = state.value !== "live" ? `${total} ${valueWord()}`
      : `${hk.duration(data.moments_ns[state.moment])} of ${hk.duration(endNs())}: ${total} ${valueWord().replace(/ after .*/, "")}`;
    slider.setAttribute("aria-valuetext", $("when").textContent);
  }

  /* ---- the search ---- */

  function matcher(text) {
    const expression = /^\/(.+)\/$/.exec(text);
    if (expression) {
      const pattern = new RegExp(expression[1], "i");
      return (words) => pattern.test(words);
    }
    const plain = text.toLowerCase();
    return (words) => words.toLowerCase().includes(plain);
  }

  function findMatches() {
    const { frames } = model;
    state.matches = null;
    $("found").className = "number";
    if (state.group >= 0) {
      const by = state.colours === "file" ? "file" : "group", wanted = frames[by][state.group];
      state.matches = frames[by].map((name, i) => i > 0 && name === wanted);
    } else if (state.query) {
      try {
        const matches = matcher(state.query);
        state.matches = frames.name.map((name, i) => i > 0 && matches(`${name} ${frames.file[i]}:${frames.line[i]}`));
      } catch {
        $("found").textContent = "not a regular expression";
        $("found").className = "number bad";
      }
    }
  }

  /** What stacks with a match hold: each once, however many of their frames match. */
  function countMatches() {
    const { tree, sums, matches } = state;
    state.found = [];
    if (!matches) {
      if (!$("found").classList.contains("bad"))
        $("found").textContent = "";
      return;
    }
    const hit = new Uint8Array(tree.size);
    let bytes = 0;
    for (let node = 1; node < tree.size; node++) {
      if (hit[tree.parent[node]]) {
        hit[node] = 1;
      } else if (matches[tree.frame[node]]) {
        hit[node] = 1;
        bytes += sums.bytes[node];
        if (sums.bytes[node])
          state.found.push(node);
      }
    }
    state.found.sort((a, b) => sums.bytes[b] - sums.bytes[a]);
    const count = matches.reduce((sum, match) => sum + match, 0);
    $("found").classList.toggle("found", bytes > 0);
    $("found").textContent = `${hk.count(count)} line${count === 1 ? "" : "s"}, ${hk.bytes(bytes)}, ` +
                             `${hk.percent(bytes, sums.bytes[0])} of all`;
  }

  function search(text) {
    state.query = text.trim();
    state.group = -1;
    state.foundAt = -1;
    findMatches();
    show();
  }

  function nextMatch(step) {
    if (!state.found.length)
      return;
    state.foundAt = (state.foundAt + step + state.found.length) % state.found.length;
    reveal(state.found[state.foundAt]);
  }

  /* ---- legend, path, status, tip ---- */

  function tellLegend() {
    const legend = $("legend");
    legend.replaceChildren();
    if (state.colours === "share") {
      const scale = hk.element("i", "", { class: "scale" });
      scale.style.background = `linear-gradient(90deg, ${[0, .25, .5, .75, 1].map(paint.share).join(", ")})`;
      legend.append(hk.element("span", "a little of what is shown", { class: "soft" }), scale,
                    hk.element("span", "all of it", { class: "soft" }));
      return;
    }
    if (state.colours === "change") {
      tellChange(legend);
      return;
    }
    const { frames, frame, leaves } = model, by = state.colours, ofLeaf = model.bytes(state.value, state.moment);
    const sums = new Map(), example = new Map(), whole = state.sums.bytes[0];
    leaves.node.forEach((node, i) => {
      const name = frames[by][frame[node]];
      if (!example.has(name))
        example.set(name, frame[node]);
      sums.set(name, (sums.get(name) ?? 0) + ofLeaf[i]);
    });
    if (!sums.size)
      return;
    legend.append(hk.element("span", "Asked for in", { class: "soft" }));
    let rest = whole;
    for (const [name, hue] of hueOf[by]) { /* always in this order, or names would jump while the slider moves */
      if (!sums.has(name))
        continue;
      rest -= sums.get(name);
      legend.append(chip(paint.hue(hue), name, sums.get(name), whole, example.get(name)));
    }
    const others = [...sums.keys()].filter((name) => !hueOf[by].has(name)).length;
    if (others)
      legend.append(chip(paint.grey, `${hk.count(others)} other${others === 1 ? "" : "s"}`, Math.max(0, rest), whole, -1));
  }

  function tellChange(legend) {
    if (!showsChange()) {
      legend.append(hk.element("span", "What was allocated in total has no moment to be compared with", { class: "soft" }));
      return;
    }
    const scale = hk.element("i", "", { class: "scale" }), since = hk.element("select", "", { id: "flame-since", "aria-label": "Compared with" });
    scale.style.background = `linear-gradient(90deg, ${[-1, -.25, 0, .25, 1].map(paint.change).join(", ")})`;
    if (data.before) {
      legend.append(hk.element("span", "less", { class: "soft" }), scale, hk.element("span", "more than in", { class: "soft" }),
                    hk.element("span", `${data.before.program}, pid ${data.before.pid}`, { title: data.before.capture }),
                    hk.element("span", signed(changeOf(0)), { class: "number" }));
      return;
    }
    for (let moment = -1; moment <= last; moment++)
      since.append(hk.element("option", moment === last ? "the end" : sinceWord(moment), { value: moment }));
    since.value = state.since;
    since.addEventListener("change", () => {
      state.since = Number(since.value);
      show();
    });
    legend.append(hk.element("span", "less", { class: "soft" }), scale, hk.element("span", "more than at", { class: "soft" }), since,
                  hk.element("span", signed(changeOf(0)), { class: "number" }));
  }

  function signed(bytes) {
    return (bytes < 0 ? "−" : "+") + hk.bytes(Math.abs(bytes));
  }

  function chip(colour, name, bytes, whole, frame) {
    const by = state.colours, pressed = state.group >= 0 && frame >= 0 && model.frames[by][state.group] === model.frames[by][frame];
    const button = hk.element("button", "", { "aria-pressed": pressed, title: `${name}: ${hk.bytes(bytes)} ${valueWord()}` });
    const swatch = hk.element("i");
    swatch.style.background = colour;
    button.append(swatch, hk.element("span", by === "file" ? baseName(name) : name, { class: "name" }),
                  hk.element("span", hk.percent(bytes, whole), { class: "number soft" }));
    button.disabled = frame < 0;
    button.addEventListener("click", () => {
      $("search").value = state.query = "";
      state.group = pressed ? -1 : frame;
      findMatches();
      show();
    });
    return button;
  }

  function tellPath() {
    const path = state.tree.path(state.zoom), bar = $("path");
    bar.replaceChildren();
    if (path.length > 1) {
      const reset = hk.element("button", "show all", { class: "reset", title: "0" });
      reset.addEventListener("click", () => zoomTo(0));
      bar.append(reset);
    }
    const skipped = Math.max(0, path.length - 9);
    path.forEach((node, i) => {
      if (i > 0 && i <= skipped) {
        if (i === 1)
          bar.append(hk.element("span", `› … ${skipped} …`, { class: "soft" }));
        return;
      }
      if (i > 0)
        bar.append(hk.element("span", "›", { class: "soft" }));
      const button = hk.element("button", nameOf(node), { title: whereOf(node) });
      button.addEventListener("click", () => zoomTo(node));
      bar.append(button);
    });
    bar.scrollLeft = bar.scrollWidth;
  }

  function shares(bytes, parent) {
    const parts = [`${hk.percent(bytes, state.sums.bytes[0])} of all`];
    if (parent > 0)
      parts.push(`${hk.percent(bytes, state.sums.bytes[parent])} of ${nameOf(parent)}`);
    return parts.join(", ");
  }

  function describe(box) {
    if (box.node < 0)
      return [`${hk.count(box.count)} narrow boxes`, "", `${hk.bytes(box.bytes)} ${valueWord()}, ${shares(box.bytes, box.parent)}`, ""];
    const { node } = box, bytes = state.sums.bytes[node], own = state.sums.own[node], blocks = blocksOf(node);
    const amount = `${hk.bytes(bytes)}${errorOf(bytes)} ${valueWord()}` + (blocks === undefined ? "" : ` in ${hk.count(blocks)} block${blocks === 1 ? "" : "s"}`);
    const more = [shares(bytes, node ? state.tree.parent[node] : 0)];
    if (showsChange())
      more.unshift(`${signed(changeOf(node))} since ${sinceWord(state.since)}`);
    if (state.order === "callers" && own && own < bytes)
      more.push(`${hk.bytes(own)} asked for here itself`);
    return [nameOf(node), whereOf(node), amount, more.join("; ")];
  }

  function tellStatus() {
    const node = state.selected >= 0 ? state.selected : state.hovered;
    const text = node >= 0 ? describe({ node }).filter(Boolean).join("  ·  ")
      : "Click a box to zoom; / searches; ? explains.";
    $("status").textContent = text;
  }

  function showTip(box, event) {
    const tip = $("tip"), [name, where, amount, more] = describe(box);
    tip.replaceChildren(hk.element("b", name), hk.element("div", where, { class: "where" }),
                        hk.element("div", amount, { class: "amount" }), hk.element("div", more, { class: "amount soft" }));
    tip.hidden = false;
    const { offsetWidth: width, offsetHeight: height } = tip;
    const x = event.clientX + 14 + width > innerWidth ? event.clientX - 10 - width : event.clientX + 14;
    const y = event.clientY + 16 + height > innerHeight ? event.clientY - 10 - height : event.clientY + 16;
    tip.style.left = Math.max(4, x) + "px";
    tip.style.top = Math.max(4, y) + "px";
  }

  function hideTip() {
    $("tip").hidden = true;
  }

  /* ---- what one can do ---- */

  function tellSwitches() {
    for (const id of ["value", "order", "shape"])
      for (const button of $(id).children)
        button.setAttribute("aria-pressed", button.dataset.value === state[id]);
  }

  /** Everything, from the sums on. */
  function show() {
    work();
    if (state.zoom >= state.tree.size)
      state.zoom = 0;
    countMatches();
    layOut();
    $("tall").style.height = state.height + "px";
    tellSwitches();
    tellMoment();
    tellLegend();
    tellPath();
    tellStatus();
    drawPlot();
    draw();
  }

  function zoomTo(node) {
    state.zoom = node;
    state.selected = node || -1;
    hideTip();
    layOut();
    $("tall").style.height = state.height + "px";
    scrollToRow(state.tree.depth[node], true);
    tellPath();
    tellStatus();
    draw();
  }

  function scrollToRow(row, keepsBase) {
    const top = rowTop(row), height = scroll.clientHeight;
    if (keepsBase && row < 4)
      scroll.scrollTop = state.shape === "icicle" ? 0 : scroll.scrollHeight;
    else if (top < scroll.scrollTop || top + ROW > scroll.scrollTop + height || keepsBase)
      scroll.scrollTop = top - (state.shape === "icicle" ? height * 0.25 : height * 0.75);
  }

  function select(node) {
    state.selected = node;
    scrollToRow(state.tree.depth[node]);
    tellStatus();
    draw();
  }

  /** Shows a node wherever it is: its caller alone, if it is too narrow or elsewhere. */
  function reveal(node) {
    if (!boxOf(node))
      zoomTo(state.tree.parent[node]);
    select(node);
  }

  function reset(change) {
    Object.assign(state, { zoom: 0, selected: -1, hovered: -1 }, change);
    show();
    scroll.scrollTop = state.shape === "icicle" ? 0 : scroll.scrollHeight;
  }

  function setValue(value) {
    if (data.values && !data.values.includes(value))
      return;
    state.value = value;
    show();
  }

  function setMoment(moment) {
    state.value = "live";
    state.moment = Math.min(last, Math.max(0, moment));
    show();
  }

  function setOrder(order) {
    reset({ order });
  }

  function setShape(shape) {
    state.shape = shape;
    tellSwitches();
    draw();
    scroll.scrollTop = shape === "icicle" ? 0 : scroll.scrollHeight;
  }

  /** The box beside the selected one: -1 or 1 along the row, or towards the callees, or the callers. */
  function move(where) {
    const node = state.selected >= 0 ? state.selected : state.zoom, box = boxOf(node);
    if (!box)
      return;
    if (where === "in") {
      const { tree, sums } = state, row = state.rows[box.row + 1] ?? [];
      const inside = row.filter((each) => each.node >= 0 && tree.parent[each.node] === node);
      if (node !== state.zoom && tree.depth[node] < tree.depth[state.zoom])
        select(tree.path(state.zoom)[tree.depth[node] + 1]);
      else if (inside.length)
        select(inside.reduce((a, b) => sums.bytes[b.node] > sums.bytes[a.node] ? b : a).node);
    } else if (where === "out") {
      if (node)
        select(state.tree.parent[node]);
    } else {
      const row = state.rows[box.row].filter((each) => each.node >= 0);
      const next = row[row.findIndex((each) => each.node === node) + where];
      if (next)
        select(next.node);
    }
  }

  const keys = {
    ArrowLeft: () => move(-1),
    ArrowRight: () => move(1),
    ArrowDown: () => move(state.shape === "icicle" ? "in" : "out"),
    ArrowUp: () => move(state.shape === "icicle" ? "out" : "in"),
    Enter: () => state.selected >= 0 && zoomTo(state.selected),
    Escape: back,
    Backspace: back,
    "0": () => zoomTo(0),
    "1": () => setValue("live"),
    "2": () => setValue("peak"),
    "3": () => setValue("total"),
    "[": () => setMoment(state.moment - 1),
    "]": () => setMoment(state.moment + 1),
    "/": () => $("search").focus(),
    "i": () => setOrder(state.order === "callers" ? "callees" : "callers"),
    "f": () => setShape(state.shape === "icicle" ? "flame" : "icicle"),
    "t": () => hk.setTheme(hk.isDark() ? "light" : "dark"),
    "?": () => $("keys").showModal(),
  };

  function back() {
    if (state.matches) {
      $("search").value = "";
      search("");
    } else if (state.zoom) {
      zoomTo(state.tree.parent[state.zoom]);
    }
  }

  function listen() {
    const place = (event) => {
      const edge = scroll.getBoundingClientRect();
      return boxAt(event.clientX - edge.left - scroll.clientLeft, event.clientY - edge.top - scroll.clientTop + scroll.scrollTop);
    };
    canvas.addEventListener("pointermove", (event) => {
      const box = place(event), hovered = box && box.node >= 0 ? box.node : -1;
      canvas.style.cursor = hovered >= 0 ? "pointer" : "default";
      if (box)
        showTip(box, event);
      else
        hideTip();
      if (hovered !== state.hovered) {
        state.hovered = hovered;
        draw();
      }
    });
    canvas.addEventListener("pointerleave", () => {
      state.hovered = -1;
      hideTip();
      draw();
    });
    canvas.addEventListener("click", (event) => {
      const box = place(event);
      if (box)
        zoomTo(box.node >= 0 ? box.node : box.parent);
    });
    scroll.addEventListener("scroll", () => {
      hideTip();
      draw();
    });
    for (const id of ["value", "order", "shape"])
      $(id).addEventListener("click", (event) => {
        const { value } = event.target.dataset;
        if (value)
          ({ value: setValue, order: setOrder, shape: setShape })[id](value);
      });
    $("colours").addEventListener("change", (event) => {
      state.colours = event.target.value;
      state.group = -1;
      if (state.since < 0 && last > 0)
        state.since = 0;
      findMatches();
      show();
    });
    $("machinery").addEventListener("change", (event) => reset({ hideMachinery: event.target.checked }));
    let waiting = 0;
    $("search").addEventListener("input", (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => search(event.target.value), 120);
    });
    $("search").addEventListener("keydown", (event) => {
      if (event.key === "Enter") {
        clearTimeout(waiting);
        if (state.query !== event.target.value.trim())
          search(event.target.value);
        nextMatch(event.shiftKey ? -1 : 1);
      } else if (event.key === "Escape") {
        event.target.value = "";
        search("");
        scroll.focus();
      }
    });
    slider.addEventListener("input", () => setMoment(Number(slider.value)));
    const pick = (event) => {
      const edge = plot.getBoundingClientRect();
      setMoment(nearestMoment((event.clientX - edge.left) / edge.width * endNs()));
    };
    plot.addEventListener("pointerdown", (event) => {
      plot.setPointerCapture(event.pointerId);
      pick(event);
    });
    plot.addEventListener("pointermove", (event) => event.buttons && pick(event));
    $("help").addEventListener("click", keys["?"]);
    document.addEventListener("keydown", (event) => {
      const typing = event.target.matches("input[type=search], select"), inGraph = scroll.contains(event.target);
      const needsGraph = /^(Arrow|Enter|Backspace)/.test(event.key); /* these have a meaning of their own elsewhere */
      const key = keys[event.key];
      if (!key || typing || event.ctrlKey || event.metaKey || event.altKey || $("keys").open || (needsGraph && !inGraph))
        return;
      event.preventDefault();
      key();
    });
    new ResizeObserver(() => {
      layOut();
      drawPlot();
      drawNow();
    }).observe(scroll);
    hk.onTheme(() => {
      choosePaint();
      tellLegend();
      drawPlot();
      draw();
    });
  }

  function begin() {
    const facts = [...data.facts ?? [], data.python && "Python " + data.python, data.pid && "pid " + data.pid, hk.duration(data.duration_ns), data.state];
    if (data.mode === "sample")
      facts.push(`figures are estimates from samples, one for ${hk.bytes(data.sample_bytes)}`);
    $("title").textContent = data.program;
    $("facts").textContent = facts.filter(Boolean).join(" · ");
    slider.max = last;
    if (last === 0) {
      slider.disabled = true;
      slider.title = "the run was too short for moments between its start and its end";
    }
    if (data.before)
      $("colours").value = state.colours = "change";
    if (data.values) { /* of a stretch of code: some of the figures, and no moments */
      for (const button of $("value").children)
        button.hidden = !data.values.includes(button.dataset.value);
      $("time").hidden = true;
      state.value = data.values[0];
    }
    chooseHues();
    choosePaint();
    listen();
    show();
  }

  begin();

  /** For tests and the console: what is drawn, in pixels of the window. */
  window.heapkeeperFlame = {
    boxes() {
      const edge = scroll.getBoundingClientRect(), boxes = [];
      state.rows.forEach((row, i) => row.forEach((box) => boxes.push({
        name: box.node < 0 ? null : nameOf(box.node), where: box.node < 0 ? "" : whereOf(box.node), row: i,
        bytes: box.node < 0 ? box.bytes : state.sums.bytes[box.node], width: box.width,
        x: edge.left + scroll.clientLeft + box.x + box.width / 2,
        y: edge.top + scroll.clientTop + rowTop(i) - scroll.scrollTop + ROW / 2,
        count: box.count ?? 1,
      })));
      return boxes;
    },
    total: () => state.sums.bytes[0],
    state,
  };
})();
