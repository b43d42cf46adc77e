/* The page: tabs, search, details, tables; the graph is in graph.js, charts are in blocks.js. */
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const make = (tag, text, className) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };
  const UNITS = { B: ["B", "kB", "MB", "GB", "TB"], F: ["", "k", "M", "G", "T"] };
  const scaled = (value, units) => {
    let i = 0;
    while (value >= 1000 && i < units.length - 1) { value /= 1000; i++; }
    return `${i ? value.toPrecision(3) : value} ${units[i]}`.trim();
  };
  const bytes = (n) => scaled(n, UNITS.B);
  const flops = (n) => scaled(n, UNITS.F);
  const time = (us) => (us >= 1e6 ? `${(us / 1e6).toPrecision(3)} s` : us >= 1e3 ? `${(us / 1e3).toPrecision(3)} ms` : `${us.toPrecision(3)} µs`);

  const state = { program: 0, view: "", graphs: [], charts: {}, columns: [], match: 0, matches: [] };
  window.inspection = { data, state, get graph() { return graph(); }, get layouts() { return Graph.counts.layouts; } };
  const program = () => data.programs[state.program];

  /* Times of a profile, by "program/kernel". */
  const measured = new Map();
  for (const lane of data.profile) for (const e of lane.events) {
    if (e.kind !== "kernel") continue;
    const sum = measured.get(e.name) || { runs: 0, us: 0 };
    measured.set(e.name, { runs: sum.runs + 1, us: sum.us + e.length });
  }
  const times = (kernel) => measured.get(`${program().name}/${kernel.name}`);

  /* Graph ----------------------------------------------------------------------------- */
  function graph() {
    if (!state.graphs[state.program]) {
      const view = new Graph.View($("canvas"), program(), (what) => (typeof what === "number" ? showNode(what) : showBox(what)));
      state.graphs[state.program] = view;
      view.build();
      view.fit();
    }
    return state.graphs[state.program];
  }

  function drawGraph() {
    const view = graph();
    if (view.cy && view.cy.container() !== $("canvas")) view.build();
    view.cy.resize();
    $("shown").textContent = `${view.shownCount} of ${program().nodes.length} shown`;
    $("show-inputs").checked = view.withInputs;
  }

  const changed = (act) => () => { act(graph()); drawGraph(); };
  $("open-all").onclick = changed((g) => g.setAll(true));
  $("close-all").onclick = changed((g) => g.setAll(false));
  $("fit").onclick = changed((g) => g.fit());
  $("show-inputs").onchange = changed((g) => { g.withInputs = $("show-inputs").checked; g.divide(); g.build(); g.fit(); });

  /* Details ---------------------------------------------------------------------------- */
  function details(title) {
    const panel = $("details");
    panel.replaceChildren(make("h3", title));
    panel.scrollTop = 0;
    return panel;
  }

  function facts(panel, pairs) {
    const list = make("dl");
    for (const [name, value] of pairs) {
      if (value === "" || value === null || value === undefined || (Array.isArray(value) && !value.length)) continue;
      const cell = make("dd");
      cell.append(...[value].flat());
      list.append(make("dt", name), cell);
    }
    panel.append(list);
  }

  function link(text, act) {
    const element = make("span", text, "link");
    element.onclick = act;
    return element;
  }

  const spread = (items) => items.flatMap((item, i) => (i ? [", ", item] : [item]));
  const nodeLink = (n) => link(`${program().nodes[n].op} ${program().nodes[n].name || "#" + n}`, () => { showNode(n); go("graph"); graph().reveal([n]); drawGraph(); });
  const kernelLink = (k) => link(program().kernels[k].name, () => showKernel(k));

  function showNode(n) {
    const node = program().nodes[n];
    const panel = details(node.op === "input" ? `input ${node.name}` : node.op);
    panel.dataset.node = n;
    if (node.line) {
      const where = make("div", `${node.line.file}:${node.line.line} in ${node.line.function}`);
      where.title = node.line.path;
      panel.append(where, make("pre", node.line.text, "source"));
    }
    facts(panel, [
      ["module", node.module.join(".")],
      ["gives", node.outputs.join(", ")],
      ["reads", spread(node.inputs.map(nodeLink))],
      ["bytes", node.bytes ? bytes(node.bytes) : ""],
      ["FLOPs", node.flops ? flops(node.flops) : ""],
      ...Object.entries(node.attributes || {}),
      ["kernel", spread((node.kernels || []).map(kernelLink))],
    ]);
    if (node.op !== "input" && !(node.kernels || []).length) panel.append(make("p", "No kernel: it moves nothing and computes nothing, or what reads it does it.", "hint"));
    if (node.line) {
      const same = program().nodes.flatMap((m, i) => (m.line && m.line.path === node.line.path && m.line.line === node.line.line ? [i] : []));
      panel.append(link(`${same.length} operations of this line`, () => { go("graph"); graph().reveal(same, false); drawGraph(); }), " · ",
        link("this line in the stages", () => { go("stages"); sameLine(`${node.line.file}:${node.line.line}`); }));
    }
    if ((node.kernels || []).length) kernelCode(panel, node.kernels[0]);
    if (state.graphs[state.program]) graph().mark([n]);
  }

  function showBox(box) {
    const panel = details(box.name);
    const inside = [];
    (function visit(b) { for (const c of b.children) typeof c === "number" ? inside.push(c) : visit(c); })(box);
    const nodes = inside.map((n) => program().nodes[n]);
    const kernels = [...new Set(nodes.flatMap((n) => n.kernels || []))].sort((a, b) => a - b);
    facts(panel, [
      ["operations", String(inside.length)],
      ["FLOPs", flops(nodes.reduce((s, n) => s + n.flops, 0))],
      ["kernels", spread(kernels.slice(0, 60).map(kernelLink))],
    ]);
    const button = make("button", box.open ? "close" : "open");
    button.onclick = () => { graph().toggle(box); drawGraph(); showBox(box); };
    panel.append(button);
  }

  function showKernel(k) {
    const kernel = program().kernels[k];
    const panel = details(`${kernel.name} (${kernel.kind})`);
    panel.dataset.kernel = k;
    const run = times(kernel);
    facts(panel, [
      ["operations", kernel.operations],
      ["reads", bytes(kernel.read)],
      ["writes", bytes(kernel.written)],
      ["FLOPs", kernel.flops ? flops(kernel.flops) : ""],
      ["measured", run ? `${time(run.us / run.runs)}, ${((kernel.read + kernel.written) * run.runs / run.us / 1e3).toPrecision(3)} GB/s, ${(kernel.flops * run.runs / run.us / 1e3).toPrecision(3)} GFLOP/s` : ""],
      ["roofline", kernel.share ? `${Math.round(100 * kernel.share)}% of what the device can do` : ""],
      ["modules", kernel.modules.join(", ")],
      ["computes", spread(kernel.nodes.slice(0, 40).map(nodeLink))],
    ]);
    panel.append(link(`show its ${kernel.nodes.length} operations in the graph`, () => { go("graph"); graph().reveal(kernel.nodes); drawGraph(); }));
    for (const line of kernel.lines) panel.append(make("pre", line, "source"));
    kernelCode(panel, k);
    if (state.graphs[state.program]) graph().mark(kernel.nodes);
  }

  function kernelCode(panel, k) {
    const kernel = program().kernels[k];
    if (kernel.text) panel.append(make("h2", `${kernel.name} as loops`), code(kernel.text));
    const source = kernel.functions.map((name) => program().functions[name]).join("\n\n");
    const language = source.includes("@triton.jit") ? "python" : "c";
    if (source) panel.append(make("h2", `${kernel.name} in ${language === "c" ? "C" : "Triton"}`), code(source, language));
  }

  function code(text, language) {
    const block = make("pre", text, "code");
    if (language && text.length < 60000) block.innerHTML = Prism.highlight(text, Prism.languages[language], language);
    return block;
  }

  /* Stages: columns of lines, of which only those in sight are in the document ---------- */
  const HEIGHT = 17;
  class Lines {
    constructor(parent) {
      this.element = make("div", undefined, "lines");
      this.window = make("div", undefined, "window");
      this.space = make("div");
      this.element.append(this.space, this.window);
      parent.append(this.element);
      this.element.onscroll = () => this.draw();
      this.element.onclick = (e) => { const at = this.place(this.first + [...this.window.children].indexOf(e.target)); if (at) sameLine(at); };
    }
    show(text) {
      this.lines = text.split("\n");
      this.space.style.height = `${this.lines.length * HEIGHT}px`;
      this.element.scrollTop = 0;
      this.draw();
    }
    /* "file:line" of a line, or of the comment before it. */
    place(i) {
      for (let j = i; j >= Math.max(0, i - 40); j--) {
        const found = /([\w.-]+\.\w+:\d+)/.exec(this.lines[j] || "");
        if (found) return found[1];
      }
      return null;
    }
    draw() {
      this.first = Math.max(0, Math.floor(this.element.scrollTop / HEIGHT) - 10);
      const last = Math.min(this.lines.length, this.first + Math.ceil(this.element.clientHeight / HEIGHT) + 20);
      this.window.style.top = `${this.first * HEIGHT}px`;
      this.window.replaceChildren(...this.lines.slice(this.first, last).map((line) => make("div", line || " ", state.line && hasPlace(line, state.line) ? "same" : "")));
    }
    find(place) {
      const i = this.lines.findIndex((line) => hasPlace(line, place));
      if (i >= 0) this.element.scrollTop = (i - 5) * HEIGHT;
      this.draw();
    }
  }
  const hasPlace = (line, place) => { const i = line.indexOf(place); return i >= 0 && !/\d/.test(line[i + place.length] || ""); };

  function sameLine(place) {
    state.line = place;
    for (const column of state.columns) column.lines.find(place);
  }

  function drawStages() {
    if (state.columns.length) { for (const c of state.columns) c.lines.draw(); return; }
    const names = Object.keys(data.stages);
    for (const chosen of ["trace 0", "optimized 1", "kernel 0"]) {
      const column = make("div", undefined, "column"), bar = make("div", undefined, "bar");
      const select = make("select");
      for (const name of names) data.stages[name].forEach((part, i) => { const option = make("option", part.title); option.value = `${name} ${i}`; select.append(option); });
      bar.append(select, make("span", "", "hint"));
      column.append(bar);
      $("columns").append(column);
      const lines = new Lines(column);
      const show = () => { const [name, i] = select.value.split(" "); lines.show(data.stages[name][i].text); bar.lastChild.textContent = `${lines.lines.length} lines`; };
      select.value = chosen;
      select.onchange = show;
      show();
      state.columns.push({ select, lines });
    }
  }

  /* Kernels ------------------------------------------------------------------------------ */
  const COLUMNS = [
    ["kernel", (k) => k.name], ["kind", (k) => k.kind],
    ["read", (k) => k.read, bytes], ["written", (k) => k.written, bytes], ["FLOPs", (k) => k.flops, flops],
    ["time", (k) => { const m = times(k); return m ? m.us / m.runs : 0; }, (v) => (v ? time(v) : "")],
    ["roofline", (k) => k.share || 0, (v) => (v ? `${Math.round(100 * v)}%` : "")],
    ["operations", (k) => k.operations], ["lines", (k) => k.lines.map((l) => l.split(" ")[0].replace(/:$/, "")).join(", ")],
  ];
  function drawKernels(sortBy = -1) {
    const table = $("kernel-table");
    const columns = COLUMNS.filter(([name]) => !["time", "roofline"].includes(name) || measured.size);
    const head = make("thead"), body = make("tbody"), row = make("tr");
    columns.forEach(([name], i) => { const cell = make("th", name); cell.onclick = () => drawKernels(i); row.append(cell); });
    head.append(row);
    const order = program().kernels.map((_, k) => k);
    if (sortBy >= 0) {
      const value = (k) => columns[sortBy][1](program().kernels[k]);
      order.sort((a, b) => (columns[sortBy][2] ? value(b) - value(a) : String(value(a)).localeCompare(value(b), undefined, { numeric: true })));
    }
    for (const k of order) {
      const line = make("tr");
      for (const [, value, format] of columns) line.append(make("td", format ? format(value(program().kernels[k])) : value(program().kernels[k]), format ? "number" : ""));
      line.onclick = () => { for (const other of body.children) other.classList.remove("chosen"); line.classList.add("chosen"); showKernel(k); };
      body.append(line);
    }
    table.replaceChildren(head, body);
  }

  /* Time and memory ------------------------------------------------------------------------ */
  const COLORS = { kernel: "#9cc3f5", program: "#dfe3ea", operation: "#a8dcb5", module: "#f2dfa6", user: "#e7c3ee", compile: "#f3b8a6" };
  function drawTime() {
    if (state.charts.time) return;
    const section = $("time");
    state.charts.time = [];
    for (const p of data.programs) {
      let at = 0;
      const blocks = p.passes.map((pass) => {
        const block = { x: at, w: pass.seconds * 1e3, y: 0, h: 1, color: pass.changed ? "#f3b8a6" : "#e6e9ee", label: pass.name, tip: `${pass.name}: ${(pass.seconds * 1e3).toPrecision(3)} ms\n${pass.before ? `${pass.before} → ${pass.after} nodes` : ""}${pass.changed ? "" : "\nunchanged"}` };
        at += block.w;
        return block;
      });
      state.charts.time.push(new Blocks(section, { title: `compilation of ${p.title}: ${at.toPrecision(4)} ms`, blocks, width: at, height: 1, row: 26, unit: { text: (v) => `${+v.toPrecision(6)} ms` } }));
    }
    for (const lane of data.profile) {
      const end = Math.max(...data.profile.flatMap((l) => l.events.map((e) => e.start + e.length)));
      const depth = 1 + Math.max(...lane.events.map((e) => e.depth));
      const blocks = lane.events.map((e) => ({ x: e.start, w: e.length, y: e.depth, h: 1, color: COLORS[e.kind], label: e.name, data: e.name, tip: `${e.name}: ${time(e.length)}\n${e.bytes ? bytes(e.bytes) + " moved, " : ""}${e.flops ? flops(e.flops) + " FLOPs" : ""}` }));
      state.charts.time.push(new Blocks(section, { title: `run: ${lane.name}`, blocks, width: end, height: depth, row: 22, unit: { text: (v) => (v ? time(v) : "0") }, onChoose: kernelNamed }));
    }
    if (!data.profile.length) section.append(make("p", "Give --profile to see a run here.", "hint"));
  }

  function kernelNamed(name) {
    const p = data.programs.findIndex((one) => name.startsWith(`${one.name}/`));
    if (p < 0) return;
    if (p !== state.program) { $("program").value = p; $("program").onchange(); }
    const k = program().kernels.findIndex((kernel) => name === `${program().name}/${kernel.name}`);
    if (k >= 0) showKernel(k);
  }

  /* Buffers at one place follow one another in place: they count once. */
  function inUse(blocks) {
    const places = new Map();
    for (const b of blocks) places.set(b.offset, Math.max(b.bytes, places.get(b.offset) || 0));
    return [...places.values()].reduce((s, n) => s + n, 0);
  }

  function drawMemory() {
    $("memory").replaceChildren();
    const memory = program().memory;
    const kernels = program().kernels;
    const blocks = memory.blocks.map((b) => ({ x: b.first, w: b.last - b.first + 1, y: b.offset, h: b.bytes, color: Graph.kernelColor(b.first), label: `${b.name} ${bytes(b.bytes)}`, data: b.first, tip: `${b.name}: ${bytes(b.bytes)}, ${b.type}, from byte ${b.offset}\nwritten by ${kernels[b.first].name}, last read by ${kernels[b.last].name}` }));
    const used = kernels.map((_, step) => inUse(memory.blocks.filter((b) => b.first <= step && step <= b.last)));
    const most = Math.max(1, ...used);
    const steps = { whole: true, text: (v) => (kernels[v] ? kernels[v].name : "") };
    $("memory").append(make("p", `arena ${bytes(memory.peak)}; inputs ${bytes(memory.inputs)}, outputs ${bytes(memory.outputs)}${memory.lent ? `, which have ${memory.lent} temporaries in them before they are written` : ""}; most in use: ${bytes(most)} at ${kernels.length ? kernels[used.indexOf(Math.max(...used))].name : ""}`, "hint"));
    state.charts.memory = [
      new Blocks($("memory"), { title: "the arena: which buffer lies where, from kernel to kernel", blocks, width: Math.max(1, memory.steps), height: Math.max(1, memory.peak), unit: steps, yUnit: bytes, onChoose: showKernel }),
      new Blocks($("memory"), { title: "temporaries in use", blocks: used.map((n, step) => ({ x: step, w: 1, y: 0, h: n, color: "#9cc3f5", label: "", data: step, tip: `${kernels[step].name}: ${bytes(n)}` })), width: Math.max(1, memory.steps), height: most, unit: steps, yUnit: bytes, onChoose: showKernel }),
    ];
  }

  /* Search --------------------------------------------------------------------------------- */
  function search(text) {
    const wanted = text.trim().toLowerCase();
    const nodes = program().nodes;
    state.matches = wanted ? nodes.flatMap((n, i) => {
      if (!graph().isShown(i)) return [];
      const kernels = (n.kernels || []).map((k) => program().kernels[k].name);
      const hay = [n.op, n.name || "", n.module.join("."), n.line ? `${n.line.file}:${n.line.line} ${n.line.text}` : "", ...n.outputs];
      return hay.some((s) => s.toLowerCase().includes(wanted)) || kernels.includes(wanted) ? [i] : [];
    }) : [];
    state.match = 0;
    $("matches").textContent = wanted ? `${state.matches.length} found` : "";
    if (state.view === "graph") graph().mark(state.matches);
  }

  function nextMatch() {
    if (!state.matches.length) return;
    const n = state.matches[state.match % state.matches.length];
    $("matches").textContent = `${(state.match % state.matches.length) + 1} of ${state.matches.length}`;
    state.match++;
    go("graph");
    graph().reveal([n]);
    drawGraph();
    showNode(n);
  }
  $("search").oninput = () => search($("search").value);
  $("search").onkeydown = (e) => { if (e.key === "Enter") nextMatch(); };

  /* Views ----------------------------------------------------------------------------------- */
  const draw = { graph: drawGraph, stages: drawStages, kernels: drawKernels, time: drawTime, memory: drawMemory };
  function go(view) {
    state.view = view;
    for (const section of document.querySelectorAll("main > section")) section.classList.toggle("on", section.id === view);
    for (const button of document.querySelectorAll("#tabs button")) button.classList.toggle("on", button.dataset.view === view);
    draw[view]();
  }
  for (const button of document.querySelectorAll("#tabs button")) button.onclick = () => go(button.dataset.view);

  function summary() {
    const p = program();
    const panel = details(p.title === "program" ? data.function : p.title);
    const sum = (list, value) => list.reduce((s, x) => s + value(x), 0);
    facts(panel, [
      ["arguments", data.inputs],
      ["sizes", Object.entries(data.sizes).map(([k, v]) => `${k} = ${v}`).join(", ")],
      ["operations", String(p.nodes.filter((n) => n.op !== "input").length)],
      ["kernels", String(p.kernels.length)],
      ["moved", bytes(sum(p.kernels, (k) => k.read + k.written))],
      ["FLOPs", flops(sum(p.kernels, (k) => k.flops))],
      ["arena", bytes(p.memory.peak)],
      ["measured", p.kernels.some(times) ? time(sum(p.kernels, (k) => (times(k) ? times(k).us / times(k).runs : 0))) : ""],
    ]);
    panel.append(make("p", "Click an operation or a module in the graph, a row of the kernels, or a block in time and memory.", "hint"));
  }

  $("title").textContent = data.function;
  $("title").title = data.function;
  data.programs.forEach((p, i) => { const option = make("option", p.title); option.value = i; $("program").append(option); });
  $("program").style.display = data.programs.length > 1 ? "" : "none";
  $("program").onchange = () => {
    const before = state.graphs[state.program];
    if (before && before.cy) { before.cy.destroy(); before.cy = null; state.graphs[state.program] = undefined; }
    state.program = Number($("program").value);
    search($("search").value);
    summary();
    go(state.view);
  };
  summary();
  go("graph");
  window.inspection.ready = true;
})();
