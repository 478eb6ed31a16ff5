// Scores: what the report says, and all networks of all stores side by side.
import { ask, askIfThere, distance, empty, fill, h, link, percent, waiting, written } from "./parts.js";

const ORDER = ["top", "since", "beside", "scores", "distances", "networks", "over_time", "measures", "layers", "people", "explanations"];
const SECTIONS = ORDER.filter((name) => name !== "beside");
const FIRST = ["sameness", "balanced_accuracy", "one_nn", "map_at_r", "accuracy", "knn_probe", "linear_probe"];

export function view(place, { facts, source, life }) {
  if (!Object.keys(facts.classes).length) {
    place.append(h("h1", { class: "unseen" }, "Scores"), empty("This set has no labels",
      "Scores say how much nearer images of one class are than images of different classes, so they need labels. The map and the neighbours work without.",
      h("p", {}, h("a", { class: "button", href: link("map", source) }, "See the map"))));
    return () => {};
  }
  const body = h("div", { class: "sections" });
  place.append(body);
  fill(body, life, async () => {
    const told = await ask("report", { features: source.features, section: SECTIONS }, { signal: life });
    const beside = await sideBySide(facts, source, told.words, life);
    const parts = { ...told.sections, beside };
    return ORDER.filter((name) => parts[name]).map((name) => (name === "beside" ? beside : written(parts[name], life)));
  }, waiting(8, "Loading the scores"));
  return () => {};
}

async function sideBySide(facts, { measure }, words, life) {
  const analysed = facts.networks.filter((one) => one.analysed);
  if (analysed.length < 2) return null;
  const documents = await Promise.all(analysed.map((one) => askIfThere("scores", { store: one.store, features: one.key }, { signal: life })));
  const columns = analysed.map((one, i) => [one, documents[i]]).filter(([, document]) => document);
  const value = (document, score) => document.scores.find((row) => row.score === score && row.value !== null
    && [facts.measure, "network", "classifier"].includes(row.measure)) || (score === "accuracy" || score.endsWith("probe") ? document.scores.find((row) => row.score === score) : undefined);
  const rows = FIRST.map((score) => [score, columns.map(([, document]) => value(document, score))]).filter(([, cells]) => cells.some(Boolean));
  const word = (score) => words[score] || { label: score.replaceAll("_", " "), says: "", form: "plain" };
  const number = (score, x) => ({ share: percent, plain: (y) => y.toFixed(3), distance })[word(score).form](x);
  const section = h("section", {}, h("h2", {}, "Networks side by side"),
    h("p", { class: "lead" }, "Each network as it was analysed, with 95 % intervals. For paired differences on the same images, run ", h("code", {}, "alike compare --all"), "."),
    h("div", { class: "tablebox" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Score"), columns.map(([one]) =>
      // The page opens on an index.
      h("th", { class: "n", scope: "col" }, one.measure
        ? h("a", { href: link("scores", { store: one.store, features: one.key, measure: one.measure === facts.measure ? measure : one.measure }), "aria-current": one.value === facts.key ? "true" : undefined }, one.title) : one.title)))),
    h("tbody", {}, rows.map(([score, cells]) => h("tr", {}, h("td", { title: word(score).says }, word(score).label), cells.map((cell) => h("td", { class: "n" }, cell ? [number(score, cell.value),
      cell.low === null ? "" : h("span", { class: "sub" }, `${number(score, cell.low)} to ${number(score, cell.high)}`)] : "–"))))))));
  Shown.savable(section.querySelector("table"), "networks");
  return section;
}
