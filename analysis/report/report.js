"use strict";
(() => {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const button = document.querySelector("button.theme");
  let choice = "auto";

  const theme = () => (choice === "auto" ? (dark.matches ? "dark" : "light") : choice);
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // Plotly draws with fixed colours; those of text, grid and hover boxes follow the page.
  function dress(layout) {
    const ink = css("--soft"), grid = css("--grid"), card = css("--card");
    const out = JSON.parse(JSON.stringify(layout));
    out.modebar = { bgcolor: "rgba(0,0,0,0)", color: css("--quiet"), activecolor: ink };
    out.font = { ...out.font, color: ink };
    out.hoverlabel = { ...out.hoverlabel, bgcolor: card, bordercolor: css("--line"),
      font: { ...(out.hoverlabel || {}).font, color: css("--ink") } };
    for (const key of Object.keys(out)) {
      if (/^[xy]axis/.test(key)) out[key] = { ...out[key], gridcolor: grid };
    }
    return out;
  }

  const figures = new Map();
  for (const tag of document.querySelectorAll('script[type="application/json"][data-for]')) {
    figures.set(tag.dataset.for, tag);
  }
  const webgl = Boolean(document.createElement("canvas").getContext("webgl"));
  const config = { displaylogo: false, responsive: true, displayModeBar: false, scrollZoom: false };

  function draw(box) {
    if (box.dataset.drawn || typeof Plotly === "undefined") return;
    box.dataset.drawn = "yes";
    const spec = JSON.parse(figures.get(box.id).textContent);
    box.alike = spec;
    // Slower, but drawn: remote desktops and strict browsers have no WebGL.
    if (!webgl) for (const trace of spec.data) if (trace.type === "scattergl") trace.type = "scatter";
    const zoom = spec.layout.meta && spec.layout.meta.zoom;
    Plotly.newPlot(box, spec.data, dress(spec.layout),
      zoom ? { ...config, displayModeBar: true, scrollZoom: true,
        modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]] } : config)
      .then(() => { if (spec.layout.meta && spec.layout.meta.map) mapHover(box); });
  }

  const boxes = [...document.querySelectorAll(".plot")];
  const watcher = new IntersectionObserver((seen) => {
    for (const entry of seen) if (entry.isIntersecting) { draw(entry.target); watcher.unobserve(entry.target); }
  }, { rootMargin: "600px" });
  boxes.forEach((box) => watcher.observe(box));
  window.addEventListener("beforeprint", () => boxes.forEach(draw));

  function setTheme() {
    root.dataset.theme = theme();
    if (button) button.textContent = { auto: "Auto", light: "Light", dark: "Dark" }[choice];
    for (const box of boxes) {
      if (box.dataset.drawn && box.alike) Plotly.react(box, box.data, dress(box.alike.layout));
    }
  }
  if (button) button.addEventListener("click", () => {
    choice = { auto: "light", light: "dark", dark: "auto" }[choice];
    setTheme();
  });
  dark.addEventListener("change", setTheme);
  setTheme();

  // Tables: a click on a heading sorts, numbers as numbers; the filter hides rows.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => {
        const cell = row.cells[column];
        const raw = cell.dataset.key === undefined ? cell.textContent.trim() : cell.dataset.key;
        const value = Number(raw.replace("\u2212", "-").replace(/[\s%\u202f]/g, ""));
        return Number.isNaN(value) || raw === "" ? raw.toLowerCase() : value;
      };
      const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
      rows.sort(([a], [b]) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1));
      if (down) rows.reverse();
      table.tBodies[0].append(...rows.map(([, row]) => row));
    }));
  }
  for (const input of document.querySelectorAll("input.filter")) {
    const rows = [...input.nextElementSibling.querySelectorAll("tbody tr")];
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
  }

  // The map: a card with the image under the pointer; a class chosen in the list stands out.
  const card = document.createElement("div");
  card.className = "mapcard";
  document.body.append(card);
  const atlas = document.getElementById("atlas");

  function mapHover(box) {
    const meta = box.alike.layout.meta;
    box.on("plotly_hover", (event) => {
      const point = event.points[0];
      const [index, cell] = point.customdata;
      card.replaceChildren();
      if (atlas && cell >= 0) {
        const side = Number(atlas.dataset.cell), across = Number(atlas.dataset.across), by = 112 / side;
        const pic = document.createElement("div");
        pic.className = "pic";
        pic.style.backgroundImage = `url(${atlas.src})`;
        pic.style.backgroundSize = `${across * side * by}px auto`;
        pic.style.backgroundPosition = `${-(cell % across) * 112}px ${-Math.floor(cell / across) * 112}px`;
        if (atlas.dataset.pixelated) pic.style.imageRendering = "pixelated";
        card.append(pic);
      }
      const name = document.createElement("b");
      name.textContent = point.data.name;
      const path = document.createElement("small");
      path.textContent = meta.paths ? meta.paths[index] : `row ${index}`;
      card.append(name, document.createElement("br"), path);
      card.style.display = "block";
      const { clientX: x, clientY: y } = event.event;
      const { width, height } = card.getBoundingClientRect();
      card.style.left = `${Math.min(x + 16, window.innerWidth - width - 8)}px`;
      card.style.top = `${Math.max(8, Math.min(y + 16, window.innerHeight - height - 8))}px`;
    });
    box.on("plotly_unhover", () => { card.style.display = "none"; });
  }
  for (const select of document.querySelectorAll("select.mapclass")) {
    select.addEventListener("change", () => {
      for (const box of boxes.filter((one) => one.alike && one.alike.layout.meta && one.alike.layout.meta.map)) {
        const shown = box.data.map((trace) => (!select.value || trace.name === select.value ? 0.85 : 0.06));
        Plotly.restyle(box, { "marker.opacity": shown });
      }
    });
  }
})();
