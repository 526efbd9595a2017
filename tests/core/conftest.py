"""Makes the helpers beside this file importable from the test folders below it; shares URIs and chat servers."""

from __future__ import annotations

import http.server
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chat_server import Reply, Server

from drirl_core.store.artifacts import ArtifactStore


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A real S3 server on this machine, found and trusted through the usual environment variables."""
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "testing"),
            ("AWS_SECRET_ACCESS_KEY", "testing"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            patch.setenv(name, value)
        import s3fs

        bucket = f"drirl-test-{uuid.uuid4().hex}"  # the server's memory is that of the process
        s3fs.S3FileSystem(use_listings_cache=False).mkdir(bucket)
        yield f"s3://{bucket}"
        s3fs.S3FileSystem.clear_instance_cache()  # they know the port of this server
    server.stop()


@pytest.fixture(params=["memory", "file"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"
    return f"memory://{uuid.uuid4().hex}" if request.param == "memory" else f"file://{tmp_path / 'shared'}"


@pytest.fixture
def host(uri: str, tmp_path: Path) -> Callable[[str], ArtifactStore]:
    """Stores of different machines on the same root."""
    return lambda name: ArtifactStore(uri, tmp_path / name)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start chat servers that play a script of bodies or (status, headers, body), or call a function; stop them at the end."""
    running: list[http.server.ThreadingHTTPServer] = []

    def start(*script: Reply | bytes, answer: Callable[[str], Reply] | None = None) -> Server:
        server = Server([(200, {}, reply) if isinstance(reply, bytes) else reply for reply in script], answer)
        running.append(server.start())
        return server

    yield start
    for listening in running:
        listening.shutdown()
        listening.server_close()
