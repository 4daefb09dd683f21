"""How this process runs: one frozen class, read once, in which a mistake stops the start."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

PREFIX = "HOLDOUT_"

# Read by the command-line client, never by the service.
CLIENT_VARIABLES = ("HOLDOUT_URL", "HOLDOUT_TOKEN")

# Kubernetes sets these in every pod beside a Service named "holdout":
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_KUBERNETES = re.compile(
    r"HOLDOUT_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)"
)
_KUBERNETES_PORT = re.compile(r"(tcp|udp|sctp)://")

_DATABASE = re.compile(r"(sqlite|postgresql)://")

DATA_DIR = Path("var")
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")


class SettingsError(ValueError):
    """The process cannot start with these settings; the message lists every mistake."""


def _boolean(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise ValueError("must be true or false")
    return known[text.lower()]


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("must be a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number") from None


_PARSERS: dict[str, Any] = {
    "str": str,
    "int": _integer,
    "float": _number,
    "bool": _boolean,
    "Path": Path,
    "Path | None": Path,
}


def _setting(default: Any, help_text: str, **bounds: float) -> Any:
    return field(default=default, metadata={"help": help_text, **bounds})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting, each from the variable ``HOLDOUT_<NAME>``, a ``.env`` file or a flag."""

    host: str = _setting("127.0.0.1", "Address that the web process listens on.")
    port: int = _setting(
        8000, "Port that the web process listens on; 0 picks one.", low=0, high=65535
    )
    data_dir: Path = _setting(DATA_DIR, "Folder of blobs, uploads and the SQLite database.")
    database_url: str = _setting(
        "", "`sqlite:///PATH` or `postgresql://...`; empty means SQLite in the data folder."
    )
    children: int = _setting(
        2, "Child processes of a worker, one job each at a time.", low=1, high=256
    )
    threads_per_child: int = _setting(
        0, "Threads that one child computes with; 0 means half the cores.", low=0, high=1024
    )
    device: str = _setting("auto", "What a worker computes on: auto, cpu, cuda or cuda:N.")
    web_threads: int = _setting(
        256,
        "Threads of the web process; at most half of them hold waits and event streams.",
        low=4,
        high=4096,
    )
    max_wait_s: float = _setting(
        50.0, "Longest that `?wait` holds an answer; proxies often cut at 60.", low=0, high=3600
    )
    max_upload_bytes: int = _setting(
        4 * 2**30, "Largest upload; a larger one is refused while it streams.", low=1
    )
    max_examples: int = _setting(50_000_000, "Most examples of one dataset.", low=1)
    max_dataset_bytes: int = _setting(64 * 2**30, "Largest dataset once it is decoded.", low=1)
    max_columns: int = _setting(10_000, "Most columns of a table.", low=1)
    max_image_pixels: int = _setting(2**26, "Most pixels of one image of a dataset.", low=1)
    prepared_bytes: int = _setting(
        50 * 2**30,
        "What prepared datasets may take together, and each alone; those longest unused go first.",
        low=0,
    )
    reader_memory_bytes: int = _setting(
        4 * 2**30,
        "Address space of a child that reads an upload, beside the upload itself.",
        low=2**28,
    )
    reader_s: float = _setting(
        120.0, "Longest that a child reads one checkpoint.", low=1, high=86400
    )
    decoder_s: float = _setting(
        25.0,
        "Longest that a dataset of 50 MB is decoded; a larger file has more in proportion.",
        low=1,
        high=86400,
    )
    onnx_memory_bytes: int = _setting(
        8 * 2**30,
        "Memory that an ONNX network may take while it is evaluated; beyond it the job fails.",
        low=2**26,
    )
    overlap_fraction: float = _setting(
        0.01,
        "Share of a validation dataset that the training dataset may have too.",
        low=0,
        high=1,
    )
    training_memory_bytes: int = _setting(
        8 * 2**30,
        "What the weights, gradients and batches of a training may take; more is refused.",
        low=2**20,
    )
    training_examples: int = _setting(
        10**10, "Most examples that a training may go through, all epochs together.", low=1
    )
    resident_bytes: int = _setting(
        8 * 2**30,
        "Up to which a dataset is held where it is trained on; a larger one is read as it goes.",
        low=0,
    )
    lease_s: float = _setting(
        60.0, "Silence after which a worker's job is retried.", low=2, high=86400
    )
    crash_limit: int = _setting(
        3, "Crashes of its child after which a job fails for good.", low=1, high=100
    )
    idempotency_s: float = _setting(
        86400.0, "How long an `Idempotency-Key` is remembered.", low=60, high=86400 * 365
    )
    admin_token_file: Path | None = _setting(
        None, "File that holds the first admin's token, for an empty database."
    )
    open_metrics: bool = _setting(False, "Whether `/metrics` answers without a token.")

    def __post_init__(self) -> None:
        mistakes = []
        for one in fields(self):
            value = getattr(self, one.name)
            low, high = one.metadata.get("low"), one.metadata.get("high")
            if low is not None and not value >= low:
                mistakes.append(f"{variable(one.name)} must be at least {low}, got {value}")
            elif high is not None and not value <= high:
                mistakes.append(f"{variable(one.name)} must be at most {high}, got {value}")
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", self.device):
            mistakes.append(
                f"HOLDOUT_DEVICE must be auto, cpu, cuda or cuda:N, got {self.device!r}"
            )
        if self.database_url and not _DATABASE.match(self.database_url):
            mistakes.append(
                "HOLDOUT_DATABASE_URL must start with sqlite:/// or postgresql://, got "
                f"{self.database_url.partition(':')[0]!r}"
            )
        if self.database_url.split("://")[-1].split("/")[0].count("@") > 1:
            mistakes.append(
                "HOLDOUT_DATABASE_URL has a user or password with '@' in it: write %40 instead"
            )
        if mistakes:
            raise SettingsError("; ".join(mistakes))

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        dotenv: Path | None = Path(".env"),
        flags: Mapping[str, Any] | None = None,
    ) -> Settings:
        """Read settings: flags before variables before the ``.env`` file before defaults.

        Args:
            environ: the process's own by default.
            dotenv: a file of ``NAME=value`` lines, skipped where there is none.
            flags: parsed values by field name; None entries are left out.

        Raises:
            SettingsError: a misspelt variable, with the nearest known name, or an unreadable
                value; all mistakes at once.
        """
        from_file = read_dotenv(dotenv)
        given = {
            name: text
            for source in (from_file, os.environ if environ is None else environ)
            for name, text in source.items()
            if name.startswith(PREFIX) and text is not None and not is_ignored(name, text)
        }
        known = {variable(one.name): one for one in fields(cls)}
        mistakes, values = [], {}
        for name, text in sorted(given.items()):
            if name not in known:
                near = difflib.get_close_matches(name, [*known, *CLIENT_VARIABLES], n=1, cutoff=0)
                mistakes.append(f"unknown variable {name}; the nearest known one is {near[0]}")
                continue
            if text == "" and known[name].default is not MISSING:
                continue  # an empty variable is how a compose file leaves one out
            try:
                values[known[name].name] = _PARSERS[str(known[name].type)](text)
            except ValueError as error:
                mistakes.append(f"{name} {error}, got {text!r}")
        if mistakes:
            raise SettingsError("; ".join(mistakes))
        return cls(**values | {k: v for k, v in (flags or {}).items() if v is not None})

    @property
    def database(self) -> str:
        """The database's URL, with the default filled in."""
        if self.database_url:
            return self.database_url
        path = str(self.data_dir.absolute() / "holdout.db")
        return URL.create("sqlite", database=path).render_as_string()

    @property
    def threads(self) -> int:
        """Threads of one child, with the default filled in."""
        return self.threads_per_child or max(1, (os.cpu_count() or 1) // 2)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the web process."""
        return is_loopback(self.host)

    def printable(self) -> dict[str, str]:
        """Every setting by variable, secrets left out, for the log line at the start."""
        shown = {variable(one.name): str(getattr(self, one.name)) for one in fields(self)}
        try:
            url = make_url(self.database).set(query={})  # a password may stand there as well
            shown["HOLDOUT_DATABASE_URL"] = url.render_as_string(hide_password=True)
        except (ArgumentError, ValueError):
            shown["HOLDOUT_DATABASE_URL"] = "(unreadable)"
        return shown


def read_dotenv(path: Path | None = Path(".env")) -> Mapping[str, str | None]:
    """The variables of a ``.env`` file; none where there is no file.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        return dotenv_values(path) if path and path.is_file() else {}
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} cannot be read: it is not UTF-8 text") from None


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    return host in LOOPBACK_HOSTS or (host.startswith("127.") and host.replace(".", "").isdigit())


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def is_ignored(name: str, text: str) -> bool:
    """Whether a ``HOLDOUT_`` variable belongs to the client or to Kubernetes, not to us."""
    if name in CLIENT_VARIABLES or _KUBERNETES.fullmatch(name):
        return True
    return name == "HOLDOUT_PORT" and _KUBERNETES_PORT.match(text) is not None


def ignored(environ: Mapping[str, str | None]) -> list[str]:
    """Names of such variables that are set, to be logged once."""
    return sorted(
        name
        for name, text in environ.items()
        if name.startswith(PREFIX) and text is not None and is_ignored(name, text)
    )
