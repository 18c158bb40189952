"""A browser for the suites of devices: Debian's Chromium, driven by Playwright."""

import shutil
import threading
import time

import pytest

PATIENCE = 300_000
"""Milliseconds that a page may take: a coordinator may be converting its network, on a machine that is busy."""


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = [
            "--no-sandbox", "--disable-gpu", "--disable-quic", "--ignore-certificate-errors", "--mute-audio",
            "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
        ]  # fmt: skip
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        yield browser
        browser.close()


@pytest.fixture
def phone(chromium):
    """Makes phones: each a browser profile of its own, small as phones are."""
    opened = []

    def make(**options):
        options = {"viewport": {"width": 390, "height": 844}, "ignore_https_errors": True, **options}
        context = chromium.new_context(**options)
        opened.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("requestfailed", lambda request: page.errors.append(f"{request.url}: {request.failure}"))
        page.come_in = lambda link: _come_in(page, link)
        page.begin = lambda: _begin(page)
        page.stumbles = lambda: _stumbles(page)
        return page

    yield make
    for context in opened:
        context.close()


def _come_in(page, link):
    """Open a link, and wait until the page says what is to be learnt."""
    page.goto(link)
    page.wait_for_selector("#consent:visible")


def _begin(page):
    """Take part, with practice examples."""
    page.click("#consent")
    page.click("#practise")
    page.wait_for_selector("#examples-count:has-text('80 practice examples')")
    page.click("#start")


def _stumbles(page):
    """Return what screen readers and keyboards would stumble over."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{problem['id']}: {node['target']}" for problem in found for node in problem["nodes"]]


@pytest.fixture(scope="module")
def files():
    """The page's files on http://127.0.0.1, which browsers take for secure."""
    import uvicorn
    from starlette.applications import Starlette

    from edgekit.clients.phone.pages import Guarded, page_routes

    config = uvicorn.Config(Guarded(Starlette(routes=page_routes())), port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def bench(phone, files):
    """A page that has nothing but the modules."""
    page = phone()
    page.goto(f"{files}/phone/litert/README.txt")
    return page
