// A click on an image of the grid marks it at once; the server then shows more of it.
element.addEventListener("click", (event) => {
  const cell = event.target.closest("[data-index]");
  if (!cell) return;
  for (const other of element.querySelectorAll("[data-index]")) {
    other.setAttribute("aria-pressed", String(other === cell));
  }
  trigger("select");
});
