// The page of nc_jax.plotting.explore: draws what its form says, and puts it into the address.
//
// The form is the state of the page. `draw` reads it; nothing else remembers what is chosen.

const form = document.getElementById("controls");

// Plotly's other buttons send the data to its server, or are of no use here.
const CONFIGURATION = {
  responsive: true, displaylogo: false, toImageButtonOptions: { format: "svg" },
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "autoScale2d"]],
};

// ---- Drawing ------------------------------------------------------------------------------------

/** A text in which Plotly finds no HTML: it would read a name in angle brackets as a tag. */
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** The traces of a group in Plotly's form. */
function traces(group, x) {
  const setting = plain(labelOf(group.place, group.dims));
  const count = group.curves.filter((curve) => curve.kind === "line").length;
  const width = count === 1 ? 2 : count <= 10 ? 1.5 : 1;
  return group.curves.map((curve) => {
    const trace = {
      type: "scatter", mode: "lines", x: x.values, y: x.shown.map((i) => curve.y[i]), customdata: x.texts,
      line: { color: group.colour, dash: group.dash, width }, opacity: count > 10 ? 0.6 : 1,
      hovertemplate: [
        `<b>${plain(group.variable.name)}</b> = %{y:.6~g}`, `${data.axis.dim} %{customdata}`, plain(curve.run), setting,
      ].filter(Boolean).join("<br>") + "<extra></extra>",
    };
    if (x.shown.length === 1) trace.mode = "markers";
    if (curve.kind === "line") return trace;
    // The band: an invisible line at its lower edge, and one at its upper edge filled down to it.
    return {
      ...trace, line: { width: 0 }, hoverinfo: "skip", hovertemplate: undefined,
      ...(curve.kind === "high" ? { fill: "tonexty", fillcolor: `${group.colour}33` } : {}),
    };
  });
}

/** The least value above 0 and the largest, and how many are 0 or below. */
function range(groups) {
  const found = { least: Infinity, most: -Infinity, negative: false, notPositive: 0 };
  for (const group of groups) for (const { y } of group.curves) for (const value of y) {
    if (Number.isNaN(value)) continue;
    if (value > 0) found.least = Math.min(found.least, value);
    else found.notPositive += 1;
    found.negative ||= value < 0;
    found.most = Math.max(found.most, value);
  }
  return found;
}

/** Settings of the vertical axis; `auto` is logarithmic where values differ by more than 30. */
function valueAxis(scale, { least, most, negative }) {
  if (scale === "linear" || (scale === "auto" && (negative || !(most > 30 * least)))) {
    return { type: "linear", exponentformat: "power" };
  }
  const decades = Math.log10(most / least);
  // Labels at powers of ten, and at 2 and 5 between them where there are few powers.
  const dtick = decades < 2 ? { dtick: "D2" } : decades < 8 ? { dtick: 1 } : {};
  return { type: "log", exponentformat: "power", ...dtick };
}

/** Plotly's layout, in the colours of the page. */
function layout(x, yAxis, yTitle) {
  const { color, fontFamily } = getComputedStyle(document.body);
  const line = getComputedStyle(form.querySelector("fieldset")).borderTopColor;
  const axis = { gridcolor: line, zeroline: false, linecolor: line, automargin: true };
  return {
    font: { color, family: fontFamily, size: 13 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 64, r: 12, t: 12, b: 48 }, showlegend: false, hovermode: "closest",
    modebar: { bgcolor: "rgba(0,0,0,0)", color, activecolor: color },
    xaxis: { ...axis, title: { text: `${data.axis.label} [1]` }, ...x.axis },
    yaxis: { ...axis, title: { text: yTitle, standoff: 10 }, ...yAxis },
  };
}

/** The saves that a scale can show: their indices, positions and texts, and Plotly's settings. */
function horizontal(name) {
  const scale = SCALES[name], all = Array.from(recorded, (_, i) => scale.at(i));
  const shown = all.flatMap((x, i) => (scale.shown(x) ? [i] : []));
  const values = shown.map((i) => all[i]);
  const ticks = name === "loglog" ? logLogTicks(values) : {};
  return { shown, values, texts: shown.map(axisText), axis: { ...scale.axis, ...ticks } };
}

