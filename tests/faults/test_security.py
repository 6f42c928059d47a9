"""What hostile servers, neighbours and readers cannot do; the threats are those of SECURITY.md.

Rules of single answers are tested where the rules are (`tests/net`, `tests/core/test_origin.py`);
here is what only shows in a whole run.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import os
import pickle
import shutil
import socketserver
import ssl
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

import modelhaul
from modelhaul.core.journal import Have
from modelhaul.core.span import Span
from modelhaul.errors import HaulError, ProtocolError, StorageError
from modelhaul.settings import Settings
from modelhaul.store import claim
from modelhaul.store.claim import unfinished
from modelhaul.store.journalfile import MOST_BYTES
from modelhaul.store.layout import LegacyCache
from modelhaul.store.marker import Marker
from modelhaul.store.whose import holding
from tests.e2e.conftest import World, content, machine, tree
from tests.net.rawserver import Exchange, answer, raw_server
from tests.store.helpers import SIZE, STEM, WANTED
from tests.support.hub import hub_in_thread

DATA = content(3 << 20, 9)
DIGEST = hashlib.sha256(DATA).hexdigest()
NAME = "model.safetensors"
FAST = pytest.mark.parametrize("fast", ["1", "0"], ids=["fast", "aiohttp"])

TOKEN, BAD_TOKEN = "ms-env-3f9a71c2", "ms-opt-77d0e1b4"
PASSWORD, KEY, PROXY_PASSWORD = "pw-5c2e88a1", "key-0d4b96ee", "proxy-91ab3c7f"
PLANTED = "planted-2b6f40d9"
SECRETS = (TOKEN, BAD_TOKEN, PASSWORD, KEY, PROXY_PASSWORD, PLANTED)


@pytest.fixture
def private(tmp_path: Path) -> Iterator[World]:
    """A machine, and a hub that answers only to the token; its store is at another origin."""
    with machine(tmp_path) as world:
        world.put("acme/one", {NAME: DATA, "config.json": b"{}"})
        with hub_in_thread(world.hub.root, tmp_path / "private.jsonl", token=TOKEN) as hub:
            yield World(hub, world.home, world.work)


# -- the curious reader of logs ------------------------------------------------------------------


def basic(password: str) -> str:
    """The header's form of a password in a URL."""
    return base64.b64encode(f"me:{password}".encode()).decode()


def found_in(data: bytes, secrets: set[str]) -> set[str]:
    """Which secrets stand in some bytes, as they are or in the form of a header."""
    return {each for each in secrets if each.encode() in data or basic(each).encode() in data}


def at_store(response: Callable[[], web.StreamResponse]) -> Callable[[web.Request], object]:
    """The same answer to every request to the store."""
    return lambda request: response() if request.path.startswith("/blob/") else None


def no_http(request: web.Request) -> web.StreamResponse | None:
    """The store answers in another language."""
    if not request.path.startswith("/blob/"):
        return None
    assert request.transport is not None
    request.transport.write(f"HTTP/1.1 {PLANTED}\r\n\r\n".encode())
    request.transport.close()
    return web.StreamResponse()


def half(request: web.Request) -> web.StreamResponse | None:
    """The store has the first half of the file, and is broken behind it."""
    if not request.path.startswith("/blob/"):
        return None
    end = len(DATA) // 2
    if not request.headers["Range"].startswith("bytes=0-"):
        return web.Response(status=500, text=PLANTED)
    head = {"Content-Range": f"bytes 0-{end - 1}/{len(DATA)}"}
    return web.Response(status=206, body=DATA[:end], headers=head)


def to(location: str) -> Callable[[web.Request], object]:
    """Requests for bytes are sent there by the hub."""
    return lambda request: (
        web.Response(status=302, headers={"Location": location})
        if request.path.endswith("/repo")
        else None
    )


