// Looks at the dashboard in Chromium, as the test dashboard_browser.rs says. Each line on stdout is a word, and more.
//   browser.js look BASE FOLDER PATH...   every page, light and dark, wide and as on a phone; screenshots go to FOLDER
//   browser.js act BASE                   makes a topic and sends a message to it, with the keyboard alone
//   browser.js watch BASE LABEL           says READY, then SEEN once another node than LABEL is shown to lead
"use strict";
const fs = require("fs");
const path = require("path");
const { chromium } = require("playwright-core");

const [what, base, ...rest] = process.argv.slice(2);
const problems = [];

// What a page says of itself on the console: refused by its own policy, not found, thrown.
const listen = (page, where) => {
  page.on("console", (message) => message.type() === "error" && problems.push(`${where()}: ${message.text()}`));
  page.on("pageerror", (error) => problems.push(`${where()}: ${error}`));
};

// A picture has something on it when so much of it has another colour than its corner.
const INK_MIN = 0.005;

// How much of a picture has another colour than its corner, from 0 to 1.
const inked = (page, picture) => page.evaluate(async (source) => {
  const image = new Image();
  image.src = source;
  await image.decode();
  const { width, height } = image;
  const paper = new OffscreenCanvas(width, height).getContext("2d");
  paper.drawImage(image, 0, 0);
  const dots = new Uint32Array(paper.getImageData(0, 0, width, height).data.buffer);
  return dots.filter((dot) => dot !== dots[0]).length / dots.length;
}, `data:image/png;base64,${picture.toString("base64")}`);

const SHOWN_HEIGHT = 1200;
const heightOf = (page) => page.evaluate(() => document.documentElement.scrollHeight);

const look = async (browser, folder, places) => {
  const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1280, 390]) {
      // The check is a script of another origin, which the pages' policy would refuse.
      const context = await browser.newContext({ colorScheme, viewport: { width, height: 800 }, bypassCSP: true });
      const page = await context.newPage();
      let at = "";
      listen(page, () => at);
      for (const place of places) {
        at = `${place} (${colorScheme}, ${width})`;
        const answer = await page.goto(base + place);
        if (answer.status() !== 200) problems.push(`${at}: status ${answer.status()}`);
        const wider = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        if (wider > 0) problems.push(`${at}: ${wider} px wider than the screen`);
        const name = `${place.split("?")[0].replace(/\W/g, "") || "overview"}-${colorScheme}-${width}.png`;
        // README shows some: light and wide ones are no higher than a large screen.
        const shown = { x: 0, y: 0, width, height: Math.min(SHOWN_HEIGHT, await heightOf(page)) };
        const clip = colorScheme === "light" && width > 1000 ? shown : undefined;
        const picture = await page.screenshot({ path: path.join(folder, name), fullPage: true, clip });
        if ((await inked(page, picture)) < INK_MIN) problems.push(`${at}: the picture is blank`);
        for (const details of await page.locator("details").all()) await details.evaluate((it) => { it.open = true; });
        await page.evaluate(axe);
        const { violations } = await page.evaluate(() => axe.run());
        for (const found of violations) problems.push(`${at}: ${found.id}: ${found.help}: ${found.nodes[0].html}`);
      }
      await context.close();
    }
  }
};

// Goes on with Tab until the focus is on what fits.
const tabTo = async (page, fits) => {
  for (let presses = 0; presses < 200; presses += 1) {
    await page.keyboard.press("Tab");
    if (await page.evaluate((fits) => document.activeElement.matches(fits), fits)) return;
  }
  throw new Error(`Tab does not come to ${fits} on ${page.url()}`);
};

const act = async (browser) => {
  const page = await browser.newPage();
  listen(page, () => page.url());
  await page.goto(`${base}/topics`);
  await tabTo(page, "details summary");
  await page.keyboard.press("Enter");
  await tabTo(page, "form.change input[name=name]");
  await page.keyboard.type("by-keyboard");
  await page.keyboard.press("Enter");
  await page.locator(".note.good", { hasText: "by-keyboard: topic stored" }).waitFor();
  await page.goto(`${base}/topic?name=by-keyboard`);
  await tabTo(page, "details summary");
  await page.keyboard.press("Enter");
  await tabTo(page, "textarea[name=body]");
  await page.keyboard.type("typed");
  await tabTo(page, "form.change button");
  await page.keyboard.press("Enter");
  await page.locator(".note.good", { hasText: "Message stored: " }).waitFor();
};

const watch = async (browser, label) => {
  const page = await browser.newPage();
  listen(page, () => "/");
  await page.goto(base);
  // Kept over every change that the page's own script makes, and lost when it is loaded anew.
  await page.evaluate(() => { window.loadedOnce = true; });
  console.log("READY");
  await page.waitForFunction(
    (label) => [...document.querySelectorAll("#live tbody tr")].some((row) =>
      row.cells.length === 5 && row.cells[2].textContent === "Leader" && row.cells[1].textContent !== label),
    label,
    { timeout: 60000 },
  );
  if (!(await page.evaluate(() => window.loadedOnce))) problems.push("the page was loaded anew");
  console.log("SEEN");
};

(async () => {
  // Processes of a container have no namespaces for Chromium's sandbox; it opens our own pages only.
  const browser = await chromium.launch({ executablePath: process.env.RAFTMQ_CHROMIUM, args: ["--no-sandbox"] });
  try {
    if (what === "look") await look(browser, rest[0], rest.slice(1));
    if (what === "act") await act(browser);
    if (what === "watch") await watch(browser, rest[0]);
  } catch (error) {
    problems.push(String(error.stack || error));
  } finally {
    await browser.close();
  }
  for (const problem of problems) console.log(`PROBLEM ${problem.replace(/\s+/g, " ")}`);
  console.log(`DONE ${what}`);
})();