/** Draw the panels, one for each observable or one for all; return what has no place on the axes. */
function drawPanels(state, drawn) {
  const x = horizontal(state.x), panels = document.getElementById("panels");
  const perPanel = state.layout === "overlay" ? [state.variables] : state.variables.map((v) => [v]);
  panels.querySelectorAll(".plot").forEach((plot) => Plotly.purge(plot));
  // All panels are in the page before the first is drawn, so that each has its final width.
  panels.replaceChildren(...perPanel.map((variables) => element(
    "figure", {},
    ...variables.map(({ name, meaning }) => element(
      "figcaption", {}, element("strong", {}, name), meaning ? `: ${meaning}` : "",
    )),
    element("div", { className: "plot" }),
  )));
  let notPositive = 0;
  perPanel.forEach((variables, i) => {
    const groups = drawn.groups.filter((group) => variables.includes(group.variable));
    const found = range(groups), yAxis = valueAxis(state.scale, found);
    if (yAxis.type === "log") notPositive += found.notPositive;
    const title = variables.length > 1 ? "value" : variables[0].name;
    const units = Array.from(new Set(variables.map(({ unit }) => unit))).join(", ");
    Plotly.newPlot(
      panels.children[i].querySelector(".plot"),
      groups.flatMap((group) => traces(group, x)), layout(x, yAxis, plain(`${title} [${units}]`)), CONFIGURATION,
    );
  });
  return { saves: recorded.length - x.shown.length, notPositive };
}

/** A sentence for each thing that is not drawn. */
function drawNotes(state, drawn, missing) {
  const notes = [], count = data.runs?.labels.length ?? 1;
  if (state.runs === "band" && count > 1) notes.push("Line: median of the runs. Band: 10th to 90th percentile.");
  if (state.runs === "lines" && count > drawn.most) {
    notes.push(`Of ${count} runs every ${Math.ceil(count / drawn.most)}th is drawn.`);
  }
  if (drawn.shown < drawn.settings) notes.push(`The first ${drawn.shown} of ${drawn.settings} settings are drawn.`);
  if (missing.saves) notes.push(`Not on this axis of ${data.axis.dim}: ${missing.saves} of ${recorded.length} saves.`);
  if (missing.notPositive) notes.push(`Not on a logarithmic axis: values of 0 or below (${missing.notPositive}).`);
  document.getElementById("notes").textContent = notes.join(" ");
}

function drawLegend(state, drawn) {
  const entries = new Map();
  for (const group of drawn.groups) {
    const parts = [labelOf(group.place, group.dims)];
    if (state.layout === "overlay") parts.unshift(group.variable.name);
    const text = parts.filter(Boolean).join(", ");
    if (text && !entries.has(text)) entries.set(text, group);
  }
  const dashes = { solid: "", dash: "8 4", dot: "2 3", dashdot: "8 3 2 3", longdash: "12 4", longdashdot: "12 3 2 3" };
  document.getElementById("legend").replaceChildren(...Array.from(entries, ([text, group]) => {
    const item = element("li");
    item.innerHTML = `<svg width="32" height="8" aria-hidden="true"><path d="M0 4H32" stroke="${group.colour}"
      stroke-width="2.5" stroke-dasharray="${dashes[group.dash]}"/></svg>`;
    item.append(text);
    return item;
  }));
}

