"""A stand-in for a Kubernetes cluster: it takes Jobs over the real API, and runs each pod as a process on this machine.

It has no volumes, nodes, devices or Secrets; the tests check these in the manifests.
"""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml


class Cluster:
    """Accepts Jobs on a local port until it is closed.

    Args:
        folder: for the output of the pods and the file with which clients find the cluster.
    """

    def __init__(self, folder: Path) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, subprocess.Popen[bytes]] = {}
        self.folder = folder
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                cluster.start(self.path, job)
                self._answer(201, job)

            def do_GET(self) -> None:
                name = self.path.removesuffix("/status").rpartition("/")[2]
                self._answer(200, cluster.status(name)) if name in cluster.jobs else self._answer(404, {})

            def _answer(self, code: int, content: dict[str, Any]) -> None:
                body = json.dumps(content).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "clusters": [
                        {"name": "here", "cluster": {"server": f"http://127.0.0.1:{self.server.server_port}"}}
                    ],
                    "users": [{"name": "me", "user": {}}],
                    "contexts": [{"name": "test", "context": {"cluster": "here", "user": "me"}}],
                    "current-context": "test",
                }
            )
        )

    def start(self, path: str, job: dict[str, Any]) -> None:
        name, container = job["metadata"]["name"], job["spec"]["template"]["spec"]["containers"][0]
        self.jobs[name] = {**job, "path": path}
        given = {entry["name"]: entry["value"] for entry in container["env"]}
        # Pass on nothing of this environment: a pod gets its variables from the manifest or its image (PATH).
        environment = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(self.folder),
            **given,
        }
        with (self.folder / f"{name}.log").open("wb") as log:
            self.pods[name] = subprocess.Popen(
                container["args"], cwd="/", env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def status(self, name: str) -> dict[str, Any]:
        code = self.pods[name].poll()
        state = {"active": 1} if code is None else {"failed": 1} if code else {"succeeded": 1}
        return {**{key: value for key, value in self.jobs[name].items() if key != "path"}, "status": state}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        for pod in self.pods.values():
            pod.kill()
            pod.wait()
