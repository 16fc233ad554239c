"use strict";

// What the server sends is a stream of samples, see view/monitor.py. Each goes through feed(), whether
// it comes now or out of a recording; draw() shows what has been fed. Text from outside is only
// ever put into textContent.

const $ = (id) => document.getElementById(id);
const mode = document.documentElement.dataset.mode; // "live", "demo" or "replay"
const token = location.hash.slice(1); // in the fragment, which browsers send to nobody
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const GUTTER = { wide: 140, narrow: 124 }; // pixels right of each chart: the tank, and the handles
const TANK = 22;
const LONGEST = 125; // seconds of history that are kept: a little more than the longest window
const RATE_OVER = 0.25; // seconds that a throughput is averaged over
const GOODBYE = 5; // seconds for which a connection that has ended is still shown
const ABSENCE = 1.5; // seconds after which one that is not among the busiest any more is shown no more
const TEXT_EVERY = 200; // milliseconds between two changes of the numbers, which are to be read
const CALM_EVERY = 1000; // milliseconds between two pictures where less motion is wanted

let colour = {};
let span = 30; // seconds that the charts show
let now = 0; // of the samples' clock: the right edge of the charts
let held = null; // while the picture is frozen, the samples that have come meanwhile
let absence = ABSENCE;
let latest = null; // the last sample
let drawing = false;
let textDue = 0;
let pictureDue = 0;
const plots = new Map(); // by the connection's id
const clients = new Map(); // of the demo, by name
const reasons = new Map(); // why connections were lost, by id
const whole = { t: [], memory: [], pending: [], out: [], pauses: [], lag: [] };

// Words and numbers.

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function rounded(number) {
  return number >= 100 ? number.toFixed(0) : String(Number(number.toPrecision(2)));
}

function bytes(count) {
  if (count === null || count === undefined) return "–";
  for (const unit of ["B", "KiB", "MiB"]) {
    if (count < 1000 || (unit !== "B" && count < 1024)) return `${rounded(count)} ${unit}`;
    count /= 1024;
  }
  return `${rounded(count)} GiB`;
}

const perSecond = (count) => `${bytes(count)}/s`;

function milliseconds(seconds) {
  return seconds < 1 ? `${rounded(seconds * 1000)} ms` : `${rounded(seconds)} s`;
}

function minutes(seconds) {
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}

// Sliders for rates: 0 is nothing, then 1 to 100 in equal ratios.

function rateAt(position, least, most) {
  if (position <= 0) return 0;
  return Number((least * (most / least) ** ((position - 1) / 99)).toPrecision(2));
}

function positionOf(rate, least, most) {
  return rate <= 0 ? 0 : Math.round(1 + (99 * Math.log(rate / least)) / Math.log(most / least));
}

// History: columns of equal length, the first of which is the time.

function record(columns, values, since) {
  for (const name in columns) columns[name].push(values[name]);
  const old = columns.t.findIndex((time) => time >= since);
  // In slices: to shift arrays at every sample would cost more than to draw them.
  if (old > 256) for (const name in columns) columns[name].splice(0, old);
}

function firstShown(times, from) {
  let low = 0;
  let high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < from) low = middle + 1;
    else high = middle;
  }
  return Math.max(0, low - 1); // one before, so that lines begin outside the picture
}

function rates(times, counts, over) {
  let j = 0;
  return times.map((time, i) => {
    while (j + 1 < i && times[j + 1] <= time - over) j += 1;
    return i > j ? Math.max(0, counts[i] - counts[j]) / (time - times[j]) : 0;
  });
}

function latestRate(columns, name, over) {
  const { t } = columns;
  const last = t.length - 1;
  const first = firstShown(t, t[last] - over);
  // Of a moment alone, one pause would be twenty a second.
  const time = Math.max(t[last] - t[first], Math.min(over, 1));
  return last > first ? (columns[name][last] - columns[name][first]) / time : 0;
}

// Drawing.

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "soft", "line", "grid", "card", "paper", "pending", "high", "low"];
  for (const name of [...names, "paused", "kernel", "rate", "memory", "shade", "sans"]) {
    colour[name] = style.getPropertyValue(`--${name}`).trim();
  }
}

function canvasOf(element) {
  const { clientWidth: width, clientHeight: height } = element;
  const ratio = window.devicePixelRatio || 1;
  if (element.width !== Math.round(width * ratio) || element.height !== Math.round(height * ratio)) {
    element.width = Math.round(width * ratio);
    element.height = Math.round(height * ratio);
  }
  const context = element.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = `11px ${colour.sans}`;
  return { context, width, height };
}

function niceStep(most, count) {
  // Powers of two, as people think of bytes.
  return 2 ** Math.max(0, Math.ceil(Math.log2(most / count)));
}

/** One lane of a chart: `box` is where, `most` the value at its top, `time` that at its right. */
class Lane {
  constructor(context, box, most, time) {
    Object.assign(this, { context, box, most, time });
  }

