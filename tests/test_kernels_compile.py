"""Every CUDA kernel compiles for every architecture and input type, ahead of time and without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

CAPABILITIES = (70, 75, 80, 86, 89, 90)
SCRIPT = """
import json, sys
from tkbc.scoring.kernels.ahead import KERNELS, compile_for

for name, kernel in KERNELS.items():
    for precision in json.loads(sys.argv[2]) if kernel.takes_inputs else ["fp32"]:
        compiled = compile_for(name, precision, int(sys.argv[1]))
        print(json.dumps([name, precision, len(compiled.asm["cubin"])]))
"""


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_kernel_compiles(capability: int, tmp_path: Path) -> None:
    """In a process without the interpreter, which takes what the compiler refuses."""
    precisions = ["fp32", "fp16", *(["bf16"] if capability >= 80 else [])]
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(capability), json.dumps(precisions)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 3 * len(precisions) + 4
    assert all(cubin_bytes > 1000 for _, _, cubin_bytes in rows)
