"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const runs = data.runs;
const at = id => document.getElementById(id);
const PALETTE = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"]; // Okabe and Ito: told apart by the colour-blind
const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3]];
const looks = i => ({ colour: PALETTE[i % PALETTE.length], dash: DASHES[Math.floor(i / PALETTE.length) % DASHES.length] });
const state = { sort: null, up: true, drawn: new Set(), run: null, columns: [], page: 200 };

const el = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};
const known = pick => [...new Set(runs.flatMap(pick))].sort();
const summaries = known(r => Object.keys(r.summary));
const settings = data.varied.length ? data.varied : ["seed"];
const STAMP = /^(\d{4}-\d\d-\d\d)_(\d\d)-(\d\d)-(\d\d)\.\d+_/;
for (const r of runs) {
  r.label = r.name.replace(STAMP, "");
  r.began = (r.name.match(STAMP) ?? []).slice(1).join(" ").replace(/ (\d\d) (\d\d)$/, ":$1:$2");
}
const value = (run, column) => column === "status" || column === "began" ? run[column] : column in run.summary ? run.summary[column] : run.flat[column];
const show = v => typeof v === "number" ? (Number.isInteger(v) ? v.toLocaleString("en") : Number(v.toPrecision(4)).toString()) : v ?? "";
const compare = (a, b) => {
  if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
};
const best = column => {
  const numbers = runs.map(r => r.summary[column]).filter(v => v !== undefined);
  if (numbers.length < 2) return null;
  return data.lower.includes(column) ? numbers.reduce((a, b) => Math.min(a, b))
    : data.higher.includes(column) ? numbers.reduce((a, b) => Math.max(a, b)) : null;
};

/* table */
function visible() {
  const words = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean), status = at("status").value;
  const found = runs.filter(r => (status === "all" || r.status === status) && words.every(w => r.search.includes(w)));
  if (!state.sort) return found;
  const last = state.up ? 1 : -1;
  return found.sort((a, b) => {
    const x = value(a, state.sort), y = value(b, state.sort);
    return x === undefined || y === undefined ? compare(x, y) : last * compare(x, y);
  });
}
function table() {
  const chosen = settings.filter(s => s.endsWith(".name")), others = settings.filter(s => !chosen.includes(s));
  const columns = ["status", ...chosen, ...state.columns, ...others, "began"], stars = Object.fromEntries(columns.map(c => [c, best(c)]));
  const head = el("tr", {}, el("th", { className: "text", textContent: "run" }));
  for (const c of columns) {
    const arrow = state.sort === c ? (state.up ? " ▲" : " ▼") : "";
    const button = el("button", { type: "button", textContent: c + arrow, onclick: () => sortBy(c) });
    head.append(el("th", { className: text(c) ? "text" : "", ariaSort: state.sort === c ? (state.up ? "ascending" : "descending") : "none" }, button));
  }
  at("table").tHead.replaceChildren(head);
  const found = visible();
  at("table").tBodies[0].replaceChildren(...found.slice(0, state.page).map(r => row(r, columns, stars)));
  at("more").replaceChildren(`${found.length} of ${runs.length} runs`);
  if (found.length > state.page)
    at("more").append(`, the first ${state.page} shown `, el("button", { type: "button", textContent: "show all", onclick: () => { state.page = Infinity; table(); } }));
}
const text = column => runs.every(r => typeof value(r, column) !== "number");
function row(run, columns, stars) {
  const box = el("input", { type: "checkbox", checked: state.drawn.has(run), ariaLabel: `draw ${run.name}`, onchange: () => {
    box.checked ? state.drawn.add(run) : state.drawn.delete(run);
    curves();
  } });
  const name = el("button", { type: "button", textContent: run.label, title: run.name, onclick: () => choose(run) });
  const cells = columns.map(c => el("td", {
    className: (text(c) ? "text " : "") + (c === "status" ? `status-${run.status}` : ""),
    textContent: show(value(run, c)) + (stars[c] !== null && run.summary[c] === stars[c] ? " ★" : ""),
  }));
  return el("tr", { className: run === state.run ? "chosen" : "" }, el("td", { className: "text" }, box, " ", name), ...cells);
}
function sortBy(column) {
  const first = !data.higher.includes(column);
  state.up = state.sort === column ? !state.up : first;
  state.sort = column;
  table();
}