  x(time) {
    return this.box.right - ((this.time - time) * (this.box.right - this.box.left)) / span;
  }

  y(value) {
    return this.box.bottom - (value / this.most) * (this.box.bottom - this.box.top);
  }

  inside(paint) {
    const { context, box } = this;
    context.save();
    context.beginPath();
    context.rect(box.left, box.top - 2, box.right - box.left, box.bottom - box.top + 3);
    context.clip();
    paint();
    context.restore();
  }

  ground() {
    const { context, box } = this;
    context.strokeStyle = colour.line;
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(box.left, Math.round(box.bottom) + 0.5);
    context.lineTo(box.right, Math.round(box.bottom) + 0.5);
    context.stroke();
  }

  line(times, values, from, { stroke, fill = null, width = 1.5, steps = false, dash = [] }) {
    const { context } = this;
    this.inside(() => {
      context.beginPath();
      for (let i = from; i < times.length; i += 1) {
        const x = this.x(times[i]);
        if (steps && i > from) context.lineTo(x, this.y(values[i - 1]));
        if (i === from) context.moveTo(x, this.y(values[i]));
        else context.lineTo(x, this.y(values[i]));
      }
      context.lineJoin = "round";
      context.lineWidth = width;
      context.setLineDash(dash);
      context.strokeStyle = stroke;
      context.stroke();
      if (fill && times.length > from) {
        context.lineTo(this.x(times[times.length - 1]), this.box.bottom);
        context.lineTo(this.x(times[from]), this.box.bottom);
        context.closePath();
        context.globalAlpha = fill;
        context.fillStyle = stroke;
        context.fill();
      }
    });
  }

  grid(count) {
    const { context, box } = this;
    const step = niceStep(this.most, count);
    context.strokeStyle = colour.grid;
    context.fillStyle = colour.soft;
    context.textAlign = "left";
    context.textBaseline = "bottom";
    context.lineWidth = 1;
    for (let value = step; value < this.most * 0.97; value += step) {
      const y = Math.round(this.y(value)) + 0.5;
      context.beginPath();
      context.moveTo(box.left, y);
      context.lineTo(box.right, y);
      context.stroke();
    }
    return step;
  }

  gridLabels(step) {
    const { context, box } = this;
    context.fillStyle = colour.soft;
    context.textAlign = "left";
    context.textBaseline = "bottom";
    for (let value = step; value < this.most * 0.9; value += step) {
      context.fillText(bytes(value), box.left + 2, this.y(value) - 1);
    }
  }

  seconds() {
    const { context, box } = this;
    const step = span <= 10 ? 2 : span <= 30 ? 5 : span / 6;
    context.fillStyle = colour.soft;
    context.textBaseline = "top";
    for (let ago = 0; ago < span; ago += step) {
      context.textAlign = ago ? "center" : "right";
      context.fillText(ago ? `${-ago} s` : "now", this.x(this.time - ago), box.bottom + 3);
    }
  }

  caption(text, inColour) {
    const { context, box } = this;
    context.fillStyle = inColour;
    context.textBaseline = "bottom";
    context.textAlign = "left";
    context.fillText(text, box.right + 8, box.bottom + 1);
  }
}

/** The picture of one connection. */
class Plot {
  constructor(row) {
    this.id = row.id;
    this.row = row;
    this.columns = { t: [], pending: [], high: [], low: [], sendq: [], moved: [], share: [], pauses: [] };
    this.scale = 0;
    this.held = null; // the mark that is being dragged
    this.wanted = null; // marks that were asked for and are not in force yet
    this.wantedUntil = 0;
    this.visible = true;
    this.lastSeen = 0;
    this.paused = null;
    const element = $("plot-template").content.firstElementChild.cloneNode(true);
    this.element = element;
    this.canvas = element.querySelector("canvas");
    this.name = element.querySelector("h4");
    this.chip = element.querySelector(".chip");
    this.peer = element.querySelector(".peer");
    this.caption = element.querySelector(".caption");
    this.facts = element.querySelector(".facts");
    this.marks = {};
    for (const kind of ["high", "low"]) this.marks[kind] = new Mark(this, kind);
    observer.observe(element);
    element.plot = this;
  }

  feed(row, time, moved) {
    const { columns } = this;
    const before = columns.t.length ? columns.t[columns.t.length - 1] : null;
    const share =
      before === null || time <= before || this.paused === null
        ? Number(row.producer === "paused")
        : Math.min(1, Math.max(0, (row.paused - this.paused) / (time - before)));
    this.paused = row.paused;
    this.row = row;
    this.lastSeen = time;
    const { pending, high, low, sendq, pauses } = row;
    record(columns, { t: time, pending, high, low, sendq: sendq || 0, moved, share, pauses }, time - LONGEST);
  }

  get over() {
    return this.row.state === "closed";
  }

