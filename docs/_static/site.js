/* If a block of code or a table is wider than the page, people scroll it with the keyboard: it must take the focus. */
function focusWhatScrolls() {
  for (const region of document.querySelectorAll("article pre, article .table-wrapper")) {
    if (region.scrollWidth > region.clientWidth) {
      region.tabIndex = 0;
    } else {
      region.removeAttribute("tabindex");
    }
  }
}

focusWhatScrolls();
window.addEventListener("resize", focusWhatScrolls);
