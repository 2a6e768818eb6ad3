// Makes tables sortable and filterable. The page is complete without JavaScript.
"use strict";

const order = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

function compare(first, second) {
  const [a, b] = [first, second].map((cell) => cell.dataset.value);
  return a !== undefined && b !== undefined
    ? Number(a) - Number(b)
    : order.compare(first.textContent, second.textContent);
}

function isMissing(cell) {
  return cell.dataset.value === undefined && cell.textContent.trim() === "–";
}

function sort(table, header) {
  const column = header.cellIndex;
  const wasNumber = header.classList.contains("number");
  const now = header.getAttribute("aria-sort");
  // The first click sorts numbers in descending and text in ascending order.
  const descending = now === null ? wasNumber : now === "ascending";
  const rows = [...table.tBodies[0].rows];
  rows.sort((first, second) => {
    const [a, b] = [first.cells[column], second.cells[column]];
    if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b); // always last
    return descending ? compare(b, a) : compare(a, b);
  });
  table.tBodies[0].append(...rows);
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

function addSorting(table) {
  if (table.tBodies[0].rows.length < 2) return;
  for (const header of table.tHead.rows[0].cells) {
    if ("unsorted" in header.dataset) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(table, header));
    header.append(button);
  }
}

function addFilter(box) {
  const input = box.querySelector("input");
  const rows = [...document.getElementById(input.getAttribute("aria-controls")).tBodies[0].rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    rows.forEach((row, i) => (row.hidden = !texts[i].includes(wanted)));
    const shown = rows.filter((row) => !row.hidden).length;
    box.querySelector("output").textContent = `${shown} of ${rows.length} rows`;
  });
  box.hidden = false;
}

// Only scrollable regions need to be focusable.
const watched = new ResizeObserver((entries) => {
  for (const { target } of entries) target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1;
});

document.querySelectorAll(".scroll").forEach((region) => watched.observe(region));
document.querySelectorAll("table").forEach(addSorting);
document.querySelectorAll(".filter").forEach(addFilter);