  /** The marks: those that are in force, or, while they are being moved, are to be. */
  limits() {
    const { high, low } = this.row;
    if (this.wanted) {
      const inForce = this.wanted.high === high && this.wanted.low === low;
      if (!this.held && (inForce || performance.now() > this.wantedUntil)) this.wanted = null;
      else return this.wanted;
    }
    return { high, low };
  }

  boxes(width, height) {
    const right = width - (width < 450 ? GUTTER.narrow : GUTTER.wide);
    return {
      pending: { left: 0, right, top: 6, bottom: height - 62 },
      kernel: { left: 0, right, top: height - 44, bottom: height - 25 },
      rate: { left: 0, right, top: height - 20, bottom: height - 1 },
    };
  }

  rescale(from) {
    if (this.held) return;
    let most = this.limits().high * 1.3;
    const { pending } = this.columns;
    for (let i = from; i < pending.length; i += 1) most = Math.max(most, pending[i] * 1.08);
    const jump = this.scale === 0 || calm.matches || Math.abs(most / this.scale - 1) < 0.01;
    this.scale = jump ? most : this.scale + (most - this.scale) * 0.25;
  }

  draw(time) {
    if (!this.visible && this.scale) return;
    const { columns } = this;
    const from = firstShown(columns.t, time - span);
    this.rescale(from);
    const { context, width, height } = canvasOf(this.canvas);
    const boxes = this.boxes(width, height);
    this.drawPending(new Lane(context, boxes.pending, this.scale, time), from);
    this.drawKernel(context, boxes.kernel, time, from);
    this.drawRate(context, boxes.rate, time, from);
    for (const mark of Object.values(this.marks)) mark.show();
  }

  drawPending(lane, from) {
    const { columns } = this;
    const { t } = columns;
    const step = lane.grid(4);
    this.drawPauses(lane, from);
    lane.line(t, columns.pending, from, { stroke: colour.card, fill: 1 }); // no shade below it
    lane.line(t, columns.pending, from, { stroke: colour.pending, fill: 0.2 });
    lane.line(t, columns.high, from, { stroke: colour.high, steps: true, dash: [5, 3], width: 1.25 });
    lane.line(t, columns.low, from, { stroke: colour.low, steps: true, dash: [5, 3], width: 1.25 });
    lane.gridLabels(step);
    lane.ground();
    lane.seconds();
    this.drawTank(lane);
  }

  /** Shades for the part of each interval in which the producer was paused, in runs of like parts. */
  drawPauses(lane, from) {
    const { context, box } = lane;
    const { t, share } = this.columns;
    lane.inside(() => {
      context.fillStyle = colour.paused;
      for (let i = from + 1; i < t.length; ) {
        const part = Math.round(share[i] * 8) / 8;
        const start = i - 1;
        while (i < t.length && Math.round(share[i] * 8) / 8 === part) i += 1;
        if (!part) continue;
        const left = lane.x(t[start]);
        const wide = lane.x(t[i - 1]) - left;
        context.globalAlpha = part * Number(colour.shade);
        context.fillRect(left, box.top, wide, box.bottom - box.top);
        context.globalAlpha = part;
        context.fillRect(left, box.top - 2, wide, 3);
      }
    });
  }

  drawTank(lane) {
    const { context, box } = lane;
    const left = box.right + 8.5;
    const { pending } = this.row;
    context.strokeStyle = colour.soft;
    context.lineWidth = 1;
    const level = Math.max(box.top, lane.y(this.over ? 0 : pending));
    context.globalAlpha = 0.85;
    context.fillStyle = colour.pending;
    context.fillRect(left, level, TANK, box.bottom - level);
    context.globalAlpha = 1;
    context.beginPath();
    context.moveTo(left, box.top - 2);
    context.lineTo(left, box.bottom + 0.5);
    context.lineTo(left + TANK, box.bottom + 0.5);
    context.lineTo(left + TANK, box.top - 2);
    context.stroke();
    const limits = this.limits();
    for (const kind of ["high", "low"]) {
      const y = lane.y(limits[kind]);
      context.strokeStyle = colour[kind];
      context.lineWidth = 2;
      context.beginPath();
      context.moveTo(box.right, y);
      context.lineTo(left + TANK + 8, y);
      context.stroke();
    }
  }

  drawKernel(context, box, time, from) {
    const { t, sendq } = this.columns;
    let most = 16 * 1024;
    for (let i = from; i < t.length; i += 1) most = Math.max(most, sendq[i] * 1.05);
    const lane = new Lane(context, box, most, time);
    lane.line(t, sendq, from, { stroke: colour.kernel, fill: 0.3, width: 1 });
    lane.ground();
    const limit = this.row.unsent && !this.over ? `, limit ${bytes(this.row.unsent)}` : "";
    lane.caption(`queue ${bytes(this.over ? 0 : this.row.sendq)}${limit}`, colour.kernel);
  }

