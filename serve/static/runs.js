// Runs side by side: what `alike runs diff` says of two runs or more. The address names them.
import { ask, count, empty, fill, h, prose, say, waiting } from "./parts.js";

const MOST = 12; // runs of one comparison, as in the API
const FAULTS = 5; // damaged records that are named
const FIRST = ["sameness", "balanced_accuracy", "one_nn", "map_at_r", "accuracy", "knn_probe", "linear_probe"];
const OF_ALL = ["network", "classifier", ""]; // in place of a measure: scores of the network itself
const LONG = /^[0-9a-f]{32,}$/;

export function runsView({ go, doubt, life }) {
  const list = h("div"), body = h("div", { class: "beside-runs" });
  const section = h("section", { id: "runs", "aria-labelledby": "runs-title" }, h("h2", { id: "runs-title" }, "Runs side by side"), list, body);
  let runs = null, shown = null, listed = "";

  // Ids of the runs that an address names, oldest first; names that the history has not are left for the server to refuse.
  function chosen(names) {
    if (names === undefined) return usual(runs);
    const ids = names.split(",").filter(Boolean).map((name) => (fitting(name).length === 1 ? fitting(name)[0].run : name));
    return [...new Set(ids)].sort();
  }

  function fitting(name) {
    return name === "last" ? runs.slice(-1) : runs.filter((one) => one.run.startsWith(name) || one.run.endsWith(name));
  }

  // Why names of an address are not two runs.
  function tooFew(names, ids) {
    if (names === "none" || !ids.length) return "";
    const n = fitting(ids[0]).length;
    if (n !== 1) return n ? `${count(n)} runs match ${ids[0]}` : `no run is named ${ids[0]}`;
    // One box may be marked while the next is not yet.
    return names.includes(",") ? `it names one run, ${ids[0]}` : "";
  }

  function choose() {
    const now = [...list.querySelectorAll("input:checked")].map((box) => box.value);
    go({ runs: now.sort().join(",") || "none" }, { replace: true });
  }

  async function show(names, words) {
    shown = { names, words };
    if (!runs) {
      await fill(list, life, async () => {
        const answer = await ask("runs", {}, { signal: life });
        runs = answer.runs;
        // When the list is there, also if that took a second try.
        setTimeout(() => show(shown.names, shown.words));
        return chooser(answer, choose);
      }, waiting(3, "Loading the runs"));
      return;
    }
    if (runs.length < 2) {
      doubt("runs", shown.names, shown.names === "none" ? "" : runs.length ? "this store has only one run" : "this store has no runs");
      return;
    }
    const ids = chosen(shown.names === "none" ? "" : shown.names);
    for (const box of list.querySelectorAll("input")) {
      box.checked = ids.includes(box.value);
      box.disabled = !box.checked && ids.length >= MOST;
    }
    if (ids.length < 2) doubt("runs", shown.names, tooFew(shown.names, ids));
    const wanted = ids.join();
    if (wanted === listed) return;
    listed = wanted;
    await fill(body, life, async () => {
      if (ids.length < 2) return empty("Choose two runs", "Mark two runs or more in the list. Their scores, images and settings then stand side by side.");
      const document = await ask("run-difference", { run: ids, everything: true }, { signal: life });
      say(`${ids.length} runs side by side`);
      return comparison(document, runs, shown.words);
    }, waiting(6, "Comparing the runs"));
    if (body.querySelector("[role=alert]")) {
      listed = "";
      body.querySelector("[role=alert]").append(" ", h("button", { type: "button", onclick: () => go({ runs: undefined }, { replace: true }) }, "Show the last two"));
    }
  }
  return { section, show };
}

// Without a choice: the reference and the last good run, or the last two good runs.
function usual(runs) {
  const good = runs.filter((one) => one.state !== "failed"), last = good.at(-1);
  const reference = good.find((one) => one.state === "reference");
  const pair = reference && reference !== last ? [reference, last] : good.length > 1 ? good.slice(-2) : runs.slice(-2);
  return pair.map((one) => one.run);
}

const when = (time) => time.slice(0, 16).replace("T", " ");
export const nameOf = (run) => run.slice(-6);

