// The data of the page of nc_jax.plotting.explore, and the curves at chosen settings. explore.js,
// which follows in the page, draws them.
//
// The numbers of each variable are one flat array, whose last axes are the runs and the recorded
// axis.

"use strict";

const data = JSON.parse(document.getElementById("data").textContent);

// Each colour has a contrast of 3 or more with the light and with the dark background, and differs
// from the others by 12 units of CIELAB or more, also to readers with deuteranopia or protanopia. The
// next line style follows after the last colour.
const COLOURS = ["#1f6fb4", "#d1651a", "#1b8a5a", "#b0508f", "#767676"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
// More settings, or lines, would be too many to tell apart, or to draw within a second.
const MOST_SETTINGS = 24, MOST_LINES = 300;
const EACH = "each";

// ---- Numbers ------------------------------------------------------------------------------------

/** Floats of 8 or 4 bytes from base64. */
function decoded({ type, values }) {
  // A loop, since `Uint8Array.from` with a function takes ten times as long for 32 MB.
  const text = atob(values), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return type === "<f4" ? new Float32Array(bytes.buffer) : new Float64Array(bytes.buffer);
}

/** Percentile of sorted numbers, linear between neighbours as in NumPy. */
function percentile(sorted, share) {
  const place = share * (sorted.length - 1), below = Math.floor(place);
  // Without this line 0 times an infinite neighbour would be NaN.
  if (place === below) return sorted[below];
  const above = below + 1;
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

/** Rows of the 10th, 50th and 90th percentile over runs; NaN, after the end of a run, is left out. */
function percentiles(rows) {
  const shares = [0.1, 0.5, 0.9], found = shares.map(() => new Float64Array(rows[0].length));
  for (let at = 0; at < rows[0].length; at++) {
    const sorted = Float64Array.from(rows, (row) => row[at]).filter((y) => !Number.isNaN(y)).sort();
    shares.forEach((share, i) => { found[i][at] = sorted.length ? percentile(sorted, share) : NaN; });
  }
  return found;
}

/** A number with five digits. */
function short(value) {
  const size = Math.abs(value), rounded = Number(value.toPrecision(5));
  return size > 0 && (size < 1e-3 || size >= 1e7) ? rounded.toExponential() : String(rounded);
}

// ---- The recorded axis --------------------------------------------------------------------------

const isTime = data.axis.dim === "time";
// log(1 + t) of a flow, since t may exceed the largest float; else numbers of steps or epochs.
const recorded = decoded(data.axis);
const axisValues = isTime ? recorded.map(Math.expm1) : recorded;
const LN10 = Math.log(10);

/** The value of a save as text, also where it overflows. */
function axisText(i) {
  return Number.isFinite(axisValues[i]) ? short(axisValues[i]) : `10^${short(recorded[i] / LN10)}`;
}

/** For each scale: positions on Plotly's axis, which positions it shows, and Plotly's settings. */
const SCALES = {
  linear: { label: "linear", at: (i) => axisValues[i], shown: Number.isFinite, axis: {} },
  // log10 t on a linear axis: Plotly's logarithmic axis ends at the largest float.
  log: {
    label: "logarithmic",
    at: (i) => (Number.isFinite(axisValues[i]) ? Math.log10(axisValues[i]) : recorded[i] / LN10),
    shown: Number.isFinite,
    axis: { tickprefix: "10<sup>", ticksuffix: "</sup>", exponentformat: "none" },
  },
  // log10(1 + t) on a logarithmic axis, from t = 1 on; 1e-6 includes a t just below 1.
  loglog: {
    label: "log log",
    at: (i) => recorded[i] / LN10,
    shown: (x) => x >= Math.log10(2) - 1e-6,
    axis: { type: "log" },
  },
};

/** Ticks of the log log axis at t = 10^1, 10^10, 10^100, or 10^2 and 10^5 too if it is short. */
function logLogTicks(positions) {
  const least = Math.min(...positions), most = Math.max(...positions);
  const factors = most / least > 200 ? [1] : [1, 2, 5];
  const tickvals = [0, 1, 2, 3, 4, 5].flatMap((power) => factors.map((factor) => factor * 10 ** power));
  return { tickvals, ticktext: tickvals.map((value) => `10<sup>${value}</sup>`) };
}

// ---- Curves -------------------------------------------------------------------------------------

/** Rows of a variable, one for each run, at the entries `place` of the other dims. */
function rows(variable, place) {
  variable.numbers ??= decoded(variable);
  const length = variable.shape.at(-1);
  const perSetting = variable.dims.includes(data.runs?.name) ? variable.shape.at(-2) : 1;
  let setting = 0;
  variable.dims.forEach((dim, axis) => {
    if (dim in place) setting = setting * variable.shape[axis] + place[dim];
  });
  return Array.from({ length: perSetting }, (_, run) => {
    const start = (setting * perSetting + run) * length;
    return variable.numbers.subarray(start, start + length);
  });
}

/** Every combination of the entries that are chosen along the dims, as {dim: index}. */
function places(dims, chosen) {
  return dims.reduce(
    (before, dim) => before.flatMap((place) => {
      const all = dim.labels.map((_, i) => i);
      const entries = chosen[dim.name] === EACH ? all : [chosen[dim.name]];
      return entries.map((i) => ({ ...place, [dim.name]: i }));
    }),
    [{}],
  );
}

const labelOf = (place, dims) => dims.map((d) => `${d.name} = ${d.labels[place[d.name]]}`).join(", ");

/** The curves of a variable at one setting: {run, kind, y}. */
function curves(variable, place, state, most) {
  const all = rows(variable, place), labels = data.runs?.labels ?? [""];
  const name = (run) => (data.runs ? `${data.runs.name} ${labels[run]}` : "");
  if (all.length === 1) return [{ run: name(0), kind: "line", y: all[0] }];
  if (state.runs === "one") {
    return [{ run: name(state.run), kind: "line", y: all[state.run] }];
  }
  if (state.runs === "lines") {
    const stride = Math.ceil(all.length / most);
    return all.map((y, run) => ({ run: name(run), kind: "line", y })).filter((_, i) => i % stride === 0);
  }
  const [low, middle, high] = percentiles(all);
  return [
    { run: "10th percentile", kind: "low", y: low },
    { run: "90th percentile", kind: "high", y: high },
    { run: "median", kind: "line", y: middle },
  ];
}

/** Everything that is drawn: groups of curves with their variable, place, colour and line style. */
function drawnGroups(state) {
  const used = data.dimensions.filter((dim) => state.variables.some((v) => v.dims.includes(dim.name)));
  const combinations = places(used, state.chosen);
  // In one panel the line style tells the observables apart, and the colour alone the settings.
  const shown = combinations.slice(0, state.layout === "overlay" ? COLOURS.length : MOST_SETTINGS);
  const most = Math.max(1, Math.floor(MOST_LINES / shown.length));
  const groups = [];
  state.variables.forEach((variable, v) => {
    const seen = new Set();
    shown.forEach((whole, c) => {
      const dims = used.filter((dim) => variable.dims.includes(dim.name));
      const place = Object.fromEntries(dims.map((dim) => [dim.name, whole[dim.name]]));
      // A variable without one of the dims has the same curve at all of its entries.
      const key = JSON.stringify(place);
      if (seen.has(key)) return;
      seen.add(key);
      const style = state.layout === "overlay" ? v : Math.floor(c / COLOURS.length);
      groups.push({
        variable, place, dims,
        colour: COLOURS[c % COLOURS.length],
        dash: DASHES[style % DASHES.length],
        curves: curves(variable, place, state, most),
      });
    });
  });
  return { groups, used, most, settings: combinations.length, shown: shown.length };
}
