"""The documentation as a site: it builds without a warning, and needs no network."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from pgembed.errors import SqlError

pytest.importorskip("mkdocs", reason="the extra `docs` is missing")

ROOT = Path(__file__).parents[2]
# What a browser fetches by itself.
_LOADED = re.compile(
    r"""<(?:script|link|img|iframe)\b[^>]*?(?:src|href)="(https?:[^"]+)"""
)
_NOT_LOADED = re.compile(r'<link[^>]*rel="(?:canonical|edit|next|prev)"[^>]*>')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = _build("--site-dir", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _build(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts" / "docs", *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_broken_link_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Page\n\n[nowhere](nowhere.md)\n")
    config = tmp_path / "mkdocs.yml"
    config.write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\nsite_dir: site\nnav: null\nplugins: []\n"
    )
    done = _build("--config-file", config)
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        loaded = _LOADED.findall(_NOT_LOADED.sub("", page.read_text()))
        assert not loaded, page.name


def test_each_sqlstate_has_an_anchor(site: Path) -> None:
    page = (site / "errors.html").read_text()
    states = [str(kind.sqlstate).lower() for kind in SqlError.__subclasses__()]
    assert [state for state in states if f'id="{state}"' not in page] == []


def test_python_names_are_documented(site: Path) -> None:
    page = (site / "reference" / "python.html").read_text()
    for name in ("pgembed.create_embedding", "pgembed.hybrid_search"):
        assert f'id="{name}"' in page
    # Options that are declared once are shown with each function that takes them.
    assert "rrf_k" in page
