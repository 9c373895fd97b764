"""The codec's documents, for those who write jobs elsewhere than into the store."""

from perstackd.adapters.store import codec
from perstackd.domain.events import Payload
from perstackd.domain.job import JobRecord


class StoreDocuments:
    """See `perstackd.ports.job_documents.JobDocuments`."""

    def write_job(self, record: JobRecord) -> bytes:
        return codec.encode_job(record).encode()

    def read_job(self, document: bytes) -> JobRecord:
        return codec.decode_job(document.decode("utf-8", "replace"))

    def write_payload(self, payload: Payload) -> bytes:
        return codec.encode(payload)

    def read_payload(self, schema: int, document: bytes) -> Payload:
        return codec.decode_document(schema, document)

    def write_value(self, value: object) -> bytes:
        return codec.encode_value(value)
