"""Check the built documentation in Chromium: search, downloads, copy buttons, figures, width, and accessibility.

    python -m sphinx -W -n docs SITE
    python -m tests.built_site SITE [--screenshots FOLDER]

You need Selenium (the extra ``site``), Chromium with its driver (Debian: ``chromium chromium-driver``), and npm, which
installs axe-core. The command prints what it finds, and exits with 1 if a check fails.
"""

from __future__ import annotations

import argparse
import base64
import functools
import io
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

PROJECT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = (1440, 900), (390, 844)

# What people type, and a page that answers it. It must be one of the first three results.
SEARCHES = {
    "external id": "recipes",
    "EC2": "outside-lambda",
    "CloudWatch": "monitoring",
    "notebook": "outside-lambda",
    "resume": "organization",
    "least privilege": "recipes",
    "SBOM": "recipes",
}

# Markup of Furo and Sphinx, which this project can't change: rule of axe-core, pattern of the element's HTML, reason.
OF_THE_THEME = [
    (
        "aria-required-attr",
        r'^<p class="caption" role="heading">',
        "Furo's captions in the sidebar are headings without a level",
    ),
    ("landmark-unique", r'^<aside class="(sidebar|toc)-drawer', "Furo's two sidebars have no labels"),
    ("region", r'^<span class="visually-hidden">(View|Edit) this page', "Furo's icons are outside its landmarks"),
    ("definition-list", r"^<dl>$", "Sphinx lists the arguments of a signature as definitions without terms"),
    ("page-has-heading-one", r"^<html", "Sphinx's page of search results has no title until you search"),
]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print nothing for a request."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on the loopback interface, and yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """Start Chromium with a profile of its own, which sends requests only to the site."""
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)), "")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
        flags += " disable-component-update disable-sync disable-dev-shm-usage hide-scrollbars"
        for flag in [*flags.split(), f"user-data-dir={profile}"]:
            options.add_argument(f"--{flag}")
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()


def axe_core() -> str:
    """Return the source of axe-core, which npm installs into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        install = [
            "npm",
            "install",
            "--prefix",
            folder,
            "--no-save",
            "--no-audit",
            "--no-fund",
            "--silent",
            "axe-core@4",
        ]
        subprocess.run(install, check=True, stdin=subprocess.DEVNULL)
        return (Path(folder) / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


class Site:
    """The site in a browser."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver = driver
        self.address = address

    def open(self, page: str, size: tuple[int, int] = DESKTOP, mode: str = "light") -> None:
        """Open a page in a window of a size, for a reader whose system is light or dark."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": mode}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(f"{self.address}/{page}")

    def script(self, text: str, *arguments: object) -> Any:
        """Run a script in the page."""
        return self.driver.execute_script(text, *arguments)

    def screenshot(self, path: Path) -> None:
        """Write the whole page, up to 6000 px, as a picture."""
        height = min(self.script("return document.documentElement.scrollHeight"), 6000)
        clip = {"x": 0, "y": 0, "width": self.script("return innerWidth"), "height": height, "scale": 1}
        arguments = {"captureBeyondViewport": True, "clip": clip}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", arguments)
        path.write_bytes(base64.b64decode(shot["data"]))

    def results(self, words: str) -> list[str]:
        """Return the pages that the search lists for some words, best first."""
        self.open(f"search.html?q={quote(words)}")
        summary = (By.CSS_SELECTOR, "#search-results p.search-summary")
        WebDriverWait(self.driver, 30).until(lambda driver: "found" in driver.find_element(*summary).text)
        links = self.driver.find_elements(By.CSS_SELECTOR, "#search-results ul.search > li > a")
        return [str(link.get_attribute("href")).removeprefix(self.address).strip("/") for link in links]


def check_search(site: Site) -> Iterator[str]:
    """Each search of the list shows its page among the first three results."""
    for words, page in SEARCHES.items():
        results = site.results(words)
        print(f"{words}: {len(results)} results, {', '.join(results[:3])}")
        if not any(result.startswith(f"{page}.html") for result in results[:3]):
            yield f"search: {words!r} doesn't show {page} first"


def check_downloads(site: Site, folder: Path) -> Iterator[str]:
    """Each example is a zip file of its files, and a page links to it."""
    links = {
        link for page in folder.rglob("*.html") for link in re.findall(r'href="[^"]*?([\w-]+\.zip)"', page.read_text())
    }
    for example in sorted(path for path in (PROJECT / "docs" / "examples").iterdir() if path.is_dir()):
        archive = f"{example.name}.zip"
        with urlopen(f"{site.address}/_downloads/{archive}") as answer:  # noqa: S310 - on the loopback interface
            names = set(zipfile.ZipFile(io.BytesIO(answer.read())).namelist())
        print(f"{archive}: {len(names)} files")
        if f"{example.name}/template.yaml" not in names:
            yield f"{archive}: no template.yaml"
        if archive not in links:
            yield f"{archive}: no page links to it"
        if hidden := [name for name in names if "/." in name or "__pycache__" in name]:
            yield f"{archive}: has {hidden}"


