// What the pages cannot do without a script: copy a text, take a line out of the form, say what was judged.
document.addEventListener("click", async (event) => {
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    const text = copy.closest("figure").querySelector("pre").textContent;
    await navigator.clipboard.writeText(text);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  }
  const remove = event.target.closest("[data-remove]");
  if (remove) remove.closest(remove.dataset.remove).remove();
});

// Addresses that are short enough to be read: without what was left empty.
document.addEventListener("htmx:configRequest", (event) => {
  const given = event.detail.parameters;
  const left = given.column === "" ? [] : ["operator", "value"];
  for (const [name, value] of Object.entries(given)) {
    if (value === "" && !left.includes(name)) delete given[name];
  }
  if (given.column === undefined) delete given.operator;
});

// A row that was judged, in all columns that have it.
document.addEventListener("judged", (event) => {
  for (const form of document.querySelectorAll(".thumbs")) {
    if (form.dataset.key !== event.detail.key) continue;
    for (const button of form.querySelectorAll("button")) {
      const pressed = button.dataset.thumb === event.detail.thumb;
      button.setAttribute("aria-pressed", pressed);
      button.value = pressed ? "none" : button.dataset.thumb;
    }
  }
});
