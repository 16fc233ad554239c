// Changes. While one of a kind is on its way, only the newest of the next ones is kept.

const waiting = new Map(); // by kind: what to send next, or null while nothing is
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
      complain(answer.ok ? "" : `Refused: ${await answer.text()}`);
    } catch {
      complain("The server does not answer.");
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

function status(text, kind) {
  say($("status"), text);
  $("status").className = `status ${kind}`;
}

function named(title) {
  say($("title"), title);
  document.title = `${title} · minireactor`;
}

let source = null; // of the samples; null while nobody looks
let patience = 15000; // milliseconds after which nobody is taken to look at a page that is hidden

/** A browser makes six connections to a server, and each page that is live keeps one: with a sixth
 * tab, nothing could be changed any more. So one that is hidden lets go of it, unless frozen. */
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
        status("resting while nobody looks", "");
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
    status("live", "live");
  };
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) {
      status("the server refuses: open the address that it has printed", "broken");
    } else {
      status("the server has gone; these are its last figures", "broken");
    }
  };
  source.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.type === "hello") {
      named(message.title);
      if (message.hint) say($("empty"), `Nobody is connected. Try: ${message.hint}`);
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
