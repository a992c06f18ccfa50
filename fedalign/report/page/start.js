// Start all figures, sort tables, copy texts; draw anew when width, theme or medium changes.

/** Let a click on a heading sort its table, first upwards, then downwards. */
function sortable(table) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = make("button", { type: "button" }, ...heading.childNodes);
    heading.replaceChildren(button);
    button.onclick = () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const lines = [...table.tBodies[0].rows];
      lines.sort((a, b) => (down ? -1 : 1) * compare(a.cells[column].dataset.key, b.cells[column].dataset.key));
      table.tBodies[0].append(...lines);
    };
  });
}

function compare(a, b) {
  const [x, y] = [a, b].map((key) => (key === "" ? -Infinity : Number(key)));
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x === y ? 0 : x - y;
}

async function copy(button) {
  const near = button.parentElement;
  const text = (near.querySelector("code") ?? near.nextElementSibling).textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "copied";
  } catch {
    getSelection().selectAllChildren(near.querySelector("code") ?? near.nextElementSibling);
    button.textContent = "selected: press Ctrl+C";
  }
  setTimeout(() => (button.textContent = "copy"), 2500);
}

function forPrint(on) {
  printing = on;
  document.documentElement.classList.toggle("printing", on);
  draw();
}

const STARTS = { curves: startCurves, lines: startLines, planes: startPlanes, partition: startPartition, clients: startClients };
for (const [id, start] of Object.entries(STARTS)) if ($(id)) start();
document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("button.copy").forEach((button) => (button.onclick = () => copy(button)));
draw();

let width = document.documentElement.clientWidth;
addEventListener("resize", () => {
  if (width === document.documentElement.clientWidth || printing) return;
  width = document.documentElement.clientWidth;
  draw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
addEventListener("beforeprint", () => forPrint(true));
addEventListener("afterprint", () => forPrint(false));
document.documentElement.dataset.ready = Math.round(performance.now()); // ms after the page began to load
