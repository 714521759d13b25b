"use strict";
(() => {
  const body = document.querySelector(".scans tbody");
  const heads = [...document.querySelectorAll(".scans thead th")];
  document.documentElement.classList.add("js");

  function compare(a, b) {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  }

  function sort(column, direction) {
    const value = (row) => row.cells[column].dataset.value;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");  // what is missing comes last
      return direction * compare(x, y);
    });
    body.append(...rows);
    heads.forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    const name = heads[column].textContent.trim();
    document.getElementById("order").textContent =
      `Sorted by ${name}, ${direction > 0 ? "smallest" : "largest"} first.`;
  }

  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const first = Number(button.dataset.first);
      const now = { ascending: 1, descending: -1 }[head.getAttribute("aria-sort")];
      sort(column, now ? -now : first);
    });
  });
})();
