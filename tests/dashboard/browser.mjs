// Opens the browser and records faults throughout: errors in the console, requests to other hosts,
// and pages wider than a phone.

import { mkdirSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

// Without the flags after --disable-gpu, Chromium contacts its maker's hosts at every start.
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
/** Responses that the tests provoke on purpose, but that the browser reports in its console. */
const MEANT = /Failed to load resource: .*status of (400|401|404|409|422)/;

export const LOOKS = [["light", "light", 1360, 900], ["dark", "dark", 1360, 900], ["phone", "light", 390, 844]];

export async function open(base, screenshots) {
  mkdirSync(screenshots, { recursive: true });
  const context = await chromium.launchPersistentContext(mkdtempSync(join(tmpdir(), "chromium-")), {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: FLAGS, acceptDownloads: true,
  });
  const page = await context.newPage();
  const faults = [];
  page.on("console", message => {
    if (["error", "warning"].includes(message.type()) && !MEANT.test(message.text())) faults.push(`console: ${message.text()}`);
  });
  page.on("pageerror", error => faults.push(`script: ${error.stack}`));
  page.on("request", request => {
    const url = request.url();
    if (!url.startsWith(base) && !/^(blob|data|about):/.test(url)) faults.push(`asked another host: ${url}`);
  });
  // All requests except for the stream of events, which never ends.
  const asked = new Set();
  page.on("request", request => { if (!request.url().endsWith("/v1/events")) asked.add(request); });
  for (const ended of ["requestfinished", "requestfailed"]) page.on(ended, request => asked.delete(request));
  const settled = () => quiet(page, asked);
  await page.setViewportSize({ width: 1360, height: 900 });
  page.setDefaultTimeout(30_000);
  return {
    page, faults,
    go: async hash => {
      await page.evaluate(hash => { location.hash = hash; }, hash);
      await settled();
    },
    shoot: async name => page.screenshot({ path: join(screenshots, `${name}.png`), fullPage: true }),
    async looks(pages) {
      for (const [look, colorScheme, width, height] of LOOKS) {
        await page.setViewportSize({ width, height });
        await page.emulateMedia({ colorScheme });
        for (const [name, hash] of Object.entries(pages)) {
          await page.goto(`${base}/${hash}`);
          await settled();
          const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
          if (over > 0) faults.push(`${name} is ${over} pixels too wide for ${width}`);
          await page.screenshot({ path: join(screenshots, `${name}-${look}.png`), fullPage: true });
        }
      }
    },
    close: () => context.close(),
  };
}

/**
 * Waits until no request and no part of the page is loading. It must stay so for a few frames,
 * since one load can lead to another.
 */
async function quiet(page, asked) {
  for (let frames = 0; frames < 6;) {
    const busy = await page.evaluate(() => new Promise(resolve => requestAnimationFrame(() =>
      resolve(!document.querySelector("#main > *") || Boolean(document.querySelector("#main [aria-busy=true]"))))));
    frames = busy || asked.size ? 0 : frames + 1;
  }
}
