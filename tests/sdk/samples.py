"""What customers send: a text, a sound, an image, a tool."""

import base64
import io
import struct
import wave
import zlib

MODEL = "gpt-oss:120b"
VISION = "gemma3:27b"
EMBEDDING = "granite-embedding:278m"
RERANK = "nvidia/llama-nemotron-rerank-vl-1b-v2"
WHISPER = "whisper-large-v3"

HELLO = [{"role": "user", "content": "Bonjour !"}]
QUESTION = "Quelle est la capitale de la France ?"
DOCUMENTS = [
    "Paris est la capitale et la plus grande ville de France.",
    "Lyon est une grande ville du sud-est de la France.",
    "La France est un pays d'Europe occidentale.",
]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
    },
}


def silence(seconds: int) -> bytes:
    """Return a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(2 * 8000 * seconds))
    return file.getvalue()


def image() -> str:
    """Return a data URL of a red pixel. (The documentation says JPEG; servers look at the bytes.)"""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\x00\xff\x00\x00")
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return "data:image/jpeg;base64," + base64.b64encode(png).decode()


def said(text: str) -> list[dict[str, str]]:
    """Return a conversation of one line."""
    return [{"role": "user", "content": text}]


DOCUMENTED_ERRORS = {
    400: {
        "message": "Invalid parameter 'temperature': must be between 0 and 2",
        "type": "invalid_request_error",
        "param": "temperature",
    },
    401: {"message": "Invalid API key provided", "type": "authentication_error"},
    404: {
        "message": "Model 'unknown-model' does not exist",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    },
    429: {
        "message": "Rate limit exceeded. Please upgrade your tier or try again later.",
        "type": "rate_limit_error",
        "code": "rate_limit_exceeded",
    },
    500: {"message": "Internal server error", "type": "server_error"},
    503: {"message": "Service temporarily unavailable", "type": "service_unavailable_error"},
}