/* one run */
function choose(run) {
  state.run = run;
  state.drawn.add(run);
  table(); curves();
  const left = el("div"), names = Object.keys(run.images);
  if (names.length) {
    const which = el("select", { ariaLabel: "picture" }, ...names.map(n => el("option", { textContent: n })));
    const slide = el("input", { type: "range", min: 0, step: 1, ariaLabel: "training step" }), step = el("output"), image = el("img", { id: "picture" });
    const draw = () => {
      const [number, source] = run.images[which.value][slide.value];
      step.textContent = `step ${number.toLocaleString("en")}`;
      image.src = source; image.alt = `${which.value} at step ${number}`;
    };
    which.onchange = () => { slide.max = run.images[which.value].length - 1; slide.value = slide.max; draw(); };
    slide.oninput = draw;
    left.append(el("div", { className: "controls" }, el("label", {}, "Picture ", which), el("label", {}, slide, step)), image);
    which.onchange();
  } else left.append(el("p", { className: "hint", textContent: "No pictures." }));
  const right = el("div", {}, el("pre", { textContent: run.config || "no config" }));
  const lines = el("p", { className: "hint" }, `${run.status}${run.message ? ": " + run.message : ""} · `, el("a", { href: run.link, textContent: "directory" }),
    " · ", el("code", { textContent: `python scripts/evaluate.py run=${run.path}` }));
  const said = el("ul", { className: "hint" }, ...run.said.map(line => el("li", { textContent: line })));
  at("run").replaceChildren(el("h3", { textContent: run.name }, ), el("div", { style: "grid-column: 1 / -1" }, lines, said), left, right);
}

/* the chosen runs side by side */
function differing(chosen) {
  const keys = [...new Set(chosen.flatMap(r => Object.keys(r.flat)))];
  return keys.filter(k => !/^(logger|evaluation)\./.test(k) && new Set(chosen.map(r => String(r.flat[k]))).size > 1).sort();
}
const apart = (run, keys) => keys.filter(k => k !== "seed" && !k.endsWith(".name") && run.flat[k] !== undefined).slice(0, 3).map(k => `${k}=${show(run.flat[k])}`).join(" ");
function together() {
  const chosen = [...state.drawn];
  if (chosen.length < 2) return at("together").replaceChildren(el("p", { className: "hint", textContent: "Choose two or more runs by their boxes." }));
  const head = el("tr", {}, el("th", { className: "text", scope: "col", textContent: "" }), ...chosen.map(r => el("th", { className: "text", scope: "col", textContent: r.label, title: r.name })));
  const line = (name, of) => el("tr", {}, el("th", { className: "text", scope: "row", textContent: name }), ...chosen.map(r => el("td", { className: "text" }, of(r))));
  const known = state.columns.filter(c => chosen.some(r => r.summary[c] !== undefined));
  const rows = [...known.map(c => line(c, r => show(r.summary[c]))), ...differing(chosen).map(k => line(k, r => show(r.flat[k])))];
  const pictures = Object.keys(chosen[0].images).filter(n => chosen.some((r, i) => i && r.images[n]));
  for (const n of pictures)
    rows.push(line(n, r => r.images[n] ? el("img", { src: r.images[n].at(-1)[1], alt: `${n} of ${r.label} at step ${r.images[n].at(-1)[0]}` }) : ""));
  at("together").replaceChildren(el("div", { className: "scroll" }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows))));
}

