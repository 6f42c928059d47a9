"""The origin: nginx over files in memory, on plain, TLS and capped ports (plain and TLS).

    python -m benchmarks.origin FOLDER HOST BYTES_PER_SECOND

Prints the four ports as JSON and becomes nginx. A capped port gives each *connection* that
rate, by `SO_MAX_PACING_RATE` on the listening socket, which accepted connections inherit; nginx
inherits the sockets by its variable NGINX (made for upgrades of the binary). Not by `limit_rate`:
that counts per *answer* and gives each one a second's worth at once, so a client that asks for
pieces small enough would never feel it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from benchmarks.processes import die_with_parent

_SO_MAX_PACING_RATE = 47  # asm-generic/socket.h; the socket module does not have it

_CONFIGURATION = """
{user}
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 600s;
  keepalive_requests 100000000;
  open_file_cache max=1000;
  default_type application/octet-stream;
  client_body_temp_path {folder}/temp;
  proxy_temp_path {folder}/temp;
  fastcgi_temp_path {folder}/temp;
  uwsgi_temp_path {folder}/temp;
  scgi_temp_path {folder}/temp;
  server {{
    listen {host}:{http};
    listen {host}:{capped};
    root {folder};
  }}
  server {{
    listen {host}:{https} ssl;
    listen {host}:{capped_https} ssl;
    ssl_certificate {folder}/certificate.pem;
    ssl_certificate_key {folder}/key.pem;
    root {folder};
  }}
}}
"""


def make_certificate(folder: Path, host: str) -> Path:
    """A certificate for an address, signed by itself; returns the file to trust."""
    certificate = folder / "certificate.pem"
    what = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    who = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=IP:{host}"]
    subprocess.run(
        [*what.split(), *who, "-keyout", str(folder / "key.pem"), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    return certificate


def find_nginx() -> str | None:
    """nginx, also where an ordinary PATH does not look."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _listen(host: str) -> socket.socket:
    found = socket.create_server((host, 0), backlog=1024)
    found.set_inheritable(True)
    # nginx takes it as it is. If it were blocking, a worker that is woken for a connection that the
    # other one takes would hang in accept(), and all its connections with it.
    found.setblocking(False)
    # What Linux comes with. BBR, which some machines have as default, sends packets of a few
    # kilobytes over the long line, and then that, which costs the same for each, is measured.
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    return found


def main() -> None:
    die_with_parent()
    folder, host, rate = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    sockets = {name: _listen(host) for name in ("http", "https", "capped", "capped_https")}
    for name in ("capped", "capped_https"):
        sockets[name].setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate)
    ports = {name: found.getsockname()[1] for name, found in sockets.items()}
    user = "user root;" if os.geteuid() == 0 else ""
    configuration = folder / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, host=host, user=user, **ports))
    nginx = find_nginx()
    if nginx is None:
        sys.exit("nginx is not installed")
    print(json.dumps(ports), flush=True)
    # nginx writes to stdout and stderr only what is wrong with it.
    os.dup2(2, 1)
    environment = {**os.environ, "NGINX": "".join(f"{it.fileno()};" for it in sockets.values())}
    command = [nginx, "-p", str(folder), "-c", str(configuration), "-e", str(folder / "error.log")]
    os.execve(nginx, command, environment)


if __name__ == "__main__":
    main()
