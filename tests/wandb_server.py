"""A stand-in for the W&B service on this machine: as much of its HTTP interface as one run needs, and its failures."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUCKET = {
    "id": "UnVuOjE=",
    "historyLineCount": 0,
    "project": {"id": "UHJvajox", "name": "ebm_lab", "entity": {"id": "e", "name": "me"}},
}
VIEWER = {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}


class Service:
    """`how`: ok; 401, which refuses the key; silent, which never answers; slow, which takes `delay` seconds; gone,
    which ends every connection. `then`: what it becomes once a run has been opened. `asked`: the operations it was
    sent; `history`: the lines of metrics that arrived, each at the place it was sent for."""

    def __init__(self, how, then=None, delay=0.0):
        self.how, self.then, self.delay = how, then or how, delay
        self.asked, self.history, self.over = [], [], threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                """Says nothing."""

            def answer(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if service.how in ("gone", "silent"):
                    if service.how == "silent":
                        service.over.wait()
                    self.close_connection = True
                    return
                if service.how == "slow":
                    service.over.wait(service.delay)
                status, content = (
                    (401, {"errors": []}) if service.how == "401" else (200, service.reply(self.path, body))
                )
                text = json.dumps(content).encode()
                try:
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)
                except OSError:
                    self.close_connection = True
                if "UpsertBucket" in service.asked:
                    service.how = service.then

            do_GET = do_POST = do_PUT = answer

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads, self.server.handle_error = True, lambda *_: None
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def reply(self, path, body):
        """What a service in order answers."""
        if not path.endswith("graphql"):
            if path.endswith("file_stream"):
                files = json.loads(body).get("files") or {}
                lines = files.get("wandb-history.jsonl") or {"offset": len(self.history), "content": []}
                self.history[lines["offset"] :] = lines["content"]
            return {}
        asked = json.loads(body)
        self.asked.append(asked["operationName"])
        given = asked.get("variables") or {}
        name, names = given.get("name") or "run", given.get("files") or []
        uploads = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in names]
        return {
            "data": {
                "viewer": VIEWER,
                "serverInfo": {"features": [], "cliVersionInfo": {"max_cli_version": "9"}},
                "model": self.known(name) if asked["operationName"] == "RunResumeStatus" else None,
                "entity": {"organization": None},
                "upsertBucket": {"bucket": {**BUCKET, "name": name, "displayName": name}, "inserted": True},
                "createRunFiles": {"runID": "run", "uploadHeaders": [], "files": uploads},
            }
        }

    def known(self, name):
        """What the service says of a run that is to be gone on with."""
        if not self.history:
            return None
        texts = {"eventsTail": "[]", "historyTail": json.dumps(self.history[-1:]), "config": "{}"}
        counts = {"historyLineCount": len(self.history), "eventsLineCount": 0, "logLineCount": 0}
        more = {"summaryMetrics": self.history[-1], "tags": [], "wandbConfig": '{"t": {}}', "displayName": name}
        return {"id": "m", "name": "ebm_lab", "bucket": {**BUCKET, "name": name, **texts, **counts, **more}}

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