/* charts */
const FENCE = 6; // interquartile ranges beyond the quartiles
function limits(values) {
  const v = [...values].sort((a, b) => a - b), q = p => v[Math.round(p * (v.length - 1))], reach = FENCE * (q(0.75) - q(0.25));
  const kept = reach ? v.filter(x => x >= q(0.25) - reach && x <= q(0.75) + reach) : v; // a diverged run must not flatten the others
  return [kept[0], kept.at(-1), v.length - kept.length];
}
const ticks = (low, high, n) => {
  const raw = (high - low) / n || 1, size = 10 ** Math.floor(Math.log10(raw)), step = size * [1, 2, 5, 10].find(m => m * size >= raw), out = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-9; t += step) out.push(Number(t.toPrecision(12)));
  return out;
};
function chart(canvas, series, { log = false, points = false, x = "", y = "", names = null }) {
  const ratio = window.devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight, g = canvas.getContext("2d");
  canvas.width = w * ratio; canvas.height = h * ratio; g.scale(ratio, ratio);
  const style = getComputedStyle(document.body), ink = style.color, line = style.getPropertyValue("--line"), box = { l: 62, r: 28, t: 12, b: 40 };
  g.font = "12px system-ui, sans-serif"; g.clearRect(0, 0, w, h);
  const put = v => log ? Math.log10(v) : v, good = series.map(s => ({ ...s, xy: s.xy.filter(([a, b]) => !log || b > 0) })), all = good.flatMap(s => s.xy);
  if (!all.length) { g.fillStyle = ink; g.fillText("nothing to draw: no chosen run has this metric", box.l, h / 2); return; }
  let [x0, x1] = all.reduce(([a, b], [u]) => [Math.min(a, u), Math.max(b, u)], [Infinity, -Infinity]);
  let [y0, y1, beyond] = limits(all.map(([, v]) => put(v)));
  canvas.ariaLabel = `${y} against ${x}: ` + good.filter(s => s.xy.length).map(s => `${s.name}, ${points ? s.xy.length + " runs" : "at the end " + show(s.xy.at(-1)[1])}`).join("; ");
  if (points) { const m = (x1 - x0) * 0.05 || 0.5; x0 -= m; x1 += m; }
  if (y0 === y1) { y0 -= 0.5; y1 += 0.5; }
  const X = v => box.l + (v - x0) / (x1 - x0 || 1) * (w - box.l - box.r), Y = v => h - box.b - (Math.min(Math.max(put(v), y0), y1) - y0) / (y1 - y0) * (h - box.t - box.b);
  g.strokeStyle = line; g.fillStyle = ink; g.textAlign = "right"; g.textBaseline = "middle";
  for (const t of ticks(y0, y1, 5)) {
    const py = h - box.b - (t - y0) / (y1 - y0) * (h - box.t - box.b);
    g.beginPath(); g.moveTo(box.l, py); g.lineTo(w - box.r, py); g.stroke();
    g.fillText(log ? Number((10 ** t).toPrecision(2)).toString() : show(t), box.l - 6, py);
  }
  g.textAlign = "center"; g.textBaseline = "top";
  const marks = names ? names.map((n, i) => [i, n]) : ticks(x0, x1, Math.max(2, Math.floor(w / 110))).map(t => [t, show(t)]);
  for (const [t, label] of marks) g.fillText(label, X(t), h - box.b + 6);
  g.fillText(x, (w + box.l) / 2, h - 16);
  g.save(); g.translate(4, h / 2 - 14); g.rotate(-Math.PI / 2); g.fillText(y, 0, 0); g.restore();
  if (beyond) { g.textAlign = "right"; g.fillText(`${beyond} value${beyond > 1 ? "s" : ""} beyond the axis, drawn at its edge`, w - box.r, box.t + 2); }
  for (const s of good) {
    g.setLineDash(s.dash); g.strokeStyle = g.fillStyle = s.colour; g.lineWidth = 1.6; g.beginPath();
    s.xy.forEach(([a, b], i) => { if (points) { g.moveTo(X(a) + 4, Y(b)); g.arc(X(a), Y(b), 4, 0, 7); } else i ? g.lineTo(X(a), Y(b)) : g.moveTo(X(a), Y(b)); });
    points ? g.fill() : g.stroke();
  }
  g.setLineDash([]);
}
const smoothed = (values, weight) => { let m = null; return values.map(v => m = m === null ? v : weight * m + (1 - weight) * v); };
function along(run, curve, axis) {
  if (axis === "step") return curve.step;
  const other = run.curves[axis];
  if (!other) return [];
  let i = 0;
  return curve.step.map(s => { while (i + 1 < other.step.length && other.step[i + 1] <= s) i++; return other.value[i]; });
}
const legend = (list, series) => list.replaceChildren(...series.map(({ colour, dash, name }) =>
  el("li", {}, Object.assign(el("i"), { style: `border-top: 3px ${["solid", "dashed", "dotted", "double"][DASHES.indexOf(dash)]} ${colour}` }), name)));
