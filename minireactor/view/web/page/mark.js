/** The handle of a mark, which is dragged or moved with the arrow keys. */
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

  /** Put the handle in its place. Two close handles stand apart, so that both can be taken. */
  show() {
    const { high, low } = this.plot.limits();
    const { right, bottom } = this.box();
    const apart = 22;
    const middle = (this.yOf(high) + this.yOf(low)) / 2;
    const gap = Math.max(apart, this.yOf(low) - this.yOf(high));
    const lowest = Math.min(middle + gap / 2, bottom); // below it are the values of the other lanes
    const y = this.kind === "low" ? lowest : lowest - gap;
    this.element.style.top = `${Math.round(y)}px`;
    this.element.style.left = `${right + 6}px`;
    say(this.number, bytes(this.kind === "high" ? high : low));
  }

  tell() {
    const value = this.plot.limits()[this.kind];
    this.element.setAttribute("aria-label", t(`label.mark.${this.kind}`, this.plot.id, this.plot.row.peer));
    this.element.setAttribute("aria-valuemax", String(Math.round(this.plot.scale)));
    this.element.setAttribute("aria-valuenow", String(value));
    this.element.setAttribute("aria-valuetext", bytes(value));
  }
}
