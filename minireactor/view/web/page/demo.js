// The demo's clients and switches.

/** A client of the demo: its slider, and the plots of the connections on the way to it. */
class Client {
  constructor(name) {
    this.name = name;
    this.element = clone("client-template");
    this.places = this.element.querySelector(".plots");
    this.slider = this.element.querySelector("input");
    this.shown = this.element.querySelector("output");
    this.vanish = this.element.querySelector("button");
    this.absent = this.element.querySelector(".absent");
    this.title = this.element.querySelector("h3");
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
    say(this.shown, rate ? perSecond(rate) : t("nothing"));
    this.slider.setAttribute("aria-valuetext", this.shown.textContent);
  }

  show(state) {
    say(this.title, t("client", this.name));
    this.slider.setAttribute("aria-label", t("label.reads", this.name));
    if (settled()) {
      this.slider.value = positionOf(state.rate, READS.least, READS.most);
      this.tellRate(state.rate);
    }
    this.vanish.setAttribute("aria-pressed", String(state.gone));
    say(this.vanish, t(state.gone ? "back" : "vanish"));
    say(this.absent, state.absent ? t(`absent.${state.absent}`, facts.stall) : "");
    this.element.classList.toggle("two", state.legs.length > 1);
  }
}

const READS = { least: 4096, most: 1024 * 1024 };
const MAKES = { least: 16384, most: 4 * 1024 * 1024 };

function tellDemo(demo) {
  for (const state of demo.clients) clients.get(state.name).show(state);
  notice(demo.notice ? t(`notice.${demo.notice}`, bytes(facts.safe)) : "");
  say($("buffers"), t("buffers", bytes(facts.send), bytes(facts.receive)));
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
  say($("delay-shown"), delay ? t("seconds", rounded(delay)) : t("once"));
  $("made").setAttribute("aria-valuetext", $("speed-made").textContent);
  $("delay").setAttribute("aria-valuetext", $("delay-shown").textContent);
}

/** Show the words for the present state of each switch, and hide the others. */
function tellTrials(state) {
  for (const name of ["flow", "low", "producer", "way"]) {
    for (const text of document.querySelectorAll(`.lab [data-${name}]`)) {
      text.hidden = text.dataset[name] !== String(state[name]);
    }
  }
}

function wireDemo() {
  $("reset").addEventListener("click", () => send("/demo", { reset: true }));
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
    say($("delay-shown"), delay ? t("seconds", rounded(delay)) : t("once"));
    send("/demo", { delay });
  });
}
