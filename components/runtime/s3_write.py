"""Objects of an S3 store written whole or not at all; large ones in parts over several connections."""

import contextlib
import io
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any

from components.runtime import metrics
from components.runtime.errors import StageFailure
from components.runtime.s3_client import Address, Limits, Patience, call, connection
from components.runtime.s3_errors import Conflict
from components.runtime.s3_read import read_object, stat_object

PARTS_IN_FLIGHT = 4


@contextlib.contextmanager
def object_writer(limits: Limits, address: Address) -> Iterator[io.BufferedIOBase]:
    """Yields a file to write to; the object appears when the block ends, and never after an exception."""
    upload = _Upload(limits, address)
    try:
        yield upload
        upload.finish()
    finally:
        upload.abort()


def put_once(limits: Limits, address: Address, data: bytes) -> bool:
    """Writes an object that doesn't exist yet, and returns whether it was this call that wrote it."""
    patience = Patience(limits, "put_object", address)
    try:
        call(limits, "put_object", address, patience, Body=data, IfNoneMatch="*")
    except Conflict:
        if patience.is_first:
            return False
        # An attempt that failed for us may have succeeded for the store.
        return read_object(limits, address) == data
    metrics.count("storage_written_bytes", len(data))
    return True


class _Upload(io.BufferedIOBase):
    """Gathers what is written into parts, and sends each as soon as it is full; a small object goes in one call."""

    def __init__(self, limits: Limits, address: Address) -> None:
        self._limits, self._address = limits, address
        self._gathered = bytearray()
        self._upload_id = ""
        self._parts: list[Future[dict[str, Any]]] = []
        self._num_bytes = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._num_bytes

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._num_bytes += len(view)
        at = 0
        while at < len(view):
            room = self._limits.part_bytes - len(self._gathered)
            self._gathered += view[at : at + room]
            at += room
            if len(self._gathered) == self._limits.part_bytes:
                self._send()
        return len(view)

    def finish(self) -> None:
        """Makes the object appear."""
        if not self._upload_id:
            call(self._limits, "put_object", self._address, Body=self._gathered)
        else:
            if self._gathered:
                self._send()
            parts = [{"PartNumber": i, "ETag": part.result()["ETag"]} for i, part in enumerate(self._parts, start=1)]
            self._complete(parts)
            self._upload_id = ""
        metrics.count("storage_written_bytes", self._num_bytes)

    def abort(self) -> None:
        """Removes what was sent, where the object has not appeared."""
        for part in self._parts:
            part.cancel()
        wait(self._parts)  # a part that arrives after the abort would stay in the store
        if self._upload_id:
            with contextlib.suppress(StageFailure, FileNotFoundError):
                call(self._limits, "abort_multipart_upload", self._address, UploadId=self._upload_id)
            self._upload_id = ""
        self.close()

    def _send(self) -> None:
        if not self._upload_id:
            answer = call(self._limits, "create_multipart_upload", self._address)
            self._upload_id = answer["UploadId"]
        if len(self._parts) >= PARTS_IN_FLIGHT:
            self._parts[-PARTS_IN_FLIGHT].result()
        data, self._gathered = self._gathered, bytearray()
        self._parts.append(
            connection(self._limits).threads.submit(
                call,
                self._limits,
                "upload_part",
                self._address,
                UploadId=self._upload_id,
                PartNumber=len(self._parts) + 1,
                Body=data,
            )
        )

    def _complete(self, parts: list[dict[str, Any]]) -> None:
        patience = Patience(self._limits, "complete_multipart_upload", self._address)
        try:
            call(
                self._limits,
                "complete_multipart_upload",
                self._address,
                patience,
                UploadId=self._upload_id,
                MultipartUpload={"Parts": parts},
            )
        except FileNotFoundError:
            # The upload is gone: an attempt that failed for us may have succeeded for the store.
            if patience.is_first or stat_object(self._limits, self._address)[0] != self._num_bytes:
                raise
