"""`ireg browse` with a server in place of TensorBoard, which itself is tested in tests/browser."""

import signal
import socket
import sys
import time

import pytest

from ireg.analysis.dashboard import link
from ireg.commands import browse
from ireg.commands.browse import main
from tests.conftest import is_alive

SERVER = """
import http.server, os, signal, sys, time
print(os.getpid(), file=open("pid", "w"))
before, after, code, port = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[-1])
exec(before)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        open("asked", "a").write(self.path)
        self.send_response(200); self.end_headers()
    log_message = lambda *arguments: None
http.server.HTTPServer(("localhost", port), Handler).handle_request()
exec(after)
sys.exit(code)
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A folder with an event file."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.out.tfevents.1").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(browse, "POLL_SECONDS", 0.01)
    return tmp_path


@pytest.fixture
def serve(monkeypatch):
    """Take a server for TensorBoard; it answers once, after `before`, then does `after` and ends with a code."""
    started = []

    def begin(before="", after="", code=0):
        def command(module):
            started.append(module)
            return [sys.executable, "-c", SERVER, before, after, str(code)]

        monkeypatch.setattr(browse, "module_as_command", command)
        return started

    return begin


def free_port():
    with socket.create_server(("localhost", 0)) as listening:
        return listening.getsockname()[1]


@pytest.mark.parametrize(("code", "returned"), [(0, 0), (3, 1)])
def test_the_link_is_printed_once_the_server_answers(sweep, serve, capfd, code, returned):
    started, port = serve(before="time.sleep(0.1)", code=code), free_port()
    assert main([str(sweep), "--port", str(port)]) == returned
    assert started == ["tensorboard.main"]
    assert (sweep / "asked").read_text() == "/data/environment"
    assert capfd.readouterr() == (
        f"{link(sweep, port)}\n",
        f"starting TensorBoard on port {port}; Ctrl-C ends it\n",
    )


def test_the_next_free_port_is_taken(sweep, serve, capfd, monkeypatch):
    serve()
    with socket.create_server(("localhost", 0)) as taken:
        first = taken.getsockname()[1]
        monkeypatch.setattr(browse, "PORT", first)
        assert main([str(sweep)]) == 0
        chosen = int(capfd.readouterr().out.partition("localhost:")[2].partition("/")[0])
        assert first < chosen < first + 100
        assert main([str(sweep), "--port", str(first)]) == 2
        assert capfd.readouterr().err == (
            f"error: --port {first}: taken by another process; choose another, or leave --port out\n"
        )
        monkeypatch.setattr(browse, "PORTS", 1)
        assert main([str(sweep)]) == 2
        assert capfd.readouterr().err == (
            f"error: ports {first} to {first} are all taken; choose another with --port N\n"
        )


def test_a_server_that_does_not_answer_is_not_waited_for_for_ever(sweep, serve, capfd, monkeypatch):
    serve(before="time.sleep(0.5); sys.exit()")
    monkeypatch.setattr(browse, "ANSWER_SECONDS", 0.1)
    port = free_port()
    assert main([str(sweep), "--port", str(port)]) == 0
    out, err = capfd.readouterr()
    assert out == f"{link(sweep, port)}\n"
    assert err.endswith("TensorBoard has not answered for 0 seconds; once it does:\n")


def test_a_server_that_does_not_start_is_one_line(sweep, serve, capfd):
    serve(before="sys.exit(7)")
    assert main([str(sweep), "--port", str(free_port())]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.endswith("error: TensorBoard ended with exit code 7; its own lines above say why\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_the_server_ends_with_the_command(sweep, serve, number, code):
    serve(after=f"time.sleep(0.5); os.kill(os.getppid(), {int(number)}); time.sleep(60)")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs have it ignored
    try:
        begun = time.monotonic()
        assert main([str(sweep), "--port", str(free_port())]) == code
        assert time.monotonic() - begun < 30
    finally:
        signal.signal(signal.SIGINT, before)
    assert not is_alive(int((sweep / "pid").read_text()))


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_a_wrong_port_is_refused(sweep, capsys, port):
    assert main([str(sweep), f"--port={port}"]) == 2
    assert f"error: --port: {port}: must be an integer from 1 to 65535; " in capsys.readouterr().err


@pytest.mark.parametrize(("folder", "message"), [("empty", "holds no event files"), ("nowhere", "is not a folder")])
def test_a_folder_without_events_is_refused(tmp_path, capsys, folder, message):
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / folder)]) == 2
    assert capsys.readouterr().err == (
        f"error: {str(tmp_path / folder)!r} {message}; name a sweep's folder, like multirun/NAME\n"
    )
