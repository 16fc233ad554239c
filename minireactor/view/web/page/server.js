// Changes. While a change of one kind is on its way, only the newest of the next ones is kept.

const waiting = new Map(); // by kind: what to send next, or null if nothing has come since
let quietSince = 0;

const settled = () => waiting.size === 0 && performance.now() - quietSince > 300;

async function send(path, what) {
  const kind = JSON.stringify([path, what.id, what.client, Object.keys(what)]);
  if (waiting.has(kind)) {
    waiting.set(kind, what);
    return;
  }
  waiting.set(kind, null);
  for (let next = what; next; next = waiting.get(kind)) {
    waiting.set(kind, null);
    try {
      const answer = await fetch(path, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-Token": token },
        body: JSON.stringify(next),
      });
      complain(answer.ok ? "" : t("refused", await answer.text()));
    } catch {
      complain(t("silent"));
    }
  }
  waiting.delete(kind);
  quietSince = performance.now();
}

let complaint = "";

function complain(text) {
  complaint = text;
  notice("");
}

function notice(text) {
  say($("notice"), complaint || text || "");
  $("notice").hidden = !(complaint || text);
}

// Where the samples come from.

/** Show the state of the page, a key of the texts; `kind` is "live", "broken" or nothing. */
function status(key, kind = "", ...values) {
  shownStatus = [key, ...values];
  say($("status"), t(...shownStatus));
  $("status").className = `status ${kind}`;
}

let shownStatus = ["status.connecting"];

function named(title) {
  delete $("title").dataset.text;
  say($("title"), title);
  document.title = `${title} · minireactor`;
}

let source = null; // of the samples; null while nobody looks
let patience = 15000; // milliseconds that a hidden page keeps its connection

/** A browser makes six connections to a server, and each live page keeps one: with a sixth tab,
 * nothing could be changed any more. So a hidden page closes its connection, unless it is frozen. */
function watchLive() {
  let leaving = 0;
  const change = () => {
    clearTimeout(leaving);
    if (!document.hidden) {
      if (!source) listen();
    } else if (source) {
      leaving = setTimeout(() => {
        if (held) return;
        source.close();
        source = null;
        status("status.resting");
      }, patience);
    }
  };
  document.addEventListener("visibilitychange", change);
  change();
}

function listen() {
  source = new EventSource(`/events?token=${encodeURIComponent(token)}`);
  source.onopen = () => {
    forget();
    status("status.live", "live");
  };
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) {
      status("status.refused", "broken");
    } else {
      status("status.gone", "broken");
    }
  };
  source.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.type === "hello") {
      greet(message);
    } else if (message.type === "event") {
      if (message.event === "lost" && plots.has(message.id)) reasons.set(message.id, message.reason);
    } else if (held) {
      held.push(message);
      if (held.length > LONGEST * 20) held.shift();
    } else {
      feed(message);
      drawSoon();
    }
  };
}

let hello = null; // the server's first message

function greet(message) {
  hello = message;
  facts = message.facts;
  named(mode === "demo" ? t("title.demo") : message.title);
  $("empty").removeAttribute("data-text");
  say($("empty"), message.hint ? t("empty.hint", message.hint) : t("empty"));
}
