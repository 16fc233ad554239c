// The guided tour of the demo. It leads in a minute from a fast client to a pause, and to what memory
// does without flow control. A step ends when the reader has done what it asks for. After its time,
// the tour does so itself.

const SLOW_PRODUCER = 96 * 1024; // bytes a second; tanks fill slowly enough to be watched
const SLOW_READER = 32 * 1024;
const FAST_READER = 1024 * 1024;
const FAST_PRODUCER = 1536 * 1024; // without flow control, memory climbs while one looks

/** The connection to client A of a sample. */
function rowOfA(sample) {
  const { legs } = sample.demo.clients[0];
  return sample.connections.find((row) => legs.length && row.peer === legs[legs.length - 1].peer) || null;
}

const farOfA = (sample) => sample.demo.clients[0].legs.slice(-1)[0] || null;
const setA = (rate) => send("/demo", { client: "A", rate });
const setFlow = (flow) => send("/demo", { flow });

// Of a step: key, of its texts; seconds, after which it ends; begin, called first; act, which does
// what the step asks for; target, the element that it speaks of; list, the keys of things that come
// true, each with a test of a sample; done, whether the step is over.
const STEPS = [
  { key: "hello", seconds: 10 },
  {
    key: "fast",
    seconds: 7,
    begin() {
      const { flow, producer, way } = latest.demo;
      if (!flow || producer !== "push") send("/demo", { flow: true, producer: "push" });
      if (way !== "direct") send("/demo", { way: "direct" }); // connects all clients anew
      send("/demo", { made: SLOW_PRODUCER });
      setA(FAST_READER);
    },
    target: () => clients.get("A").element,
  },
  {
    key: "slow",
    seconds: 10,
    act: () => setA(SLOW_READER),
    target: () => clients.get("A").slider,
    done: (sample) => sample.demo.clients[0].rate <= 1.25 * SLOW_READER,
  },
  {
    key: "fill",
    seconds: 12,
    target: () => clients.get("A").element,
    list: {
      "fill.theirs": (sample) => farOfA(sample) && farOfA(sample).queue > 1024,
      "fill.ours": (sample) => rowOfA(sample) && rowOfA(sample).sendq > 4096,
      "fill.pending": (sample) => rowOfA(sample) && rowOfA(sample).producer === "paused",
    },
    done: (sample) => rowOfA(sample) && rowOfA(sample).producer === "paused",
  },
  {
    key: "paused",
    seconds: 10,
    target: () => clients.get("A").element,
    done: (sample, passed) => passed > 4 && rowOfA(sample) && rowOfA(sample).producer !== "paused",
  },
  {
    key: "off",
    seconds: 8,
    act: () => setFlow(false),
    target: () => $("flow"),
    done: (sample) => !sample.demo.flow,
  },
  {
    key: "memory",
    seconds: 9,
    begin: () => send("/demo", { made: FAST_PRODUCER }),
    target: () => $("memory-panel"),
  },
  {
    key: "on",
    seconds: 8,
    act: () => setFlow(true),
    target: () => $("flow"),
    done: (sample) => sample.demo.flow,
  },
  { key: "over", seconds: Infinity, begin: () => send("/demo", { reset: true }) },
];

const tour = {
  number: null, // of the step; null while there is no tour
  since: 0, // the time of the step's first sample
  passed: 0, // seconds since then
  ticked: new Set(), // the things of its list that have come true

  wire() {
    $("tour-start").addEventListener("click", () => this.go(0));
    $("tour-next").addEventListener("click", () => this.next());
    $("tour-do").addEventListener("click", () => this.step().act());
    $("tour-skip").addEventListener("click", () => this.skip());
    // Whoever begins to play needs no tour.
    for (const part of [$("switch"), $("lab"), $("connections")]) {
      for (const event of ["pointerdown", "keydown"]) {
        part.addEventListener(event, () => this.number === 0 && this.go(null));
      }
    }
    if (!remembered("toured")) this.go(0);
  },

  step() {
    return STEPS[this.number];
  },

  go(number) {
    this.hint(false);
    this.number = number;
    this.since = null;
    this.passed = 0;
    this.ticked.clear();
    if (number > 0) remember("touring", number + 1 < STEPS.length ? "yes" : "");
    if (number !== null && this.step().begin) this.step().begin();
    this.show();
    this.hint(true);
  },

  next() {
    if (this.step().act && !this.step().done(latest)) this.step().act();
    if (this.number + 1 < STEPS.length) this.go(this.number + 1);
    else this.end();
  },

  /** Leave the tour. What it has changed, perhaps before a reload, is set as at the start. */
  skip() {
    if (remembered("touring")) send("/demo", { reset: true });
    remember("touring", "");
    this.end();
  },

  end() {
    remember("toured", "yes");
    this.go(null);
  },

  /** Look at a sample, which may end the step. */
  feed(sample) {
    if (this.number === null || !sample.demo) return;
    const step = this.step();
    if (this.since === null) {
      this.since = sample.time;
      this.hint(true);
    }
    this.passed = sample.time - this.since;
    for (const [key, isTrue] of Object.entries(step.list || {})) {
      if (isTrue(sample)) this.ticked.add(key);
    }
    this.tell();
    if (this.passed < 1) return;
    const complete = !step.list || this.ticked.size === Object.keys(step.list).length;
    if (step.done && complete && step.done(sample, this.passed)) this.go(this.number + 1);
    else if (this.passed > step.seconds) this.next();
  },

  /** Show what changes within a step. */
  tell() {
    const left = Math.max(0, 1 - this.passed / this.step().seconds);
    $("tour-bar").style.width = `${this.step().seconds === Infinity ? 0 : 100 * left}%`;
    // In the order in which they came true: that is the answer to the question.
    const keys = [...this.ticked];
    if ($("tour-list").children.length === keys.length) return;
    $("tour-list").replaceChildren(
      ...keys.map((key) => {
        const item = document.createElement("li");
        item.textContent = t(`tour.${key}`);
        return item;
      }),
    );
  },

  show() {
    $("tour").hidden = this.number === null;
    document.body.classList.toggle("touring", this.number !== null);
    if (this.number === null) return;
    const step = this.step();
    const last = this.number + 1 === STEPS.length;
    say($("tour-step"), t("tour.step", this.number + 1, STEPS.length));
    put($("tour-title"), t(`tour.${step.key}`));
    put($("tour-text"), t(`tour.${step.key}.text`));
    $("tour-list").replaceChildren();
    $("tour-do").hidden = !step.act;
    $("tour-next").hidden = Boolean(step.act || step.list);
    $("tour-skip").hidden = last;
    say($("tour-next"), t(last ? "tour.end" : "tour.next"));
    this.tell();
  },

  /** Mark what the step speaks of, and bring it into view. */
  hint(on) {
    if (this.number === null || !this.step().target || !clients.has("A")) return;
    const target = this.step().target();
    target.classList.toggle("hint", on);
    if (!on) return;
    const box = target.getBoundingClientRect();
    const below = $("tour").getBoundingClientRect();
    const end = getComputedStyle($("tour")).position === "fixed" ? below.top : innerHeight;
    if (box.top < 0 || box.bottom > end) {
      target.scrollIntoView({ block: box.height > end ? "start" : "nearest", behavior: calm.matches ? "auto" : "smooth" });
      scrollBy({ top: innerHeight - end, behavior: "auto" });
    }
  },
};