/** The table of the last values: of one run, or percentiles of all runs. */
function drawLast(state, drawn) {
  const last = recorded.length - 1;
  document.getElementById("last-title").textContent = `Last values, at ${data.axis.label} ${axisText(last)}`;
  const found = drawn.groups.map(({ variable, place }) => {
    const all = rows(variable, place);
    return state.runs === "one" && all.length > 1 ? [all[state.run][last]] : all.map((row) => row[last]);
  });
  const several = found.some((values) => values.length > 1);
  const columns = several ? ["runs", "median", "10th percentile", "90th percentile"] : ["value"];
  const heads = ["observable", ...drawn.used.map((dim) => dim.name), ...columns];
  const body = drawn.groups.map(({ variable, place }, i) => {
    const settings = drawn.used.map((dim) => (dim.name in place ? dim.labels[place[dim.name]] : ""));
    const known = Float64Array.from(found[i]).filter((value) => !Number.isNaN(value)).sort();
    const numbers = [0.5, 0.1, 0.9].map((share) => (known.length ? short(percentile(known, share)) : "NaN"));
    const count = known.length === found[i].length ? `${known.length}` : `${known.length} of ${found[i].length}`;
    return element(
      "tr", {}, element("th", { scope: "row" }, variable.name),
      ...[...settings, ...(several ? [count, ...numbers] : [numbers[0]])].map((text) => element("td", { className: "number" }, text)),
    );
  });
  document.getElementById("last").replaceChildren(
    element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)))),
    element("tbody", {}, ...body),
  );
}

/** The drawn curves as lines of CSV, with every digit of the data. */
function csv(drawn) {
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const number = (value) => (Number.isFinite(value) ? String(value) : Number.isNaN(value) ? "" : value < 0 ? "-inf" : "inf");
  const names = drawn.used.map((dim) => dim.name), axes = isTime ? ["log_time", "time"] : [data.axis.dim];
  const lines = [["observable", ...names, "run", ...axes, "value"]];
  for (const { variable, place, curves } of drawn.groups) {
    const settings = drawn.used.map((dim) => (dim.name in place ? dim.labels[place[dim.name]] : ""));
    for (const { run, y } of curves) {
      recorded.forEach((value, i) => {
        const x = isTime ? [number(value), number(axisValues[i])] : [number(value)];
        lines.push([variable.name, ...settings, run, ...x, number(y[i])]);
      });
    }
  }
  return lines.map((line) => line.map(quoted).join(",")).join("\n") + "\n";
}

// ---- The form and the address -------------------------------------------------------------------

/** An element of the page; texts are never read as HTML. */
function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

/** A list with a label; `options` are [value, text]. */
function choice(name, text, options) {
  const select = element("select", { name }, ...options.map(([value, shown]) => element("option", { value }, shown)));
  return element("label", {}, text, select);
}

function buildForm() {
  const boxes = data.variables.map(({ name }) => {
    const box = element("input", { type: "checkbox", name: "y", value: name });
    return element("label", {}, box, ` ${name}`);
  });
  document.getElementById("observables").append(...boxes);
  const find = document.getElementById("find");
  find.hidden = data.variables.length < 8;
  find.addEventListener("input", (event) => {
    event.stopPropagation(); // the curves stay
    const words = event.target.value.toLowerCase().split(/\s+/);
    data.variables.forEach(({ name, meaning }, i) => {
      const text = `${name} ${meaning}`.toLowerCase();
      boxes[i].hidden = !words.every((word) => text.includes(word));
    });
  });
  const settings = document.getElementById("settings"), seeds = document.getElementById("seeds");
  settings.hidden = data.dimensions.length === 0;
  for (const { name, labels } of data.dimensions) {
    const each = labels.length > 1 ? [[EACH, "each in its colour"]] : [];
    settings.append(choice(`at.${name}`, name, [...each, ...labels.map((label) => [label, label])]));
  }
  seeds.hidden = (data.runs?.labels.length ?? 1) < 2;
  if (data.runs) {
    seeds.append(
      choice("runs", "Curves", [
        ["band", "median and band (10 to 90 %)"], ["lines", "all runs as lines"], ["one", "one run"],
      ]),
      choice("run", `The one run: ${data.runs.name}`, data.runs.labels.map((label) => [label, label])),
    );
  }
  const scales = Object.entries(SCALES).filter(([name]) => isTime || name !== "loglog");
  document.getElementById("axes").append(
    choice("x", `${data.axis.label} (horizontal)`, scales.map(([name, scale]) => [name, scale.label])),
    choice("scale", "values (vertical)", [["auto", "by their range"], ["linear", "linear"], ["log", "logarithmic"]]),
    choice("layout", "several observables", [["panels", "a panel each"], ["overlay", "in one panel"]]),
  );
}

