"""The studio's map in a Chromium without a graphics card: first frame, and while dragging.

Points lie around the centres of twenty groups. First frame: from the request of the page
to the first picture with the points, what the database and the studio take included.
Frames: the time between two calls of requestAnimationFrame while the map is dragged,
and while it is drawn zoomed in. Wants Chromium, chromedriver and selenium.

    python benchmarks/studio_map.py [--rows 100000] [--screenshot FILE]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psycopg
import uvicorn
from common import new_database, server, show
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from pgembed.studio import StudioSettings, create_app

TOKEN = "a-token-of-the-benchmark"
FLAGS = (
    *("headless", "no-sandbox", "use-angle=swiftshader", "enable-unsafe-swiftshader"),
    *("disable-dev-shm-usage", "disable-background-networking", "no-first-run"),
)
SIZE = (1280, 900)
FRAMES = """
window.frames_ = [];
let last = performance.now();
const step = (now) => { frames_.push(now - last); last = now; requestAnimationFrame(step); };
requestAnimationFrame(step);
"""


def fill(dsn: str, rows: int) -> None:
    """Make a table, its map and its clusters; nobody asks for vectors."""
    random = np.random.default_rng(0)
    groups = random.integers(0, 20, rows)
    places = random.normal(scale=40, size=(20, 2))[groups]
    places += random.normal(scale=6, size=(rows, 2))
    with psycopg.connect(dsn, autocommit=True) as conn, conn.cursor() as cursor:
        cursor.execute(
            "select pgembed.register_model('hashing', 64, provider => 'hashing');"
            "create table article (id int primary key, title text, price real);"
            "create table article_map (id int primary key, x real, y real);"
            "create table article_clusters"
            " (id int primary key, cluster integer, label text)"
        )
        statements = {
            "article": lambda i: (i, f"Article {i} of group {groups[i]}", i % 977),
            "article_map": lambda i: (i, *places[i].tolist()),
            "article_clusters": lambda i: (i, int(groups[i]), f"group {groups[i]}"),
        }
        for table, row in statements.items():
            with cursor.copy(f"copy {table} from stdin".encode()) as copy:
                for i in range(rows):
                    copy.write_row(row(i))
        cursor.execute("select pgembed.create_embedding('article', 'title')")
        cursor.execute("analyze")


@contextmanager
def studio(dsn: str) -> Iterator[str]:
    """Serve the studio in a thread; gives its address."""
    app = create_app(dsn, StudioSettings(token=TOKEN))
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    thread.join(20)


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """Start a browser without a graphics card."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    with tempfile.TemporaryDirectory() as folder:
        for flag in (
            *FLAGS,
            f"window-size={SIZE[0]},{SIZE[1]}",
            f"user-data-dir={folder}",
        ):
            options.add_argument(f"--{flag}")
        driver = webdriver.ChromeService(shutil.which("chromedriver"))
        browser = webdriver.Chrome(options, driver)
        yield browser
        browser.quit()


def drag(browser: webdriver.Chrome) -> list[float]:
    """Drag the map about, and give the times between frames in milliseconds."""
    canvas = browser.find_element(By.ID, "plane")
    browser.execute_script(FRAMES)
    actions = ActionChains(browser, duration=16).move_to_element(canvas)
    actions.click_and_hold()
    for turn in range(120):
        actions.move_by_offset(*((4, 2) if turn // 30 % 2 == 0 else (-4, -2)))
    actions.release().perform()
    frames: list[float] = browser.execute_script("return frames_")
    return frames[2:]


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--screenshot", type=Path)
    options = parser.parse_args()
    first: list[float] = []
    with server() as running:
        dsn = new_database(running, "map")
        fill(dsn, options.rows)
        with studio(dsn) as address, chromium() as browser:
            browser.get(f"{address}/login?token={TOKEN}")
            drawn = "return performance.getEntriesByName('map-drawn')[0]?.startTime"
            for _ in range(5):
                browser.get(f"{address}/map")
                WebDriverWait(browser, 60).until(
                    lambda page: page.execute_script(drawn)
                )
                first.append(browser.execute_script(drawn))
            whole = drag(browser)
            for _ in range(4):
                browser.find_element(By.CSS_SELECTOR, "[data-do=in]").click()
            near = drag(browser)
            if options.screenshot:
                browser.save_screenshot(str(options.screenshot))
            renderer = browser.execute_script(
                "const gl = document.createElement('canvas').getContext('webgl');"
                "return gl.getParameter(gl.getExtension('WEBGL_debug_renderer_info')"
                ".UNMASKED_RENDERER_WEBGL)"
            )
    print(renderer)
    show(
        f"{options.rows:,} points: milliseconds",
        ("", "median", "95 %", "worst"),
        [
            (name, float(np.median(times)), float(np.quantile(times, 0.95)), max(times))
            for name, times in (
                ("first frame", first),
                ("frames, the whole map dragged", whole),
                ("frames, zoomed in five times", near),
            )
        ],
    )


if __name__ == "__main__":
    main()
