// The theme's buttons that show the pages below an entry of the sidebar have no name, which readers
// with a screen reader need.
document.querySelectorAll("summary:has(> .toctree-toggle)").forEach((summary) => {
  const entry = summary.closest("li").querySelector("a");
  summary.setAttribute("aria-label", `Pages of ${entry.textContent.trim()}`);
});