FAILURES: dict[str, tuple[Callable[[web.Request], object], int]] = {
    "wrong bytes": (at_store(lambda: web.Response(body=bytes(len(DATA)))), 8),
    "forbidden": (at_store(lambda: web.Response(status=403, text=PLANTED)), 4),
    "half of it": (half, 6),
    "no HTTP": (no_http, 7),
    "a page": (at_store(lambda: web.Response(text=f"<p>{PLANTED}</p>")), 7),
    "another scheme": (to(f"file:///etc/passwd?Signature={PLANTED}"), 7),
    "another host": (to(f"http://127.0.0.1:1/x?Signature={PLANTED}"), 6),
    "no host": (to(f"http://me:{PLANTED}@/x"), 7),
}


#: Those that are run as commands too, each about another part of a run.
PRINTED = ("wrong bytes", "half of it", "no HTTP", "another scheme")


@pytest.mark.command
@pytest.mark.timeout(240)  # a dozen commands, perhaps on a machine that does something else
@FAST
@pytest.mark.fault(
    "runs with tokens, passwords and signed addresses that go well and wrong",
    "no secret is printed, in an event, or in any file",
)
def test_no_secret_is_printed_or_written_anywhere(private: World, fast: str) -> None:
    """Both streams, JSON events, journals, parts, the memory of proven files: all of them."""
    private.extra.update(MODELHAUL_FAST=fast, MODELHAUL_PATIENCE="3", PYTHONASYNCIODEBUG="1")
    token = {"MODELSCOPE_API_TOKEN": TOKEN}
    url = f"{private.hub.url}/models/acme/one/resolve/master/{NAME}"
    with_password = url.replace("http://", f"http://me:{PASSWORD}@")
    outputs: list[str] = []

    def run(code: int, *arguments: str, **env: str) -> None:
        before, private.extra = private.extra, {**private.extra, **env}
        done = private.run(*arguments)
        private.extra = before
        assert done.returncode == code, (arguments, done.stderr)
        outputs.extend([done.stdout, done.stderr])

    run(0, "download", "acme/one", "--local-dir", "a", "--json", **token)
    run(0, "get", url, "-o", "b", "--header", f"Authorization: Bearer {TOKEN}",
        "--header", f"X-Api-Key: {KEY}")  # fmt: skip
    run(4, "download", "acme/one", "--local-dir", "c", "--token", BAD_TOKEN)
    run(4, "get", with_password, "-o", "d")
    run(2, "get", with_password.replace("http:", "htp:"), "-o", "d")
    run(2, "get", url, "-o", "d", "--header", f"Authorization {KEY}")
    proxy = private.hub.url.replace("http://", f"http://me:{PROXY_PASSWORD}@")
    run(4, "get", url, "-o", "d", HTTP_PROXY=proxy)
    for name in PRINTED:
        private.hub.fault, code = FAILURES[name]  # type: ignore[assignment]
        run(code, "download", "acme/one", NAME, "--local-dir", name, "--json", **token)
    run(0, "parts", "half of it", "--json")

    signatures = {seen.query["Signature"] for seen in private.hub.seen if "Signature" in seen.query}
    used = {str(seen.headers) for seen in private.hub.seen if seen.server == "hub"}
    assert signatures
    assert all(any(found_in(each.encode(), {secret}) for each in used)
               for secret in (TOKEN, BAD_TOKEN, PASSWORD, KEY, PROXY_PASSWORD))  # fmt: skip
    secrets = {*SECRETS, *signatures}
    assert not found_in("".join(outputs).encode(), secrets)
    written = {**tree(private.home), **tree(private.work), "log": private.hub.log.read_bytes()}
    assert {Path(path).suffix for path in written} >= {".sqlite", ".journal", ".part"}
    assert not {path for path, data in written.items() if found_in(data, secrets)}
    at_cdn = [str(seen.headers).encode() for seen in private.hub.seen if seen.server == "cdn"]
    assert at_cdn
    assert not any(found_in(headers, secrets) for headers in at_cdn)