  drawRate(context, box, time, from) {
    const times = this.columns.t.slice(from);
    const speeds = rates(times, this.columns.moved.slice(from), RATE_OVER);
    let most = 1024;
    for (const speed of speeds) most = Math.max(most, speed * 1.1);
    const lane = new Lane(context, box, most, time);
    lane.line(times, speeds, 0, { stroke: colour.rate, fill: 0.12, width: 1.25 });
    lane.ground();
    lane.caption(`through ${perSecond(speeds.length ? speeds[speeds.length - 1] : 0)}`, colour.rate);
  }

  /** The words; seldom, so that they can be read. */
  tell() {
    const { row, columns } = this;
    const last = columns.t.length - 1;
    const from = firstShown(columns.t, columns.t[last] - span);
    const time = columns.t[last] - columns.t[from];
    let paused = 0;
    for (let i = from + 1; i <= last; i += 1) paused += columns.share[i] * (columns.t[i] - columns.t[i - 1]);
    const ofTime = time > 0 ? Math.round((100 * paused) / time) : 0;
    const often = latestRate(columns, "pauses", 3);
    const moving = latestRate(columns, "moved", 2);
    say(this.peer, row.peer);
    say(this.chip, this.over ? "closed" : row.state === "open" ? WORDS[row.producer] : row.state);
    this.chip.className = `chip ${this.over ? "closed" : row.producer}`;
    this.element.classList.toggle("over", this.over);
    say(this.facts, `${row.pauses} ${row.pauses === 1 ? "pause" : "pauses"}, ${rounded(often)}/s; paused ${ofTime} % of the time`);
    say(this.caption, this.words(moving, often));
    this.canvas.setAttribute(
      "aria-label",
      `Pending over time: ${bytes(row.pending)} now, high mark ${bytes(row.high)}, low mark ${bytes(row.low)}, ` +
        `${row.pauses} pauses, paused ${ofTime} % of the time`,
    );
    for (const mark of Object.values(this.marks)) mark.tell();
  }

  words(moving, often) {
    const { row } = this;
    if (this.over) return `Lost. ${reasons.get(row.id) || ""}`;
    if (row.state !== "open") return "Closing: what is pending still goes out.";
    if (often > 5) {
      const times = `Paused and resumed ${rounded(often)} times a second: `;
      if (row.high - row.low < row.high / 8) return `${times}the marks are too close together.`;
      return `${times}too fast to draw. The depth of the shading shows what fraction of the time it was paused.`;
    }
    if (row.producer === "paused") {
      if (moving < 1) return "Paused, and the peer takes nothing: it is stalled, or has vanished.";
      return "Paused: pending went above the high mark; the producer waits until it is down at the low one.";
    }
    if (row.producer === "pull") return "Asked for more whenever pending is at or under the low mark.";
    if (row.producer === "none") {
      if (row.pending > row.high) return "Above the high mark, but there is no producer to pause.";
      return "No producer is registered, so none can be paused.";
    }
    if (row.pending <= row.low && often === 0) return "The peer keeps up: hardly anything waits.";
    return "Flowing: the producer writes until pending is above the high mark.";
  }

  remove() {
    observer.unobserve(this.element);
    this.element.remove();
    plots.delete(this.id);
    if (mode !== "replay") reasons.delete(this.id);
  }
}

const WORDS = { none: "no producer", flowing: "flowing", paused: "paused", pull: "pull", closed: "closed" };

/** A list of names and numbers. */
class Numbers {
  constructor(list, names) {
    this.places = {};
    for (const [name, words] of names) {
      const pair = document.createElement("div");
      const term = document.createElement("dt");
      const number = document.createElement("dd");
      pair.className = name;
      term.textContent = words;
      pair.append(term, number);
      list.append(pair);
      this.places[name] = number;
    }
  }

  show(values) {
    for (const name in values) say(this.places[name], values[name]);
  }
}

/** The handle of a mark: dragged, or moved with the arrow keys. */
class Mark {
  constructor(plot, kind) {
    this.plot = plot;
    this.kind = kind;
    this.element = plot.element.querySelector(`.mark.${kind}`);
    this.number = this.element.querySelector("b");
    this.element.setAttribute("aria-valuemin", "0");
    if (mode === "replay") {
      this.element.setAttribute("aria-disabled", "true");
      return;
    }
    this.element.addEventListener("pointerdown", (event) => this.take(event));
    this.element.addEventListener("pointermove", (event) => this.drag(event));
    this.element.addEventListener("pointerup", () => this.drop());
    this.element.addEventListener("pointercancel", () => this.drop());
    this.element.addEventListener("keydown", (event) => this.key(event));
  }

  box() {
    const { clientWidth, clientHeight } = this.plot.canvas;
    return this.plot.boxes(clientWidth, clientHeight).pending;
  }

  unit() {
    return 2 ** Math.max(0, Math.floor(Math.log2(this.plot.scale / 200)));
  }

  take(event) {
    if (event.button > 0 || !this.plot.scale) return;
    this.element.setPointerCapture(event.pointerId);
    this.plot.held = this.kind;
    this.element.classList.add("held");
    this.grip = event.clientY - this.yOf(this.plot.limits()[this.kind]);
  }

