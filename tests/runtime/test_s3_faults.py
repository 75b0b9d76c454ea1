"""What networks and S3 stores do wrong is absorbed and counted, or refused in one sentence."""

import dataclasses
import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import boto3
import pytest

from components.runtime import metrics
from components.runtime.errors import StageFailure
from components.runtime.s3 import S3Folder
from components.runtime.s3_client import Limits
from tests.runtime.fault_proxy import Fault, FaultProxy, Seen, fault_proxy
from tests.s3 import SECRET, s3_server, use_s3

MIB = 1 << 20
QUICK = Limits(
    first_pause_s=0.01, longest_pause_s=0.05, deadline_s=20, connect_timeout_s=2, read_timeout_s=2, part_bytes=64 << 10
)
DATA = hashlib.shake_256(b"object").digest(MIB + 12345)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def direct(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client that goes around the proxy; the bucket holds one object."""
    use_s3(monkeypatch, endpoint)
    client = boto3.session.Session().client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="bucket")
    client.put_object(Bucket="bucket", Key="run/object", Body=DATA)
    return client


@pytest.fixture
def proxy(endpoint: str, direct: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The proxy, which the environment points to from here on."""
    with fault_proxy(endpoint) as found:
        use_s3(monkeypatch, found.endpoint)
        metrics.drain()
        yield found


def run_folder(**changes: Any) -> S3Folder:
    return S3Folder("bucket", "run", dataclasses.replace(QUICK, **changes))


def retries() -> dict[str, float]:
    """Returns the counted retries by operation and reason, without the counter's name."""
    return {k.partition("{")[2][:-1]: v for k, v in metrics.totals().items() if k.startswith("storage_retries")}


def is_write(seen: Seen) -> bool:
    return seen.method == "PUT"


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (502, "502"), (504, "504")])
def test_a_store_that_recovers_is_waited_for(proxy: FaultProxy, status: int, code: str) -> None:
    proxy.faults = [Fault("refuse", times=3, status=status, code=code)]
    assert run_folder().read("object") == DATA
    assert retries() == {f"operation=get_object,reason={code}": 3}


def test_a_third_of_all_answers_may_be_503(proxy: FaultProxy) -> None:
    proxy.faults = [Fault("refuse", probability=0.3, applies=lambda seen: True)]
    folder = run_folder(part_bytes=16 << 10)
    assert folder.read("object") == DATA
    for i in range(20):
        folder.write(f"small/{i:02}", b"%d" % i)
    assert [folder.read(name) for name in folder.names("small/")] == [b"%d" % i for i in range(20)]
    assert len(proxy.seen) > 100 and 0.2 < sum(retries().values()) / len(proxy.seen) < 0.4


def test_pauses_grow_and_are_drawn_at_random(proxy: FaultProxy) -> None:
    proxy.faults = [Fault("refuse", times=7)]
    begin = time.monotonic()
    folder = run_folder(first_pause_s=0.05, longest_pause_s=0.4, part_bytes=2 * MIB)
    assert folder.read("object") == DATA
    longest_s = 0.05 + 0.1 + 0.2 + 4 * 0.4
    assert 0.1 * longest_s < time.monotonic() - begin < longest_s + 1


def test_a_store_that_does_not_recover_is_given_up_after_the_attempts(proxy: FaultProxy) -> None:
    proxy.faults = [Fault("refuse")]
    with pytest.raises(StageFailure, match=r"get_object of s3://bucket/run/object failed 4 times in a row .*SlowDown"):
        run_folder(attempts=4).read("object")
    assert len(proxy.seen) == 4 and retries() == {"operation=get_object,reason=SlowDown": 3}


