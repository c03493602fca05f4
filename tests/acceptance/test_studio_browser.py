"""The studio in a real Chromium, as people use it."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uvicorn
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.ui import WebDriverWait

from pgembed.studio import StudioSettings, create_app
from tests.fixtures.postgres import prepared_by
from tests.fixtures.running import running_service
from tests.integration.studio.conftest import TOKEN, make_tables

AXE = Path(__file__).parents[2] / ".venv/clients/browser/node_modules/axe-core"
FLAGS = (
    *("headless", "no-sandbox", "disable-quic", "no-first-run"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
    *("disable-dev-shm-usage", "use-angle=swiftshader", "enable-unsafe-swiftshader"),
)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"user-data-dir={tmp_path}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    chrome.set_page_load_timeout(30)
    yield chrome
    chrome.quit()


@contextmanager
def listening(dsn: str) -> Iterator[str]:
    """Serve the studio in a thread; gives its address."""
    config = uvicorn.Config(
        create_app(dsn, StudioSettings(token=TOKEN)), port=0, log_level="warning"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
@prepared_by(make_tables)
def address(conn: psycopg.Connection[Any], dsn: str) -> Iterator[str]:
    """Give the address of a studio beside an encoder service."""
    with running_service(dsn), listening(dsn) as found:
        yield found


def seen(browser: webdriver.Chrome, css: str) -> WebElement:
    """Wait for an element."""
    return WebDriverWait(browser, 20).until(
        lambda page: page.find_element(By.CSS_SELECTOR, css)
    )


def overflow(browser: webdriver.Chrome, width: int) -> int:
    """Say how much of the page is beside a window of this width."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    beside = "return document.documentElement.scrollWidth - innerWidth"
    return int(browser.execute_script(beside))


def test_a_search_from_the_first_address_to_the_sql(
    browser: webdriver.Chrome, address: str
) -> None:
    """With the keyboard, by htmx, under the content security policy."""

    def wait(css: str) -> WebElement:
        return seen(browser, css)

    browser.get(f"{address}/login?token={TOKEN}")
    query = wait("[name=q]")
    assert TOKEN not in browser.current_url
    Select(wait("[name=table]")).select_by_visible_text("public.article")
    wait("option[value=price]")
    query.send_keys("bold tea", Keys.ENTER)
    wait("#arm-both")
    titles = [h3.text for h3 in browser.find_elements(By.CSS_SELECTOR, ".hit h3")]
    assert any(title.startswith("<script>alert(1)") for title in titles)
    assert "q=bold" in browser.current_url
    assert "ef_search" not in browser.current_url  # it was left empty

    wait("details.knobs summary").send_keys(Keys.SPACE)
    Select(wait("[name=column]")).select_by_value("price")
    Select(wait("[name=operator]")).select_by_value("$gt")
    wait("[name=value]").send_keys("5", Keys.ENTER)
    wait(".facts .grow code")
    assert wait(".facts .grow code").text == '{"price": {"$gt": 5}}'
    # A row in three columns: one judgement, and the keyboard stays where it is.
    thumb = wait("#results [data-thumb=up]")
    key = wait("#results .thumbs").get_attribute("data-key")
    thumb.send_keys(Keys.SPACE)

    def pressed() -> list[str | None]:
        forms = "//form[button[@aria-pressed='true']]"
        found = browser.find_elements(By.XPATH, forms)
        return [one.get_attribute("data-key") for one in found]

    WebDriverWait(browser, 20).until(lambda _: len(pressed()) == 3)
    assert set(pressed()) == {key}
    assert browser.switch_to.active_element == thumb
    assert (thumb.get_attribute("aria-label") or "").startswith("Relevant: ")

    wait(".copies summary").send_keys(Keys.ENTER)
    assert "pgembed.bm25_search(" in wait(".copies pre").text

    browser.refresh()
    wait("#arm-both")
    assert wait("[name=value]").get_attribute("value") == "5"
    assert pressed() == [key] * 3
    wait("#results [data-thumb=up]").send_keys(Keys.ENTER)
    WebDriverWait(browser, 20).until(lambda _: not pressed())
    wait("#results [data-thumb=down]").send_keys(Keys.SPACE)
    WebDriverWait(browser, 20).until(lambda _: len(pressed()) == 3)
    for width in (390, 1280):
        assert overflow(browser, width) <= 0
    browser.get(f"{address}/health")
    wait(".finding, #findings-title + div .line")
    assert not browser.get_log("browser")  # type: ignore[no-untyped-call]


# How many pixels of the picture have a colour: it is kept only while it is drawn.
COLOURED = """
const canvas = document.getElementById("points");
const gl = canvas.getContext("webgl");
const pixels = new Uint8Array(4 * canvas.width * canvas.height);
const done = arguments[0];
const before = gl.drawArrays.bind(gl);
gl.drawArrays = (...given) => {
  before(...given);
  gl.readPixels(0, 0, canvas.width, canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  gl.drawArrays = before;
  done(pixels.filter((value, place) => place % 4 === 3 && value > 0).length);
};
document.querySelector("[data-do=whole]").click();
"""