// The list of runs, newest first, with a box each.
function chooser({ runs, unchanged, faults }, choose) {
  const notes = [unchanged ? `Nothing had changed in ${count(unchanged.times)} ${unchanged.times === 1 ? "run" : "runs"} since ${nameOf(unchanged.since)}, the last at ${when(unchanged.last)}.` : "", ...faults.slice(0, FAULTS),
    faults.length > FAULTS ? `${count(faults.length - FAULTS)} more records were left out: /api/v1/runs names them.` : ""]
    .filter(Boolean).map((line) => h("p", { class: "soft small" }, prose(line)));
  if (!runs.length) return [h("p", { class: "lead" }, prose("No run is recorded in this store. `alike run pipeline.toml` records each that finds something changed.")), notes];
  if (runs.length === 1) return [h("p", { class: "lead" }, `One run so far, ${when(runs[0].time)}${runs[0].state === "failed" ? `: it failed (${runs[0].says})` : ""}. The next one that finds something changed will stand beside it.`), notes];
  const row = (one) => h("tr", {},
    h("td", {}, h("label", { class: "run" }, h("input", { type: "checkbox", value: one.run, onchange: choose }), " ", when(one.time),
      h("span", { class: "sub" }, nameOf(one.run), h("span", { class: `narrow ${one.state === "failed" ? "down" : ""}` }, one.state === "good" ? "" : ` · ${one.state}`)))),
    h("td", { class: `wide ${one.state === "failed" ? "down" : ""}` }, one.state), h("td", { class: "n" }, one.images === null ? "–" : count(one.images)),
    h("td", { class: "n" }, one.sameness === null ? "–" : one.sameness.toFixed(3)), h("td", { class: "wide says" }, one.says));
  const heads = [["Run", "t"], ["State", "wide"], ["Images", "n"], ["Sameness", "n"], ["What changed", "wide"]];
  return [h("p", { class: "lead" }, prose(`Mark two runs or more, at most ${MOST}. Each run is scored on its own images. Differences have no interval here. The same as \`alike runs diff\`.`)),
    h("div", { class: "tablebox runlist", tabindex: 0, role: "region", "aria-label": "Runs, the newest first" }, h("table", {},
      h("thead", {}, h("tr", {}, heads.map(([text, kind]) => h("th", { class: kind, scope: "col" }, text)))),
      h("tbody", {}, [...runs].reverse().map(row)))), notes];
}

