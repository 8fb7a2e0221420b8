"""Meters: usage read off an answer.

What belongs here: the contract, and one meter a format. A stream of chat chunks is read by ``stream_meter``, a whole
chat answer by ``read_body``, or by ``body_meter`` where it is too large for memory; ``/v1/completions`` has the same
formats. Another format (embeddings, rerank, audio) is one more module beside ``chat_stream`` and ``chat_body``; it
shares ``lines`` (cutting a stream into lines), ``large`` (whole answers of any size) and ``reported`` (judging an
engine's numbers).

Pure: bytes in, bytes out. Nothing here raises for anything that an upstream may send.
"""

from proxy.core.meters.chat_body import body_meter, read_body
from proxy.core.meters.chat_stream import stream_meter
from proxy.core.meters.contract import EventMeter, Reading, StreamMeter
from proxy.core.meters.gate import Gate
from proxy.core.meters.large import BodyMeter

__all__ = ["BodyMeter", "EventMeter", "Gate", "Reading", "StreamMeter", "body_meter", "read_body", "stream_meter"]
