// Maps: a cell a number, coloured by viridis, read by hovering or with the arrow keys.

const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"]
  .map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
const KINDS = ["--arm-0", "--arm-1", "--arm-3", "--arm-4", "--arm-2", "--arm-5", "--arm-6"];

function viridis(share) {
  const place = Math.min(1, Math.max(0, share)) * (VIRIDIS.length - 1);
  const low = Math.min(VIRIDIS.length - 2, Math.floor(place));
  return VIRIDIS[low].map((value, i) => Math.round(value + (place - low) * (VIRIDIS[low + 1][i] - value)));
}

/** Return [lowest, highest] of a grid; [0, 1] if it is empty, and never an empty range. */
function rangeOf(grid) {
  const values = known(grid.flat());
  if (!values.length) return [0, 1];
  const [low, high] = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  return low === high ? [low, low + 1e-9] : [low, high];
}

/** Return canvas, context and what says a value, in a box; the canvas has this height and label. */
function frame(box, height, label) {
  if (!box.firstChild) {
    const canvas = make("canvas", { tabIndex: 0, role: "img" });
    box.append(canvas, make("div", { className: "scale" }), make("output", { className: "read" }));
  }
  const [canvas, bar, said] = box.children;
  const width = widthOf(box);
  const by = Math.max(scale(), window.devicePixelRatio || 1);
  canvas.width = width * by;
  canvas.height = height * by;
  canvas.style.height = `${height}px`;
  canvas.setAttribute("aria-label", label);
  said.textContent = "";
  const context = canvas.getContext("2d");
  context.scale(by, by);
  context.font = `11.5px ${FONT}`;
  context.textBaseline = "middle";
  return { canvas, context, bar, said, width, height };
}

function colourBar(bar, [low, high], title) {
  const stops = VIRIDIS.map((rgb) => `rgb(${rgb})`).join(",");
  const strip = make("span", { className: "strip" });
  strip.style.background = `linear-gradient(90deg, ${stops})`;
  bar.replaceChildren(title, make("span", { className: "ends" }, number(low, 3), strip, number(high, 3)));
}

function kindsBar(bar, kinds) {
  bar.replaceChildren(...kinds.flatMap((kind, i) => {
    const swatch = make("span", { className: "square" });
    swatch.style.background = `var(${KINDS[i % KINDS.length]})`;
    return [swatch, `${kind} `];
  }));
}

/**
 * Draw a map of {down, across, values, title, downTitle, acrossTitle, kinds}: `values` is a list of
 * rows; with `kinds` they are places in that list of words.
 */
function heat(box, spec) {
  const rows = spec.down.length;
  const height = Math.min(520, Math.max(150, rows * 20)) + 46;
  const { canvas, context, bar, said, width } = frame(box, height, `${spec.title}: ${spec.downTitle} by ${spec.acrossTitle}. Arrow keys read values.`);
  const left = 26 + Math.max(...spec.down.map((name) => context.measureText(name).width));
  const cell = [(width - left - 12) / spec.across.length, (height - 46) / rows];
  const gap = Math.min(...cell) > 7 ? 1 : 0;
  const range = rangeOf(spec.values);
  if (spec.kinds) kindsBar(bar, spec.kinds);
  else colourBar(bar, range, spec.title);
  const colour = (value) => (spec.kinds ? css(KINDS[value % KINDS.length]) : `rgb(${viridis((value - range[0]) / (range[1] - range[0]))})`);
  spec.values.forEach((row, r) => row.forEach((value, c) => {
    context.fillStyle = value === null ? css("--empty") : colour(value);
    context.fillRect(left + c * cell[0], r * cell[1], cell[0] - gap, cell[1] - gap);
  }));
  axes(context, spec, left, cell, height);
  reading(canvas, said, spec, left, cell);
}

function axes(context, spec, left, cell, height) {
  context.fillStyle = css("--soft");
  context.textAlign = "right";
  const skip = Math.ceil(14 / cell[1]);
  spec.down.forEach((name, r) => r % skip || context.fillText(name, left - 6, (r + 0.5) * cell[1]));
  context.textAlign = "center";
  const wide = Math.max(...spec.across.map((name) => context.measureText(name).width)) + 10;
  const every = Math.ceil(wide / cell[0]);
  spec.across.forEach((name, c) => c % every || context.fillText(name, left + (c + 0.5) * cell[0], height - 34));
  context.font = `12px ${FONT}`;
  context.fillText(spec.acrossTitle, left + (spec.across.length * cell[0]) / 2, height - 12);
  context.save();
  context.translate(8, (spec.down.length * cell[1]) / 2);
  context.rotate(-Math.PI / 2);
  context.fillText(spec.downTitle, 0, 0);
  context.restore();
}

function reading(canvas, said, spec, left, cell) {
  let [row, column] = [0, -1];
  const say = () => {
    const value = spec.values[row][column];
    const text = value === null ? "–" : spec.kinds ? spec.kinds[value] : number(value);
    said.textContent = `${spec.downTitle} ${spec.down[row]}, ${spec.acrossTitle} ${spec.across[column]}: ${text}`;
  };
  const inside = () => row in spec.values && column in spec.values[row];
  canvas.onmousemove = (event) => {
    [row, column] = [Math.floor(event.offsetY / cell[1]), Math.floor((event.offsetX - left) / cell[0])];
    if (inside()) say();
    else said.textContent = "";
  };
  canvas.onkeydown = (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    row = Math.min(spec.down.length - 1, Math.max(0, row + step[0]));
    column = Math.min(spec.across.length - 1, Math.max(0, column + step[1]));
    say();
    event.preventDefault();
  };
}