@pytest.mark.command
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
@pytest.mark.fault("the list of processes is read", "a token of the environment is not in it")
def test_a_token_of_the_environment_is_not_in_the_list_of_processes(private: World) -> None:
    """Neither arguments nor the name of a process or a thread hold it while a download runs."""
    private.extra["MODELSCOPE_API_TOKEN"] = TOKEN
    running: list[int] = []
    started = threading.Event()
    titles: list[bytes] = []

    def look(request: web.Request) -> None:
        if not titles and started.wait(10):
            folder = Path(f"/proc/{running[0]}")
            files = [folder / "cmdline", *folder.glob("task/*/comm")]
            titles.extend(file.read_bytes() for file in files)

    private.hub.fault = look
    process = private.start("download", "acme/one", "config.json", "--local-dir", "m")
    running.append(process.pid)
    started.set()
    process.communicate(timeout=30)

    assert process.returncode == 0
    assert any(b"modelhaul" in title for title in titles)
    assert not any(found_in(title, {TOKEN}) for title in titles)


@FAST
@pytest.mark.parametrize("failure", ["none", *FAILURES])
@pytest.mark.fault(
    "a program logs errors with all their causes, events, reports and settings",
    "no secret is in any of them",
)
def test_no_secret_is_in_what_a_program_can_log(
    private: World, caplog: pytest.LogCaptureFixture, fast: str, failure: str
) -> None:
    """Every logger at its finest, the whole traceback, and the repr of all that is handed out."""
    caplog.set_level(logging.DEBUG, logger="")
    events: list[object] = []
    logged: list[str] = []
    if failure != "none":
        private.hub.fault = FAILURES[failure][0]  # type: ignore[assignment]

    async def main() -> None:
        settings = Settings(
            endpoint=private.hub.url, token=TOKEN, home=private.home, patience=1.0,
            state_dir=private.home / "state", fast=fast == "1",
        )  # fmt: skip
        async with modelhaul.Client(settings) as client:
            logged.append(repr(client.settings))
            try:
                report = await client.download(
                    "acme/one", files=[NAME], local_dir=private.work / "m", on_event=events.append
                )
                logged.append(repr(report))
            except HaulError as error:
                logged.extend(traceback.format_exception(error))
                logged.append(repr(vars(error)))

    anyio.run(main)
    signatures = {seen.query["Signature"] for seen in private.hub.seen if "Signature" in seen.query}
    everything = "\n".join([caplog.text, *logged, *map(repr, events)])

    assert events
    assert ("Traceback" in everything) == (failure != "none")
    assert not found_in(everything.encode(), {*SECRETS, *signatures})


# -- certificates --------------------------------------------------------------------------------


