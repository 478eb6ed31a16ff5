// Scores: what the report says, all networks of all stores side by side, runs side by side.
import { analysedMeasure, ask, askIfThere, empty, fill, h, link, otherMeasure, prose, unlabelled, waiting, written } from "./parts.js";
import { nameOf, runsView } from "./runs.js";
import { wordsOf } from "./words.js";

const ABOVE = ["top", "since"], BELOW = ["scores", "distances", "networks", "over_time", "measures", "layers", "people", "explanations"];
const FIRST = ["sameness", "balanced_accuracy", "one_nn", "map_at_r", "accuracy", "knn_probe", "linear_probe"];

export const parameters = () => ({ runs: null });

export function view(place, { facts, go, source, doubt, about, life }) {
  const above = h("div"), below = h("div"), runs = runsView({ go, doubt, life });
  place.append(h("div", { class: "sections" }, above, runs.section, below));
  let sections = null, moved = false;
  if (!Object.keys(facts.classes).length) {
    above.append(h("h1", { class: "unseen" }, "Scores"), unlabelled(facts,
      "Scores say how much nearer images of one class are than images of different classes, so they need labels. The map and the neighbours work without.",
      h("p", {}, h("a", { class: "button", href: link("map", source) }, "See the map"))));
    sections = Promise.resolve({});
  } else if (facts.analysis_needs) {
    above.append(h("h1", { class: "unseen" }, "Scores"), Object.keys(facts.classes).length < 2
      ? empty("One class alone", "Scores say how much nearer images of one class are than images of different classes, so they need two classes.")
      : empty("Not analysed yet", `Scores need ${facts.analysis_needs}.`));
    sections = Promise.resolve({});
  } else sections = report({ above, below, facts, source, life });
  return async ({ runs: names }) => {
    about(names && names !== "none" ? `Runs ${names.split(",").filter(Boolean).map(nameOf).join(" and ")}` : "");
    const words = await sections;
    if (life.aborted) return;
    await runs.show(names, wordsOf(words));
    if (names === undefined || moved || life.aborted) return;
    // A link to runs leads there, once.
    moved = true;
    runs.section.scrollIntoView({ block: "start" });
  };
}

// The sections of the report around the runs; the words of its scores.
async function report({ above, below, facts, source, life }) {
  let words = {};
  await fill(above, life, async () => {
    const told = await ask("report", { features: source.features, measure: analysedMeasure(facts), section: [...ABOVE, ...BELOW] }, { signal: life });
    words = told.words;
    const beside = await sideBySide({ ...facts, measure: told.measure }, source, wordsOf(words), life);
    const html = (names) => names.filter((name) => told.sections[name]).map((name) => written(told.sections[name], life));
    below.replaceChildren(...html(BELOW));
    return [otherMeasure(told.measure, facts), ...html(ABOVE), beside];
  }, waiting(8, "Loading the scores"));
  return words;
}

async function sideBySide(facts, { measure }, words, life) {
  const analysed = facts.networks.filter((one) => one.analysed);
  if (analysed.length < 2) return null;
  const documents = await Promise.all(analysed.map((one) => askIfThere("scores", { store: one.store, features: one.key }, { signal: life })));
  const columns = analysed.map((one, i) => [one, documents[i]]).filter(([, document]) => document);
  const value = (document, score) => document.scores.find((row) => row.score === score && row.value !== null
    && [facts.measure, "network", "classifier"].includes(row.measure)) || (score === "accuracy" || score.endsWith("probe") ? document.scores.find((row) => row.score === score) : undefined);
  const rows = FIRST.map((score) => [score, columns.map(([, document]) => value(document, score))]).filter(([, cells]) => cells.some(Boolean));
  const section = h("section", {}, h("h2", {}, "Networks side by side"),
    h("p", { class: "lead" }, "Each network as it was analysed, with 95 % intervals.", facts.compare ? prose(` For paired differences on the same images, run \`${facts.compare}\`.`) : ""),
    h("div", { class: "tablebox" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Score"), columns.map(([one]) =>
      h("th", { class: "n", scope: "col" },
        h("a", { href: link("scores", { store: one.store, features: one.key, measure: one.measure === facts.measure ? measure : one.measure }), "aria-current": one.value === facts.key ? "true" : undefined }, one.title))))),
    h("tbody", {}, rows.map(([score, cells]) => h("tr", {}, h("td", { title: words.word(score).says }, words.word(score).label),
      cells.map((cell) => h("td", { class: "n" }, cell ? words.cell(score, cell.value, cell.low, cell.high) : "–"))))))));
  Shown.savable(section.querySelector("table"), "networks");
  return section;
}
