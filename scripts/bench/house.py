"""What the benches share: a throw-away Postgres, pgbouncer and pgweir in front of it, and what a process has used."""

import os
import pwd
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TICKS = os.sysconf("SC_CLK_TCK")
PASSWORD = "bench"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def listens(port, child, patience=20):
    """Waits until somebody listens on the port."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if child.poll() is not None:
            sys.exit(f"{child.args[0]} has ended")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"{child.args[0]} does not listen")


def cpu(pid):
    """User and system time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def resident(pid):
    """Its memory in RAM, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def tools():
    """Where the server's programs are."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
    if found:
        return found[-1].parent
    there = shutil.which("postgres")
    return Path(there).parent if there else sys.exit("no Postgres is installed")


class House:
    """A folder with a Postgres in it; proxies are started in front. Everything ends with it."""

    def __init__(self, settings=()):
        self.folder = Path(tempfile.mkdtemp(prefix="pgweir-bench-"))
        self.children = []
        self.user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        if os.getuid() == 0:
            shutil.chown(self.folder, self.user)
        self.folder.chmod(0o755)
        self.bin = tools()
        self.port = free_port()
        self.postgres(settings)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for child, how in reversed(self.children):
            child.send_signal(how)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, command, how=signal.SIGTERM, log="log", **more):
        with open(self.folder / log, "ab") as out:
            child = subprocess.Popen([str(c) for c in command], stdout=out, stderr=out, **more)
        self.children.append((child, how))
        return child

    def as_user(self):
        return {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid} if os.getuid() == 0 else {}

    def postgres(self, settings):
        data, init = self.folder / "data", ["-A", "scram-sha-256", "-U", "bench", "-E", "UTF8"]
        (self.folder / "password").write_text(PASSWORD)
        subprocess.run(
            [self.bin / "initdb", "-D", data, *init, "--no-locale", "--no-sync", "--pwfile", self.folder / "password"],
            check=True, stdout=subprocess.DEVNULL, cwd=self.folder, **self.as_user(),
        )
        options = {
            "port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off",
            "max_connections": 200, "shared_buffers": "256MB", **dict(settings),
        }
        flags = [w for k, v in options.items() for w in ("-c", f"{k}={v}")]
        listens(self.port, self.start(
            [self.bin / "postgres", "-D", data, *flags], signal.SIGINT, "postgres.log", cwd=self.folder, **self.as_user(),
        ))
        end = time.monotonic() + 20
        while subprocess.run([self.bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]).returncode:
            if time.monotonic() > end:
                sys.exit("Postgres does not start")
            time.sleep(0.05)
        self.sql("CREATE DATABASE app")

    def environment(self):
        return {**os.environ, "PGPASSWORD": PASSWORD, "PGUSER": "bench", "PGHOST": "127.0.0.1", "PGSSLMODE": "disable"}

    def sql(self, text, database="postgres"):
        done = subprocess.run(
            ["psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-p", str(self.port), "-d", database, "-c", text],
            env=self.environment(), check=True, capture_output=True, text=True,
        )
        return done.stdout.strip()

    def pgbouncer(self, mode="transaction", program="pgbouncer", more=""):
        """Its process and its port."""
        port, name = free_port(), f"pgbouncer-{mode}"
        verifier = self.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'bench'")
        # of clients the verifier, so that their log-ins cost no PBKDF2; towards the server the password
        (self.folder / "users.txt").write_text(f'"bench" "{verifier}"\n')
        (self.folder / f"{name}.ini").write_text(
            f"[databases]\napp = host=127.0.0.1 port={self.port} dbname=app user=bench password={PASSWORD}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\n"
            f"auth_file = {self.folder}/users.txt\npool_mode = {mode}\ndefault_pool_size = 20\nmax_client_conn = 15000\n"
            f"ignore_startup_parameters = extra_float_digits\nlog_connections = 0\nlog_disconnections = 0\n{more}"
        )
        child = self.start([program, self.folder / f"{name}.ini"], signal.SIGINT, f"{name}.log", **self.as_user())
        listens(port, child)
        return child.pid, port

    def pgweir(self, program, workers=1, settings=(), keyspace=""):
        """Its process and its port."""
        port, name = free_port(), f"pgweir-{len(self.children)}"
        (self.folder / f"{name}-map.toml").write_text(
            f'database = "app"\nepoch = 1\ndefault_shard = "s1"\n[[shard]]\nname = "s1"\n'
            f'nodes = [{{ host = "127.0.0.1", port = {self.port} }}]\n{keyspace}'
        )
        (self.folder / f"{name}.toml").write_text(
            f'[server]\nlisten = ["127.0.0.1:{port}"]\nworkers = {workers}\n[[user]]\nname = "bench"\n'
            f'password = "{PASSWORD}"\n[database.app]\nmap = "{name}-map.toml"\nservice_user = "bench"\n'
            f'service_password = "{PASSWORD}"\n'
        )
        flags = [w for s in settings for w in ("--set", s)]
        child = self.start([program, "serve", "--config", self.folder / f"{name}.toml", *flags], log=f"{name}.log")
        listens(port, child)
        return child.pid, port


def many_files(most):
    """Lets this process and those that it starts have so many files open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < most:
        sys.exit(f"ulimit -Hn is {hard}; {most} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
