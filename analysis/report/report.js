"use strict";
(() => {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const button = document.querySelector("button.theme");
  const PAPER = 640; // pixels of CSS that a card has on A4 or Letter
  let choice = "auto", printing = false;

  const theme = () => (printing ? "light" : choice === "auto" ? (dark.matches ? "dark" : "light") : choice);
  const figures = new Map();
  for (const tag of document.querySelectorAll('script[type="application/json"][data-for]')) {
    figures.set(tag.dataset.for, tag);
  }
  function draw(box) {
    if (box.dataset.drawn || typeof Plotly === "undefined") return;
    box.dataset.drawn = "yes";
    const spec = JSON.parse(figures.get(box.id).textContent);
    Shown.draw(box, spec).then(() => { if (spec.layout.meta && spec.layout.meta.map) mapHover(box); });
  }

  const boxes = [...document.querySelectorAll(".plot")];
  const watcher = new IntersectionObserver((seen) => {
    for (const entry of seen) if (entry.isIntersecting) { draw(entry.target); watcher.unobserve(entry.target); }
  }, { rootMargin: "600px" });
  // Not in the HTML: the page of `alike serve`, which has the same sections, allows no inline style.
  boxes.forEach((box) => { box.style.minHeight = `${box.dataset.height}px`; watcher.observe(box); });
  window.addEventListener("beforeprint", () => {
    printing = true;
    boxes.forEach(draw);
    setTheme();
  });
  window.addEventListener("afterprint", () => {
    printing = false;
    setTheme();
  });

  function setTheme() {
    root.dataset.theme = theme();
    if (button) button.textContent = { auto: "Auto", light: "Light", dark: "Dark" }[choice];
    boxes.forEach((box) => Shown.redress(box, printing ? Math.min(box.clientWidth, PAPER) : 0));
  }
  if (button) button.addEventListener("click", () => {
    choice = { auto: "light", light: "dark", dark: "auto" }[choice];
    setTheme();
  });
  dark.addEventListener("change", setTheme);
  setTheme();

  Shown.tables(document);

  // The map: a card with the image under the pointer; a class chosen in the list stands out.
  const card = document.createElement("div");
  card.className = "mapcard";
  document.body.append(card);
  const atlas = document.getElementById("atlas");

  // A trace is of one class; where there are too many for that, `meta` has the class of each point.
  const classOf = ({ meta }, point) => (Array.isArray(meta) ? meta[point] : meta);

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
      name.textContent = classOf(point.data, point.pointNumber);
      const path = document.createElement("small");
      path.textContent = meta.paths ? meta.paths[index] : `row ${index}`;
      card.append(name, document.createElement("br"), path);
      card.style.display = "block";
      const { clientX: x, clientY: y } = event.event;
      const { width, height } = card.getBoundingClientRect();
      card.style.left = `${Math.min(x + 16, root.clientWidth - width - 8)}px`;
      card.style.top = `${Math.max(8, Math.min(y + 16, window.innerHeight - height - 8))}px`;
    });
    box.on("plotly_unhover", () => { card.style.display = "none"; });
  }
  for (const select of document.querySelectorAll(".mapclass")) {
    select.addEventListener("change", () => {
      for (const box of boxes.filter((one) => one.alike && one.alike.layout.meta && one.alike.layout.meta.map)) {
        const opacity = (name) => (!select.value || name === select.value ? 0.85 : 0.06);
        const shown = box.data.map(({ meta }) => (Array.isArray(meta) ? meta.map(opacity) : opacity(meta)));
        Plotly.restyle(box, { "marker.opacity": shown });
      }
    });
  }
})();
