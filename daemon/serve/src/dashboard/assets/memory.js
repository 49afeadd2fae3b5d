// What the browser keeps for this page: "localStorage" for good, "sessionStorage" until the tab is closed. Where a browser forbids it,
// nothing is kept and everything else works.

export function recall(storage, key) {
  try {
    return JSON.parse(window[storage].getItem(key));
  } catch {
    return null;
  }
}

export function remember(storage, key, value) {
  try {
    if (value === null) window[storage].removeItem(key);
    else window[storage].setItem(key, JSON.stringify(value));
  } catch {
    // Forbidden, or full.
  }
}
