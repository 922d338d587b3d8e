"""The built site, a server for it, and a browser that records what a page asks for and reports.

The site is that of the folder `site/`, or of the folder that the environment variable NC_JAX_SITE
names.
"""

import contextlib
import functools
import importlib.util
import os
import shutil
import threading
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import site_pages

SITE = Path(os.environ.get("NC_JAX_SITE", Path(__file__).parents[2] / "site")).resolve()
BUILD = "python -m sphinx --fail-on-warning --keep-going docs site"

# The extra `docs` has these packages. Without them, as in an environment for the other tests alone,
# nothing here can be imported, and the marker, which pytest reads after the import, is too late.
if any(
    importlib.util.find_spec(name) is None
    for name in ("sphinx", "playwright", "axe_playwright_python")
):
    collect_ignore_glob = ["*.py"]

# No window, no requests of the browser's for updates, and WebGL by software, for the movie.
FLAGS = (
    "--headless=new --no-sandbox --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run --use-gl=angle --use-angle=swiftshader "
    "--enable-unsafe-swiftshader"
)
# Steps of the browser take a second; a machine with other work takes longer.
TIMEOUT = 60_000


@dataclass
class Records:
    """What a page has asked for and reported."""

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def read_message(self, message) -> None:
        """Record a message of the console if it is an error."""
        if message.type == "error":
            self.errors.append(f"{message.text} {message.location['url']}")

    def clear(self) -> None:
        """Forget what the addresses before have asked for and reported."""
        self.requests.clear()
        self.errors.clear()

    def outside(self) -> list[str]:
        """Requests to other hosts than the server of the site."""
        local = ("data:", "blob:", "about:")
        asked = [address for address in self.requests if not address.startswith(local)]
        return [address for address in asked if urlsplit(address).hostname != "127.0.0.1"]


def pytest_generate_tests(metafunc):
    """Give tests of one page all pages of the site."""
    if "page_path" in metafunc.fixturenames:
        # Without a site there is one test, which fails and says how to build it.
        names = site_pages.pages_of(SITE) or ["index.html"]
        metafunc.parametrize("page_path", names, scope="module")


@pytest.fixture(scope="session")
def site():
    """The folder of the built site."""
    if not (SITE / "index.html").is_file():
        pytest.fail(f"no site in {SITE}; build it with `{BUILD}`", pytrace=False)
    return SITE


class _Server(ThreadingHTTPServer):
    # A page asks for some 30 files at a time; the default queue of 5 refuses some of them.
    request_queue_size = 64
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Stay silent: browsers close connections of pages that are left."""


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        """Print nothing."""


@pytest.fixture(scope="session")
def address(site):
    """The address of a server of the site, with a final slash."""
    server = _Server(("127.0.0.1", 0), functools.partial(_Handler, directory=site))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def browser():
    """Chromium of the system, or that of Playwright where the system has none."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=FLAGS.split()
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def new_page(browser, **options):
    """An empty page, with the records of all that it asks for and reports until it is closed."""
    with contextlib.closing(browser.new_context(**options)) as context:
        context.set_default_timeout(TIMEOUT)
        records = Records()
        # The movie is a page within a page: the events of the context are those of both.
        context.on("request", lambda request: records.requests.append(request.url))
        context.on("console", records.read_message)
        context.on("weberror", lambda error: records.errors.append(str(error.error)))
        yield context.new_page(), records


@pytest.fixture(scope="session")
def open_page(browser, address):
    """A function that opens an address of the site in a new page, with its records."""

    @contextlib.contextmanager
    def open_page(name, **options):
        with new_page(browser, **options) as (page, records):
            page.goto(f"{address}{name}")
            yield page, records

    return open_page


@pytest.fixture(scope="session")
def shared_page(browser):
    """One page and its records, for tests that open hundreds of addresses one after another.

    A new page for each address takes three times as long, because a new page has no cache.
    """
    with new_page(browser) as (page, records):
        yield page, records


@pytest.fixture(scope="session")
def wait_for_mathematics():
    """A function that waits until MathJax has typeset a page."""

    def wait(page):
        if page.query_selector("script[src*=mathjax]"):
            page.wait_for_function("() => window.MathJax?.startup?.promise")
            page.evaluate("() => MathJax.startup.promise")

    return wait
