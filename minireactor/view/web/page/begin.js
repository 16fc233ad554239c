// Beginning.

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

function begin() {
  readColours();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => themes.forEach((change) => change()));
  addEventListener("resize", drawNow);
  if (innerWidth < 760) {
    $("window").value = "10";
    span = 10;
    $("legend").open = false;
  }
  $("window").addEventListener("change", () => {
    span = Number($("window").value);
    drawNow();
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
    $("lab").hidden = false;
    tellTrials({ flow: true, low: "quarter", producer: "push", way: "direct" });
    wireDemo();
  }
  if (!token) status("this address lacks the token: open the one that the server has printed", "broken");
  else if (mode === "replay") watchRecording();
  else watchLive();
}

begin();
