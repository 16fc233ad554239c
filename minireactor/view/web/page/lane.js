// What all charts have in common: colours, canvases, and lanes with lines and axes.

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "soft", "line", "grid", "card", "paper", "pending", "high", "low"];
  for (const name of [...names, "paused", "shading", "kernel", "rate", "memory", "shade", "sans"]) {
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

/** One lane of a chart. `box` is its place, `most` the value at its top, `time` its right edge. */
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
    // Level lines in the middle of a pixel: between two pixels they would be pale.
    const y = (value) => (steps ? Math.round(this.y(value)) + 0.5 : this.y(value));
    this.inside(() => {
      context.beginPath();
      for (let i = from; i < times.length; i += 1) {
        const x = this.x(times[i]);
        if (steps && i > from) context.lineTo(x, y(values[i - 1]));
        if (i === from) context.moveTo(x, y(values[i]));
        else context.lineTo(x, y(values[i]));
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

  /** Draw lines at round values, with the values in the margin at the left. */
  grid(count) {
    const { context, box } = this;
    const step = niceStep(this.most, count);
    context.strokeStyle = colour.grid;
    context.lineWidth = 1;
    for (let value = step; value < this.most * 0.97; value += step) {
      const y = Math.round(this.y(value)) + 0.5;
      context.beginPath();
      context.moveTo(box.left, y);
      context.lineTo(box.right, y);
      context.stroke();
      if (y > box.top + 3) this.margin(bytes(value), colour.soft, y);
    }
  }

  seconds() {
    const { context, box } = this;
    const steps = [1, 2, 5, 10, 20, 30];
    const wide = (box.right - box.left) / span; // pixels a second
    const step = steps.find((seconds) => seconds * wide > 44) || 30;
    context.fillStyle = colour.soft;
    context.textBaseline = "top";
    for (let ago = 0; ago < span - step / 3; ago += step) {
      context.textAlign = ago ? "center" : "right";
      context.fillText(ago ? t("axis.ago", ago) : t("axis.now"), this.x(this.time - ago), box.bottom + 3);
    }
  }

  /** Write left of the lane, at a height or in its middle. */
  margin(text, inColour, y = (this.box.top + this.box.bottom) / 2) {
    const { context, box } = this;
    context.fillStyle = inColour;
    context.textAlign = "right";
    context.textBaseline = "middle";
    context.fillText(text, box.left - 5, y);
  }

  /** Write right of the lane. */
  value(text, inColour) {
    const { context, box } = this;
    context.fillStyle = inColour;
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.fillText(text, box.right + 8, (box.top + box.bottom) / 2);
  }
}