def make_certificate(folder: Path, *, name: str, expired: bool) -> Path:
    """A self-signed certificate and its key in one file."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("the openssl program makes the certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run([program, *arguments], cwd=folder, check=True, capture_output=True)

    (folder / "ca.conf").write_text(
        "[ca]\ndefault_ca=here\n[here]\nnew_certs_dir=.\ndatabase=index\nserial=serial\n"
        "default_md=sha256\npolicy=any\ncopy_extensions=copy\nprivate_key=key\n"
        "[any]\ncommonName=supplied\n"
    )
    (folder / "index").touch()
    (folder / "serial").write_text("01")
    openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", "key", "-out", "request", "-subj", "/CN=test",
            "-addext", f"subjectAltName={name}")  # fmt: skip
    until = "20200102000000Z" if expired else "20491231000000Z"
    openssl("ca", "-batch", "-config", "ca.conf", "-selfsign", "-notext", "-in", "request",
            "-out", "cert", "-startdate", "20200101000000Z", "-enddate", until)  # fmt: skip
    both = folder / "both.pem"
    both.write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return both


class Secure(socketserver.ThreadingTCPServer):
    """Shakes hands with whoever comes, and counts them; no client may get farther.

    Args:
        certificate: file of the certificate and its key.

    Attributes:
        connections: how many came.
        trusting: how many ended the handshake and would have asked.
    """

    def __init__(self, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(certificate)
        self.connections = 0
        self.trusting = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_address[1]}"

    def finish_request(self, request: Any, client_address: object) -> None:
        self.connections += 1
        try:
            with self.context.wrap_socket(request, server_side=True) as secured:
                self.trusting += bool(secured.recv(1))
        except (ssl.SSLError, OSError):
            return  # the client has gone: what is wanted here


@pytest.fixture
def secure() -> Iterator[Callable[[Path], Secure]]:
    """Runs servers with certificates until the test ends."""
    with contextlib.ExitStack() as stack:

        def start(certificate: Path) -> Secure:
            server = stack.enter_context(Secure(certificate))
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return server

        yield start


ONCE = "one connection, no request, then exit 6"


@pytest.mark.command
@pytest.mark.parametrize(("verb", "fast"), [("get", "1"), ("download", "1"), ("download", "0")])
@pytest.mark.parametrize(
    ("name", "expired", "trusted", "says"),
    [
        pytest.param(
            *("IP:127.0.0.1", False, False, "self-signed"),
            marks=pytest.mark.fault("a certificate of nobody's authority", ONCE),
            id="self-signed",
        ),
        pytest.param(
            *("DNS:elsewhere.test", False, True, "mismatch"),
            marks=pytest.mark.fault("a certificate of another host", ONCE),
            id="another host",
        ),
        pytest.param(
            *("IP:127.0.0.1", True, True, "expired"),
            marks=pytest.mark.fault("a certificate that has expired", ONCE),
            id="expired",
        ),
    ],
)
def test_a_certificate_error_is_final(
    tmp_path: Path,
    secure: Callable[[Path], Secure],
    verb: str,
    fast: str,
    name: str,
    expired: bool,
    trusted: bool,
    says: str,
) -> None:
    """No second try and no way round it; the message has the reason."""
    with machine(tmp_path) as world:
        server = secure(make_certificate(world.home, name=name, expired=expired))
        world.extra.update(MODELHAUL_FAST=fast, MODELSCOPE_ENDPOINT=server.url)
        if trusted:
            world.extra["SSL_CERT_FILE"] = str(world.home / "cert")
        wish = [f"{server.url}/f"] if verb == "get" else ["acme/one", "--local-dir", "m"]

        done = world.run(verb, *wish)

        assert done.returncode == 6, done.stderr
        assert "is not trusted" in done.stderr
        assert says in done.stderr
        assert (server.connections, server.trusting) == (1, 0)
        assert list(world.work.iterdir()) == []


async def never(exchange: Exchange) -> None:
    """Nobody may get as far as asking."""
    raise AssertionError(f"asked for {exchange.target}")


# -- redirects -----------------------------------------------------------------------------------


@FAST
@pytest.mark.fault(
    "a server under https redirects to plain http", "the plain server is never asked", number=48
)
def test_nothing_is_asked_in_the_clear_on_behalf_of_a_secure_server(
    tmp_path: Path, fast: str
) -> None:
    """A step down is refused; not even the connection is made."""
    both = make_certificate(tmp_path, name="IP:127.0.0.1", expired=False)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(both)

    async def main() -> None:
        async with raw_server(never) as plain:

            async def down(exchange: Exchange) -> None:
                await exchange.send(answer(status="302 Found", Location=plain.url()))

            async with raw_server(down, tls=context) as secure:
                changes = Settings(
                    ca_file=str(tmp_path / "cert"), fast=fast == "1", state_dir=tmp_path / "state"
                )
                async with modelhaul.Client(changes) as client:
                    with pytest.raises(ProtocolError, match="https to plain http"):
                        await client.get(secure.url(), path=tmp_path / "f")
            assert plain.connections == 0

    anyio.run(main)

    assert not (tmp_path / "f").exists()


@pytest.mark.command
@FAST
@pytest.mark.fault("redirects without an end", "ten are followed, then exit 7", number=46)
def test_ten_redirects_are_followed_and_no_more(private: World, fast: str) -> None:
    """A chain of new addresses is counted like a circle."""
    private.extra.update(MODELSCOPE_API_TOKEN=TOKEN, MODELHAUL_FAST=fast)
    hops: list[int] = []

    def on(request: web.Request) -> web.Response | None:
        if not request.path.endswith("/repo"):
            return None
        hops.append(int(request.query.get("hop", "0")))
        where = request.rel_url.update_query(hop=str(hops[-1] + 1))
        return web.Response(status=302, headers={"Location": str(where)})

    private.hub.fault = on
    done = private.run("download", "acme/one", "config.json", "--local-dir", "m")

    assert done.returncode == 7, done.stderr
    assert "redirects more than 10 times" in done.stderr
    assert max(hops) == 10
    assert tree(private.work) == {}


# -- neighbours who may write beside us ----------------------------------------------------------


def victim(folder: Path) -> Path:
    """A folder of somebody's, with a file of a name that parts have."""
    made = folder / "victim"
    made.mkdir()
    (made / "precious.part").write_bytes(b"precious")
    return made


