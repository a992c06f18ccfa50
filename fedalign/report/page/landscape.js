// The lines between models, by round, and the planes through three of them.

const PATHS = {
  clients: "between two clients",
  global: "from one round's global model to the next",
  matched: "between two clients, neurons matched",
  repaired: "between two clients, with REPAIR",
  matched_repaired: "between two clients, matched, with REPAIR",
};
const HEIGHTS = [["accuracy", "test accuracy"], ["loss", "test loss"]];
const STEP = { accuracy: 0.05 }; // between colours of a plane

function startLines() {
  const drawChart = chart($("lines-chart"), legend($("lines-legend")));
  const kinds = [...new Set(DATA.runs.flatMap((run) => Object.keys(run.lines)))];
  kinds.sort((a, b) => (b === "clients") - (a === "clients"));
  const show = () => {
    const [kind, height] = [$("path").value, $("height").value];
    const all = DATA.runs.filter((run) => run.lines[kind]);
    const numbers = [...new Set(all.flatMap((run) => run.lines[kind].rounds))].sort((a, b) => a - b);
    const round = numbers[rounds($("line-round"), numbers, show)];
    const tables = [];
    const series = [];
    DATA.arms.forEach((_, arm) => {
      const runs = hidden.has(arm) ? [] : runsOf(arm).filter((run) => run.lines[kind]?.rounds.includes(round));
      if (!runs.length) return;
      const x = runs[0].lines[kind].alphas;
      const curves = runs.map((run) => run.lines[kind]).map((l) => l[height][l.rounds.indexOf(round)]);
      tables.push([x, x.map((_, i) => average(curves.map((curve) => curve[i])))]);
      series.push({ arm });
    });
    const [x, ...joined] = tables.length ? uPlot.join(tables) : [[]];
    series.forEach((one, i) => (one.y = joined[i]));
    const yrange = padded(rangeOf(all.flatMap((run) => run.lines[kind][height])));
    const where = (alpha) => (alpha === undefined ? "" : `at ${number(alpha, 3)}`);
    drawChart({ x, series, xlabel: "position on the line", ylabel: HEIGHTS.find(([key]) => key === height)[1], where, yrange });
  };
  choices($("path"), kinds.map((kind) => [kind, PATHS[kind] ?? words(kind)]), show);
  choices($("height"), HEIGHTS, show);
  drawings.push(show);
}

function average(values) {
  const found = known(values);
  return found.length ? mean(found) : null;
}

function padded([low, high]) {
  const margin = (high - low) * 0.06 || 0.01;
  return [low - margin, high + margin];
}

function startPlanes() {
  const show = () => {
    const run = DATA.runs[$("plane-run").value];
    const several = new Set(run.planes.map((plane) => plane.round)).size > 1;
    const last = !$("plane").options.length;
    choices($("plane"), run.planes.map((p, i) => [i, p.name + (several ? `, round ${p.round}` : "")]), show);
    if (last) $("plane").selectedIndex = run.planes.length - 1;
    drawPlane($("plane-map"), run.planes[$("plane").value], $("plane-height").value);
  };
  runChoices($("plane-run"), (run) => run.planes.length, show);
  choices($("plane-height"), HEIGHTS, show);
  drawings.push(show);
}

function drawPlane(box, plane, height) {
  const spans = [plane.x, plane.y].map((ticks) => [ticks[0], ticks[ticks.length - 1]]);
  const shape = (spans[1][1] - spans[1][0]) / (spans[0][1] - spans[0][0]);
  const wide = Math.min(widthOf(box), 520, 440 / shape);
  const values = plane[height];
  const label = `Map of ${height} in ${plane.name}`;
  const { canvas, context, bar, said, width } = frame(box, wide * shape, label);
  const left = (width - wide) / 2;
  const range = rangeOf(values);
  const step = STEP[height] ?? (range[1] - range[0]) / 16;
  const at = (x, y) => bilinear(values, x * (plane.x.length - 1), (1 - y) * (plane.y.length - 1));
  const pixels = new ImageData(Math.round(wide), Math.round(wide * shape));
  for (let i = 0; i < pixels.width * pixels.height; i++) {
    const value = at((i % pixels.width) / pixels.width, Math.floor(i / pixels.width) / pixels.height);
    const level = (Math.floor(value / step + 1e-9) + 0.5) * step;
    const rgba = value === null ? [0, 0, 0, 0] : [...viridis((level - range[0]) / (range[1] - range[0])), 255];
    pixels.data.set(rgba, 4 * i);
  }
  const picture = make("canvas", { width: pixels.width, height: pixels.height });
  picture.getContext("2d").putImageData(pixels, 0, 0);
  context.drawImage(picture, left, 0, wide, wide * shape);
  colourBar(bar, range, HEIGHTS.find(([key]) => key === height)[1]);
  const to = (x, y) => [left + ((x - spans[0][0]) / (spans[0][1] - spans[0][0])) * wide, (1 - (y - spans[1][0]) / (spans[1][1] - spans[1][0])) * wide * shape];
  corners(context, plane.corners.map(([name, x, y]) => [name, ...to(x, y)]));
  canvas.onmousemove = (event) => {
    const value = at((event.offsetX - left) / wide, event.offsetY / (wide * shape));
    said.textContent = value === null ? "" : `${height} ${number(value)}`;
  };
}

function bilinear(values, x, y) {
  const [column, row] = [Math.floor(x), Math.floor(y)];
  if (!(row >= 0 && column >= 0 && row < values.length && column < values[0].length)) return null;
  const [right, above] = [Math.min(column + 1, values[0].length - 1), Math.min(row + 1, values.length - 1)];
  const four = [values[row][column], values[row][right], values[above][column], values[above][right]];
  if (four.includes(null)) return values[row][column];
  const [u, v] = [x - column, y - row];
  return (1 - v) * ((1 - u) * four[0] + u * four[1]) + v * ((1 - u) * four[2] + u * four[3]);
}

function corners(context, places) {
  const [first, second] = places;
  context.strokeStyle = "#fff";
  context.setLineDash([5, 4]);
  context.beginPath();
  if (second) [first, second].forEach(([, x, y]) => context.lineTo(x, y));
  context.stroke();
  context.setLineDash([]);
  context.textAlign = "center";
  for (const [name, x, y] of places) {
    context.beginPath();
    context.arc(x, y, 4.5, 0, 7);
    context.fillStyle = "#fff";
    context.fill();
    context.strokeStyle = "#000";
    context.stroke();
    const width = context.measureText(name).width + 8;
    context.fillStyle = "rgb(255 255 255 / 80%)";
    context.fillRect(x - width / 2, y - 25, width, 16);
    context.fillStyle = "#111";
    context.fillText(name, x, y - 17);
  }
}
