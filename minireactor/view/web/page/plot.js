const MARGIN = 50; // pixels left of each chart, for the values of its lines
const GUTTER = 104; // pixels right of each chart, for the handles of the marks
const COMPACT = 100; // pixels of height under which a chart has no lane for the rate

/** A clone of a template, with its texts in the chosen language. */
function clone(id) {
  const element = $(id).content.firstElementChild.cloneNode(true);
  putTexts(element);
  return element;
}

/** The picture of one connection: its charts, its handles, its words and, in the demo, its pipe. */
class Plot {
  constructor(row) {
    this.id = row.id;
    this.row = row;
    this.columns = {};
    for (const name of ["t", "pending", "high", "low", "sendq", "out", "moved", "queue", "share", "pauses"]) {
      this.columns[name] = [];
    }
    this.scale = 0;
    this.held = null; // the mark that is being dragged
    this.wanted = null; // marks that were asked for and are not in force yet
    this.wantedUntil = 0;
    this.far = null;
    this.visible = true;
    this.due = 0; // when it is drawn next, if it is off screen
    this.lastSeen = 0;
    this.paused = null;
    const element = clone("plot-template");
    this.element = element;
    this.canvas = element.querySelector(".chart canvas");
    this.name = element.querySelector(".pick");
    this.chip = element.querySelector(".chip");
    this.peer = element.querySelector(".peer");
    this.caption = element.querySelector(".caption");
    this.facts = element.querySelector(".facts");
    this.pipe = mode === "demo" ? new Pipe(element.querySelector(".pipe"), this) : null;
    this.name.disabled = mode === "demo";
    this.name.addEventListener("click", () => pick(this));
    this.marks = {};
    for (const kind of ["high", "low"]) this.marks[kind] = new Mark(this, kind);
    observer.observe(element);
    element.plot = this;
  }

  /** Take a row of a sample; `leg` is what the demo knows of its other end. */
  feed(row, time, leg) {
    const far = leg || this.far; // a connection that was closed has no leg any more
    const { columns } = this;
    const before = columns.t.length ? columns.t[columns.t.length - 1] : null;
    const share =
      before === null || time <= before || this.paused === null
        ? Number(row.producer === "paused")
        : Math.min(1, Math.max(0, (row.paused - this.paused) / (time - before)));
    this.paused = row.paused;
    this.row = row;
    this.far = far;
    this.lastSeen = time;
    const { pending, high, low, out, pauses } = row;
    const sendq = row.sendq || 0;
    const moved = far ? far.received : out;
    const queue = (far && far.queue) || 0;
    record(columns, { t: time, pending, high, low, sendq, out, moved, queue, share, pauses }, time - LONGEST);
  }

  get over() {
    return this.row.state === "closed";
  }

