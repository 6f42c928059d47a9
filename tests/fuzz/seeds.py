"""Valid examples for each target, made anew each time: what mutations begin with."""

from __future__ import annotations

import gzip
import json
import pickle
import tempfile
from pathlib import Path

from requests.cookies import RequestsCookieJar, create_cookie

from modelhaul.core import journal
from modelhaul.core.journal import Have, Header, Record, Synced, Void, encode_header, encode_record
from modelhaul.core.span import Span
from modelhaul.store.index import Entry, Known, ProvenIndex
from modelhaul.store.marker import Marker
from tests.fuzz.targets import NONCE, SMALL, STAMP, WHERE

SHA = "0123456789abcdef" * 4
LINK = b'<https://hub.test/api/models/o/n/tree/x?cursor=a%3D&limit=2>; rel="next"'
COMMIT = SHA[:40]
HEADER = Header("sha256:" + SHA, SMALL, 77, NONCE, "acme/tiny: model.bin")
RECORDS: list[Record] = [
    Have(Span(0, 16), 1, 7),
    Have(Span(16, 32), 2),
    Synced(2),
    Void(Span(8, 12)),
    Have(Span(8, 12), 3),
    Have(Span(32, 64), 4),
]


def seeds() -> dict[str, list[bytes]]:
    """Examples by target, at least one each."""
    return {
        "journal": _journals(),
        "journal-header": [encode_header(HEADER)[: journal.PAGE - 4].rstrip(b"\0")],
        "journal-records": [
            bytes.fromhex("010700100100 010010200200 030002000000 0200080c0000 0100080c0300")
        ],
        "hub-answer": [b"\0" + json.dumps(answer).encode() for answer in _answers()],
        "huggingface-answer": [
            b"\0" + LINK + b"\0" + json.dumps(answer).encode() for answer in _hf_answers()
        ],
        "gzip-answer": [gzip.compress(b'{"Code": 200}', mtime=0), gzip.compress(bytes(9999))],
        "headers": [
            b'\x0eContent-Range: bytes 100-199/1000\nETag: "v1"\nContent-Length: 100',
            b"\x01Content-Length: 1000\nContent-Type: text/html",
            b"\x18Content-Range: bytes */1000\nRetry-After: 7\nDate: Sun, 06 Nov 1994 08:49:37 GMT",
            b"\x10Location: //cdn.test/blob?sig=a%2Fb",
        ],
        "header-values": [
            b"bytes 0-9/10",
            b"bytes 5-9/*",
            b"bytes */10",
            b"120",
            b'"v1"',
            b"Sun, 06 Nov 1994 08:49:37 GMT",
            b"Sunday, 06-Nov-94 08:49:37 GMT",
            b"Sun Nov  6 08:49:37 1994",
            b'"api";r=0;t=55, "pages"; r=3; t=\x1d7',
            b"bytes=3-9",
            b"bytes=-5",
        ],
        "http-answer": [
            b"HTTP/1.1 206 OK\r\nContent-Length: 5\r\nContent-Range: bytes 0-4/5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.0 200 OK\r\n\r\nuntil the end",
            b"HTTP/1.1 302 Found\r\nLocation: https://cdn.test/\r\nContent-Length: 0\r\n\r\n",
        ],
        "addresses": [
            b"https://user:pass@hub.test:8443/a/b?sig=x%2Fy#f",
            b"http://[::1]:8080/",
            b"../up?x=1",
            b"//cdn.test/\xc3\xa9",
            b"https://127.1/",
            b"hub.test",
            b"https://2130706433/",
            b"https://[::ffff:127.0.0.1]/",
            b"https://a.test/?Expires=1700000000&Signature=x",
            b"https://a.test/?X-Amz-Date=20240229T235959Z&X-Amz-Expires=3600",
        ],
        "environment": [
            "https://hub.test|token|http://u:p@proxy.test:3128|.test,[::1]|/ca|8|60".replace(
                "|", "\0"
            ).encode(),
            b"localhost:8080\0\0socks5h://127.0.0.1:1080",
        ],
        "names": [
            "a/b.bin\na\nA\na/B.bin\nsub dir/é+&.txt\ne\u0301".encode(),
            b"../x\n/etc/passwd\nC:\\x\ncon\n.git/hooks/post-checkout\n.modelhaul/x\na//b",
        ],
        "pattern": [
            b"*.json\0sub/config.json",
            b"model-?????-of-*\0model-00001-of-00002.bin",
            b"[!a-c]*[]x]\0d]",
            b".*\\.bin\0w.bin",
            b"*a*a*a*a*a*a*b\0" + b"a" * 60,
        ],
        "cookies": [pickle.dumps(_jar(), protocol) for protocol in (2, 4)],
        "marker": [_marker(["a.bin", "sub/b.bin"]), _marker(None)],
        "index": [_index()],
    }


def _journals() -> list[bytes]:
    raw = b"".join(encode_record(each, slot=at, nonce=NONCE) for at, each in enumerate(RECORDS))
    return [encode_header(HEADER) + raw + bytes(4 * journal.RECORD_SIZE), encode_header(HEADER)]


def _answers() -> list[object]:
    row = {"Path": "sub/w.bin", "Type": "blob", "Size": 7, "Sha256": SHA, "Revision": COMMIT}
    return [
        {"Code": 200, "Success": True, "Data": {"Files": [row, {"Path": "sub", "Type": "tree"}]}},
        {"Code": 200, "Data": {"Commit": [{"Id": COMMIT}]}},
        {"Code": 200, "Data": {"RevisionMap": {"Branches": [{"Revision": "master"}], "Tags": []}}},
        {"Code": 10010205001, "Message": "no such model", "Success": False},
    ]


def _hf_answers() -> list[object]:
    lfs = {"type": "file", "path": "sub/w.bin", "size": 7, "oid": COMMIT}
    rows = [
        {"type": "directory", "path": "sub", "size": 0, "oid": COMMIT},
        {"type": "file", "path": "config.json", "size": 3, "oid": COMMIT},
        {**lfs, "lfs": {"oid": SHA, "size": 7, "pointerSize": 127}},
    ]
    return [
        rows,
        {"sha": COMMIT, "gated": "auto", "disabled": False},
        {"sha": COMMIT, "branches": [{"name": "main", "ref": "refs/heads/main"}], "tags": []},
        {"error": [{"message": "no such model"}]},
    ]


def _jar() -> RequestsCookieJar:
    jar = RequestsCookieJar()
    jar.set_cookie(create_cookie("m_session_id", "ms-token", domain="hub.test"))
    return jar


def _marker(pending: list[str] | None) -> bytes:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        made = Marker(Path(folder, "x.update"))
        made.set(label="acme/tiny", commit=COMMIT, pending=pending)
        return made.path.read_bytes()


def _index() -> bytes:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder, "proven.sqlite")
        memory = ProvenIndex(path)
        memory.remember([Entry(WHERE, STAMP, Known(SHA, '"v1"', ours=True))])
        memory.close()
        return path.read_bytes()
