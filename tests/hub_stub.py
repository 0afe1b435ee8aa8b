"""A small Hugging Face hub on localhost: repositories in memory, enough of the protocol to push and fetch."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Attributes: `url`; `repos`, name -> file -> bytes; `requests`, every method and path asked for."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def handle_any(self) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                status, answer, headers = hub.answer(self.command, self.path.split("?")[0], body)
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            do_GET = do_HEAD = do_POST = do_PUT = handle_any

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        def plain(record: object, status: int = 200, **headers: str) -> tuple[int, bytes, dict[str, str]]:
            return status, json.dumps(record).encode(), {"Content-Type": "application/json", **headers}

        if path == "/api/repos/create":
            record = json.loads(body)
            name = (
                f"{record['organization']}/{record['name']}" if record.get("organization") else record["name"]
            )
            self.repos.setdefault(name, {})
            return plain({"url": f"{self.url}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return plain({"errors": [], "warnings": []})
        if found := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/preupload/main", path):
            files = json.loads(body)["files"]
            modes = [
                {**f, "uploadMode": "lfs" if f["path"].endswith("safetensors") else "regular"} for f in files
            ]
            return plain({"files": [{**f, "shouldIgnore": False} for f in modes]})
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = [
                {**o, "actions": {"upload": {"href": f"{self.url}/lfs/{o['oid']}"}}, "authenticated": True}
                for o in objects
            ]
            return plain({"transfer": "basic", "objects": actions})
        if method == "PUT" and path.startswith("/lfs/"):
            self.uploads[path.removeprefix("/lfs/")] = body
            return plain({})
        if found := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/commit/main", path):
            for line in body.splitlines():
                record = json.loads(line)
                value = record["value"]
                if record["key"] == "file":
                    self.repos[found[1]][value["path"]] = base64.b64decode(value["content"])
                elif record["key"] == "lfsFile":
                    self.repos[found[1]][value["path"]] = self.uploads[value["oid"]]
            return plain(
                {"commitUrl": f"{self.url}/{found[1]}/commit/0", "commitOid": self._commit(found[1])}
            )
        if found := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)(/revision/[\w.]+)?", path):
            if found[1] not in self.repos:
                return plain({"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"})
            files = [{"rfilename": name} for name in self.repos[found[1]]]
            return plain({"id": found[1], "sha": self._commit(found[1]), "siblings": files, "private": False})
        if found := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/tree/(\w+)", path):
            return plain(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in self.repos[found[1]].items()
                ]
            )
        if found := re.fullmatch(r"/([\w-]+/[\w-]+)/resolve/(\w+)/(.+)", path):
            data = self.repos.get(found[1], {}).get(found[3])
            if data is None:
                return plain({"error": "Entry not found"}, 404, **{"X-Error-Code": "EntryNotFound"})
            etag = f'"{hashlib.sha256(data).hexdigest()}"'
            return 200, data, {"ETag": etag, "X-Repo-Commit": self._commit(found[1])}
        return plain({"error": f"not in the stub: {method} {path}"}, 404)

    def _commit(self, name: str) -> str:
        files = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in self.repos[name].items())
        return hashlib.sha1(json.dumps(files).encode()).hexdigest()
