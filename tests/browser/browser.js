// Looks at the dashboard in Chromium, as the test dashboard_browser.rs says. Each line on stdout is a word, and more.
//   browser.js look BASE FOLDER [--language=CODE] [--sign-in=USER:PASSWORD] PLACE...
//                                     every page, light and dark, wide and as on a phone; screenshots go to FOLDER. A place
//                                     is a path, or a status that is not 200 and a path
//   browser.js act BASE               makes a topic and sends a message to it, with the keyboard alone
//   browser.js click BASE FACTS       does with the mouse, once each, what pages offer to do; FACTS are JSON
//   browser.js sign-out BASE --sign-in=USER:PASSWORD
//                                     signs in and out again
//   browser.js remove BASE LABEL      removes a member
//   browser.js admit BASE LINE        admits the node whose log has this line
//   browser.js watch BASE LABEL       says READY, then SEEN once another node than LABEL is shown to lead
"use strict";
const fs = require("fs");
const path = require("path");
const { chromium } = require("playwright-core");

const [what, base, ...rest] = process.argv.slice(2);
const problems = [];

// What a page says of itself on the console: refused by its own policy, not found, thrown.
const listen = (page, where, expected = () => false) => {
  page.on("console", (message) => {
    if (message.type() === "error" && !expected(message.text())) problems.push(`${where()}: ${message.text()}`);
  });
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

const signIn = async (page, [user, password]) => {
  await page.goto(`${base}/login`);
  await page.locator("input[name=user]").fill(user);
  await page.locator("input[name=password]").fill(password);
  await page.locator("form[action='/login'] button").click();
  await page.locator(".who", { hasText: user }).waitFor();
};

const look = async (browser, folder, places, { language, user }) => {
  const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1280, 390]) {
      // The check is a script of another origin, which the pages' policy would refuse.
      const context = await browser.newContext({ colorScheme, viewport: { width, height: 800 }, bypassCSP: true });
      const page = await context.newPage();
      let at = "";
      let status = 200;
      const names = new Set();
      listen(page, () => at, (text) => status !== 200 && text.includes(`status of ${status}`));
      if (user) await signIn(page, user.split(":"));
      if (language) await page.goto(`${base}/language?to=${language}&back=%2F`);
      for (const named of places) {
        const [, wanted, place] = /^(?:(\d+) )?(.*)$/.exec(named);
        status = Number(wanted || 200);
        at = `${place} (${colorScheme}, ${width})`;
        const answer = await page.goto(base + place);
        if (answer.status() !== status) problems.push(`${at}: status ${answer.status()}`);
        if (language && (await page.locator("html").getAttribute("lang")) !== language) problems.push(`${at}: not in ${language}`);
        const wider = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        if (wider > 0) problems.push(`${at}: ${wider} px wider than the screen`);
        let kind = [place.split("?")[0].replace(/\W/g, "") || "overview", language, user && "signed-in"].filter(Boolean).join("-");
        while (names.has(kind)) kind += "+";
        names.add(kind);
        const name = `${kind}-${colorScheme}-${width}.png`;
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

// Opens what a form is folded into, fills it in, presses its button, and waits for the sentence that says what was done.
const submit = async (page, form, fields, said) => {
  const fold = form.locator("xpath=ancestor::details");
  if ((await fold.count()) > 0 && !(await fold.evaluate((it) => it.open))) await fold.locator("summary").click();
  for (const [name, value] of Object.entries(fields)) {
    const field = form.locator(`[name="${name}"]`);
    if (await field.evaluate((it) => it.matches("select"))) await field.selectOption(value);
    else await field.fill(value);
  }
  await form.locator("button").click();
  await page.locator(".note.good", { hasText: said }).waitFor();
};

const click = async (browser, facts) => {
  const page = await browser.newPage();
  listen(page, () => page.url());
  const open = (place) => page.goto(base + place);
  const form = (action, at = 0) => page.locator(`form[action="${action}"]`).nth(at);
  const enter = async (place) => {
    await page.locator("nav").getByRole("link", { name: place, exact: true }).click();
    await page.locator("h1", { hasText: place }).waitFor();
  };

  // Topics.
  await open("/");
  await enter("Topics");
  await submit(page, form("/topic/put"), { name: "clicked", type: "NORMAL", read: "4", write: "4" }, "clicked: topic stored");
  await page.locator("form.search input[name=q]").fill("CLICK");
  await page.locator("form.search button").click();
  await page.getByRole("link", { name: "clicked", exact: true }).click();
  await submit(page, form("/topic/put"), { read: "6", write: "6", attributes: "+reserve.time=12h" }, "clicked: topic stored");
  await page.getByRole("cell", { name: "6 / 6" }).waitFor();
  const message = { type: "NORMAL", body: "by mouse", keys: "k1 k2", tag: "t1", properties: "colour=blue" };
  await submit(page, form("/topic/send"), message, "Message stored: ");
  await page.getByRole("link", { name: "Messages", exact: true }).last().click();
  await page.locator("tbody th a").first().click();
  await page.locator(".facts", { hasText: "blue" }).waitFor();

  // Consumer groups.
  await enter("Consumers");
  await submit(page, form("/consumer/put"), { name: "clickers", retries: "3" }, "clickers: consumer group stored");
  await page.getByRole("link", { name: "clickers", exact: true }).click();
  await submit(page, form("/consumer/put"), { retries: "5", ordered: "true" }, "clickers: consumer group stored");
  await page.getByRole("cell", { name: "5", exact: true }).waitFor();
  await submit(page, form("/consumer/delete"), { confirm: "clickers" }, "clickers: deleted");
  await open(`/topic?name=${facts.topic}`);
  await page.getByRole("link", { name: `Reset or skip ${facts.group}` }).click();
  await submit(page, form("/consumer/reset"), { at: "1970-01-01 00:00" }, `${facts.group}, ${facts.topic}: moved`);
  await submit(page, form("/consumer/reset", 1), { confirm: facts.group }, `${facts.group}, ${facts.topic}: moved`);
  await open("/topic?name=clicked");
  await submit(page, form("/topic/delete"), { confirm: "clicked" }, "clicked: deleted");

  // Dead letters: one on its own page, then all of the list.
  await enter("Dead letters");
  await page.getByRole("link", { name: facts.letters, exact: true }).click();
  const letters = page.url();
  await page.locator("tbody th a").first().click();
  await submit(page, form("/dead-letters/resend"), {}, "Sent again: 1");
  await page.goto(letters);
  for (const letter of await page.locator("input[form=resend]").all()) await letter.check();
  await page.locator("#resend button").click();
  await page.locator(".note.good", { hasText: "Sent again: 2" }).waitFor();

  // Delayed messages: in the list, on its own page, by its handle.
  await enter("Delayed");
  await submit(page, page.locator("tr form").first(), {}, "Taken back");
  await page.locator("tbody th a").first().click();
  await page.locator("pre", { hasText: "in an hour" }).waitFor();
  await submit(page, form("/delayed/recall"), {}, "Taken back");
  const handle = await page.locator("tbody tr td:nth-child(9)").first().textContent();
  const fields = { topic: facts.delayed, handle: handle.trim() };
  await submit(page, page.locator("main > form[action='/delayed/recall']"), fields, "Taken back");

  // Transactions: in the list, on its own page.
  await enter("Transactions");
  await submit(page, form("/transactions/end"), {}, ": committed");
  await page.locator("tbody th a").first().click();
  await page.locator("pre", { hasText: "half" }).waitFor();
  await submit(page, page.locator("form", { has: page.getByRole("button", { name: "Roll back" }) }), {}, ": rolled back");

  // Users and what they may do.
  await enter("Users");
  await submit(page, form("/user/create"), { name: "bob", secret: "b0b-secret", admin: "false" }, "bob: user stored");
  await page.getByRole("link", { name: "bob", exact: true }).click();
  await submit(page, form("/acl/put"), { resource: "Topic:clicked", actions: "Pub,Sub" }, "rule stored");
  await page.getByRole("cell", { name: "Pub, Sub" }).waitFor();
  await submit(page, form("/acl/delete"), {}, "rule removed");
  await submit(page, form("/user/update"), { rate_messages: "5", disabled: "true" }, "bob: user stored");
  await submit(page, form("/user/delete"), { confirm: "bob" }, "bob: deleted");

  // Leadership, another language and back.
  await enter("Cluster");
  await submit(page, form("/cluster/transfer"), { node: "0" }, "Leadership: ");
  await page.locator(".who a[lang]").click();
  await page.locator("html[lang=zh-CN]").waitFor();
  await page.locator(".who a[lang]").click();
  await page.locator("html[lang=en]").waitFor();
};

const signOut = async (browser, user) => {
  const page = await browser.newPage();
  listen(page, () => page.url());
  await signIn(page, user.split(":"));
  await page.locator("form[action='/logout'] button").click();
  await page.locator("form[action='/login']").waitFor();
  await page.goto(`${base}/topics`);
  await page.locator("form[action='/login']").waitFor();
};

const changeMembers = async (browser, fold, fields, said) => {
  const page = await browser.newPage();
  page.setDefaultTimeout(60000);
  listen(page, () => page.url());
  await page.goto(`${base}/cluster`);
  await submit(page, page.locator("details", { has: page.locator("summary", { hasText: fold }) }).locator("form"), fields, said);
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
    const option = (name) => rest.find((word) => word.startsWith(`--${name}=`))?.slice(name.length + 3);
    const options = { language: option("language"), user: option("sign-in") };
    const [first, ...others] = rest.filter((word) => !word.startsWith("--"));
    if (what === "look") await look(browser, first, others, options);
    if (what === "act") await act(browser);
    if (what === "click") await click(browser, JSON.parse(first));
    if (what === "sign-out") await signOut(browser, options.user);
    if (what === "remove") await changeMembers(browser, `Remove member ${first}`, { confirm: first }, `${first}: removed`);
    if (what === "admit") await changeMembers(browser, "Admit a node", { line: first }, "is a member");
    if (what === "watch") await watch(browser, first);
  } catch (error) {
    problems.push(String(error.stack || error));
  } finally {
    await browser.close();
  }
  for (const problem of problems) console.log(`PROBLEM ${problem.replace(/\s+/g, " ")}`);
  console.log(`DONE ${what}`);
})();