/** The choices with which the page opens. */
function defaults() {
  const chosen = new URLSearchParams();
  data.variables.slice(0, 2).forEach(({ name }) => chosen.append("y", name));
  // The first dim with a few entries is compared, one colour each; of all others the first entry.
  const compared = data.dimensions.find(({ labels }) => labels.length > 1 && labels.length <= COLOURS.length);
  data.dimensions.forEach((dim) => chosen.set(`at.${dim.name}`, dim === compared ? EACH : dim.labels[0]));
  chosen.set("runs", (data.runs?.labels.length ?? 1) > 12 ? "band" : "lines");
  chosen.set("x", data.axis.scale);
  return chosen;
}

/** Set the form from the address; what it does not name, or names wrongly, has its default. */
function applyAddress() {
  const address = new URLSearchParams(location.hash.slice(1)), start = defaults();
  const known = new Set(data.variables.map(({ name }) => name));
  const named = address.getAll("y").filter((name) => known.has(name));
  const names = named.length ? named : start.getAll("y");
  for (const control of form.elements) {
    if (control.type === "checkbox") control.checked = names.includes(control.value);
    else if (control.name) {
      const offered = Array.from(control.options ?? [], (option) => option.value);
      const wanted = [address.get(control.name), start.get(control.name), offered[0]];
      control.value = wanted.find((value) => offered.includes(value));
    }
  }
}

/** What is chosen, from the form. */
function readState() {
  const values = new FormData(form), names = values.getAll("y");
  const indexOf = (labels, label) => Math.max(0, labels.indexOf(label));
  const chosen = {};
  for (const { name, labels } of data.dimensions) {
    const value = values.get(`at.${name}`);
    chosen[name] = value === EACH ? EACH : indexOf(labels, value);
  }
  return {
    variables: data.variables.filter(({ name }) => names.includes(name)),
    chosen,
    runs: values.get("runs") ?? "lines",
    run: indexOf(data.runs?.labels ?? [], values.get("run")),
    x: values.get("x"), scale: values.get("scale"), layout: values.get("layout"),
  };
}

let drawn;

function draw() {
  const state = readState();
  const one = form.elements.run;
  if (one) one.closest("label").hidden = state.runs !== "one";
  form.elements.layout.closest("label").hidden = state.variables.length < 2;
  if (state.variables.length === 0) {
    document.getElementById("notes").textContent = "Choose an observable.";
    for (const id of ["panels", "legend", "last"]) document.getElementById(id).replaceChildren();
    drawn = { groups: [], used: [] };
    return;
  }
  drawn = drawnGroups(state);
  drawNotes(state, drawn, drawPanels(state, drawn));
  drawLegend(state, drawn);
  drawLast(state, drawn);
}

/** Put the choices into the address; a frame of a notebook has none, and refuses. */
function writeAddress() {
  try {
    history.replaceState(null, "", `#${new URLSearchParams(new FormData(form))}`);
  } catch { /* the page works without */ }
}

buildForm();
applyAddress();
draw();
document.getElementById("outcome").textContent = data.outcome;
const firstChosen = form.querySelector("#observables input:checked");
document.getElementById("observables").scrollTop = firstChosen.offsetTop - firstChosen.closest("div").offsetTop;
// On a telephone the curves come first, and the choices open by a tap.
document.getElementById("choices").open = matchMedia("(min-width: 56rem)").matches;
document.getElementById("left-out").textContent = data.left_out.length
  ? `Variables that are not on this page: ${data.left_out.join(", ")}.` : "";
form.addEventListener("change", () => { draw(); writeAddress(); });
form.addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", () => { applyAddress(); draw(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
document.getElementById("download").addEventListener("click", () => {
  const address = URL.createObjectURL(new Blob([csv(drawn)], { type: "text/csv" }));
  element("a", { href: address, download: "drawn.csv" }).click();
  URL.revokeObjectURL(address);
});
