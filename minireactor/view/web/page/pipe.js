// The living pipe: producer, pending, our kernel, the peer's kernel, client. Drops move between the
// five tanks as fast as bytes do; the marks are floats on the second tank, and a pause closes the
// tap before it.

const FLOW_OVER = 0.5; // seconds that the speed of the drops is averaged over
const DROP_GAP = 10; // pixels between two drops
// Bytes that fill the tank of a kernel, at least.
const LEAST_TANK = { sendq: 16 * 1024, queue: 4 * 1024 };

/** The pipe of one connection, drawn on one canvas. */
class Pipe {
  constructor(canvas, plot) {
    this.canvas = canvas;
    this.plot = plot;
    this.phases = [0, 0, 0, 0]; // how far the drops of each link have come, in pixels
    this.time = null; // when they were moved last
  }

  /** Bytes a second through each of the four links. */
  flows() {
    const { columns, over } = this.plot;
    const last = columns.t.length - 1;
    const first = firstShown(columns.t, columns.t[last] - FLOW_OVER);
    const passed = columns.t[last] - columns.t[first];
    if (over || passed <= 0) return [0, 0, 0, 0];
    const grown = (name) => columns[name][last] - columns[name][first];
    const taken = grown("out");
    const acknowledged = taken - grown("sendq");
    const read = this.plot.far ? grown("moved") : acknowledged;
    return [taken + grown("pending"), taken, acknowledged, read].map((count) => Math.max(0, count / passed));
  }

  /** The names of the five tanks. */
  names() {
    const leg = this.plot.far ? this.plot.far.leg : "";
    const last = leg === "server-proxy" ? "proxy" : leg ? "client" : "peer";
    const first = leg === "proxy-client" ? "proxy" : "producer";
    return [first, "pending", "ours", `theirs.${last}`, last].map((part) => t(`pipe.${part}`));
  }

  tap() {
    const { producer } = this.plot.row;
    return producer === "paused" ? "closed" : producer === "none" || producer === "closed" ? "none" : "open";
  }

  tell() {
    const { row, far } = this.plot;
    const theirs = far && far.queue !== null ? bytes(far.queue) : t("pipe.hidden");
    const tap = t(`tap.${this.tap()}`);
    this.canvas.setAttribute("aria-label", t("pipe.label", bytes(row.pending), bytes(row.sendq), theirs, tap));
  }

  /** Draw the pipe; `clock` is in seconds, and moves the drops. */
  draw(clock) {
    const { plot } = this;
    if (!plot.row || !this.canvas.clientWidth) return;
    const flows = this.flows();
    const passed = this.time === null || calm.matches ? 0 : Math.min(0.1, Math.max(0, clock - this.time));
    this.time = clock;
    this.phases = this.phases.map((phase, i) => (phase + passed * dropSpeed(flows[i])) % DROP_GAP);

    const { context, width, height } = canvasOf(this.canvas);
    const tall = height >= COMPACT;
    const cell = width / 5;
    const wide = Math.min(64, cell * 0.5);
    const bottom = height - (tall ? 30 : 16);
    const top = 7;
    const left = (i) => cell * i + (cell - wide) / 2;
    for (let i = 0; i < 4; i += 1) {
      const flow = i === 0 && this.tap() === "closed" ? 0 : flows[i];
      this.drawLink(context, left(i) + wide, left(i + 1), bottom - 8, flow, this.phases[i]);
    }
    this.drawTap(context, (left(0) + wide + left(1)) / 2, bottom - 8);

    const { row, far, columns } = plot;
    const most = (name) => columns[name].reduce((a, b) => Math.max(a, b * 1.1), LEAST_TANK[name]);
    const over = plot.over;
    const known = far && far.queue !== null;
    const levels = [
      { part: 1, ink: colour.rate },
      { part: over ? 0 : row.pending / (plot.scale || 1), ink: colour.pending },
      { part: over ? 0 : (row.sendq || 0) / most("sendq"), ink: colour.kernel },
      { part: known && !over ? far.queue / most("queue") : 0, ink: colour.kernel, hidden: !known },
      { part: 0.12, ink: colour.rate },
    ];
    const names = this.names();
    const values = [perSecond(flows[0]), bytes(over ? 0 : row.pending), bytes(over ? 0 : row.sendq)];
    values.push(known ? bytes(far.queue) : "?", perSecond(flows[3]));
    context.textAlign = "center";
    if (cell < 72) context.font = `10px ${colour.sans}`;
    levels.forEach((level, i) => {
      this.drawTank(context, left(i), top, wide, bottom, level);
      context.textBaseline = "alphabetic";
      context.fillStyle = colour.soft;
      context.fillText(names[i], cell * (i + 0.5), bottom + 13);
      context.fillStyle = colour.ink;
      if (tall) context.fillText(values[i], cell * (i + 0.5), bottom + 26);
    });
    this.drawFloats(context, left(1), top, wide, bottom);
  }

