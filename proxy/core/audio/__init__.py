"""Audio: how long a file really plays, read off its bytes as they pass.

What belongs here: the contract, and one module a container format. What does not: decoding sound, and what a minute
costs.

Headers are not believed: what counts is what the file holds. Where bytes can be read in more than one way, the longer
reading stands: an upstream's own report corrects it downwards (``proxy.core.meters.transcriptions``).
"""

from proxy.core.audio.meter import DurationMeter

__all__ = ["DurationMeter"]
