// What a sample changes: the history of each connection and of all together.

function allPending({ connections, rest }) {
  const open = connections.filter((row) => row.state !== "closed");
  return open.reduce((sum, row) => sum + row.pending, rest ? rest.pending : 0);
}

function feed(sample) {
  latest = sample;
  fedAt = performance.now();
  now = sample.time;
  tour.feed(sample);
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
      place(plot, leg); // the proxy in between has found the way to the server
    }
    plot.feed(row, sample.time, leg);
  }
  const { memory, lag } = sample;
  const { out, pauses } = totals;
  record(whole, { t: now, memory: memory || 0, pending, out, pauses, lag }, now - LONGEST);
  span = Math.min(chosenSpan, Math.max(SHORTEST, now - whole.t[0]));
  for (const plot of [...plots.values()]) {
    if (now - plot.lastSeen > (plot.over ? GOODBYE : absence)) plot.remove();
  }
}

function place(plot, leg) {
  if (leg) {
    const before = [...leg.client.places.children].find((other) => other.plot.order > leg.order);
    plot.order = leg.order;
    leg.client.places.insertBefore(plot.element, before || null);
  } else {
    $("connections").append(plot.element);
  }
}

function feedDemo(demo) {
  const byPeer = new Map();
  for (const state of demo.clients) {
    if (!clients.has(state.name)) clients.set(state.name, new Client(state.name));
    const client = clients.get(state.name);
    state.legs.forEach((leg, order) => {
      byPeer.set(leg.peer, { ...leg, client, order });
    });
  }
  return byPeer;
}

/** Put the busiest first, but move nothing while somebody is using it. */
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