def check_copy_buttons(site: Site) -> Iterator[str]:
    """A copy button copies the command that you type, without its prompt."""
    site.driver.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite"]})
    site.open("index.html")
    block = site.driver.find_element(By.CSS_SELECTOR, ".highlight-console .highlight")
    site.script("arguments[0].scrollIntoView({block: 'center'})", block)
    button = block.find_element(By.CSS_SELECTOR, "button.copybtn")
    ActionChains(site.driver).move_to_element(block).move_to_element(button).click().perform()
    copied = site.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    print(f"copied: {copied!r}")
    if copied != "pip install xacct-lambda":
        yield f"copy button: copies {copied!r}"


def check_figures(site: Site, mode: str) -> Iterator[str]:
    """Each figure follows the mode of the reader's system, and has a text for people who can't see it."""
    figures = site.script(
        "return [...document.querySelectorAll('article img[src$=\".svg\"]')]"
        ".map(image => [image.getAttribute('src'), getComputedStyle(image).filter, image.alt])"
    )
    for source, applied, text in figures:
        if (applied == "none") != (mode == "light"):
            yield f"{source} doesn't follow the mode"
        if not text:
            yield f"{source} has no text"


def check_width(site: Site, width: int) -> Iterator[str]:
    """The page doesn't scroll sideways. Blocks of code and tables do."""
    if (needed := site.script("return document.documentElement.scrollWidth")) > width:
        yield f"needs {needed} px"


def check_source_links(site: Site, page: str) -> Iterator[str]:
    """Each page links to its source and to the editor, if the build knows the repository's address."""
    found = [link.get_attribute("href") for link in site.driver.find_elements(By.CSS_SELECTOR, ".content a[rel=edit]")]
    name = os.environ.get("GITHUB_REPOSITORY") if os.environ.get("GITHUB_SERVER_URL") == "https://github.com" else None
    if name and page != "search.html" and not any(f"/{name}/edit/main/docs/" in str(link) for link in found):
        yield "has no link to the editor"
    if name and "OWNER/REPOSITORY" in site.driver.find_element(By.TAG_NAME, "article").text:
        yield "doesn't name the repository"
    if not name and found:
        yield f"links to {found}"


class Accessibility:
    """What axe-core finds: nothing that this project can change."""

    def __init__(self) -> None:
        self.source = axe_core()
        self.passes = 0
        self.of_the_theme: set[str] = set()

    def check(self, site: Site) -> Iterator[str]:
        """Yield the violations of a page."""
        site.script(self.source)
        found = site.driver.execute_async_script(
            "const done = arguments[0];"
            "axe.run({resultTypes: ['violations']}).then(done, error => done({error: String(error)}))"
        )
        if "error" in found:
            yield found["error"]
            return
        self.passes += len(found["passes"])
        for rule in found["violations"]:
            for node in rule["nodes"]:
                reasons = [
                    reason
                    for name, html, reason in OF_THE_THEME
                    if name == rule["id"] and re.search(html, node["html"])
                ]
                if reasons:
                    self.of_the_theme.add(f"{rule['id']}: {reasons[0]}")
                else:
                    yield f"{rule['id']}: {rule['help']}: {node['target']}: {node['html'][:200]}"


def check_pages(site: Site, pages: list[str], screenshots: Path | None) -> Iterator[str]:
    """Each page is readable in a wide window and on a phone, in light and in dark mode."""
    accessibility = Accessibility()
    for page in pages:
        for size, mode in ((DESKTOP, "light"), (PHONE, "dark")):
            site.open(page, size, mode)
            failures = [*check_figures(site, mode), *check_width(site, size[0]), *check_source_links(site, page)]
            failures += accessibility.check(site)
            yield from (f"{page}, {size[0]} px, {mode}: {failure}" for failure in failures)
        for size, mode in itertools.product((DESKTOP, PHONE), ("light", "dark")) if screenshots else ():
            site.open(page, size, mode)
            name = page.removesuffix(".html").replace("/", "-")
            site.screenshot(screenshots / f"{name}-{size[0]}-{mode}.png")
    print(f"axe-core: {len(pages)} pages, {accessibility.passes} rules passed")
    for line in sorted(accessibility.of_the_theme):
        print(f"axe-core: of the theme: {line}")


def main() -> int:
    """Run the checks, and print what fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("site", type=Path, help="folder of the built documentation")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="write a picture of each page to a folder")
    parser.add_argument("--pages", nargs="+", help="check only these pages")
    options = parser.parse_args()
    pages = options.pages or sorted(path.relative_to(options.site).as_posix() for path in options.site.rglob("*.html"))
    failures: list[str] = []
    if options.screenshots:
        options.screenshots.mkdir(parents=True, exist_ok=True)
    with served(options.site) as address, browser() as driver:
        driver.set_script_timeout(120)
        site = Site(driver, address)
        failures += check_search(site)
        failures += check_downloads(site, options.site)
        failures += check_copy_buttons(site)
        failures += check_pages(site, pages, options.screenshots)
    for failure in failures:
        print(f"FAILED {failure}")
    print(f"{len(pages)} pages, {len(failures)} failures")
    return bool(failures)


if __name__ == "__main__":
    raise SystemExit(main())
