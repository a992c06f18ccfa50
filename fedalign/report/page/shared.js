"use strict";
// What all figures of the page share: data, arms that are switched off, colours, redrawing.

const DATA = JSON.parse(document.getElementById("data").textContent);
const DASHES = [[], [8, 4], [2, 3], [8, 3, 2, 3], [14, 4]];
const COLOURS = 7; // --arm-0 to --arm-6 in page.css; further arms repeat them with the next dashes
const PRINT = { width: 660, scale: 2.5 }; // CSS pixels of a figure on paper; canvases are sharper
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif';

const hidden = new Set(); // arms that are switched off
const drawings = []; // functions that draw a figure anew
let printing = false;

const $ = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const scale = () => (printing ? PRINT.scale : 1);
const widthOf = (box) => (printing ? PRINT.width : Math.max(200, box.clientWidth)); // 0 in a hidden window
const runsOf = (arm) => DATA.runs.filter((run) => run.arm === arm);
const words = (name) => name.replaceAll("_", " ");

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function number(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const shown = Number(value.toPrecision(digits));
  return Math.abs(shown) >= 1e4 ? shown.toLocaleString("en") : String(shown);
}

function look(arm) {
  const dash = DASHES[Math.floor(arm / COLOURS) % DASHES.length];
  return { stroke: css(`--arm-${arm % COLOURS}`), dash: dash.map((length) => length * scale()) };
}

function draw() {
  for (const drawing of drawings) drawing();
}

/** Fill a list of choices, draw when one is chosen, and hide the list if it leaves no choice. */
function choices(select, options, changed) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  if (options.some(([value]) => String(value) === before)) select.value = before;
  select.closest("label").hidden = options.length < 2;
  select.onchange = changed;
}

function runChoices(select, part, changed) {
  const having = DATA.runs.map((run, i) => [i, run]).filter(([, run]) => part(run));
  const text = (run) => `${DATA.arms[run.arm]}, seed ${run.seed}`;
  choices(select, having.map(([i, run]) => [i, text(run)]), changed);
}

/** Make a slider over rounds, which is hidden if there is only one. */
function rounds(input, values, changed) {
  const atEnd = input.value === input.max; // also of a new slider
  input.max = String(Math.max(0, values.length - 1));
  if (atEnd) input.value = input.max;
  const say = () => {
    $(`${input.id}-value`).textContent = values[input.value];
    input.setAttribute("aria-valuetext", `round ${values[input.value]}`);
  };
  input.closest("label").hidden = values.length < 2;
  input.oninput = () => {
    say();
    changed();
  };
  say();
  return Number(input.value);
}

/** Make a button for each arm, which switches it on and off; returns what sets their values. */
function legend(box) {
  const place = make("span", { className: "at" });
  const values = DATA.arms.map(() => make("span", { className: "value" }));
  const buttons = DATA.arms.map((name, arm) => {
    const button = make("button", { type: "button" }, line(arm), name, values[arm]);
    button.onclick = () => {
      if (!hidden.delete(arm)) hidden.add(arm);
      draw();
    };
    return button;
  });
  const all = make("button", { type: "button", className: "all" }, "all or none");
  all.onclick = () => {
    if (hidden.size) hidden.clear();
    else DATA.arms.forEach((_, arm) => hidden.add(arm));
    draw();
  };
  box.replaceChildren(place, ...buttons, ...(DATA.arms.length > 3 ? [all] : []));
  return (where, numbers) => {
    place.textContent = where;
    buttons.forEach((button, arm) => {
      button.setAttribute("aria-pressed", String(!hidden.has(arm)));
      values[arm].textContent = hidden.has(arm) ? "" : number(numbers[arm]);
    });
  };
}

function line(arm) {
  const dash = DASHES[Math.floor(arm / COLOURS) % DASHES.length].join(" ");
  const swatch = make("span", { className: "swatch", "aria-hidden": "true" });
  swatch.innerHTML = `<svg width="22" height="8"><line x1="0" y1="4" x2="22" y2="4" stroke="var(--arm-${arm % COLOURS})" stroke-width="2.5" stroke-dasharray="${dash}"/></svg>`;
  return swatch;
}
