"""What an ingestion does in a child: a file becomes a dataset, or a dataset becomes two."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from checkpoints.errors import DamagedBlob, MissingBlob
from checkpoints.store import Blob, Store
from models import catalog, plugins
from models.datasets import Dataset, splitting
from models.spec import SpecError
from service.jobs import sandbox
from service.jobs.engines import ChildOptions, TaskFailed

_HASHING = 0.1  # of the time for decoding comes on top, to hash what was decoded


def run(payload: Mapping[str, Any], options: ChildOptions, store: Store) -> dict[str, Any]:
    """Write the datasets that an ingestion makes into the store.

    Args:
        payload: ``upload`` and ``spec`` for a file; for a dataset ``dataset_digest``, ``division``
            (what `models.datasets.splitting.divide` takes), ``found`` (what is known of it) and
            ``specs`` (of the two parts).

    Returns:
        ``{"datasets": [{"spec", "digest", "size_bytes", and what a format's Found says}]}``.

    Raises:
        TaskFailed: the file, the spec or the division cannot be taken, or its source is gone.
        OSError: the disk is full or fails.
    """
    made = _divided(payload, store) if "division" in payload else [_read(payload, options, store)]
    return {"datasets": made}


def _read(payload: Mapping[str, Any], options: ChildOptions, store: Store) -> dict[str, Any]:
    try:
        upload = open(store.upload_path(payload["upload"]), "rb")  # noqa: SIM115
    except (MissingBlob, FileNotFoundError):
        raise TaskFailed("missing_blob", "the uploaded file is gone; send it again") from None
    with upload, store.draft() as draft, store.draft() as scratch:
        request = {"spec": payload["spec"], **_of_plugins(payload["spec"]), **options.decoding}
        limits = options.decoder_limits(os.fstat(upload.fileno()).st_size)
        descriptors = [upload.fileno(), draft.fileno(), scratch.fileno()]
        deadline = time.monotonic() + limits.wall_s * (1 + _HASHING)
        try:
            answer = sandbox.run("models.datasets:ingest", request, descriptors, limits)
        except sandbox.SandboxError as error:
            plugin = catalog.FORMATS.added.get(payload["spec"].get("format") or "")
            if error.trace and plugin is not None:
                last = plugins.without_paths(error.trace.strip().splitlines()[-1])
                detail = f"the plug-in {plugin.provider}, which reads such files, failed: {last}"
                raise TaskFailed(
                    "plugin_failed", detail, pointer="/file", trace=error.trace
                ) from error
            if error.trace:  # a fault of the decoder, not of the file
                error.add_note(error.trace)
                raise
            raise _unreadable(error.detail, limits) from error
        if "error" in answer:
            refusal = answer["error"]
            raise TaskFailed("bad_request", refusal["detail"], pointer=refusal["pointer"])
        _check_order(answer["dataset"], payload.get("like", {}))
        try:
            blob = draft.publish(deadline=deadline)
        except TimeoutError as error:
            detail = f"its {draft.size_bytes} bytes decoded take too long to hash"
            raise _unreadable(detail, limits) from error
        return _made(answer["dataset"], blob, payload["spec"])


def _unreadable(detail: str, limits: sandbox.Limits) -> TaskFailed:
    gibibytes = limits.address_space_bytes / 2**30
    return TaskFailed(
        "bad_request",
        f"the file could not be read: {detail} (limits for a file of its size: {limits.wall_s:g} s "
        f"and {gibibytes:.3g} GiB, from HOLDOUT_DECODER_S and HOLDOUT_READER_MEMORY_BYTES)",
        pointer="/file",
    )


def _check_order(found: Mapping[str, Any], like: Mapping[str, Sequence[str]]) -> None:
    """Refuse a table with the columns of the dataset that its constants come from, reordered.

    A network takes columns by their places, so it would be judged on scrambled examples.
    """
    names = [one["name"] for one in found.get("columns") or ()]
    for other, columns in like.items():
        if names != columns and sorted(names) == sorted(columns):
            raise TaskFailed(
                "bad_request",
                f"the columns stand in another order than those of {other}, which constants are "
                f"taken from: name them in that order in features, {json.dumps(columns)[:1000]}",
                pointer="/features",
            )


def _of_plugins(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What the decoder is told of plug-ins, of which it loads nothing but a format's own module."""
    told: dict[str, Any] = {"additions": catalog.added()}
    named = catalog.FORMATS.added.get(spec.get("format", ""))
    return told if named is None else {**told, "target": named.target}


def _divided(payload: Mapping[str, Any], store: Store) -> list[dict[str, Any]]:
    try:
        store.verify(payload["dataset_digest"])
        dataset = Dataset(store.path(payload["dataset_digest"]))
        parts = splitting.divide(dataset, **payload["division"])
        made = []
        for indices, spec in zip(parts, payload["specs"], strict=True):
            with store.draft() as draft:
                splitting.write_part(dataset, indices, draft.fileno())
                blob = draft.publish()
            found = splitting.found(Dataset(store.path(blob.digest)), payload["found"], spec)
            made.append(_made(found, blob, spec))
    except SpecError as error:
        raise TaskFailed("bad_request", error.detail, pointer=error.pointer) from error
    except MissingBlob:
        raise TaskFailed("missing_blob", "the dataset is not in the store any more") from None
    except DamagedBlob:
        raise TaskFailed("damaged_blob", "the dataset is damaged in the store") from None
    return made


def _made(found: Mapping[str, Any], blob: Blob, spec: Mapping[str, Any]) -> dict[str, Any]:
    stored = {"digest": blob.digest, "size_bytes": blob.size_bytes}
    return {**found, **stored, "spec": spec}
