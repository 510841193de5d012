
"use strict";
// All of the report stands in the page. This script sorts and filters its tables, and leads from a cell of a confusion
// matrix, or from the name of a class, to the videos.

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const OPENED = 10; // as few videos show their pictures by themselves

for (const tool of all("[data-tool]")) tool.hidden = false;

// Tables: a click on a column's head sorts by it, the best first for numbers; what is no number comes last.
function sortRows(table, column, ascending) {
  const isNumber = table.tHead.rows[0].cells[column].classList.contains("number");
  const keyed = [...table.tBodies[0].rows].map((row) => {
    const text = row.cells[column].textContent.trim();
    return [isNumber ? Number.parseFloat(text) : text, row];
  });
  const sign = ascending ? 1 : -1;
  keyed.sort(([a], [b]) => {
    if (!isNumber) return sign * a.localeCompare(b, undefined, { numeric: true });
    return Number.isNaN(a) - Number.isNaN(b) || sign * (a - b) || 0;
  });
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

for (const table of all("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sorted = head.ariaSort;
      const ascending = sorted ? sorted === "descending" : !head.classList.contains("number");
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.ariaSort = ascending ? "ascending" : "descending";
      sortRows(table, column, ascending);
    });
  });
}

for (const box of all(".row-filter")) {
  const tools = box.closest(".tools");
  const rows = [...tools.nextElementSibling.querySelector("tbody").rows];
  box.addEventListener("input", () => {
    const wanted = box.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    const shown = rows.filter((row) => !row.hidden).length;
    tools.querySelector("output").textContent = wanted ? `${shown} of ${rows.length}` : "";
  });
}

// Videos: by a part of the name, the true class, and what an output answered.
const form = document.querySelector("#video-filter");
const videos = form ? [...document.querySelector("#video-table").tBodies[0].rows] : [];

function filterVideos() {
  const { search, label, answer, output, right } = form.elements;
  const wanted = search.value.trim().toLowerCase();
  let shown = 0;
  for (const row of videos) {
    const said = row.dataset.answers.split(" ")[output.value];
    row.hidden = !(
      (label.value === "" || label.value === row.dataset.label) &&
      (answer.value === "" || answer.value === said) &&
      (right.value === "" || (right.value === "1") === (said === row.dataset.label)) &&
      row.cells[0].textContent.toLowerCase().includes(wanted)
    );
    shown += !row.hidden;
  }
  for (const row of videos) {
    for (const details of row.querySelectorAll("details")) details.open = !row.hidden && shown <= OPENED;
  }
  form.querySelector("output").textContent = `${shown} of ${videos.length}`;
}

function showVideos(wanted) {
  form.reset();
  for (const [name, value] of Object.entries(wanted)) form.elements[name].value = value;
  filterVideos();
  const section = form.closest("section");
  location.hash = section.id; // a step of the history: "back" leads to where the click was
  section.scrollIntoView();
  form.elements.search.focus({ preventScroll: true });
}

if (form) {
  form.addEventListener("input", filterVideos); // as one types
  form.addEventListener("change", filterVideos);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filterVideos)); // once the fields are empty
  for (const link of all("a[data-class]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      showVideos({ label: link.dataset.class });
    });
  }
  filterVideos();
}

// Confusion matrices: one is shown; a cell is read out, and leads to its videos.
const matrices = all("table.matrix");

function showMatrix(output) {
  for (const matrix of matrices) matrix.parentElement.hidden = matrix.dataset.output !== output;
}

function read(matrix, cell) {
  const row = cell.parentElement;
  const heads = [row.cells[0], matrix.tHead.rows[0].cells[cell.cellIndex]];
  for (const head of all("th.at", matrix)) head.classList.remove("at");
  for (const head of heads) head.classList.add("at");
  const [label, answer] = heads.map((head) => head.textContent);
  const count = Number(cell.textContent);
  const total = [...row.cells].slice(1).reduce((sum, other) => sum + Number(other.textContent), 0);
  const share = total ? ` (${((100 * count) / total).toFixed(1)} %)` : "";
  document.querySelector(".reading").textContent =
    `True class ${label}, predicted ${answer}: ${count} of ${total} video${total === 1 ? "" : "s"}${share}.`;
}

for (const matrix of matrices) {
  const rows = [...matrix.tBodies[0].rows];
  const cellOf = (event) => event.target.closest("tbody td");
  let current = rows[0].cells[1]; // the one cell that the tabulator key reaches; arrow keys lead on from it
  current.tabIndex = 0;
  const choose = (cell) => {
    if (!cell.textContent) return;
    const place = { label: rows.indexOf(cell.parentElement), answer: cell.cellIndex - 1 };
    showVideos({ ...place, output: matrix.dataset.output });
  };
  matrix.addEventListener("mouseover", (event) => cellOf(event) && read(matrix, cellOf(event)));
  matrix.addEventListener("focusin", (event) => cellOf(event) && read(matrix, cellOf(event)));
  matrix.addEventListener("click", (event) => cellOf(event) && choose(cellOf(event)));
  matrix.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (step) {
      const next = rows[rows.indexOf(current.parentElement) + step[0]]?.cells[current.cellIndex + step[1]];
      if (next?.tagName === "TD") {
        current.tabIndex = -1;
        current = next;
        current.tabIndex = 0;
        current.focus();
      }
    } else if (event.key === "Enter" || event.key === " ") choose(current);
    else return;
    event.preventDefault();
  });
}

for (const choice of all('input[name="matrix"]')) {
  choice.addEventListener("change", () => showMatrix(choice.value));
}
if (matrices.length) showMatrix("0");