  /** The marks in force or, while they are being moved, the ones that were asked for. */
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
    const left = MARGIN;
    const right = width - GUTTER;
    const compact = height < COMPACT;
    // Of two charts above each other, the lower one has the times of both.
    const times = this.element.matches(".plot:last-child") || !compact ? 15 : 4;
    const rate = compact ? height : height - 20;
    return {
      pending: { left, right, top: 5, bottom: rate - 17 - times },
      kernel: { left, right, top: rate - 15, bottom: rate - 1 },
      rate: compact ? null : { left, right, top: rate + 4, bottom: height - 1 },
      times: times > 4,
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

  /** Draw the charts; off screen only once a second. */
  draw(time, clock) {
    if (!this.visible && clock < this.due) return;
    this.due = clock + CALM_EVERY;
    const { columns } = this;
    const from = firstShown(columns.t, time - span);
    this.rescale(from);
    const { context, width, height } = canvasOf(this.canvas);
    const boxes = this.boxes(width, height);
    this.drawPending(new Lane(context, boxes.pending, this.scale, time), from, boxes.times);
    this.drawKernel(context, boxes.kernel, time, from);
    if (boxes.rate) this.drawRate(context, boxes.rate, time, from);
    for (const mark of Object.values(this.marks)) mark.show();
  }

  drawPending(lane, from, times) {
    const { columns } = this;
    const { t: past } = columns;
    lane.grid(lane.box.bottom - lane.box.top < 60 ? 2 : 4);
    this.drawPauses(lane, from);
    lane.line(past, columns.pending, from, { stroke: colour.card, fill: 1 }); // hides the shading below it
    lane.line(past, columns.pending, from, { stroke: colour.pending, fill: 0.2 });
    lane.line(past, columns.high, from, { stroke: colour.high, steps: true, dash: [5, 3], width: 1.25 });
    lane.line(past, columns.low, from, { stroke: colour.low, steps: true, dash: [5, 3], width: 1.25 });
    lane.ground();
    if (times) lane.seconds();
  }

  /** Shade each interval by the part of it in which the producer was paused, in runs of like parts. */
  drawPauses(lane, from) {
    const { context, box } = lane;
    const { t, share } = this.columns;
    lane.inside(() => {
      for (let i = from + 1; i < t.length; ) {
        const part = Math.round(share[i] * 8) / 8;
        const start = i - 1;
        while (i < t.length && Math.round(share[i] * 8) / 8 === part) i += 1;
        if (!part) continue;
        const left = lane.x(t[start]);
        const wide = lane.x(t[i - 1]) - left;
        context.fillStyle = colour.shading;
        context.globalAlpha = part * Number(colour.shade);
        context.fillRect(left, box.top, wide, box.bottom - box.top);
        context.fillStyle = colour.paused;
        context.globalAlpha = part;
        context.fillRect(left, box.top - 2, wide, 3);
      }
    });
  }

  drawKernel(context, box, time, from) {
    const { t: times, sendq } = this.columns;
    let most = 16 * 1024;
    for (let i = from; i < times.length; i += 1) most = Math.max(most, sendq[i] * 1.05);
    const lane = new Lane(context, box, most, time);
    lane.line(times, sendq, from, { stroke: colour.kernel, fill: 0.3, width: 1 });
    lane.ground();
    lane.margin(t("axis.queue"), colour.kernel);
    lane.value(bytes(this.over ? 0 : this.row.sendq), colour.kernel);
  }

  drawRate(context, box, time, from) {
    const times = this.columns.t.slice(from);
    const speeds = rates(times, this.columns.moved.slice(from), RATE_OVER);
    let most = 1024;
    for (const speed of speeds) most = Math.max(most, speed * 1.1);
    const lane = new Lane(context, box, most, time);
    lane.line(times, speeds, 0, { stroke: colour.rate, fill: 0.12, width: 1.25 });
    lane.ground();
    lane.margin(t("axis.rate"), colour.rate);
    lane.value(perSecond(speeds.length ? speeds[speeds.length - 1] : 0), colour.rate);
  }

  /** Show the words and numbers. */
  tell() {
    const { row, columns } = this;
    const last = columns.t.length - 1;
    const from = firstShown(columns.t, columns.t[last] - span);
    const time = columns.t[last] - columns.t[from];
    let paused = 0;
    for (let i = from + 1; i <= last; i += 1) paused += columns.share[i] * (columns.t[i] - columns.t[i - 1]);
    const ofTime = time > 0 ? Math.round((100 * paused) / time) : 0;
    const often = rounded(latestRate(columns, "pauses", 3));
    say(this.name, this.far ? t(`leg.${this.far.leg}`) : `${row.id} ${row.label}`);
    say(this.peer, row.peer);
    this.peer.title = row.why || "";
    say(this.chip, t(`state.${this.over ? "closed" : row.state === "open" ? row.producer : row.state}`));
    this.chip.className = `chip ${this.over ? "closed" : row.producer}`;
    this.element.classList.toggle("over", this.over);
    say(this.facts, t(row.pauses === 1 ? "facts.one" : "facts.many", row.pauses, often, ofTime));
    say(this.caption, this.words());
    const { pending, high, low, pauses } = row;
    this.canvas.setAttribute(
      "aria-label",
      t("label.chart", bytes(pending), bytes(high), bytes(low), pauses, ofTime),
    );
    for (const mark of Object.values(this.marks)) mark.tell();
    if (this.pipe) this.pipe.tell();
  }

  words() {
    const { row, columns } = this;
    const often = latestRate(columns, "pauses", 3);
    if (this.over) return t("say.lost", reasons.get(row.id) || "");
    if (row.state !== "open") return t("say.closing");
    if (often > 5) return t(row.high - row.low < row.high / 8 ? "say.near" : "say.fast", rounded(often));
    if (row.producer === "paused") return t(latestRate(columns, "moved", 2) < 1 ? "say.stalled" : "say.paused");
    if (row.producer === "pull") return t("say.pull");
    if (row.producer === "none") return t(row.pending > row.high ? "say.unpaused" : "say.none");
    return t(row.pending <= row.low && often === 0 ? "say.keeps" : "say.flowing");
  }

  remove() {
    observer.unobserve(this.element);
    this.element.remove();
    plots.delete(this.id);
    if (mode !== "replay") reasons.delete(this.id);
  }
}
