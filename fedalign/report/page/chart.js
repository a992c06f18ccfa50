// A line chart: hover or arrow keys read values, drag or + and - zoom, double-click or Escape resets.

/**
 * Make a chart in a box.
 *
 * The returned function draws {x, series: [{arm, y, low, high, thin}], xlabel, ylabel, where, yrange}:
 * `y` at the places `x`, a band from `low` to `high`; `thin` lines have no value in the legend.
 */
function chart(box, setLegend, reset) {
  const said = make("output", { className: "read" });
  const place = make("div");
  box.append(place, said);
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-roledescription", "chart");
  let plot = null;
  let zoom = null;
  let spec = null;

  const at = (index) => {
    const values = DATA.arms.map(() => null);
    for (const one of spec.series) if (!one.thin) values[one.arm] = one.y[index];
    setLegend(spec.where(spec.x[index]), values);
    return values;
  };
  const zoomTo = (range) => {
    zoom = range;
    const ends = [spec.x[0], spec.x[spec.x.length - 1]];
    plot.setScale("x", { min: (range ?? ends)[0], max: (range ?? ends)[1] });
  };
  const hooks = {
    setCursor: [(u) => at(u.cursor.idx ?? spec.x.length - 1)],
    setSelect: [(u) => u.select.width > 0 && (zoom = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")])],
    setScale: [(u, key) => key === "x" && reset && (reset.hidden = !zoom)],
  };
  place.addEventListener("dblclick", () => zoomTo(null));
  if (reset) reset.onclick = () => zoomTo(null);
  box.onkeydown = (event) => {
    if (event.target !== box || !plot || !spec.x.length) return;
    const last = spec.x.length - 1;
    const now = plot.cursor.idx ?? last;
    const steps = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last };
    if (event.key in steps) {
      const index = Math.min(last, Math.max(0, steps[event.key]));
      plot.setCursor({ left: plot.valToPos(spec.x[index], "x"), top: 10 });
      const heard = at(index).map((value, arm) => (value === null || value === undefined ? "" : `${DATA.arms[arm]} ${number(value)}`));
      said.textContent = `${spec.where(spec.x[index])}: ${heard.filter(Boolean).join("; ") || "no value"}`;
    } else if (event.key === "Escape") zoomTo(null);
    else if ("+-=".includes(event.key)) {
      const { min, max } = plot.scales.x;
      const middle = plot.cursor.idx == null ? (min + max) / 2 : spec.x[now];
      const half = ((max - min) / 2) * (event.key === "-" ? 1.6 : 0.6);
      const range = [Math.max(spec.x[0], middle - half), Math.min(spec.x[last], middle + half)];
      zoomTo(range[0] <= spec.x[0] && range[1] >= spec.x[last] ? null : range);
    } else return;
    event.preventDefault();
  };

  return (next) => {
    spec = next;
    said.textContent = "";
    box.setAttribute("aria-label", `${spec.ylabel} over ${spec.xlabel}, ${spec.series.filter((s) => !s.thin).length} lines. Arrow keys read values.`);
    plot?.destroy();
    plot = new uPlot(options(box, spec, hooks), columns(spec), place);
    if (zoom) zoomTo(zoom);
    at(spec.x.length - 1);
  };
}

function options(box, spec, hooks) {
  const by = scale();
  const width = widthOf(box) * by;
  const few = spec.x.length < 30;
  const series = [{}];
  const bands = [];
  for (const one of spec.series) {
    const { stroke, dash } = look(one.arm);
    const size = (one.thin ? 3 : 5) * by;
    const points = { show: few, size, fill: stroke, width: 0, stroke };
    series.push({ stroke: one.thin ? faint(stroke, 0.45) : stroke, dash, width: (one.thin ? 1 : 2) * by, points, spanGaps: true });
    if (one.low) {
      for (const _ of [0, 1]) series.push({ stroke: "transparent", width: 0, points: { show: false }, spanGaps: true });
      bands.push({ series: [series.length - 1, series.length - 2], fill: faint(stroke, 0.14) });
    }
  }
  const axis = (label, size) => ({
    stroke: css("--soft"), label, size: size * by, labelSize: 22 * by, gap: 5 * by, font: `${Math.round(12 * by)}px ${FONT}`, labelFont: `${Math.round(12 * by)}px ${FONT}`,
    grid: { stroke: css("--rule"), width: by }, ticks: { show: false }, space: (label === spec.xlabel ? 60 : 36) * by,
  });
  const alone = spec.x.length === 1 ? { range: [spec.x[0] - 1, spec.x[0] + 1] } : {};
  return {
    width, height: Math.max(230 * by, Math.min(width * 0.5, 340 * by)), legend: { show: false }, padding: [10 * by, 12 * by, 0, 0],
    scales: { x: { time: false, ...alone }, y: spec.yrange ? { range: spec.yrange } : {} },
    axes: [{ ...axis(spec.xlabel, 30), ...(spec.whole ? { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 1e4] } : {}) }, axis(spec.ylabel, 52)],
    cursor: { y: false, points: { size: 8 * by } }, series, bands, hooks,
  };
}

function columns(spec) {
  const bands = (one) => (one.low ? [one.low, one.high] : []);
  return [spec.x, ...spec.series.flatMap((one) => [one.y, ...bands(one)])];
}

function faint(colour, alpha) {
  return `color-mix(in srgb, ${colour} ${100 * alpha}%, transparent)`;
}
