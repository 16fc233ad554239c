/** A list of names and numbers. */
class Numbers {
  constructor(list, names) {
    this.places = {};
    for (const name of names) {
      const pair = document.createElement("div");
      const term = document.createElement("dt");
      const number = document.createElement("dd");
      pair.className = name;
      term.dataset.text = `figure.${name}`;
      pair.append(term, number);
      list.append(pair);
      this.places[name] = number;
    }
  }

  show(values) {
    for (const name in values) say(this.places[name], values[name]);
  }
}

// Drawing: the charts with each sample, the numbers more seldom, so that they can be read.

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

/** Draw what somebody has just done, without waiting for the next picture. */
function drawNow() {
  textDue = pictureDue = 0;
  drawSoon();
}

function draw(clock) {
  if (clock >= textDue) {
    textDue = clock + TEXT_EVERY;
    tell();
  }
  for (const plot of plots.values()) plot.draw(now, clock);
  for (const pipe of pipes()) pipe.draw(clock / 1000);
  drawMemory();
  keepFlowing();
}

/** Draw everything, also what is off screen: a print shows all of it. */
function drawAll() {
  if (!latest) return;
  for (const plot of plots.values()) plot.visible = true;
  draw(performance.now());
}

function drawMemory() {
  const { context, width, height } = canvasOf($("memory"));
  const from = firstShown(whole.t, now - span);
  let most = 32 * 1024 * 1024;
  for (let i = from; i < whole.t.length; i += 1) most = Math.max(most, whole.memory[i] * 1.2, whole.pending[i] * 1.2);
  const lane = new Lane(context, { left: MARGIN, right: width - 2, top: 4, bottom: height - 18 }, most, now);
  lane.grid(height < 120 ? 2 : 4);
  if (latest.memory !== null) lane.line(whole.t, whole.memory, from, { stroke: colour.memory, fill: 0.12, width: 2 });
  lane.line(whole.t, whole.pending, from, { stroke: colour.pending, fill: 0.35 });
  lane.ground();
  lane.seconds();
}

const figures = new Numbers($("figures"), ["open", "out", "pauses", "pending", "highest", "lag", "memory"]);

function tell() {
  const { totals, rest } = latest;
  const last = whole.t.length - 1;
  const recent = whole.lag.slice(firstShown(whole.t, now - 1));
  figures.show({
    open: t("open.now", totals.open, totals.connections),
    out: perSecond(latestRate(whole, "out", 1)),
    pauses: `${rounded(latestRate(whole, "pauses", 2))}/s`,
    pending: bytes(whole.pending[last]),
    highest: bytes(totals.highest_pending),
    lag: milliseconds(Math.max(...recent)),
    memory: bytes(latest.memory),
  });
  say($("memory-now"), latest.memory === null ? t("unknown") : bytes(latest.memory));
  $("memory").setAttribute("aria-label", t("label.memory", bytes(latest.memory), bytes(whole.pending[last])));
  $("empty").hidden = mode === "demo" || plots.size > 0;
  $("rest").hidden = !rest;
  if (rest) {
    say($("rest"), t("rest", rest.count, bytes(rest.pending), bytes(rest.out), rest.pauses));
  }
  tellTargets(latest.targets);
  if (latest.demo) tellDemo(latest.demo);
  sortConnections();
  for (const plot of plots.values()) plot.tell();
  tellPicked();
}
