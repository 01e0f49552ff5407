"""Tier 2: a small transformer in eight bits, run by ONNX Runtime on one thread."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from moderation.models.heads import HEADS
from moderation.models.wordpiece import WordPiece

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnxruntime
    from numpy.typing import NDArray


class Encoder:
    """One session; each text is a run of its own.

    Activations are in eight bits with one scale a run: in a batch a text's scores would depend on its neighbours, and
    on one thread a batch is no faster.
    """

    def __init__(self, session: onnxruntime.InferenceSession, reader: WordPiece, tokens_max: int) -> None:
        """Take a session whose input `numbers` is [1, tokens] and whose output is [1, heads]."""
        self._session, self._reader, self._tokens_max = session, reader, tokens_max

    @classmethod
    def load(cls, folder: Path, tokens_max: int) -> Encoder:
        """Read `encoder.onnx` and `vocabulary.txt`; one thread, so that a process uses the core it is given."""
        os.putenv("ORT_DISABLE_TELEMETRY", "1")  # else it notes each session under a device id, for its maker
        import onnxruntime  # noqa: PLC0415  a fifth of a second, only where tier 2 is used

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(folder / "encoder.onnx", options, providers=["CPUExecutionProvider"])
        pieces = (folder / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
        return cls(session, WordPiece(pieces), tokens_max)

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return [texts, heads]; a text's line does not depend on its neighbours."""
        found = np.zeros((len(texts), len(HEADS)), np.float32)
        for line, text in zip(found, texts, strict=True):
            numbers = np.array([self._reader.read(text, self._tokens_max)], np.int64)
            line[:] = self._session.run(None, {"numbers": numbers})[0][0]
        return found
