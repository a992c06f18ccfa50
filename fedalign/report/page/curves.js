// Metrics over rounds, over what was sent, or over time.

const AXES = { round: "round", megabytes: "MB sent and received", seconds: "seconds" };

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const known = (values) => values.filter((value) => value !== null && value !== undefined);

function deviation(values) {
  if (values.length < 2) return 0;
  const middle = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1));
}

/** Return [round, place on the axis, values of the runs, in their order] where one has a value. */
function byRound(runs, metric, axis) {
  const rounds = new Map();
  runs.forEach((run, i) => {
    (run.metrics[metric] ?? []).forEach((value, row) => {
      if (value === null) return;
      const round = run.rounds[row];
      if (!rounds.has(round)) rounds.set(round, { places: [], values: Array(runs.length).fill(null) });
      rounds.get(round).values[i] = value;
      rounds.get(round).places.push(axis === "round" ? round : run.x[axis]?.[row] ?? null);
    });
  });
  const sorted = [...rounds].sort(([a], [b]) => a - b);
  return sorted
    .map(([round, { places, values }]) => [round, known(places).length ? mean(known(places)) : null, values])
    .filter(([, place]) => place !== null);
}

function curvesOf(metric, axis, each) {
  const tables = [];
  const series = [];
  const add = (x, extra, ...columns) => {
    tables.push([x, ...columns]);
    series.push({ ...extra, columns: columns.length });
  };
  DATA.arms.forEach((_, arm) => {
    const runs = runsOf(arm);
    const found = hidden.has(arm) ? [] : byRound(runs, metric, axis);
    if (!found.length) return;
    const x = found.map(([, place]) => place);
    const values = found.map(([, , all]) => known(all));
    const middle = values.map(mean);
    const spread = values.map(deviation);
    if (each && runs.length > 1) runs.forEach((_, i) => add(x, { arm, thin: true }, found.map(([, , all]) => all[i])));
    if (each || runs.length < 2) add(x, { arm }, middle);
    else add(x, { arm }, middle, middle.map((m, i) => m - spread[i]), middle.map((m, i) => m + spread[i]));
  });
  const [x, ...joined] = tables.length ? uPlot.join(tables) : [[]];
  for (const one of series) [one.y, one.low, one.high] = joined.splice(0, one.columns);
  return { x, series };
}

function startCurves() {
  const drawChart = chart($("curves-chart"), legend($("curves-legend")), $("curves-reset"));
  const show = () => {
    const [metric, axis] = [$("metric").value, $("axis").value];
    const { x, series } = curvesOf(metric, axis, $("each").checked);
    const where = (place) => (place === undefined ? "" : axis === "round" ? `round ${place}` : `${number(place)} ${axis === "seconds" ? "s" : "MB"}`);
    drawChart({ x, series, xlabel: AXES[axis], ylabel: words(metric), where, whole: axis === "round" });
    if ($("curves-numbers").closest("details").open) numbersOf(metric);
  };
  const usual = [DATA.shown, "train_loss"].find((name) => DATA.metrics.includes(name));
  choices($("metric"), DATA.metrics.map((name) => [name, words(name)]), show);
  if (usual) $("metric").value = usual;
  const axes = Object.entries(AXES).filter(([axis]) => axis === "round" || DATA.runs.some((run) => run.x[axis]));
  choices($("axis"), axes, show);
  $("each").onchange = show;
  $("each").closest("label").hidden = DATA.arms.every((_, arm) => runsOf(arm).length < 2);
  $("curves-numbers").closest("details").ontoggle = () => numbersOf($("metric").value);
  drawings.push(show);
}

const fixed = (value) => (Math.abs(value) < 1000 ? value.toFixed(4) : number(value, 6));

/** Write the means over seeds as a table, for those who read or copy them. */
function numbersOf(metric) {
  const tables = DATA.arms.map((_, arm) => new Map(byRound(runsOf(arm), metric, "round").map(([round, , all]) => [round, known(all)])));
  const rounds = [...new Set(tables.flatMap((table) => [...table.keys()]))].sort((a, b) => a - b);
  const cell = (values) => (values ? fixed(mean(values)) + (values.length > 1 ? ` ± ${fixed(deviation(values))}` : "") : "–");
  const head = make("tr", {}, ...["round", ...DATA.arms].map((text) => make("th", { scope: "col" }, text)));
  const lines = rounds.map((round) => make("tr", {}, make("th", { scope: "row" }, String(round)), ...tables.map((table) => make("td", {}, cell(table.get(round))))));
  const caption = make("caption", {}, `${words(metric)}: mean ± standard deviation over seeds`);
  $("curves-numbers").replaceChildren(make("table", {}, caption, make("thead", {}, head), make("tbody", {}, ...lines)));
}