// Everything that stands side by side.
function comparison(document, runs, words) {
  const labels = Object.keys(document.measures), several = labels.length > 1;
  const failed = document.runs.map((run, i) => [run, document.errors[i]]).filter(([, error]) => error)
    .map(([run, error]) => h("p", { class: "wrongline small" }, `${nameOf(run)} failed: ${error}`));
  const parts = labels.flatMap((label) => ofNetwork(label, document, words, several ? titleOf(label, document) : ""));
  return [failed, document.series ? h("p", { class: "soft" }, `${sentence(document.series)} They have no difference here.`) : "", parts,
    sides("Network", document.network, document, "network"),
    Object.entries(document.further).map(([label, values]) => sides(`Network: ${label}`, values, document, label)),
    sides("Settings", document.settings, document, "settings", "settings"), sides("Versions", document.versions, document, "versions", "versions")].flat(3);
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

function titleOf(label, { network }) {
  return label || `${[...network.name || []].reverse().find(Boolean) || "The first network"}`.split("/").pop();
}

// Scores and images of one network.
function ofNetwork(label, document, words, title) {
  const scores = document.scores.filter((row) => row.network === label), counts = document.counts.filter((row) => row.network === label);
  const measure = [...document.measures[label]].reverse().find(Boolean);
  const main = FIRST.flatMap((name) => scores.find((row) => row.score === name && [measure, ...OF_ALL].includes(row.measure)) || []);
  const cells = (row) => row.values.map((value, i) => words.cell(row.score, value, row.low[i], row.high[i]));
  const rows = (some, all) => some.map((row) => [[words.word(row.score).label, all ? row.measure : "", words.word(row.score).says], cells(row), words.change(row.score, row.difference)]);
  const name = title || "the network", heads = columns(document, label);
  return [title ? h("h3", { class: "of-network" }, title) : "",
    main.length ? beside("Score", heads, rows(main, false), `runs-scores${label && `-${label}`}`, `Scores of ${name}`) : h("p", { class: "soft" }, "None of these runs has scores."),
    scores.length > main.length ? h("details", {}, h("summary", {}, `All ${count(scores.length)} scores`),
      beside("Score", heads, rows(scores, true), `runs-all-scores${label && `-${label}`}`, `All scores of ${name}`)) : "",
    counts.length ? [h("h3", {}, "Images at every stage"), beside("Images", heads, counts.map((row) => [[row.count.replaceAll("_", " "), "", ""],
      row.values.map((value) => (value === null ? "–" : count(value))), row.difference === null ? "–" : row.difference > 0 ? `+${count(row.difference)}` : count(row.difference).replace("-", "\u2212")]),
    `runs-images${label && `-${label}`}`, `Images of ${name}`)] : ""];
}

// Headings of the runs: time, name, and whether its scores mean something else.
function columns({ runs, times, states, comparable }, label) {
  return runs.map((run, i) => [when(times[i]), [nameOf(run), states[i] === "failed" ? "failed" : "", label !== null && !comparable[label][i] && states[i] !== "failed" ? "not compared" : ""].filter(Boolean).join(" · ")]);
}

function beside(first, heads, rows, file, title) {
  const head = ([time, below]) => h("th", { class: "n", scope: "col" }, time, h("span", { class: "sub" }, below));
  return boxed(h("table", { class: "sides" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, first), heads.map(head), h("th", { class: "n", scope: "col" }, "Change", heads.length > 2 ? h("span", { class: "sub" }, "first to last") : ""))),
    h("tbody", {}, rows.map(([[text, below, says], cells, change]) => h("tr", {}, h("th", { scope: "row", title: says || undefined }, text, below ? h("span", { class: "sub" }, below) : ""),
      cells.map((cell) => h("td", { class: "n" }, cell)), h("td", { class: "n" }, change))))), file, title);
}

// Values of settings, versions or a network: those that differ, and folded all.
function sides(title, values, document, file, noun = "entries") {
  const names = Object.keys(values);
  if (!names.length) return [];
  // A run that failed early has recorded none of them.
  const there = document.runs.map((_, i) => names.some((name) => values[name][i] !== null));
  const differ = names.filter((name) => new Set(values[name].filter((_, i) => there[i]).map((one) => JSON.stringify(one))).size > 1);
  const table = (some, suffix) => boxed(h("table", { class: "sides text" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, title),
    columns(document, null).map(([time, below]) => h("th", { scope: "col" }, time, h("span", { class: "sub" }, below))))),
  h("tbody", {}, some.map((name) => h("tr", {}, h("th", { scope: "row" }, name.split(/(?<=\.)/).flatMap((part, i) => (i ? [h("wbr"), part] : part))), values[name].map((value) => h("td", { class: differ.includes(name) ? "differs" : "" }, plain(value))))))), `runs-${file}${suffix}`, suffix ? `${title}, all` : title);
  return [h("h3", {}, title), differ.length ? table(differ, "") : h("p", { class: "soft small" }, `The same in ${document.runs.length === 2 ? "both" : "all"}.`),
    names.length > differ.length ? h("details", {}, h("summary", {}, `All ${names.length} ${noun}`), table(names, "-all")) : ""];
}

function plain(value) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value === "string") return LONG.test(value) ? h("span", { title: value }, `${value.slice(0, 8)}…`) : value;
  if (Array.isArray(value)) return value.length ? value.map((one) => (typeof one === "string" ? one : JSON.stringify(one))).join(", ") : "none";
  return JSON.stringify(value);
}

function boxed(table, file, title) {
  const box = h("div", { class: "tablebox", tabindex: 0, role: "region", "aria-label": title }, table);
  const holder = h("div", { class: "sidebox" }, box);
  Shown.savable(table, file);
  return holder;
}
