// Drives one Chromium: a line of JSON {url, code} in, a line of JSON out with what the code returned in the page.
const readline = require("node:readline");
const { chromium } = require("playwright-core");

const ARGUMENTS = [
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-proxy-server",
];

async function visit(browser, { url, code }) {
    const context = await browser.newContext(); // no cookie, no cache, no preflight remembered
    try {
        const page = await context.newPage();
        await page.goto(url);
        const value = await page.evaluate(`(async () => { ${code} })().catch(error => ({ error: String(error) }))`);
        return value ?? null;
    } catch (error) {
        return { error: String(error) };
    } finally {
        await context.close();
    }
}

(async () => {
    const browser = await chromium.launch({ executablePath: process.argv[2], args: ARGUMENTS, chromiumSandbox: false });
    for await (const line of readline.createInterface({ input: process.stdin })) {
        console.log(JSON.stringify(await visit(browser, JSON.parse(line))));
    }
    await browser.close();
})();
