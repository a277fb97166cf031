"""The child that renders chat templates: it answers each conversation with a line of JSON.

Reads one JSON object from its input. Memory and seconds are limited once the tokenizer is loaded,
so that they bound the template and nothing else.
"""

import json
import resource
import signal
import sys
from pathlib import Path
from typing import Final

from transformers import AutoTokenizer

MEMORY: Final = 1 << 30  # bytes that rendering may take beside what is loaded
SECONDS: Final = 5  # for one conversation


def main() -> None:
    """Render every conversation in order."""
    asked = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(
        asked["tokenizer"], local_files_only=True, trust_remote_code=False
    )
    most = _size() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for messages in asked["conversations"]:
        signal.alarm(SECONDS)  # its default action ends the process
        try:
            answer = {"text": tokenizer.apply_chat_template(messages, tokenize=False)}
        except MemoryError:
            answer = {"error": f"it takes more than {MEMORY >> 30} GiB of memory"}
        except Exception as error:  # noqa: BLE001 - the template is a program of somebody else
            answer = {"error": (str(error).strip().splitlines() or [type(error).__name__])[0][:300]}
        signal.alarm(0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _size() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
