// Who has which data, who took part, and how each client fared.

const TOOK_PART = "who took part";

function startPartition() {
  const box = $("partition-map");
  const show = () => {
    const { picture, ids, of, classes, counts } = DATA.runs[$("partition-run").value].partition;
    $("partition-note").textContent = picture ? "" : some(ids, of);
    if (picture) {
      box.replaceChildren(make("img", { src: picture, alt: "Bubbles: how many examples of each class each client has; below, each client's number of examples." }));
      return;
    }
    if (box.querySelector("img")) box.replaceChildren();
    const values = classes.map((_, c) => counts.map((own) => own[c] || null));
    heat(box, { down: classes, across: ids.map(String), values, title: "examples", downTitle: "class", acrossTitle: "client" });
  };
  runChoices($("partition-run"), (run) => run.partition, show);
  drawings.push(show);
}

function startClients() {
  const show = () => {
    const { ids, of, rounds, maps, outcomes, outcome } = DATA.runs[$("client-run").value].clients;
    const measures = [...Object.keys(maps), ...(outcome ? [TOOK_PART] : [])];
    choices($("client-measure"), measures.map((name) => [name, name]), show);
    const name = $("client-measure").value;
    const taking = name === TOOK_PART;
    const grid = taking ? outcome : maps[name];
    const order = ids.map((_, i) => i);
    const score = (i) => (taking ? known(grid[i]).length : average(grid[i]) ?? -Infinity);
    if ($("client-order").value === "value") order.sort((a, b) => score(b) - score(a));
    heat($("client-map"), {
      down: order.map((i) => String(ids[i])), across: rounds.map(String), values: order.map((i) => grid[i]),
      title: name, downTitle: "client", acrossTitle: "round", kinds: taking ? outcomes : null,
    });
    $("client-note").textContent = (taking ? participation(ids, grid, outcomes) : spreadOf(ids, rounds, grid, name)) + some(ids, of);
  };
  runChoices($("client-run"), (run) => run.clients, show);
  choices($("client-order"), [["number", "by number"], ["value", "highest first"]], show);
  drawings.push(show);
}

function some(ids, of) {
  return of > ids.length ? ` ${ids.length} of ${of} clients are shown, evenly spaced by number.` : "";
}

/** Say the least, the middle and the most in the last round in which clients were measured. */
function spreadOf(ids, rounds, grid, name) {
  const last = rounds.findLastIndex((_, c) => grid.some((row) => row[c] !== null));
  const values = ids.map((id, i) => [grid[i][last] ?? null, id]).filter(([value]) => value !== null);
  if (!values.length) return "";
  values.sort(([a], [b]) => a - b);
  const say = ([value, id]) => `${number(value, 3)} (client ${id})`;
  const middle = values[Math.floor((values.length - 1) / 2)];
  return `Round ${rounds[last]}, ${name}: lowest ${say(values[0])}, median ${number(middle[0], 3)}, highest ${say(values[values.length - 1])}. Empty cells: the client was not measured.`;
}

function participation(ids, grid, outcomes) {
  const times = grid.map((row) => known(row).length);
  const counts = outcomes.map((outcome, i) => `${outcome} ${grid.flat().filter((value) => value === i).length}`);
  const never = times.filter((count) => !count).length;
  return `A client was sampled in ${Math.min(...times)} to ${Math.max(...times)} of the rounds shown${never ? `; ${never} never` : ""}. Replies: ${counts.join(", ")}.`;
}
