/* What a flame graph is drawn from, without drawing: data, trees, sums. Nothing here touches the page.
 *
 * The data (src/view/flame.c packs them) are frames, a tree of frames from the outermost in, and leaves: nodes of that tree at
 * which memory was asked for, with their bytes. What is shown is always an HkTree made from these: with the callers first or
 * inverted, with or without Python's import system. Its sums are worked out for one value at a time: live at a moment, at the
 * peak, in total.
 */
"use strict";

/** Numbers of a packed string, one after the other. */
function hkUnpack(text) {
  const bytes = atob(text);
  let at = 0;
  return {
    more: () => at < bytes.length,
    next() {
      let value = 0, scale = 1, byte;
      do {
        byte = bytes.charCodeAt(at++);
        value += (byte & 127) * scale;
        scale *= 128;
      } while (byte & 128);
      return value;
    },
    difference() {
      const value = this.next();
      return value % 2 ? -(value + 1) / 2 : value / 2;
    },
  };
}

/** Nodes numbered so that a parent is below its children; `end` is where each leaf's memory belongs. */
class HkTree {
  constructor(leafCount) {
    this.size = 1;
    this.parent = new Int32Array(1024);
    this.frame = new Int32Array(1024);
    this.depth = new Int32Array(1024);
    this.end = new Int32Array(leafCount);
    this.table = new Int32Array(4096);
  }

  slot(parent, frame) {
    const mask = this.table.length - 1;
    let at = Math.imul(parent ^ Math.imul(frame, 0x85ebca6b), 0x9e3779b1);
    at = Math.imul(at ^ at >>> 15, 0x2c1b3c6d);
    at = (at ^ at >>> 13) & mask;
    for (let node; (node = this.table[at]); at = (at + 1) & mask)
      if (this.parent[node] === parent && this.frame[node] === frame)
        break;
    return at;
  }

  /** The child of `parent` with this frame, made if it is not there. */
  child(parent, frame) {
    let at = this.slot(parent, frame);
    if (this.table[at])
      return this.table[at];
    if (this.size === this.parent.length)
      this.widen();
    if (this.size * 2 > this.table.length) {
      this.table = new Int32Array(this.table.length * 2);
      for (let node = 1; node < this.size; node++)
        this.table[this.slot(this.parent[node], this.frame[node])] = node;
      at = this.slot(parent, frame);
    }
    this.table[at] = this.size;
    this.parent[this.size] = parent;
    this.frame[this.size] = frame;
    this.depth[this.size] = this.depth[parent] + 1;
    return this.size++;
  }

  widen() {
    for (const name of ["parent", "frame", "depth"]) {
      const wider = new Int32Array(this[name].length * 2);
      wider.set(this[name]);
      this[name] = wider;
    }
  }

  /** Lists of children: those of node n are children[first[n]] up to children[first[n + 1]]. */
  finish() {
    this.table = null;
    this.first = new Int32Array(this.size + 1);
    this.children = new Int32Array(this.size);
    for (let node = 1; node < this.size; node++)
      this.first[this.parent[node] + 1]++;
    for (let node = 0; node < this.size; node++)
      this.first[node + 1] += this.first[node];
    const next = this.first.slice();
    for (let node = 1; node < this.size; node++)
      this.children[next[this.parent[node]]++] = node;
    return this;
  }

  /** By node: what is asked for in it and further in. `own`, if given, becomes what is asked for in it alone. */
  addUp(ofLeaf, own) {
    const sums = new Float64Array(this.size);
    for (let leaf = 0; leaf < this.end.length; leaf++)
      sums[this.end[leaf]] += ofLeaf[leaf];
    own?.set(sums);
    for (let node = this.size - 1; node > 0; node--)
      sums[this.parent[node]] += sums[node];
    return sums;
  }

  /** The largest first. */
  sortChildren(weight) {
    for (let node = 0; node < this.size; node++)
      if (this.first[node + 1] - this.first[node] > 1)
        this.children.subarray(this.first[node], this.first[node + 1]).sort((a, b) => weight[b] - weight[a] || a - b);
  }

  /** Where each node begins, if children lie side by side from their parent's beginning on. */
  starts(sums) {
    const start = new Float64Array(this.size);
    for (let node = 0; node < this.size; node++) {
      let at = start[node];
      for (let i = this.first[node]; i < this.first[node + 1]; i++) {
        start[this.children[i]] = at;
        at += sums[this.children[i]];
      }
    }
    return start;
  }

  /** The way from the root to a node, both included. */
  path(node) {
    const path = [node];
    for (; node; node = this.parent[node])
      path.push(this.parent[node]);
    return path.reverse();
  }
}

class HkFlameModel {
  /* An inverted tree that would have many more nodes, or take more steps to make, is cut at its callers' end. */
  static INVERTED_MOST = 4000000;
  static STEPS_MOST = 40000000;

