"""Peers that read an object of S3: the AWS command line behind webdataset's `pipe:`, and s3torchconnector."""

import hashlib
import os
from collections.abc import Callable

PIECE_BYTES = 1 << 20


def aws_command_line(bucket: str, key: str, endpoint: str, is_checked: bool) -> Callable[[], str]:
    """Prepares `pipe:aws s3 cp`, which webdataset starts anew for each shard."""
    from webdataset.gopen import gopen

    def work() -> str:
        digest, size = hashlib.sha256(), 0
        with gopen(f"pipe:aws --endpoint-url {endpoint} s3 cp s3://{bucket}/{key} -") as stream:
            while piece := stream.read(PIECE_BYTES):
                size += len(piece)
                if is_checked:
                    digest.update(piece)
        return digest.hexdigest() if is_checked else str(size)

    return work


def s3torchconnector(bucket: str, key: str, endpoint: str, is_checked: bool) -> Callable[[], str]:
    """Prepares its client, told of a node's 25 Gb/s; in pieces its reader needs less than for the whole at once."""
    from s3torchconnector import S3ClientConfig
    from s3torchconnector._s3client import S3Client

    config = S3ClientConfig(throughput_target_gbps=25.0, force_path_style=True)
    client = S3Client(os.environ["AWS_DEFAULT_REGION"], endpoint=endpoint, s3client_config=config)
    assert client._client, "its native client is made at its first use"

    def work() -> str:
        digest, size = hashlib.sha256(), 0
        reader = client.get_object(bucket, key)
        while piece := reader.read(PIECE_BYTES):
            size += len(piece)
            if is_checked:
                digest.update(piece)
        return digest.hexdigest() if is_checked else str(size)

    return work
