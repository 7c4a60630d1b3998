// Every two seconds: fetches this page again and puts its live part in the place of the one that is shown. Waits while
// the page is hidden, while somebody is in a form of it or has text selected, and says when the dashboard is gone.
"use strict";
(() => {
  const everyMs = 2000;
  const live = document.getElementById("live");
  const lost = document.getElementById("lost");
  if (!live || !lost) return;
  const busy = () => {
    const selection = window.getSelection();
    const typing = live.contains(document.activeElement) && document.activeElement.matches("input, select, textarea, button, summary");
    return document.hidden || typing || live.querySelector("details[open]") ||
      (selection && !selection.isCollapsed && live.contains(selection.anchorNode));
  };
  const look = async () => {
    if (!busy()) {
      try {
        const answer = await fetch(location.href, { headers: { "x-live": "1" }, redirect: "error", signal: AbortSignal.timeout(10000) });
        if (!answer.ok) throw new Error(String(answer.status));
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const next = page.getElementById("live");
        if (next && !busy()) {
          const focused = live.contains(document.activeElement) && document.activeElement.getAttribute("href");
          live.replaceChildren(...next.childNodes);
          if (focused) live.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
        }
        lost.hidden = true;
      } catch {
        lost.hidden = false;
      }
    }
    setTimeout(look, everyMs);
  };
  setTimeout(look, everyMs);
})();
