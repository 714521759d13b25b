"use strict";
(() => {
  const viewer = document.getElementById("viewer");
  const find = (id) => document.getElementById(id);
  const slices = [...viewer.querySelectorAll(".slice")];
  const slice = find("slice"), divider = find("divider"), brightness = find("brightness");
  const left = find("left"), right = find("right"), modes = [...viewer.querySelectorAll("[data-mode]")];
  const stage = find("stage");
  document.documentElement.classList.add("js");

  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  function show() {
    const index = Number(slice.value);
    const split = left.value !== right.value;
    slices.forEach((one, i) => {
      one.classList.toggle("current", i === index);
      for (const figure of one.querySelectorAll("figure")) {
        const kind = figure.dataset.kind;
        figure.classList.toggle("at-left", kind === left.value);
        figure.classList.toggle("at-right", kind === right.value);
        figure.classList.toggle("split", split);
      }
    });
    divider.classList.toggle("split", split);
    const text = `Slice ${index} (${index + 1} of ${slices.length})`;
    find("place").value = text;
    slice.setAttribute("aria-valuetext", text);
    for (const line of document.querySelectorAll(".here")) {
      const x = line.dataset.places.split(" ")[index];
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
    }
    document.querySelectorAll("tr[data-slice]").forEach((row) => {
      if (Number(row.dataset.slice) === index) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    });
  }

  function divide() {
    viewer.style.setProperty("--divider", `${divider.value}%`);
    divider.setAttribute("aria-valuetext", `${divider.value} % from the left`);
  }

  function brighten() {
    const factor = 2 ** Number(brightness.value);
    viewer.style.setProperty("--brightness", factor);
    const white = Number(viewer.dataset.white) / factor;
    find("white").value = white.toPrecision(3);
    brightness.setAttribute("aria-valuetext", `white is ${white.toPrecision(3)}`);
  }

  function go(index) {
    slice.value = clamp(index, 0, slices.length - 1);
    show();
  }

  function mode(name) {
    viewer.classList.toggle("slider", name === "slider");
    find("top").classList.toggle("wide-images", name !== "slider");
    for (const button of modes) button.setAttribute("aria-pressed", button.dataset.mode === name);
    find("ends").hidden = name !== "slider" || left.options.length < 2;
  }

  slice.addEventListener("input", show);
  divider.addEventListener("input", divide);
  brightness.addEventListener("input", brighten);
  left.addEventListener("change", show);
  right.addEventListener("change", show);
  for (const button of modes) button.addEventListener("click", () => mode(button.dataset.mode));

  // After a drag the arrow keys belong to the slices again.
  divider.addEventListener("pointerup", () => stage.focus({ preventScroll: true }));

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && !event.target.closest("input, select, textarea, .wide")) {
      event.preventDefault();
      go(Number(slice.value) + step);
    }
  });
  viewer.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select")) return;
    const step = { "[": -5, "]": 5 }[event.key];
    if (!step) return;
    divider.value = Number(divider.value) + step;
    divide();
  });
  let turned = 0;
  stage.addEventListener("wheel", (event) => {
    if (!stage.contains(document.activeElement) || event.ctrlKey || slices.length < 2) return;
    event.preventDefault();
    turned += event.deltaMode ? event.deltaY * 40 : event.deltaY;
    const steps = Math.trunc(turned / 60);
    turned -= steps * 60;
    if (steps) go(Number(slice.value) + steps);
  }, { passive: false });
  for (const link of document.querySelectorAll("a[data-slice]")) {
    link.addEventListener("click", () => go(Number(link.dataset.slice)));
  }

  const first = Number(viewer.dataset.first);
  slice.value = first;
  mode("slider");
  show();
  divide();
  brighten();
})();