  yOf(value) {
    const { top, bottom } = this.box();
    return bottom - (value / this.plot.scale) * (bottom - top);
  }

  drag(event) {
    if (this.plot.held !== this.kind) return;
    const { top, bottom } = this.box();
    this.move(((bottom - (event.clientY - this.grip)) / (bottom - top)) * this.plot.scale);
  }

  drop() {
    this.plot.held = null;
    this.element.classList.remove("held");
  }

  key(event) {
    if (!this.plot.scale) return; // nothing is drawn yet
    const unit = this.unit();
    const value = this.plot.limits()[this.kind];
    const to = {
      ArrowUp: value + 4 * unit,
      ArrowRight: value + 4 * unit,
      ArrowDown: value - 4 * unit,
      ArrowLeft: value - 4 * unit,
      PageUp: value + 32 * unit,
      PageDown: value - 32 * unit,
      Home: 0,
      End: this.plot.scale,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.move(to);
  }

  move(to) {
    const { plot } = this;
    const unit = this.unit();
    const limits = { ...plot.limits() };
    const value = Math.round(Math.min(to, plot.scale) / unit) * unit;
    if (this.kind === "high") limits.high = Math.max(value, limits.low + unit);
    else limits.low = Math.max(0, Math.min(value, limits.high - unit));
    plot.wanted = limits;
    plot.wantedUntil = performance.now() + 1500;
    const together = $("together").checked;
    send("/marks", { id: together ? null : plot.id, ...limits });
    if (together) {
      for (const other of plots.values()) {
        other.wanted = { ...limits };
        other.wantedUntil = plot.wantedUntil;
      }
    }
    drawNow();
    this.tell();
  }

  /** Where the handle is; two that are close stand apart, so that both can be taken. */
  show() {
    const { high, low } = this.plot.limits();
    const apart = 22;
    let y = this.yOf(this.kind === "high" ? high : low);
    const gap = this.yOf(low) - this.yOf(high);
    if (gap < apart) y += ((apart - gap) / 2) * (this.kind === "high" ? -1 : 1);
    this.element.style.top = `${Math.round(y)}px`;
    this.element.style.left = `${this.box().right + TANK + 17}px`;
    say(this.number, bytes(this.kind === "high" ? high : low));
  }

  tell() {
    const value = this.plot.limits()[this.kind];
    this.element.setAttribute("aria-label", `${this.kind} mark of connection ${this.plot.id}, ${this.plot.row.peer}`);
    this.element.setAttribute("aria-valuemax", String(Math.round(this.plot.scale)));
    this.element.setAttribute("aria-valuenow", String(value));
    this.element.setAttribute("aria-valuetext", bytes(value));
  }
}

/** A client of the demo: its slider, and the pictures of the connections on the way to it. */
class Client {
  constructor(name) {
    this.name = name;
    this.element = $("client-template").content.firstElementChild.cloneNode(true);
    this.places = this.element.querySelector(".plots");
    this.slider = this.element.querySelector("input");
    this.shown = this.element.querySelector("output");
    this.vanish = this.element.querySelector("button");
    this.absent = this.element.querySelector(".absent");
    say(this.element.querySelector("h3"), `Client ${name}`);
    this.slider.setAttribute("aria-label", `What client ${name} reads in a second`);
    this.slider.addEventListener("input", () => {
      const rate = rateAt(Number(this.slider.value), READS.least, READS.most);
      this.tellRate(rate);
      send("/demo", { client: name, rate });
    });
    this.vanish.addEventListener("click", () => {
      send("/demo", { client: name, gone: this.vanish.getAttribute("aria-pressed") !== "true" });
    });
    $("connections").append(this.element);
  }

  tellRate(rate) {
    say(this.shown, rate ? perSecond(rate) : "nothing");
    this.slider.setAttribute("aria-valuetext", this.shown.textContent);
  }

