// Values that the browser keeps for this page: "localStorage" for good, "sessionStorage" until the
// tab is closed. If the browser forbids it, nothing is kept and everything else works.

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
    // Storage is forbidden or full.
  }
}