def test_a_host_that_has_no_address_is_named_after_the_attempts(direct: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use_s3(monkeypatch, "http://no-such-host.invalid")
    metrics.drain()
    with pytest.raises(StageFailure, match=r"object failed 3 times in a row .*EndpointConnectionError"):
        run_folder(attempts=3).read("object")
    assert retries() == {"operation=get_object,reason=EndpointConnectionError": 2}


@pytest.mark.parametrize("kind", ["reset", "short"])
def test_a_body_that_breaks_off_is_resumed_at_the_byte_reached(proxy: FaultProxy, kind: str) -> None:
    proxy.faults = [Fault(kind, times=1)]
    assert run_folder(part_bytes=2 * MIB).read("object") == DATA
    first, second = (seen.headers for seen in proxy.seen)
    resumed_at = int(re.fullmatch(r"bytes=(\d+)-\d+", second["range"])[1])  # type: ignore[index]
    assert "if-match" not in first and second["if-match"]
    assert resumed_at == len(DATA) // 2 or (kind == "reset" and 0 <= resumed_at < len(DATA) // 2)
    assert sum(retries().values()) == 1


def test_one_body_in_three_may_break_off(proxy: FaultProxy) -> None:
    proxy.faults = [Fault("reset", probability=0.3), Fault("short", probability=0.1)]
    folder = run_folder()
    assert folder.read("object") == DATA
    with folder.open("object") as file:
        assert file.read() == DATA
    assert sum(retries().values()) > 5


def test_a_body_damaged_once_is_read_again(proxy: FaultProxy) -> None:
    proxy.faults = [Fault("corrupt", times=1)]
    assert run_folder().read_verified("object", hashlib.sha256(DATA).hexdigest()) == DATA
    assert retries() == {"operation=read,reason=Corrupted": 1}


def test_a_body_damaged_twice_is_refused_with_both_digests(proxy: FaultProxy) -> None:
    proxy.faults = [Fault("corrupt", applies=lambda seen: seen.headers.get("range", "").startswith("bytes=0-"))]
    damaged = hashlib.sha256(bytes([DATA[0] ^ 1]) + DATA[1:]).hexdigest()
    expected = hashlib.sha256(DATA).hexdigest()
    with pytest.raises(StageFailure, match=f"s3://bucket/run/object is damaged: its sha256 is {damaged}.*{expected}"):
        run_folder().read_verified("object", expected)


def test_an_object_replaced_while_it_is_read_is_refused(proxy: FaultProxy, direct: Any) -> None:
    with run_folder(parts_ahead=0).open("object") as file:
        assert file.read(1000) == DATA[:1000]
        direct.put_object(Bucket="bucket", Key="run/object", Body=bytes(len(DATA)))
        with pytest.raises(StageFailure, match="shard changed: s3://bucket/run/object was replaced"):
            file.read()
    assert retries() == {}


def test_a_denied_action_is_not_tried_again_and_the_secret_not_shown(proxy: FaultProxy) -> None:
    proxy.faults = [Fault("refuse", status=403, code="AccessDenied")]
    with pytest.raises(StageFailure, match="get_object of s3://bucket/run/object was refused") as refusal:
        run_folder().read("object")
    assert "grant the credentials this action" in str(refusal.value) and SECRET not in str(refusal.value)
    assert len(proxy.seen) == 1


def test_missing_keys_and_buckets_are_not_asked_for_again(proxy: FaultProxy) -> None:
    with pytest.raises(FileNotFoundError, match="s3://bucket/run/nothing"):
        run_folder().read("nothing")
    assert len(proxy.seen) == 1
    with pytest.raises(StageFailure, match=r"s3://no-such/x was refused \(NoSuchBucket\): create the bucket"):
        S3Folder("no-such", "", QUICK).read("x")
    assert len(proxy.seen) == 2


def test_expired_credentials_are_asked_for_once_more(
    proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file.write_text(f"[default]\naws_access_key_id=OLD\naws_secret_access_key={SECRET}\n")
    proxy.faults = [
        Fault("refuse", status=400, code="ExpiredToken", applies=lambda s: "=OLD/" in s.headers["authorization"])
    ]
    folder = run_folder(part_bytes=2 * MIB)
    with pytest.raises(StageFailure, match=r"^auth: get_object of s3://bucket/run/object: .* expired") as refusal:
        folder.read("object")
    assert len(proxy.seen) == 2 and SECRET not in str(refusal.value)
    file.write_text(f"[default]\naws_access_key_id=NEW\naws_secret_access_key={SECRET}\n")
    metrics.drain()
    assert folder.read("object") == DATA
    assert retries() == {"operation=get_object,reason=ExpiredToken": 1} and len(proxy.seen) == 4


def test_without_credentials_the_sentence_says_auth(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StageFailure, match=r"^auth: get_object of s3://bucket/run/object: .*give credentials"):
        run_folder().read("object")


def test_a_wrong_clock_is_said_with_its_offset(proxy: FaultProxy) -> None:
    theirs = format_datetime(datetime.now(UTC) + timedelta(minutes=20), usegmt=True)
    proxy.faults = [Fault("refuse", status=403, code="RequestTimeTooSkewed", date=theirs)]
    with pytest.raises(StageFailure, match=r"this machine's clock is 1(1[5-9][0-9]|200) s behind the store's"):
        run_folder().read("object")
    assert len(proxy.seen) == 1


def test_an_upload_that_is_broken_off_leaves_nothing(proxy: FaultProxy, direct: Any) -> None:
    folder = run_folder(part_bytes=5 * MIB)
    with pytest.raises(ZeroDivisionError), folder.writer("large") as file:
        file.write(bytes(12 * MIB))
        1 / 0  # noqa: B018
    proxy.faults = [Fault("refuse", applies=lambda seen: "partNumber=2" in seen.path)]
    with pytest.raises(StageFailure, match="upload_part of s3://bucket/run/large failed 3 times"):
        run_folder(part_bytes=5 * MIB, attempts=3).write("large", bytes(12 * MIB))
    assert not folder.exists("large")
    assert "Uploads" not in direct.list_multipart_uploads(Bucket="bucket")


def test_a_large_object_survives_failures_of_its_parts(proxy: FaultProxy, direct: Any) -> None:
    data = hashlib.shake_256(b"large").digest(17 * MIB + 5)
    proxy.faults = [Fault("refuse", times=2, applies=is_write), Fault("lose", times=1, applies=is_write)]
    with run_folder(part_bytes=5 * MIB).writer("large") as file:
        for at in range(0, len(data), 700_001):
            file.write(data[at : at + 700_001])
    assert direct.get_object(Bucket="bucket", Key="run/large")["Body"].read() == data
    assert sum(retries().values()) == 3


def test_an_upload_whose_completion_was_not_heard_of_is_complete(proxy: FaultProxy) -> None:
    def completes(seen: Seen) -> bool:
        return seen.method == "POST" and "uploadId=" in seen.path

    proxy.faults = [
        Fault("lose", times=1, applies=completes),
        Fault("refuse", times=1, status=404, code="NoSuchUpload", applies=completes),
    ]
    folder = run_folder(part_bytes=5 * MIB)
    folder.write("heard", bytes(11 * MIB))
    assert folder.size("heard") == 11 * MIB
    proxy.faults = [Fault("refuse", status=404, code="NoSuchUpload", applies=completes)]
    with pytest.raises(FileNotFoundError, match="s3://bucket/run/unheard"):
        folder.write("unheard", bytes(11 * MIB))


def test_stale_uploads_are_swept(proxy: FaultProxy, direct: Any) -> None:
    for key in ("run/stale", "other/stale"):
        direct.create_multipart_upload(Bucket="bucket", Key=key)  # moto dates all uploads 2010
    assert run_folder().sweep_uploads() == 1
    assert [upload["Key"] for upload in direct.list_multipart_uploads(Bucket="bucket")["Uploads"]] == ["other/stale"]


def test_of_two_writers_one_is_told_that_it_was_first_even_if_the_answer_was_lost(proxy: FaultProxy) -> None:
    proxy.faults = [Fault("lose", times=1, applies=is_write)]
    assert run_folder().write_once("lease", b"first")
    assert not run_folder().write_once("lease", b"second")
    assert run_folder().read("lease") == b"first"


@pytest.mark.slow
def test_a_listing_of_over_100_000_names_is_whole(proxy: FaultProxy) -> None:
    from moto.s3.models import s3_backends

    keys = [f"many/{i:06}" for i in range(100_001)]
    backend = s3_backends["123456789012"]["aws"]
    for key in keys:
        backend.put_object("bucket", key, b"")
    proxy.faults = [Fault("refuse", times=1), Fault("reset", times=1, probability=0.1)]
    assert S3Folder("bucket", "", QUICK).names("many/") == keys
    for key in keys:
        backend.delete_object("bucket", key)
    assert len(proxy.seen) > 101


def test_a_store_without_checksum_headers_is_written_and_still_verified(proxy: FaultProxy) -> None:
    def has_checksum(seen: Seen) -> bool:
        return any(name.startswith(("x-amz-checksum", "x-amz-sdk-checksum", "x-amz-trailer")) for name in seen.headers)

    proxy.faults = [Fault("refuse", status=501, code="NotImplemented", applies=has_checksum)]
    folder = run_folder(part_bytes=5 * MIB)
    for name, data in {"small": b"1", "large": bytes(11 * MIB)}.items():
        folder.write(name, data)
        assert folder.read_verified(name, hashlib.sha256(data).hexdigest()) == data
    with pytest.raises(StageFailure, match="s3://bucket/run/small is damaged"):
        folder.read_verified("small", hashlib.sha256(b"2").hexdigest())


@pytest.mark.parametrize("kind", ["hang", "drip"])
def test_a_silent_server_is_given_up_at_the_deadline(proxy: FaultProxy, kind: str) -> None:
    proxy.faults = [Fault(kind, seconds=0.4)]
    begin = time.monotonic()
    with pytest.raises(StageFailure, match=r"s3://bucket/run/object failed .*ReadTimeoutError"):
        run_folder(read_timeout_s=0.2 if kind == "hang" else 2, deadline_s=1, part_bytes=2 * MIB).read("object")
    assert time.monotonic() - begin < 3


def test_a_process_whose_store_hangs_ends(proxy: FaultProxy) -> None:
    proxy.faults = [Fault("hang", seconds=60)]
    program = (
        "from components.runtime.s3 import S3Folder; from components.runtime.s3_client import Limits; "
        "S3Folder('bucket', 'run', Limits(read_timeout_s=0.3, deadline_s=1)).open('object').read()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1 and "StageFailure: get_object of s3://bucket/run/object failed" in ended.stderr
