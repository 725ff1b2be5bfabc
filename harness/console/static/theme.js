// Before anything is drawn: the colours that were chosen here. A plain script, so that it runs first.
{
  let chosen = null;
  try { chosen = localStorage.getItem("theme"); } catch { /* storage may be forbidden; then the system's colours stand */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