def test_an_outline_on_the_map_becomes_a_condition(
    browser: webdriver.Chrome, address: str, conn: psycopg.Connection[Any]
) -> None:
    conn.execute(
        "create table article_map as"
        " select id, id::real as x, id::real as y from article"
    )
    browser.get(f"{address}/login?token={TOKEN}")
    browser.get(f"{address}/map?table=public.article&colour=column:category")
    assert overflow(browser, 1280) <= 0
    names = [one.text.partition("\n")[0] for one in legend(browser)]
    assert names == ["animal", "drink", "</option><script>"]
    assert "5 rows, as in public.article_map" in seen(browser, "#map-state").text
    assert 50 < browser.execute_async_script(COLOURED) < 1000

    # The points are on the diagonal: the outline is around its lower half.
    plane = seen(browser, "#plane")
    width, height = plane.size["width"], plane.size["height"]
    seen(browser, "[data-do=lasso]").click()
    drawing = ActionChains(browser, duration=20)
    drawing.move_to_element_with_offset(plane, 10 - width // 2, height // 2 - 10)
    drawing.click_and_hold().move_by_offset(0, -height // 2 - 30)
    drawing.move_by_offset(width // 2 + 30, 0).move_by_offset(0, height // 2 + 30)
    drawing.release().perform()
    seen(browser, "#picked .hit")
    assert sorted(keys(browser)) == ["1", "2", "3"]
    copied = [one.text for one in browser.find_elements(By.CSS_SELECTOR, "#picked pre")]
    assert json.loads(copied[1]) == {"id": {"$in": [1, 2, 3]}}
    for statement in (copied[0], copied[2]):
        rows = conn.execute(statement.encode()).fetchall()
        assert sorted(row[0] for row in rows) == [1, 2, 3]

    # With the keyboard: what is hidden is not listed.
    legend(browser)[0].send_keys(Keys.SPACE)
    plane.send_keys(Keys.ENTER)
    WebDriverWait(browser, 20).until(lambda page: sorted(keys(page)) == ["3", "4", "5"])
    plane.send_keys("++", Keys.ARROW_UP, Keys.ARROW_LEFT, "0", Keys.ESCAPE)
    assert keys(browser) == []

    seen(browser, "[name=q]").send_keys("green tea", Keys.ENTER)
    seen(browser, "#picked .score")
    assert keys(browser)[0] == "3"

    # Five points from corner to corner: the middle one is in the middle.
    ActionChains(browser).move_to_element(plane).perform()
    assert "green tea" in seen(browser, "#tip:not([hidden])").text
    assert overflow(browser, 390) <= 0
    assert not browser.get_log("browser")  # type: ignore[no-untyped-call]


def legend(browser: webdriver.Chrome) -> list[WebElement]:
    """Give the entries of the legend."""
    seen(browser, "#legend button")
    return browser.find_elements(By.CSS_SELECTOR, "#legend button")


def keys(browser: webdriver.Chrome) -> list[str]:
    """Give the keys of the rows beside the map, at one moment."""
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('#picked .hit')]"
        ".map((row) => row.dataset.key)"
    )
    return found


def violations(browser: webdriver.Chrome) -> list[str]:
    """Name what axe-core finds serious, with the elements that it is about."""
    browser.execute_script((AXE / "axe.min.js").read_text())
    found = browser.execute_async_script(
        "const done = arguments[0]; axe.run().then(found => done(found.violations"
        ".filter(one => ['serious', 'critical'].includes(one.impact))"
        ".map(one => one.id + ' ' + one.nodes.map(node => node.target).join(' '))))"
    )
    return list(found)


def test_axe_finds_nothing_serious(browser: webdriver.Chrome, address: str) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed")
    browser.set_script_timeout(60)
    browser.get(f"{address}/login?token={TOKEN}")
    WebDriverWait(browser, 20).until(
        lambda page: page.find_element(By.CSS_SELECTOR, "[name=q]")
    )
    table = "?table=public.article"
    serious: dict[str, list[str]] = {}
    for path in (
        f"/{table}&q=tea&knobs=1",
        f"/rows{table}&kind=duplicates&min_similarity=0.3",
        f"/rows{table}&kind=outliers",
        f"/map{table}&colour=column:title",
        "/health",
        f"/map{table}",
        "/docs",
    ):
        browser.get(f"{address}{path}")
        if path.startswith(f"/{table}"):
            browser.find_element(By.CSS_SELECTOR, "[data-thumb=up]").click()
            browser.execute_script(
                "document.querySelectorAll('details').forEach(d => { d.open = true; })"
            )
        if path.startswith("/map"):
            legend(browser)
            browser.find_element(By.ID, "plane").send_keys(Keys.ENTER)
            seen(browser, "#picked .hit")
        for scheme in ("light", "dark"):
            browser.execute_cdp_cmd(
                "Emulation.setEmulatedMedia",
                {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
            )
            serious[f"{path} {scheme}"] = violations(browser)
    assert serious == {page: [] for page in serious}
