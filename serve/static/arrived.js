"use strict";
// The page is its script: where that, or a part of it, does not arrive, nothing else could say so.
document.querySelector("script[type=module]").addEventListener("error", () => {
  const line = document.createElement("p");
  line.className = "wrongline";
  line.setAttribute("role", "alert");
  line.textContent = "The page did not arrive whole. If alike serve still runs, load it again.";
  document.getElementById("view").replaceChildren(line);
});
