// Sets the chosen theme before anything is drawn, so that a dark page does not flash white. This is
// not a module, since modules run later.
try {
  const chosen = localStorage.getItem("diptych.theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // Storage may be forbidden; then the system's theme applies.
}
