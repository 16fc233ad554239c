// Samples.

function allPending({ connections, rest }) {
  const open = connections.filter((row) => row.state !== "closed");
  return open.reduce((sum, row) => sum + row.pending, rest ? rest.pending : 0);
}

function feed(sample) {
  latest = sample;
  now = sample.time;
  const { totals } = sample;
  const byPeer = sample.demo ? feedDemo(sample.demo) : null;
  const pending = allPending(sample);
  for (const row of sample.connections) {
    const leg = byPeer ? byPeer.get(row.peer) : null;
    let plot = plots.get(row.id);
    if (!plot) {
      if ((byPeer && !leg) || row.state === "closed") continue;
      plot = new Plot(row);
      plots.set(row.id, plot);
      place(plot, leg);
    } else if (leg && leg.order !== plot.order) {
      place(plot, leg); // its proxy has found the way to the server
    }
    plot.feed(row, sample.time, leg && leg.received !== null ? leg.received : row.out);
  }
  const { memory, lag } = sample;
  const { out, pauses } = totals;
  record(whole, { t: now, memory: memory || 0, pending, out, pauses, lag }, now - LONGEST);
  for (const plot of [...plots.values()]) {
    if (now - plot.lastSeen > (plot.over ? GOODBYE : absence)) plot.remove();
  }
}

function place(plot, leg) {
  if (leg) {
    const before = [...leg.client.places.children].find((other) => other.plot.order > leg.order);
    plot.order = leg.order;
    say(plot.name, leg.what);
    leg.client.places.insertBefore(plot.element, before || null);
  } else {
    say(plot.name, `${plot.row.id} ${plot.row.label}`);
    $("connections").append(plot.element);
  }
}

function feedDemo(demo) {
  const byPeer = new Map();
  for (const state of demo.clients) {
    if (!clients.has(state.name)) clients.set(state.name, new Client(state.name));
    const client = clients.get(state.name);
    state.legs.forEach((leg, order) => {
      byPeer.set(leg.peer, { client, order, what: leg.what, received: leg.received });
    });
  }
  return byPeer;
}

/** The busiest first; but nothing moves while somebody has hold of it. */
function sortConnections() {
  const parent = $("connections");
  if (mode === "demo" || !latest || parent.matches(":focus-within, :hover:active")) return;
  const rank = new Map(latest.connections.map((row, i) => [row.id, i]));
  const rankOf = (element) => rank.get(element.plot.id) ?? Infinity;
  const before = [...parent.children];
  const after = [...before].sort((a, b) => rankOf(a) - rankOf(b) || a.plot.id - b.plot.id);
  if (after.some((element, i) => element !== before[i])) parent.append(...after);
}

function forget() {
  for (const plot of [...plots.values()]) plot.remove();
  for (const name in whole) whole[name].length = 0;
  if (held) held.length = 0;
  latest = null;
}
