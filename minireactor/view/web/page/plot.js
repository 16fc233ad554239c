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
