// Numbers as people read them, sliders, and histories.

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function rounded(number) {
  return number >= 100 ? number.toFixed(0) : String(Number(number.toPrecision(2)));
}

function bytes(count) {
  if (count === null || count === undefined) return "–";
  for (const unit of ["B", "KiB", "MiB"]) {
    if (count < 1000 || (unit !== "B" && count < 1024)) return `${rounded(count)} ${unit}`;
    count /= 1024;
  }
  return `${rounded(count)} GiB`;
}

const perSecond = (count) => `${bytes(count)}/s`;

function milliseconds(seconds) {
  return seconds < 1 ? `${rounded(seconds * 1000)} ms` : t("seconds", rounded(seconds));
}

function minutes(seconds) {
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}

// Sliders for rates: position 0 is nothing, and 1 to 100 are rates in equal ratios.

function rateAt(position, least, most) {
  if (position <= 0) return 0;
  return Number((least * (most / least) ** ((position - 1) / 99)).toPrecision(2));
}

function positionOf(rate, least, most) {
  return rate <= 0 ? 0 : Math.round(1 + (99 * Math.log(rate / least)) / Math.log(most / least));
}

// A history has columns of equal length. The column `t` has the times.

function record(columns, values, since) {
  for (const name in columns) columns[name].push(values[name]);
  const old = columns.t.findIndex((time) => time >= since);
  // In slices: shifting the arrays at every sample would cost more than drawing them.
  if (old > 256) for (const name in columns) columns[name].splice(0, old);
}

function firstShown(times, from) {
  let low = 0;
  let high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < from) low = middle + 1;
    else high = middle;
  }
  return Math.max(0, low - 1); // one before, so that lines begin outside the chart
}

function rates(times, counts, over) {
  let j = 0;
  return times.map((time, i) => {
    while (j + 1 < i && times[j + 1] <= time - over) j += 1;
    return i > j ? Math.max(0, counts[i] - counts[j]) / (time - times[j]) : 0;
  });
}

function latestRate(columns, name, over) {
  const { t } = columns;
  const last = t.length - 1;
  const first = firstShown(t, t[last] - over);
  // Over a moment alone, one pause would be twenty a second.
  const time = Math.max(t[last] - t[first], Math.min(over, 1));
  return last > first ? (columns[name][last] - columns[name][first]) / time : 0;
}
