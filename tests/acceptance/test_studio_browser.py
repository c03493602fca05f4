"""The studio in a real Chromium, as people use it."""

from __future__ import annotations

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
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.ui import WebDriverWait

from pgembed.studio import StudioSettings, create_app
from tests.fixtures.postgres import prepared_by
from tests.fixtures.running import running_service
from tests.integration.studio.conftest import TOKEN, make_tables

FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
    "disable-dev-shm-usage",
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


def test_a_search_from_the_first_address_to_the_sql(
    browser: webdriver.Chrome, address: str
) -> None:
    """With the keyboard, by htmx, under the content security policy."""

    def wait(css: str) -> WebElement:
        return WebDriverWait(browser, 20).until(
            lambda page: page.find_element(By.CSS_SELECTOR, css)
        )

    def overflow() -> int:
        width = "return document.documentElement.scrollWidth - innerWidth"
        return int(browser.execute_script(width))

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
    wait(".facts code")
    assert wait(".facts code").text == '{"price": {"$gt": 5}}'
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
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        assert overflow() <= 0
    browser.get(f"{address}/health")
    wait(".finding, #findings-title + div .line")
    assert not browser.get_log("browser")  # type: ignore[no-untyped-call]
