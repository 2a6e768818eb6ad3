"""The hub: what it holds, who asked for what, and which faults are to come."""

import threading
from http.server import ThreadingHTTPServer

from loopback.pages import Pages
from loopback.transport import Fault


class FakeHub:
    """Enough of the hub's HTTP interface for the real client, and faults on demand.

    Large files are redirected to a second port, as the real one redirects to its CDN.
    """

    def __init__(self):
        self.repositories, self.objects = {}, {}
        self.requests, self.faults = [], []
        handler = type("PagesOfThisHub", (Pages,), {"hub": self})
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        self.url, self.cdn = (f"http://127.0.0.1:{s.server_address[1]}" for s in self.servers)
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def fault(self, path: str, kind: str, **options) -> None:
        self.faults.append(Fault(path, kind, **options))

    def pending_fault(self, method: str, path: str):
        for fault in self.faults:
            if fault.times > 0 and fault.path in path and method == fault.method:
                fault.times -= 1
                return fault
        return None

    def asked(self, method: str, part: str) -> list:
        return [r for r in self.requests if r["method"] == method and part in r["path"]]

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()
