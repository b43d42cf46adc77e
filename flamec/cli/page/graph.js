/* The graph of a program: operations inside of modules, which open and close.
 *
 * In: the nodes of a program, each with the path of its module and the numbers of its operands. Out: a
 * drawing by cytoscape. Layout: each open module is laid out by itself, children first, by dagre; a
 * module of very many children by longest paths alone. Modules that look the same are laid out once.
 *
 * Forward and backward pass visit the same modules. So that no arrow goes back, a module has as
 * many boxes as needed: a node goes into the last box of its module unless that would make a cycle. */
"use strict";
const Graph = (() => {
  const LARGE = 300; // children of a module, above which dagre takes too long
  const START = 40; // items shown at first
  const PAD = 12, TITLE = 16, LEAF = 24, GAP = 14, RANK = 30;
  const READABLE = 0.75;
  const MANY = 1500; // items, above which arrows are hidden while the view moves

  /* Boxes ---------------------------------------------------------------------------- */
  function makeBox(name, parent) {
    return { name, parent, key: 0, children: [], open: false, size: 0, edges: [], depth: parent ? parent.depth + 1 : 0 };
  }

  /* The tree of boxes, and for each node its chain of boxes. `operands[n]` are the nodes that n reads. */
  function boxesOf(nodes, operands, isShown) {
    const root = makeBox("", null);
    const shown = nodes.map((_, n) => n).filter(isShown);
    divide(root, shown, 0);
    const home = new Array(nodes.length).fill(null);
    (function visit(box) {
      box.size = 0;
      for (const child of box.children) {
        if (typeof child === "number") { home[child] = box; box.size++; }
        else { visit(child); box.size += child.size; }
      }
    })(root);
    let key = 0;
    (function number(box) {
      box.key = key++;
      for (const child of box.children) if (typeof child !== "number") number(child);
    })(root);
    for (const n of shown) for (const o of operands[n]) if (home[o]) addEdge(o, n, home);
    return { root, home };

    /* Puts nodes, which are in topological order, into the box or into boxes inside of it. */
    function divide(box, members, depth) {
      const unit = new Map(); // node -> number of its unit: a leaf, or a box inside
      const before = []; // by unit: units that it reads
      const last = new Map(); // name -> its last box
      const boxes = [];
      for (const n of members) {
        const name = nodes[n].module[depth];
        const read = operands[n].filter((o) => unit.has(o)).map((o) => unit.get(o));
        if (name === undefined) {
          unit.set(n, before.length);
          before.push(new Set(read));
          boxes.push(null);
          box.children.push(n);
          continue;
        }
        let found = last.get(name);
        if (found === undefined || reaches(found, read)) {
          const again = found === undefined ? 0 : boxes[found].again + 1;
          const made = makeBox(again ? `${name} · ${again + 1}` : name, box);
          made.again = again;
          made.members = [];
          found = before.length;
          last.set(name, found);
          before.push(new Set());
          boxes.push(made);
          box.children.push(made);
        }
        for (const u of read) if (u !== found) before[found].add(u);
        unit.set(n, found);
        boxes[found].members.push(n);
      }
      for (const made of boxes) {
        if (made) { const inside = made.members; delete made.members; divide(made, inside, depth + 1); }
      }

      /* Whether one of `units`, other than the box itself, depends on it. */
      function reaches(target, units) {
        const seen = new Set(), todo = units.filter((u) => u !== target);
        while (todo.length) {
          const u = todo.pop();
          if (u === target) return true;
          if (seen.has(u)) continue;
          seen.add(u);
          for (const v of before[u]) todo.push(v);
        }
        return false;
      }
    }
  }

  /* Notes an arrow in the innermost box that has both of its ends. */
  function addEdge(from, to, home) {
    let a = home[from], b = home[to], left = from, right = to;
    while (a.depth > b.depth) { left = a; a = a.parent; }
    while (b.depth > a.depth) { right = b; b = b.parent; }
    while (a !== b) { left = a; a = a.parent; right = b; b = b.parent; }
    a.edges.push([left, right]);
  }

  /* Layout ---------------------------------------------------------------------------- */
  const known = new Map();
  let layouts = 0;

  /* Size of a box and places of its children in it; of an open box only. */
  function layoutBox(box, label) {
    const items = box.children.map((child) => {
      if (typeof child === "number") return { child, w: textWidth(label(child)), h: LEAF };
      if (!child.open) return { child, w: textWidth(child.name + "  (9999)"), h: LEAF + 8 };
      const inner = layoutBox(child, label);
      return { child, inner, w: inner.w + 2 * PAD, h: inner.h + 2 * PAD + TITLE };
    });
    const position = new Map(items.map((item, i) => [item.child, i]));
    const arrows = new Set(box.edges.map(([a, b]) => position.get(a) * items.length + position.get(b)));
    const edges = [...arrows].map((e) => [Math.floor(e / items.length), e % items.length]);
    const key = JSON.stringify([items.map((i) => [i.w, i.h]), edges]);
    let found = known.get(key);
    if (!found) {
      layouts++;
      found = items.length > LARGE ? byRanks(items, edges) : byDagre(items, edges);
      known.set(key, found);
    }
    return { w: found.w, h: found.h, items, places: found.places };
  }

  function textWidth(text) {
    return Math.round(Math.min(260, 18 + 6.6 * text.length) / 10) * 10;
  }

  function byDagre(items, edges) {
    const g = new dagre.graphlib.Graph();
    g.setGraph({ rankdir: "TB", nodesep: GAP, ranksep: RANK, edgesep: 6, ranker: items.length > 80 ? "longest-path" : "network-simplex" });
    g.setDefaultEdgeLabel(() => ({}));
    items.forEach((item, i) => g.setNode(String(i), { width: item.w, height: item.h }));
    for (const [a, b] of edges) g.setEdge(String(a), String(b));
    dagre.layout(g);
    const places = items.map((_, i) => { const n = g.node(String(i)); return [n.x, n.y]; });
    const size = g.graph();
    return { w: Math.max(size.width || 0, 10), h: Math.max(size.height || 0, 10), places };
  }

  /* Rows by the longest path to an item; in a row by the mean place of what is read. */
  function byRanks(items, edges) {
    const read = items.map(() => []);
    for (const [a, b] of edges) read[b].push(a);
    const rank = new Array(items.length).fill(0);
    const rows = [];
    items.forEach((_, i) => { // in topological order
      for (const a of read[i]) rank[i] = Math.max(rank[i], rank[a] + 1);
      (rows[rank[i]] = rows[rank[i]] || []).push(i);
    });
    const places = items.map(() => [0, 0]);
    let y = 0, width = 0;
    for (const row of rows) {
      const wish = new Map(row.map((i) => [i, read[i].reduce((s, a) => s + places[a][0], 0) / Math.max(1, read[i].length)]));
      row.sort((a, b) => wish.get(a) - wish.get(b));
      const height = Math.max(...row.map((i) => items[i].h));
      const total = row.reduce((s, i) => s + items[i].w + GAP, -GAP);
      const middle = row.reduce((s, i) => s + wish.get(i), 0) / row.length;
      let x = middle - total / 2;
      for (const i of row) { places[i] = [x + items[i].w / 2, y + height / 2]; x += items[i].w + GAP; }
      y += height + RANK;
      width = Math.max(width, total);
    }
    const left = Math.min(...items.map((item, i) => places[i][0] - item.w / 2));
    const right = Math.max(...items.map((item, i) => places[i][0] + item.w / 2));
    for (const place of places) place[0] -= left;
    return { w: right - left, h: Math.max(y - RANK, 10), places };
  }

  /* Drawing --------------------------------------------------------------------------- */
  class View {
    /* `onChoose(node number or box)` is called when something is clicked. */
    constructor(container, program, onChoose) {
      this.container = container;
      this.program = program;
      this.onChoose = onChoose;
      this.cy = null;
      this.frames = 0;
      this.builds = 0;
      this.withInputs = false;
      this.operands = program.nodes.map((n) => n.inputs);
      this.label = (n) => program.nodes[n].op + (program.nodes[n].op === "input" ? ` ${program.nodes[n].name}` : "");
      this.divide();
    }

    /* Inputs and constants are read from everywhere: arrows from them would hide the others. */
    isShown(n) {
      const node = this.program.nodes[n];
      return this.withInputs || !(node.op === "input" || node.kind === "creation");
    }

    divide() {
      const made = boxesOf(this.program.nodes, this.operands, (n) => this.isShown(n));
      this.root = made.root;
      this.home = made.home;
      this.root.open = true;
      this.openSome();
    }

    /* Opens modules, outer ones first, while not too much is shown. */
    openSome() {
      let shown = this.root.children.length;
      let level = [this.root];
      while (level.length) {
        const next = level.flatMap((b) => b.children.filter((c) => typeof c !== "number"));
        for (const box of next) {
          if (shown + box.children.length > START) continue;
          box.open = true;
          shown += box.children.length;
        }
        level = next.filter((b) => b.open);
      }
    }

    setAll(open) {
      (function visit(box) {
        for (const child of box.children) if (typeof child !== "number") { child.open = open; visit(child); }
      })(this.root);
      this.build();
      this.fit();
    }

    toggle(box) {
      box.open = !box.open;
      this.build();
      this.show(`b${box.key}`);
    }

    /* What stands for a node: itself, or the outermost closed box around it. */
    shownAs(n) {
      let id = `n${n}`;
      for (let box = this.home[n]; box && box.parent; box = box.parent) if (!box.open) id = `b${box.key}`;
      return id;
    }

    build() {
      this.builds++;
      const elements = [];
      this.boxes = new Map();
      const place = (box, layout, x, y) => {
        layout.items.forEach((item, i) => {
          const [cx, cy] = layout.places[i];
          const parent = box.parent ? `b${box.key}` : undefined;
          const position = { x: x + cx, y: y + cy };
          if (typeof item.child === "number") {
            elements.push({ data: this.nodeData(item.child, parent, item), position });
            return;
          }
          const inner = item.child;
          this.boxes.set(`b${inner.key}`, inner);
          const data = { id: `b${inner.key}`, parent, label: inner.open ? inner.name : `${inner.name}  (${inner.size})`, w: item.w, h: item.h };
          elements.push({ data, position, classes: inner.open ? "open" : "closed" });
          if (item.inner) place(inner, item.inner, position.x - item.w / 2 + PAD, position.y - item.h / 2 + PAD + TITLE);
        });
      };
      const whole = layoutBox(this.root, this.label);
      this.extent = { w: whole.w, h: whole.h };
      place(this.root, whole, 0, 0);
      const many = elements.length > MANY;
      const parents = new Map(elements.map((e) => [e.data.id, e.data.parent]));
      const arrows = new Set();
      this.operands.forEach((operands, n) => {
        if (!this.home[n]) return;
        for (const o of operands) {
          if (!this.home[o]) continue;
          const a = this.shownAs(o), b = this.shownAs(n);
          if (a !== b) arrows.add(`${a} ${b}`);
        }
      });
      for (const arrow of arrows) {
        const [source, target] = arrow.split(" ");
        elements.push({ data: { id: `e${source}-${target}`, source, target }, classes: parents.get(source) === parents.get(target) ? "" : "far" });
      }
      const view = this.cy && { zoom: this.cy.zoom(), pan: { ...this.cy.pan() } };
      if (this.cy) this.cy.destroy();
      this.cy = cytoscape({
        container: this.container,
        elements,
        layout: { name: "preset", fit: false },
        style: style(many),
        minZoom: 0.02,
        maxZoom: 4,
        boxSelectionEnabled: false,
        autoungrabify: true,
        hideEdgesOnViewport: many,
        textureOnViewport: many,
        pixelRatio: many ? 1 : "auto",
      });
      if (view) this.cy.viewport(view);
      this.cy.on("render", () => { this.frames++; });
      this.cy.on("tap", "node", (event) => this.choose(event.target.id()));
      this.cy.on("dbltap", "node", (event) => { const box = this.boxes.get(event.target.id()); if (box) this.toggle(box); });
      this.shownCount = this.cy.nodes().length;
    }

    nodeData(n, parent, item) {
      const node = this.program.nodes[n];
      const kernel = node.kernels && node.kernels.length ? node.kernels[0] : -1;
      return { id: `n${n}`, parent, label: this.label(n), w: item.w, h: item.h, color: kernel < 0 ? "#eceef1" : kernelColor(kernel), free: kernel < 0 ? 1 : 0 };
    }

    choose(id) {
      this.onChoose(id[0] === "n" ? Number(id.slice(1)) : this.boxes.get(id));
    }

    /* Opens what is around nodes, marks them and moves to them. */
    reveal(numbers, move = true) {
      const shown = numbers.filter((n) => this.home[n]);
      let opened = false;
      for (const n of shown.slice(0, 200)) {
        for (let box = this.home[n]; box; box = box.parent) if (!box.open) { box.open = true; opened = true; }
      }
      if (opened) this.build();
      this.mark(shown);
      if (move && shown.length) this.show(`n${shown[0]}`);
    }

    /* Marks nodes as they are shown now. */
    mark(numbers) {
      this.cy.elements(".marked").removeClass("marked");
      const ids = new Set(numbers.filter((n) => this.home[n]).map((n) => this.shownAs(n)));
      this.cy.batch(() => { for (const id of ids) this.cy.getElementById(id).addClass("marked"); });
    }

    show(id) {
      const element = this.cy.getElementById(id);
      if (!element.length) return;
      const zoom = this.cy.zoom() < 0.45 ? 0.9 : this.cy.zoom(), { x, y } = element.position();
      this.cy.viewport({ zoom, pan: { x: this.cy.width() / 2 - zoom * x, y: this.cy.height() / 2 - zoom * y } });
    }

    /* All of it, or where that would be too small to read, its beginning. */
    fit() {
      const { w, h } = this.extent, width = this.cy.width(), height = this.cy.height();
      const whole = Math.min((width - 48) / w, (height - 48) / h, 1.3);
      const few = this.shownCount <= 1.5 * START && whole < READABLE;
      const zoom = few ? READABLE : Math.max(whole, this.cy.minZoom());
      this.cy.viewport({ zoom, pan: { x: (width - zoom * w) / 2, y: few ? 24 : (height - zoom * h) / 2 } });
    }
  }

  function kernelColor(kernel) {
    return `hsl(${Math.round((kernel * 137.508) % 360)}, 62%, 80%)`;
  }

  function style(many) {
    return [
      { selector: "node", style: { shape: "round-rectangle", width: "data(w)", height: "data(h)", label: "data(label)", "text-valign": "center", "font-size": 11, "font-family": "DejaVu Sans, sans-serif", "background-color": "data(color)", "border-width": 1, "border-color": "#8a94a3", "min-zoomed-font-size": 6, color: "#1c2430", "text-max-width": 250, "text-wrap": "ellipsis" } },
      { selector: "node[free = 1]", style: { "border-style": "dashed", color: "#66707f" } },
      { selector: "node.closed", style: { "background-color": "#dbe6fb", "border-color": "#2458c6", "border-width": 1.5, "font-weight": "bold" } },
      { selector: "node.open", style: { "background-color": "#ffffff", "background-opacity": 0.55, "border-color": "#9fb2d6", "text-valign": "top", "text-halign": "center", "text-margin-y": -2, "font-weight": "bold", color: "#2458c6", padding: `${PAD - 2}px`, "min-zoomed-font-size": 5 } },
      { selector: "edge", style: many ? { "curve-style": "haystack", width: 1, "line-color": "#b7bfca" } : { "curve-style": "bezier", width: 1.2, "line-color": "#a9b2bf", "target-arrow-color": "#a9b2bf", "target-arrow-shape": "triangle", "arrow-scale": 0.8 } },
      { selector: "edge.far", style: { opacity: 0.35 } },
      { selector: ".marked", style: { "border-color": "#d4380d", "border-width": 3 } },
    ];
  }

  return { View, kernelColor, counts: { get layouts() { return layouts; } }, boxesOf };
})();