function curves() {
  const metric = at("metric").value, axis = at("against").value, weight = Number(at("smooth").value);
  at("smooth-value").textContent = weight;
  const keys = differing([...state.drawn]);
  const series = [...state.drawn].map((run, i) => {
    const curve = run.curves[metric], name = `${run.label} ${apart(run, keys)} · ${run.began}`;
    if (!curve) return { ...looks(i), name: `${name} (no values)`, xy: [] };
    const x = along(run, curve, axis), y = smoothed(curve.value, weight);
    return { ...looks(i), name, xy: x.map((v, k) => [v, y[k]]) };
  });
  chart(at("curves"), series, { log: at("log").checked, x: axis, y: metric });
  legend(at("legend"), series);
  together();
}
function scatter() {
  const key = at("setting").value, outcome = at("outcome").value, hue = at("hue").value;
  const usable = runs.filter(r => r.flat[key] !== undefined && r.summary[outcome] !== undefined);
  const numeric = usable.every(r => typeof r.flat[key] === "number"), names = numeric ? null : [...new Set(usable.map(r => String(r.flat[key])))].sort();
  const groups = [...new Set(usable.map(r => String(r.flat[hue] ?? "")))].sort();
  const series = groups.map((g, i) => ({
    ...looks(i),
    name: `${hue}=${show(g !== "" && isFinite(g) ? Number(g) : g)}`,
    xy: usable.filter(r => String(r.flat[hue] ?? "") === g).map(r => [numeric ? r.flat[key] : names.indexOf(String(r.flat[key])), r.summary[outcome]]),
  }));
  chart(at("scatter"), series, { log: at("outcome-log").checked, points: true, x: key, y: outcome, names });
  legend(at("hues"), series);
}

/* begin */
function fill(select, options, chosen) {
  select.replaceChildren(...options.map(o => el("option", { textContent: o, value: o, selected: o === chosen })));
}
for (const r of runs) r.search = [r.name, r.status, ...settings.map(k => `${k}=${r.flat[k]}`), r.message].join(" ").toLowerCase();
state.columns = data.shown.filter(c => summaries.includes(c));
const metrics = known(r => Object.keys(r.curves)), counts = known(r => [r.status]).map(s => `${runs.filter(r => r.status === s).length} ${s}`);
document.title = data.title;
at("title").textContent = data.title;
at("counts").textContent = runs.length ? `${runs.length} runs: ${counts.join(", ")}` : "No runs here.";
fill(at("status"), ["all", ...known(r => [r.status])], "all");
fill(at("column"), ["", ...summaries, ...known(r => Object.keys(r.flat)).filter(k => !settings.includes(k))], "");
fill(at("metric"), metrics, ["val/nll_gap", "val/mmd2", "loss"].find(m => metrics.includes(m)));
fill(at("setting"), settings, settings[0]);
fill(at("outcome"), summaries, state.columns[0]);
fill(at("hue"), settings, settings.find(s => s.startsWith("objective")) ?? settings[0]);
at("filter").oninput = at("status").onchange = table;
at("column").onchange = () => { if (at("column").value) state.columns.push(at("column").value); at("column").value = ""; table(); };
at("clear").onclick = () => { state.drawn.clear(); table(); curves(); };
for (const id of ["metric", "against", "smooth", "log"]) at(id).oninput = curves;
for (const id of ["setting", "outcome", "hue", "outcome-log"]) at(id).oninput = scatter;
const order = state.columns.find(c => data.lower.includes(c) || data.higher.includes(c));
if (order) sortBy(order); else table();
visible().slice(0, 5).forEach(r => state.drawn.add(r));
table(); curves(); scatter();
at("searches").hidden = !data.searches.length;
at("searches").append(...data.searches.map(s => el("figure", {}, el("figcaption", { textContent: s.name }), ...s.images.map(([name, source]) => el("img", { src: source, alt: `${name} of the search ${s.name}` })))));
window.onresize = () => { curves(); scatter(); };
matchMedia("(prefers-color-scheme: dark)").onchange = () => { curves(); scatter(); };
