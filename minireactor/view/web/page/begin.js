// The page begins here, when all that it needs is known.

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

/** Show all texts in a language, those that depend on the samples as well. */
function speak(chosen) {
  setLanguage(chosen);
  say($("status"), t(...shownStatus));
  if (hello) greet(hello);
  if (tape && tape.slider) tape.tell();
  tour.show();
  if (latest) {
    for (const plot of plots.values()) plot.tell();
    drawNow();
  }
}

function begin() {
  readColours();
  speak(firstLanguage());
  status("status.connecting");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => themes.forEach((change) => change()));
  addEventListener("resize", drawNow);
  addEventListener("beforeprint", drawAll);
  if (innerWidth < 760) {
    $("window").value = "10";
    chosenSpan = 10;
    $("legend").open = false;
  }
  $("window").addEventListener("change", () => {
    chosenSpan = Number($("window").value);
    if (whole.t.length) span = Math.min(chosenSpan, Math.max(SHORTEST, now - whole.t[0]));
    drawNow();
  });
  $("language").addEventListener("click", () => {
    remember("language", language === "en" ? "zh" : "en");
    speak(language === "en" ? "zh" : "en");
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
    for (const id of ["switch", "lab", "buffers", "reset", "tour-start"]) $(id).hidden = false;
    // Cause and effect stand together: the switch, and the memory.
    $("switch").append($("memory-panel"));
    $("legend").open = false;
    tellTrials({ flow: true, low: "quarter", producer: "push", way: "direct" });
    wireDemo();
    tour.wire();
  }
  if (!token && !$("recording")) status("status.token", "broken");
  else if (mode === "replay") watchRecording();
  else watchLive();
}

begin();
