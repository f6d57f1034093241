"""A webhook for tests: answers as it is told and writes each request to a file.

Usage: webhook_server.py PORT FOLDER SECONDS: every answer takes that long.
"""

import http.server
import json
import pathlib
import sys
import time

port, folder, seconds = int(sys.argv[1]), pathlib.Path(sys.argv[2]), float(sys.argv[3])


class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        time.sleep(seconds)
        name = f"{time.monotonic_ns()}"
        part = folder / f"{name}.part"
        part.write_text(json.dumps({"head": dict(self.headers), "body": body.decode()}))
        part.rename(folder / f"{name}.hook")
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Hook)
print("ready", flush=True)
server.serve_forever()
