"""The script of the `scripted` model: which word of the last user message picks which answer, token by token.

Data and counting only, standard library only: make_model.py turns it into weights with torch, while campaign.py
counts with it, in the project's own environment, what a model that knows nothing else must have generated. One string
in a tuple is one token; a token belongs to one answer only, because the model looks back at a single token.
"""

END = "<|end|>"
TURN = "<|turn|>"
PAD = "<|pad|>"

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"

# Characters of two and four bytes, one token a byte: a detokenizer must hold them back until they are whole.
SPLIT = ("é", "🙂")

SHORT = ("Short", " and", " always", " the", " same", ", caf", *SPLIT, " done.", END)
THINK = (
    *(THINK_OPEN, "\nFirst", " this", ", then", " that", ".\n", THINK_CLOSE),
    *("\n\nSo", " it", " is", " forty", "-two.", END),
)
TOOL = (
    *(CALL_OPEN, '\n{"name": "get_weather",', ' "arguments":', ' {"city":', ' "Paris"', "}}\n"),
    *(CALL_CLOSE, END),
)
LONG = tuple(f" long{number:02}_" for number in range(64))  # a ring: ends only at max_tokens
RAND = tuple(f" rand{number:02}_" for number in range(32))  # after each, any of them or END, equally likely

ANSWERS = {"SHORT": SHORT, "THINK": THINK, "TOOL": TOOL, "LONG": LONG, "RAND": RAND}
MARK = "_"  # ends each word of LONG and RAND, so that a text's marks are its tokens


def opening(word: str) -> str:
    """The token that ends the prompt and starts the answer."""
    return f"<|{word.lower()}|>"


def length(word: str) -> int:
    """The tokens of a whole SHORT, THINK or TOOL answer, its END included: engines count that one too."""
    return sum(len(piece.encode()) if piece in SPLIT else 1 for piece in ANSWERS[word])


def generated(word: str, text: str, finish: str, tokens_max: int) -> int:
    """The tokens that one finished choice took, from the text that the client saw and why it ended."""
    if finish == "length":
        return tokens_max
    if word in ("LONG", "RAND"):
        return text.count(MARK) + 1
    return length(word)
