"""A real PostgreSQL server for one test: its own folder and port, run by a user that isn't root."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PASSWORD = "a%40b/c-not-a-secret"  # an address has it percent-encoded once more
ENCODED = "a%2540b%2Fc-not-a-secret"


def programs() -> Path | None:
    """Returns the folder of the newest PostgreSQL on this machine, where Debian puts it or on PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Yields the address of the database `mlflow`; everything that the server writes lies in the folder."""
    tools, data, password = programs(), folder / "data", folder / "password"
    assert tools is not None
    password.write_text(PASSWORD)
    as_user: dict[str, Any] = {}
    if os.getuid() == 0:  # PostgreSQL refuses root
        nobody = pwd.getpwnam("nobody")
        as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        for path in (folder, password):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, cwd=folder, timeout=120, **as_user)

    run(str(tools / "initdb"), f"--pgdata={data}", "--username=mlflow", "--auth=scram-sha-256", f"--pwfile={password}")
    settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    control = [str(tools / "pg_ctl"), f"--pgdata={data}", "--wait"]
    run(*control, "start", f"--log={folder / 'server.log'}", f"--options={settings}")
    try:
        address = f"postgresql://mlflow:{ENCODED}@127.0.0.1:{port}"
        import psycopg

        with contextlib.closing(psycopg.connect(f"{address}/postgres")) as connection:
            connection.autocommit = True
            connection.cursor().execute("CREATE DATABASE mlflow")
        yield f"{address}/mlflow"
    finally:
        run(*control, "stop", "--mode=immediate")