@pytest.mark.command
@pytest.mark.fault(
    "a link is planted where our state folder should be", "nothing is written or removed behind it"
)
def test_a_linked_state_folder_is_refused(private: World, tmp_path: Path) -> None:
    """Neither a download nor `clean` follows it."""
    private.extra["MODELSCOPE_API_TOKEN"] = TOKEN
    target = private.work / "m"
    target.mkdir()
    (target / ".modelhaul").symlink_to(victim(tmp_path))

    runs = [
        private.run("download", "acme/one", "--local-dir", "m"),
        private.run("parts", "m"),
        private.run("clean", "m"),
    ]

    assert [done.returncode for done in runs] == [9, 9, 9]
    assert all("is a symbolic link" in done.stderr for done in runs)
    assert tree(tmp_path / "victim") == {"precious.part": b"precious"}
    assert [path.name for path in target.iterdir()] == [".modelhaul"]


@pytest.mark.fault("a link is planted where a part will be set aside", "it is not written through")
def test_nothing_is_set_aside_through_a_link(tmp_path: Path) -> None:
    """A link that leads nowhere yet would make a file there."""
    (tmp_path / f"{STEM}.journal").write_bytes(b"damaged")
    (tmp_path / f"{STEM}.part.aside0.journal").symlink_to(tmp_path / "nowhere")

    mine = claim.claim(tmp_path, WANTED, locks=True)

    assert mine is not None
    mine.close()
    assert not (tmp_path / "nowhere").exists()
    assert (tmp_path / f"{STEM}.part.aside1.journal").read_bytes() == b"damaged"


def pipes(folder: Path) -> list[Path]:
    """Planted at each name that is read."""
    names = [f"{STEM}.journal", f"{STEM}.part", f"{STEM}.other.journal", "x.update", ".msc"]
    names += [".mdl", ".mv"]
    for name in names:
        os.mkfifo(folder / name)
    return [folder / name for name in names]


@pytest.mark.fault(
    "a pipe is planted where a journal, a part or a marker is", "nothing waits for it"
)
def test_a_pipe_at_one_of_our_names_blocks_nobody(tmp_path: Path) -> None:
    """Reading one waits for a writer who never comes; the claim ends in a clear error."""
    journal, _, _, marker, *_ = pipes(tmp_path)

    recorded = claim.recorded(tmp_path, identity=WANTED.identity, size=SIZE)
    pending = Marker(marker).pending()
    LegacyCache(tmp_path, tmp_path, tmp_path).before(["f"])
    held = holding(tmp_path, None)
    works = list(unfinished(tmp_path))
    with pytest.raises(StorageError, match="not a plain file"):
        claim.claim(tmp_path, WANTED, locks=True)
    journal.unlink()
    mine = claim.claim(tmp_path, WANTED, locks=True)

    assert (recorded, pending, held, works) == (0, None, None, [])
    assert mine is not None
    assert not mine.have
    mine.close()


