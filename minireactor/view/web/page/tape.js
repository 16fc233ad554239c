// Recordings.

let tape = null; // the recording that is shown

/** Whether samples come, or the recording plays: drops move only then. */
const timePasses = () => (mode === "replay" ? tape !== null && tape.playing : performance.now() - fedAt < 1000);

/** The text of the recording: it is in this document, or the server has it; null if it refuses. */
async function recordingText() {
  if ($("recording")) return $("recording").textContent;
  const answer = await fetch("/recording", { headers: { "X-Token": token } });
  return answer.ok ? answer.text() : null;
}

async function watchRecording() {
  status("status.loading");
  const text = await recordingText();
  if (text === null) {
    status("status.refused", "broken");
    return;
  }
  const samples = [];
  for (const line of text.split("\n")) {
    if (!line) continue;
    const message = JSON.parse(line);
    if (message.type === "sample") samples.push(message);
    else if (message.event === "lost") reasons.set(message.id, message.reason);
    else if (message.type === "recording") named(message.title);
  }
  tape = new Tape(samples);
}

/** A recording: a position in it, which moves by itself or is moved. */
class Tape {
  constructor(samples) {
    this.samples = samples;
    this.times = samples.map((sample) => sample.time);
    this.fed = 0; // how many samples have been fed
    this.playing = false;
    this.clock = 0;
    if (!samples.length) {
      status("status.empty", "broken");
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
    status("status.recorded", "", minutes(this.end - this.begin));
    // At the very beginning there is nothing to see yet, and at the end everything is closed.
    this.go(Math.min((this.begin + this.end) / 2, this.begin + chosenSpan));
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
    this.tell();
    drawNow();
  }

  tell() {
    const at = minutes(now - this.begin);
    say($("clock"), t("clock", at, minutes(this.end - this.begin)));
    say($("play"), t(this.playing ? "pause" : "play"));
    this.slider.setAttribute("aria-valuetext", at);
  }

  countUntil(time) {
    let count = firstShown(this.times, time);
    while (count < this.times.length && this.times[count] <= time) count += 1;
    return count;
  }

  play() {
    if (now >= this.end) this.go(this.begin);
    this.playing = true;
    this.clock = performance.now();
    requestAnimationFrame((clock) => this.turn(clock));
  }

  stop() {
    this.playing = false;
    this.tell();
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
