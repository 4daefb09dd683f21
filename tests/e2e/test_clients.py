"""Clients that behave badly cost themselves, not others."""

import json
import select
import socket
import time

import pytest

from service.web import READ_S
from tests.e2e.conftest import until
from tests.service.conftest import pt


@pytest.fixture(scope="module")
def service(commands):
    return commands.start_web("serve", data_dir=commands.folder / "clients")


def connect(client):
    host, port = client.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=READ_S + 20)


def slowest_healthz_s(client, rounds=10):
    taken = []
    for _ in range(rounds):
        began = time.monotonic()
        assert client.get("/healthz").status == 200
        taken.append(time.monotonic() - began)
    return max(taken)


def test_clients_that_never_close_keep_nobody_waiting(service):
    _, client = service
    sockets = [connect(client) for _ in range(20)]
    for one in sockets:
        one.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    assert slowest_healthz_s(client) < 1.5  # one such client alone used to take 2 s from everyone
    for one in sockets:
        assert one.recv(4096).startswith(b"HTTP/1.1 200")
        one.close()


def test_an_upload_that_stalls_is_given_up_and_leaves_nothing(service, commands):
    _, client = service
    drafts = commands.folder / "clients" / "tmp"
    with connect(client) as stalled:
        stalled.sendall(
            b"POST /v1/checkpoints?architecture=mlp HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/octet-stream\r\nContent-Length: 100000\r\n\r\nabc"
        )
        until(lambda: list(drafts.iterdir()), what="the upload has begun")
        answer = stalled.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 "), answer
        assert b"\r\nConnection: close\r\n" in answer
    until(lambda: not list(drafts.iterdir()), what="nothing of it stays")


def test_a_malformed_chunk_is_a_bad_request(service):
    _, client = service
    with connect(client) as odd:
        odd.sendall(
            b"POST /v1/checkpoints?architecture=mlp HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"
        )
        assert b" 400 " in odd.recv(65536).split(b"\r\n")[0]


def test_an_upload_that_is_cut_off_is_refused_and_its_retry_is_not(service, commands):
    """Half a connection closes: what arrived is not the file, and the key is still free."""
    _, client = service
    head = (
        b"POST /v1/checkpoints?architecture=mlp HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Idempotency-Key: cut\r\nContent-Type: application/octet-stream\r\n"
    )
    content = pt()
    with connect(client) as cut:
        cut.sendall(head + b"Content-Length: %d\r\n\r\n" % (len(content) + 5) + content)
        cut.shutdown(socket.SHUT_WR)
        answer = cut.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    with connect(client) as whole:
        whole.sendall(head + b"Content-Length: %d\r\n\r\n" % len(content) + content)
        assert whole.recv(65536).startswith(b"HTTP/1.1 201 ")


def test_an_answer_to_an_unread_body_says_that_the_connection_closes(service):
    _, client = service
    with connect(client) as refused:
        refused.sendall(
            b"POST /v1/evaluations HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\nContent-Length: 2000000\r\n\r\n{"
        )
        answer = refused.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 "), answer
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET /%b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % (b"x" * 9000), 414),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: %b\r\n\r\n" % (b"x" * 10_000), 431),
        (b"GET / HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
    ],
)
def test_what_cannot_be_read_as_a_request_is_a_problem_too(service, request_head, status):
    _, client = service
    with connect(client) as odd:
        odd.sendall(request_head)
        head, _, body = odd.recv(65536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert b"Content-Type: application/problem+json" in head
    assert b"X-Request-Id: " in head
    problem = json.loads(body)
    assert problem["status"] == status
    assert problem["detail"]


def test_bodies_that_never_arrive_leave_threads_for_others(commands):
    _, client = commands.start_web("serve", data_dir=commands.folder / "stalled", web_threads=8)
    stalled = [connect(client) for _ in range(12)]
    for one in stalled:
        one.sendall(
            b"POST /v1/checkpoints?architecture=mlp HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/octet-stream\r\nContent-Length: 100000\r\n\r\nabc"
        )
    time.sleep(0.5)
    assert slowest_healthz_s(client, rounds=3) < 2
    refused_count = len(stalled) - 2  # a quarter of the threads may wait for a body
    until(
        lambda: len(select.select(stalled, [], [], 0.5)[0]) == refused_count,
        what="all others are answered",
    )
    answers = select.select(stalled, [], [], 0.5)[0]
    for one in answers:
        answer = one.recv(65536)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: " in answer
    for one in stalled:
        one.close()