  show(state) {
    if (settled()) {
      this.slider.value = positionOf(state.rate, READS.least, READS.most);
      this.tellRate(state.rate);
    }
    this.vanish.setAttribute("aria-pressed", String(state.gone));
    say(this.vanish, state.gone ? "Come back" : "Vanish");
    say(this.absent, state.absent);
  }
}

const READS = { least: 4096, most: 1024 * 1024 };
const MAKES = { least: 16384, most: 4 * 1024 * 1024 };

// Samples.

function allPending({ connections, rest }) {
  const open = connections.filter((row) => row.state !== "closed");
  return open.reduce((sum, row) => sum + row.pending, rest ? rest.pending : 0);
}

function feed(sample) {
  latest = sample;
  now = sample.time;
  const { totals } = sample;
  const byPeer = sample.demo ? feedDemo(sample.demo) : null;
  const pending = allPending(sample);
  for (const row of sample.connections) {
    const leg = byPeer ? byPeer.get(row.peer) : null;
    let plot = plots.get(row.id);
    if (!plot) {
      if ((byPeer && !leg) || row.state === "closed") continue;
      plot = new Plot(row);
      plots.set(row.id, plot);
      place(plot, leg);
    } else if (leg && leg.order !== plot.order) {
      place(plot, leg); // its proxy has found the way to the server
    }
    plot.feed(row, sample.time, leg && leg.received !== null ? leg.received : row.out);
  }
  const { memory, lag } = sample;
  const { out, pauses } = totals;
  record(whole, { t: now, memory: memory || 0, pending, out, pauses, lag }, now - LONGEST);
  for (const plot of [...plots.values()]) {
    if (now - plot.lastSeen > (plot.over ? GOODBYE : absence)) plot.remove();
  }
}

function place(plot, leg) {
  if (leg) {
    const before = [...leg.client.places.children].find((other) => other.plot.order > leg.order);
    plot.order = leg.order;
    say(plot.name, leg.what);
    leg.client.places.insertBefore(plot.element, before || null);
  } else {
    say(plot.name, `${plot.row.id} ${plot.row.label}`);
    $("connections").append(plot.element);
  }
}

function feedDemo(demo) {
  const byPeer = new Map();
  for (const state of demo.clients) {
    if (!clients.has(state.name)) clients.set(state.name, new Client(state.name));
    const client = clients.get(state.name);
    state.legs.forEach((leg, order) => {
      byPeer.set(leg.peer, { client, order, what: leg.what, received: leg.received });
    });
  }
  return byPeer;
}

/** The busiest first; but nothing moves while somebody has hold of it. */
function sortConnections() {
  const parent = $("connections");
  if (mode === "demo" || !latest || parent.matches(":focus-within, :hover:active")) return;
  const rank = new Map(latest.connections.map((row, i) => [row.id, i]));
  const rankOf = (element) => rank.get(element.plot.id) ?? Infinity;
  const before = [...parent.children];
  const after = [...before].sort((a, b) => rankOf(a) - rankOf(b) || a.plot.id - b.plot.id);
  if (after.some((element, i) => element !== before[i])) parent.append(...after);
}

function forget() {
  for (const plot of [...plots.values()]) plot.remove();
  for (const name in whole) whole[name].length = 0;
  if (held) held.length = 0;
  latest = null;
}

// The picture as a whole.

function drawSoon() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame((clock) => {
    drawing = false;
    if (!latest || clock < pictureDue) return;
    pictureDue = calm.matches ? clock + CALM_EVERY : 0;
    draw(clock);
  });
}

/** For what somebody does, who is not to wait for the next picture. */
function drawNow() {
  textDue = pictureDue = 0;
  drawSoon();
}

function draw(clock) {
  if (clock >= textDue) {
    textDue = clock + TEXT_EVERY;
    tell();
  }
  for (const plot of plots.values()) plot.draw(now);
  drawMemory();
}

function drawMemory() {
  const { context, width, height } = canvasOf($("memory"));
  const from = firstShown(whole.t, now - span);
  let most = 32 * 1024 * 1024;
  for (let i = from; i < whole.t.length; i += 1) most = Math.max(most, whole.memory[i] * 1.2, whole.pending[i] * 1.2);
  const lane = new Lane(context, { left: 0, right: width, top: 4, bottom: height - 18 }, most, now);
  const step = lane.grid(4);
  if (latest.memory !== null) lane.line(whole.t, whole.memory, from, { stroke: colour.memory, fill: 0.12, width: 2 });
  lane.line(whole.t, whole.pending, from, { stroke: colour.pending, fill: 0.35 });
  lane.gridLabels(step);
  lane.ground();
  lane.seconds();
}

const figures = new Numbers($("figures"), [
  ["open", "connections"],
  ["out", "throughput"],
  ["pauses", "pauses"],
  ["pending", "pending now"],
  ["highest wide", "most for one so far"],
  ["lag", "loop lag"],
  ["memory", "memory"],
]);

function tell() {
  const { totals, rest } = latest;
  const last = whole.t.length - 1;
  const recent = whole.lag.slice(firstShown(whole.t, now - 1));
  figures.show({
    open: `${totals.open} open, ${totals.connections} so far`,
    out: perSecond(latestRate(whole, "out", 1)),
    pauses: `${rounded(latestRate(whole, "pauses", 2))}/s`,
    pending: bytes(whole.pending[last]),
    "highest wide": bytes(totals.highest_pending),
    lag: milliseconds(Math.max(...recent)),
    memory: bytes(latest.memory),
  });
  say($("memory-now"), latest.memory === null ? "not known here" : bytes(latest.memory));
  $("memory").setAttribute(
    "aria-label",
    `Memory over time: ${bytes(latest.memory)} now, of which ${bytes(whole.pending[last])} are pending`,
  );
  $("empty").hidden = mode === "demo" || plots.size > 0;
  $("rest").hidden = !rest;
  if (rest) {
    say(
      $("rest"),
      `and ${rest.count} more, less busy: ${bytes(rest.pending)} pending, ${bytes(rest.out)} sent, ` +
        `${rest.pauses} pauses together`,
    );
  }
  if (latest.demo) tellDemo(latest.demo);
  sortConnections();
  for (const plot of plots.values()) plot.tell();
}

