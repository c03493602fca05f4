"""What is in the images, and what is not."""

from __future__ import annotations

from testcontainers.core.docker_client import DockerClient

from pgembed import schema
from tests.containers.support import Cluster, run_once

MEGABYTE = 1_000_000


def test_new_database_has_the_schema_of_this_library(cluster: Cluster) -> None:
    found = schema.version(cluster.database().dsn)
    assert found is not None
    assert found.is_current


def test_database_image_has_no_python(postgres_image: str) -> None:
    code, _ = run_once(
        postgres_image, "-c", "! command -v python3 python pip", entrypoint="sh"
    )
    assert code == 0


def test_the_schema_of_a_new_database_is_no_superusers(cluster: Cluster) -> None:
    owner = (
        "select r.rolname, r.rolsuper, r.rolcanlogin from pg_namespace as n"
        " join pg_roles as r on r.oid = n.nspowner where n.nspname = 'pgembed'"
    )
    assert cluster.psql("postgres", owner) == "pgembed_owner|f|f"
    member = "select pg_has_role('pgembed_encoder', 'pgembed_owner', 'usage')"
    assert cluster.psql("postgres", member) == "t"


def test_encoder_image_runs_as_a_user_who_may_write_nothing_but_the_cache(
    encoder_image: str,
) -> None:
    script = """
        test "$(id -u)" = 10001
        ! touch /opt/pgembed/x
        ! touch /etc/x
        touch /var/cache/pgembed/x
    """
    code, output = run_once(encoder_image, "-ec", script, entrypoint="sh")
    assert code == 0, output


def test_encoder_image_is_small(encoder_image: str) -> None:
    """Nothing of CUDA, no compiler, no package manager's cache, no tests."""
    script = """
        cd /opt/pgembed/lib/python3.*/site-packages
        ls -d nvidia* triton* pip pytest* 2>/dev/null
        ls -d torch/test torch/include numpy/tests numpy/_core/tests 2>/dev/null
        find /opt /var -name '*.whl' 2>/dev/null
        ls -d /build 2>/dev/null
        command -v gcc
        ls -A /root/.cache 2>/dev/null
        true
    """
    code, output = run_once(encoder_image, "-c", script, entrypoint="sh")
    assert (code, output) == (0, "")
    image = DockerClient().client.images.get(encoder_image)
    assert image.attrs["Size"] < 1250 * MEGABYTE


def test_schema_is_made_by_a_job_and_made_only_once(
    encoder_image: str, cluster: Cluster
) -> None:
    with cluster.new_database(installed=False) as database:
        for expected in ("is installed", "nothing to do"):
            code, output = run_once(
                encoder_image,
                *("install", "--upgrade"),
                environment=database.inside,
                network=cluster.network.name,
                read_only=True,
                cap_drop=["ALL"],
            )
            assert code == 0, output
            assert expected in output
        found = schema.version(database.dsn)
        assert found is not None
        assert found.is_current


def test_loopback_is_made_where_dblink_is_there(cluster: Cluster) -> None:
    has = "select count(*) from pg_available_extensions where name = 'dblink'"
    made = "select count(*) from pg_foreign_server where srvname = 'pgembed_loopback'"
    assert cluster.psql("postgres", made) == cluster.psql("postgres", has)


def test_health_check_program_says_why_not(encoder_image: str) -> None:
    code, output = run_once(
        encoder_image,
        "/usr/local/lib/pgembed/healthcheck.py",
        entrypoint="python3",
    )
    assert code == 1
    assert "no answer" in output