@pytest.mark.fault("a journal with a terabyte of holes is planted", "it is read in bounded memory")
def test_a_journal_of_absurd_size_is_not_read_whole(tmp_path: Path) -> None:
    """Ours is set aside and begun anew, another's is passed over."""
    for name in (f"{STEM}.journal", f"{STEM}.other.journal"):
        (tmp_path / name).write_bytes(b"junk")
        os.truncate(tmp_path / name, 1 << 40)

    recorded = claim.recorded(tmp_path, identity=WANTED.identity, size=SIZE)
    mine = claim.claim(tmp_path, WANTED, locks=True)

    assert recorded == 0
    assert mine is not None
    mine.close()
    assert (tmp_path / f"{STEM}.part.aside0.journal").stat().st_size == MOST_BYTES


@pytest.mark.fault(
    "a journal of another process claims a run of a terabyte", "it is copied in bounded memory"
)
def test_a_run_of_absurd_length_is_not_copied(tmp_path: Path) -> None:
    """A run is copied at once, so it has to fit into memory."""
    wanted = claim.Wanted(identity="sha256:big", size=1 << 40, label="big", chunk=1 << 30)
    other = claim.claim(tmp_path, wanted, locks=False, token="theirs")
    assert other is not None
    other.journal.append([Have(Span(0, 1 << 40), 0)])
    other.close()

    mine = claim.claim(tmp_path, wanted, locks=False, token="mine")

    assert mine is not None
    assert not mine.have
    mine.close()


@pytest.mark.command
@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644)])
@pytest.mark.fault("others may look into the target folder", "the user's umask decides who reads")
def test_files_have_the_rights_that_the_user_chose(private: World, umask: int, mode: int) -> None:
    """Nothing is executable, and nobody gets more than the umask leaves, not even unfinished."""
    private.extra.update(MODELSCOPE_API_TOKEN=TOKEN, MODELHAUL_PATIENCE="1")
    private.hub.fault = half
    before = os.umask(umask)
    try:
        done = private.run("download", "acme/one", "--local-dir", "m")
    finally:
        os.umask(before)

    found = [path for path in (private.work / "m").rglob("*") if path.is_file()]
    assert done.returncode == 6, done.stderr
    assert {path.suffix for path in found} == {".json", ".part", ".journal"}
    assert {path.stat().st_mode & 0o777 for path in found} == {mode}


@pytest.mark.command
@pytest.mark.fault(
    "a repository holds a pickle that runs a command", "it is bytes, nobody loads it"
)
def test_a_hostile_pickle_in_a_repository_is_only_bytes(private: World, tmp_path: Path) -> None:
    """Also under the name of the old cache's book, which is one: that name is refused."""
    private.extra["MODELSCOPE_API_TOKEN"] = TOKEN
    data = pickle.dumps(Touch(str(tmp_path / "pwned")))
    private.put("acme/one", {"pytorch_model.bin": data, ".msc": data})
    (private.cache / "models" / "acme" / "one").mkdir(parents=True)
    (private.cache / "models" / "acme" / "one" / "old.txt").write_text("an old cache")

    done = private.run("download", "acme/one")

    assert done.returncode == 3, done.stderr
    assert ".msc" in done.stderr
    final = private.cache / "models" / "acme" / "one"
    assert (final / "pytorch_model.bin").read_bytes() == data
    assert (final / ".msc").read_bytes() != data
    assert not (tmp_path / "pwned").exists()


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (self.path,))