// The demo's switches.

function tellDemo(demo) {
  for (const state of demo.clients) clients.get(state.name).show(state);
  notice(demo.notice);
  if (!settled()) return;
  $("flow").setAttribute("aria-checked", String(demo.flow));
  for (const name of ["low", "producer", "way"]) {
    for (const radio of document.getElementsByName(name)) radio.checked = radio.value === demo[name];
  }
  $("made").value = positionOf(demo.made, MAKES.least, MAKES.most);
  $("delay").value = demo.delay;
  tellSlides(demo.made, demo.delay);
  tellTrials(demo);
}

function tellSlides(made, delay) {
  say($("speed-made"), perSecond(made));
  say($("delay-shown"), delay ? `${rounded(delay)} s` : "at once");
  $("made").setAttribute("aria-valuetext", $("speed-made").textContent);
  $("delay").setAttribute("aria-valuetext", $("delay-shown").textContent);
}

/** Of what can be tried, what is said about its present state. */
function tellTrials(state) {
  for (const name of ["flow", "low", "producer", "way"]) {
    for (const text of document.querySelectorAll(`#lab [data-${name}]`)) {
      text.hidden = text.dataset[name] !== String(state[name]);
    }
  }
}

function wireDemo() {
  $("flow").addEventListener("click", () => {
    const on = $("flow").getAttribute("aria-checked") !== "true";
    $("flow").setAttribute("aria-checked", String(on));
    send("/demo", { flow: on });
  });
  for (const name of ["low", "producer", "way"]) {
    for (const radio of document.getElementsByName(name)) {
      radio.addEventListener("change", () => send("/demo", { [name]: radio.value }));
    }
  }
  $("made").addEventListener("input", () => {
    const made = rateAt(Math.max(1, Number($("made").value)), MAKES.least, MAKES.most);
    tellSlides(made, Number($("delay").value));
    send("/demo", { made });
  });
  $("delay").addEventListener("input", () => {
    const delay = Number($("delay").value);
    say($("delay-shown"), delay ? `${rounded(delay)} s` : "at once");
    send("/demo", { delay });
  });
}

// Changes. While one of a kind is on its way, only the newest of the next ones is kept.

const waiting = new Map(); // by kind: what to send next, or null while nothing is
let quietSince = 0;

const settled = () => waiting.size === 0 && performance.now() - quietSince > 300;

async function send(path, what) {
  const kind = JSON.stringify([path, what.id, what.client, Object.keys(what)]);
  if (waiting.has(kind)) {
    waiting.set(kind, what);
    return;
  }
  waiting.set(kind, null);
  for (let next = what; next; next = waiting.get(kind)) {
    waiting.set(kind, null);
    try {
      const answer = await fetch(path, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-Token": token },
        body: JSON.stringify(next),
      });
      complain(answer.ok ? "" : `Refused: ${await answer.text()}`);
    } catch {
      complain("The server does not answer.");
    }
  }
  waiting.delete(kind);
  quietSince = performance.now();
}

let complaint = "";

function complain(text) {
  complaint = text;
  notice("");
}

function notice(text) {
  say($("notice"), complaint || text || "");
  $("notice").hidden = !(complaint || text);
}

// Where the samples come from.

function status(text, kind) {
  say($("status"), text);
  $("status").className = `status ${kind}`;
}

function named(title) {
  say($("title"), title);
  document.title = `${title} · minireactor`;
}

let source = null; // of the samples; null while nobody looks
let patience = 15000; // milliseconds after which nobody is taken to look at a page that is hidden

/** A browser makes six connections to a server, and each page that is live keeps one: with a sixth
 * tab, nothing could be changed any more. So one that is hidden lets go of it, unless frozen. */
function watchLive() {
  let leaving = 0;
  const change = () => {
    clearTimeout(leaving);
    if (!document.hidden) {
      if (!source) listen();
    } else if (source) {
      leaving = setTimeout(() => {
        if (held) return;
        source.close();
        source = null;
        status("resting while nobody looks", "");
      }, patience);
    }
  };
  document.addEventListener("visibilitychange", change);
  change();
}

function listen() {
  source = new EventSource(`/events?token=${encodeURIComponent(token)}`);
  source.onopen = () => {
    forget();
    status("live", "live");
  };
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) {
      status("the server refuses: open the address that it has printed", "broken");
    } else {
      status("the server has gone; these are its last figures", "broken");
    }
  };
  source.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.type === "hello") {
      named(message.title);
      if (message.hint) say($("empty"), `Nobody is connected. Try: ${message.hint}`);
    } else if (message.type === "event") {
      if (message.event === "lost" && plots.has(message.id)) reasons.set(message.id, message.reason);
    } else if (held) {
      held.push(message);
      if (held.length > LONGEST * 20) held.shift();
    } else {
      feed(message);
      drawSoon();
    }
  };
}

