/* Rectangles over an axis: a timeline in rows, or memory over time.
 *
 * In: blocks {x, w, y, h, color, label, tip, data}; x and w in units of the axis, y and h in rows (then
 * `row` is a row's height in pixels) or in units of a second axis. The wheel zooms, dragging
 * moves, a click gives `onChoose(data)`. */
"use strict";
class Blocks {
  constructor(parent, { title, blocks, width, height, row, unit, yUnit, names, onChoose }) {
    const box = document.createElement("div");
    box.className = "chart";
    box.innerHTML = "<h2></h2><canvas></canvas>";
    box.querySelector("h2").textContent = title;
    parent.append(box);
    this.canvas = box.querySelector("canvas");
    Object.assign(this, { blocks, width: width || 1, height, row, unit, yUnit, names: names || [], onChoose });
    this.pixels = row ? Math.max(1, height) * row + 22 : 320;
    this.canvas.style.height = `${this.pixels}px`;
    this.left = 0;
    this.scale = 0;
    this.draws = 0;
    this.canvas.addEventListener("wheel", (e) => this.zoom(e), { passive: false });
    this.canvas.addEventListener("pointerdown", (e) => { this.drag = { x: e.offsetX, left: this.left, moved: false }; });
    this.canvas.addEventListener("pointermove", (e) => this.move(e));
    this.canvas.addEventListener("pointerleave", () => { this.drag = null; Blocks.tip(null); });
    this.canvas.addEventListener("pointerup", (e) => {
      const found = this.at(e.offsetX, e.offsetY);
      if (this.drag && !this.drag.moved && found && this.onChoose) this.onChoose(found.data);
      this.drag = null;
    });
    this.draw();
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  zoom(e) {
    e.preventDefault();
    const x = this.left + e.offsetX / this.scale;
    const least = this.canvas.clientWidth / this.width;
    this.scale = Math.max(least, Math.min(least * 1e6, this.scale * Math.exp(-e.deltaY * 0.002)));
    this.left = x - e.offsetX / this.scale;
    this.draw();
  }

  move(e) {
    if (this.drag) {
      if (Math.abs(e.offsetX - this.drag.x) > 3) this.drag.moved = true;
      this.left = this.drag.left - (e.offsetX - this.drag.x) / this.scale;
      this.draw();
      return;
    }
    const found = this.at(e.offsetX, e.offsetY);
    Blocks.tip(found && found.tip, e.clientX, e.clientY);
  }

  toY(y) { return this.row ? y * this.row : (this.pixels - 22) * (1 - y / this.height); }

  at(px, py) {
    const x = this.left + px / this.scale;
    return this.blocks.findLast((b) => {
      if (x < b.x || x > b.x + Math.max(b.w, 2 / this.scale)) return false;
      const [a, c] = [this.toY(b.y), this.toY(b.y + b.h)];
      return py >= Math.min(a, c) && py <= Math.max(a, c);
    });
  }

  draw() {
    const wide = this.canvas.clientWidth;
    if (!wide) return;
    this.draws++;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = wide * ratio;
    this.canvas.height = this.pixels * ratio;
    const g = this.canvas.getContext("2d");
    g.scale(ratio, ratio);
    if (!this.scale) this.scale = wide / this.width;
    this.left = Math.max(0, Math.min(this.left, this.width - wide / this.scale));
    g.font = "11px DejaVu Sans, sans-serif";
    g.textBaseline = "middle";
    for (const b of this.blocks) {
      const x = (b.x - this.left) * this.scale, w = Math.max(b.w * this.scale, 0.7);
      if (x > wide || x + w < 0) continue;
      const [a, c] = [this.toY(b.y), this.toY(b.y + b.h)];
      const top = Math.min(a, c), high = Math.max(Math.abs(a - c) - (this.row ? 2 : 0), 0.7);
      g.fillStyle = b.color;
      g.fillRect(x, top, w, high);
      if (w > 3 && high > 3) { g.strokeStyle = "rgba(0,0,0,.25)"; g.strokeRect(x + 0.5, top + 0.5, w - 1, high - 1); }
      if (w > 34 && high > 11) {
        g.save();
        g.beginPath();
        g.rect(x, top, w - 2, high);
        g.clip();
        g.fillStyle = "#1c2430";
        g.fillText(b.label, Math.max(x, 0) + 4, top + high / 2);
        g.restore();
      }
    }
    this.axis(g, wide);
  }

  axis(g, wide) {
    const y = this.pixels - 11;
    g.fillStyle = "#66707f";
    const rough = (100 / this.scale), power = 10 ** Math.floor(Math.log10(rough));
    let step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    if (this.unit.whole) step = Math.max(1, Math.round(step));
    for (let v = Math.ceil(this.left / step) * step; (v - this.left) * this.scale < wide; v += step) {
      const x = (v - this.left) * this.scale;
      g.fillRect(x, this.pixels - 22, 1, 4);
      g.fillText(this.unit.text(v), x + 3, y);
    }
    if (!this.yUnit) return;
    for (const part of [0.25, 0.5, 0.75, 1]) g.fillText(this.yUnit(this.height * part), wide - 74, Math.max(8, this.toY(this.height * part)));
  }

  static tip(text, x, y) {
    let tip = document.querySelector(".tip");
    if (!tip) { tip = document.createElement("div"); tip.className = "tip"; document.body.append(tip); }
    tip.style.display = text ? "block" : "none";
    if (!text) return;
    tip.textContent = text;
    tip.style.left = `${Math.min(x + 12, window.innerWidth - 480)}px`;
    tip.style.top = `${y + 14}px`;
  }
}
