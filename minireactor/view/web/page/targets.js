// The table of a proxy's targets. Other servers have none.

const TARGET_CELLS = ["name", "state", "clients", "failures", "connect"];

function targetRow() {
  const row = document.createElement("tr");
  row.parts = {};
  for (const name of TARGET_CELLS) {
    const cell = document.createElement(name === "name" ? "th" : "td");
    if (name === "name") cell.scope = "row";
    row.parts[name] = cell;
    row.append(cell);
  }
  const chip = document.createElement("span");
  row.parts.state.append(chip);
  row.parts.state = chip;
  return row;
}

function tellTargets(targets) {
  $("targets-panel").hidden = !targets;
  if (!targets) return;
  const body = $("targets");
  while (body.children.length > targets.length) body.lastChild.remove();
  while (body.children.length < targets.length) body.append(targetRow());
  targets.forEach((target, i) => {
    const cells = body.children[i].parts;
    say(cells.name, target.target);
    say(cells.state, t(`target.${target.state}`) + (target.backup ? t("target.backup") : ""));
    cells.state.className = `chip ${target.state}`;
    body.children[i].title = target.state === "up" ? "" : target.reason;
    say(cells.clients, String(target.clients));
    say(cells.failures, String(target.failures));
    say(cells.connect, target.connect === null ? "–" : milliseconds(target.connect));
  });
}