async function watchRecording() {
  status("loading", "");
  const answer = await fetch("/recording", { headers: { "X-Token": token } });
  if (!answer.ok) {
    status("the server refuses: open the address that it has printed", "broken");
    return;
  }
  const samples = [];
  for (const line of (await answer.text()).split("\n")) {
    if (!line) continue;
    const message = JSON.parse(line);
    if (message.type === "sample") samples.push(message);
    else if (message.event === "lost") reasons.set(message.id, message.reason);
    else if (message.type === "recording") named(message.title);
  }
  new Tape(samples);
}

/** A recording: a position in it, which moves by itself or is moved. */
class Tape {
  constructor(samples) {
    this.samples = samples;
    this.times = samples.map((sample) => sample.time);
    this.fed = 0; // how many samples have been
    this.playing = false;
    this.clock = 0;
    if (!samples.length) {
      status("the recording has no samples", "broken");
      return;
    }
    this.begin = this.times[0];
    this.end = this.times[this.times.length - 1];
    absence = Math.max(ABSENCE, (3 * (this.end - this.begin)) / samples.length);
    this.slider = $("position");
    this.slider.min = this.begin;
    this.slider.max = this.end;
    $("tape").hidden = false;
    this.slider.addEventListener("input", () => this.go(Number(this.slider.value)));
    $("play").addEventListener("click", () => (this.playing ? this.stop() : this.play()));
    addEventListener("resize", () => this.drawOverview());
    themes.push(() => this.drawOverview());
    this.drawOverview();
    status(`recorded, ${minutes(this.end - this.begin)} min`, "");
    // Not at the very beginning, where there is nothing to be seen yet.
    this.go(Math.min(this.end, this.begin + span));
  }

  go(time) {
    const from = firstShown(this.times, time - LONGEST);
    const to = this.countUntil(time);
    if (to < this.fed || from > this.fed) {
      forget();
      this.fed = from;
    }
    while (this.fed < Math.max(1, to)) {
      feed(this.samples[this.fed]);
      this.fed += 1;
    }
    now = Math.max(time, this.begin);
    this.slider.value = now;
    const at = minutes(now - this.begin);
    say($("clock"), `${at} of ${minutes(this.end - this.begin)}`);
    this.slider.setAttribute("aria-valuetext", at);
    drawNow();
  }

  countUntil(time) {
    let count = firstShown(this.times, time);
    while (count < this.times.length && this.times[count] <= time) count += 1;
    return count;
  }

  play() {
    if (now >= this.end) this.go(this.begin);
    this.playing = true;
    say($("play"), "Pause");
    this.clock = performance.now();
    requestAnimationFrame((clock) => this.turn(clock));
  }

  stop() {
    this.playing = false;
    say($("play"), "Play");
  }

  turn(clock) {
    if (!this.playing) return;
    const passed = (Math.max(0, clock - this.clock) / 1000) * Number($("speed").value);
    this.clock = clock;
    this.go(Math.min(this.end, now + passed));
    if (now >= this.end) this.stop();
    else requestAnimationFrame((next) => this.turn(next));
  }

  drawOverview() {
    const { context, width, height } = canvasOf($("overview"));
    const length = Math.max(this.end - this.begin, 1e-9);
    const pending = this.samples.map(allPending);
    const most = Math.max(1, pending.reduce((a, b) => Math.max(a, b), 0));
    context.beginPath();
    context.moveTo(0, height);
    pending.forEach((count, i) => {
      context.lineTo(((this.times[i] - this.begin) / length) * width, height * (1 - count / most));
    });
    context.lineTo(width, height);
    context.fillStyle = colour.pending;
    context.globalAlpha = 0.4;
    context.fill();
  }
}

// Beginning.

const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) entry.target.plot.visible = entry.isIntersecting;
  drawSoon();
});
const themes = [
  () => {
    readColours();
    drawNow();
  },
];

function begin() {
  readColours();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => themes.forEach((change) => change()));
  addEventListener("resize", drawNow);
  if (innerWidth < 760) {
    $("window").value = "10";
    span = 10;
    $("legend").open = false;
  }
  $("window").addEventListener("change", () => {
    span = Number($("window").value);
    drawNow();
  });
  $("freeze").addEventListener("click", () => {
    const missed = held;
    held = missed ? null : [];
    $("freeze").setAttribute("aria-pressed", String(held !== null));
    if (missed) missed.forEach(feed);
    drawNow();
  });
  $("together").closest("label").hidden = $("freeze").hidden = mode === "replay";
  if (mode === "demo") {
    $("lab").hidden = false;
    tellTrials({ flow: true, low: "quarter", producer: "push", way: "direct" });
    wireDemo();
  }
  if (!token) status("this address lacks the token: open the one that the server has printed", "broken");
  else if (mode === "replay") watchRecording();
  else watchLive();
}

begin();
