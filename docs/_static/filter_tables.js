// A filter above each table of class "filterable", and one for all of them at the top of the page.
// Without JavaScript the tables are complete, and there is no filter.

// Greek letters can be typed by their names.
const GREEK = {
  α: "alpha", β: "beta", γ: "gamma", δ: "delta", ε: "epsilon", η: "eta", θ: "theta", λ: "lambda",
  μ: "mu", ν: "nu", ρ: "rho", σ: "sigma", τ: "tau", φ: "phi", ω: "omega", Σ: "Sigma",
};

function searchableText(row) {
  // The text as it is written, since MathJax replaces that of equations.
  const text = row.dataset.text ?? row.textContent;
  const spelled = text.replace(/[α-ωΣ]/g, (letter) => GREEK[letter] ?? letter);
  return `${text} ${spelled}`.toLowerCase();
}

// The table below the filter may scroll in a container.
function outermost(table) {
  const parent = table.parentElement;
  return parent.matches(".pst-scrollable-table-container, .table-wrapper") ? parent : table;
}

function headingOf(table) {
  return table.closest("section").querySelector("h1, h2, h3, h4");
}

function titleOf(heading) {
  // Without the sign of the link to the heading.
  return [...heading.childNodes]
    .filter((node) => !node.classList?.contains("headerlink"))
    .map((node) => node.textContent)
    .join("");
}

function filterBox(label, id, changed) {
  const box = document.createElement("div");
  box.className = "table-filter";
  const caption = document.createElement("label");
  caption.htmlFor = id;
  caption.textContent = label;
  const input = document.createElement("input");
  input.type = "search";
  input.id = id;
  input.autocomplete = "off";
  input.spellcheck = false;
  const count = document.createElement("output");
  count.htmlFor = id;
  count.setAttribute("aria-live", "polite");
  input.addEventListener("input", changed);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && input.value !== "") {
      input.value = "";
      event.preventDefault();
      changed();
    }
  });
  box.append(caption, input, count);
  return { box, input, count };
}

function words(input) {
  return input.value.toLowerCase().split(/\s+/).filter(Boolean);
}

function addFilters() {
  const tables = [...document.querySelectorAll("table.filterable")].map((table) => ({
    table,
    rows: [...table.tBodies[0].rows].map((row) => ({ row, text: searchableText(row) })),
  }));
  if (tables.length === 0) return;

  const page = filterBox("Filter all tables of this page", "filter-page", update);
  const places = document.createElement("ul");
  places.className = "table-filter-places";
  page.box.append(places);

  tables.forEach((entry, i) => {
    const title = titleOf(headingOf(entry.table));
    entry.filter = filterBox(`Filter the table: ${title}`, `filter-${i}`, update);
    outermost(entry.table).before(entry.filter.box);
  });
  // After the first paragraph of the page, which says what the tables are.
  const first = document.querySelector("article h1 ~ p, main h1 ~ p");
  if (tables.length > 1 && first) first.after(page.box);

  function update() {
    const everywhere = words(page.input);
    let total = 0;
    places.replaceChildren();
    for (const { table, rows, filter } of tables) {
      const wanted = [...everywhere, ...words(filter.input)];
      let matches = 0;
      for (const { row, text } of rows) {
        row.hidden = !wanted.every((word) => text.includes(word));
        matches += !row.hidden;
      }
      filter.count.textContent = wanted.length ? `${matches} of ${rows.length} rows` : "";
      total += matches;
      if (everywhere.length && matches) places.append(placeOf(table, matches));
    }
    const all = tables.reduce((sum, { rows }) => sum + rows.length, 0);
    page.count.textContent = everywhere.length ? `${total} of ${all} rows` : "";
  }

  function placeOf(table, matches) {
    const item = document.createElement("li");
    const link = document.createElement("a");
    const heading = headingOf(table);
    link.href = `#${heading.closest("section").id}`;
    link.textContent = `${titleOf(heading)} (${matches})`;
    item.append(link);
    return item;
  }
}

addFilters();
// The filters have moved the row that the address names.
if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