  constructor(packed) {
    const { strings } = packed;
    const frames = { name: [], file: [], group: [], line: [], near: [] };
    for (const from = hkUnpack(packed.frames); from.more();) {
      frames.name.push(strings[from.next()]);
      frames.file.push(strings[from.next()]);
      frames.group.push(strings[from.next()]);
      frames.line.push(from.next());
    }
    for (const from = hkUnpack(packed.near || ""); from.more();)
      frames.near[from.next()] = true;
    const parent = [0], frame = [0];
    for (const from = hkUnpack(packed.nodes); from.more();) {
      parent.push(parent.length - from.next());
      frame.push(from.next());
    }
    const leaves = { node: [], live: [], liveBlocks: [], peak: [], peakBlocks: [], total: [], totalBlocks: [], at: [],
      before: packed.before ? { live: [], peak: [], total: [] } : null };
    const moments = packed.moments_ns.length - 1;
    for (let i = 0; i < moments; i++)
      leaves.at.push([]);
    let node = 0;
    for (const from = hkUnpack(packed.leaves); from.more();) {
      node += from.difference();
      leaves.node.push(node);
      for (const list of [leaves.live, leaves.liveBlocks, leaves.peak, leaves.peakBlocks, leaves.total, leaves.totalBlocks])
        list.push(from.next());
      let kib = 0;
      for (let i = 0; i < moments; i++) {
        kib += from.difference();
        leaves.at[i].push(kib * 1024);
      }
      if (leaves.before)
        for (const list of [leaves.before.live, leaves.before.peak, leaves.before.total])
          list.push(from.next());
    }
    leaves.at.push(leaves.live);
    Object.assign(this, { frames, parent: Int32Array.from(parent), frame: Int32Array.from(frame), leaves, last: moments, trees: {} });
  }

  /** Of Python's import system, or of what runs a module as a program. */
  isMachinery(frame) {
    const file = this.frames.file[frame], name = this.frames.name[frame];
    return file.startsWith("<frozen importlib") || file.startsWith("importlib._bootstrap") || file === "<frozen runpy>" ||
           file === "runpy" || /^_run_(module_as_main|code)$/.test(name);
  }

  /** The tree with the "callers" or the "callees" first; made once. */
  tree(order, hideMachinery) {
    this.trees[order + hideMachinery] ??= this.grow(order, hideMachinery);
    return this.trees[order + hideMachinery];
  }

  grow(order, hideMachinery) {
    const hidden = hideMachinery ? this.frames.name.map((_, i) => i > 0 && this.isMachinery(i)) : [];
    const tree = new HkTree(this.leaves.node.length);
    if (order === "callers")
      this.growFromCallers(tree, hidden);
    else
      this.growFromCallees(tree, hidden);
    return tree.finish();
  }

  growFromCallers(tree, hidden) {
    const { parent, frame, leaves } = this, place = new Int32Array(parent.length);
    for (let node = 1; node < parent.length; node++)
      place[node] = hidden[frame[node]] ? place[parent[node]] : tree.child(place[parent[node]], frame[node]);
    leaves.node.forEach((node, i) => { tree.end[i] = place[node]; });
  }

  /** A level after the other, so that of stacks too deep for all of them to be shown the callers are missing, and no leaf. */
  growFromCallees(tree, hidden) {
    const { parent, frame } = this, at = Int32Array.from(this.leaves.node);
    let left = at.map((_, leaf) => leaf);
    for (let steps = 0; left.length && tree.size < HkFlameModel.INVERTED_MOST && steps < HkFlameModel.STEPS_MOST; steps += left.length)
      left = left.filter((leaf) => {
        while (hidden[frame[at[leaf]]] && tree.end[leaf]) /* who asked is never hidden */
          at[leaf] = parent[at[leaf]];
        if (!at[leaf])
          return false;
        tree.end[leaf] = tree.child(tree.end[leaf], frame[at[leaf]]);
        at[leaf] = parent[at[leaf]];
        return at[leaf] !== 0;
      });
  }

  /** By leaf: bytes of "live" at a moment, of "peak" or of "total". */
  bytes(value, moment) {
    return value === "live" ? this.leaves.at[moment] : this.leaves[value];
  }

  /** The same in blocks; null where they are not kept, at moments before the end. */
  blocks(value, moment) {
    if (value === "live")
      return moment === this.last ? this.leaves.liveBlocks : null;
    return this.leaves[value + "Blocks"];
  }

  /** What the bytes are compared with, by leaf: the other capture's, if there is one, else those live at the moment `since`, -1
   * for the start. Null: with nothing, or there is nothing that they could be compared with. */
  before(value, since) {
    if (this.leaves.before)
      return this.leaves.before[value];
    return value !== "total" && since >= 0 ? this.leaves.at[since] : null;
  }

  /** Largest children first; by all moments together, so that boxes keep their places while the slider moves. */
  sortChildren(tree, value) {
    if (tree.sortedBy === value)
      return;
    tree.sortedBy = value;
    let ofLeaf = this.bytes(value, this.last);
    if (value === "live" && this.last > 0)
      ofLeaf = ofLeaf.map((_, i) => this.leaves.at.reduce((sum, at) => sum + at[i], 0));
    tree.sortChildren(tree.addUp(ofLeaf));
  }
}
