"""kill -9 loses no call that was acknowledged, and counts none twice."""

import os
import signal
import subprocess
import sys
import threading

from proxy.core.entries import Outcome
from proxy.ledger.outbox import Outbox
from proxy.ledger.shipper import Shipper


def killed_process(path, name, after_lines):
    """Run crashing.py, kill it once it has acknowledged some calls, and return every id that it acknowledged."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.ledger.crashing", str(path), name], stdout=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    acknowledged = []
    for line in process.stdout:
        acknowledged.append(line)
        if len(acknowledged) == after_lines:
            os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    watchdog.cancel()
    process.stdout.close()
    assert len(acknowledged) >= after_lines
    return {line.strip() for line in acknowledged if line.endswith("\n")}


async def test_every_acknowledged_call_of_a_killed_process_is_in_the_ledger_once(tmp_path, ledger):
    path = tmp_path / "outbox-0.db"
    acknowledged = set()
    for round_number, after_lines in enumerate((1, 50, 777)):
        acknowledged |= killed_process(path, f"r{round_number}", after_lines)
        outbox = Outbox(path)
        shipper = Shipper(outbox, ledger, linger_s=0)
        shipper.start()
        assert await shipper.drain(30)
        await outbox.close()

    entries = {kept.call_id: kept for kept in await ledger.entries_of("acc_a", "2026-11")}
    assert acknowledged <= set(entries)
    assert {entries[call_id].outcome for call_id in acknowledged} == {Outcome.FINISHED}
    # A stream that never ended is billed to its checkpoint; of each worker one call may have been in flight.
    assert {entries[f"r{number}-stream"].outcome for number in range(3)} == {Outcome.INTERRUPTED}
    assert len(entries) - len(acknowledged) - 3 <= 3 * 20
    assert (await ledger.usage("acc_a", "2026-11")).calls == len(entries)
