"""What lines have used together is counted as a call's own usage counts it."""

from proxy.core.batches.usage import BatchUsage, usage_of
from proxy.core.usage import UsageType
from tests.ledger.support import entry


def test_cached_input_is_part_of_the_input_and_reasoning_of_the_output():
    answered = entry(
        used=[
            (UsageType.INPUT, 100),
            (UsageType.CACHED_INPUT, 20),
            (UsageType.OUTPUT, 3),
            (UsageType.REASONING, 4000),
        ]
    )
    assert usage_of([answered]) == BatchUsage(120, 20, 4003, 4000)
    assert usage_of([answered]).total_tokens == 4123


def test_reranked_tokens_are_input():
    assert usage_of([entry(used=[(UsageType.RERANK, 70)])]) == BatchUsage(70)


def test_lines_add_up_and_none_have_used_nothing():
    first, second = entry(used=[(UsageType.INPUT, 5)]), entry(used=[(UsageType.INPUT, 6), (UsageType.OUTPUT, 7)])
    assert usage_of([first, second, entry(used=[])]) == BatchUsage(11, 0, 7, 0)
    assert usage_of([]) == BatchUsage()