  drawTank(context, left, top, wide, bottom, { part, ink, hidden }) {
    const level = bottom - Math.min(1, part) * (bottom - top);
    context.globalAlpha = 0.6;
    context.fillStyle = ink;
    context.fillRect(left, level, wide, bottom - level);
    context.globalAlpha = 1;
    context.strokeStyle = colour.soft;
    context.lineWidth = 1.25;
    context.setLineDash(hidden ? [3, 3] : []);
    context.beginPath();
    context.moveTo(left, top - 3);
    context.lineTo(left, bottom);
    context.lineTo(left + wide, bottom);
    context.lineTo(left + wide, top - 3);
    context.stroke();
    context.setLineDash([]);
  }

  drawLink(context, from, to, y, flow, phase) {
    context.strokeStyle = colour.soft;
    context.lineWidth = 1;
    context.beginPath();
    for (const side of [-4.5, 4.5]) {
      context.moveTo(from, y + side);
      context.lineTo(to, y + side);
    }
    context.stroke();
    if (flow < 1) return;
    context.fillStyle = colour.pending;
    for (let x = from + phase; x < to; x += DROP_GAP) {
      context.beginPath();
      context.arc(x, y, 2.6, 0, 2 * Math.PI);
      context.fill();
    }
  }

  /** Draw the tap: a handle above the link while it is open, a slide across the link when closed. */
  drawTap(context, x, y) {
    const tap = this.tap();
    if (tap === "none") return;
    const closed = tap === "closed";
    context.fillStyle = closed ? colour.paused : colour.low;
    if (closed) context.fillRect(x - 3, y - 7, 6, 14);
    context.fillRect(x - 1, y - (closed ? 11 : 14), 2, closed ? 6 : 9);
    context.fillRect(x - 6, y - (closed ? 13 : 16), 12, 3);
  }

  /** Draw the marks as floats at both sides of the second tank. */
  drawFloats(context, left, top, wide, bottom) {
    const limits = this.plot.limits();
    for (const kind of ["high", "low"]) {
      const y = bottom - (limits[kind] / (this.plot.scale || 1)) * (bottom - top);
      context.strokeStyle = context.fillStyle = colour[kind];
      context.lineWidth = 2;
      context.beginPath();
      context.moveTo(left - 4, y);
      context.lineTo(left + wide + 4, y);
      context.stroke();
      for (const side of [left - 4, left + wide + 4]) {
        context.beginPath();
        context.arc(side, y, 3, 0, 2 * Math.PI);
        context.fill();
      }
    }
  }
}

/** Pixels a second: each doubling of the rate adds as much, so that slow and fast can be told. */
function dropSpeed(rate) {
  return rate < 1 ? 0 : 14 * Math.log2(1 + rate / 2048) + 6;
}

// The pipe of one connection, where each plot has none: on all pages but the demo's.

let picked = null; // the plot whose pipe is drawn
let bigPipe = null;

function pick(plot) {
  picked = plot;
  bigPipe = new Pipe($("pipe"), plot);
  drawNow();
}

/** Keep to the plot that was picked; when it goes, the first one takes its place. */
function tellPicked() {
  if (mode === "demo") return;
  const first = document.querySelector("#connections .plot");
  if (first && !(picked && plots.get(picked.id) === picked)) pick(first.plot);
  $("pipe-panel").hidden = !first;
  if (!first) return;
  say($("pipe-name"), t("pipe.of", `${picked.row.id} ${picked.row.label}, ${picked.row.peer}`));
  for (const plot of plots.values()) plot.name.setAttribute("aria-pressed", String(plot === picked));
  bigPipe.tell();
}

function pipes() {
  if (mode !== "demo") return bigPipe && plots.get(picked.id) === picked ? [bigPipe] : [];
  return [...plots.values()].map((plot) => plot.pipe);
}

let flowing = false; // whether drops are moved with every frame

/** Move the drops between samples, too, while time passes and nobody minds. */
function keepFlowing() {
  const wanted = () => !calm.matches && !held && latest && timePasses();
  if (flowing || !wanted()) return;
  flowing = true;
  const turn = (clock) => {
    flowing = wanted();
    if (!flowing) return;
    for (const pipe of pipes()) if (pipe.plot.visible || pipe === bigPipe) pipe.draw(clock / 1000);
    requestAnimationFrame(turn);
  };
  requestAnimationFrame(turn);
}
