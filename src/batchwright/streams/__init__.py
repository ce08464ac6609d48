"""Streams: samples whose length is only known when they arrive, batched over a bounded buffer."""

from batchwright.streams.batch_stream import BatchStream, stream

__all__ = ["BatchStream", "stream"]
