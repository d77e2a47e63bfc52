"""Small real programs that speak the interface `yizhan up` relies on.

They take the command line, open the ports of the same settings file and answer the same health
questions as homeserver, push gateway and bots, so that the supervisor is tested on processes.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SERVER = """
import http.server, json, os, signal, sys
from pathlib import Path
from yizhan_config.settings import load

def serve(address, answers):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(answers.get(self.path, {{}})).encode()
            self.send_response(200 if self.path in answers else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = http.server.ThreadingHTTPServer((address.host, address.port), Answer)
    print("listening", file=sys.stderr, flush=True)
    (settings.data / "{name}.pid").write_text(str(os.getpid()))

    def end(*_):
        (settings.data / "{name}.ended").write_text("in order")
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    server.serve_forever()

words = sys.argv[1:]
files = {{"--config": None, "--data": None}}
while words and words[0] in files:
    name, value, *words = words
    files[name] = Path(value)
settings = load(*files.values())
refusal = settings.data / "{name}.refusal"
if refusal.exists():
    print("log line\\n" + refusal.read_text(), file=sys.stderr)
    sys.exit(78)
"""

_HOMESERVER = """
accounts = settings.data / "accounts.json"
known = json.loads(accounts.read_text()) if accounts.exists() else []
if words == ["user", "list", "--json"]:
    print(json.dumps(known))
elif words[:2] == ["user", "add"]:
    assert words[-2:] == ["--password-stdin", "--json"] and words[3] == "--display-name", words
    user_id = f"@{words[2]}:{settings.server_name}"
    assert user_id not in [account["user_id"] for account in known]
    if (settings.data / "no-more-accounts").exists() and known:
        sys.exit("the disk is full")
    password = sys.stdin.read().strip()
    known.append({"user_id": user_id, "admin": "--admin" in words, "password": password})
    accounts.write_text(json.dumps(known))
    print(json.dumps({"user_id": user_id}))
else:
    assert words == ["serve"], words
    serve(settings.listen.client, {"/_matrix/client/versions": {"versions": ["v1.13"]}})
"""

_GATEWAY = """
assert words == [], words
serve(settings.push_gateway.listen, {"/health": {}})
"""

_BOTS = """
assert words == ["run"], words
serve(settings.bots.listen, {"/health": {"fingerprint": "AbCd EfGh"}})
"""


def write_stand_ins(folder: Path) -> None:
    """Write packages with the names of the real programs, to be found before them."""
    programs = {
        "yizhan_server": ("homeserver", _HOMESERVER),
        "yizhan_bridges": ("push-gateway", _GATEWAY),
        "yizhan_bots": ("bots", _BOTS),
    }
    for package, (name, body) in programs.items():
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").touch()
        (folder / package / "__main__.py").write_text(_SERVER.format(name=name) + body)


def free_ports(count: int) -> list[int]:
    """Return ports that are free at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def yizhan(stand_ins: Path, *words: str, language: str = "en_US.UTF-8") -> Iterator["Terminal"]:
    """Run the command in a session of its own, as at a terminal, and end it afterwards."""
    search = os.pathsep.join([str(stand_ins), *sys.path])
    environment = {**os.environ, "PYTHONPATH": search, "LANG": language, "LC_ALL": language}
    with subprocess.Popen(
        [sys.executable, "-c", "from yizhan_config.command import main; main()", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        try:
            yield Terminal(process)
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


class Terminal:
    """What a person sees of a running command."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.text = ""

    def until(self, words: str) -> str:
        """Read lines until one holds `words`; fails if the command ends without them."""
        assert self.process.stdout is not None
        while words not in self.text:
            line = self.process.stdout.readline()
            assert line, f"{words!r} was never said:\n{self.text}"
            self.text += line
        return self.text

    def rest(self) -> str:
        """Read to the end of the command."""
        assert self.process.stdout is not None
        self.text += self.process.stdout.read()
        self.process.wait()
        return self.text
